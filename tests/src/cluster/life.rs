//! A process that is known again by its pid and the time it started: pids are used again.

use std::str::FromStr;
use std::time::Duration;

use anyhow::{Context, Result};
use rustix::process::{Pid, Signal, kill_process};

use crate::lab::wait_for;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Life {
    pid: u32,
    /// In clock ticks since the machine started.
    started: u64,
}

impl Life {
    pub fn of(pid: u32) -> Option<Life> {
        Some(stat(pid)?.1)
    }

    /// The first that is found of those that a process forked.
    pub fn child_of(parent: u32) -> Result<Option<Life>> {
        let entries = std::fs::read_dir("/proc").context("cannot read /proc")?;
        let pids = entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok());
        let stats = pids.filter_map(stat);
        Ok(stats.filter(|(its_parent, _)| *its_parent == parent).map(|(_, life)| life).next())
    }

    pub fn pid(self) -> u32 {
        self.pid
    }

    pub fn is_there(self) -> bool {
        Life::of(self.pid) == Some(self)
    }

    /// Kills it, and waits until it is gone.
    pub fn end(self) -> Result<()> {
        if !self.is_there() {
            return Ok(());
        }
        let pid = i32::try_from(self.pid).ok().and_then(Pid::from_raw).context("no such pid")?;
        // It may have ended by itself in between.
        let _ = kill_process(pid, Signal::KILL);
        let gone = || if self.is_there() { Err(anyhow::anyhow!("it is still there")) } else { Ok(()) };
        wait_for(&format!("the end of process {}", self.pid), Duration::from_secs(30), gone)
    }
}

/// The parent of a process, and when it started; None if it has ended.
fn stat(pid: u32) -> Option<(u32, Life)> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The second field is the name in brackets, which may contain anything (proc_pid_stat(5)).
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    let (state, parent, started) = (fields.first()?, fields.get(1)?, fields.get(19)?);
    let life = Life { pid, started: started.parse().ok()? };
    (!["Z", "X"].contains(state)).then_some((parent.parse().ok()?, life))
}

impl std::fmt::Display for Life {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {}", self.pid, self.started)
    }
}

impl FromStr for Life {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Life> {
        let (pid, started) = text.split_once(' ').context("expected: pid, start time")?;
        Ok(Life { pid: pid.parse()?, started: started.parse()? })
    }
}

#[cfg(test)]
mod tests {
    use super::Life;

    #[test]
    fn a_process_is_known_again_and_another_with_its_pid_is_not() {
        let life = Life::of(std::process::id()).unwrap();
        assert_eq!(life.to_string().parse::<Life>().unwrap(), life);
        assert!(life.is_there());
        assert!(!Life { started: life.started - 1, ..life }.is_there());
    }
}
