//! Makes the frame in hand a TCP segment of Sluice's own.

use aya_ebpf::helpers::bpf_skb_store_bytes;
use gateway_common::{Address, FlowKey, checksum, protocol};

use crate::frame::{ETHERNET, Frame, Tc, at, fixed};
use crate::headers::{ACK, DONT_FRAGMENT, Ethernet, Ipv4, Ipv6, Tcp};
use crate::icmp::TTL;
use crate::maps::scratch;
use crate::parse::{Packet, unmapped, words_v6};
use crate::refuse::broken;

/// What is written. In working memory ([`crate::maps::Scratch`]): it would be a large part of the stack.
#[repr(C)]
pub struct Segment {
    pub source: Address,
    pub destination: Address,
    pub source_port: u16,
    pub destination_port: u16,
    pub sequence: u32,
    pub acknowledgement: u32,
    pub window: u16,
    pub flags: u8,
    /// Words of options.
    pub words: u8,
    /// Network order.
    pub options: [u32; 3],
    /// Bytes of payload, for which there is room after the header.
    pub payload: u32,
    /// Their sum in 16-bit words, as they lie in memory.
    pub sum: u32,
    /// 1: a packet of the node's own, not one that it forwards: TTL, id and flags are new.
    pub own: u32,
}

impl Segment {
    /// From the 5-tuple `key` is sent to, to where it comes from: an answer.
    #[inline(always)]
    pub fn answer(&mut self, key: &FlowKey) {
        self.start(&key.destination, &key.source, key.destination_port, key.source_port);
    }

    /// Without options and payload; sequence numbers, flags and window are still to be set.
    #[inline(always)]
    pub fn start(&mut self, source: &Address, destination: &Address, source_port: u16, destination_port: u16) {
        self.source = *source;
        self.destination = *destination;
        self.source_port = source_port;
        self.destination_port = destination_port;
        self.words = 0;
        self.payload = 0;
        self.sum = 0;
        self.own = 1;
    }

    #[inline(always)]
    pub fn numbers(&mut self, sequence: u32, acknowledgement: u32, flags: u8, window: u16) {
        self.sequence = sequence;
        self.acknowledgement = acknowledgement;
        self.flags = flags;
        self.window = window;
    }
}

/// Writes the headers, keeping IP options and extension headers. 0: the kernel refused.
#[inline(never)]
pub fn write<F: Frame>(frame: F, packet: &Packet, segment: &Segment) -> u32 {
    let partial = frame.checksum_is_partial(packet.transport + 16);
    let header = 20 + segment.words as u32 * 4;
    if !frame.resize(packet.transport + header + segment.payload, packet.transport + header) {
        return 0;
    }
    let length = header + segment.payload;
    let Some(mut sum) = network(frame, packet, segment, packet.transport - ETHERNET + length) else { return 0 };
    sum += (protocol::TCP as u16).to_be() as u64 + (length as u16).to_be() as u64;
    let Some(tcp) = at::<Tcp>(frame, packet.transport) else { return 0 };
    tcp.source = segment.source_port.to_be();
    tcp.destination = segment.destination_port.to_be();
    tcp.sequence = segment.sequence.to_be();
    tcp.acknowledgement = segment.acknowledgement.to_be();
    tcp.offset = (header as u8) << 2;
    tcp.flags = segment.flags;
    tcp.window = segment.window.to_be();
    tcp.urgent = 0;
    if partial {
        tcp.checksum = checksum::fold(sum);
    } else {
        sum += tcp.source as u64 + tcp.destination as u64 + tcp.sequence as u64 + tcp.acknowledgement as u64;
        sum += u16::from_ne_bytes([tcp.offset, tcp.flags]) as u64 + tcp.window as u64 + segment.sum as u64;
        for i in 0..3 {
            if segment.words as u32 > i {
                sum += segment.options[i as usize] as u64;
            }
        }
        tcp.checksum = !checksum::fold(sum);
    }
    for i in 0..3 {
        if segment.words as u32 > i {
            let Some(word) = at::<u32>(frame, packet.transport + 20 + 4 * i) else { return 0 };
            *word = segment.options[i as usize];
        }
    }
    1
}

/// The IP header; answers the sum of the addresses.
#[inline(always)]
fn network<F: Frame>(frame: F, packet: &Packet, segment: &Segment, length: u32) -> Option<u64> {
    if packet.v6 {
        let ip = fixed::<Ipv6, { ETHERNET as usize }>(frame)?;
        ip.source = words_v6(&segment.source);
        ip.destination = words_v6(&segment.destination);
        if segment.own != 0 {
            ip.hop_limit = TTL;
        }
        ip.payload = (length as u16 - 40).to_be();
        let (s, d) = (ip.source, ip.destination);
        let mut sum = 0;
        for i in 0..4 {
            sum += s[i] as u64 + d[i] as u64;
        }
        return Some(sum);
    }
    let ip = fixed::<Ipv4, { ETHERNET as usize }>(frame)?;
    let old = words(ip);
    ip.source = unmapped(&segment.source);
    ip.destination = unmapped(&segment.destination);
    if segment.own != 0 {
        ip.ttl = TTL;
        ip.id = 0;
        ip.fragment = DONT_FRAGMENT;
    }
    ip.length = (length as u16).to_be();
    ip.checksum = checksum::update(ip.checksum, old, words(ip));
    Some(ip.source as u64 + ip.destination as u64)
}

/// Sum of what [`network`] may change.
#[inline(always)]
fn words(ip: &Ipv4) -> u64 {
    let hop = u16::from_ne_bytes([ip.ttl, 0]) as u64;
    ip.length as u64 + ip.id as u64 + ip.fragment as u64 + hop + ip.source as u64 + ip.destination as u64
}

/// Ethernet addresses change places.
#[inline(always)]
pub fn swap_macs<F: Frame>(frame: F) -> bool {
    let Some(ethernet) = fixed::<Ethernet, 0>(frame) else { return false };
    let m = &mut ethernet.macs;
    (m[0], m[1], m[2], m[3], m[4], m[5]) = (m[3], m[4], m[5], m[0], m[1], m[2]);
    true
}

/// Writes the segment and sends it back to where the frame came from. `None`: the kernel refused.
#[inline(always)]
pub fn send_back<F: Frame>(frame: F, packet: &Packet, segment: &Segment) -> Option<i32> {
    if write(frame, packet, segment) == 0 { None } else { back(frame, packet) }
}

/// The same, where a frame that cannot be written is one that is dropped.
#[inline(always)]
pub fn reply<F: Frame>(frame: F, packet: &Packet, segment: &Segment) -> i32 {
    send_back(frame, packet, segment).unwrap_or_else(|| broken(frame))
}

/// Turns the frame into a bare ACK to its sender.
#[inline(always)]
pub fn acknowledge(frame: Tc, packet: &Packet, sequence: u32, acknowledgement: u32, window: u16) -> i32 {
    let Some(scratch) = scratch() else { return broken(frame) };
    let segment = &mut scratch.segment;
    segment.answer(&packet.key);
    segment.numbers(sequence, acknowledgement, ACK, window);
    reply(frame, packet, segment)
}

/// Sends what was written back to where the frame came from.
#[inline(always)]
pub fn turn<F: Frame>(frame: F, packet: &Packet) -> i32 {
    back(frame, packet).unwrap_or_else(|| broken(frame))
}

/// `None`: the frame is too short.
#[inline(always)]
fn back<F: Frame>(frame: F, packet: &Packet) -> Option<i32> {
    if !swap_macs(frame) {
        return None;
    }
    Some(if packet.egress { frame.reply_inward() } else { frame.reply() })
}

/// Puts bytes of a map value into the frame.
#[inline(always)]
pub fn store(frame: Tc, offset: u32, bytes: *const u8, length: u32) -> bool {
    // SAFETY: the verifier knows that the value has so many bytes; the helper checks the offset.
    unsafe { bpf_skb_store_bytes(frame.0, offset, bytes.cast(), length, 0) == 0 }
}
