//! Stage: a TLS listener. The client's connection is accepted here, without state; its ClientHello is kept until the server name
//! in it is known. Then [`crate::bind`] takes over.

use core::ffi::c_void;

use aya_ebpf::bindings::{BPF_ANY, BPF_NOEXIST};
use aya_ebpf::helpers::bpf_loop;
use gateway_common::client_hello::Progress;
use gateway_common::cookie::{self, Proof, WINDOW_SCALE as OWN_SCALE};
use gateway_common::{
    FlowKey, HELLO_BYTES, HELLO_CHOICE, HELLO_PIECE, Handshake, Hello, Island, Listener, Reason, SniName, sni_mode,
    splice, stash,
};

use crate::bind;
use crate::count;
use crate::frame::{ETHERNET, Frame, Tc, opaque};
use crate::headers::{ACK, FIN, PSH, RST, SYN};
use crate::maps::{CONFIG, COOKIE_KEY, HANDSHAKES, HELLOS, hello_cursor, scratch};
use crate::name::{self, Reading, found};
use crate::options;
use crate::parse::{Packet, fragment};
use crate::refuse::{broken, refuse};
use crate::segment::{self, Segment};

/// A hello that fills the window but for so much is as full as it gets: the window is told in steps of this.
const FULL: u32 = HELLO_BYTES as u32 - (1 << OWN_SCALE);

/// How long a slot counts as bound after its client's last packet, ns.
const BOUND: u64 = 30_000_000_000;

/// TLS alert descriptions (RFC 8446 section 6).
pub mod alert {
    pub const UNEXPECTED_MESSAGE: u8 = 10;
    pub const DECODE_ERROR: u8 = 50;
    pub const INTERNAL_ERROR: u8 = 80;
    pub const UNRECOGNIZED_NAME: u8 = 112;
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
        return give_up(frame, packet);
    }
    let mut handshake = known(&packet.key, packet);
    if handshake.is_null() {
        match prove(packet, now) {
            Proof::Client(options) => handshake = remember(packet, options),
            Proof::Later => return refuse(frame, packet, listener.id, Reason::EarlySegment, 0),
            Proof::Nothing => return refuse(frame, packet, listener.id, Reason::UnknownConnection, 0),
        }
    }
    // SAFETY: a map value or null.
    let Some(handshake) = (unsafe { handshake.as_mut() }) else { return broken(frame) };
    if handshake.alert != 0 {
        return refused(frame, packet, handshake);
    }
    if packet.payload == 0 && packet.flags & FIN == 0 {
        // A keep-alive of a client that has nothing to say yet (RFC 9293 section 3.8.4).
        let alive = handshake.hello == 0 && packet.sequence == handshake.client_sequence.wrapping_sub(1);
        return if alive { acknowledge(frame, packet, handshake, 0) } else { Tc::DROP };
    }
    collect(frame, packet, listener, handshake, now)
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

/// The handshake that this segment belongs to, or null.
#[inline(never)]
pub fn known(key: &FlowKey, packet: &Packet) -> *mut Handshake {
    let Some(handshake) = HANDSHAKES.get_ptr_mut(key) else { return core::ptr::null_mut() };
    // SAFETY: a map value.
    let ours = unsafe { (*handshake).our_sequence };
    // It may acknowledge an alert and the FIN after it.
    if packet.acknowledgement.wrapping_sub(ours) <= alert::LENGTH + 1 { handshake } else { core::ptr::null_mut() }
}

/// Keeps what the client has proved.
#[inline(never)]
fn remember(packet: &Packet, options: cookie::Options) -> *mut Handshake {
    let handshake = Handshake {
        client_sequence: packet.sequence,
        our_sequence: packet.acknowledgement,
        hello: 0,
        options: options.0,
        alert: 0,
        _pad: [0; 2],
    };
    // The first data may have come on another CPU meanwhile.
    let first = HANDSHAKES.insert(&packet.key, &handshake, BPF_NOEXIST as u64).is_ok();
    if !first {
        let handshake = known(&packet.key, packet);
        if !handshake.is_null() {
            return handshake;
        }
    }
    if !first && HANDSHAKES.insert(&packet.key, &handshake, BPF_ANY as u64).is_err() {
        return core::ptr::null_mut();
    }
    HANDSHAKES.get_ptr_mut(&packet.key).unwrap_or(core::ptr::null_mut())
}

/// A RST that belongs to no flow.
#[inline(never)]
fn give_up(frame: Tc, packet: &Packet) -> i32 {
    if let Some(handshake) = HANDSHAKES.get_ptr(&packet.key) {
        // SAFETY: a map value.
        let (first, slot) = unsafe { ((*handshake).client_sequence, (*handshake).hello) };
        if packet.sequence.wrapping_sub(first) <= HELLO_BYTES as u32 {
            if let Some(hello) = owned(slot, &packet.key) {
                release(hello);
            }
            let _ = HANDSHAKES.remove(&packet.key);
            return Tc::DROP;
        }
    }
    refuse(frame, packet, 0, Reason::StrayReset, 0)
}

/// More of a ClientHello, or the first of it.
#[inline(never)]
fn collect(frame: Tc, packet: &Packet, listener: &Listener, handshake: &mut Handshake, now: u64) -> i32 {
    if handshake.hello == 0 {
        handshake.hello = claim(packet, handshake, now);
    }
    let slot = handshake.hello;
    let Some(hello) = owned(slot, &packet.key) else {
        let _ = HANDSHAKES.remove(&packet.key);
        return refuse(frame, packet, listener.id, Reason::HelloEvicted, 0);
    };
    hello.last_seen = now;
    hello.window = packet.window;
    let before = hello.length;
    if keep(frame, packet, hello) == 0 {
        return broken(frame);
    }
    // Nothing new to read: a client must not make the kernel read the same bytes over and over.
    if hello.length == before && packet.flags & FIN == 0 {
        return acknowledge(frame, packet, handshake, before);
    }
    let mut reading = Reading::new();
    match name::read(hello, &mut reading) {
        Progress::Named => {
            let length = name::keep(&reading);
            if length == 0 {
                return turn_away(frame, packet, hello, listener.id, Reason::MalformedHello);
            }
            route(frame, packet, listener, slot, length)
        }
        Progress::Nameless => route(frame, packet, listener, slot, 0),
        Progress::NotTls => turn_away(frame, packet, hello, listener.id, Reason::NotTls),
        Progress::Malformed => turn_away(frame, packet, hello, listener.id, Reason::MalformedHello),
        Progress::Short if hello.length < FULL => {
            let end = packet.sequence.wrapping_add(packet.payload);
            if packet.flags & FIN != 0 && end == hello.client_sequence.wrapping_add(hello.length) {
                release(hello);
                let _ = HANDSHAKES.remove(&packet.key);
                return refuse(frame, packet, listener.id, Reason::HelloAbandoned, 0);
            }
            acknowledge(frame, packet, handshake, hello.length)
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
    if mode == sni_mode::TERMINATE {
        return bind::later(slot, bind::to_agent(packet.v6), id);
    }
    if mode == sni_mode::PASSTHROUGH && set != 0 {
        return bind::later(slot, bind::to_set(set), id);
    }
    let Some(hello) = owned(slot, &packet.key) else { return broken(frame) };
    let reason = if found == found::NO_NAME { Reason::MalformedHello } else { Reason::UnrecognizedName };
    turn_away(frame, packet, hello, id, reason)
}

/// Acknowledges so many bytes.
#[inline(never)]
fn acknowledge(frame: Tc, packet: &Packet, handshake: &Handshake, length: u32) -> i32 {
    let Some(scratch) = scratch() else { return broken(frame) };
    let segment = &mut scratch.segment;
    segment.answer(&packet.key);
    let window = splice::own_window(HELLO_BYTES as u32 - length, cookie::Options(handshake.options).scale());
    segment.numbers(handshake.our_sequence, handshake.client_sequence.wrapping_add(length), ACK, window);
    segment::send_back(frame, packet, segment).unwrap_or_else(|| broken(frame))
}

/// Takes a slot: of [`HELLO_CHOICE`] the one that was used longest ago. 0: there is none.
#[inline(never)]
fn claim(packet: &Packet, handshake: &Handshake, now: u64) -> u32 {
    let Some(config) = CONFIG.get(0) else { return 0 };
    let groups = config.hellos / HELLO_CHOICE;
    if groups == 0 {
        return 0;
    }
    let first = hello_cursor() % groups * HELLO_CHOICE;
    let (mut slot, mut oldest) = (0, u64::MAX);
    for i in 0..HELLO_CHOICE {
        let index = first + i;
        let Some(hello) = HELLOS.get_ptr(index) else { continue };
        // SAFETY: a map value.
        let hello = unsafe { &*hello };
        // One whose backend is about to answer comes last.
        let bound = hello.attempts != 0 && now.wrapping_sub(hello.last_seen) < BOUND;
        let used = if hello.client.protocol == 0 {
            0
        } else if bound {
            hello.last_seen | 1 << 63
        } else {
            hello.last_seen
        };
        if index != 0 && used < oldest {
            (slot, oldest) = (index, used);
        }
    }
    let Some(hello) = HELLOS.get_ptr_mut(slot) else { return 0 };
    // SAFETY: a map value, from now on this connection's.
    let hello = unsafe { &mut *hello };
    hello.client = packet.key;
    hello.last_seen = now;
    hello.hash = 0;
    hello.client_sequence = handshake.client_sequence;
    hello.our_sequence = handshake.our_sequence;
    hello.length = 0;
    hello.prelude = 0;
    hello.acknowledged = 0;
    hello.sent = 0;
    hello.options = handshake.options;
    hello.attempts = 0;
    hello.syns = 0;
    hello.islands = [Island { start: 0, end: 0 }; 4];
    hello.backend_set = 0;
    hello.edge = 0;
    hello.sent_at = 0;
    slot
}

/// The slot, if it still belongs to this client.
#[inline(always)]
pub fn owned(slot: u32, client: &FlowKey) -> Option<&'static mut Hello> {
    if slot == 0 {
        return None;
    }
    // SAFETY: a map value. Segments of one connection may come on two CPUs: what they write is theirs alone by protocol.
    let hello = HELLOS.get_ptr_mut(slot).map(|hello| unsafe { &mut *hello })?;
    if hello.client == *client { Some(hello) } else { None }
}

#[inline(always)]
pub fn release(hello: &mut Hello) {
    hello.client.protocol = 0;
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
    segment::back(frame, packet).unwrap_or_else(|| broken(frame))
}

/// Makes the frame what a client with a hello is refused with: the alert of the reason, and FIN. 0: the kernel refused.
#[inline(never)]
pub fn deny(frame: Tc, packet: &Packet, hello: &mut Hello, listener: u32, reason: Reason) -> u32 {
    count::dropped(reason);
    count::refused(reason, &hello.client, listener);
    let code = match reason {
        Reason::NotTls => alert::UNEXPECTED_MESSAGE,
        Reason::MalformedHello => alert::DECODE_ERROR,
        Reason::UnrecognizedName => alert::UNRECOGNIZED_NAME,
        _ => alert::INTERNAL_ERROR,
    };
    let handshake = Handshake {
        client_sequence: hello.client_sequence,
        our_sequence: hello.our_sequence,
        hello: 0,
        options: hello.options,
        alert: code,
        _pad: [0; 2],
    };
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
        return segment::back(frame, packet).unwrap_or_else(|| broken(frame));
    }
    if !fin {
        return Tc::DROP;
    }
    let Some(scratch) = scratch() else { return broken(frame) };
    let segment = &mut scratch.segment;
    segment.answer(&packet.key);
    segment.numbers(first.wrapping_add(alert::LENGTH + 1), end, ACK, 0);
    segment::send_back(frame, packet, segment).unwrap_or_else(|| broken(frame))
}
