//! Stage: the life of a flow. Established ones are in FLOWS; those that are not confirmed yet, or have ended, are in
//! EMBRYONIC, where new ones push them out.

use aya_ebpf::bindings::{BPF_ANY, BPF_NOEXIST};
use aya_ebpf::helpers::bpf_ktime_get_coarse_ns;
use gateway_common::{
    Address, Backend, Flow, FlowKey, Listener, Reason, Route, agent_backend, backend_flags, flow_flags, flow_state,
    hash, listener_kind,
};

use crate::count;
use crate::fragment;
use crate::frame::{Frame, Tc};
use crate::headers::{ACK, FIN, RST, SYN};
use crate::listener;
use crate::maps::{BACKENDS, EMBRYONIC, FLOWS, scratch};
use crate::parse::{Packet, fragment as fragment_part};
use crate::pick::{pick, refusal};
use crate::redirect;
use crate::refuse::{broken, refuse};
use crate::splice;
use crate::steer;

/// Source ports towards backends: what the node's own ephemeral range (32768-60999) leaves.
const LOW_PORTS: u32 = 32_768 - 1_024;
/// A prime, so that any stride reaches all of them; 3 of the upper range are left over.
const PORTS: u32 = LOW_PORTS + (65_536 - 61_000) - 3;
/// Ports tried for a new flow.
const TRIES: u32 = 16;

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

/// Whether this is what a backend on this node answers.
#[inline(never)]
pub fn is_local_reply(packet: &Packet) -> bool {
    const LOCAL_REPLY: u8 = flow_flags::LOCAL | flow_flags::REPLY;
    established(&packet.key)
        .or_else(|| embryonic(&packet.key))
        .is_some_and(|flow| flow.flags & LOCAL_REPLY == LOCAL_REPLY)
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

/// The other half in FLOWS. Functions of their own have their keys on stacks of their own: there are 512 bytes in all.
#[inline(never)]
pub fn established_other(flow: &Flow, protocol: u8) -> *mut Flow {
    FLOWS.get_ptr_mut(&other_half(flow, protocol)).unwrap_or(core::ptr::null_mut())
}

/// The other half in EMBRYONIC.
#[inline(never)]
fn embryonic_other(flow: &Flow, protocol: u8) -> *mut Flow {
    EMBRYONIC.get_ptr_mut(&other_half(flow, protocol)).unwrap_or(core::ptr::null_mut())
}

/// `*to = *from` in pairs of load and store: an assignment may go through the stack.
#[inline(always)]
fn copy(from: &Flow, to: &mut Flow) {
    // SAFETY: two references never overlap when one is exclusive.
    unsafe { core::ptr::copy_nonoverlapping(from, to, 1) };
}

/// What both halves share.
const KIND: u8 = flow_flags::LOCAL | flow_flags::SPLICED | flow_flags::AGENT;

/// The half that belongs to `flow`, which is found under `key`. A splice's window shift is that of one direction: it must be
/// known otherwise.
#[inline(always)]
fn reply_half(key: &FlowKey, flow: &Flow, reply: &mut Flow) {
    copy(flow, reply);
    reply.source = key.destination;
    reply.destination = key.source;
    reply.source_port = key.destination_port;
    reply.destination_port = key.source_port;
    reply.flags = flow.flags & KIND | flow_flags::REPLY;
    if flow.flags & flow_flags::SPLICED == 0 {
        reply.handshake = 0;
    }
    reply.packets = 0;
    reply.bytes = 0;
    reply.route = Route::default();
}

/// A packet that is in no established flow: leaves its flow in `found`, or answers a verdict.
#[inline(never)]
pub fn miss(frame: Tc, packet: &mut Packet, now: u64, found: &mut *mut Flow) -> i32 {
    if let Some(flow) = embryonic(&packet.key) {
        let verdict = if packet.is_tcp() { tcp(frame, packet, flow, found) } else { udp(frame, packet, flow, found) };
        if let Some(verdict) = verdict {
            return verdict;
        }
        forget(&packet.key, flow);
    }
    open(frame, packet, now, found)
}

/// TCP in EMBRYONIC. `None`: the packet opens a new connection in place of this flow.
#[inline(always)]
fn tcp(frame: Tc, packet: &Packet, flow: &mut Flow, found: &mut *mut Flow) -> Option<i32> {
    let reply = flow.flags & flow_flags::REPLY != 0;
    let syn = packet.flags & (SYN | ACK) == SYN;
    if flow.state != flow_state::NEW {
        if syn && !reply {
            return None;
        }
        // Its sender goes on after a RST that was not his.
        if flow.state == flow_state::RESET && flow.flags & flow_flags::RST != 0 && packet.flags & (RST | SYN) == 0 {
            return Some(promote(frame, packet, flow, found));
        }
        *found = flow;
        return Some(0);
    }
    if reply {
        if packet.flags & (SYN | ACK) == SYN | ACK
            // SAFETY: a map value or null, as for all of these.
            && let Some(forward) = unsafe { embryonic_other(flow, packet.key.protocol).as_mut() }
        {
            forward.handshake = packet.sequence.wrapping_add(1);
            forward.flags |= flow_flags::REPLIED;
        }
    } else if packet.flags & (SYN | ACK) == ACK
        && flow.flags & flow_flags::REPLIED != 0
        && packet.acknowledgement == flow.handshake
    {
        return Some(promote(frame, packet, flow, found));
    } else if syn {
        mend(&packet.key, flow);
    }
    *found = flow;
    Some(0)
}

/// UDP in EMBRYONIC.
#[inline(always)]
fn udp(frame: Tc, packet: &Packet, flow: &mut Flow, found: &mut *mut Flow) -> Option<i32> {
    if flow.flags & flow_flags::REPLY == 0 {
        if flow.flags & flow_flags::REPLIED != 0 {
            return Some(promote(frame, packet, flow, found));
        }
        mend(&packet.key, flow);
    } else if flow.flags & flow_flags::REPLIED == 0 {
        flow.flags |= flow_flags::REPLIED;
        // SAFETY: as above.
        if let Some(forward) = unsafe { embryonic_other(flow, packet.key.protocol).as_mut() } {
            forward.flags |= flow_flags::REPLIED;
        }
    }
    *found = flow;
    Some(0)
}

/// Puts the reply half of a new flow back, if others have pushed it out.
#[inline(never)]
fn mend(key: &FlowKey, flow: &Flow) -> i32 {
    let other = other_half(flow, key.protocol);
    if embryonic(&other).is_some() {
        return 0;
    }
    let Some(scratch) = scratch() else { return 0 };
    reply_half(key, flow, &mut scratch.reply);
    match EMBRYONIC.insert(&other, &scratch.reply, BPF_NOEXIST as u64) {
        Ok(()) => 0,
        Err(error) => error,
    }
}

/// Moves both halves from EMBRYONIC to FLOWS, or neither. `flow` is either half.
#[inline(never)]
fn promote(frame: Tc, packet: &Packet, flow: &mut Flow, found: &mut *mut Flow) -> i32 {
    let other = other_half(flow, packet.key.protocol);
    let Some(scratch) = scratch() else { return broken(frame) };
    match embryonic(&other) {
        Some(half) => copy(half, &mut scratch.reply),
        // It knows how the windows of its direction are shifted, and nobody else does.
        None if flow.flags & flow_flags::SPLICED != 0 => {
            return refuse(frame, packet, flow.listener, Reason::UnknownConnection, 0);
        }
        // Pushed out: it follows from this one.
        None => {
            reply_half(&packet.key, flow, &mut scratch.reply);
            if flow.flags & flow_flags::REPLY != 0 {
                scratch.reply.flags &= !flow_flags::REPLY;
            }
        }
    }
    copy(flow, &mut scratch.forward);
    // A flow that comes back may have been half closed.
    let fin = (scratch.forward.flags | scratch.reply.flags) & flow_flags::FIN != 0;
    let state = if fin { flow_state::HALF_CLOSED } else { flow_state::ESTABLISHED };
    scratch.forward.state = state;
    scratch.reply.state = state;
    scratch.forward.flags &= !flow_flags::RST;
    scratch.reply.flags &= !flow_flags::RST;
    let listener = flow.listener;
    if FLOWS.insert(&packet.key, &scratch.forward, BPF_NOEXIST as u64).is_err() {
        return refuse(frame, packet, listener, Reason::FlowTableFull, 0);
    }
    if FLOWS.insert(&other, &scratch.reply, BPF_NOEXIST as u64).is_err() {
        let _ = FLOWS.remove(&packet.key);
        return refuse(frame, packet, listener, Reason::FlowTableFull, 0);
    }
    let _ = EMBRYONIC.remove(&packet.key);
    let _ = EMBRYONIC.remove(&other);
    if !packet.is_tcp() {
        // The note may have been pushed out since the flow was opened.
        fragment::expect(&scratch.forward.destination, &scratch.forward.source);
    }
    match established(&packet.key) {
        Some(flow) => {
            count::established(flow);
            *found = flow;
            0
        }
        None => broken(frame),
    }
}

/// Drops an embryonic flow that a new connection takes the place of. The port of the node towards a spliced one's backend rests:
/// the backend may remember it.
#[inline(never)]
fn forget(key: &FlowKey, flow: &Flow) -> i32 {
    if flow.flags & flow_flags::SPLICED == 0 || flow.source == key.source {
        let _ = EMBRYONIC.remove(&other_half(flow, key.protocol));
    }
    let _ = EMBRYONIC.remove(key);
    0
}

/// Why a packet that opens nothing is refused: a RST has a reason of its own, because it is never answered.
#[inline(always)]
pub fn unwanted(packet: &Packet, reason: Reason) -> Reason {
    if packet.is_tcp() && packet.flags & RST != 0 { Reason::StrayReset } else { reason }
}

/// A packet that belongs to no flow and opens none, if it belongs to no socket either.
#[inline(never)]
pub fn refuse_unknown(frame: Tc, packet: &Packet, listener: u32, reason: Reason) -> i32 {
    if steer::has_socket(frame, packet) {
        return Tc::PASS;
    }
    refuse(frame, packet, listener, unwanted(packet, reason), 0)
}

/// A packet that belongs to no flow: opens one if a listener says so.
#[inline(always)]
fn open(frame: Tc, packet: &mut Packet, now: u64, found: &mut *mut Flow) -> i32 {
    let Some(listener) = listener::find(packet) else {
        if !listener::is_exclusive(&packet.key.destination) {
            return Tc::PASS;
        }
        return refuse_unknown(frame, packet, 0, Reason::NoListener);
    };
    if listener.kind == listener_kind::TLS {
        return splice::client(frame, packet, listener, now);
    }
    if listener.kind != listener_kind::L4 {
        return Tc::PASS;
    }
    if packet.is_tcp() && packet.flags & (SYN | ACK | RST | FIN) != SYN {
        return refuse_unknown(frame, packet, listener.id, Reason::UnknownConnection);
    }
    if packet.ttl <= 1 {
        return refuse(frame, packet, listener.id, Reason::TtlExpired, 0);
    }
    let reason = create(frame, packet, listener, now, found);
    match Reason::from_index(reason) {
        None => 0,
        Some(reason) => refuse(frame, packet, listener.id, reason, 0),
    }
}

/// Picks a backend and puts both halves into EMBRYONIC, or neither. Answers the reason why not, 0 if it did.
#[inline(never)]
fn create(frame: Tc, packet: &Packet, listener: &Listener, now: u64, found: &mut *mut Flow) -> u32 {
    let hash = hash::flow(&packet.key);
    let id = pick(listener.backend_set, hash);
    if let Some(reason) = refusal(id) {
        return reason as u32;
    }
    // SAFETY: read-only here; the agent never changes the address of an id.
    let Some(backend) = (unsafe { BACKENDS.get(id) }) else { return Reason::NoBackend as u32 };
    let ids = (id as u64) << 32 | listener.id as u64;
    let reason = prepare(frame, &packet.key, backend, ids, packet.v6);
    if reason != 0 {
        return reason;
    }
    let Some(scratch) = scratch() else { return Reason::FlowTableFull as u32 };
    scratch.forward.state = flow_state::NEW;
    scratch.forward.last_seen = now;
    let reason = claim(&packet.key, backend, hash::mix(hash));
    if reason != 0 {
        return reason;
    }
    if !packet.is_tcp() {
        fragment::expect(&scratch.forward.destination, &scratch.forward.source);
    }
    let Some(flow) = EMBRYONIC.get_ptr_mut(&packet.key) else { return Reason::FlowTableFull as u32 };
    *found = flow;
    0
}

/// Fills in the forward half of a new flow in working memory, but for its state. `ids`: backend and listener. Answers the reason why it
/// cannot be, or 0.
#[inline(never)]
pub fn prepare(frame: Tc, client: &FlowKey, backend: &Backend, ids: u64, v6: bool) -> u32 {
    let Some(scratch) = scratch() else { return Reason::FlowTableFull as u32 };
    let flow = &mut scratch.forward;
    // SAFETY: plain data; zero means unset.
    unsafe { core::ptr::write_bytes(flow, 0, 1) };
    flow.destination = backend.address;
    flow.destination_port = backend.port;
    flow.source = if keeps_source(client, backend) { client.source } else { backend.source };
    flow.source_port = client.source_port;
    flow.backend = (ids >> 32) as u32;
    flow.listener = ids as u32;
    if backend.flags & backend_flags::AGENT != 0 {
        flow.flags = flow_flags::AGENT;
        return 0;
    }
    if backend.flags & backend_flags::LOCAL != 0 {
        flow.flags = flow_flags::LOCAL;
    }
    // SAFETY: no arguments.
    let now = unsafe { bpf_ktime_get_coarse_ns() };
    if flow.source == Address::UNSET || redirect::refresh(frame, flow, v6, now) == 0 {
        return Reason::NoRoute as u32;
    }
    0
}

/// Whether the backend sees the client's own address. A client that is its own backend would take it for a forgery.
#[inline(always)]
fn keeps_source(client: &FlowKey, backend: &Backend) -> bool {
    backend.flags & (backend_flags::LOCAL | backend_flags::AGENT) != 0 && backend.address != client.source
}

/// Finds a 5-tuple towards the backend that is nobody's yet, and takes it for the flow in working memory. A client that has
/// proved itself gets both halves into FLOWS, another one into EMBRYONIC.
#[inline(never)]
pub fn claim(key: &FlowKey, backend: &Backend, hash: u64) -> u32 {
    let Some(scratch) = scratch() else { return Reason::FlowTableFull as u32 };
    let flow = &mut scratch.forward;
    let spliced = flow.flags & flow_flags::SPLICED != 0;
    let agent = flow.flags & flow_flags::AGENT != 0;
    let keep_source = keeps_source(key, backend);
    reply_half(key, flow, &mut scratch.reply);
    let mut port = hash::reduce(hash as u32, PORTS);
    // A stride of its own: next to a taken port others are taken, too.
    let stride = 1 + hash::reduce((hash >> 32) as u32, PORTS - 1);
    for attempt in 0..=TRIES {
        if agent {
            // Its own address would not be taken from the network: another of the agent's ports makes the difference.
            if attempt == agent_backend::PORTS as u32 {
                break;
            }
            flow.destination_port = backend.port.wrapping_add(attempt as u16);
        } else if attempt > 0 || !keep_source {
            // The client's own address and port first; another Gateway address may have led the same client there already.
            flow.source = backend.source;
            flow.source_port = nat_port(port);
            port += stride;
            if port >= PORTS {
                port -= PORTS;
            }
        }
        let other = &mut scratch.other;
        *other = other_half(flow, key.protocol);
        let inserted = if spliced { insert_spliced(key, other) } else { insert_new(key, other) };
        match inserted {
            TAKEN => continue,
            INSERTED => {}
            OVERTAKEN => return LOST,
            _ => return Reason::FlowTableFull as u32,
        }
        count::picked(key, flow);
        return 0;
    }
    Reason::PortsExhausted as u32
}

const INSERTED: u32 = 0;
const TAKEN: u32 = 1;
const NO_ROOM: u32 = 2;
const OVERTAKEN: u32 = 3;
/// Instead of a reason: another CPU has bound the client already.
pub const LOST: u32 = u32::MAX;
/// uapi/asm-generic/errno-base.h
const EEXIST: i32 = -17;

/// Both halves in working memory into EMBRYONIC.
#[inline(never)]
fn insert_new(key: &FlowKey, other: &FlowKey) -> u32 {
    let Some(scratch) = scratch() else { return NO_ROOM };
    if established(other).is_some() {
        return TAKEN;
    }
    let how = if is_orphan(other) { BPF_ANY } else { BPF_NOEXIST };
    if EMBRYONIC.insert(other, &scratch.reply, how as u64).is_err() {
        return TAKEN;
    }
    if EMBRYONIC.insert(key, &scratch.forward, BPF_ANY as u64).is_err() {
        let _ = EMBRYONIC.remove(other);
        return NO_ROOM;
    }
    INSERTED
}

/// Both halves in working memory into FLOWS. What has ended towards the backend may still be remembered there: its port rests.
#[inline(never)]
fn insert_spliced(key: &FlowKey, other: &FlowKey) -> u32 {
    let Some(scratch) = scratch() else { return NO_ROOM };
    if embryonic(other).is_some() {
        return TAKEN;
    }
    match FLOWS.insert(other, &scratch.reply, BPF_NOEXIST as u64) {
        Ok(()) => {}
        Err(EEXIST) => return TAKEN,
        Err(_) => return NO_ROOM,
    }
    let how = if scratch.errand.replaces { BPF_ANY } else { BPF_NOEXIST };
    let Err(error) = FLOWS.insert(key, &scratch.forward, how as u64) else { return INSERTED };
    let _ = FLOWS.remove(other);
    if error == EEXIST { OVERTAKEN } else { NO_ROOM }
}

/// Takes one half out of FLOWS that belongs to no other.
#[inline(never)]
pub fn drop_half(key: &FlowKey) -> i32 {
    let _ = FLOWS.remove(key);
    0
}

/// Ends the flow of a client that no backend took. Answers the flags of its forward half.
#[inline(never)]
pub fn end_pending(client: &FlowKey) -> u8 {
    let Some(flow) = established(client) else { return 0 };
    let flags = flow.flags;
    end(client, flow, flow_state::RESET);
    flags
}

/// Whether this is a reply half that has lost its forward half to a flood: nobody uses it any more.
#[inline(never)]
fn is_orphan(reply: &FlowKey) -> bool {
    match embryonic(reply) {
        Some(half) => {
            embryonic_other(half, reply.protocol).is_null() && established_other(half, reply.protocol).is_null()
        }
        None => false,
    }
}

#[inline(always)]
fn nat_port(n: u32) -> u16 {
    (if n < LOW_PORTS { 1_024 + n } else { 61_000 + n - LOW_PORTS }) as u16
}

/// What FIN and RST do to an established flow, after the packet was rewritten.
#[inline(never)]
pub fn control(packet: &Packet, flow: &mut Flow, now: u64) -> u32 {
    // In EMBRYONIC, or gone.
    if !matches!(flow.state, flow_state::ESTABLISHED | flow_state::HALF_CLOSED | flow_state::REPLAYING) {
        return 0;
    }
    let other = other_half(flow, packet.key.protocol);
    let half = established(&other);
    if packet.flags & RST != 0 {
        flow.flags |= flow_flags::RST;
        retire(&packet.key, flow, &other, half, flow_state::RESET, now);
        return 1;
    }
    flow.flags |= flow_flags::FIN;
    // One that is still being replayed is half closed when its backend has the whole hello.
    if flow.state == flow_state::REPLAYING {
        return 2;
    }
    match half {
        Some(half) if half.flags & flow_flags::FIN == 0 => {
            flow.state = flow_state::HALF_CLOSED;
            half.state = flow_state::HALF_CLOSED;
            2
        }
        half => {
            retire(&packet.key, flow, &other, half, flow_state::CLOSED, now);
            3
        }
    }
}

/// Moves both halves back to EMBRYONIC: what still comes is translated, and a new connection may push them out.
#[inline(always)]
fn retire(key: &FlowKey, flow: &Flow, other: &FlowKey, half: Option<&mut Flow>, state: u8, now: u64) {
    let Some(scratch) = scratch() else { return };
    copy(flow, &mut scratch.forward);
    let was_established = is_established(flow);
    if !was_established {
        scratch.forward.handshake = 0;
    }
    let both = half.is_some();
    if let Some(half) = half {
        copy(half, &mut scratch.reply);
        if !was_established {
            scratch.reply.handshake = 0;
        }
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
        if was_established {
            count::closed(&scratch.forward);
        }
        tell(key, &scratch.forward, other, if both { Some(&scratch.reply) } else { None }, state);
    }
}

/// The event of a flow's end, under the client's 5-tuple; `half` is the other one of `flow`, if it is still known.
#[inline(always)]
pub fn tell(key: &FlowKey, flow: &Flow, other: &FlowKey, half: Option<&Flow>, state: u8) {
    if flow.flags & flow_flags::REPLY == 0 {
        count::ended(key, state, flow, half);
    } else if let Some(half) = half {
        count::ended(other, state, half, Some(flow));
    }
}

/// Whether this is the first packet of the backend after its endpoint has gone, and the client has not been told yet.
#[inline(never)]
pub fn client_is_to_be_told(packet: &Packet, flow: &Flow) -> bool {
    if flow.flags & flow_flags::REPLY == 0 || packet.flags & RST != 0 || packet.fragment != fragment_part::WHOLE {
        return false;
    }
    // SAFETY: a map value or null.
    let Some(client) = (unsafe { established_other(flow, packet.key.protocol).as_mut() }) else { return false };
    let told = client.flags & flow_flags::RST != 0;
    client.flags |= flow_flags::RST;
    !told
}

/// Whether it was counted as established: one that is spliced has to come so far.
#[inline(always)]
fn is_established(flow: &Flow) -> bool {
    flow.state != flow_state::CONNECTING && flow.state != flow_state::REPLAYING
}

/// Takes both halves out of FLOWS for good.
#[inline(never)]
pub fn end(key: &FlowKey, flow: &Flow, state: u8) -> i32 {
    let other = other_half(flow, key.protocol);
    let half = established(&other).map(|half| &*half);
    told(key, flow, &other, half, state);
    let _ = FLOWS.remove(&other);
    let _ = FLOWS.remove(key);
    0
}

/// One end of a flow whose endpoint has gone was told so. The other half stays until that end speaks up.
#[inline(never)]
pub fn end_half(key: &FlowKey, flow: &Flow) -> i32 {
    let other = other_half(flow, key.protocol);
    let half = established(&other).map(|half| &*half);
    told(key, flow, &other, half, flow_state::GONE);
    let _ = FLOWS.remove(key);
    0
}

/// Counts a flow that ends, once: of one that has gone the second half ends alone.
#[inline(always)]
fn told(key: &FlowKey, flow: &Flow, other: &FlowKey, half: Option<&Flow>, state: u8) {
    if half.is_none() && flow.state == flow_state::GONE {
        return;
    }
    if is_established(flow) {
        count::closed(flow);
    }
    tell(key, flow, other, half, state);
}
