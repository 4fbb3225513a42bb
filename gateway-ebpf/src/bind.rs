//! Stage: a client whose server name is known gets a backend: both halves of the flow, and the SYN.

use core::ffi::c_void;

use aya_ebpf::helpers::bpf_loop;
use gateway_common::cookie::Options;
use gateway_common::{
    Backend, Flow, Hello, PROXY_BYTES, Reason, agent_backend, backend_flags, flow_flags, flow_state, hash, protocol,
    splice,
};

use crate::count;
use crate::flow;
use crate::frame::{Frame, Tc, opaque};
use crate::headers::SYN;
use crate::maps::{BACKENDS, FLOWS, HELLOS, Scratch, scratch};
use crate::parse::{Packet, unmapped, words_v6};
use crate::pick::{pick, refusal};
use crate::redirect;
use crate::refuse::{broken, refuse};
use crate::segment;
use crate::splice::{deny, forget, leave, offer, owned, release};

/// Backends tried for a connection.
const ATTEMPTS: u8 = 3;
/// SYNs sent to one backend. The client's retransmissions make them.
pub const SYNS: u8 = 2;
const TO_AGENT: u64 = 1 << 32;

/// Where a connection goes: to a backend of this set.
#[inline(always)]
pub fn to_set(set: u32) -> u64 {
    set as u64
}

/// To the agent.
#[inline(always)]
pub fn to_agent(v6: bool) -> u64 {
    TO_AGENT | (if v6 { agent_backend::V6 } else { agent_backend::V4 }) as u64
}

/// What is to be done when the call stack, of which the kernel allows eight frames, is back at the entry point.
#[repr(C)]
pub struct Errand {
    to: u64,
    slot: u32,
    listener: u32,
    /// What [`dial`] tries.
    id: u32,
    reason: u32,
    other: bool,
    /// Whether the client has a half in FLOWS, towards the backend before.
    pub replaces: bool,
}

/// The verdict that asks for [`open`], and the one that asks for [`retry`].
pub const OPEN: i32 = i32::MIN + 1;
pub const RETRY: i32 = i32::MIN + 2;

#[inline(always)]
pub fn later(slot: u32, to: u64, listener: u32) -> i32 {
    let Some(scratch) = scratch() else { return Tc::DROP };
    let errand = &mut scratch.errand;
    (errand.to, errand.slot, errand.listener) = (to, slot, listener);
    OPEN
}

#[inline(always)]
pub fn retry_later(forward: &Flow) -> i32 {
    let Some(scratch) = scratch() else { return Tc::DROP };
    let errand = &mut scratch.errand;
    (errand.slot, errand.listener) = (forward.handshake, forward.listener);
    RETRY
}

/// Gives the client in the slot its first backend; the segment becomes the SYN to it.
#[inline(never)]
pub fn open(frame: Tc, packet: &Packet) -> i32 {
    let Some(Scratch { errand, .. }) = scratch() else { return broken(frame) };
    let Errand { to, slot, listener, .. } = *errand;
    let Some(hello) = owned(slot, &packet.key) else { return broken(frame) };
    hello.hash = hash::flow(&packet.key);
    hello.backend_set = if to & TO_AGENT == 0 { to as u32 } else { 0 };
    let id = if to & TO_AGENT == 0 { pick(to as u32, hello.hash) } else { to as u32 };
    let reason = match refusal(id) {
        Some(reason) => reason as u32,
        None => dial(frame, packet, id, false),
    };
    forget(&packet.key);
    if reason == flow::LOST {
        release(hello);
        return Tc::DROP;
    }
    match Reason::from_index(reason) {
        None => send_syn(frame, packet, hello),
        Some(reason) => {
            release(hello);
            refuse(frame, packet, listener, reason, 0)
        }
    }
}

/// Binds the client of the errand to this backend (`other`: to another one), or to another pick of the set if there is no way or no port
/// to it. Answers the reason why to none, 0 if it did.
#[inline(always)]
fn dial(frame: Tc, packet: &Packet, id: u32, other: bool) -> u32 {
    let Some(Scratch { errand, .. }) = scratch() else { return Reason::NoBackend as u32 };
    (errand.id, errand.other, errand.reason) = (id, other, 0);
    let mut dial = Dial { frame, packet };
    // SAFETY: the callback has the signature that the kernel calls, the context outlives the call.
    unsafe {
        bpf_loop(ATTEMPTS as u32, dial_one as *const () as *mut c_void, core::ptr::from_mut(&mut dial).cast(), 0)
    };
    opaque(errand.reason as u64) as u32
}

#[repr(C)]
struct Dial {
    frame: Tc,
    packet: *const Packet,
}

extern "C" fn dial_one(index: u32, dial: *mut Dial) -> i64 {
    // SAFETY: the context of the call, and map values in it.
    let dial = unsafe { &mut *dial };
    let Some(Scratch { errand, .. }) = scratch() else { return 1 };
    if errand.other {
        let Some(hello) = HELLOS.get_ptr_mut(errand.slot) else { return 1 };
        let before = errand.id;
        // SAFETY: the connection's own slot.
        errand.id = another(unsafe { &mut *hello }, before);
        if errand.id == before && index > 0 {
            return 1;
        }
    }
    errand.other = true;
    // SAFETY: as above.
    errand.reason = connect(dial.frame, unsafe { &*dial.packet }, errand.slot, errand.id, errand.listener);
    (errand.reason == 0 || errand.reason == flow::LOST) as i64
}

/// Puts both halves towards this backend into FLOWS, or neither. Answers the reason why not, 0 if it did.
#[inline(never)]
fn connect(frame: Tc, packet: &Packet, slot: u32, id: u32, listener: u32) -> u32 {
    // SAFETY: read-only here; the agent never changes the address of an id.
    let Some(backend) = (unsafe { BACKENDS.get(id) }) else { return Reason::NoBackend as u32 };
    let Some(hello) = HELLOS.get_ptr_mut(slot) else { return Reason::HelloEvicted as u32 };
    // SAFETY: the connection's own slot.
    let hello = unsafe { &mut *hello };
    let Some(scratch) = scratch() else { return Reason::FlowTableFull as u32 };
    let reason = flow::prepare(frame, &hello.client, backend, (id as u64) << 32 | listener as u64, packet.v6);
    if reason != 0 {
        return reason;
    }
    scratch.forward.state = flow_state::CONNECTING;
    scratch.forward.flags |= flow_flags::SPLICED;
    scratch.forward.handshake = slot;
    scratch.forward.last_seen = hello.last_seen;
    scratch.errand.replaces = hello.attempts != 0;
    let reason = flow::claim(&hello.client, backend, hash::mix(hello.hash));
    if reason == 0 {
        // Before another CPU may have a look.
        hello.attempts += 1;
        hello.syns = 0;
        hello.sent = 0;
        hello.sent_at = hello.last_seen;
        introduce(hello, backend, packet.v6);
        leave(hello);
    }
    reason
}

/// The PROXY protocol v2 header, if the backend wants one (section 2.2 of its specification).
#[inline(always)]
fn introduce(hello: &mut Hello, backend: &Backend, v6: bool) {
    if backend.flags & backend_flags::PROXY == 0 {
        hello.prelude = 0;
        return;
    }
    let client = &hello.client;
    let ports = client.source_port.to_be() as u32 | (client.destination_port.to_be() as u32) << 16;
    let words = hello.proxy.as_mut_ptr().cast::<u32>();
    let put = |at: usize, value: u32| {
        // SAFETY: constant places of 14 words, at a multiple of 8.
        unsafe { *words.add(at) = value };
    };
    let first = if v6 { 1 } else { 7 };
    put(first, u32::from_ne_bytes([0x0d, 0x0a, 0x0d, 0x0a]));
    put(first + 1, u32::from_ne_bytes([0x00, 0x0d, 0x0a, b'Q']));
    put(first + 2, u32::from_ne_bytes([b'U', b'I', b'T', 0x0a]));
    if v6 {
        hello.prelude = 52;
        put(4, u32::from_ne_bytes([0x21, 0x21, 0, 36]));
        let (source, destination) = (words_v6(&client.source), words_v6(&client.destination));
        for i in 0..4 {
            put(5 + i, source[i]);
            put(9 + i, destination[i]);
        }
    } else {
        hello.prelude = 28;
        put(10, u32::from_ne_bytes([0x21, 0x11, 0, 12]));
        put(11, unmapped(&client.source));
        put(12, unmapped(&client.destination));
    }
    put(PROXY_BYTES / 4 - 1, ports);
}

/// Turns the frame into the SYN to the backend of the flow.
#[inline(never)]
pub fn send_syn(frame: Tc, packet: &Packet, hello: &mut Hello) -> i32 {
    let Some(scratch) = scratch() else { return broken(frame) };
    let Some(flow) = flow::established(&hello.client) else { return broken(frame) };
    let options = Options(hello.options);
    let segment = &mut scratch.segment;
    segment.start(&flow.source, &flow.destination, flow.source_port, flow.destination_port);
    let window = splice::syn_window(hello.window, options.scale());
    segment.numbers(hello.client_sequence.wrapping_sub(1 + hello.prelude), 0, SYN, window);
    offer(segment, options.mss(packet.v6), options.scale(), options.sack());
    hello.syns += 1;
    hello.sent_at = hello.last_seen;
    if segment::write(frame, packet, segment) == 0 {
        return broken(frame);
    }
    onward(frame, packet, flow, hello.last_seen)
}

/// Sends the frame the way of this half.
#[inline(never)]
pub fn onward(frame: Tc, packet: &Packet, flow: &mut Flow, now: u64) -> i32 {
    if flow.flags & flow_flags::AGENT != 0 {
        let to_agent = flow.flags & flow_flags::REPLY == 0;
        // Down the stack or up it goes by itself; what a socket sends and is answered with turns round.
        let turns = packet.egress == to_agent;
        return if turns { segment::turn(frame, packet) } else { Tc::PASS };
    }
    let way = redirect::resolve_silently(frame, packet, flow, now);
    if way == 0 {
        return Tc::DROP;
    }
    if !redirect::address(frame, flow, way) {
        return broken(frame);
    }
    redirect::send(flow, way)
}

/// The backend does not answer, or refuses: another one. `packet` is the client's or the backend's.
#[inline(never)]
pub fn retry(frame: Tc, packet: &Packet) -> i32 {
    let Some(Scratch { errand, .. }) = scratch() else { return broken(frame) };
    let Errand { slot, listener, .. } = *errand;
    let Some(hello) = HELLOS.get_ptr_mut(slot) else { return broken(frame) };
    // SAFETY: the slot of the connection that asked for it.
    let hello = unsafe { &mut *hello };
    let Some(forward) = flow::established(&hello.client) else { return broken(frame) };
    let before = forward.backend;
    count::retried(&hello.client, forward);
    let mut reason = Reason::BackendSilent as u32;
    if hello.attempts < ATTEMPTS {
        if FLOWS.remove(&flow::other_half(forward, protocol::TCP)).is_err() {
            // Another CPU is at it.
            return Tc::DROP;
        }
        reason = dial(frame, packet, before, true);
    }
    match Reason::from_index(reason) {
        None => send_syn(frame, packet, hello),
        Some(reason) => fail(frame, packet, hello, listener, reason),
    }
}

/// The next pick of the set, not the same backend if there are others.
#[inline(always)]
fn another(hello: &mut Hello, before: u32) -> u32 {
    if hello.backend_set == 0 {
        return before;
    }
    let mut next = Next { set: hello.backend_set, before, id: before, _pad: 0, hash: hello.hash };
    // SAFETY: the callback has the signature that the kernel calls, the context outlives the call.
    unsafe { bpf_loop(PICKS, pick_again as *const () as *mut c_void, core::ptr::from_mut(&mut next).cast(), 0) };
    hello.hash = next.hash;
    next.id
}

/// Picks until another backend comes: enough to find one that has a hundredth of the set.
const PICKS: u32 = 512;

#[repr(C)]
struct Next {
    set: u32,
    before: u32,
    id: u32,
    _pad: u32,
    hash: u64,
}

extern "C" fn pick_again(_index: u32, next: *mut Next) -> i64 {
    // SAFETY: the context of the call.
    let next = unsafe { &mut *next };
    next.hash = hash::mix(next.hash.wrapping_add(1));
    let id = pick(next.set, next.hash);
    if refusal(id).is_some() {
        return 0;
    }
    next.id = id;
    (id != next.before) as i64
}

/// No backend takes it: the client is told.
#[inline(never)]
fn fail(frame: Tc, packet: &Packet, hello: &mut Hello, listener: u32, reason: Reason) -> i32 {
    let Some(scratch) = scratch() else { return broken(frame) };
    let client = hello.client;
    let agent = flow::end_pending(&client) & flow_flags::AGENT;
    let reply = &mut scratch.reply;
    // SAFETY: plain data; zero means unset.
    unsafe { core::ptr::write_bytes(reply, 0, 1) };
    reply.source = client.destination;
    reply.destination = client.source;
    reply.flags = flow_flags::REPLY | agent;
    if deny(frame, packet, hello, listener, reason) == 0 {
        return broken(frame);
    }
    if packet.key == client { segment::turn(frame, packet) } else { onward(frame, packet, reply, hello.last_seen) }
}
