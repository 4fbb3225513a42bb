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
