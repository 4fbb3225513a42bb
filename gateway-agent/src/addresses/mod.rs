//! Which address a Gateway has, which node answers for it on its links, and what each node says that it has in force. Pure: no I/O, no
//! clock; what was decided before is an input, so that an address stays where it is.

#![forbid(unsafe_code)]

mod assign;
mod council;
mod memory;
mod nodes;
mod owners;
mod pool;

use std::collections::BTreeSet;
use std::net::IpAddr;

pub use assign::{Assigned, Given, Missing, Refusal, Wish, assign};
pub use council::{Council, Decision, Heard, Sign};
pub use memory::Addressing;
pub use nodes::{Applied, Behind, Need, Nodes, Reached};
pub use owners::Owners;
pub use pool::{Block, Pool, PoolError};

/// Addresses of the pool that this node answers for on its links.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Held {
    /// What an earlier agent has left goes on.
    #[default]
    Unknown,
    /// There is no other node.
    All,
    Only(BTreeSet<IpAddr>),
}

impl Held {
    pub fn has(&self, address: IpAddr) -> bool {
        match self {
            Held::Unknown => false,
            Held::All => true,
            Held::Only(addresses) => addresses.contains(&address),
        }
    }
}

/// Why no Gateway can have the address; `None`: it is one that a host may have.
pub fn why_unusable(address: &IpAddr) -> Option<&'static str> {
    match address {
        IpAddr::V4(v4) if v4.is_unspecified() => {
            Some("stands for no address; leave the value out to have one assigned")
        }
        IpAddr::V6(v6) if v6.is_unspecified() => {
            Some("stands for no address; leave the value out to have one assigned")
        }
        IpAddr::V4(v4) if v4.is_loopback() => {
            Some("is a loopback address, which nobody else can reach; choose another")
        }
        IpAddr::V6(v6) if v6.is_loopback() => {
            Some("is a loopback address, which nobody else can reach; choose another")
        }
        IpAddr::V4(v4) if v4.octets()[0] == 0 => Some("is of 0.0.0.0/8, which no host can have; choose another"),
        IpAddr::V4(v4) if v4.octets()[0] >= 224 => {
            Some("is a multicast, broadcast or reserved address; choose another")
        }
        IpAddr::V6(v6) if v6.is_multicast() => Some("is a multicast address; choose another"),
        IpAddr::V6(v6) if v6.to_ipv4_mapped().is_some() => Some("is an IPv4 address in IPv6 clothes; write it as IPv4"),
        IpAddr::V6(v6) if v6.is_unicast_link_local() => {
            Some("is a link-local address, which needs an interface; choose another")
        }
        IpAddr::V6(v6) if v6.segments()[..4] == [0; 4] => Some("is of ::/64, which no host can have; choose another"),
        _ => None,
    }
}
