//! Counters and events.

use aya_ebpf::helpers::bpf_ktime_get_ns;
use gateway_common::{Counter, Event, Flow, FlowKey, Reason, event_kind, flow_flags};

use crate::maps::{BACKEND_COUNTERS, CONFIG, DROPS, EVENTS, EVENTS_LOST, LISTENER_COUNTERS};

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
    event(event_kind::OPENED, 0, client, flow.listener, flow.backend, None);
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

/// A new flow was refused on a listener.
#[inline(always)]
pub fn refused(reason: Reason, client: &FlowKey, listener: u32) {
    if listener != 0
        && let Some(counter) = LISTENER_COUNTERS.get_ptr_mut(listener)
    {
        // SAFETY: per CPU.
        unsafe { (*counter).refused += 1 };
    }
    event(event_kind::REFUSED, reason as u32, client, listener, 0, None);
}

/// A flow has ended. `halves`: forward, then reply if it is still known.
#[inline(always)]
pub fn ended(client: &FlowKey, state: u8, forward: &Flow, reply: Option<&Flow>) {
    event(event_kind::CLOSED, state as u32, client, forward.listener, forward.backend, Some((forward, reply)));
}

#[inline(always)]
fn event(
    kind: u8,
    detail: u32,
    client: &FlowKey,
    listener: u32,
    backend: u32,
    halves: Option<(&Flow, Option<&Flow>)>,
) {
    if CONFIG.get(0).is_none_or(|config| config.events == 0) {
        return;
    }
    let Some(mut entry) = EVENTS.reserve(0) else {
        if let Some(lost) = EVENTS_LOST.get_ptr_mut(0) {
            // SAFETY: per CPU.
            unsafe { *lost += 1 };
        }
        return;
    };
    let (mut bytes_in, mut bytes_out, mut packets) = (0, 0, 0);
    if let Some((forward, reply)) = halves {
        bytes_in = forward.bytes;
        packets = forward.packets;
        if let Some(reply) = reply {
            bytes_out = reply.bytes;
            packets += reply.packets;
        }
    }
    entry.write(Event {
        // SAFETY: no arguments.
        time: unsafe { bpf_ktime_get_ns() },
        client: *client,
        listener,
        backend,
        kind,
        _pad: [0; 3],
        detail,
        bytes_in,
        bytes_out,
        packets,
        _pad2: 0,
    });
    entry.submit(NO_WAKEUP);
}
