//! A process that runs beside the caller, its output in a file, killed when it is dropped.

use std::fs::OpenOptions;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::NamedTempFile;

use super::node::Keep;

/// The beginning of a command that dies with the thread that starts it, unless it is to stay.
pub(super) fn launcher(keep: Keep) -> Command {
    let mut command = match keep {
        Keep::UntilDrop => Command::new("setpriv"),
        Keep::Forever => Command::new("setsid"),
    };
    if keep == Keep::UntilDrop {
        command.args(["--pdeathsig", "KILL"]);
    }
    command
}

pub struct Process {
    name: String,
    child: Child,
    keep: Keep,
    log: PathBuf,
}

impl Process {
    pub(super) fn start(name: &str, mut command: Command, keep: Keep) -> Result<Process> {
        let log = NamedTempFile::with_prefix("sluice-lab-")
            .context("no temporary file for a log")?
            .into_temp_path()
            .keep()?;
        // Two descriptors that append: what one writes never covers what the other wrote.
        let append = || OpenOptions::new().append(true).open(&log);
        command.stdin(Stdio::null()).stdout(append()?).stderr(append()?);
        let child = command.spawn().with_context(|| format!("cannot start {name}"))?;
        Ok(Process { name: name.to_owned(), child, keep, log })
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What it has written so far.
    pub fn log(&self) -> String {
        match std::fs::read(&self.log) {
            Ok(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
            Err(error) => format!("(its log cannot be read: {error})"),
        }
    }

    /// Where it writes; the file stays if the process does.
    pub fn log_path(&self) -> &Path {
        &self.log
    }

    pub fn signal(&self, signal: Signal) -> Result<()> {
        let pid = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw).context("no such pid")?;
        kill_process(pid, signal).with_context(|| format!("cannot send {signal:?} to {}", self.name))
    }

    /// Kills it the hard way and waits for its end.
    pub fn kill(mut self) -> Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }

    /// How it ended, if it has.
    pub fn ended(&mut self) -> Result<Option<ExitStatus>> {
        Ok(self.child.try_wait()?)
    }

    /// Waits for its end.
    pub fn wait(&mut self, at_most: Duration) -> Result<ExitStatus> {
        let deadline = Instant::now() + at_most;
        loop {
            if let Some(status) = self.ended()? {
                return Ok(status);
            }
            if Instant::now() > deadline {
                bail!("{} still runs after {at_most:?}; its log:\n{}", self.name, self.log());
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if self.keep == Keep::Forever {
            return;
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
        let panicked = self.log().contains("panicked");
        if std::thread::panicking() || panicked {
            eprintln!("--- log of {} ---\n{}--- end ---", self.name, self.log());
        }
        let _ = std::fs::remove_file(&self.log);
        assert!(std::thread::panicking() || !panicked, "{} panicked", self.name);
    }
}
