//! The agent of Sluice: objects → index → compile → IR → emit → (map entries | status) → apply.

pub mod cli;
pub mod compile;
pub mod emit;
pub mod index;
pub mod ir;
pub mod source;
