//! Fragments. Only the first one of a datagram has ports: it finds or opens the flow and leaves a note of it, which the
//! later ones follow. Later ones that come before it wait in HELD.

use aya_ebpf::bindings::BPF_ANY;
use aya_ebpf::helpers::{bpf_clone_redirect, bpf_skb_change_tail, bpf_skb_load_bytes, bpf_skb_store_bytes};
use gateway_common::{
    FRAGMENT_SECONDS, Flow, FragmentTrack, HELD_BYTES, HELD_PER_DATAGRAM, HeldKey, Reason, route_kind,
};

use crate::count;
use crate::flow;
use crate::frame::{Frame, Tc, opaque};
use crate::listener;
use crate::maps::{FRAGMENTS, HELD, scratch};
use crate::parse::Packet;
use crate::redirect;
use crate::rewrite;

/// A fragment that is not the first.
#[inline(never)]
pub fn later(frame: Tc, packet: &Packet, now: u64) -> i32 {
    let datagram = packet.datagram();
    // SAFETY: entries of one datagram are written by the CPU that its packets come to.
    let track = FRAGMENTS.get_ptr_mut(&datagram).map(|track| unsafe { &mut *track });
    match track.filter(|track| is_current(track, now)) {
        Some(track) if track.flow.protocol != 0 => {
            match flow::established(&track.flow).or_else(|| flow::embryonic(&track.flow)) {
                Some(flow) => follow(frame, packet, flow, now),
                None => drop_unmatched(),
            }
        }
        Some(track) => hold(frame, packet, track),
        // Elsewhere it may be the node's own, or anybody's.
        None if !listener::is_exclusive(&packet.key.destination) => Tc::PASS,
        None => {
            let track = FragmentTrack { since: seconds(now), ..FragmentTrack::default() };
            if FRAGMENTS.insert(&datagram, &track, BPF_ANY as u64).is_err() {
                return drop_unmatched();
            }
            match FRAGMENTS.get_ptr_mut(&datagram) {
                // SAFETY: as above.
                Some(track) => hold(frame, packet, unsafe { &mut *track }),
                None => drop_unmatched(),
            }
        }
    }
}

#[inline(always)]
fn seconds(now: u64) -> u32 {
    (now / 1_000_000_000) as u32
}

#[inline(always)]
fn is_current(track: &FragmentTrack, now: u64) -> bool {
    seconds(now).wrapping_sub(track.since) <= FRAGMENT_SECONDS
}

#[inline(always)]
fn drop_unmatched() -> i32 {
    count::dropped(Reason::FragmentUnmatched);
    Tc::DROP
}

/// Sends a later fragment the way of its datagram.
#[inline(never)]
fn follow(frame: Tc, packet: &Packet, flow: &mut Flow, now: u64) -> i32 {
    if packet.ttl <= 1 {
        count::dropped(Reason::TtlExpired);
        return Tc::DROP;
    }
    let way = redirect::resolve(frame, flow, packet.v6, now);
    if way == 0 {
        count::dropped(Reason::NoRoute);
        return Tc::DROP;
    }
    if packet.total > flow.route.mtu as u32 {
        count::dropped(Reason::PacketTooBig);
        return Tc::DROP;
    }
    flow.last_seen = now;
    count::passed(flow, 1, packet.total as u64);
    if !rewrite::rewrite(frame, packet, flow) || (way != route_kind::NEIGHBOUR && !redirect::write_macs(frame, flow)) {
        return Tc::DROP;
    }
    redirect::send(flow, way)
}

/// Keeps a fragment until the first one of its datagram comes.
#[inline(never)]
fn hold(frame: Tc, packet: &Packet, track: &mut FragmentTrack) -> i32 {
    let length = opaque(frame.length() as u64);
    let Some(scratch) = scratch() else { return drop_unmatched() };
    if track.held >= HELD_PER_DATAGRAM || length == 0 || length > HELD_BYTES as u64 {
        return drop_unmatched();
    }
    let held = &mut scratch.held;
    held.length = length as u32;
    let length = opaque(length);
    if length == 0 || length > HELD_BYTES as u64 {
        return drop_unmatched();
    }
    // SAFETY: `length` fits the buffer.
    if unsafe { bpf_skb_load_bytes(frame.0.cast(), 0, held.frame.as_mut_ptr().cast(), length as u32) } != 0 {
        return drop_unmatched();
    }
    let key = HeldKey { datagram: packet.datagram(), index: track.held, _pad: 0 };
    if HELD.insert(&key, &*held, BPF_ANY as u64).is_err() {
        return drop_unmatched();
    }
    track.held += 1;
    Tc::DROP
}

/// After the first fragment was rewritten: leaves the note, and sends what was held. The frame becomes the last of these.
/// Answers whether the frame is still to be sent.
#[inline(never)]
pub fn first(frame: Tc, packet: &Packet, now: u64) -> u32 {
    let datagram = packet.datagram();
    let held = match FRAGMENTS.get_ptr(&datagram) {
        // SAFETY: as above.
        Some(track) if is_current(unsafe { &*track }, now) => unsafe { (*track).held },
        _ => 0,
    };
    let track = FragmentTrack { flow: packet.key, held: 0, since: seconds(now) };
    let _ = FRAGMENTS.insert(&datagram, &track, BPF_ANY as u64);
    if held == 0 {
        return 1;
    }
    let Some(flow) = flow::established(&packet.key).or_else(|| flow::embryonic(&packet.key)) else { return 1 };
    for index in 0..HELD_PER_DATAGRAM {
        if index >= held {
            break;
        }
        let key = HeldKey { datagram, index, _pad: 0 };
        if let Some(waiting) = HELD.get_ptr(&key) {
            // SAFETY: a map value.
            let length = opaque(unsafe { (*waiting).length } as u64);
            if length == 0 || length > HELD_BYTES as u64 || flow.route.kind == route_kind::NEIGHBOUR {
                count::dropped(Reason::FragmentUnmatched);
                continue;
            }
            // SAFETY: the context is valid, `length` is that of the value.
            unsafe {
                if !redirect::write_macs(frame, flow) || bpf_clone_redirect(frame.0, flow.route.ifindex, 0) != 0 {
                    return 0;
                }
                let length = opaque(length);
                if length == 0 || length > HELD_BYTES as u64 || bpf_skb_change_tail(frame.0, length as u32, 0) != 0 {
                    return 0;
                }
                let length = opaque(length);
                if length == 0 || length > HELD_BYTES as u64 {
                    return 0;
                }
                if bpf_skb_store_bytes(frame.0.cast(), 0, (*waiting).frame.as_ptr().cast(), length as u32, 0) != 0 {
                    return 0;
                }
            }
            count::passed(flow, 1, length - crate::frame::ETHERNET as u64);
            flow.last_seen = now;
            if rewrite::network(frame, packet.v6, &flow.source, &flow.destination, 1).is_none() {
                return 0;
            }
            let _ = HELD.remove(&key);
        }
    }
    redirect::write_macs(frame, flow) as u32
}
