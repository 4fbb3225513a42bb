//! Counters that several CPUs write. The target has no atomics of Rust's.

/// Adds one and answers what was there before.
#[inline(always)]
pub fn increment(place: *mut u64) -> u64 {
    let mut value = 1u64;
    // SAFETY: the place is a map value of 8 bytes, which the verifier checks.
    unsafe {
        core::arch::asm!(
            "{0} = atomic_fetch_add((u64 *)({1} + 0), {0})",
            inout(reg) value,
            in(reg) place,
            options(nostack, preserves_flags)
        );
    }
    value
}
