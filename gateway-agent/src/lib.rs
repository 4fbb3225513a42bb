pub mod apply;
pub mod emit;
pub mod ir;
