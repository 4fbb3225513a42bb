//! Stage: the server name, from the bytes of a ClientHello to an entry of SNI.

use core::ffi::c_void;

use aya_ebpf::helpers::bpf_loop;
use aya_ebpf::helpers::generated::bpf_probe_read_kernel;
use gateway_common::client_hello::{Bytes, Deframe, Deframed, Progress, STEPS, Walk};
use gateway_common::{Address, FlowKey, HELLO_BYTES, Hello, SniKey, SniName, server_name};

use crate::atomic;
use crate::frame::opaque;
use crate::maps::{SNI, Scratch, scratch};

const MASK: u64 = HELLO_BYTES as u64 - 1;

/// Bytes of a map value with room for [`HELLO_BYTES`].
#[derive(Clone, Copy)]
struct Kept(*const u8);

impl Bytes for Kept {
    #[inline(always)]
    fn byte(self, offset: u32) -> u8 {
        // SAFETY: the mask keeps it in the value; the verifier checks.
        unsafe { *self.0.add((opaque(offset as u64) & MASK) as usize) }
    }
}

/// What [`read`] is doing.
#[repr(C)]
struct Reading {
    walk: Walk,
    deframe: Deframe,
    /// Of the record that is read, or of the message without record headers.
    bytes: *const u8,
    length: u32,
    progress: Progress,
    /// Something that is no handshake record comes before the message is whole.
    broken: bool,
}

impl Reading {
    #[inline(always)]
    fn new() -> Reading {
        Reading {
            walk: Walk::default(),
            deframe: Deframe::default(),
            bytes: core::ptr::null(),
            length: 0,
            progress: Progress::Going,
            broken: false,
        }
    }
}

/// Looks for the server name in what has come, and copies it into working memory, with its length into `length` (0 if there is none).
/// `Going`: there are more extensions than are walked over.
#[inline(never)]
pub fn read(hello: &Hello, length: &mut u32) -> Progress {
    let reading = &mut Reading::new();
    reading.bytes = hello.bytes.as_ptr();
    reading.length = hello.length;
    reading.progress = reading.walk.record(Kept(reading.bytes), reading.length);
    let context = core::ptr::from_mut(reading).cast::<c_void>();
    if reading.progress == Progress::Records {
        // SAFETY: the callbacks have the signature that the kernel calls, the context outlives the calls.
        unsafe { bpf_loop(2 * HELLO_BYTES as u32, deframe as *const () as *mut c_void, context, 0) };
        let Some(scratch) = scratch() else { return Progress::Malformed };
        reading.bytes = scratch.message.as_ptr();
        reading.walk.base = 0;
        reading.walk.available = reading.deframe.to;
        reading.progress = Progress::Going;
    }
    if reading.progress == Progress::Going {
        reading.progress = reading.walk.start(Kept(reading.bytes));
    }
    if reading.progress == Progress::Going {
        // SAFETY: as above.
        unsafe { bpf_loop(STEPS, extension as *const () as *mut c_void, context, 0) };
    }
    *length = if reading.progress == Progress::Named { keep(reading) } else { 0 };
    // What is missing will not come in such a record, and a name has at least one byte.
    let wrong =
        reading.broken && reading.progress == Progress::Short || reading.progress == Progress::Named && *length == 0;
    if wrong { Progress::Malformed } else { reading.progress }
}

/// One byte or record header.
unsafe extern "C" fn deframe(_index: u32, reading: *mut Reading) -> i64 {
    // SAFETY: the context of the call.
    let reading = unsafe { &mut *reading };
    let Some(scratch) = scratch() else { return 1 };
    match reading.deframe.step(Kept(reading.bytes), reading.length) {
        Deframed::Byte(byte) => {
            let at = opaque(reading.deframe.to as u64 - 1) & MASK;
            scratch.message[at as usize] = byte;
            0
        }
        Deframed::Header => 0,
        Deframed::End => 1,
        Deframed::Wrong => {
            reading.broken = true;
            1
        }
    }
}

/// One extension.
unsafe extern "C" fn extension(_index: u32, reading: *mut Reading) -> i64 {
    // SAFETY: the context of the call.
    let reading = unsafe { &mut *reading };
    reading.progress = reading.walk.step(Kept(reading.bytes));
    (reading.progress != Progress::Going) as i64
}

/// Copies the name that was read into working memory, which is cleared as far as events show it. 0: it is too long.
#[inline(never)]
fn keep(reading: &Reading) -> u32 {
    let Some(scratch) = scratch() else { return 0 };
    let words = scratch.name.as_mut_ptr().cast::<u64>();
    for i in 0..8 {
        // SAFETY: 64 of 256 bytes, at a multiple of 8.
        unsafe { *words.add(i) = 0 };
    }
    let length = opaque(reading.walk.name_length as u64);
    if length == 0 || length > server_name::LONGEST as u64 {
        return 0;
    }
    // SAFETY: the name lies in the value, and has room; the verifier checks both.
    unsafe {
        let from = reading.bytes.add((opaque(reading.walk.name as u64) & MASK) as usize);
        if bpf_probe_read_kernel(scratch.name.as_mut_ptr().cast(), length as u32, from.cast()) != 0 {
            return 0;
        }
    }
    scratch.named = true;
    length as u32
}

/// The walk over a name, from its end. In working memory: of what is on the stack the verifier follows every value.
#[repr(C)]
pub struct Search {
    hash: u64,
    /// Of the longest wildcard that matches.
    wildcard: u64,
    address: Address,
    port: u32,
    /// Bytes not read yet.
    left: u32,
    labels: u32,
    wildcards: u32,
    /// Bytes of the label under way.
    label: u32,
    /// Set if [`Search::wildcard`] is.
    matched: bool,
    bad: bool,
}

/// What [`find`] answers beside an entry.
pub mod found {
    pub const NONE: u32 = 0;
    pub const NAME: u32 = 1;
    /// What the client asks for can be nobody's name.
    pub const NO_NAME: u32 = 2;
}

/// The entry for the name of `length` bytes in working memory (0: there is none), by exact name, then by the longest wildcard.
#[inline(never)]
pub fn find(key: &FlowKey, wildcards: u32, length: u32, entry: &mut *mut SniName) -> u32 {
    let Some(scratch) = scratch() else { return found::NONE };
    let search = &mut scratch.search;
    search.hash = server_name::EMPTY;
    search.wildcard = server_name::finish(server_name::EMPTY);
    search.address = key.destination;
    search.port = key.destination_port as u32;
    search.left = length;
    search.labels = 0;
    search.wildcards = wildcards;
    search.label = 0;
    search.matched = wildcards & 1 != 0;
    search.bad = false;
    let mut memory: *mut Scratch = scratch;
    if length != 0 {
        let context = core::ptr::from_mut(&mut memory).cast::<c_void>();
        // SAFETY: as above.
        unsafe { bpf_loop(server_name::LONGEST as u32, byte as *const () as *mut c_void, context, 0) };
        // SAFETY: working memory.
        let search = unsafe { &(*memory).search };
        if search.bad || search.label == 0 {
            return found::NO_NAME;
        }
        if let Some(name) = lookup(search, server_name::finish(search.hash), 0) {
            *entry = name;
            return found::NAME;
        }
    }
    // SAFETY: as above.
    let search = unsafe { &(*memory).search };
    if search.matched
        && let Some(name) = lookup(search, search.wildcard, 1)
    {
        *entry = name;
        return found::NAME;
    }
    found::NONE
}

/// One byte.
unsafe extern "C" fn byte(_index: u32, memory: *mut *mut Scratch) -> i64 {
    // SAFETY: the context of the call, which must be on the stack, points to working memory.
    let Scratch { search, name, .. } = unsafe { &mut **memory };
    if search.left == 0 {
        return 1;
    }
    search.left -= 1;
    let place = &mut name[(opaque(search.left as u64) & 255) as usize];
    let byte = server_name::lower(*place);
    *place = byte;
    let Some(label) = server_name::label(search.label, byte) else {
        search.bad = true;
        return 1;
    };
    search.label = label;
    if label == 0 {
        search.labels += 1;
        if search.wildcards & server_name::wildcard_bit(search.labels) != 0 {
            let hash = server_name::finish(search.hash);
            if lookup(search, hash, 1).is_some() {
                search.wildcard = hash;
                search.matched = true;
            }
        }
    }
    search.hash = server_name::step(search.hash, byte);
    0
}

#[inline(always)]
fn lookup(search: &Search, hash: u64, wildcard: u8) -> Option<*mut SniName> {
    let key = SniKey { address: search.address, hash, port: search.port as u16, wildcard, _pad: [0; 5] };
    SNI.get_ptr_mut(&key)
}

/// Counts a connection that came by this name.
#[inline(always)]
pub fn hit(name: *mut SniName) {
    // SAFETY: a map value; only its counter is written here.
    atomic::increment(unsafe { &raw mut (*name).hits });
}
