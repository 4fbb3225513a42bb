//! The eBPF object, as the build embedded it.

/// ELF parsers want their input aligned.
#[repr(C, align(32))]
struct Aligned<Bytes: ?Sized>(Bytes);

static OBJECT: &Aligned<[u8]> = &Aligned(*include_bytes!(concat!(env!("OUT_DIR"), "/sluice.o")));

/// `None` in a binary that was built without the eBPF tool chain.
pub fn bytes() -> Option<&'static [u8]> {
    Some(&OBJECT.0).filter(|bytes| !bytes.is_empty())
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
