//! The agent of Sluice: objects → index → compile → IR → emit → (map entries | status) → apply.

pub mod addresses;
pub mod admin;
pub mod agent;
pub mod apply;
pub mod cli;
pub mod compile;
mod complaint;
pub mod datapath;
pub mod emit;
pub mod index;
pub mod ir;
mod panics;
pub mod proxy;
pub mod source;
