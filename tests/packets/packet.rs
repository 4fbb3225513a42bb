//! Frames as descriptions: what a host would send, turned into bytes with lengths and checksums by etherparse.
//!
//! A test states the frame that goes in and describes the one that must come out by changing fields of the first,
//! so that the expected bytes never come from the code under test.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use etherparse::{
    Icmpv4Header, Icmpv4Type, Icmpv6Header, Icmpv6Type, IpNumber, Ipv4Header, Ipv4Options, Ipv6Header, TcpHeader,
    UdpHeader, ether_type,
};
use gateway_common::protocol;

pub type Mac = [u8; 6];

/// IPv6 extension headers by number.
pub mod extension {
    pub const HOP_BY_HOP: u8 = 0;
    pub const FRAGMENT: u8 = 44;
    pub const DESTINATION: u8 = 60;
}

#[derive(Clone, Debug)]
pub struct Packet {
    pub eth_source: Mac,
    pub eth_destination: Mac,
    pub source: IpAddr,
    pub destination: IpAddr,
    pub ttl: u8,
    pub tos: u8,
    /// IPv4 identification.
    pub id: u16,
    pub dont_fragment: bool,
    /// IPv4 options, a multiple of four bytes.
    pub options: Vec<u8>,
    /// IPv6 extension headers: number and content after the two leading bytes.
    pub extensions: Vec<(u8, Vec<u8>)>,
    pub body: Body,
    /// Bytes after the IP packet, as short Ethernet frames have.
    pub padding: usize,
}

#[derive(Clone, Debug)]
pub enum Body {
    Tcp(TcpHeader, Vec<u8>),
    Udp { source_port: u16, destination_port: u16, checksum: bool, payload: Vec<u8> },
    Icmp { kind: u8, code: u8, rest: [u8; 4], payload: Vec<u8> },
    Raw { protocol: u8, bytes: Vec<u8> },
}

/// TCP flags by their customary letters, e.g. `"SA"`.
fn set_flags(header: &mut TcpHeader, flags: &str) {
    for flag in flags.chars() {
        match flag {
            'S' => header.syn = true,
            'A' => header.ack = true,
            'F' => header.fin = true,
            'R' => header.rst = true,
            'P' => header.psh = true,
            'U' => header.urg = true,
            'E' => header.ece = true,
            'C' => header.cwr = true,
            other => panic!("no TCP flag has the letter {other}"),
        }
    }
}

impl Packet {
    pub fn new(source: IpAddr, destination: IpAddr, body: Body) -> Packet {
        Packet {
            eth_source: [0; 6],
            eth_destination: [0; 6],
            source,
            destination,
            ttl: 64,
            tos: 0,
            id: 0x1234,
            dont_fragment: true,
            options: Vec::new(),
            extensions: Vec::new(),
            body,
            padding: 0,
        }
    }

    /// A TCP segment with the flags of `flags` (letters S A F R P U E C).
    pub fn tcp(from: SocketAddr, to: SocketAddr, flags: &str, seq: u32, ack: u32) -> Packet {
        let mut header = TcpHeader::new(from.port(), to.port(), seq, 64_240);
        header.acknowledgment_number = ack;
        set_flags(&mut header, flags);
        Packet::new(from.ip(), to.ip(), Body::Tcp(header, Vec::new()))
    }

    pub fn udp(from: SocketAddr, to: SocketAddr, payload: &[u8]) -> Packet {
        let body = Body::Udp {
            source_port: from.port(),
            destination_port: to.port(),
            checksum: true,
            payload: payload.to_vec(),
        };
        Packet { dont_fragment: false, ..Packet::new(from.ip(), to.ip(), body) }
    }

    pub fn icmp(from: IpAddr, to: IpAddr, kind: u8, code: u8, rest: [u8; 4], payload: &[u8]) -> Packet {
        Packet::new(from, to, Body::Icmp { kind, code, rest, payload: payload.to_vec() })
    }

    pub fn data(mut self, data: &[u8]) -> Packet {
        match &mut self.body {
            Body::Tcp(_, payload) | Body::Udp { payload, .. } | Body::Icmp { payload, .. } => *payload = data.to_vec(),
            Body::Raw { bytes, .. } => *bytes = data.to_vec(),
        }
        self
    }

    /// Changes the TCP header.
    pub fn header(mut self, change: impl FnOnce(&mut TcpHeader)) -> Packet {
        match &mut self.body {
            Body::Tcp(header, _) => change(header),
            other => panic!("not TCP: {other:?}"),
        }
        self
    }

    pub fn from(mut self, from: SocketAddr) -> Packet {
        self.source = from.ip();
        match &mut self.body {
            Body::Tcp(header, _) => header.source_port = from.port(),
            Body::Udp { source_port, .. } => *source_port = from.port(),
            _ => {}
        }
        self
    }

    pub fn to(mut self, to: SocketAddr) -> Packet {
        self.destination = to.ip();
        match &mut self.body {
            Body::Tcp(header, _) => header.destination_port = to.port(),
            Body::Udp { destination_port, .. } => *destination_port = to.port(),
            _ => {}
        }
        self
    }

    pub fn macs(self, eth_source: Mac, eth_destination: Mac) -> Packet {
        Packet { eth_source, eth_destination, ..self }
    }

    pub fn ttl(self, ttl: u8) -> Packet {
        Packet { ttl, ..self }
    }

    /// One router further.
    pub fn hop(self) -> Packet {
        Packet { ttl: self.ttl - 1, ..self }
    }

    pub fn extension(mut self, number: u8, content: &[u8]) -> Packet {
        assert_eq!((content.len() + 2) % 8, 0, "an extension header is a multiple of 8 bytes");
        self.extensions.push((number, content.to_vec()));
        self
    }

    /// UDP without a checksum.
    pub fn without_checksum(mut self) -> Packet {
        match &mut self.body {
            Body::Udp { checksum, .. } => *checksum = false,
            other => panic!("not UDP: {other:?}"),
        }
        self
    }

    pub fn is_v4(&self) -> bool {
        self.source.is_ipv4()
    }

    /// The whole frame.
    pub fn frame(&self) -> Vec<u8> {
        let mut frame = self.ethernet();
        frame.extend(self.ip_packet());
        frame.resize(frame.len() + self.padding, 0);
        frame
    }

    /// The IP packet alone.
    pub fn ip_packet(&self) -> Vec<u8> {
        self.ip(&self.transport(), None)
    }

    /// The frames of this packet cut at the given offsets of the transport data (multiples of eight).
    pub fn fragments(&self, id: u32, cuts: &[usize]) -> Vec<Vec<u8>> {
        let transport = self.transport();
        let starts = std::iter::once(0).chain(cuts.iter().copied());
        let ends = cuts.iter().copied().chain(std::iter::once(transport.len()));
        starts
            .zip(ends)
            .map(|(start, end)| {
                assert_eq!(start % 8, 0, "fragments start at multiples of eight");
                let mut frame = self.ethernet();
                let fragment = Fragment { id, offset: start, more: end < transport.len() };
                frame.extend(self.ip(&transport[start..end], Some(fragment)));
                frame
            })
            .collect()
    }

    fn ethernet(&self) -> Vec<u8> {
        let ether_type = if self.is_v4() { ether_type::IPV4 } else { ether_type::IPV6 };
        [&self.eth_destination[..], &self.eth_source, &ether_type.0.to_be_bytes()].concat()
    }

    fn protocol(&self) -> u8 {
        match &self.body {
            Body::Tcp(..) => protocol::TCP,
            Body::Udp { .. } => protocol::UDP,
            Body::Icmp { .. } if self.is_v4() => protocol::ICMP,
            Body::Icmp { .. } => protocol::ICMPV6,
            Body::Raw { protocol, .. } => *protocol,
        }
    }

    /// Transport header and payload with the right checksum.
    pub fn transport(&self) -> Vec<u8> {
        match &self.body {
            Body::Tcp(header, payload) => {
                let mut header = header.clone();
                header.checksum = match (self.source, self.destination) {
                    (IpAddr::V4(s), IpAddr::V4(d)) => header.calc_checksum_ipv4_raw(s.octets(), d.octets(), payload),
                    (s, d) => header.calc_checksum_ipv6_raw(v6(s).octets(), v6(d).octets(), payload),
                }
                .expect("a segment fits");
                [&header.to_bytes()[..], payload].concat()
            }
            Body::Udp { source_port, destination_port, checksum, payload } => {
                let length = (8 + payload.len()) as u16;
                let mut header =
                    UdpHeader { source_port: *source_port, destination_port: *destination_port, length, checksum: 0 };
                if *checksum {
                    header.checksum = match (self.source, self.destination) {
                        (IpAddr::V4(s), IpAddr::V4(d)) => {
                            header.calc_checksum_ipv4_raw(s.octets(), d.octets(), payload)
                        }
                        (s, d) => header.calc_checksum_ipv6_raw(v6(s).octets(), v6(d).octets(), payload),
                    }
                    .expect("a datagram fits");
                }
                [&header.to_bytes()[..], payload].concat()
            }
            Body::Icmp { kind, code, rest, payload } => {
                let (type_u8, code_u8, bytes5to8) = (*kind, *code, *rest);
                match (self.source, self.destination) {
                    (IpAddr::V4(_), IpAddr::V4(_)) => {
                        let kind = Icmpv4Type::Unknown { type_u8, code_u8, bytes5to8 };
                        [&Icmpv4Header::with_checksum(kind, payload).to_bytes()[..], payload].concat()
                    }
                    (s, d) => {
                        let kind = Icmpv6Type::Unknown { type_u8, code_u8, bytes5to8 };
                        let header = Icmpv6Header::with_checksum(kind, v6(s).octets(), v6(d).octets(), payload)
                            .expect("a message fits");
                        [&header.to_bytes()[..], payload].concat()
                    }
                }
            }
            Body::Raw { bytes, .. } => bytes.clone(),
        }
    }

    fn ip(&self, payload: &[u8], fragment: Option<Fragment>) -> Vec<u8> {
        match (self.source, self.destination) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => self.ipv4(source, destination, payload, fragment),
            (source, destination) => self.ipv6(v6(source), v6(destination), payload, fragment),
        }
    }

    fn ipv4(&self, source: Ipv4Addr, destination: Ipv4Addr, payload: &[u8], fragment: Option<Fragment>) -> Vec<u8> {
        let mut header = Ipv4Header {
            dscp: (self.tos >> 2).try_into().expect("6 bits"),
            ecn: (self.tos & 3).try_into().expect("2 bits"),
            identification: self.id,
            dont_fragment: self.dont_fragment,
            time_to_live: self.ttl,
            protocol: IpNumber(self.protocol()),
            source: source.octets(),
            destination: destination.octets(),
            options: Ipv4Options::try_from(&self.options[..]).expect("options are a multiple of four bytes"),
            ..Ipv4Header::default()
        };
        if let Some(fragment) = fragment {
            header.identification = fragment.id as u16;
            header.dont_fragment = false;
            header.more_fragments = fragment.more;
            header.fragment_offset = ((fragment.offset / 8) as u16).try_into().expect("13 bits");
        }
        header.set_payload_len(payload.len()).expect("a packet fits");
        header.header_checksum = header.calc_header_checksum();
        [&header.to_bytes()[..], payload].concat()
    }

    fn ipv6(&self, source: Ipv6Addr, destination: Ipv6Addr, payload: &[u8], fragment: Option<Fragment>) -> Vec<u8> {
        let mut chain = self.extensions.clone();
        if let Some(fragment) = fragment {
            let offset = fragment.offset as u16 | fragment.more as u16;
            chain.push((extension::FRAGMENT, [&offset.to_be_bytes()[..], &fragment.id.to_be_bytes()].concat()));
        }
        let numbers: Vec<u8> = chain.iter().map(|(number, _)| *number).chain([self.protocol()]).collect();
        let mut content = Vec::new();
        for ((number, bytes), next) in chain.iter().zip(&numbers[1..]) {
            // The fragment header's second byte is reserved, the others' counts 8-byte units after the first.
            let length = if *number == extension::FRAGMENT { 0 } else { (bytes.len() + 2) / 8 - 1 };
            content.extend([*next, length as u8]);
            content.extend(bytes);
        }
        content.extend(payload);
        let header = Ipv6Header {
            traffic_class: self.tos,
            payload_length: content.len() as u16,
            next_header: IpNumber(numbers[0]),
            hop_limit: self.ttl,
            source: source.octets(),
            destination: destination.octets(),
            ..Ipv6Header::default()
        };
        [&header.to_bytes()[..], &content].concat()
    }
}

#[derive(Clone, Copy)]
struct Fragment {
    id: u32,
    /// Bytes.
    offset: usize,
    more: bool,
}

fn v6(address: IpAddr) -> Ipv6Addr {
    match address {
        IpAddr::V6(address) => address,
        IpAddr::V4(address) => panic!("{address} in an IPv6 packet"),
    }
}
