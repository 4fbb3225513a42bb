//! The node's interfaces and addresses, kept until the kernel says that something changed, and its ways to backends.

use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::io;
use std::net::IpAddr;

use gateway_common::{Address, Interface};

use super::netlink::{Client, Link};
use crate::apply::Path;
use crate::emit::maps::{address, ip};

pub struct Network {
    client: RefCell<Client>,
    links: Vec<Link>,
    link_addresses: Vec<(u32, IpAddr)>,
    /// The same without the interfaces, in order, each once.
    addresses: Vec<IpAddr>,
    default_route_links: Vec<u32>,
    /// Addresses with a local route of ours.
    local: BTreeSet<IpAddr>,
    complained: Cell<bool>,
}

impl Network {
    pub fn new() -> io::Result<Network> {
        let mut network = Network {
            client: RefCell::new(Client::new()?),
            links: Vec::new(),
            link_addresses: Vec::new(),
            addresses: Vec::new(),
            default_route_links: Vec::new(),
            local: BTreeSet::new(),
            complained: Cell::new(false),
        };
        network.refresh()?;
        Ok(network)
    }

    /// Asks for everything anew.
    pub fn refresh(&mut self) -> io::Result<()> {
        let client = self.client.get_mut();
        self.links = client.links()?;
        self.link_addresses = client.addresses(&self.links)?;
        self.addresses = self.link_addresses.iter().map(|(_, address)| *address).collect();
        self.addresses.sort_unstable();
        self.addresses.dedup();
        self.default_route_links = client.default_route_links()?;
        self.local = client.local_routes()?.into_iter().collect();
        Ok(())
    }

    /// The node's stack takes packets for these addresses, and goes on to for those that it has taken any for, if they are to be kept. Tried
    /// again by the next call where the kernel refuses.
    pub fn take_locally(&mut self, addresses: &BTreeSet<IpAddr>, keep: impl Fn(IpAddr) -> bool) {
        for address in self.local.symmetric_difference(addresses).copied().collect::<Vec<_>>() {
            let is_new = addresses.contains(&address);
            if !is_new && keep(address) {
                continue;
            }
            match self.client.get_mut().set_local_route(address, is_new) {
                Ok(()) if is_new => drop(self.local.insert(address)),
                Ok(()) => drop(self.local.remove(&address)),
                Err(error) if is_new => {
                    tracing::error!(%address, %error, "cannot make a local route: HTTP at this address is not served");
                }
                Err(error) => tracing::warn!(%address, %error, "cannot remove a local route"),
            }
        }
    }

    pub fn links(&self) -> &[Link] {
        &self.links
    }

    /// Global unicast addresses of the node.
    pub fn addresses(&self) -> &[IpAddr] {
        &self.addresses
    }

    /// What the programs must know of an interface.
    pub fn interface(&self, link: &Link) -> Interface {
        let mut interface = Interface { mac: link.mac, ..Interface::default() };
        // The kernel lists the primary address first.
        for (_, own) in self.link_addresses.iter().rev().filter(|(index, _)| *index == link.index) {
            match own {
                IpAddr::V4(_) => interface.v4 = address(*own),
                IpAddr::V6(_) => interface.v6 = address(*own),
            }
        }
        interface
    }

    /// Whether traffic from outside the node comes in there: a device (without a link kind), or the way of a default route.
    pub fn is_external(&self, link: &Link) -> bool {
        link.ethernet && (link.kind.is_none() || self.default_route_links.contains(&link.index))
    }

    /// Removes the queueing discipline that held our filter, if nobody else's is in it.
    pub fn remove_empty_clsact(&self, link: &Link) {
        if let Err(error) = self.client.borrow_mut().remove_empty_clsact(link.index) {
            tracing::warn!(interface = link.name, %error, "cannot remove the clsact queueing discipline");
        }
    }

    /// Asks the kernel: the caller keeps what it says until something changes.
    pub fn path(&self, to: Address, local: bool) -> Path {
        let route = match self.client.borrow_mut().route(ip(to)) {
            Ok(route) => route,
            Err(error) => {
                if !self.complained.replace(true) {
                    tracing::warn!(address = %ip(to), %error, "the kernel does not say how to reach a backend");
                }
                None
            }
        };
        let Some(route) = route else { return Path::default() };
        let source = route.source.map_or(Address::UNSET, address);
        // bpf_redirect_peer goes through the host end of a pair into the namespace of the other one.
        let pod = |l: &&Link| l.index == route.ifindex && l.is_veth() && l.peer_elsewhere;
        let ifindex = if local { self.links.iter().find(pod).map_or(0, |l| l.index) } else { 0 };
        let of_link = || self.links.iter().find(|l| l.index == route.ifindex).map_or(0, |l| l.mtu);
        let mtu = route.mtu.unwrap_or_else(of_link).try_into().unwrap_or(u16::MAX);
        Path { source, ifindex, mtu }
    }
}
