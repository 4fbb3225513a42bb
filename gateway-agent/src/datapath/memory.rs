//! What the agent needed to start, or to answer a question, and does not need any more goes back to the kernel.

use std::fs;

/// One heap for all threads: those that answer questions are few, and each heap of its own would keep what it once had.
pub fn share_heap() {
    #[cfg(target_env = "gnu")]
    // SAFETY: only sets a limit, before there are other threads.
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, 1);
    }
}

/// Gives back whole pages of the heap that are free.
pub fn trim_heap() {
    #[cfg(target_env = "gnu")]
    // SAFETY: live allocations stay where they are.
    unsafe {
        libc::malloc_trim(0);
    }
}

/// Code leaves memory: most of it ran once, at the start or for the first thousand objects. What is needed after all comes back from the
/// page cache at its next use, 64 KiB around it at once: a fault of about a microsecond.
pub fn forget_code() {
    let Ok(maps) = fs::read_to_string("/proc/self/maps") else { return };
    let Ok(own) = fs::read_link("/proc/self/exe") else { return };
    for (start, length) in maps.lines().filter_map(|line| code_of(line, own.to_str()?)) {
        // SAFETY: a mapping of code is never written, so that its pages are those of the file.
        unsafe {
            libc::madvise(start as *mut libc::c_void, length, libc::MADV_DONTNEED);
        }
    }
}

/// Lines are `55d0-55f0 r-xp 0001000 fd:01 1234 /usr/bin/sluice` (proc(5)).
fn code_of(line: &str, own: &str) -> Option<(usize, usize)> {
    let (range, rest) = line.split_once(' ')?;
    if !rest.starts_with("r-xp ") || !rest.ends_with(own) {
        return None;
    }
    let (start, end) = range.split_once('-')?;
    let (start, end) = (usize::from_str_radix(start, 16).ok()?, usize::from_str_radix(end, 16).ok()?);
    Some((start, end.checked_sub(start)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_our_own_code_is_forgotten() {
        let line = "1000-3000 r-xp 00001000 fd:01 1234                     /usr/bin/sluice";
        assert_eq!(code_of(line, "/usr/bin/sluice"), Some((0x1000, 0x2000)));
        assert_eq!(code_of(line, "/usr/bin/other"), None);
        assert_eq!(code_of(&line.replace("r-xp", "r--p"), "/usr/bin/sluice"), None);
    }

    #[test]
    fn code_that_was_forgotten_still_runs() {
        forget_code();
        assert_eq!(code_of("", ""), None);
    }
}
