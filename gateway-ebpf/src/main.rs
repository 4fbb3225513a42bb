//! The kernel side of Sluice. Entry points only run the pipeline:
//! parse → flow lookup → listener → pick → rewrite → redirect.
#![no_std]
#![no_main]
#![feature(asm_experimental_arch)]

#[macro_use]
mod trace;

mod atomic;
mod bind;
mod count;
mod flow;
mod fragment;
mod frame;
mod headers;
mod icmp;
mod listener;
mod maps;
mod name;
mod neighbor;
mod options;
mod parse;
mod pick;
mod redirect;
mod refuse;
mod replay;
mod rewrite;
mod segment;
mod splice;
mod steer;
mod sweep;

use aya_ebpf::EbpfContext;
use aya_ebpf::helpers::bpf_ktime_get_coarse_ns;
use aya_ebpf::macros::{classifier, sk_lookup, xdp};
use aya_ebpf::programs::{SkLookupContext, TcContext, XdpContext};
use gateway_common::cookie::Proof;
use gateway_common::{Flow, Listener, Reason, flow_flags, flow_state, listener_kind, protocol};

use crate::frame::{Frame, Tc, Xdp};
use crate::headers::{FIN, RST, SYN};
use crate::parse::{Packet, Parsed, fragment as part, parse, parse_apart};
use crate::refuse::refuse;

/// linux/if_packet.h: a frame for another host that only came by. On a bridge, where pods answer each other directly, it may
/// be the answer of a local backend.
const PACKET_OTHERHOST: u32 = 3;

/// TC ingress: the whole pipeline.
#[classifier]
pub fn ingress_tc(context: TcContext) -> i32 {
    let frame = Tc(context.as_ptr().cast());
    let Some(packet) = maps::begin() else { return Tc::PASS };
    let verdict = ingress(frame, packet);
    trace!(context, packet, verdict);
    verdict
}

#[inline(always)]
fn ingress(frame: Tc, packet: &mut Packet) -> i32 {
    let parsed = parse_apart(frame, packet);
    if parsed == Parsed::Other {
        return neighbor::answer(frame);
    }
    // SAFETY: the context is valid. The tag of an offloaded VLAN is not in the frame: not ours, as in the frame.
    if unsafe { (*frame.0).vlan_present } != 0 {
        return Tc::PASS;
    }
    // SAFETY: the context is valid.
    let elsewhere = unsafe { (*frame.0).pkt_type } == PACKET_OTHERHOST;
    if elsewhere && !flow::is_local_reply(packet) {
        return Tc::PASS;
    }
    if parsed == Parsed::Malformed {
        return malformed(frame, packet);
    }
    // SAFETY: no arguments.
    let now = unsafe { bpf_ktime_get_coarse_ns() };
    if parsed == Parsed::IcmpError {
        return icmp::translate(frame, packet, now);
    }
    if packet.fragment == part::LATER {
        return fragment::later(frame, packet, now);
    }
    let mut flow: *mut Flow = match flow::established(&packet.key) {
        Some(flow) => flow,
        None => core::ptr::null_mut(),
    };
    if flow.is_null() {
        let verdict = flow::miss(frame, packet, now, &mut flow);
        if flow.is_null() {
            if verdict == bind::OPEN {
                return bind::open(frame, packet);
            }
            return if verdict == Tc::PASS && packet.fragment == part::FIRST {
                fragment::foreign(frame, packet, now)
            } else {
                verdict
            };
        }
    }
    // SAFETY: a map value, checked for null.
    forward(frame, packet, unsafe { &mut *flow }, now)
}

/// Sends the packet the way of its flow.
#[inline(always)]
fn forward(frame: Tc, packet: &Packet, flow: &mut Flow, now: u64) -> i32 {
    let mut ends = packet.flags & (FIN | RST) != 0;
    if flow.state >= flow_state::GONE {
        if flow.state == flow_state::GONE {
            return gone(frame, packet, flow, now);
        }
        let verdict = replay::pending(frame, packet, flow, now);
        if verdict == bind::RETRY {
            return bind::retry(frame, packet);
        }
        if verdict != replay::GO_ON {
            return verdict;
        }
        // Both ends may have closed while the hello was on its way.
        ends |= flow.flags & flow_flags::FIN != 0;
    }
    if flow.flags & flow_flags::AGENT != 0 {
        return to_or_from_agent(frame, packet, flow, now, ends);
    }
    if packet.ttl <= 1 {
        return refuse(frame, packet, 0, Reason::TtlExpired, 0);
    }
    let way = redirect::resolve(frame, flow, packet.v6, now);
    if way == 0 {
        // A route that is away for a moment does not end a connection.
        count::dropped(Reason::NoRoute);
        return Tc::DROP;
    }
    let headers = packet.total - packet.payload;
    if packet.total > flow.route.mtu as u32 && redirect::exceeds(frame, packet.total, headers, flow.route.mtu) {
        return refuse(frame, packet, 0, Reason::PacketTooBig, flow.route.mtu);
    }
    if exceeds_backend(frame, packet, flow) {
        let mtu = flow.handshake + packet.transport - frame::ETHERNET + 20;
        return refuse(frame, packet, 0, Reason::PacketTooBig, mtu as u16);
    }
    flow.last_seen = now;
    count_passed(frame, packet, flow);
    if !redirect::address(frame, flow, way) || !rewrite::rewrite(frame, packet, flow) {
        return refuse::broken(frame);
    }
    if packet.fragment == part::FIRST && fragment::first(frame, packet, now) == 0 {
        return refuse::broken(frame);
    }
    let verdict = redirect::send(flow, way);
    if ends && packet.is_tcp() {
        flow::control(packet, flow, now);
    }
    verdict
}

#[inline(always)]
fn is_of_spliced_client(flow: &Flow) -> bool {
    flow.flags & (flow_flags::SPLICED | flow_flags::REPLY) == flow_flags::SPLICED
}

/// Whether a spliced client sends more in one segment than its backend takes: it was told an MSS before the backend was known.
#[inline(always)]
fn exceeds_backend<F: Frame>(frame: F, packet: &Packet, flow: &Flow) -> bool {
    if !is_of_spliced_client(flow) || flow.state == flow_state::REPLAYING {
        return false;
    }
    let payload = if frame.segments() > 1 { frame.segment_size() } else { packet.payload };
    // Options count (RFC 6691 section 3), and a segment without payload is never too large.
    payload != 0 && flow.handshake != 0 && payload + packet.header - 20 > flow.handshake
}

/// Between the agent and a client: the stack brings it where it goes.
#[inline(never)]
fn to_or_from_agent(frame: Tc, packet: &Packet, flow: &mut Flow, now: u64, ends: bool) -> i32 {
    flow.last_seen = now;
    count_passed(frame, packet, flow);
    if !rewrite::rewrite(frame, packet, flow) {
        return refuse::broken(frame);
    }
    if ends {
        flow::control(packet, flow, now);
    }
    Tc::PASS
}

/// TC egress: what the agent's sockets send to clients that are spliced to them.
#[classifier]
pub fn egress_tc(context: TcContext) -> i32 {
    let frame = Tc(context.as_ptr().cast());
    // SAFETY: the context is valid.
    if unsafe { (*frame.0).protocol } == headers::ETHERTYPE_ARP as u32 {
        return neighbor::leave(frame);
    }
    // What is forwarded has no socket.
    // SAFETY: the context is valid.
    if unsafe { (*frame.0).__bindgen_anon_2.sk.is_null() } {
        return Tc::PASS;
    }
    let Some(packet) = maps::begin() else { return Tc::PASS };
    packet.egress = true;
    let verdict = egress(frame, packet);
    trace!(context, packet, verdict);
    verdict
}

#[inline(always)]
fn egress(frame: Tc, packet: &mut Packet) -> i32 {
    if parse_apart(frame, packet) != Parsed::Transport || !packet.is_tcp() || packet.fragment != part::WHOLE {
        return Tc::PASS;
    }
    // Most of what has a socket is not the agent's: what pods send has theirs.
    if !maps::CONFIG.get(0).is_some_and(|config| config.is_of_agent(packet.key.source_port)) {
        return Tc::PASS;
    }
    const OF_AGENT: u8 = flow_flags::AGENT | flow_flags::REPLY;
    let flow = flow::established(&packet.key).or_else(|| flow::embryonic(&packet.key));
    let Some(flow) = flow.filter(|flow| flow.flags & OF_AGENT == OF_AGENT) else { return Tc::PASS };
    // SAFETY: no arguments.
    let now = unsafe { bpf_ktime_get_coarse_ns() };
    forward(frame, packet, flow, now)
}

/// The endpoint of a TCP connection has gone: whoever sends is told, and first of all the client, who may have nothing to send.
#[inline(never)]
fn gone(frame: Tc, packet: &Packet, flow: &mut Flow, now: u64) -> i32 {
    if !flow::client_is_to_be_told(packet, flow) {
        let verdict = refuse(frame, packet, flow.listener, Reason::BackendGone, 0);
        flow::end_half(&packet.key, flow);
        return verdict;
    }
    let way = redirect::resolve_silently(frame, packet, flow, now);
    if way == 0 {
        return Tc::DROP;
    }
    count::dropped(Reason::BackendGone);
    if !refuse::reset_onward(frame, packet)
        || !redirect::address(frame, flow, way)
        || !rewrite::rewrite(frame, packet, flow)
    {
        return Tc::DROP;
    }
    redirect::send(flow, way)
}

/// Counts the packets that a GSO frame stands for, with the headers of each.
#[inline(always)]
fn count_passed<F: Frame>(frame: F, packet: &Packet, flow: &mut Flow) {
    let segments = frame.segments();
    let headers = if segments > 1 { (segments - 1) * (packet.total - packet.payload) } else { 0 };
    count::passed(flow, segments as u64, (packet.total + headers) as u64);
}

/// Nothing tells whose a packet is whose headers do not hold; to an address of Gateways alone it can only be ours.
#[inline(never)]
fn malformed<F: Frame>(_frame: F, packet: &Packet) -> i32 {
    if !listener::is_exclusive(&packet.key.destination) {
        return F::PASS;
    }
    count::dropped(Reason::Malformed);
    F::DROP
}

/// XDP: what pays before there is an skb. Everything else is left to TC, untouched.
#[xdp]
pub fn ingress_xdp(context: XdpContext) -> u32 {
    let frame = Xdp(context.ctx);
    let Some(packet) = maps::begin() else { return Xdp::PASS as u32 };
    let verdict = express(frame, packet);
    trace!(context, packet, verdict);
    verdict as u32
}

#[inline(always)]
fn express(frame: Xdp, packet: &mut Packet) -> i32 {
    let parsed = parse(frame, packet);
    if (parsed != Parsed::Transport && parsed != Parsed::Malformed) || !is_for_us(frame) {
        return Xdp::PASS;
    }
    if parsed == Parsed::Malformed {
        return malformed(frame, packet);
    }
    if packet.fragment != part::WHOLE {
        return Xdp::PASS;
    }
    if let Some(flow) = flow::established(&packet.key) {
        return express_established(frame, packet, flow);
    }
    if packet.key.protocol != protocol::TCP || flow::embryonic(&packet.key).is_some() {
        return Xdp::PASS;
    }
    match listener::find(packet) {
        Some(listener) if listener.kind == listener_kind::TLS => express_tls(frame, packet, listener),
        Some(listener) if listener.kind == listener_kind::L7 => Xdp::PASS,
        Some(_) if packet.flags & (SYN | FIN | RST | headers::ACK) == SYN => Xdp::PASS,
        Some(listener) => express_refuse(frame, packet, listener.id, Reason::UnknownConnection),
        None if listener::is_exclusive(&packet.key.destination) => express_refuse(frame, packet, 0, Reason::NoListener),
        None => Xdp::PASS,
    }
}

/// A segment that belongs to no flow, if it belongs to no socket either.
#[inline(always)]
fn express_refuse(frame: Xdp, packet: &Packet, listener: u32, reason: Reason) -> i32 {
    if steer::has_socket(frame, packet) {
        return Xdp::PASS;
    }
    refuse(frame, packet, listener, flow::unwanted(packet, reason), 0)
}

/// SYN cookies, given out and checked: what a flood is made of ends here.
#[inline(always)]
fn express_tls(frame: Xdp, packet: &Packet, listener: &Listener) -> i32 {
    // SAFETY: no arguments.
    let now = unsafe { bpf_ktime_get_coarse_ns() };
    if packet.flags & (SYN | FIN | RST | headers::ACK) == SYN {
        return match splice::accept(frame, packet, listener, now) {
            0 => Xdp::PASS,
            verdict => verdict,
        };
    }
    if packet.flags & RST != 0 {
        return Xdp::PASS;
    }
    let reason = match splice::prove(packet, now) {
        Proof::Client(_) => return Xdp::PASS,
        Proof::Later => Reason::EarlySegment,
        Proof::Nothing => Reason::UnknownConnection,
    };
    let Some(scratch) = maps::scratch() else { return Xdp::PASS };
    if splice::recall(packet, scratch) != splice::known::NOTHING || steer::has_socket(frame, packet) {
        return Xdp::PASS;
    }
    refuse(frame, packet, listener.id, reason, 0)
}

/// Whether the frame is for this host, as far as the agent has told.
#[inline(always)]
fn is_for_us(frame: Xdp) -> bool {
    let Some(interface) = maps::INTERFACES.get_ptr(frame.interface()) else { return false };
    let Some(to) = frame::fixed::<[u16; 3], 0>(frame) else { return false };
    // SAFETY: a map value that starts with the MAC address, at a multiple of 8.
    let mac = unsafe { *interface.cast::<[u16; 3]>() };
    (to[0] ^ mac[0]) | (to[1] ^ mac[1]) | (to[2] ^ mac[2]) == 0
}

/// Established flows that leave through a device that takes XDP frames.
#[inline(always)]
fn express_established(frame: Xdp, packet: &Packet, flow: &mut Flow) -> i32 {
    // SAFETY: no arguments.
    let now = unsafe { bpf_ktime_get_coarse_ns() };
    // SACK edges of a spliced connection are TC's.
    let has_options = is_of_spliced_client(flow) && packet.header > 20;
    if flow.state >= flow_state::GONE
        || has_options
        || flow.flags & flow_flags::AGENT != 0
        || (packet.is_tcp() && packet.flags & (SYN | FIN | RST) != 0)
        || packet.ttl <= 1
        || packet.total > flow.route.mtu as u32
        || exceeds_backend(frame, packet, flow)
        || !redirect::is_express(flow, now)
    {
        return Xdp::PASS;
    }
    flow.last_seen = now;
    count_passed(frame, packet, flow);
    if !redirect::write_macs(frame, flow) || !rewrite::rewrite(frame, packet, flow) {
        return refuse::broken(frame);
    }
    maps::XDP_PORTS.redirect(flow.route.ifindex, Xdp::DROP as u64).unwrap_or(Xdp::DROP as u32) as i32
}

/// Which socket gets a connection that the node's stack takes.
#[sk_lookup]
pub fn steer(context: SkLookupContext) -> u32 {
    steer::run(&context)
}

/// Ends what is idle or has lost its endpoint.
#[classifier]
pub fn sweep(_context: TcContext) -> i32 {
    sweep::run()
}

#[unsafe(no_mangle)]
#[unsafe(link_section = "license")]
pub static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

#[panic_handler]
fn panic(_info: &core::panic::PanicInfo) -> ! {
    loop {}
}
