//! What processes have resident in memory.

use std::fs::read_to_string;

use anyhow::{Context, Result};

/// KiB of one process.
pub fn resident(pid: u32) -> Result<f64> {
    let status = read_to_string(format!("/proc/{pid}/status")).with_context(|| format!("process {pid} has ended"))?;
    kib(&status, "VmRSS:").context("/proc/PID/status has no VmRSS")
}

/// KiB of a process and all that it has started, memory that they share counted once (proportional set size).
pub fn of_tree(pid: u32) -> Result<f64> {
    let rollup = read_to_string(format!("/proc/{pid}/smaps_rollup"));
    let rollup = rollup.with_context(|| format!("process {pid} has ended"))?;
    let own = kib(&rollup, "Pss:").context("/proc/PID/smaps_rollup has no Pss")?;
    let children = read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    let children = children.split_whitespace().filter_map(|pid| pid.parse().ok()).map(of_tree);
    Ok(own + children.sum::<Result<f64>>()?)
}

/// A line of such a file.
pub fn kib(text: &str, name: &str) -> Option<f64> {
    text.lines().find_map(|line| line.strip_prefix(name))?.trim().strip_suffix("kB")?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_read_in_kib() {
        assert_eq!(kib("Name:\tsluice\nVmRSS:\t   12288 kB\nThreads:\t3\n", "VmRSS:"), Some(12288.0));
        assert_eq!(kib("Name:\tsluice\n", "VmRSS:"), None);
        assert_eq!(kib("[rollup]\nRss: 9 kB\nPss:      7 kB\nPss_Dirty: 8 kB\n", "Pss:"), Some(7.0));
    }
}
