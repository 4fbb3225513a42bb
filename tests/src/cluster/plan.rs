//! Who has which address. One network joins the nodes; each node routes the pods of the others.
//!
//! | Range | Whose |
//! |---|---|
//! | 198.18.0.0/20, 2001:db8::/64 | the network of the nodes: the control plane has 1, node N has 10 + N |
//! | 198.18.8.0/24, 2001:db8::8:0/112 | in it, for Gateways |
//! | 198.18.(100 + N).0/24, 2001:db8:0:(100 + N)::/64 | the pods of node N |
//! | 198.19.0.0/16, 2001:db8:0:ffff::/112 | Services |

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// More would not fit into the ranges, and hardly into a machine.
pub const MOST_NODES: u8 = 9;

/// What Gateways may be given, as `--address-pool` takes it.
pub const GATEWAYS: &[&str] = &["198.18.8.0/24", "2001:db8::8:0/112"];

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Family {
    V4,
    V6,
}

/// The address families of a cluster, the first being that of Services without a wish.
pub fn families(dual_stack: bool) -> &'static [Family] {
    if dual_stack { &[Family::V4, Family::V6] } else { &[Family::V4] }
}

impl Family {
    /// The control plane, which is also the router of the nodes.
    pub fn control(self) -> IpAddr {
        self.host(1)
    }

    pub fn node(self, number: u8) -> IpAddr {
        self.host(10 + u16::from(number))
    }

    fn host(self, number: u16) -> IpAddr {
        match self {
            Family::V4 => Ipv4Addr::new(198, 18, 0, u8::try_from(number).unwrap_or(u8::MAX)).into(),
            Family::V6 => Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, number).into(),
        }
    }

    /// Length of the prefix of the nodes' network.
    pub fn prefix(self) -> u8 {
        match self {
            Family::V4 => 20,
            Family::V6 => 64,
        }
    }

    pub fn pods(self, number: u8) -> String {
        match self {
            Family::V4 => format!("198.18.{}.0/24", 100 + number),
            Family::V6 => format!("2001:db8:0:{}::/64", 100 + u16::from(number)),
        }
    }

    pub fn services(self) -> &'static str {
        match self {
            Family::V4 => "198.19.0.0/16",
            Family::V6 => "2001:db8:0:ffff::/112",
        }
    }

    /// The Service `kubernetes` has the first address of its range.
    pub fn api_service(self) -> &'static str {
        match self {
            Family::V4 => "198.19.0.1/32",
            Family::V6 => "2001:db8:0:ffff::1/128",
        }
    }

    pub fn everywhere(self) -> &'static str {
        match self {
            Family::V4 => "0.0.0.0/0",
            Family::V6 => "::/0",
        }
    }
}

pub fn node_name(number: u8) -> String {
    format!("node-{number}")
}
