//! The commands of `sluice`.

pub mod check;
pub mod output;
