//! Fragments. Only the first one of a datagram has ports: it finds or opens the flow and leaves a note of it, which the
//! later ones follow. Later ones that come before it wait in HELD.

use aya_ebpf::bindings::{BPF_ANY, BPF_F_INGRESS};
use aya_ebpf::helpers::{bpf_clone_redirect, bpf_skb_change_tail, bpf_skb_load_bytes, bpf_skb_store_bytes};
use gateway_common::{
    Address, FRAGMENT_SECONDS, Flow, FlowKey, FragmentKey, FragmentTrack, HELD_BYTES, HELD_PER_DATAGRAM, HeldKey,
    Reason, fragment_protocol, route_kind,
};

use crate::count;
use crate::flow;
use crate::frame::{ETHERNET, Frame, Tc, opaque};
use crate::listener;
use crate::maps::{FRAGMENTS, HELD, scratch};
use crate::parse::Packet;
use crate::redirect;
use crate::refuse::broken;
use crate::rewrite;

/// A fragment that is not the first.
#[inline(never)]
pub fn later(frame: Tc, packet: &Packet, now: u64) -> i32 {
    let datagram = packet.datagram();
    if let Some(track) = track(&datagram, now) {
        return match track.flow.protocol {
            fragment_protocol::FOREIGN => Tc::PASS,
            0 => hold(frame, packet, track),
            _ => match flow::established(&track.flow).or_else(|| flow::embryonic(&track.flow)) {
                Some(flow) => follow(frame, packet, flow, now),
                None => unmatched(packet),
            },
        };
    }
    // Elsewhere it is the node's own, or somebody's that the node forwards.
    if !listener::is_gateway(&packet.key.destination) && !is_expected(&packet.key) {
        return Tc::PASS;
    }
    if note(&datagram, 0, now).is_err() {
        return unmatched(packet);
    }
    match track(&datagram, now) {
        Some(track) => hold(frame, packet, track),
        None => unmatched(packet),
    }
}

/// The note of a datagram, if it is not that of an older one with the same id.
#[inline(always)]
fn track(datagram: &FragmentKey, now: u64) -> Option<&'static mut FragmentTrack> {
    // SAFETY: entries of one datagram are written by the CPU that its packets come to.
    let track = FRAGMENTS.get_ptr_mut(datagram).map(|track| unsafe { &mut *track })?;
    if seconds(now).wrapping_sub(track.since) <= FRAGMENT_SECONDS { Some(track) } else { None }
}

/// Leaves a note without a flow.
#[inline(always)]
fn note(datagram: &FragmentKey, protocol: u8, now: u64) -> Result<(), i32> {
    let flow = FlowKey { protocol, ..FlowKey::default() };
    FRAGMENTS.insert(datagram, &FragmentTrack { flow, held: 0, since: seconds(now) }, BPF_ANY as u64)
}

#[inline(always)]
fn seconds(now: u64) -> u32 {
    (now / 1_000_000_000) as u32
}

#[inline(always)]
fn answers(source: &Address, destination: &Address) -> FragmentKey {
    FragmentKey {
        source: *source,
        destination: *destination,
        id: 0,
        protocol: fragment_protocol::ANSWERS,
        _pad: [0; 3],
    }
}

/// From now on fragments from `source` to `destination` may be answers to a flow of ours.
#[inline(never)]
pub fn expect(source: &Address, destination: &Address) -> i32 {
    match FRAGMENTS.insert(&answers(source, destination), &FragmentTrack::default(), BPF_ANY as u64) {
        Ok(()) => 0,
        Err(error) => error,
    }
}

#[inline(never)]
fn is_expected(key: &FlowKey) -> bool {
    FRAGMENTS.get_ptr(&answers(&key.source, &key.destination)).is_some()
}

/// A fragment that cannot be held: the kernel may know more of it, unless the address is ours alone.
#[inline(never)]
fn unmatched(packet: &Packet) -> i32 {
    if !listener::is_exclusive(&packet.key.destination) {
        return Tc::PASS;
    }
    count::dropped(Reason::FragmentUnmatched);
    Tc::DROP
}

/// Sends a later fragment the way of its datagram.
#[inline(never)]
fn follow(frame: Tc, packet: &Packet, flow: &mut Flow, now: u64) -> i32 {
    let way = redirect::resolve_silently(frame, packet, flow, now);
    if way == 0 {
        return Tc::DROP;
    }
    if packet.total > flow.route.mtu as u32 {
        count::dropped(Reason::PacketTooBig);
        return Tc::DROP;
    }
    flow.last_seen = now;
    count::passed(flow, 1, packet.total as u64);
    if !rewrite::rewrite(frame, packet, flow) || !redirect::address(frame, flow, way) {
        return broken(frame);
    }
    redirect::send(flow, way)
}

/// Keeps a fragment until the first one of its datagram comes.
#[inline(never)]
fn hold(frame: Tc, packet: &Packet, track: &mut FragmentTrack) -> i32 {
    let length = opaque(frame.length() as u64);
    let Some(scratch) = scratch() else { return unmatched(packet) };
    if track.held >= HELD_PER_DATAGRAM || length == 0 || length > HELD_BYTES as u64 {
        return unmatched(packet);
    }
    let held = &mut scratch.held;
    held.length = length as u32;
    let length = opaque(length);
    if length == 0 || length > HELD_BYTES as u64 {
        return unmatched(packet);
    }
    // SAFETY: `length` fits the buffer.
    if unsafe { bpf_skb_load_bytes(frame.0.cast(), 0, held.frame.as_mut_ptr().cast(), length as u32) } != 0 {
        return unmatched(packet);
    }
    let key = HeldKey { datagram: packet.datagram(), index: track.held, _pad: 0 };
    if HELD.insert(&key, &*held, BPF_ANY as u64).is_err() {
        return unmatched(packet);
    }
    track.held += 1;
    Tc::DROP
}

/// After the first fragment was rewritten: leaves the note, and sends what was held. The frame becomes the last of these.
/// Answers whether the frame is still to be sent.
#[inline(never)]
pub fn first(frame: Tc, packet: &Packet, now: u64) -> u32 {
    let mut key = HeldKey { datagram: packet.datagram(), index: 0, _pad: 0 };
    let held = track(&key.datagram, now).map_or(0, |track| track.held);
    let note = FragmentTrack { flow: packet.key, held: 0, since: seconds(now) };
    let _ = FRAGMENTS.insert(&key.datagram, &note, BPF_ANY as u64);
    let Some(flow) = flow::established(&packet.key).or_else(|| flow::embryonic(&packet.key)) else { return 1 };
    for index in 0..HELD_PER_DATAGRAM {
        if index >= held {
            break;
        }
        key.index = index;
        // Without the neighbour's address there is no sending a copy.
        if flow.route.kind == route_kind::NEIGHBOUR || !redirect::write_macs(frame, flow) {
            count::dropped(Reason::FragmentUnmatched);
            continue;
        }
        // SAFETY: a map value.
        let length = HELD.get_ptr(&key).map_or(0, |waiting| unsafe { (*waiting).length });
        if length > flow.route.mtu as u32 + ETHERNET {
            count::dropped(Reason::PacketTooBig);
            continue;
        }
        // SAFETY: the context is valid.
        if unsafe { bpf_clone_redirect(frame.0, flow.route.ifindex, 0) } != 0 {
            return 0;
        }
        let length = take(frame, &key);
        if length == 0 || rewrite::network(frame, packet.v6, &flow.source, &flow.destination, 1).is_none() {
            return 0;
        }
        count::passed(flow, 1, length as u64 - ETHERNET as u64);
        let _ = redirect::write_macs(frame, flow);
    }
    1
}

/// A first fragment that is not for Sluice gets its later ones back: all of them come in again, and are passed.
#[inline(never)]
pub fn foreign(frame: Tc, packet: &Packet, now: u64) -> i32 {
    let mut key = HeldKey { datagram: packet.datagram(), index: 0, _pad: 0 };
    let held = track(&key.datagram, now).map_or(0, |track| track.held);
    // The later ones would be held wherever an answer or a client's datagram is possible.
    if held == 0 && !listener::is_gateway(&packet.key.destination) && !is_expected(&packet.key) {
        return Tc::PASS;
    }
    if note(&key.datagram, fragment_protocol::FOREIGN, now).is_err() || held == 0 {
        return Tc::PASS;
    }
    let interface = frame.interface();
    for index in 0..=HELD_PER_DATAGRAM {
        // SAFETY: the context is valid.
        if unsafe { bpf_clone_redirect(frame.0, interface, BPF_F_INGRESS as u64) } != 0 || index >= held {
            break;
        }
        key.index = index;
        if take(frame, &key) == 0 {
            break;
        }
    }
    Tc::DROP
}

/// The frame becomes a held one, which is held no longer. Answers its length, 0 if it is not there.
#[inline(never)]
fn take(frame: Tc, key: &HeldKey) -> u32 {
    let Some(waiting) = HELD.get_ptr(key) else { return 0 };
    // SAFETY: a map value.
    let length = opaque(unsafe { (*waiting).length } as u64);
    if length == 0 || length > HELD_BYTES as u64 {
        return 0;
    }
    // SAFETY: the context is valid.
    if unsafe { bpf_skb_change_tail(frame.0, length as u32, 0) } != 0 {
        return 0;
    }
    let length = opaque(length);
    if length == 0 || length > HELD_BYTES as u64 {
        return 0;
    }
    // SAFETY: `length` is that of the value.
    if unsafe { bpf_skb_store_bytes(frame.0.cast(), 0, (*waiting).frame.as_ptr().cast(), length as u32, 0) } != 0 {
        return 0;
    }
    let _ = HELD.remove(key);
    length as u32
}
