//! The eBPF object, as the build embedded it.

use gateway_common::hash::mix;

/// ELF parsers want their input aligned.
#[repr(C, align(32))]
struct Aligned<Bytes: ?Sized>(Bytes);

static OBJECT: &Aligned<[u8]> = &Aligned(*include_bytes!(concat!(env!("OUT_DIR"), "/sluice.o")));

/// `None` in a binary that was built without the eBPF tool chain.
pub fn bytes() -> Option<&'static [u8]> {
    Some(&OBJECT.0).filter(|bytes| !bytes.is_empty())
}

/// Tells objects apart.
pub fn fingerprint(bytes: &[u8]) -> u64 {
    let word = |part: &[u8]| part.iter().fold(0, |word, byte| word << 8 | u64::from(*byte));
    bytes.chunks(8).fold(bytes.len() as u64, |hash, part| mix(hash ^ word(part)))
}

/// Whether its programs print: a debug object.
pub fn prints(bytes: &[u8]) -> bool {
    const MAP: &[u8] = b"AYA_LOG";
    bytes.windows(MAP.len()).any(|part| part == MAP)
}

/// The object is in the kernel now: its pages leave memory.
pub fn forget() {
    const PAGE: usize = 4096;
    let start = OBJECT.0.as_ptr().addr().next_multiple_of(PAGE);
    let end = (OBJECT.0.as_ptr().addr() + OBJECT.0.len()) / PAGE * PAGE;
    if start < end {
        // SAFETY: whole pages of a constant, which are never written, so that they are those of the file.
        unsafe {
            libc::madvise(start as *mut libc::c_void, end - start, libc::MADV_DONTNEED);
        }
    }
}
