//! Programs of the control plane that are not there for a while.

use std::path::PathBuf;

use anyhow::{Context, Result};

use super::control::Files;
use super::{Cluster, Place};

/// Killed, until it is ended or dropped.
pub struct Outage<'c> {
    place: &'c Place,
    program: PathBuf,
    arguments: Vec<String>,
    log: PathBuf,
    over: bool,
}

impl Cluster {
    /// Kills `etcd` or `kube-apiserver`.
    pub fn without(&self, name: &str) -> Result<Outage<'_>> {
        let place = &self.control;
        let pid = place.process(name)?.with_context(|| format!("{} has no {name}", place.name()))?;
        let words = place.run("cat".as_ref(), &[&format!("/proc/{pid}/cmdline")])?;
        let mut words = words.split_terminator('\0').map(str::to_owned);
        let program = PathBuf::from(words.next().context("a process without a command line")?);
        let log = Files::new(&self.state).log(&format!("{name}-again"));
        let outage = Outage { place, program, arguments: words.collect(), log, over: false };
        place.kill(name)?;
        Ok(outage)
    }
}

impl Outage<'_> {
    /// Starts it again, as it was.
    pub fn end(mut self) -> Result<()> {
        self.over = true;
        self.place.start(&self.log, &self.program, &self.arguments)
    }
}

impl Drop for Outage<'_> {
    fn drop(&mut self) {
        if !self.over
            && let Err(error) = self.place.start(&self.log, &self.program, &self.arguments)
        {
            eprintln!("{error:#}");
        }
    }
}
