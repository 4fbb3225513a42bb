//! The C library's heap: what was freed is to go back to the kernel. An agent that has loaded its programs, or answered a
//! question, needs much less memory than while it did.

/// One heap for all threads: those that answer questions are few, and each heap of its own would keep what it once had.
pub fn share() {
    #[cfg(target_env = "gnu")]
    // SAFETY: only sets a limit, before there are other threads.
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, 1);
    }
}

/// Gives back whole pages that are free.
pub fn trim() {
    #[cfg(target_env = "gnu")]
    // SAFETY: live allocations stay where they are.
    unsafe {
        libc::malloc_trim(0);
    }
}
