//! Counters and events.

use aya_ebpf::helpers::bpf_ktime_get_ns;
use gateway_common::{Counter, EVENT_NAME, Event, Flow, FlowKey, Reason, event_kind, flow_flags};

use crate::maps::{BACKEND_COUNTERS, CONFIG, DROPS, EVENTS, EVENTS_LOST, LISTENER_COUNTERS, scratch};

/// The ring buffer's reader polls: a wake-up costs more than the record.
const NO_WAKEUP: u64 = 1;

#[inline(always)]
pub fn dropped(reason: Reason) {
    if let Some(count) = DROPS.get_ptr_mut(reason as u32) {
        // SAFETY: per CPU.
        unsafe { *count += 1 };
    }
}

#[inline(always)]
fn each(listener: u32, backend: u32, change: impl Fn(&mut Counter)) {
    if let Some(counter) = LISTENER_COUNTERS.get_ptr_mut(listener) {
        // SAFETY: per CPU.
        change(unsafe { &mut *counter });
    }
    if let Some(counter) = BACKEND_COUNTERS.get_ptr_mut(backend) {
        // SAFETY: per CPU.
        change(unsafe { &mut *counter });
    }
}

/// A frame of so many packets with so many bytes (of IP packets) went through.
#[inline(always)]
pub fn passed(flow: &mut Flow, packets: u64, bytes: u64) {
    flow.packets += packets;
    flow.bytes += bytes;
    if flow.flags & flow_flags::REPLY == 0 {
        each(flow.listener, flow.backend, |counter| {
            counter.packets_in += packets;
            counter.bytes_in += bytes;
        });
    } else {
        each(flow.listener, flow.backend, |counter| {
            counter.packets_out += packets;
            counter.bytes_out += bytes;
        });
    }
}

#[inline(always)]
pub fn picked(client: &FlowKey, flow: &Flow) {
    each(flow.listener, flow.backend, |counter| counter.picked += 1);
    event(what(event_kind::OPENED, 0), client, ids(flow.listener, flow.backend), None, None);
}

#[inline(always)]
pub fn established(flow: &Flow) {
    each(flow.listener, flow.backend, |counter| counter.established += 1);
}

/// A flow left FLOWS.
#[inline(always)]
pub fn closed(flow: &Flow) {
    each(flow.listener, flow.backend, |counter| counter.closed += 1);
}

/// The backend of a spliced flow has the whole ClientHello.
#[inline(always)]
pub fn delivered(client: &FlowKey, forward: &Flow) {
    established(forward);
    event(what(event_kind::DELIVERED, 0), client, ids(forward.listener, forward.backend), None, None);
}

/// A spliced flow goes to another backend, if there is one.
#[inline(always)]
pub fn retried(client: &FlowKey, forward: &Flow) {
    event(what(event_kind::RETRIED, 0), client, ids(forward.listener, forward.backend), None, None);
}

/// A new flow was refused on a listener.
#[inline(always)]
pub fn refused(reason: Reason, client: &FlowKey, listener: u32) {
    if listener != 0
        && let Some(counter) = LISTENER_COUNTERS.get_ptr_mut(listener)
    {
        // SAFETY: per CPU.
        unsafe { (*counter).refused += 1 };
    }
    event(what(event_kind::REFUSED, reason as u32), client, ids(listener, 0), None, None);
}

/// A flow has ended; `reply` if that half is still known.
#[inline(always)]
pub fn ended(client: &FlowKey, state: u8, forward: &Flow, reply: Option<&Flow>) {
    let what = what(event_kind::CLOSED, state as u32);
    event(what, client, ids(forward.listener, forward.backend), Some(forward), reply);
}

// A function of eBPF has five arguments at the most.
#[inline(always)]
fn what(kind: u8, detail: u32) -> u64 {
    (kind as u64) << 32 | detail as u64
}

#[inline(always)]
fn ids(listener: u32, backend: u32) -> u64 {
    (listener as u64) << 32 | backend as u64
}

#[inline(never)]
fn event(what: u64, client: &FlowKey, ids: u64, forward: Option<&Flow>, reply: Option<&Flow>) -> u32 {
    if CONFIG.get(0).is_none_or(|config| config.events == 0) {
        return 0;
    }
    let Some(mut entry) = EVENTS.reserve(0) else {
        if let Some(lost) = EVENTS_LOST.get_ptr_mut(0) {
            // SAFETY: per CPU.
            unsafe { *lost += 1 };
        }
        return 0;
    };
    // SAFETY: the record is ours until it is submitted; every field is written.
    let record: &mut Event = unsafe { &mut *entry.as_mut_ptr() };
    // SAFETY: no arguments.
    record.time = unsafe { bpf_ktime_get_ns() };
    record.client = *client;
    record.listener = (ids >> 32) as u32;
    record.backend = ids as u32;
    record.kind = (what >> 32) as u8;
    record._pad = [0; 3];
    record.detail = what as u32;
    record.bytes_in = 0;
    record.bytes_out = 0;
    record.packets = 0;
    record._pad2 = 0;
    named(record, (what >> 32) as u8);
    if let Some(forward) = forward {
        record.bytes_in = forward.bytes;
        record.packets = forward.packets;
    }
    if let Some(reply) = reply {
        record.bytes_out = reply.bytes;
        record.packets += reply.packets;
    }
    entry.submit(NO_WAKEUP);
    1
}

/// The server name that was asked for in this run of the program, if any was.
#[inline(always)]
fn named(record: &mut Event, kind: u8) {
    let to = record.name.as_mut_ptr().cast::<u64>();
    let wanted = kind == event_kind::OPENED || kind == event_kind::REFUSED;
    let Some(scratch) = scratch() else { return };
    let from = scratch.name.as_ptr().cast::<u64>();
    for i in 0..EVENT_NAME / 8 {
        // SAFETY: both have so many bytes, at multiples of 8. The last byte stays 0: a name of 64 bytes and more is cut.
        unsafe {
            let word = if wanted && scratch.named { *from.add(i) } else { 0 };
            *to.add(i) = if i == EVENT_NAME / 8 - 1 { word & (u64::MAX >> 8) } else { word };
        }
    }
}
