//! The eBPF object, as the build embedded it.

/// ELF parsers want their input aligned.
#[repr(C, align(32))]
struct Aligned<Bytes: ?Sized>(Bytes);

static OBJECT: &Aligned<[u8]> = &Aligned(*include_bytes!(concat!(env!("OUT_DIR"), "/sluice.o")));

/// `None` in a binary that was built without the eBPF tool chain.
pub fn bytes() -> Option<&'static [u8]> {
    Some(&OBJECT.0).filter(|bytes| !bytes.is_empty())
}
