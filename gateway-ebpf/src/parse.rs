//! Stage 1: from bytes to a [`Packet`].

use gateway_common::{Address, FlowKey, FragmentKey, protocol};

use crate::frame::{ETHERNET, Frame, Tc, at, fixed};
use crate::headers::*;

/// What the later stages know of a packet.
pub struct Packet {
    /// Ports are 0 in a fragment that is not the first, and in ICMP.
    pub key: FlowKey,
    /// Offset of the transport header.
    pub transport: u32,
    /// Bytes of the IP packet, all headers included.
    pub total: u32,
    /// TCP: sequence and acknowledgement number.
    pub sequence: u32,
    pub acknowledgement: u32,
    /// Bytes after the transport header.
    pub payload: u32,
    /// TCP: bytes of the header.
    pub header: u32,
    /// TCP: as it came.
    pub window: u16,
    pub fragment_id: u32,
    pub v6: bool,
    pub ttl: u8,
    /// TCP flags.
    pub flags: u8,
    /// One of [`fragment`].
    pub fragment: u8,
    /// A socket of this node sends it.
    pub egress: bool,
}

/// Which part of a datagram a packet is.
pub mod fragment {
    pub const WHOLE: u8 = 0;
    pub const FIRST: u8 = 1;
    pub const LATER: u8 = 2;
}

#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum Parsed {
    /// Nothing for Sluice.
    Other,
    /// TCP or UDP, or a later fragment of it.
    Transport,
    /// An ICMP or ICMPv6 error.
    IcmpError,
    /// TCP or UDP whose headers contradict each other or the frame.
    Malformed,
    /// The linear part of the frame ends before the headers do.
    Short,
}

/// IPv6 extension headers that are walked over, at the most.
const EXTENSIONS: usize = 4;

impl Packet {
    #[inline(always)]
    pub fn new() -> Packet {
        Packet {
            key: FlowKey::default(),
            transport: 0,
            total: 0,
            sequence: 0,
            acknowledgement: 0,
            payload: 0,
            header: 0,
            window: 0,
            fragment_id: 0,
            v6: false,
            ttl: 0,
            flags: 0,
            fragment: fragment::WHOLE,
            egress: false,
        }
    }

    #[inline(always)]
    pub fn is_tcp(&self) -> bool {
        self.key.protocol == protocol::TCP
    }

    /// Which datagram this is a fragment of.
    #[inline(always)]
    pub fn datagram(&self) -> FragmentKey {
        FragmentKey {
            source: self.key.source,
            destination: self.key.destination,
            id: self.fragment_id,
            protocol: self.key.protocol,
            _pad: [0; 3],
        }
    }
}

/// An IPv4 address (as it lies in memory) as the maps have it.
#[inline(always)]
pub fn mapped(address: u32) -> Address {
    Address::from_words([0, (address as u64) << 32 | 0xffff_0000])
}

/// The IPv4 address (as it lies in memory) of a mapped one.
#[inline(always)]
pub fn unmapped(address: &Address) -> u32 {
    (address.words()[1] >> 32) as u32
}

#[inline(always)]
pub fn address_v6(words: &[u32; 4]) -> Address {
    Address::from_words([words[0] as u64 | (words[1] as u64) << 32, words[2] as u64 | (words[3] as u64) << 32])
}

#[inline(always)]
pub fn words_v6(address: &Address) -> [u32; 4] {
    let [a, b] = address.words();
    [a as u32, (a >> 32) as u32, b as u32, (b >> 32) as u32]
}

/// [`parse`] as a function of its own: the verifier forgets on return how the packet came to look as it does, and need not
/// follow each of these ways through all later stages.
#[inline(never)]
pub fn parse_apart(frame: Tc, packet: &mut Packet) -> Parsed {
    parse(frame, packet)
}

/// Parses, making more of the frame reachable when the headers do not lie in its linear part.
#[inline(always)]
pub fn parse<F: Frame>(frame: F, packet: &mut Packet) -> Parsed {
    let parsed = headers(frame, packet);
    if parsed != Parsed::Short {
        return parsed;
    }
    let length = frame.length();
    if !frame.pull(if length < 256 { length } else { 256 }) {
        return truncated(frame, packet);
    }
    match headers(frame, packet) {
        Parsed::Short => truncated(frame, packet),
        parsed => parsed,
    }
}

/// Headers that the frame does not hold: malformed if the addresses were read, nothing for us if not even these.
#[inline(always)]
fn truncated<F: Frame>(_frame: F, packet: &Packet) -> Parsed {
    if packet.transport == 0 { Parsed::Other } else { Parsed::Malformed }
}

#[inline(always)]
fn headers<F: Frame>(frame: F, packet: &mut Packet) -> Parsed {
    let Some(ethernet) = fixed::<Ethernet, 0>(frame) else { return Parsed::Short };
    // Broadcast and multicast.
    if ethernet.macs[0] & 1 != 0 {
        return Parsed::Other;
    }
    let network = if ethernet.kind == ETHERTYPE_IPV4 {
        ipv4(frame, packet)
    } else if ethernet.kind == ETHERTYPE_IPV6 {
        ipv6(frame, packet)
    } else {
        Parsed::Other
    };
    if network != Parsed::Transport || packet.fragment == fragment::LATER {
        return network;
    }
    match packet.key.protocol {
        protocol::TCP => tcp(frame, packet),
        protocol::UDP => udp(frame, packet),
        _ => icmp(frame, packet),
    }
}

#[inline(always)]
fn ipv4<F: Frame>(frame: F, packet: &mut Packet) -> Parsed {
    let Some(ip) = fixed::<Ipv4, { ETHERNET as usize }>(frame) else { return Parsed::Short };
    let kind = ip.protocol;
    if kind != protocol::TCP && kind != protocol::UDP && kind != protocol::ICMP {
        return Parsed::Other;
    }
    let header = (ip.version as u32 & 0xf) * 4;
    if !is_host_v4(ip.source) || !is_host_v4(ip.destination) {
        return Parsed::Other;
    }
    packet.v6 = false;
    packet.key.source = mapped(ip.source);
    packet.key.destination = mapped(ip.destination);
    packet.key.protocol = kind;
    packet.ttl = ip.ttl;
    packet.transport = ETHERNET + header;
    packet.fragment_id = ip.id as u32;
    packet.fragment = if ip.fragment & FRAGMENT_OFFSET != 0 {
        fragment::LATER
    } else if ip.fragment & MORE_FRAGMENTS != 0 {
        fragment::FIRST
    } else {
        fragment::WHOLE
    };
    if ip.version >> 4 != 4 || header < 20 {
        return Parsed::Malformed;
    }
    total(frame, packet, u16::from_be(ip.length) as u32)
}

/// Neither unspecified nor loopback nor multicast nor reserved (the broadcast address among these): the kernel knows what to
/// do with them (RFC 1122 section 3.2.1.3).
#[inline(always)]
fn is_host_v4(address: u32) -> bool {
    let first = address.to_ne_bytes()[0];
    first != 0 && first != 127 && first < 224
}

/// Nor below 0::/64, where unspecified, loopback and IPv4-mapped addresses are: on the wire the latter would be taken for IPv4.
#[inline(always)]
fn is_host_v6(words: &[u32; 4]) -> bool {
    words[0].to_ne_bytes()[0] != 0xff && words[0] | words[1] != 0
}

#[inline(always)]
fn ipv6<F: Frame>(frame: F, packet: &mut Packet) -> Parsed {
    let Some(ip) = fixed::<Ipv6, { ETHERNET as usize }>(frame) else { return Parsed::Short };
    if !is_host_v6(&ip.source) || !is_host_v6(&ip.destination) {
        return Parsed::Other;
    }
    packet.v6 = true;
    packet.key.source = address_v6(&ip.source);
    packet.key.destination = address_v6(&ip.destination);
    packet.ttl = ip.hop_limit;
    packet.fragment = fragment::WHOLE;
    let payload = u16::from_be(ip.payload) as u32;
    let mut next = ip.next;
    let mut offset = ETHERNET + 40;
    packet.transport = offset;
    if ip.version.to_ne_bytes()[0] >> 4 != 6 {
        return Parsed::Malformed;
    }
    for _ in 0..EXTENSIONS {
        if next != HOP_BY_HOP && next != DESTINATION_OPTIONS && next != FRAGMENT {
            break;
        }
        let Some(extension) = at::<Extension>(frame, offset) else { return Parsed::Short };
        if next == FRAGMENT {
            let field = u16::from_be(extension.fragment);
            packet.fragment_id = extension.id;
            if field >> 3 != 0 {
                packet.fragment = fragment::LATER;
            } else if field & 1 != 0 {
                packet.fragment = fragment::FIRST;
            }
            offset += 8;
        } else {
            offset += (extension.length as u32 + 1) * 8;
        }
        next = extension.next;
        if packet.fragment == fragment::LATER {
            break;
        }
    }
    if offset > 400 || (next != protocol::TCP && next != protocol::UDP && next != protocol::ICMPV6) {
        return Parsed::Other;
    }
    packet.key.protocol = next;
    packet.transport = offset;
    total(frame, packet, if payload == 0 { 0 } else { payload + 40 })
}

/// `length` is what the IP header says; 0 stands for a GSO frame longer than the field can say.
#[inline(always)]
fn total<F: Frame>(frame: F, packet: &mut Packet, length: u32) -> Parsed {
    let carried = frame.length() - ETHERNET;
    packet.total = if length == 0 && frame.segments() > 1 { carried } else { length };
    if packet.total > carried || packet.total + ETHERNET < packet.transport {
        return Parsed::Malformed;
    }
    Parsed::Transport
}

#[inline(always)]
fn tcp<F: Frame>(frame: F, packet: &mut Packet) -> Parsed {
    let Some(tcp) = at::<Tcp>(frame, packet.transport) else { return Parsed::Short };
    let header = (tcp.offset as u32 >> 4) * 4;
    let carried = packet.total + ETHERNET - packet.transport;
    if header < 20 || header > carried {
        return Parsed::Malformed;
    }
    packet.key.source_port = u16::from_be(tcp.source);
    packet.key.destination_port = u16::from_be(tcp.destination);
    packet.sequence = u32::from_be(tcp.sequence);
    packet.acknowledgement = u32::from_be(tcp.acknowledgement);
    packet.flags = tcp.flags;
    packet.payload = carried - header;
    packet.header = header;
    packet.window = u16::from_be(tcp.window);
    Parsed::Transport
}

#[inline(always)]
fn udp<F: Frame>(frame: F, packet: &mut Packet) -> Parsed {
    let Some(udp) = at::<Udp>(frame, packet.transport) else { return Parsed::Short };
    let carried = packet.total + ETHERNET - packet.transport;
    let length = u16::from_be(udp.length) as u32;
    if carried < size_of::<Udp>() as u32 {
        return Parsed::Malformed;
    }
    // A GSO frame longer than the field has 0 there.
    if packet.fragment == fragment::WHOLE && (length > carried || (length < 8 && (length != 0 || carried < 0x10000))) {
        return Parsed::Malformed;
    }
    packet.key.source_port = u16::from_be(udp.source);
    packet.key.destination_port = u16::from_be(udp.destination);
    packet.payload = carried - size_of::<Udp>() as u32;
    Parsed::Transport
}

#[inline(always)]
fn icmp<F: Frame>(frame: F, packet: &mut Packet) -> Parsed {
    let Some(icmp) = at::<Icmp>(frame, packet.transport) else { return Parsed::Other };
    // Unreachable, time exceeded, parameter problem; ICMPv6 errors are 1 to 4 (RFC 4443 section 2.1).
    let error = if packet.v6 { icmp.kind >= 1 && icmp.kind <= 4 } else { matches!(icmp.kind, 3 | 11 | 12) };
    if error && packet.fragment == fragment::WHOLE { Parsed::IcmpError } else { Parsed::Other }
}
