//! From the IR to what others read: map entries and status conditions. Pure.

pub mod maps;
