//! Stage: the life of a flow. Established ones are in FLOWS; those that are not confirmed yet, or have ended, are in
//! EMBRYONIC, where new ones push them out.

use aya_ebpf::bindings::{BPF_ANY, BPF_NOEXIST};
use gateway_common::{
    Address, Flow, FlowKey, Listener, Reason, Route, backend_flags, flow_flags, flow_state, hash, listener_kind,
};

use crate::count;
use crate::frame::{Frame, Tc};
use crate::headers::{ACK, FIN, RST, SYN};
use crate::listener;
use crate::maps::{BACKENDS, EMBRYONIC, FLOWS, scratch};
use crate::parse::Packet;
use crate::pick::pick;
use crate::redirect;
use crate::refuse::refuse;

/// Source ports towards backends: what the node's own ephemeral range (32768-60999) leaves.
const LOW_PORTS: u32 = 32_768 - 1_024;
const PORTS: u32 = LOW_PORTS + (65_536 - 61_000);
/// Ports tried for a new flow.
const TRIES: u32 = 16;

/// What is to be done with a packet.
pub enum Step {
    /// Rewrite it by this flow and send it on.
    Forward(*mut Flow),
    /// It has been dealt with.
    Verdict(i32),
}

#[inline(always)]
pub fn established(key: &FlowKey) -> Option<&'static mut Flow> {
    // SAFETY: halves are written without a lock: counters and times of one half may lose a race, nothing else depends on them.
    FLOWS.get_ptr_mut(key).map(|flow| unsafe { &mut *flow })
}

#[inline(always)]
pub fn embryonic(key: &FlowKey) -> Option<&'static mut Flow> {
    // SAFETY: as above.
    EMBRYONIC.get_ptr_mut(key).map(|flow| unsafe { &mut *flow })
}

/// The key of the other half: what an answer to the rewritten packet looks like.
#[inline(always)]
pub fn other_half(flow: &Flow, protocol: u8) -> FlowKey {
    FlowKey {
        source: flow.destination,
        destination: flow.source,
        source_port: flow.destination_port,
        destination_port: flow.source_port,
        protocol,
        _pad: [0; 3],
    }
}

/// The half that belongs to `flow`, which is found under `key`.
#[inline(always)]
fn reply_half(key: &FlowKey, flow: &Flow, reply: &mut Flow) {
    *reply = *flow;
    reply.source = key.destination;
    reply.destination = key.source;
    reply.source_port = key.destination_port;
    reply.destination_port = key.source_port;
    reply.flags = (flow.flags & flow_flags::LOCAL) | flow_flags::REPLY;
    reply.handshake_ack = 0;
    reply.packets = 0;
    reply.bytes = 0;
    reply.route = Route::default();
}

/// A packet that is in no established flow.
#[inline(never)]
pub fn miss(frame: Tc, packet: &mut Packet, now: u64, found: &mut *mut Flow) -> i32 {
    if let Some(flow) = embryonic(&packet.key) {
        let step = if packet.is_tcp() { tcp(frame, packet, flow) } else { udp(frame, packet, flow) };
        match step {
            Some(Step::Forward(flow)) => {
                *found = flow;
                return 0;
            }
            Some(Step::Verdict(verdict)) => return verdict,
            None => forget(&packet.key),
        }
    }
    match open(frame, packet, now) {
        Step::Forward(flow) => {
            *found = flow;
            0
        }
        Step::Verdict(verdict) => verdict,
    }
}

/// TCP in EMBRYONIC. `None`: the packet opens a new connection in place of this flow.
#[inline(always)]
fn tcp(frame: Tc, packet: &Packet, flow: &mut Flow) -> Option<Step> {
    let reply = flow.flags & flow_flags::REPLY != 0;
    let syn = packet.flags & (SYN | ACK) == SYN;
    if flow.state != flow_state::NEW {
        if syn && !reply {
            return None;
        }
        // Its sender goes on after a RST that was not his.
        if flow.state == flow_state::RESET && flow.flags & flow_flags::RST != 0 && packet.flags & (RST | SYN) == 0 {
            return Some(promote(frame, packet, flow, flow_state::HALF_CLOSED));
        }
        return Some(Step::Forward(flow));
    }
    if packet.flags & RST != 0 {
        flow.state = flow_state::RESET;
        flow.flags |= flow_flags::RST;
        if let Some(other) = embryonic(&other_half(flow, packet.key.protocol)) {
            other.state = flow_state::RESET;
        }
    } else if reply {
        if packet.flags & (SYN | ACK) == SYN | ACK
            && let Some(forward) = embryonic(&other_half(flow, packet.key.protocol))
        {
            forward.handshake_ack = packet.sequence.wrapping_add(1);
            forward.flags |= flow_flags::REPLIED;
        }
    } else if packet.flags & (SYN | ACK) == ACK
        && flow.flags & flow_flags::REPLIED != 0
        && packet.acknowledgement == flow.handshake_ack
    {
        return Some(promote(frame, packet, flow, flow_state::ESTABLISHED));
    }
    Some(Step::Forward(flow))
}

/// UDP in EMBRYONIC.
#[inline(always)]
fn udp(frame: Tc, packet: &Packet, flow: &mut Flow) -> Option<Step> {
    if flow.flags & flow_flags::REPLY == 0 {
        if flow.flags & flow_flags::REPLIED != 0 {
            return Some(promote(frame, packet, flow, flow_state::ESTABLISHED));
        }
    } else if flow.flags & flow_flags::REPLIED == 0 {
        flow.flags |= flow_flags::REPLIED;
        if let Some(forward) = embryonic(&other_half(flow, packet.key.protocol)) {
            forward.flags |= flow_flags::REPLIED;
        }
    }
    Some(Step::Forward(flow))
}

/// Moves both halves from EMBRYONIC to FLOWS, or neither. `flow` is either half.
#[inline(always)]
fn promote(frame: Tc, packet: &Packet, flow: &mut Flow, state: u8) -> Step {
    let other = other_half(flow, packet.key.protocol);
    let Some(scratch) = scratch() else { return Step::Verdict(Tc::DROP) };
    match embryonic(&other) {
        Some(half) => scratch.reply = *half,
        // Pushed out: it follows from this one.
        None => {
            reply_half(&packet.key, flow, &mut scratch.reply);
            if flow.flags & flow_flags::REPLY != 0 {
                scratch.reply.flags &= !flow_flags::REPLY;
            }
        }
    }
    scratch.forward = *flow;
    scratch.forward.state = state;
    scratch.reply.state = state;
    scratch.forward.flags &= !flow_flags::RST;
    scratch.reply.flags &= !flow_flags::RST;
    let listener = flow.listener;
    if FLOWS.insert(&packet.key, &scratch.forward, BPF_NOEXIST as u64).is_err() {
        return Step::Verdict(refuse(frame, packet, listener, Reason::FlowTableFull, 0));
    }
    if FLOWS.insert(&other, &scratch.reply, BPF_NOEXIST as u64).is_err() {
        let _ = FLOWS.remove(&packet.key);
        return Step::Verdict(refuse(frame, packet, listener, Reason::FlowTableFull, 0));
    }
    let _ = EMBRYONIC.remove(&packet.key);
    let _ = EMBRYONIC.remove(&other);
    match established(&packet.key) {
        Some(flow) => {
            count::established(flow);
            Step::Forward(flow)
        }
        None => Step::Verdict(Tc::DROP),
    }
}

/// Drops an embryonic flow that a new connection takes the place of.
#[inline(always)]
fn forget(key: &FlowKey) {
    if let Some(flow) = embryonic(key) {
        let other = other_half(flow, key.protocol);
        let _ = EMBRYONIC.remove(&other);
        let _ = EMBRYONIC.remove(key);
    }
}

/// A packet that belongs to no flow: opens one if a listener says so.
#[inline(always)]
fn open(frame: Tc, packet: &mut Packet, now: u64) -> Step {
    let Some(found) = listener::find(packet) else {
        if !listener::is_exclusive(&packet.key.destination) {
            return Step::Verdict(Tc::PASS);
        }
        let reset = packet.is_tcp() && packet.flags & RST != 0;
        let reason = if reset { Reason::StrayReset } else { Reason::NoListener };
        return Step::Verdict(refuse(frame, packet, 0, reason, 0));
    };
    if found.kind != listener_kind::L4 {
        return Step::Verdict(Tc::PASS);
    }
    let opened = if packet.is_tcp() && packet.flags & (SYN | ACK | RST | FIN) != SYN {
        Err(if packet.flags & RST != 0 { Reason::StrayReset } else { Reason::UnknownConnection })
    } else {
        create(frame, packet, found, now)
    };
    match opened {
        Ok(flow) => Step::Forward(flow),
        Err(reason) => Step::Verdict(refuse(frame, packet, found.id, reason, 0)),
    }
}

/// Picks a backend and puts both halves into EMBRYONIC, or neither.
#[inline(always)]
fn create(frame: Tc, packet: &Packet, listener: &Listener, now: u64) -> Result<*mut Flow, Reason> {
    let key = &packet.key;
    let hash = hash::flow(key);
    let id = pick(listener.backend_set, hash)?;
    // SAFETY: read-only here; the agent never changes the address of an id.
    let backend = unsafe { BACKENDS.get(id) }.ok_or(Reason::NoBackend)?;
    let Some(scratch) = scratch() else { return Err(Reason::FlowTableFull) };
    let flow = &mut scratch.forward;
    let local = backend.flags & backend_flags::LOCAL != 0;
    let keep_source = local && backend.address != key.source;
    *flow = Flow::default();
    flow.destination = backend.address;
    flow.destination_port = backend.port;
    flow.source = if keep_source { key.source } else { backend.source };
    flow.source_port = key.source_port;
    flow.backend = id;
    flow.listener = listener.id;
    flow.state = flow_state::NEW;
    flow.flags = if local { flow_flags::LOCAL } else { 0 };
    flow.last_seen = now;
    if flow.source == Address::UNSET || redirect::refresh(frame, flow, packet.v6, now) == 0 {
        return Err(Reason::NoRoute);
    }
    reply_half(key, flow, &mut scratch.reply);
    let mut port = hash::reduce((hash >> 20) as u32, PORTS);
    for attempt in 0..=TRIES {
        // The client's own address and port first; another Gateway address may have led the same client there already.
        if attempt > 0 || !keep_source {
            flow.source = backend.source;
            flow.source_port = nat_port(port);
            port = if port + 1 == PORTS { 0 } else { port + 1 };
        }
        let other = other_half(flow, key.protocol);
        if established(&other).is_none() && EMBRYONIC.insert(&other, &scratch.reply, BPF_NOEXIST as u64).is_ok() {
            if EMBRYONIC.insert(key, &*flow, BPF_ANY as u64).is_err() {
                let _ = EMBRYONIC.remove(&other);
                return Err(Reason::FlowTableFull);
            }
            count::picked(key, flow);
            return EMBRYONIC.get_ptr_mut(key).ok_or(Reason::FlowTableFull);
        }
    }
    Err(Reason::PortsExhausted)
}

#[inline(always)]
fn nat_port(n: u32) -> u16 {
    (if n < LOW_PORTS { 1_024 + n } else { 61_000 + n - LOW_PORTS }) as u16
}

/// What FIN and RST do to an established flow, after the packet was rewritten.
#[inline(never)]
pub fn control(packet: &Packet, now: u64) -> u32 {
    let Some(flow) = established(&packet.key) else { return 0 };
    let other = other_half(flow, packet.key.protocol);
    if packet.flags & RST != 0 {
        flow.flags |= flow_flags::RST;
        retire(&packet.key, &other, flow_state::RESET, now);
        return 1;
    }
    flow.flags |= flow_flags::FIN;
    let half = established(&other);
    if half.as_ref().is_some_and(|half| half.flags & flow_flags::FIN == 0) {
        flow.state = flow_state::HALF_CLOSED;
        if let Some(half) = half {
            half.state = flow_state::HALF_CLOSED;
        }
        return 2;
    }
    retire(&packet.key, &other, flow_state::CLOSED, now);
    3
}

/// Moves both halves back to EMBRYONIC: what still comes is translated, and a new connection may push them out.
#[inline(always)]
fn retire(key: &FlowKey, other: &FlowKey, state: u8, now: u64) {
    let Some(scratch) = scratch() else { return };
    let Some(flow) = established(key) else { return };
    scratch.forward = *flow;
    let mut both = false;
    if let Some(half) = established(other) {
        scratch.reply = *half;
        both = true;
    }
    scratch.forward.state = state;
    scratch.forward.last_seen = now;
    let _ = EMBRYONIC.insert(key, &scratch.forward, BPF_ANY as u64);
    if both {
        scratch.reply.state = state;
        scratch.reply.last_seen = now;
        let _ = EMBRYONIC.insert(other, &scratch.reply, BPF_ANY as u64);
    }
    // Both ends may close at once on two CPUs: whoever removes the half counts.
    let removed = FLOWS.remove(key).is_ok();
    let _ = FLOWS.remove(other);
    if removed {
        count::closed(&scratch.forward);
        let reply = scratch.forward.flags & flow_flags::REPLY != 0;
        if reply {
            count::ended(other, state, &scratch.reply, Some(&scratch.forward));
        } else {
            count::ended(key, state, &scratch.forward, Some(&scratch.reply));
        }
    }
}

/// The endpoint of this flow has gone: forgets it.
#[inline(always)]
pub fn abandon(key: &FlowKey, flow: &Flow) {
    let other = other_half(flow, key.protocol);
    count::closed(flow);
    let _ = FLOWS.remove(&other);
    let _ = FLOWS.remove(key);
}
