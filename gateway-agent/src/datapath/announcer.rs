//! Answers for addresses of Gateways on the node's links. The programs answer who asks (map ANNOUNCED); this says unasked where an address
//! now is, and joins the groups that questions are sent to.

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, Ipv6Addr, UdpSocket};
use std::time::{Duration, Instant};

use gateway_common::{Address, Announced};

use super::packet::{Mac, PacketSocket, gratuitous_arp, unsolicited_advertisement};
use super::raw::Map;
use crate::emit::maps::{address, ip};

/// When an address is announced, after this node has got it: at once, and again in case it was lost.
const ANNOUNCEMENTS: [Duration; 5] = [
    Duration::ZERO,
    Duration::from_millis(200),
    Duration::from_secs(1),
    Duration::from_secs(2),
    Duration::from_secs(4),
];

/// An interface with hosts on its link, and its MAC address.
pub type Link = (u32, Mac);

#[derive(Default)]
pub struct Announcer {
    links: Vec<Link>,
    /// What ANNOUNCED has: whether this node holds the address.
    known: BTreeMap<IpAddr, bool>,
    /// Memberships of the groups that neighbor solicitations for IPv6 addresses go to, as long as the sockets live.
    groups: BTreeMap<IpAddr, UdpSocket>,
    /// Addresses to be announced: how often they were, and since when they are.
    pending: BTreeMap<IpAddr, (usize, Instant)>,
    socket: Option<PacketSocket>,
    failed: bool,
}

impl Announcer {
    /// Takes over what an earlier agent has left in the map.
    pub fn adopt(map: &Map<Address, Announced>) -> io::Result<Announcer> {
        let mut known = BTreeMap::new();
        map.scan(|keys, values| {
            known.extend(keys.iter().zip(values).map(|(key, value)| (ip(*key), value.held != 0)));
        })?;
        Ok(Announcer { known, ..Announcer::default() })
    }

    /// The node's links, perhaps others than before.
    pub fn set_links(&mut self, links: Vec<Link>, now: Instant) {
        if self.links == links {
            return;
        }
        self.links = links;
        self.groups.clear();
        let held: Vec<IpAddr> = self.known.iter().filter(|(_, held)| **held).map(|(address, _)| *address).collect();
        held.into_iter().for_each(|address| self.begin(address, now));
    }

    /// The addresses that some node answers for, and whether it is this one.
    pub fn known(&self) -> &BTreeMap<IpAddr, bool> {
        &self.known
    }

    /// These are the addresses that some node answers for, and whether it is this one.
    pub fn set(&mut self, wanted: &BTreeMap<IpAddr, bool>, map: &Map<Address, Announced>, now: Instant) {
        let gone: Vec<IpAddr> = self.known.keys().filter(|address| !wanted.contains_key(address)).copied().collect();
        for address in gone {
            self.end(address);
            if self.said(map.remove(&self::address(address)), address) {
                self.known.remove(&address);
            }
        }
        for (address, held) in wanted {
            // After a start the group is to be joined again.
            let is_new = *held && address.is_ipv6() && !self.groups.contains_key(address);
            if self.known.get(address) == Some(held) && !is_new {
                continue;
            }
            let value = Announced { held: u16::from(*held), ..Announced::default() };
            if !self.said(map.put(&self::address(*address), &value), *address) {
                continue;
            }
            self.known.insert(*address, *held);
            if *held { self.begin(*address, now) } else { self.end(*address) }
        }
    }

    fn said(&mut self, result: io::Result<()>, address: IpAddr) -> bool {
        if let Err(error) = &result {
            tracing::error!(%address, %error, "cannot write map ANNOUNCED: nobody, or the wrong node, answers for the address");
        }
        result.is_ok()
    }

    fn begin(&mut self, address: IpAddr, now: Instant) {
        if let IpAddr::V6(v6) = address {
            match join(v6, &self.links) {
                Ok(socket) => drop(self.groups.insert(address, socket)),
                Err(error) => tracing::warn!(%address, %error, "cannot join the group for neighbor solicitations"),
            }
        }
        self.pending.insert(address, (0, now));
    }

    fn end(&mut self, address: IpAddr) {
        self.groups.remove(&address);
        self.pending.remove(&address);
    }

    /// When [`Announcer::announce`] has something to do.
    pub fn due(&self) -> Option<Instant> {
        self.pending.values().map(|(count, since)| *since + ANNOUNCEMENTS[*count]).min()
    }

    /// Announces what is due.
    pub fn announce(&mut self, now: Instant) {
        let Announcer { pending, links, socket, failed, .. } = self;
        let mut say = |address: IpAddr| -> io::Result<()> {
            let socket = match socket {
                Some(socket) => socket,
                None => socket.insert(PacketSocket::new()?),
            };
            let mut said = Ok(());
            for (ifindex, mac) in links.iter() {
                let frames = match address {
                    IpAddr::V4(v4) => vec![gratuitous_arp(*mac, v4, false), gratuitous_arp(*mac, v4, true)],
                    IpAddr::V6(v6) => vec![unsolicited_advertisement(*mac, v6)],
                };
                // One that is down does not keep it from the others.
                said = frames.iter().fold(said, |said, frame| said.and(socket.send(*ifindex, frame)));
            }
            said
        };
        let nowhere = links.is_empty();
        pending.retain(|address, (count, since)| {
            if *since + ANNOUNCEMENTS[*count] > now {
                return true;
            }
            match say(*address) {
                // Once is enough: an interface that is down stays so for a while, and CAP_NET_RAW does not come.
                Err(error) if !*failed => {
                    *failed = true;
                    tracing::error!(%address, %error, "cannot announce an address (is CAP_NET_RAW missing, or an interface down?): \
                                    clients that talked to another node find it late");
                }
                Ok(()) if nowhere && !*failed => {
                    *failed = true;
                    tracing::error!(%address, "addresses are announced nowhere: no interface counts as one that traffic from outside comes in \
                                    by; name one with --external-interface");
                }
                Err(_) => {}
                Ok(()) => *failed = nowhere,
            }
            *count += 1;
            *count < ANNOUNCEMENTS.len()
        });
    }

    /// Addresses of this node that another machine says are its own, which this node does not answer for since; with its MAC address.
    pub fn rivals(&self, map: &Map<Address, Announced>) -> io::Result<Vec<(IpAddr, Mac)>> {
        let mut rivals = Vec::new();
        if self.known.values().any(|held| *held) {
            map.scan(|keys, values| {
                let contested = keys.iter().zip(values).filter(|(_, value)| value.held != 0 && value.rival != [0; 3]);
                rivals.extend(contested.map(|(key, value)| (ip(*key), mac(value.rival))));
            })?;
        }
        Ok(rivals)
    }

    /// Takes an address back.
    pub fn take_back(&mut self, address: IpAddr, map: &Map<Address, Announced>, now: Instant) {
        let value = Announced { held: 1, ..Announced::default() };
        if self.known.get(&address) == Some(&true) && self.said(map.put(&self::address(address), &value), address) {
            self.pending.insert(address, (0, now));
        }
    }
}

/// As it lies in memory.
fn mac(words: [u16; 3]) -> Mac {
    let [[a, b], [c, d], [e, f]] = words.map(u16::to_ne_bytes);
    [a, b, c, d, e, f]
}

/// The solicited-node group of an address (RFC 4291 section 2.7.1): switches and network cards only let through what was joined.
fn join(address: Ipv6Addr, links: &[Link]) -> io::Result<UdpSocket> {
    let [.., a, b, c] = address.octets();
    let group = Ipv6Addr::from([0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0xff, a, b, c]);
    let socket = UdpSocket::bind((Ipv6Addr::UNSPECIFIED, 0))?;
    for (ifindex, _) in links {
        socket.join_multicast_v6(&group, *ifindex)?;
    }
    Ok(socket)
}
