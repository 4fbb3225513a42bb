//! ICMP and ICMPv6: errors that Sluice sends, and errors about its connections that it translates.

use aya_ebpf::bindings::bpf_adj_room_mode::BPF_ADJ_ROOM_MAC;
use aya_ebpf::helpers::{bpf_ktime_get_coarse_ns, bpf_skb_adjust_room};
use gateway_common::{Address, Flow, FlowKey, checksum, flow_flags, protocol};

use crate::flow;
use crate::frame::{ETHERNET, Frame, Tc, at, fixed};
use crate::headers::*;
use crate::maps::{INTERFACES, icmp_bucket};
use crate::parse::{Packet, address_v6, mapped, unmapped, words_v6};
use crate::redirect;
use crate::refuse::broken;
use crate::rewrite;
use crate::segment::swap_macs;

/// Of packets that Sluice makes.
pub const TTL: u8 = 64;
/// An error quotes so much of the packet it is about (RFC 1812 section 4.3.2.3 and RFC 4443 section 3 allow it; RFC 4884 asks for it).
const QUOTED: u32 = 128;
/// Errors a second and CPU, and as many at once (RFC 1812 section 4.3.2.8, RFC 4443 section 2.4 f).
const ERRORS: u64 = 1_000;
const SECOND: u64 = 1_000_000_000;
/// bpf_skb_adjust_room: leave CHECKSUM_UNNECESSARY alone.
const NO_CSUM_RESET: u64 = 32;

/// Type and code (in one number), and the second word of an error.
struct Error {
    kind: u32,
    rest: u32,
}

const PORT_UNREACHABLE_V4: u32 = 3 << 8 | 3;
const PORT_UNREACHABLE_V6: u32 = 1 << 8 | 4;
const FRAGMENTATION_NEEDED: u32 = 3 << 8 | 4;
const TOO_BIG_V6: u32 = 2 << 8;
const TIME_EXCEEDED_V4: u32 = 11 << 8;
const TIME_EXCEEDED_V6: u32 = 3 << 8;

/// Port unreachable.
#[inline(always)]
pub fn unreachable<F: Frame>(frame: F, packet: &Packet) -> i32 {
    let kind = if packet.v6 { PORT_UNREACHABLE_V6 } else { PORT_UNREACHABLE_V4 };
    send(frame, packet, Error { kind, rest: 0 })
}

#[inline(always)]
pub fn time_exceeded<F: Frame>(frame: F, packet: &Packet) -> i32 {
    let kind = if packet.v6 { TIME_EXCEEDED_V6 } else { TIME_EXCEEDED_V4 };
    send(frame, packet, Error { kind, rest: 0 })
}

/// Fragmentation needed, packet too big.
#[inline(always)]
pub fn too_big<F: Frame>(frame: F, packet: &Packet, mtu: u16) -> i32 {
    let kind = if packet.v6 { TOO_BIG_V6 } else { FRAGMENTATION_NEEDED };
    send(frame, packet, Error { kind, rest: (mtu as u32).to_be() })
}

#[inline(always)]
fn send<F: Frame>(frame: F, packet: &Packet, error: Error) -> i32 {
    if F::TC {
        send_tc(Tc(frame.context().cast()), packet, error.kind, error.rest)
    } else {
        // XDP leaves to TC what needs an answer that grows.
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

/// Puts new headers before the packet, of which a piece stays as the quotation.
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
    if packet.v6 {
        answer6(frame, packet, sum, kind, rest, quoted)
    } else {
        answer4(frame, packet, sum, kind, rest, quoted)
    }
}

/// Who speaks: the address that the packet was sent to, or the interface's own where the node speaks as a router.
#[inline(always)]
fn source(frame: Tc, packet: &Packet, kind: u32) -> &Address {
    if kind != PORT_UNREACHABLE_V4
        && kind != PORT_UNREACHABLE_V6
        && let Some(interface) = INTERFACES.get_ptr(frame.interface())
    {
        // SAFETY: a map value, which the agent replaces as a whole.
        let own = unsafe { if packet.v6 { &(*interface).v6 } else { &(*interface).v4 } };
        if *own != Address::UNSET {
            return own;
        }
    }
    &packet.key.destination
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
    ip.source = unmapped(source(frame, packet, kind));
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
    ip.source = words_v6(source(frame, packet, kind));
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
    let mut quoted = Quoted { ports: 0, checksum: 0, source_changes: 0 };
    let flow = quoted_flow(frame, inner, packet.v6, &mut quoted);
    // SAFETY: a map value or null.
    let Some(flow) = (unsafe { flow.as_mut() }) else { return Tc::PASS };
    if flow.flags & flow_flags::AGENT != 0 {
        return if edit(frame, packet, flow, inner, &quoted) == 0 { broken(frame) } else { Tc::PASS };
    }
    let way = redirect::resolve_silently(frame, packet, flow, now);
    if way == 0 {
        return Tc::DROP;
    }
    if edit(frame, packet, flow, inner, &quoted) == 0 { broken(frame) } else { redirect::send(flow, way) }
}

/// What [`edit`] must know of the quotation.
struct Quoted {
    /// Where its ports lie.
    ports: u32,
    /// Where its transport checksum lies, if it is long enough.
    checksum: u32,
    /// Whether the flow rewrites its source.
    source_changes: u32,
}

/// The flow of the packet that would answer the quoted one.
#[inline(never)]
fn quoted_flow(frame: Tc, inner: u32, v6: bool, quoted: &mut Quoted) -> *mut Flow {
    let none = core::ptr::null_mut();
    let mut key = FlowKey::default();
    let header = if v6 {
        let Some(ip) = at::<Ipv6>(frame, inner) else { return none };
        key.source = address_v6(&ip.destination);
        key.destination = address_v6(&ip.source);
        key.protocol = ip.next;
        40
    } else {
        let Some(ip) = at::<Ipv4>(frame, inner) else { return none };
        // A quoted fragment that is not the first has no ports.
        if ip.fragment & FRAGMENT_OFFSET != 0 {
            return none;
        }
        key.source = mapped(ip.destination);
        key.destination = mapped(ip.source);
        key.protocol = ip.protocol;
        (ip.version as u32 & 0xf) * 4
    };
    if key.protocol != protocol::TCP && key.protocol != protocol::UDP {
        return none;
    }
    let Some(ports) = at::<Ports>(frame, inner + header) else { return none };
    key.source_port = u16::from_be(ports.destination);
    key.destination_port = u16::from_be(ports.source);
    let flow = match flow::established(&key).or_else(|| flow::embryonic(&key)) {
        Some(flow) => flow,
        None => return none,
    };
    quoted.ports = inner + header;
    quoted.checksum = quoted.ports + if key.protocol == protocol::TCP { 16 } else { 6 };
    quoted.source_changes = (flow.source != key.source) as u32;
    flow
}

/// A router on the way keeps its address unless the sender would not know how to reach back.
#[inline(never)]
fn edit(frame: Tc, packet: &Packet, flow: &Flow, inner: u32, quoted: &Quoted) -> u32 {
    let pseudo = if quoted.source_changes != 0 {
        rewrite::network(frame, packet.v6, &flow.source, &flow.destination, 1)
    } else {
        rewrite::network(frame, packet.v6, &packet.key.source, &flow.destination, 1)
    };
    let Some(pseudo) = pseudo else { return 0 };
    let Some(addresses) = rewrite::quoted(frame, inner, packet.v6, &flow.destination, &flow.source) else { return 0 };
    let Some(ports) = at::<Ports>(frame, quoted.ports) else { return 0 };
    let mut old = ports.source as u64 + ports.destination as u64;
    ports.source = flow.destination_port.to_be();
    ports.destination = flow.source_port.to_be();
    let mut new = ports.source as u64 + ports.destination as u64;
    if flow.flags & (flow_flags::SPLICED | flow_flags::REPLY) == flow_flags::SPLICED {
        // The backend knows its own sequence numbers (RFC 5927 section 4.1: what is not in flight is ignored). The one of the
        // client's segments is the client's own.
        let Some(sequence) = at::<u32>(frame, quoted.ports + 4) else { return 0 };
        old += *sequence as u64;
        *sequence = u32::from_be(*sequence).wrapping_sub(flow.delta).to_be();
        new += *sequence as u64;
    }
    // The quoted transport checksum, if the quotation reaches that far (RFC 5508 section 4.2).
    if quoted.checksum + 2 <= ETHERNET + packet.total
        && let Some(field) = at::<u16>(frame, quoted.checksum)
        && (*field != 0 || quoted.checksum - quoted.ports != 6)
    {
        let was = *field;
        *field = checksum::update(was, old, new + addresses as u64);
        old += was as u64;
        new += *field as u64;
    }
    // In IPv4 the change of the quoted addresses and that of their header's checksum cancel out.
    let addresses = if packet.v6 { addresses } else { 0 };
    let rest = rewrite::difference(old, new + addresses as u64);
    // Only ICMPv6 has a pseudo header.
    let pseudo = if packet.v6 { pseudo } else { 0 };
    let done = (flow.flags & flow_flags::AGENT != 0 || redirect::write_macs(frame, flow))
        && frame.update_transport_checksum(packet.transport + 2, pseudo, rest, false, packet.v6);
    done as u32
}
