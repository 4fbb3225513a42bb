//! Stage: a TLS listener. The client's connection is accepted here, without state; its ClientHello is kept until the server name
//! in it is known. Then [`crate::bind`] takes over.

use core::ffi::c_void;

use aya_ebpf::bindings::{BPF_ANY, BPF_NOEXIST};
use aya_ebpf::helpers::bpf_loop;
use gateway_common::client_hello::Progress;
use gateway_common::cookie::{self, Proof, WINDOW_SCALE as OWN_SCALE};
use gateway_common::{
    Collecting, FlowKey, HELLO_BYTES, HELLO_CHOICE, HELLO_PIECE, Handshake, Hello, Island, Listener, Reason, SniName,
    sni_mode, splice, stash,
};

use crate::atomic;
use crate::bind;
use crate::count;
use crate::flow::refuse_unknown;
use crate::frame::{ETHERNET, Frame, Tc, opaque};
use crate::headers::{ACK, FIN, PSH, RST, SYN};
use crate::maps::{COLLECTING, CONFIG, COOKIE_KEY, HANDSHAKES, HELLOS, Scratch, hello_cursor, scratch};
use crate::name::{self, found};
use crate::options;
use crate::parse::{Packet, fragment};
use crate::refuse::{broken, refuse};
use crate::segment::{self, Segment};
use crate::steer;

/// A hello that fills the window but for so much is as full as it gets: the window is told in steps of this.
const FULL: u32 = HELLO_BYTES as u32 - (1 << OWN_SCALE);

/// How long a slot counts as bound after its client's last packet, ns.
const BOUND: u64 = 30_000_000_000;

/// TLS alert descriptions (RFC 8446 section 6).
pub mod alert {
    pub const UNEXPECTED_MESSAGE: u8 = 10;
    pub const DECODE_ERROR: u8 = 50;
    pub const INTERNAL_ERROR: u8 = 80;
    /// Bytes of the record.
    pub const LENGTH: u32 = 7;
}

/// A segment to a TLS listener that belongs to no flow.
#[inline(never)]
pub fn client(frame: Tc, packet: &Packet, listener: &Listener, now: u64) -> i32 {
    if packet.fragment != fragment::WHOLE {
        return refuse(frame, packet, listener.id, Reason::FragmentUnmatched, 0);
    }
    if packet.flags & (SYN | ACK | RST | FIN) == SYN {
        return match accept(frame, packet, listener, now) {
            0 => broken(frame),
            verdict => verdict,
        };
    }
    if packet.flags & RST != 0 {
        return if steer::has_socket(frame, packet) { Tc::PASS } else { give_up(frame, packet) };
    }
    // It has the SYN-ACK, and says nothing yet.
    let bare = is_bare(packet);
    if bare && let Proof::Client(options) = prove(packet, now) {
        remember(packet, options);
        return Tc::DROP;
    }
    let Some(scratch) = scratch() else { return broken(frame) };
    scratch.known = recall(packet, scratch);
    let handshake = &mut scratch.handshake;
    if scratch.known == known::NOTHING {
        match prove(packet, now) {
            Proof::Client(options) => {
                handshake.client_sequence = packet.sequence;
                handshake.our_sequence = packet.acknowledgement;
                handshake.options = options.0;
            }
            Proof::Later => return refuse_unknown(frame, packet, listener.id, Reason::EarlySegment),
            Proof::Nothing => return refuse_unknown(frame, packet, listener.id, Reason::UnknownConnection),
        }
    } else if scratch.known == known::EVICTED {
        forget(&packet.key);
        return refuse(frame, packet, listener.id, Reason::HelloEvicted, 0);
    } else if scratch.known == known::REFUSED {
        return refused(frame, packet, handshake);
    } else if bare && scratch.known == known::PROVED {
        // A keep-alive of a client that has nothing to say yet (RFC 9293 section 3.8.4).
        let alive = packet.sequence == handshake.client_sequence.wrapping_sub(1);
        return if alive { acknowledge(frame, packet, handshake, 0) } else { Tc::DROP };
    }
    collect(frame, packet, listener, now)
}

/// What is known of the sender of a segment that is in no flow.
pub mod known {
    pub const NOTHING: u32 = 0;
    /// HANDSHAKES: it has proved its address.
    pub const PROVED: u32 = 1;
    /// HANDSHAKES: it was refused.
    pub const REFUSED: u32 = 2;
    /// COLLECTING: it has a slot of HELLOS.
    pub const COLLECTING: u32 = 3;
    /// COLLECTING: its slot was given to somebody else.
    pub const EVICTED: u32 = 4;
}

/// Whether there is nothing in the segment but an acknowledgement.
#[inline(always)]
pub fn is_bare(packet: &Packet) -> bool {
    packet.payload == 0 && packet.flags & FIN == 0
}

/// Turns a SYN into its SYN-ACK. 0: the kernel refused, or XDP cannot.
#[inline(never)]
pub fn accept<F: Frame>(frame: F, packet: &Packet, listener: &Listener, now: u64) -> i32 {
    let Some(scratch) = scratch() else { return 0 };
    let Some(key) = COOKIE_KEY.get(0) else { return 0 };
    options::read(frame, packet);
    let options = &scratch.options;
    let (sack, scale) = (options.sack, options.scale());
    let kept = cookie::Options::new(packet.v6, options.mss, sack, scale);
    let cookie = cookie::make(key, &packet.key, packet.sequence, kept, now);
    let segment = &mut scratch.segment;
    segment.answer(&packet.key);
    segment.numbers(cookie, packet.sequence.wrapping_add(1), SYN | ACK, HELLO_BYTES as u16);
    offer(segment, own_mss(frame, packet, listener.mtu), scale.map(|_| OWN_SCALE), sack);
    segment::send_back(frame, packet, segment).unwrap_or(0)
}

/// The options of a SYN or SYN-ACK.
#[inline(always)]
pub fn offer(segment: &mut Segment, mss: u16, scale: Option<u8>, sack: bool) {
    segment.options[0] = u32::from_be_bytes([options::MSS, 4, (mss >> 8) as u8, mss as u8]).to_be();
    // Fixed places: fewer ways for the verifier to follow.
    const PADDING: u32 = 0x0101_0101;
    segment.options[1] = match scale {
        Some(scale) => u32::from_be_bytes([1, options::WINDOW_SCALE, 3, scale]).to_be(),
        None => PADDING,
    };
    segment.options[2] = if sack { u32::from_be_bytes([1, 1, options::SACK_PERMITTED, 2]).to_be() } else { PADDING };
    segment.words = if sack {
        3
    } else if scale.is_some() {
        2
    } else {
        1
    };
}

/// What fits through the interface that the client is on, and through the ways to the listener's backends.
#[inline(always)]
fn own_mss<F: Frame>(frame: F, packet: &Packet, mtu: u16) -> u16 {
    let headers = if packet.v6 { 60 } else { 40 };
    let of_interface = frame.mtu(0);
    let mtu = if mtu == 0 || of_interface < mtu { of_interface } else { mtu };
    if mtu > headers { mtu - headers } else { 536 }
}

/// What the handshake of a segment proves that is in no flow and no handshake known.
#[inline(never)]
pub fn prove(packet: &Packet, now: u64) -> Proof {
    let Some(key) = COOKIE_KEY.get(0) else { return Proof::Nothing };
    if packet.flags & ACK == 0 {
        return Proof::Nothing;
    }
    let cookie = packet.acknowledgement.wrapping_sub(1);
    cookie::check(key, &packet.key, packet.sequence.wrapping_sub(1), cookie, now)
}

/// What is known of the sender of the segment: one of [`known`], with what goes with it.
#[inline(never)]
pub fn recall(packet: &Packet, scratch: &mut Scratch) -> u32 {
    let handshake = &mut scratch.handshake;
    scratch.slot = slot_of(&packet.key, packet.acknowledgement);
    if scratch.slot != 0 {
        let Some(hello) = owned(scratch.slot, &packet.key) else { return known::EVICTED };
        handshake.client_sequence = hello.client_sequence;
        handshake.our_sequence = hello.our_sequence;
        handshake.options = hello.options;
        return known::COLLECTING;
    }
    let Some(kept) = HANDSHAKES.get_ptr(&packet.key) else { return known::NOTHING };
    // SAFETY: a map value.
    *handshake = unsafe { *kept };
    // It may acknowledge an alert and the FIN after it.
    if packet.acknowledgement.wrapping_sub(handshake.our_sequence) > alert::LENGTH + 1 {
        known::NOTHING
    } else if handshake.alert != 0 {
        known::REFUSED
    } else {
        known::PROVED
    }
}

/// The slot that COLLECTING has for the connection with this sequence number of ours. 0: none.
#[inline(never)]
fn slot_of(client: &FlowKey, our_sequence: u32) -> u32 {
    let Some(collecting) = COLLECTING.get_ptr(client) else { return 0 };
    // SAFETY: a map value.
    let collecting = unsafe { *collecting };
    if collecting.our_sequence == our_sequence { collecting.slot } else { 0 }
}

/// Keeps what the client has proved.
#[inline(never)]
fn remember(packet: &Packet, options: cookie::Options) -> i32 {
    let handshake = Handshake {
        client_sequence: packet.sequence,
        our_sequence: packet.acknowledgement,
        options: options.0,
        alert: 0,
        _pad: [0; 2],
    };
    if HANDSHAKES.insert(&packet.key, &handshake, BPF_NOEXIST as u64).is_ok() {
        return 0;
    }
    // What is there may be of an older connection.
    if let Some(kept) = HANDSHAKES.get_ptr(&packet.key)
        // SAFETY: a map value.
        && unsafe { (*kept).our_sequence } != packet.acknowledgement
    {
        let _ = HANDSHAKES.insert(&packet.key, &handshake, BPF_ANY as u64);
    }
    0
}

/// The sender of the segment in hand is no client without a backend any more.
#[inline(never)]
pub fn forget(client: &FlowKey) -> i32 {
    let Some(scratch) = scratch() else { return 0 };
    match scratch.known {
        known::NOTHING => {}
        known::PROVED | known::REFUSED => {
            let _ = HANDSHAKES.remove(client);
        }
        _ => {
            let _ = COLLECTING.remove(client);
        }
    }
    0
}

/// Says in COLLECTING where the client's hello is. 0: another CPU was faster.
#[inline(never)]
fn file(client: &FlowKey, slot: u32, our_sequence: u32) -> u32 {
    let collecting = Collecting { slot, our_sequence };
    if COLLECTING.insert(client, &collecting, BPF_NOEXIST as u64).is_ok() {
        return 1;
    }
    // What is there may be of an older connection.
    let older = slot_of(client, our_sequence) == 0;
    (older && COLLECTING.insert(client, &collecting, BPF_ANY as u64).is_ok()) as u32
}

/// A RST that belongs to no flow.
#[inline(never)]
fn give_up(frame: Tc, packet: &Packet) -> i32 {
    // Its acknowledgement need not say anything.
    let mut known = false;
    if let Some(collecting) = COLLECTING.get_ptr(&packet.key)
        // SAFETY: a map value.
        && let Some(hello) = owned(unsafe { (*collecting).slot }, &packet.key)
        && packet.sequence.wrapping_sub(hello.client_sequence) <= HELLO_BYTES as u32
    {
        known = true;
        release(hello);
        let _ = COLLECTING.remove(&packet.key);
    }
    if let Some(handshake) = HANDSHAKES.get_ptr(&packet.key)
        // SAFETY: a map value.
        && packet.sequence.wrapping_sub(unsafe { (*handshake).client_sequence }) <= HELLO_BYTES as u32
    {
        known = true;
        let _ = HANDSHAKES.remove(&packet.key);
    }
    if known {
        return Tc::DROP;
    }
    refuse(frame, packet, 0, Reason::StrayReset, 0)
}

/// More of a ClientHello, or the first of it.
#[inline(never)]
fn collect(frame: Tc, packet: &Packet, listener: &Listener, now: u64) -> i32 {
    let Some(Scratch { handshake, known, slot, .. }) = scratch() else { return broken(frame) };
    let first = *known != known::COLLECTING;
    let slot = if first { claim(packet, handshake, now) } else { *slot };
    let Some(hello) = owned(slot, &packet.key) else {
        forget(&packet.key);
        return refuse(frame, packet, listener.id, Reason::HelloEvicted, 0);
    };
    if !first && !enter(hello) {
        return Tc::DROP;
    }
    // The way to a backend was found by another CPU just now.
    if hello.attempts != 0 {
        leave(hello);
        return Tc::DROP;
    }
    // A bare ACK of ours asks for nothing, a keep-alive does.
    if is_bare(packet) && packet.sequence.wrapping_sub(hello.client_sequence) == hello.length {
        leave(hello);
        return Tc::DROP;
    }
    hello.last_seen = now;
    hello.window = packet.window;
    let before = hello.length;
    if keep(frame, packet, hello) == 0 {
        if first {
            release(hello);
        } else {
            leave(hello);
        }
        return broken(frame);
    }
    let mut length = 0;
    // A client must not make the kernel read the same bytes over and over.
    let grown = hello.length != before || packet.flags & FIN != 0;
    match if grown { name::read(hello, &mut length) } else { Progress::Short } {
        Progress::Named | Progress::Nameless => route(frame, packet, listener, slot, length),
        Progress::NotTls => turn_away(frame, packet, hello, listener.id, Reason::NotTls),
        Progress::Malformed => turn_away(frame, packet, hello, listener.id, Reason::MalformedHello),
        Progress::Short if hello.length < FULL => {
            let end = packet.sequence.wrapping_add(packet.payload);
            if packet.flags & FIN != 0 && end == hello.client_sequence.wrapping_add(hello.length) {
                release(hello);
                forget(&packet.key);
                return refuse(frame, packet, listener.id, Reason::HelloAbandoned, 0);
            }
            if first {
                if file(&packet.key, slot, handshake.our_sequence) == 0 {
                    release(hello);
                    return Tc::DROP;
                }
                forget(&packet.key);
            }
            // What another CPU adds from then on may make the name known, and that is for the backend to acknowledge.
            let length = hello.length;
            leave(hello);
            acknowledge(frame, packet, handshake, length)
        }
        // More than is kept, or more extensions than are walked over: the agent reads on.
        _ => bind::later(slot, bind::to_agent(packet.v6), listener.id),
    }
}

/// The name is known, or that there is none: who takes the connection?
#[inline(never)]
fn route(frame: Tc, packet: &Packet, listener: &Listener, slot: u32, length: u32) -> i32 {
    let mut entry: *mut SniName = core::ptr::null_mut();
    let found = name::find(&packet.key, listener.wildcards, length, &mut entry);
    // SAFETY: a map value or null. The agent replaces values as a whole; both fields are read here once.
    let (mode, set, id) = match unsafe { entry.as_ref() } {
        Some(name) => (name.mode, name.backend_set, name.listener),
        None => (0, 0, listener.id),
    };
    if !entry.is_null() {
        name::hit(entry);
    }
    if mode >= sni_mode::TERMINATE {
        return bind::later(slot, bind::to_agent(packet.v6), id);
    }
    if mode == sni_mode::PASSTHROUGH && set != 0 {
        return bind::later(slot, bind::to_set(set), id);
    }
    let Some(hello) = owned(slot, &packet.key) else { return broken(frame) };
    if found == found::NO_NAME {
        return turn_away(frame, packet, hello, id, Reason::MalformedHello);
    }
    // No alert: what is not matched is no TLS server (Gateway API, TLSRoute).
    release(hello);
    forget(&packet.key);
    refuse(frame, packet, id, Reason::UnrecognizedName, 0)
}

/// Acknowledges so many bytes.
#[inline(never)]
fn acknowledge(frame: Tc, packet: &Packet, handshake: &Handshake, length: u32) -> i32 {
    let window = splice::own_window(HELLO_BYTES as u32 - length, cookie::Options(handshake.options).scale());
    let acknowledgement = handshake.client_sequence.wrapping_add(length);
    segment::acknowledge(frame, packet, handshake.our_sequence, acknowledgement, window)
}

/// Takes a slot. 0: there is none.
#[inline(never)]
fn claim(packet: &Packet, handshake: &Handshake, now: u64) -> u32 {
    let mut slot = take(released(), &packet.key);
    // Another CPU may be faster: then from the next ones.
    for _ in 0..2 {
        if slot == 0 {
            slot = take(oldest(now), &packet.key);
        }
    }
    if slot == 0 {
        return 0;
    }
    let Some(hello) = HELLOS.get_ptr_mut(slot) else { return 0 };
    // SAFETY: a map value.
    let hello = unsafe { &mut *hello };
    hello.client = packet.key;
    hello.busy = 1;
    hello.slot = slot;
    hello.client_sequence = handshake.client_sequence;
    hello.our_sequence = handshake.our_sequence;
    hello.options = handshake.options;
    hello.last_seen = now;
    hello.length = 0;
    hello.islands = [Island { start: 0, end: 0 }; 4];
    hello.prelude = 0;
    hello.attempts = 0;
    slot
}

/// A slot that may be taken from its owner.
#[derive(Clone, Copy)]
struct Choice {
    /// 0: there is none.
    slot: u32,
    owner: u64,
}

/// Makes the slot the client's, and answers it. 0: there is none, or its owner is another one by now.
#[inline(always)]
fn take(choice: Choice, client: &FlowKey) -> u32 {
    let Some(hello) = HELLOS.get_ptr_mut(choice.slot) else { return 0 };
    // SAFETY: a map value, and the client's 5-tuple.
    let (place, new) = unsafe { (owner(&(*hello).client).cast_mut(), *owner(client)) };
    if choice.slot != 0 && atomic::compare_exchange(place, choice.owner, new) == choice.owner { choice.slot } else { 0 }
}

/// The word of a 5-tuple that tells owners apart: ports and protocol, the last 8 of 40 bytes, at a multiple of 8.
#[inline(always)]
fn owner(key: &FlowKey) -> *const u64 {
    (&raw const key.source_port).cast()
}

#[inline(always)]
fn protocol_of(owner: u64) -> u8 {
    (owner >> 32) as u8
}

/// The slot that this CPU released last, if it still is nobody's.
#[inline(always)]
fn released() -> Choice {
    let none = Choice { slot: 0, owner: 0 };
    let Some(Scratch { released, .. }) = scratch() else { return none };
    let slot = released.pop();
    let Some(hello) = HELLOS.get_ptr(slot) else { return none };
    // SAFETY: a map value.
    let hello = unsafe { &*hello };
    // SAFETY: as above.
    let owner = unsafe { *owner(&hello.client) };
    if protocol_of(owner) == 0 { Choice { slot, owner } } else { none }
}

/// Of [`HELLO_CHOICE`] slots the one that was used longest ago.
#[inline(always)]
fn oldest(now: u64) -> Choice {
    let mut choice = Choice { slot: 0, owner: 0 };
    let Some(config) = CONFIG.get(0) else { return choice };
    let groups = config.hellos / HELLO_CHOICE;
    if groups == 0 {
        return choice;
    }
    let first = hello_cursor() % groups * HELLO_CHOICE;
    let mut oldest = u64::MAX;
    for i in 0..HELLO_CHOICE {
        let slot = first + i;
        let Some(hello) = HELLOS.get_ptr(slot) else { continue };
        // SAFETY: a map value.
        let hello = unsafe { &*hello };
        // SAFETY: as above.
        let owner = unsafe { *owner(&hello.client) };
        // One whose backend is about to answer comes last.
        let bound = hello.attempts != 0 && now.wrapping_sub(hello.last_seen) < BOUND;
        let used = if protocol_of(owner) == 0 {
            0
        } else if bound {
            hello.last_seen | 1 << 63
        } else {
            hello.last_seen
        };
        if slot != 0 && used < oldest {
            oldest = used;
            choice = Choice { slot, owner };
        }
    }
    choice
}

/// The slot, if it still belongs to this client.
#[inline(always)]
pub fn owned(slot: u32, client: &FlowKey) -> Option<&'static mut Hello> {
    if slot == 0 {
        return None;
    }
    // SAFETY: a map value. Segments of one connection may come on two CPUs: see [`enter`].
    let hello = HELLOS.get_ptr_mut(slot).map(|hello| unsafe { &mut *hello })?;
    if hello.client == *client { Some(hello) } else { None }
}

/// Takes a hello for this CPU alone, until it [leaves](leave). False: another one has it.
#[inline(always)]
pub fn enter(hello: &mut Hello) -> bool {
    atomic::compare_exchange(&raw mut hello.busy, 0, 1) == 0
}

/// Everything that was read or written before stays before.
#[inline(always)]
pub fn leave(hello: &mut Hello) {
    atomic::compare_exchange(&raw mut hello.busy, 1, 0);
}

#[inline(always)]
pub fn release(hello: &mut Hello) {
    hello.client.protocol = 0;
    if let Some(Scratch { released, .. }) = scratch() {
        released.push(hello.slot);
    }
}

/// Copies the payload to its place, as far as it is new. 0: the kernel refused.
#[inline(never)]
pub fn keep(frame: Tc, packet: &Packet, hello: &mut Hello) -> u32 {
    let offset = packet.sequence.wrapping_sub(hello.client_sequence) as i32;
    let end = offset + packet.payload as i32;
    let from = if offset > hello.length as i32 { offset } else { hello.length as i32 };
    let to = if end < HELLO_BYTES as i32 { end } else { HELLO_BYTES as i32 };
    if packet.payload > 0xffff || from >= to {
        return 1;
    }
    let mut copy = Copy {
        frame,
        hello,
        left: (to - from) as u32,
        source: ETHERNET + packet.total - packet.payload + (from - offset) as u32,
        place: from as u32,
    };
    // SAFETY: the callback has the signature that the kernel calls, the context outlives the call.
    unsafe {
        bpf_loop(PIECES, copy_piece as *const () as *mut c_void, core::ptr::from_mut(&mut copy).cast(), 0);
    }
    if copy.left != 0 {
        return 0;
    }
    stash::add(&mut hello.length, &mut hello.islands, from as u32, to as u32);
    1
}

/// Pieces of a hello.
const PIECES: u32 = (HELLO_BYTES / HELLO_PIECE) as u32;

/// A copy from the frame into a slot.
#[repr(C)]
struct Copy {
    frame: Tc,
    hello: *mut Hello,
    left: u32,
    /// Offset in the frame.
    source: u32,
    /// Offset in the hello.
    place: u32,
}

extern "C" fn copy_piece(_index: u32, copy: *mut Copy) -> i64 {
    // SAFETY: the context of the call.
    let copy = unsafe { &mut *copy };
    let piece = opaque(if copy.left < HELLO_PIECE as u32 { copy.left } else { HELLO_PIECE as u32 } as u64);
    if piece == 0 || piece > HELLO_PIECE as u64 {
        return 1;
    }
    let at = opaque(copy.place as u64) as usize & (HELLO_BYTES - 1);
    // SAFETY: a piece fits behind the last byte.
    let to = unsafe { (&raw mut (*copy.hello).bytes).cast::<u8>().add(at) };
    if !copy.frame.load(copy.source, to, piece as u32) {
        return 1;
    }
    copy.left -= piece as u32;
    copy.source += piece as u32;
    copy.place += piece as u32;
    0
}

/// Refuses a client whose segment this is.
#[inline(always)]
fn turn_away(frame: Tc, packet: &Packet, hello: &mut Hello, listener: u32, reason: Reason) -> i32 {
    if deny(frame, packet, hello, listener, reason) == 0 {
        return broken(frame);
    }
    segment::turn(frame, packet)
}

/// Makes the frame what a client with a hello is refused with: the alert of the reason, and FIN. 0: the kernel refused.
#[inline(never)]
pub fn deny(frame: Tc, packet: &Packet, hello: &mut Hello, listener: u32, reason: Reason) -> u32 {
    count::dropped(reason);
    count::refused(reason, &hello.client, listener);
    let code = match reason {
        Reason::NotTls => alert::UNEXPECTED_MESSAGE,
        Reason::MalformedHello => alert::DECODE_ERROR,
        _ => alert::INTERNAL_ERROR,
    };
    let handshake = Handshake {
        client_sequence: hello.client_sequence,
        our_sequence: hello.our_sequence,
        options: hello.options,
        alert: code,
        _pad: [0; 2],
    };
    forget(&hello.client);
    let _ = HANDSHAKES.insert(&hello.client, &handshake, BPF_ANY as u64);
    let end = hello.client_sequence.wrapping_add(hello.length);
    let written = write_alert(frame, packet, &hello.client, &handshake, end);
    release(hello);
    written
}

/// Makes the frame an alert to the client. 0: the kernel refused.
#[inline(never)]
fn write_alert(frame: Tc, packet: &Packet, client: &FlowKey, handshake: &Handshake, acknowledgement: u32) -> u32 {
    let Some(scratch) = scratch() else { return 0 };
    let segment = &mut scratch.segment;
    segment.answer(client);
    segment.numbers(handshake.our_sequence, acknowledgement, ACK | PSH | FIN, 0);
    // Alert, TLS 1.2, two bytes: fatal, description.
    let record = u64::from_le_bytes([21, 3, 3, 0, 2, 2, handshake.alert, 0]);
    segment.payload = alert::LENGTH;
    segment.sum =
        record as u16 as u32 + (record >> 16) as u16 as u32 + (record >> 32) as u16 as u32 + (record >> 48) as u32;
    if segment::write(frame, packet, segment) == 0 {
        return 0;
    }
    let bytes = record.to_le_bytes();
    segment::store(frame, packet.transport + 20, bytes.as_ptr(), alert::LENGTH) as u32
}

/// A client that was refused goes on: it has not heard so, or closes its side.
#[inline(never)]
fn refused(frame: Tc, packet: &Packet, handshake: &Handshake) -> i32 {
    let fin = packet.flags & FIN != 0;
    let end = packet.sequence.wrapping_add(packet.payload).wrapping_add(fin as u32);
    let first = handshake.our_sequence;
    if packet.acknowledgement == first && end != packet.sequence {
        if write_alert(frame, packet, &packet.key, handshake, end) == 0 {
            return broken(frame);
        }
        return segment::turn(frame, packet);
    }
    if !fin {
        return Tc::DROP;
    }
    segment::acknowledge(frame, packet, first.wrapping_add(alert::LENGTH + 1), end, 0)
}
