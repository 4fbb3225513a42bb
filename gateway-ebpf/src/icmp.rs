//! ICMP and ICMPv6: errors that Sluice sends, and errors about its connections that it translates.

use aya_ebpf::bindings::bpf_adj_room_mode::BPF_ADJ_ROOM_MAC;
use aya_ebpf::helpers::{bpf_ktime_get_coarse_ns, bpf_skb_adjust_room};
use gateway_common::{Address, FlowKey, Reason, checksum, protocol};

use crate::count;
use crate::flow;
use crate::frame::{ETHERNET, Frame, Tc, at, fixed};
use crate::headers::*;
use crate::maps::icmp_bucket;
use crate::parse::{Packet, unmapped, words_v6};
use crate::redirect;
use crate::refuse::swap_macs;
use crate::rewrite;

/// Of packets that Sluice makes.
pub const TTL: u8 = 64;
/// An error quotes so much of the packet it is about (RFC 1812 section 4.3.2.3 and RFC 4443 section 3 allow it; RFC 4884 asks for it).
const QUOTED: u32 = 128;
/// Errors a second and CPU, and as many at once (RFC 1812 section 4.3.2.8, RFC 4443 section 2.4 f).
const ERRORS: u64 = 1_000;
const SECOND: u64 = 1_000_000_000;
/// bpf_skb_adjust_room: leave CHECKSUM_UNNECESSARY alone.
const NO_CSUM_RESET: u64 = 32;

/// Type, code and second word of an error.
struct Error {
    kind: u8,
    code: u8,
    rest: u32,
}

/// Port unreachable.
#[inline(always)]
pub fn unreachable<F: Frame>(frame: F, packet: &Packet) -> i32 {
    send(frame, packet, if packet.v6 { Error { kind: 1, code: 4, rest: 0 } } else { Error { kind: 3, code: 3, rest: 0 } })
}

#[inline(always)]
pub fn time_exceeded<F: Frame>(frame: F, packet: &Packet) -> i32 {
    send(frame, packet, if packet.v6 { Error { kind: 3, code: 0, rest: 0 } } else { Error { kind: 11, code: 0, rest: 0 } })
}

/// Fragmentation needed, packet too big.
#[inline(always)]
pub fn too_big<F: Frame>(frame: F, packet: &Packet, mtu: u16) -> i32 {
    let rest = (mtu as u32).to_be();
    send(frame, packet, if packet.v6 { Error { kind: 2, code: 0, rest } } else { Error { kind: 3, code: 4, rest } })
}

#[inline(always)]
fn send<F: Frame>(frame: F, packet: &Packet, error: Error) -> i32 {
    if F::TC {
        // XDP leaves to TC what needs an answer that grows.
        send_tc(Tc(frame.context().cast()), packet, (error.kind as u32) << 8 | error.code as u32, error.rest)
    } else {
        F::DROP
    }
}

#[inline(always)]
fn allowed() -> bool {
    let Some(bucket) = icmp_bucket() else { return false };
    // SAFETY: no arguments.
    let now = unsafe { bpf_ktime_get_coarse_ns() };
    if now.wrapping_sub(bucket.filled) > SECOND {
        bucket.filled = now;
        bucket.tokens = ERRORS;
    }
    if bucket.tokens == 0 {
        return false;
    }
    bucket.tokens -= 1;
    true
}

#[repr(C)]
struct Answer4 {
    ip: Ipv4,
    icmp: Icmp,
}

#[repr(C)]
struct Answer6 {
    ip: Ipv6,
    icmp: Icmp,
}

/// Puts new headers before the packet, of which a piece stays as the quotation. The source is the address that the packet was
/// sent to.
///
/// A transport checksum that is still to be filled in (CHECKSUM_PARTIAL) stays so, in the quotation: the bytes of the transport
/// part will then sum up to the complement of the sum that is in its field now, whatever they are.
#[inline(never)]
fn send_tc(frame: Tc, packet: &Packet, kind: u32, rest: u32) -> i32 {
    if !allowed() {
        return Tc::DROP;
    }
    let quoted = (if packet.total < QUOTED { packet.total } else { QUOTED }) & !3;
    let field = rewrite::checksum_offset(packet);
    let partial = frame.checksum_is_partial(field);
    if !frame.shrink(ETHERNET + quoted) {
        return Tc::DROP;
    }
    let mut sum = rest as u64 + u16::from_ne_bytes([(kind >> 8) as u8, kind as u8]) as u64;
    let summed = if partial { packet.transport - ETHERNET } else { quoted };
    let mut offset = 0;
    for _ in 0..QUOTED / 4 {
        if offset >= summed {
            break;
        }
        let Some(word) = at::<u32>(frame, ETHERNET + offset) else { return Tc::DROP };
        sum += *word as u64;
        offset += 4;
    }
    if partial {
        let Some(pseudo) = at::<u16>(frame, field) else { return Tc::DROP };
        sum += !*pseudo as u64;
    }
    let grow = if packet.v6 { size_of::<Answer6>() } else { size_of::<Answer4>() } as i32;
    // SAFETY: the context is valid.
    if unsafe { bpf_skb_adjust_room(frame.0, grow, BPF_ADJ_ROOM_MAC, NO_CSUM_RESET) } != 0 || !swap_macs(frame) {
        return Tc::DROP;
    }
    if packet.v6 { answer6(frame, packet, sum, kind, rest, quoted) } else { answer4(frame, packet, sum, kind, rest, quoted) }
}

#[inline(always)]
fn answer4(frame: Tc, packet: &Packet, sum: u64, kind: u32, rest: u32, quoted: u32) -> i32 {
    let Some(answer) = fixed::<Answer4, { ETHERNET as usize }>(frame) else { return Tc::DROP };
    let ip = &mut answer.ip;
    ip.version = 0x45;
    ip.tos = 0;
    ip.length = (size_of::<Answer4>() as u16 + quoted as u16).to_be();
    ip.id = 0;
    ip.fragment = DONT_FRAGMENT;
    ip.ttl = TTL;
    ip.protocol = protocol::ICMP;
    ip.source = unmapped(&packet.key.destination);
    ip.destination = unmapped(&packet.key.source);
    let header = u16::from_ne_bytes([0x45, 0]) as u64
        + ip.length as u64
        + ip.fragment as u64
        + u16::from_ne_bytes([TTL, protocol::ICMP]) as u64
        + ip.source as u64
        + ip.destination as u64;
    ip.checksum = !checksum::fold(header);
    answer.icmp = Icmp { kind: (kind >> 8) as u8, code: kind as u8, checksum: !checksum::fold(sum), rest };
    frame.reply()
}

#[inline(always)]
fn answer6(frame: Tc, packet: &Packet, mut sum: u64, kind: u32, rest: u32, quoted: u32) -> i32 {
    let Some(answer) = fixed::<Answer6, { ETHERNET as usize }>(frame) else { return Tc::DROP };
    let ip = &mut answer.ip;
    let payload = (size_of::<Icmp>() as u16 + quoted as u16).to_be();
    ip.version = 0x60;
    ip.payload = payload;
    ip.next = protocol::ICMPV6;
    ip.hop_limit = TTL;
    ip.source = words_v6(&packet.key.destination);
    ip.destination = words_v6(&packet.key.source);
    sum += payload as u64 + (protocol::ICMPV6 as u16).to_be() as u64;
    for i in 0..4 {
        sum += ip.source[i] as u64 + ip.destination[i] as u64;
    }
    answer.icmp = Icmp { kind: (kind >> 8) as u8, code: kind as u8, checksum: !checksum::fold(sum), rest };
    frame.reply()
}

/// An error about a packet that Sluice rewrote goes to whoever sent that packet, with the quotation as he sent it.
#[inline(never)]
pub fn translate(frame: Tc, packet: &Packet, now: u64) -> i32 {
    let inner = packet.transport + size_of::<Icmp>() as u32;
    let Some((kind, header)) = quoted_protocol(frame, inner, packet.v6) else { return Tc::PASS };
    if kind != protocol::TCP && kind != protocol::UDP {
        return Tc::PASS;
    }
    let Some((source, destination)) = rewrite::addresses(frame, inner, packet.v6) else { return Tc::PASS };
    let Some(ports) = at::<Ports>(frame, inner + header) else { return Tc::PASS };
    // The packet that would answer the quoted one.
    let key = FlowKey {
        source: destination,
        destination: source,
        source_port: u16::from_be(ports.destination),
        destination_port: u16::from_be(ports.source),
        protocol: kind,
        _pad: [0; 3],
    };
    let Some(flow) = flow::established(&key).or_else(|| flow::embryonic(&key)) else { return Tc::PASS };
    // An ICMP error is never answered with another (RFC 1122 section 3.2.2).
    if packet.ttl <= 1 {
        count::dropped(Reason::TtlExpired);
        return Tc::DROP;
    }
    let way = redirect::resolve(frame, flow, packet.v6, now);
    if way == 0 {
        count::dropped(Reason::NoRoute);
        return Tc::DROP;
    }
    // A router on the way keeps its address unless the sender would not know how to reach back.
    let from: Address = if flow.source == key.source { packet.key.source } else { flow.source };
    let old = ports.source as u64 + ports.destination as u64;
    ports.source = flow.destination_port.to_be();
    ports.destination = flow.source_port.to_be();
    let mut rest = ports.source as u64 + ports.destination as u64;
    let Some(quotation) = rewrite::quoted(frame, inner, packet.v6, &flow.destination, &flow.source) else {
        return Tc::DROP;
    };
    rest = rewrite::difference(old, rest) as u64 + quotation as u64;
    let Some(pseudo) = rewrite::network(frame, packet.v6, &from, &flow.destination, 1) else { return Tc::DROP };
    // Only ICMPv6 has a pseudo header.
    if !redirect::write_macs(frame, flow)
        || !frame.update_transport_checksum(
            packet.transport + 2,
            if packet.v6 { pseudo } else { 0 },
            rewrite::difference(0, rest),
            false,
            packet.v6,
        )
    {
        return Tc::DROP;
    }
    redirect::send(flow, way)
}

/// Protocol of the quoted packet and the length of its IP header.
#[inline(always)]
fn quoted_protocol(frame: Tc, offset: u32, v6: bool) -> Option<(u8, u32)> {
    if v6 {
        return at::<Ipv6>(frame, offset).map(|ip| (ip.next, 40));
    }
    let ip = at::<Ipv4>(frame, offset)?;
    // A quoted fragment that is not the first has no ports.
    if ip.fragment & FRAGMENT_OFFSET != 0 {
        return None;
    }
    Some((ip.protocol, (ip.version as u32 & 0xf) * 4))
}
