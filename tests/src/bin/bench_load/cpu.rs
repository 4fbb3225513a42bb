//! CPU time of the path under test, the same accounting for every contender.
//!
//! `cpu` = (cores × elapsed time) − idle − iowait − stolen − foreign: user, system, softirq and interrupt time of the whole
//! machine, less what processes outside the bench used (all that are not descendants of our parent; kernel threads count as
//! ours). It is computed from the idle times of /proc/stat because the kernel measures those to the microsecond, while it
//! only samples user, system and softirq at its timer tick (`get_idle_time` in fs/proc/stat.c, `account_process_tick` in
//! kernel/sched/cputime.c). The file shows hundredths of a second, so a measurement of some seconds is exact to below 1%.

use std::collections::HashMap;
use std::time::Instant;

use anyhow::{Context, Result};
use rustix::process::getppid;
use rustix::time::{ClockId, clock_gettime};

/// Unit of the times in /proc (USER_HZ is 100 on every architecture that Linux shows to user space).
const TICKS_PER_SECOND: f64 = 100.0;

/// What was used between two samples.
#[derive(Clone, Copy, Debug)]
pub struct Usage {
    /// Of the clock on the wall.
    pub seconds: f64,
    pub cpu: f64,
    /// Used by processes outside the bench, and not part of `cpu`.
    pub foreign: f64,
}

/// The state of the machine at one moment.
pub struct Sample {
    at: Instant,
    machine: Machine,
    foreign: u64,
}

impl Sample {
    /// Before something is measured: what takes long comes first.
    pub fn begin() -> Result<Sample> {
        let foreign = foreign_ticks()?;
        Ok(Sample { machine: Machine::read()?, at: Instant::now(), foreign })
    }

    /// After it was measured.
    pub fn end(&self) -> Result<Usage> {
        let seconds = self.at.elapsed().as_secs_f64();
        let machine = Machine::read()?;
        let foreign = foreign_ticks()?.saturating_sub(self.foreign) as f64 / TICKS_PER_SECOND;
        let not_ours = (machine.not_busy - self.machine.not_busy) as f64 / TICKS_PER_SECOND;
        Ok(Usage { seconds, cpu: machine.cores as f64 * seconds - not_ours - foreign, foreign })
    }
}

/// How long a core has been busy since the machine started.
pub fn busy(core: usize) -> Result<f64> {
    let text = std::fs::read_to_string("/proc/stat").context("cannot read /proc/stat")?;
    let line = text.lines().find_map(|line| line.strip_prefix(&format!("cpu{core} ")));
    let not_busy = line.and_then(not_busy).with_context(|| format!("/proc/stat has no core {core}"))?;
    // The clock that the idle times are kept by.
    let now = clock_gettime(ClockId::Monotonic);
    Ok(now.tv_sec as f64 + now.tv_nsec as f64 / 1e9 - not_busy as f64 / TICKS_PER_SECOND)
}

/// Of the numbers of a core.
fn not_busy(line: &str) -> Option<u64> {
    let ticks: Vec<u64> = line.split_whitespace().map_while(|word| word.parse().ok()).collect();
    let [_user, _nice, _system, idle, iowait, _irq, _softirq, steal, ..] = ticks[..] else { return None };
    Some(idle + iowait + steal)
}

struct Machine {
    cores: usize,
    /// Idle, waiting for a disk, or stolen by the hypervisor; all cores together.
    not_busy: u64,
}

impl Machine {
    fn read() -> Result<Machine> {
        let text = std::fs::read_to_string("/proc/stat").context("cannot read /proc/stat")?;
        Machine::parse(&text).context("/proc/stat is not as proc_stat(5) has it")
    }

    fn parse(text: &str) -> Option<Machine> {
        let (mut cores, mut not_busy) = (0, 0);
        for line in text.lines().filter(|line| line.starts_with("cpu") && !line.starts_with("cpu ")) {
            cores += 1;
            not_busy += self::not_busy(line.split_once(' ')?.1)?;
        }
        (cores > 0).then_some(Machine { cores, not_busy })
    }
}

/// CPU time of all processes outside the bench, with that of their children that have ended.
fn foreign_ticks() -> Result<u64> {
    let mut processes = HashMap::new();
    for entry in std::fs::read_dir("/proc").context("cannot read /proc")? {
        let name = entry?.file_name();
        let Some(pid) = name.to_str().and_then(|name| name.parse::<u32>().ok()) else { continue };
        // It may have ended since.
        let Ok(stat) = std::fs::read_to_string(format!("/proc/{pid}/stat")) else { continue };
        processes.insert(pid, Task::parse(&stat).with_context(|| format!("/proc/{pid}/stat has an unknown form"))?);
    }
    let bench = getppid().map_or(0, |pid| pid.as_raw_nonzero().get() as u32);
    Ok(processes.iter().filter(|(pid, _)| is_foreign(**pid, bench, &processes)).map(|(_, task)| task.ticks).sum())
}

/// Neither a kernel thread (a child of process 2) nor a descendant of the bench.
fn is_foreign(pid: u32, bench: u32, processes: &HashMap<u32, Task>) -> bool {
    let mut ancestor = pid;
    // A process that ended while we looked may leave a gap; the chain ends at process 0 in any case.
    while let Some(task) = processes.get(&ancestor) {
        if ancestor == bench || ancestor == 2 {
            return false;
        }
        ancestor = task.parent;
    }
    true
}

struct Task {
    parent: u32,
    ticks: u64,
}

impl Task {
    /// A line of /proc/PID/stat; the name in parentheses may contain anything.
    fn parse(line: &str) -> Option<Task> {
        let fields: Vec<&str> = line.rsplit_once(')')?.1.split_whitespace().collect();
        // utime, stime, cutime, cstime are fields 14 to 17 of proc_pid_stat(5); ours begin with field 3.
        let times = fields.get(11..15)?;
        let ticks = times.iter().map(|time| time.parse::<u64>()).sum::<Result<u64, _>>().ok()?;
        Some(Task { parent: fields.get(1)?.parse().ok()?, ticks })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_machine_is_the_sum_of_its_cores() {
        let text = "cpu  9 9 9 300 30 9 9 3 0 0\ncpu0 1 2 3 100 10 6 7 1 0 0\ncpu1 1 2 3 200 20 6 7 2 0 0\nintr 5 5\n";
        let machine = Machine::parse(text).unwrap();
        assert_eq!((machine.cores, machine.not_busy), (2, 333));
        assert!(Machine::parse("intr 5").is_none());
        assert!(Machine::parse("cpu0 1 2 3").is_none());
    }

    #[test]
    fn a_task_may_have_any_name() {
        let task = Task::parse("42 (a) b (c) S 7 1 1 0 -1 0 0 0 0 0 10 20 30 40 20 0 1 0").unwrap();
        assert_eq!((task.parent, task.ticks), (7, 100));
        assert!(Task::parse("42 (cut S 7").is_none());
    }

    #[test]
    fn kernel_threads_and_descendants_of_the_bench_are_not_foreign() {
        let parents = [(1, 0), (2, 0), (20, 2), (30, 1), (31, 30), (32, 31), (40, 1)];
        let processes = parents.map(|(pid, parent)| (pid, Task { parent, ticks: 1 })).into();
        let foreign: Vec<u32> =
            parents.map(|(pid, _)| pid).into_iter().filter(|pid| is_foreign(*pid, 30, &processes)).collect();
        assert_eq!(foreign, [1, 40]);
    }

    #[test]
    fn a_busy_thread_is_seen() {
        let sample = Sample::begin().unwrap();
        // Of its own time: others may want the core as well.
        let used = || rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
        let begun = used();
        let is_short = |now: rustix::time::Timespec| {
            (now.tv_sec - begun.tv_sec) * 1000 + (now.tv_nsec - begun.tv_nsec) / 1_000_000 < 200
        };
        while is_short(used()) {}
        assert!(sample.end().unwrap().cpu > 0.1);
    }
}
