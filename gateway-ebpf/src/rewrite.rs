//! Stage: the packet becomes what its flow says.

use gateway_common::{Address, Flow, checksum, flow_flags, protocol, splice};

use crate::frame::{ETHERNET, Frame, Tc, at, fixed, opaque};
use crate::headers::{Ipv4, Ipv6, Ports, Tcp};
use crate::maps::scratch;
use crate::options;
use crate::parse::{Packet, fragment, unmapped, words_v6};

/// Offset of the checksum in the transport header.
#[inline(always)]
pub fn checksum_offset(packet: &Packet) -> u32 {
    packet.transport + if packet.key.protocol == protocol::TCP { 16 } else { 6 }
}

/// Sum of 16-bit words that takes a checksum from `old` to `new`, as the kernel's `__wsum`.
#[inline(always)]
pub fn difference(old: u64, new: u64) -> u32 {
    let inverse = !(fold32(old) as u32) as u64;
    fold32(fold32(new) + inverse) as u32
}

#[inline(always)]
fn fold32(sum: u64) -> u64 {
    let sum = (sum & 0xffff_ffff) + (sum >> 32);
    (sum & 0xffff_ffff) + (sum >> 32)
}

/// Writes addresses and ports and counts the hop; checksums follow. False: the kernel refused.
#[inline(always)]
pub fn rewrite<F: Frame>(frame: F, packet: &Packet, flow: &Flow) -> bool {
    let Some(pseudo) = network(frame, packet.v6, &flow.source, &flow.destination, 1) else { return false };
    if packet.fragment == fragment::LATER {
        return true;
    }
    let Some(ports) = at::<Ports>(frame, packet.transport) else { return false };
    let mut old = ports.source as u64 + ports.destination as u64;
    ports.source = flow.source_port.to_be();
    ports.destination = flow.destination_port.to_be();
    let mut new = ports.source as u64 + ports.destination as u64;
    if flow.flags & flow_flags::SPLICED != 0 && !splice(frame, packet, flow, &mut old, &mut new) {
        return false;
    }
    let rest = difference(old, new);
    let udp = packet.key.protocol == protocol::UDP;
    frame.update_transport_checksum(checksum_offset(packet), pseudo, rest, udp, packet.v6)
}

/// Writes the numbers of the other connection into a segment; `old` and `new` grow by what they were and are. False: the frame is
/// shorter than it said.
#[inline(always)]
fn splice<F: Frame>(frame: F, packet: &Packet, flow: &Flow, old: &mut u64, new: &mut u64) -> bool {
    let Some(tcp) = at::<Tcp>(frame, packet.transport) else { return false };
    *old += tcp.window as u64;
    tcp.window = splice::window(packet.window, flow.window_shift).to_be();
    *new += tcp.window as u64;
    if flow.flags & flow_flags::REPLY != 0 {
        *old += tcp.sequence as u64;
        tcp.sequence = packet.sequence.wrapping_add(flow.delta).to_be();
        *new += tcp.sequence as u64;
        return true;
    }
    *old += tcp.acknowledgement as u64;
    tcp.acknowledgement = packet.acknowledgement.wrapping_sub(flow.delta).to_be();
    *new += tcp.acknowledgement as u64;
    if !F::TC || packet.header == 20 {
        return true;
    }
    let sums = sack(Tc(frame.context().cast()), packet, flow.delta);
    *old += sums >> 32;
    *new += sums & 0xffff_ffff;
    true
}

/// Takes `delta` from the edges of the blocks that a SACK option reports (RFC 2018 section 3). Answers what is to be added to the
/// sum of what was (upper half), and of what is.
#[inline(never)]
fn sack(frame: Tc, packet: &Packet, delta: u32) -> u64 {
    options::read(frame, packet);
    let Some(scratch) = scratch() else { return 0 };
    let (first, edges) = (scratch.options.blocks, scratch.options.edges);
    let (mut old, mut new) = (0u64, 0u64);
    for i in 0..options::EDGES {
        if i >= edges {
            break;
        }
        let Some(edge) = at::<u32>(frame, packet.transport + 20 + first + 4 * i) else { break };
        let was = *edge;
        *edge = u32::from_be(was).wrapping_sub(delta).to_be();
        old += was as u64;
        new += *edge as u64;
    }
    let sums = (checksum::fold(old) as u64) << 32 | checksum::fold(new) as u64;
    // Sums go by the 16-bit words of the segment: what lies across them counts with its bytes swapped.
    let swapped = (sums & 0x00ff_0000_00ff) << 8 | (sums & 0xff00_0000_ff00) >> 8;
    opaque(if first & 1 != 0 { swapped } else { sums })
}

/// Writes the addresses of the IP header, takes `hops` from its TTL and mends its checksum. Answers the difference of the
/// pseudo header.
#[inline(always)]
pub fn network<F: Frame>(frame: F, v6: bool, source: &Address, destination: &Address, hops: u8) -> Option<u32> {
    if v6 {
        let ip = fixed::<Ipv6, { ETHERNET as usize }>(frame)?;
        let old = sum(&ip.source) + sum(&ip.destination);
        ip.source = words_v6(source);
        ip.destination = words_v6(destination);
        ip.hop_limit -= hops;
        return Some(difference(old, sum(&ip.source) + sum(&ip.destination)));
    }
    let ip = fixed::<Ipv4, { ETHERNET as usize }>(frame)?;
    let old = ip.source as u64 + ip.destination as u64;
    ip.source = unmapped(source);
    ip.destination = unmapped(destination);
    let new = ip.source as u64 + ip.destination as u64;
    // The TTL is the first byte of its word.
    let hop = u16::from_ne_bytes([hops, 0]) as u64;
    ip.checksum = checksum::update(ip.checksum, old + hop, new);
    ip.ttl -= hops;
    Some(difference(old, new))
}

#[inline(always)]
fn sum(words: &[u32; 4]) -> u64 {
    words[0] as u64 + words[1] as u64 + words[2] as u64 + words[3] as u64
}

/// The same for a header somewhere else in the packet (the one that an ICMP error quotes), without the hop. Answers the
/// difference of the addresses.
#[inline(always)]
pub fn quoted<F: Frame>(frame: F, offset: u32, v6: bool, source: &Address, destination: &Address) -> Option<u32> {
    if v6 {
        let ip = at::<Ipv6>(frame, offset)?;
        let old = sum(&ip.source) + sum(&ip.destination);
        ip.source = words_v6(source);
        ip.destination = words_v6(destination);
        return Some(difference(old, sum(&ip.source) + sum(&ip.destination)));
    }
    let ip = at::<Ipv4>(frame, offset)?;
    let old = ip.source as u64 + ip.destination as u64;
    ip.source = unmapped(source);
    ip.destination = unmapped(destination);
    let new = ip.source as u64 + ip.destination as u64;
    ip.checksum = checksum::update(ip.checksum, old, new);
    Some(difference(old, new))
}
