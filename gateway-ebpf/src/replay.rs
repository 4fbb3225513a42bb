//! Stage: both connections exist, and the backend does not have the whole ClientHello yet. Every packet of either end comes
//! through here until it has; what was lost on the way is sent again from the slot in HELLOS.

use core::ffi::c_void;

use aya_ebpf::helpers::{bpf_clone_redirect, bpf_csum_diff, bpf_loop};
use gateway_common::cookie::Options;
use gateway_common::{
    Flow, HELLO_BYTES, HELLO_PIECE, Hello, PROXY_BYTES, Reason, flow_flags, flow_state, protocol, splice,
};

use crate::bind::{SYNS, onward, retry_later, send_syn};
use crate::count;
use crate::flow::{self, other_half};
use crate::frame::{ETHERNET, Frame, Tc, opaque};
use crate::headers::{ACK, FIN, PSH, RST, SYN};
use crate::maps::scratch;
use crate::options;
use crate::parse::Packet;
use crate::refuse::{broken, refuse};
use crate::segment::{self, store};
use crate::splice::{enter, keep, leave, owned, release};

/// The verdict that lets the packet go on as one of an established flow.
pub const GO_ON: i32 = i32::MIN;
/// A SYN is not sent again before, ns: what the client sends meanwhile is more of its hello.
const PATIENCE: u64 = 150_000_000;
/// Segments sent at once: a hello of 8 KiB in segments of 1,440 bytes.
const BURST: u32 = 6;
/// Longest piece that is sent as one segment.
const PIECE: u32 = 2 * HELLO_PIECE as u32;
/// `bpf_csum_diff` takes so many bytes on every kernel.
const SUMMED: u32 = 512;

/// The MSS of an end that tells none (RFC 9293 section 3.7.1).
#[inline(always)]
fn least_mss(v6: bool) -> u16 {
    if v6 { 1_220 } else { 536 }
}

/// A packet of a flow that is CONNECTING or REPLAYING.
#[inline(never)]
pub fn pending(frame: Tc, packet: &Packet, flow: &mut Flow, now: u64) -> i32 {
    flow.last_seen = now;
    if flow.flags & flow_flags::REPLY == 0 {
        return from_client(frame, packet, flow, now);
    }
    // SAFETY: a map value or null.
    let Some(forward) = (unsafe { flow::established_other(flow, protocol::TCP).as_mut() }) else {
        return evicted(frame, packet, flow);
    };
    // The client goes to another backend by now.
    if other_half(forward, protocol::TCP) != packet.key {
        flow::drop_half(&packet.key);
        return refuse(frame, packet, 0, Reason::UnknownConnection, 0);
    }
    let Some(hello) = owned(flow.handshake, &other_half(flow, protocol::TCP)) else {
        return evicted(frame, packet, flow);
    };
    if flow.state == flow_state::CONNECTING {
        return answered(frame, packet, forward, flow, hello);
    }
    acknowledged(frame, packet, forward, flow, hello)
}

/// The slot has been given to somebody else: neither end can be served any more. The other one is told when it speaks up.
#[inline(never)]
fn evicted(frame: Tc, packet: &Packet, flow: &Flow) -> i32 {
    let listener = flow.listener;
    // SAFETY: a map value or null.
    if let Some(other) = unsafe { flow::established_other(flow, protocol::TCP).as_mut() } {
        other.state = flow_state::GONE;
    }
    flow::end_half(&packet.key, flow);
    refuse(frame, packet, listener, Reason::HelloEvicted, 0)
}

#[inline(never)]
fn from_client(frame: Tc, packet: &Packet, flow: &mut Flow, now: u64) -> i32 {
    let Some(hello) = owned(flow.handshake, &packet.key) else { return evicted(frame, packet, flow) };
    hello.last_seen = now;
    let connecting = flow.state == flow_state::CONNECTING;
    let offset = packet.sequence.wrapping_sub(hello.client_sequence);
    if packet.flags & RST != 0 {
        if !connecting {
            release(hello);
            return GO_ON;
        }
        if offset <= HELLO_BYTES as u32 {
            release(hello);
            flow::end(&packet.key, flow, flow_state::RESET);
        }
        return Tc::DROP;
    }
    if packet.flags & SYN != 0 {
        return challenge(frame, packet, hello);
    }
    hello.window = packet.window;
    if packet.flags & ACK != 0 {
        hello.heard = packet.acknowledgement.wrapping_sub(flow.delta);
    }
    if connecting {
        // A client that only goes on has not missed an answer yet.
        let again = packet.payload != 0 && offset.wrapping_add(packet.payload) as i32 <= hello.length as i32;
        if !enter(hello) {
            return Tc::DROP;
        }
        let kept = keep(frame, packet, hello);
        leave(hello);
        if kept == 0 {
            return broken(frame);
        }
        if !again || now.wrapping_sub(hello.sent_at) < PATIENCE {
            return Tc::DROP;
        }
        return if hello.syns < SYNS { send_syn(frame, packet, hello) } else { retry_later(flow) };
    }
    // What the slot has is sent from there, where the backend misses something: the client may have been told that it arrived.
    if packet.payload != 0 && (offset as i32) < hello.length as i32 {
        // A closed window is probed by one byte (RFC 9293 section 3.8.6.1).
        if hello.edge <= hello.acknowledged {
            hello.edge = hello.acknowledged + 1;
        }
        // Small enough for any way: what was lost may have been too big for a link that only the client hears of.
        let small = least_mss(packet.v6);
        if hello.mss > small {
            hello.mss = small;
        }
        if piece(frame, packet, flow, hello, hello.acknowledged) == 0 {
            return Tc::DROP;
        }
        return onward(frame, packet, flow, now);
    }
    GO_ON
}

/// A SYN in a connection that lives (RFC 5961 section 4.2). Nothing but the backend acknowledges the end of the hello: the client must
/// go on sending it.
#[inline(never)]
fn challenge(frame: Tc, packet: &Packet, hello: &Hello) -> i32 {
    let room = splice::own_window(HELLO_BYTES as u32, Options(hello.options).scale());
    segment::acknowledge(frame, packet, hello.our_sequence, hello.client_sequence, room)
}

/// The first answer of the backend.
#[inline(never)]
fn answered(frame: Tc, packet: &Packet, forward: &mut Flow, reply: &mut Flow, hello: &mut Hello) -> i32 {
    let expected =
        packet.flags & ACK != 0 && packet.acknowledgement == hello.client_sequence.wrapping_sub(hello.prelude);
    if packet.flags & RST != 0 {
        return if expected { retry_later(forward) } else { Tc::DROP };
    }
    if packet.flags & ACK == 0 {
        return Tc::DROP;
    }
    if packet.flags & SYN == 0 || !expected {
        return stranger(frame, packet, hello);
    }
    let Some(scratch) = scratch() else { return broken(frame) };
    options::read(frame, packet);
    let options = &scratch.options;
    let least = least_mss(packet.v6);
    hello.mss = if options.mss != 0 { options.mss } else { least };
    // Below that no client goes for a path MTU (Linux: net.ipv4.route.min_pmtu; RFC 8200 section 5).
    hello.limit = if hello.mss > least { hello.mss } else { least } as u32;
    let scale = options.scale();
    hello.scale = scale.unwrap_or(0);
    let (of_backend, of_client) = splice::window_shifts(Options(hello.options).scale(), scale);
    let delta = hello.our_sequence.wrapping_sub(packet.sequence.wrapping_add(1));
    hello.acknowledged = 0;
    hello.edge = packet.window as u32;
    hello.heard = packet.sequence.wrapping_add(1);
    reply.delta = delta;
    reply.window_shift = of_backend;
    reply.state = flow_state::REPLAYING;
    forward.delta = delta;
    forward.window_shift = of_client;
    forward.state = flow_state::REPLAYING;
    deliver(frame, packet, forward, hello, 0)
}

/// The backend takes the SYN for one of an older connection, which it still remembers: that one ends (RFC 9293 section 3.10.7.3), and
/// the client's next segment makes the SYN again.
#[inline(never)]
fn stranger(frame: Tc, packet: &Packet, hello: &mut Hello) -> i32 {
    hello.sent_at = 0;
    let Some(scratch) = scratch() else { return broken(frame) };
    let segment = &mut scratch.segment;
    segment.answer(&packet.key);
    segment.numbers(packet.acknowledgement, 0, RST, 0);
    segment::reply(frame, packet, segment)
}

/// The backend says how much of the hello it has.
#[inline(never)]
fn acknowledged(frame: Tc, packet: &Packet, forward: &mut Flow, reply: &mut Flow, hello: &mut Hello) -> i32 {
    if packet.flags & RST != 0 {
        release(hello);
        return GO_ON;
    }
    if packet.flags & SYN != 0 {
        return deliver(frame, packet, forward, hello, hello.acknowledged);
    }
    let total = hello.prelude + hello.length;
    let acknowledged = packet.acknowledgement.wrapping_sub(hello.client_sequence.wrapping_sub(hello.prelude));
    // Older than everything.
    if packet.flags & ACK == 0 || (acknowledged as i32) < 0 {
        return Tc::DROP;
    }
    if acknowledged >= total {
        return delivered(forward, reply, hello);
    }
    let again = acknowledged == hello.acknowledged;
    if acknowledged > hello.acknowledged {
        hello.acknowledged = acknowledged;
    }
    hello.edge = acknowledged + ((packet.window as u32) << (hello.scale as u32 & 15));
    if packet.payload != 0 || packet.flags & FIN != 0 {
        // Before the hello there is nothing that the client could take as acknowledged.
        return if acknowledged < hello.prelude { Tc::DROP } else { GO_ON };
    }
    if hello.sent < total {
        return deliver(frame, packet, forward, hello, hello.sent);
    }
    if again { deliver(frame, packet, forward, hello, acknowledged) } else { Tc::DROP }
}

/// The backend has it all.
#[inline(never)]
fn delivered(forward: &mut Flow, reply: &mut Flow, hello: &mut Hello) -> i32 {
    count::delivered(&hello.client, forward);
    forward.handshake = hello.limit;
    release(hello);
    let fin = (forward.flags | reply.flags) & flow_flags::FIN != 0;
    let state = if fin { flow_state::HALF_CLOSED } else { flow_state::ESTABLISHED };
    reply.state = state;
    forward.state = state;
    GO_ON
}

/// Answers the backend's segment with what comes from `offset` on, as far as its window allows.
#[inline(never)]
fn deliver(frame: Tc, packet: &Packet, forward: &Flow, hello: &mut Hello, offset: u32) -> i32 {
    let mut burst = Burst { frame, packet, forward, hello, offset, left: BURST, verdict: Tc::DROP };
    // SAFETY: the callback has the signature that the kernel calls, the context outlives the call.
    unsafe { bpf_loop(BURST, one_of_burst as *const () as *mut c_void, core::ptr::from_mut(&mut burst).cast(), 0) };
    if burst.left == BURST { acknowledge(frame, packet, forward, hello) } else { burst.verdict }
}

/// Nothing fits into the backend's window: it hears at least that its segment came.
#[inline(never)]
fn acknowledge(frame: Tc, packet: &Packet, forward: &Flow, hello: &Hello) -> i32 {
    let sequence = hello.client_sequence.wrapping_sub(hello.prelude).wrapping_add(hello.sent);
    let window = splice::window(hello.window, forward.window_shift);
    segment::acknowledge(frame, packet, sequence, hello.heard, window)
}

/// Segments made of one frame.
#[repr(C)]
struct Burst {
    frame: Tc,
    packet: *const Packet,
    forward: *const Flow,
    hello: *mut Hello,
    offset: u32,
    left: u32,
    verdict: i32,
}

extern "C" fn one_of_burst(index: u32, burst: *mut Burst) -> i64 {
    // SAFETY: the context of the call, and map values in it.
    let burst = unsafe { &mut *burst };
    // SAFETY: as above.
    let (packet, forward, hello) = unsafe { (&*burst.packet, &*burst.forward, &mut *burst.hello) };
    let frame = burst.frame;
    let bytes = piece(frame, packet, forward, hello, burst.offset);
    if bytes == 0 || (index == 0 && !segment::swap_macs(frame)) {
        return 1;
    }
    burst.offset += bytes;
    burst.left -= 1;
    if burst.left == 0 || burst.offset >= hello.prelude + hello.length || burst.offset >= hello.edge {
        burst.verdict = if packet.egress { frame.reply_inward() } else { frame.reply() };
        return 1;
    }
    let flags = if packet.egress { aya_ebpf::bindings::BPF_F_INGRESS as u64 } else { 0 };
    // SAFETY: the context is valid.
    (unsafe { bpf_clone_redirect(frame.0, frame.interface(), flags) } != 0) as i64
}

/// Makes the frame a segment to the backend with what the slot has from an offset on. Answers how many bytes, 0: none.
#[inline(never)]
fn piece(frame: Tc, packet: &Packet, forward: &Flow, hello: &mut Hello, offset: u32) -> u32 {
    let Some(scratch) = scratch() else { return 0 };
    let total = hello.prelude + hello.length;
    let headers = packet.transport - ETHERNET + 20;
    let mut longest = hello.mss as u32;
    let mtu = forward.route.mtu as u32;
    if mtu > headers && mtu - headers < longest {
        longest = mtu - headers;
    }
    if longest > PIECE {
        longest = PIECE;
    }
    if offset >= total || offset >= hello.edge {
        return 0;
    }
    let left = if total < hello.edge { total - offset } else { hello.edge - offset };
    let bytes = if left < longest { left } else { longest };
    let place = PROXY_BYTES as u32 - hello.prelude + offset;
    let segment = &mut scratch.segment;
    segment.start(&forward.source, &forward.destination, forward.source_port, forward.destination_port);
    let window = splice::window(hello.window, forward.window_shift);
    let sequence = hello.client_sequence.wrapping_sub(hello.prelude).wrapping_add(offset);
    segment.numbers(sequence, hello.heard, ACK | PSH, window);
    segment.payload = bytes;
    segment.sum = sum(frame, hello, place, bytes);
    if segment::write(frame, packet, segment) == 0 || fill(frame, packet, hello, place, bytes) == 0 {
        return 0;
    }
    if offset + bytes > hello.sent {
        hello.sent = offset + bytes;
    }
    hello.sent_at = hello.last_seen;
    bytes
}

/// Of the PROXY header and the hello, which lie one after the other.
#[inline(always)]
fn start(hello: &Hello, place: u32) -> Option<*const u8> {
    let place = opaque(place as u64);
    if place >= (PROXY_BYTES + HELLO_BYTES) as u64 {
        return None;
    }
    // SAFETY: checked; a piece fits behind it.
    Some(unsafe { core::ptr::from_ref(hello).cast::<u8>().add(core::mem::offset_of!(Hello, proxy) + place as usize) })
}

/// Bytes of a slot that are gone through in parts.
#[repr(C)]
struct Parts {
    frame: Tc,
    hello: *const Hello,
    place: u32,
    left: u32,
    /// Offset in the frame, or the sum so far.
    to: u32,
}

/// Sum of the 16-bit words of `bytes` bytes.
#[inline(never)]
fn sum(frame: Tc, hello: &Hello, place: u32, bytes: u32) -> u32 {
    let mut parts = Parts { frame, hello, place, left: bytes, to: 0 };
    // SAFETY: the callback has the signature that the kernel calls, the context outlives the call.
    unsafe {
        bpf_loop(PIECE / SUMMED + 1, add_part as *const () as *mut c_void, core::ptr::from_mut(&mut parts).cast(), 0)
    };
    opaque(parts.to as u64) as u32
}

extern "C" fn add_part(_index: u32, parts: *mut Parts) -> i64 {
    // SAFETY: the context of the call, and a map value in it.
    let parts = unsafe { &mut *parts };
    // SAFETY: as above.
    let Some(at) = start(unsafe { &*parts.hello }, parts.place) else { return 1 };
    if parts.left < 4 {
        if parts.left != 0 {
            // SAFETY: within the slack behind the last byte.
            let last = unsafe { *at.cast::<u32>() } & ((1 << (parts.left * 8)) - 1);
            let wide = parts.to as u64 + last as u64;
            parts.to = (wide as u32).wrapping_add((wide >> 32) as u32);
        }
        return 1;
    }
    let words = opaque(if parts.left < SUMMED { parts.left & !3 } else { SUMMED } as u64);
    if words == 0 || words > SUMMED as u64 {
        return 1;
    }
    // SAFETY: the verifier checks the length.
    let sum = unsafe { bpf_csum_diff(core::ptr::null_mut(), 0, at.cast_mut().cast(), words as u32, parts.to) };
    parts.to = sum as u32;
    parts.place += words as u32;
    parts.left -= words as u32;
    0
}

/// Copies the bytes behind the TCP header. 0: the kernel refused.
#[inline(never)]
fn fill(frame: Tc, packet: &Packet, hello: &Hello, place: u32, bytes: u32) -> u32 {
    let mut parts = Parts { frame, hello, place, left: bytes, to: packet.transport + 20 };
    // SAFETY: as above.
    unsafe {
        let pieces = PIECE / HELLO_PIECE as u32;
        bpf_loop(pieces, store_part as *const () as *mut c_void, core::ptr::from_mut(&mut parts).cast(), 0);
    }
    (opaque(parts.left as u64) == 0) as u32
}

extern "C" fn store_part(_index: u32, parts: *mut Parts) -> i64 {
    // SAFETY: as above.
    let parts = unsafe { &mut *parts };
    let part = opaque(if parts.left < HELLO_PIECE as u32 { parts.left } else { HELLO_PIECE as u32 } as u64);
    if part == 0 || part > HELLO_PIECE as u64 {
        return 1;
    }
    // SAFETY: as above.
    let Some(from) = start(unsafe { &*parts.hello }, parts.place) else { return 1 };
    if !store(parts.frame, parts.to, from, part as u32) {
        return 1;
    }
    parts.left -= part as u32;
    parts.place += part as u32;
    parts.to += part as u32;
    0
}
