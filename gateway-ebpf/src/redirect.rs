//! Stage: the way out. Looked up in the FIB once a second and half of a flow, then taken from the flow.

use aya_ebpf::bindings::{BPF_FIB_LKUP_RET_NO_NEIGH, BPF_FIB_LKUP_RET_SUCCESS, bpf_fib_lookup as Lookup};
use aya_ebpf::helpers::{bpf_fib_lookup, bpf_redirect, bpf_redirect_neigh, bpf_redirect_peer};
use gateway_common::{Flow, Reason, flow_flags, route_kind};

use crate::count;
use crate::frame::{Frame, Tc, fixed};
use crate::maps::{BACKENDS, XDP_PORTS, scratch};
use crate::parse::{Packet, unmapped, words_v6};

/// How long a route is used without looking again, ns. A route or neighbour that changes is followed after this time.
const FRESH: u64 = 1_000_000_000;
/// The same while the neighbour is not resolved, ns.
const FRESH_UNRESOLVED: u64 = 10_000_000;
const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;

/// Where the look-up of this run of the program led, so that the kernel need not repeat it. As `bpf_redir_neigh` (linux/bpf.h).
#[repr(C)]
pub struct NextHop {
    /// 0: there was none.
    pub family: u32,
    pub address: [u32; 4],
}

/// The way this packet takes: a [`route_kind`], 0 if there is none.
///
/// After each look-up one packet goes through the neighbour table, so that the kernel keeps probing the neighbour.
#[inline(always)]
pub fn resolve(frame: Tc, flow: &mut Flow, v6: bool, now: u64) -> u8 {
    if !is_fresh(flow, now) {
        return refresh(frame, flow, v6, now) as u8;
    }
    let looked_up = scratch().is_some_and(|scratch| scratch.next_hop.family != 0);
    if looked_up && flow.route.kind == route_kind::DIRECT { route_kind::NEIGHBOUR } else { flow.route.kind }
}

/// The same for what nobody is told about when it cannot go on: later fragments, RST and ICMP errors (RFC 1122 section 3.2.2).
#[inline(always)]
pub fn resolve_silently(frame: Tc, packet: &Packet, flow: &mut Flow, now: u64) -> u8 {
    if packet.ttl <= 1 {
        count::dropped(Reason::TtlExpired);
        return 0;
    }
    let way = resolve(frame, flow, packet.v6, now);
    if way == 0 {
        count::dropped(Reason::NoRoute);
    }
    way
}

#[inline(always)]
pub fn is_fresh(flow: &Flow, now: u64) -> bool {
    now.wrapping_sub(flow.route.checked) < FRESH
}

#[inline(never)]
pub fn refresh(frame: Tc, flow: &mut Flow, v6: bool, now: u64) -> u32 {
    // SAFETY: plain data.
    let mut lookup: Lookup = unsafe { core::mem::zeroed() };
    lookup.l4_protocol = 0;
    // With a length the kernel answers the MTU; 1 never exceeds it.
    lookup.__bindgen_anon_1.tot_len = 1;
    lookup.ifindex = frame.interface();
    if v6 {
        lookup.family = AF_INET6;
        lookup.__bindgen_anon_3.ipv6_src = words_v6(&flow.source);
        lookup.__bindgen_anon_4.ipv6_dst = words_v6(&flow.destination);
    } else {
        lookup.family = AF_INET;
        lookup.__bindgen_anon_3.ipv4_src = unmapped(&flow.source);
        lookup.__bindgen_anon_4.ipv4_dst = unmapped(&flow.destination);
    }
    // SAFETY: the context and `lookup` are valid.
    let answer = unsafe { bpf_fib_lookup(frame.0.cast(), &mut lookup, size_of::<Lookup>() as i32, 0) };
    // SAFETY: both arms of the union are a u16.
    let mtu = unsafe { lookup.__bindgen_anon_1.mtu_result };
    let Some(scratch) = scratch() else { return 0 };
    let next_hop = &mut scratch.next_hop;
    next_hop.family = lookup.family as u32;
    // SAFETY: all arms of the union are plain data; of an IPv4 address the first word counts.
    next_hop.address = unsafe { lookup.__bindgen_anon_4.ipv6_dst };
    if answer == BPF_FIB_LKUP_RET_NO_NEIGH as i64 {
        flow.route.kind = route_kind::NEIGHBOUR;
        flow.route.ifindex = lookup.ifindex;
        flow.route.mtu = frame.mtu(lookup.ifindex);
        flow.route.checked = now - (FRESH - FRESH_UNRESOLVED);
        return route_kind::NEIGHBOUR as u32;
    }
    if answer != BPF_FIB_LKUP_RET_SUCCESS as i64 {
        return 0;
    }
    flow.route.ifindex = lookup.ifindex;
    flow.route.mtu = mtu;
    let mut i = 0;
    while i < 6 {
        flow.route.macs[i] = lookup.dmac[i];
        flow.route.macs[i + 6] = lookup.smac[i];
        i += 1;
    }
    flow.route.checked = now;
    flow.route.kind = route_kind::DIRECT;
    if flow.flags & (flow_flags::LOCAL | flow_flags::REPLY) == flow_flags::LOCAL
        && let Some(backend) = BACKENDS.get_ptr(flow.backend)
    {
        // SAFETY: a map value, valid while the program runs.
        if unsafe { (*backend).ifindex } == lookup.ifindex {
            flow.route.kind = route_kind::PEER;
            return route_kind::PEER as u32;
        }
    }
    route_kind::NEIGHBOUR as u32
}

/// Whether a packet of `total` bytes must be cut to go this way. `headers`: of one segment, network and transport.
#[inline(always)]
pub fn exceeds<F: Frame>(frame: F, total: u32, headers: u32, mtu: u16) -> bool {
    let mtu = mtu as u32;
    if total <= mtu {
        return false;
    }
    let segment = frame.segment_size();
    segment == 0 || segment + headers > mtu
}

#[inline(always)]
pub fn write_macs<F: Frame>(frame: F, flow: &Flow) -> bool {
    let Some(macs) = fixed::<[u32; 3], 0>(frame) else { return false };
    // SAFETY: 12 bytes, at a multiple of 8 in a map value.
    *macs = unsafe { *flow.route.macs.as_ptr().cast::<[u32; 3]>() };
    true
}

/// The MAC addresses of this way, if it is not for the kernel to write them. False: the frame is too short.
#[inline(always)]
pub fn address<F: Frame>(frame: F, flow: &Flow, way: u8) -> bool {
    way == route_kind::NEIGHBOUR || write_macs(frame, flow)
}

#[inline(always)]
pub fn send(flow: &Flow, kind: u8) -> i32 {
    let ifindex = flow.route.ifindex;
    // SAFETY: helpers without pointers that matter.
    unsafe {
        match kind {
            route_kind::PEER => bpf_redirect_peer(ifindex, 0) as i32,
            route_kind::DIRECT => bpf_redirect(ifindex, 0) as i32,
            _ => {
                let mut next_hop = core::ptr::null_mut();
                let mut bytes = 0;
                if let Some(scratch) = scratch()
                    && scratch.next_hop.family != 0
                {
                    next_hop = &raw mut scratch.next_hop;
                    bytes = size_of::<NextHop>() as i32;
                }
                bpf_redirect_neigh(ifindex, next_hop.cast(), bytes, 0) as i32
            }
        }
    }
}

/// Whether XDP can send this flow by itself.
#[inline(always)]
pub fn is_express(flow: &Flow, now: u64) -> bool {
    flow.route.kind == route_kind::DIRECT && is_fresh(flow, now) && XDP_PORTS.get(flow.route.ifindex).is_some()
}
