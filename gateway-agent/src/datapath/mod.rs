pub mod features;
pub mod maps;
mod object;
pub mod pins;
mod raw;
