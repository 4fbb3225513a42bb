//! The network around the programs under test: a namespace of its own with veth pairs, addresses, routes and
//! permanent neighbours, so that FIB lookups, interface indexes and MAC addresses are real.
//!
//! ```text
//! client, near backend ── EXT0 ┐
//!                              node (the namespace) ── POD0 ── pod
//! remote backend ─ EXT1 (MTU 1400) ┘
//! ```

use std::io::Write;
use std::net::{IpAddr, SocketAddr};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use gateway_common::Address;

use crate::packet::Mac;

/// An interface of the node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Port {
    Ext0,
    Ext1,
    Pod0,
}

impl Port {
    pub const ALL: [Port; 3] = [Port::Ext0, Port::Ext1, Port::Pod0];

    /// The node's end; the other end has a `p` after it.
    pub fn name(self) -> &'static str {
        match self {
            Port::Ext0 => "ext0",
            Port::Ext1 => "ext1",
            Port::Pod0 => "pod0",
        }
    }

    pub fn mac(self) -> Mac {
        [2, 0, 0, 0, 1, self as u8]
    }

    /// The node's own on this interface, if it has one.
    pub fn address(self, version: Version) -> Option<IpAddr> {
        match self {
            Port::Ext0 => Some(version.node()),
            Port::Ext1 => Some(version.node_ext1()),
            Port::Pod0 => None,
        }
    }

    /// Of the only host on the other end.
    pub fn peer_mac(self) -> Mac {
        [2, 0, 0, 0, 2, self as u8]
    }
}

/// Of EXT1; the other interfaces have the usual 1500.
pub const EXT1_MTU: u16 = 1400;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    V4,
    V6,
}

impl Version {
    pub const ALL: [Version; 2] = [Version::V4, Version::V6];

    fn address(self, v4: &str, v6: &str) -> IpAddr {
        let text = match self {
            Version::V4 => v4,
            Version::V6 => v6,
        };
        text.parse().expect("an address")
    }

    pub fn client(self) -> IpAddr {
        self.address("198.18.0.10", "2001:db8::10")
    }

    /// A second client on the same link.
    pub fn other_client(self) -> IpAddr {
        self.address("198.18.0.11", "2001:db8::11")
    }

    /// An address that belongs to Gateways alone.
    pub fn gateway(self) -> IpAddr {
        self.address("198.18.2.1", "2001:db8:2::1")
    }

    /// The node's address on EXT0: one that Gateways share with the node's own sockets.
    pub fn node(self) -> IpAddr {
        self.address("198.18.0.1", "2001:db8::1")
    }

    /// The node's address on EXT1.
    pub fn node_ext1(self) -> IpAddr {
        self.address("198.18.1.1", "2001:db8:1::1")
    }

    /// A backend behind EXT1.
    pub fn remote(self) -> IpAddr {
        self.address("198.18.1.20", "2001:db8:1::20")
    }

    /// A backend on the client's link.
    pub fn near(self) -> IpAddr {
        self.address("198.18.0.20", "2001:db8::20")
    }

    pub fn pod(self) -> IpAddr {
        self.address("198.18.100.10", "2001:db8:100::10")
    }

    /// An address without a route.
    pub fn unrouted(self) -> IpAddr {
        self.address("198.19.9.9", "2001:db8:99::9")
    }

    pub fn multicast(self) -> IpAddr {
        self.address("224.0.0.251", "ff02::fb")
    }

    /// Bytes of the IP header without options.
    pub fn header(self) -> usize {
        match self {
            Version::V4 => 20,
            Version::V6 => 40,
        }
    }
}

/// The form of an address in the maps.
pub fn map_address(address: IpAddr) -> Address {
    match address {
        IpAddr::V4(v4) => Address::v4(v4.octets()),
        IpAddr::V6(v6) => Address::v6(v6.octets()),
    }
}

pub fn port_of(address: IpAddr, port: u16) -> SocketAddr {
    SocketAddr::new(address, port)
}

/// Moves the calling thread into a new network namespace and builds the network there. It ends with the thread.
pub fn enter() -> Result<()> {
    nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET)
        .context("cannot make a network namespace: the packet tests need root (CAP_SYS_ADMIN)")?;
    // Without automatic addresses and duplicate address detection nothing but the tests sends or waits.
    for (key, value) in [
        ("ipv4/ip_forward", "1"),
        ("ipv6/conf/all/forwarding", "1"),
        ("ipv6/conf/default/accept_dad", "0"),
        ("ipv6/conf/default/addr_gen_mode", "1"),
    ] {
        write(key, value)?;
    }
    let mut batch = String::from("link set lo up\n");
    for port in Port::ALL {
        let (name, mac, peer) = (port.name(), text(port.mac()), text(port.peer_mac()));
        batch += &format!("link add {name} address {mac} type veth peer name {name}p address {peer}\n");
        if port == Port::Ext1 {
            batch += &format!("link set {name} mtu {EXT1_MTU}\n");
        }
        batch += &format!("link set {name} up\nlink set {name}p up\n");
    }
    for version in Version::ALL {
        let (prefix, host, nodad) = match version {
            Version::V4 => (24, 32, ""),
            Version::V6 => (64, 128, "nodad"),
        };
        batch += &format!("addr add {}/{prefix} dev ext0 {nodad}\n", version.node());
        batch += &format!("addr add {}/{prefix} dev ext1 {nodad}\n", version.node_ext1());
        batch += &format!("addr add {}/{host} dev lo\n", version.gateway());
        batch += &format!("route add {} dev pod0\n", version.pod());
        for (address, port) in [
            (version.client(), Port::Ext0),
            (version.other_client(), Port::Ext0),
            (version.near(), Port::Ext0),
            (version.remote(), Port::Ext1),
            (version.pod(), Port::Pod0),
        ] {
            let (name, mac) = (port.name(), text(port.peer_mac()));
            batch += &format!("neigh replace {address} lladdr {mac} nud permanent dev {name}\n");
        }
    }
    ip(&batch)?;
    // The far ends are other hosts: what arrives there ends there.
    for port in Port::ALL {
        write(&format!("ipv4/conf/{}p/forwarding", port.name()), "0")?;
        write(&format!("ipv6/conf/{}p/disable_ipv6", port.name()), "1")?;
    }
    Ok(())
}

fn write(key: &str, value: &str) -> Result<()> {
    let path = format!("/proc/sys/net/{key}");
    std::fs::write(&path, value).with_context(|| format!("cannot write {value} to {path}"))
}

/// Runs `ip` commands in the calling thread's namespace.
pub fn ip(batch: &str) -> Result<()> {
    let mut child = Command::new("ip")
        .args(["-batch", "-"])
        .stdin(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .context("cannot run `ip`: install iproute2")?;
    child.stdin.take().context("no pipe to `ip`")?.write_all(batch.as_bytes())?;
    let output = child.wait_with_output()?;
    ensure!(output.status.success(), "`ip` failed: {}\nin\n{batch}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}

/// The index of an interface in the calling thread's namespace.
pub fn ifindex(name: &str) -> Result<u32> {
    nix::net::if_::if_nametoindex(name).with_context(|| format!("no interface {name}"))
}

fn text(mac: Mac) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}
