//! The proxy as a whole, with real TLS clients over the loopback interface; and what its tests share.

pub mod authority;
pub mod bed;
mod front;
pub mod hello;
pub mod ir;
mod limits;
mod passthrough;
mod refusals;
mod terminate;
