//! TCP options: what a SYN and a SYN-ACK offer, and where a segment has its SACK blocks.

use core::ffi::c_void;

use aya_ebpf::helpers::bpf_loop;

use crate::frame::{Frame, opaque};
use crate::maps::{Scratch, scratch};
use crate::parse::Packet;

/// Most bytes of options in a TCP header.
const LONGEST: u32 = 40;

const END: u8 = 0;
const NOP: u8 = 1;
pub const MSS: u8 = 2;
pub const WINDOW_SCALE: u8 = 3;
pub const SACK_PERMITTED: u8 = 4;
const SACK: u8 = 5;
/// Of the four SACK blocks that there is room for.
pub const EDGES: u32 = 8;

/// What [`read`] found; in working memory.
#[repr(C)]
pub struct Options {
    /// A power of two beyond what an option at the last byte reads.
    bytes: [u8; 64],
    offset: u32,
    length: u32,
    /// 0: none.
    pub mss: u16,
    pub sack: bool,
    scale: u8,
    /// Where the edges of the SACK blocks start, from the first byte of the options, and how many there are.
    pub blocks: u32,
    pub edges: u32,
}

impl Options {
    #[inline(always)]
    pub fn scale(&self) -> Option<u8> {
        if self.scale == NO_SCALE { None } else { Some(self.scale) }
    }
}

const NO_SCALE: u8 = 0xff;

/// Reads the options of the segment into working memory; what cannot be read counts as not offered.
#[inline(never)]
pub fn read<F: Frame>(frame: F, packet: &Packet) -> u32 {
    let Some(Scratch { options, .. }) = scratch() else { return 0 };
    options.mss = 0;
    options.sack = false;
    options.scale = NO_SCALE;
    options.blocks = 0;
    options.edges = 0;
    options.offset = 0;
    let length = opaque(packet.header as u64 - 20);
    if length == 0 || length > LONGEST as u64 {
        return 0;
    }
    options.length = length as u32;
    if !frame.load(packet.transport + 20, options.bytes.as_mut_ptr(), length as u32) {
        return 0;
    }
    let mut walk: *mut Options = options;
    // SAFETY: the callback has the signature that the kernel calls, the context outlives the call.
    unsafe {
        bpf_loop(LONGEST, step as *const () as *mut c_void, core::ptr::from_mut(&mut walk).cast(), 0);
    }
    1
}

/// One option.
extern "C" fn step(_index: u32, options: *mut *mut Options) -> i64 {
    // SAFETY: the context of the call, which must be on the stack, points to working memory.
    let options = unsafe { &mut **options };
    let offset = options.offset;
    if offset >= options.length {
        return 1;
    }
    let at = opaque(offset as u64) as usize & 63;
    let kind = options.bytes[at];
    if kind == END {
        return 1;
    }
    if kind == NOP {
        options.offset = offset + 1;
        return 0;
    }
    let next = |n: usize| options.bytes[(opaque(at as u64) as usize + n) & 63];
    let length = next(1);
    if length < 2 || offset + length as u32 > options.length {
        return 1;
    }
    let (first, second) = (next(2), next(3));
    match kind {
        MSS if length == 4 => options.mss = (first as u16) << 8 | second as u16,
        WINDOW_SCALE if length == 3 => options.scale = if first > 14 { 14 } else { first },
        SACK_PERMITTED if length == 2 => options.sack = true,
        SACK => {
            options.blocks = offset + 2;
            options.edges = (length as u32 - 2) / 8 * 2;
        }
        _ => {}
    }
    options.offset = offset + length as u32;
    0
}
