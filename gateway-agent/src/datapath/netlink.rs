//! What the kernel says about interfaces, addresses and routes (rtnetlink(7)).

use std::io;
use std::net::IpAddr;

use netlink_packet_core::{
    NLM_F_ACK, NLM_F_CREATE, NLM_F_DUMP, NLM_F_REPLACE, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload,
};
use netlink_packet_route::address::{AddressAttribute, AddressMessage, AddressScope};
use netlink_packet_route::link::{InfoKind, LinkAttribute, LinkInfo, LinkLayerType, LinkMessage};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteMetric, RouteProtocol, RouteScope, RouteType,
};
use netlink_packet_route::tc::{TcHandle, TcMessage};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};
use tokio::io::unix::AsyncFd;

/// A network interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    pub index: u32,
    pub name: String,
    /// Has Ethernet frames, and is not `lo`.
    pub ethernet: bool,
    /// As `ip link` names it (`veth`, `bridge`); `None`: a device, real or virtio.
    pub kind: Option<String>,
    /// The other end is in another network namespace.
    pub peer_elsewhere: bool,
    pub mac: [u8; 6],
    /// Bytes of the IP packet.
    pub mtu: u32,
}

impl Link {
    pub fn is_veth(&self) -> bool {
        self.kind.as_deref() == Some("veth")
    }
}

/// Marks our routes (`rtm_protocol` in rtnetlink(7); the kernel gives numbers from 5 on no meaning).
const PROTOCOL: RouteProtocol = RouteProtocol::Other(81);
/// `RT_TABLE_LOCAL` of linux/rtnetlink.h.
const LOCAL_TABLE: u8 = 255;
/// `lo` in every network namespace (LOOPBACK_IFINDEX of the kernel).
const LOOPBACK: u32 = 1;

/// How packets get to an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Route {
    /// The node's address that they leave with.
    pub source: Option<IpAddr>,
    pub ifindex: u32,
    /// Where the route itself has one.
    pub mtu: Option<u32>,
}

/// Asks, and waits for the answer: the kernel has it at once.
pub struct Client {
    socket: Socket,
    sequence: u32,
    buffer: Vec<u8>,
}

impl Client {
    pub fn new() -> io::Result<Client> {
        let mut socket = Socket::new(NETLINK_ROUTE)?;
        socket.bind_auto()?;
        socket.connect(&SocketAddr::new(0, 0))?;
        Ok(Client { socket, sequence: 0, buffer: Vec::with_capacity(64 * 1024) })
    }

    pub fn links(&mut self) -> io::Result<Vec<Link>> {
        let mut links = Vec::new();
        self.dump(RouteNetlinkMessage::GetLink(LinkMessage::default()), |message| {
            if let RouteNetlinkMessage::NewLink(message) = message {
                links.push(link(message));
            }
        })?;
        Ok(links)
    }

    /// Global unicast addresses of the interfaces other than `lo`, each with the interface's index.
    pub fn addresses(&mut self, links: &[Link]) -> io::Result<Vec<(u32, IpAddr)>> {
        let mut addresses = Vec::new();
        self.dump(RouteNetlinkMessage::GetAddress(AddressMessage::default()), |message| {
            if let RouteNetlinkMessage::NewAddress(message) = message
                && message.header.scope == AddressScope::Universe
                && links.iter().any(|l| l.index == message.header.index && l.name != "lo")
            {
                addresses.extend(own_address(&message).map(|address| (message.header.index, address)));
            }
        })?;
        Ok(addresses)
    }

    /// Interfaces that a default route goes out by.
    pub fn default_route_links(&mut self) -> io::Result<Vec<u32>> {
        let mut links = Vec::new();
        for address_family in [AddressFamily::Inet, AddressFamily::Inet6] {
            let header = RouteHeader { address_family, ..RouteHeader::default() };
            let mut request = RouteMessage::default();
            request.header = header;
            self.dump(RouteNetlinkMessage::GetRoute(request), |message| {
                let RouteNetlinkMessage::NewRoute(route) = message else { return };
                if route.header.destination_prefix_length != 0 || route.header.kind != RouteType::Unicast {
                    return;
                }
                for attribute in route.attributes {
                    match attribute {
                        RouteAttribute::Oif(index) => links.push(index),
                        RouteAttribute::MultiPath(hops) => links.extend(hops.iter().map(|hop| hop.interface_index)),
                        _ => {}
                    }
                }
            })?;
        }
        links.sort_unstable();
        links.dedup();
        Ok(links)
    }

    /// `None`: there is no route.
    pub fn route(&mut self, to: IpAddr) -> io::Result<Option<Route>> {
        let (address_family, destination_prefix_length) = match to {
            IpAddr::V4(_) => (AddressFamily::Inet, 32),
            IpAddr::V6(_) => (AddressFamily::Inet6, 128),
        };
        let mut request = RouteMessage::default();
        request.header = RouteHeader { address_family, destination_prefix_length, ..RouteHeader::default() };
        request.attributes.push(RouteAttribute::Destination(to.into()));
        self.send(RouteNetlinkMessage::GetRoute(request), NLM_F_REQUEST)?;
        let mut found = None;
        let answered = self.receive(false, |message| {
            if let RouteNetlinkMessage::NewRoute(message) = message {
                found = route(message);
            }
        });
        match answered {
            Ok(_) => Ok(found),
            Err(error) => match error.raw_os_error() {
                Some(libc::ENETUNREACH | libc::EHOSTUNREACH | libc::EACCES | libc::EINVAL) => Ok(None),
                _ => Err(error),
            },
        }
    }

    /// Addresses that the node's stack takes packets for because of a route of ours.
    pub fn local_routes(&mut self) -> io::Result<Vec<IpAddr>> {
        let mut addresses = Vec::new();
        for address_family in [AddressFamily::Inet, AddressFamily::Inet6] {
            let mut request = RouteMessage::default();
            request.header = RouteHeader { address_family, ..RouteHeader::default() };
            self.dump(RouteNetlinkMessage::GetRoute(request), |message| {
                let RouteNetlinkMessage::NewRoute(route) = message else { return };
                if route.header.protocol != PROTOCOL || route.header.kind != RouteType::Local {
                    return;
                }
                addresses.extend(route.attributes.iter().find_map(|attribute| match attribute {
                    RouteAttribute::Destination(RouteAddress::Inet(v4)) => Some(IpAddr::from(*v4)),
                    RouteAttribute::Destination(RouteAddress::Inet6(v6)) => Some(IpAddr::from(*v6)),
                    _ => None,
                }));
            })?;
        }
        Ok(addresses)
    }

    /// Makes or removes the route of ours by which the node's stack takes packets for an address.
    pub fn set_local_route(&mut self, address: IpAddr, wanted: bool) -> io::Result<()> {
        let (address_family, destination_prefix_length) = match address {
            IpAddr::V4(_) => (AddressFamily::Inet, 32),
            IpAddr::V6(_) => (AddressFamily::Inet6, 128),
        };
        let mut message = RouteMessage::default();
        message.header = RouteHeader {
            address_family,
            destination_prefix_length,
            table: LOCAL_TABLE,
            protocol: PROTOCOL,
            scope: RouteScope::Host,
            kind: RouteType::Local,
            ..RouteHeader::default()
        };
        message.attributes = vec![RouteAttribute::Destination(address.into()), RouteAttribute::Oif(LOOPBACK)];
        let (request, flags) = match wanted {
            true => (RouteNetlinkMessage::NewRoute(message), NLM_F_CREATE | NLM_F_REPLACE),
            false => (RouteNetlinkMessage::DelRoute(message), 0),
        };
        self.send(request, NLM_F_REQUEST | NLM_F_ACK | flags)?;
        self.receive(false, |_| {}).map(drop)
    }

    /// Removes the clsact queueing discipline of an interface if no filter is left in it; says whether it did.
    pub fn remove_empty_clsact(&mut self, index: u32) -> io::Result<bool> {
        let message = |handle, parent| {
            let mut message = TcMessage::with_index(index as i32);
            (message.header.handle, message.header.parent) = (handle, parent);
            message
        };
        for minor in [TcHandle::MIN_INGRESS, TcHandle::MIN_EGRESS] {
            let filters = message(TcHandle::UNSPEC, TcHandle { major: u16::MAX, minor });
            if self.dump(RouteNetlinkMessage::GetTrafficFilter(filters), |_| {})? > 0 {
                return Ok(false);
            }
        }
        let clsact = message(TcHandle { major: u16::MAX, minor: 0 }, TcHandle::CLSACT);
        self.send(RouteNetlinkMessage::DelQueueDiscipline(clsact), NLM_F_REQUEST | NLM_F_ACK)?;
        self.receive(false, |_| {})?;
        Ok(true)
    }

    /// Says how many messages came, those that could not be read too.
    fn dump(&mut self, request: RouteNetlinkMessage, each: impl FnMut(RouteNetlinkMessage)) -> io::Result<usize> {
        self.send(request, NLM_F_REQUEST | NLM_F_DUMP)?;
        self.receive(true, each)
    }

    fn send(&mut self, request: RouteNetlinkMessage, flags: u16) -> io::Result<()> {
        self.sequence = self.sequence.wrapping_add(1);
        let mut header = NetlinkHeader::default();
        header.flags = flags;
        header.sequence_number = self.sequence;
        let mut message = NetlinkMessage::new(header, NetlinkPayload::from(request));
        message.finalize();
        let mut bytes = vec![0; message.buffer_len()];
        message.serialize(&mut bytes);
        self.socket.send(&bytes, 0).map(drop)
    }

    /// Takes in the answer to the last request: one message, or many that end with NLMSG_DONE.
    fn receive(&mut self, many: bool, mut each: impl FnMut(RouteNetlinkMessage)) -> io::Result<usize> {
        let mut count = 0;
        loop {
            self.buffer.clear();
            self.socket.recv(&mut self.buffer, 0)?;
            let mut rest = &self.buffer[..];
            while let Some(length) = length(rest) {
                // A message that this library cannot read is passed over.
                let message = NetlinkMessage::<RouteNetlinkMessage>::deserialize(&rest[..length]);
                rest = &rest[length.next_multiple_of(4).min(rest.len())..];
                let Ok(message) = message else {
                    count += 1;
                    if many {
                        continue;
                    }
                    return Ok(count);
                };
                if message.header.sequence_number != self.sequence {
                    continue;
                }
                match message.payload {
                    NetlinkPayload::InnerMessage(message) => {
                        each(message);
                        count += 1;
                        if !many {
                            return Ok(count);
                        }
                    }
                    NetlinkPayload::Error(error) if error.code.is_some() => return Err(error.to_io()),
                    NetlinkPayload::Done(_) | NetlinkPayload::Error(_) => return Ok(count),
                    _ => {}
                }
            }
        }
    }
}

/// Length of the first message, if all of it is there.
fn length(messages: &[u8]) -> Option<usize> {
    let length = u32::from_ne_bytes(messages.get(..4)?.try_into().ok()?) as usize;
    (16..=messages.len()).contains(&length).then_some(length)
}

fn link(message: LinkMessage) -> Link {
    let is_ethernet = message.header.link_layer_type == LinkLayerType::Ether;
    let mut link = Link {
        index: message.header.index,
        name: String::new(),
        ethernet: false,
        kind: None,
        peer_elsewhere: false,
        mac: [0; 6],
        mtu: 0,
    };
    for attribute in message.attributes {
        match attribute {
            LinkAttribute::IfName(name) => link.name = name,
            LinkAttribute::LinkNetNsId(_) => link.peer_elsewhere = true,
            LinkAttribute::Address(mac) => link.mac = mac.try_into().unwrap_or_default(),
            LinkAttribute::Mtu(mtu) => link.mtu = mtu,
            LinkAttribute::LinkInfo(infos) => {
                link.kind = infos.iter().find_map(|info| match info {
                    LinkInfo::Kind(InfoKind::Other(kind)) => Some(kind.clone()),
                    LinkInfo::Kind(kind) => Some(kind.to_string()),
                    _ => None,
                });
            }
            _ => {}
        }
    }
    link.ethernet = is_ethernet && link.name != "lo";
    link
}

/// On a point-to-point link IFA_ADDRESS is the other end and IFA_LOCAL the own one; IPv6 often has only the former.
fn own_address(message: &AddressMessage) -> Option<IpAddr> {
    let local = message.attributes.iter().find_map(|a| match a {
        AddressAttribute::Local(address) => Some(*address),
        _ => None,
    });
    local.or_else(|| {
        message.attributes.iter().find_map(|a| match a {
            AddressAttribute::Address(address) => Some(*address),
            _ => None,
        })
    })
}

fn route(message: RouteMessage) -> Option<Route> {
    if !matches!(message.header.kind, RouteType::Unicast | RouteType::Local) {
        return None;
    }
    let mut route = Route { source: None, ifindex: 0, mtu: None };
    for attribute in message.attributes {
        match attribute {
            RouteAttribute::Oif(index) => route.ifindex = index,
            RouteAttribute::Metrics(metrics) => {
                route.mtu = metrics.iter().find_map(|metric| match metric {
                    RouteMetric::Mtu(mtu) => Some(*mtu),
                    _ => None,
                });
            }
            RouteAttribute::PrefSource(RouteAddress::Inet(v4)) => route.source = Some(v4.into()),
            RouteAttribute::PrefSource(RouteAddress::Inet6(v6)) => route.source = Some(v6.into()),
            _ => {}
        }
    }
    Some(route)
}

/// Says when interfaces, addresses or routes have changed.
pub struct Monitor {
    socket: AsyncFd<Socket>,
}

impl Monitor {
    pub fn new() -> io::Result<Monitor> {
        /// `RTNLGRP_LINK`, `IPV4_IFADDR`, `IPV4_ROUTE`, `IPV6_IFADDR`, `IPV6_ROUTE` of linux/rtnetlink.h.
        const GROUPS: [u32; 5] = [1, 5, 7, 9, 11];
        let mut socket = Socket::new(NETLINK_ROUTE)?;
        socket.bind_auto()?;
        for group in GROUPS {
            socket.add_membership(group)?;
        }
        socket.set_non_blocking(true)?;
        // SAFETY: the socket owns its descriptor, and nothing replaces or closes it while it is registered.
        Ok(Monitor { socket: unsafe { AsyncFd::register(socket)? } })
    }

    /// Returns after a change; several in short order are one.
    pub async fn changed(&mut self) -> io::Result<()> {
        let mut buffer = Vec::with_capacity(64 * 1024);
        let mut guard = self.socket.readable().await?;
        loop {
            buffer.clear();
            match guard.get_inner().recv(&mut buffer, 0) {
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    guard.clear_ready();
                    return Ok(());
                }
                // Messages were lost: a change all the same.
                Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => {}
                Err(error) => return Err(error),
            }
        }
    }
}
