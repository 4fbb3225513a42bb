//! Headers as they lie in a packet, multi-byte fields in network order.

#[repr(C)]
pub struct Ethernet {
    /// Destination, then source.
    pub macs: [u16; 6],
    pub kind: u16,
}

#[repr(C)]
pub struct Ipv4 {
    /// Version and header length in words.
    pub version: u8,
    pub tos: u8,
    pub length: u16,
    pub id: u16,
    pub fragment: u16,
    pub ttl: u8,
    pub protocol: u8,
    pub checksum: u16,
    pub source: u32,
    pub destination: u32,
}

#[repr(C)]
pub struct Ipv6 {
    /// Version, traffic class, flow label.
    pub version: u32,
    pub payload: u16,
    pub next: u8,
    pub hop_limit: u8,
    pub source: [u32; 4],
    pub destination: [u32; 4],
}

/// Fragment header, and the common start of hop-by-hop and destination options (next header, length in 8 bytes less one).
#[repr(C)]
pub struct Extension {
    pub next: u8,
    pub length: u8,
    pub fragment: u16,
    pub id: u32,
}

#[repr(C)]
pub struct Ports {
    pub source: u16,
    pub destination: u16,
}

#[repr(C)]
pub struct Tcp {
    pub source: u16,
    pub destination: u16,
    pub sequence: u32,
    pub acknowledgement: u32,
    /// Header length in words, in the upper half.
    pub offset: u8,
    pub flags: u8,
    pub window: u16,
    pub checksum: u16,
    pub urgent: u16,
}

#[repr(C)]
pub struct Udp {
    pub source: u16,
    pub destination: u16,
    pub length: u16,
    pub checksum: u16,
}

#[repr(C)]
pub struct Icmp {
    pub kind: u8,
    pub code: u8,
    pub checksum: u16,
    pub rest: u32,
}

/// ARP for IPv4 on Ethernet (RFC 826).
#[repr(C)]
pub struct Arp {
    pub hardware: u16,
    pub protocol: u16,
    /// Of a link-layer address and a protocol address, in bytes.
    pub lengths: u16,
    pub operation: u16,
    pub sender_mac: [u16; 3],
    pub sender: [u16; 2],
    pub target_mac: [u16; 3],
    pub target: [u16; 2],
}

pub const ARP_ETHERNET: u16 = 1u16.to_be();
pub const ARP_LENGTHS: u16 = u16::from_ne_bytes([6, 4]);
pub const ARP_REQUEST: u16 = 1u16.to_be();
pub const ARP_REPLY: u16 = 2u16.to_be();

/// A neighbor solicitation or advertisement (RFC 4861 sections 4.3 and 4.4) in IPv6, without options.
#[repr(C)]
pub struct Discovery {
    pub ip: Ipv6,
    pub kind: u8,
    pub code: u8,
    pub checksum: u16,
    pub flags: u32,
    pub target: [u32; 4],
}

/// An advertisement with the option that says the target's MAC address.
#[repr(C)]
pub struct Advertisement {
    pub ip: Ipv6,
    pub kind: u8,
    pub code: u8,
    pub checksum: u16,
    pub flags: u32,
    pub target: [u32; 4],
    /// Type, and length in 8 bytes.
    pub option: u16,
    pub mac: [u16; 3],
}

pub const ETHERTYPE_ARP: u16 = 0x0806u16.to_be();
pub const ETHERTYPE_IPV4: u16 = 0x0800u16.to_be();
pub const ETHERTYPE_IPV6: u16 = 0x86ddu16.to_be();

/// IPv4 fragment field.
pub const DONT_FRAGMENT: u16 = 0x4000u16.to_be();
pub const MORE_FRAGMENTS: u16 = 0x2000u16.to_be();
pub const FRAGMENT_OFFSET: u16 = 0x1fffu16.to_be();

/// IPv6 next headers that the pipeline walks over.
pub const HOP_BY_HOP: u8 = 0;
pub const FRAGMENT: u8 = 44;
pub const DESTINATION_OPTIONS: u8 = 60;

pub const FIN: u8 = 1;
pub const SYN: u8 = 2;
pub const RST: u8 = 4;
pub const PSH: u8 = 8;
pub const ACK: u8 = 16;
