//! The network of demo and tests: a client, a gateway node with two local pods, and a host behind it.
//!
//! ```text
//! client ── c0 ┐                        ┌ eth0 ── pod 1
//!              ├ eth-client   gateway   ┤
//!              │              node      ├ eth0 ── pod 2
//!              │             eth-remote ┤
//!                                       └ eth0 ── remote
//! ```
//!
//! A pod has its address as a host route on a veth pair of its own, as Kubernetes' ptp plugin lays it. The remote host has no route
//! but to its own link: what reaches it must come from the node's address.

use anyhow::Result;

use super::node::{Keep, Node, veth};
use super::wire::Wire;

/// Who has which address.
pub mod address {
    use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

    /// The gateway node's `nodeName` in manifests.
    pub const NODE_NAME: &str = "gateway";
    pub const CLIENT: [IpAddr; 2] = [v4(0, 2), v6(0, 2)];
    /// The node's own, towards the client.
    pub const NODE: [IpAddr; 2] = [v4(0, 1), v6(0, 1)];
    /// The node's own, towards the remote host.
    pub const NODE_INSIDE: [IpAddr; 2] = [v4(1, 1), v6(1, 1)];
    /// The node's own, towards its pods.
    pub const NODE_PODS: [IpAddr; 2] = [v4(20, 1), v6(0x20, 1)];
    pub const POD_1: [IpAddr; 2] = [v4(20, 11), v6(0x20, 0x11)];
    pub const POD_2: [IpAddr; 2] = [v4(20, 12), v6(0x20, 0x12)];
    pub const REMOTE: [IpAddr; 2] = [v4(1, 2), v6(1, 2)];
    /// Routed to the node, on none of its interfaces.
    pub const GATEWAY: [IpAddr; 2] = [v4(50, 1), v6(0x50, 1)];
    pub const GATEWAY_2: [IpAddr; 2] = [v4(50, 2), v6(0x50, 2)];

    const fn v4(network: u8, host: u8) -> IpAddr {
        IpAddr::V4(Ipv4Addr::new(198, 18, network, host))
    }

    const fn v6(network: u16, host: u16) -> IpAddr {
        IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, network, 0, 0, 0, 0, host))
    }
}

/// Which links of a world have a [`Wire`] in them. Forth is towards the gateway, and towards the remote host.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Wired {
    pub client: bool,
    pub remote: bool,
}

pub struct World {
    pub client: Node,
    pub gateway: Node,
    pub pods: [Node; 2],
    pub remote: Node,
    client_wire: Option<Wire>,
    remote_wire: Option<Wire>,
}

impl World {
    pub fn new(keep: Keep) -> Result<World> {
        World::wired(keep, Wired::default())
    }

    /// The same with faults to come.
    pub fn wired(keep: Keep, wired: Wired) -> Result<World> {
        let mut world = World {
            client: Node::new("client", keep)?,
            gateway: Node::new("gateway", keep)?,
            pods: [Node::new("pod-1", keep)?, Node::new("pod-2", keep)?],
            remote: Node::new("remote", keep)?,
            client_wire: None,
            remote_wire: None,
        };
        for node in world.nodes() {
            // Addresses are ours alone: nothing to detect, so nothing to wait for.
            node.sysctl(&[("ipv6/conf/all/accept_dad", "0"), ("ipv6/conf/default/accept_dad", "0")])?;
        }
        world.gateway.sysctl(&[("ipv4/ip_forward", "1"), ("ipv6/conf/all/forwarding", "1")])?;
        world.client_wire = cable((&world.client, "c0"), (&world.gateway, "eth-client"), wired.client)?;
        world.lay_client()?;
        world.remote_wire = cable((&world.gateway, "eth-remote"), (&world.remote, "eth0"), wired.remote)?;
        world.lay_remote()?;
        for (pod, address) in world.pods.iter().zip([address::POD_1, address::POD_2]) {
            world.lay_pod(pod, address)?;
        }
        Ok(world)
    }

    pub fn nodes(&self) -> [&Node; 5] {
        [&self.client, &self.gateway, &self.pods[0], &self.pods[1], &self.remote]
    }

    /// Between client and gateway; the world must have been made with it.
    pub fn client_wire(&self) -> &Wire {
        self.client_wire.as_ref().expect("this world has no wire at the client")
    }

    /// Between gateway and remote host; the world must have been made with it.
    pub fn remote_wire(&self) -> &Wire {
        self.remote_wire.as_ref().expect("this world has no wire at the remote host")
    }

    fn lay_client(&self) -> Result<()> {
        let ([c4, c6], [n4, n6]) = (address::CLIENT, address::NODE);
        self.client.ip(&format!(
            "address add {c4}/24 dev c0\naddress add {c6}/64 dev c0 nodad\n\
             route add default via {n4}\nroute add default via {n6} dev c0"
        ))?;
        // Whatever else there is lies behind the client's link.
        self.gateway.ip(&format!(
            "address add {n4}/24 dev eth-client\naddress add {n6}/64 dev eth-client nodad\n\
             route add default via {c4}\nroute add default via {c6} dev eth-client"
        ))
    }

    fn lay_remote(&self) -> Result<()> {
        let ([r4, r6], [n4, n6]) = (address::REMOTE, address::NODE_INSIDE);
        self.remote.ip(&format!("address add {r4}/24 dev eth0\naddress add {r6}/64 dev eth0 nodad"))?;
        self.gateway.ip(&format!("address add {n4}/24 dev eth-remote\naddress add {n6}/64 dev eth-remote nodad"))
    }

    /// Gives a pod its link to the node, its addresses and routes.
    pub fn lay_pod(&self, pod: &Node, [p4, p6]: [std::net::IpAddr; 2]) -> Result<()> {
        let host = pod.name();
        veth((pod, "eth0"), (&self.gateway, host))?;
        let [n4, n6] = address::NODE_PODS;
        self.gateway.ip(&format!(
            "address add {n4}/32 dev {host}\naddress add {n6}/128 dev {host} nodad\n\
             route add {p4}/32 dev {host}\nroute add {p6}/128 dev {host}"
        ))?;
        pod.ip(&format!(
            "address add {p4}/32 dev eth0\naddress add {p6}/128 dev eth0 nodad\n\
             route add {n4} dev eth0\nroute add {n6} dev eth0\n\
             route add default via {n4} dev eth0\nroute add default via {n6} dev eth0"
        ))
    }
}

fn cable(a: (&Node, &str), b: (&Node, &str), wired: bool) -> Result<Option<Wire>> {
    if wired {
        return Wire::lay(a, b).map(Some);
    }
    veth(a, b).map(|()| None)
}
