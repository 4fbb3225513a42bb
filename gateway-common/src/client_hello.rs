//! Finds the server name in the first bytes of a TLS connection (RFC 8446 section 4.1.2, RFC 5246 section 7.4.1.2, RFC 6066
//! section 3).
//!
//! The kernel runs this over what it has kept of a connection, so there are no loops: a [`Walk`] and a [`Deframe`] are moved on
//! by their caller (`bpf_loop` there, `while` in [`read`]). The walk stops as soon as the name is known: whatever comes after
//! it is the backend's business.

use crate::HELLO_BYTES;

/// Bytes by their offset; 0 beyond the last. Callers check lengths first.
pub trait Bytes: Copy {
    fn byte(self, offset: u32) -> u8;

    #[inline(always)]
    fn word(self, offset: u32) -> u32 {
        (self.byte(offset) as u32) << 8 | self.byte(offset + 1) as u32
    }
}

impl Bytes for &[u8] {
    fn byte(self, offset: u32) -> u8 {
        self.get(offset as usize).copied().unwrap_or(0)
    }
}

/// What is known of a ClientHello.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Progress {
    /// Nothing yet: take the next step.
    Going = 0,
    /// Nothing without more bytes.
    Short = 1,
    /// A name: [`Walk::name`], [`Walk::name_length`].
    Named = 2,
    /// No name in the whole of it.
    Nameless = 3,
    /// No TLS handshake record, or another message than a ClientHello.
    NotTls = 4,
    /// Lengths contradict each other.
    Malformed = 5,
    /// The message goes on in another record: [`Deframe`] first.
    Records = 6,
}

const HANDSHAKE: u8 = 22;
const CLIENT_HELLO: u8 = 1;
const SERVER_NAME: u32 = 0;
const HOST_NAME: u8 = 0;
/// Content type, version, length (RFC 8446 section 5.1).
const RECORD_HEADER: u32 = 5;
const LARGEST_RECORD: u32 = 1 << 14;
/// Message type and length.
const MESSAGE_HEADER: u32 = 4;
/// Of the length of the session id: after version and random.
const SESSION_ID: u32 = MESSAGE_HEADER + 2 + 32;
/// Extensions that are walked over at the most.
pub const STEPS: u32 = 128;

/// Walks over the handshake message. Offsets are from its first byte.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Walk {
    /// Where the message starts in the bytes.
    pub base: u32,
    /// Bytes of it that are there.
    pub available: u32,
    /// The first offset after the message.
    end: u32,
    /// Of the next extension.
    offset: u32,
    /// [`Progress::Named`]: where the name is, from the first of the bytes.
    pub name: u32,
    pub name_length: u32,
}

impl Walk {
    /// The message in a single TLS record at the first of `length` bytes.
    #[inline(always)]
    pub fn record(&mut self, bytes: impl Bytes, length: u32) -> Progress {
        // Also when little has come: a client that speaks first something else waits for an answer.
        if length >= 1 && bytes.byte(0) != HANDSHAKE || length >= 2 && bytes.byte(1) != 3 {
            return Progress::NotTls;
        }
        if length < RECORD_HEADER + MESSAGE_HEADER {
            return Progress::Short;
        }
        let record = bytes.word(3);
        if bytes.byte(RECORD_HEADER) != CLIENT_HELLO {
            return Progress::NotTls;
        }
        if record == 0 || record > LARGEST_RECORD {
            return Progress::Malformed;
        }
        self.base = RECORD_HEADER;
        if record < MESSAGE_HEADER || record < MESSAGE_HEADER + self.message(bytes) {
            return Progress::Records;
        }
        let rest = length - RECORD_HEADER;
        self.available = if rest < record { rest } else { record };
        Progress::Going
    }

    /// Length of the message's body.
    #[inline(always)]
    fn message(&self, bytes: impl Bytes) -> u32 {
        (bytes.byte(self.base + 1) as u32) << 16 | bytes.word(self.base + 2)
    }

    /// What comes before the extensions. `base` and `available` are set.
    #[inline(always)]
    pub fn start(&mut self, bytes: impl Bytes) -> Progress {
        if self.available < MESSAGE_HEADER {
            return Progress::Short;
        }
        let body = self.message(bytes);
        // First of all: of a message that is too short for a hello no more bytes come.
        if !(SESSION_ID + 1 - MESSAGE_HEADER..=0xffff).contains(&body) {
            return Progress::Malformed;
        }
        self.end = MESSAGE_HEADER + body;
        if self.available <= SESSION_ID {
            return Progress::Short;
        }
        let session_id = bytes.byte(self.base + SESSION_ID) as u32;
        if session_id > 32 {
            return Progress::Malformed;
        }
        let mut offset = SESSION_ID + 1 + session_id;
        if offset + 2 > self.end {
            return Progress::Malformed;
        }
        if offset + 2 > self.available {
            return Progress::Short;
        }
        let ciphers = bytes.word(self.base + offset);
        offset += 2 + ciphers;
        if ciphers == 0 || ciphers & 1 != 0 || offset + 1 > self.end {
            return Progress::Malformed;
        }
        if offset + 1 > self.available {
            return Progress::Short;
        }
        let compressions = bytes.byte(self.base + offset) as u32;
        offset += 1 + compressions;
        if compressions == 0 || offset > self.end {
            return Progress::Malformed;
        }
        // Extensions may be left out as a whole (RFC 5246 section 7.4.1.2).
        if offset == self.end {
            return if offset <= self.available { Progress::Nameless } else { Progress::Short };
        }
        if offset + 2 > self.end {
            return Progress::Malformed;
        }
        if offset + 2 > self.available {
            return Progress::Short;
        }
        let extensions = bytes.word(self.base + offset);
        offset += 2;
        if offset + extensions != self.end {
            return Progress::Malformed;
        }
        self.offset = offset;
        Progress::Going
    }

    /// One extension.
    #[inline(always)]
    pub fn step(&mut self, bytes: impl Bytes) -> Progress {
        let offset = self.offset;
        if offset == self.end {
            return if offset <= self.available { Progress::Nameless } else { Progress::Short };
        }
        if offset + 4 > self.end {
            return Progress::Malformed;
        }
        if offset + 4 > self.available {
            return Progress::Short;
        }
        let kind = bytes.word(self.base + offset);
        let length = bytes.word(self.base + offset + 2);
        let next = offset + 4 + length;
        if next > self.end {
            return Progress::Malformed;
        }
        if kind != SERVER_NAME {
            self.offset = next;
            return Progress::Going;
        }
        if next > self.available {
            return Progress::Short;
        }
        // One name of the only type there is.
        if length < 6 || bytes.byte(self.base + offset + 6) != HOST_NAME {
            return Progress::Malformed;
        }
        let list = bytes.word(self.base + offset + 4);
        let name = bytes.word(self.base + offset + 7);
        if list + 2 != length || name + 5 != length {
            return Progress::Malformed;
        }
        self.name = self.base + offset + 9;
        self.name_length = name;
        Progress::Named
    }
}

/// Takes the record headers out of a hello that comes in several records, byte by byte.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Deframe {
    /// Of the next byte that is read, and of the next that is written.
    pub from: u32,
    pub to: u32,
    /// Bytes left in the record.
    left: u32,
}

/// What [`Deframe::step`] did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Deframed {
    /// This byte is the next of the message.
    Byte(u8),
    Header,
    /// The bytes are used up.
    End,
    /// This is no handshake record.
    Wrong,
}

impl Deframe {
    /// `length`: of what is there.
    #[inline(always)]
    pub fn step(&mut self, bytes: impl Bytes, length: u32) -> Deframed {
        if self.left > 0 {
            if self.from >= length {
                return Deframed::End;
            }
            let byte = bytes.byte(self.from);
            self.from += 1;
            self.to += 1;
            self.left -= 1;
            return Deframed::Byte(byte);
        }
        if self.from + RECORD_HEADER > length {
            return Deframed::End;
        }
        let record = bytes.word(self.from + 3);
        // An empty handshake record is forbidden (RFC 8446 section 5.1).
        if bytes.byte(self.from) != HANDSHAKE || record == 0 || record > LARGEST_RECORD {
            return Deframed::Wrong;
        }
        self.from += RECORD_HEADER;
        self.left = record;
        Deframed::Header
    }
}

/// What [`read`] found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Read {
    pub progress: Progress,
    /// Where the name lies in the message, if it is [`Progress::Named`].
    pub name: u32,
    pub name_length: u32,
}

/// The server name in the first bytes of a connection, as the kernel reads it but in one call. `message` has room for the hello
/// without record headers: where the name is if [`Read::name`] is an offset into it. Bytes that the kernel would not keep are not read.
pub fn read(bytes: &[u8], message: &mut [u8; HELLO_BYTES]) -> Read {
    let bytes = &bytes[..bytes.len().min(HELLO_BYTES)];
    let length = bytes.len() as u32;
    let mut walk = Walk::default();
    let mut view = bytes;
    let mut progress = walk.record(view, length);
    let mut wrong = false;
    if progress == Progress::Records {
        let mut deframe = Deframe::default();
        while deframe.to < HELLO_BYTES as u32 {
            match deframe.step(bytes, length) {
                Deframed::Byte(byte) => message[deframe.to as usize - 1] = byte,
                Deframed::Header => {}
                Deframed::End => break,
                Deframed::Wrong => {
                    wrong = true;
                    break;
                }
            }
        }
        walk = Walk { available: deframe.to, ..Walk::default() };
        view = &*message;
        progress = Progress::Going;
    } else {
        message[..bytes.len()].copy_from_slice(bytes);
    }
    if progress == Progress::Going {
        progress = walk.start(view);
    }
    let mut steps = 0;
    while progress == Progress::Going && steps < STEPS {
        progress = walk.step(view);
        steps += 1;
    }
    // Nothing that is missing will come in such a record.
    if wrong && progress == Progress::Short {
        progress = Progress::Malformed;
    }
    Read { progress, name: walk.name, name_length: walk.name_length }
}
