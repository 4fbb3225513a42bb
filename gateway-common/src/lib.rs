//! What the kernel side and the agent of Sluice share: the keys and values of every map, the names
//! of verdicts and drop reasons, and the pure algorithms that both sides (and the fuzzers) run.
//!
//! Everything here is `no_std`, has no dependency and does no I/O. Ports and lengths are in host
//! order, addresses are 16 octets in network order with IPv4 mapped into `::ffff:0:0/96`.
#![cfg_attr(not(test), no_std)]

pub mod checksum;
pub mod client_hello;
pub mod cookie;
pub mod hash;
pub mod maglev;
pub mod maps;
pub mod reason;
pub mod server_name;
pub mod splice;
pub mod stash;

pub use maps::*;
pub use reason::Reason;
