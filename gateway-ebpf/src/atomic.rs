//! What several CPUs write at once. The target has no atomics of Rust's.

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

/// Writes `new` if the value is `expected`; answers what it was.
#[inline(always)]
pub fn compare_exchange(place: *mut u64, expected: u64, new: u64) -> u64 {
    let mut value = expected;
    // SAFETY: as above.
    unsafe {
        core::arch::asm!(
            "r0 = cmpxchg_64({0} + 0, r0, {1})",
            in(reg) place,
            in(reg) new,
            inout("r0") value,
            options(nostack, preserves_flags)
        );
    }
    value
}
