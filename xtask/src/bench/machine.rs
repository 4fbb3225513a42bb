//! What a reader must know about the machine and the method to judge the numbers.

use anyhow::{Context, Result};

/// A remark a line.
pub fn remarks() -> Result<Vec<String>> {
    let cpuinfo = std::fs::read_to_string("/proc/cpuinfo").context("cannot read /proc/cpuinfo")?;
    let model = cpuinfo.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
    let model = model.map_or("unknown CPU", |(_, model)| model.trim());
    let cores = cpuinfo.lines().filter(|line| line.starts_with("processor")).count();
    let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease").context("cannot read the kernel's version")?;
    Ok(vec![
        format!("{cores} cores ({model}), Linux {}", kernel.trim()),
        "client on core 0, servers on core 1; a proxy has two threads on both cores, the kernel forwards on the core that sends".to_owned(),
        "CPU: all cores, user + system + softirq + interrupts (elapsed time less idle, stolen and processes outside the bench); \
         added: less that of `direct` in the same round"
            .to_owned(),
    ])
}
