//! How long the kernel spends in the agent's programs, by its own statistics (BPF_ENABLE_STATS).

use anyhow::{Context, Result, ensure};
use aya::programs::{ProgramInfo, loaded_programs};
use aya::sys::{Stats, enable_stats};

/// The programs of the pipeline.
const NAMES: [&str; 3] = ["ingress_tc", "ingress_xdp", "egress_tc"];

/// The programs that were loaded after a moment, so that nobody else's are taken for the agent's.
pub struct Programs {
    /// The highest id before that moment: ids only grow.
    before: u32,
    ids: Vec<u32>,
}

impl Programs {
    pub fn before() -> Programs {
        Programs { before: all().map(|program| program.id()).max().unwrap_or(0), ids: Vec::new() }
    }

    /// Finds what was loaded since.
    pub fn find(&mut self) -> Result<()> {
        let ours = |program: &ProgramInfo| {
            program.id() > self.before && program.name_as_str().is_some_and(|name| NAMES.contains(&name))
        };
        self.ids = all().filter(ours).map(|program| program.id()).collect();
        ensure!(!self.ids.is_empty(), "the agent has loaded none of {NAMES:?}");
        Ok(())
    }

    /// The ns that a packet spends in a program while `work` goes on.
    pub fn time_per_run(&self, work: impl FnOnce() -> Result<()>) -> Result<f64> {
        let (time, runs, ()) = self.time(work)?;
        Ok(time / runs)
    }

    /// The ns that all packets spend in the programs while `work` goes on, how often they run, and what `work` gives. The
    /// statistics themselves are part of it: two looks at a clock a run.
    pub fn time<T>(&self, work: impl FnOnce() -> Result<T>) -> Result<(f64, f64, T)> {
        let _statistics = enable_stats(Stats::RunTime).context("the kernel counts no run time of programs")?;
        let (time, runs) = self.totals();
        let result = work()?;
        let (time, runs) = (self.totals().0 - time, self.totals().1 - runs);
        ensure!(runs > 0, "no packet came to the programs");
        Ok((time as f64, runs as f64, result))
    }

    fn totals(&self) -> (u64, u64) {
        let ours = all().filter(|program| self.ids.contains(&program.id()));
        ours.fold((0, 0), |(time, runs), p| (time + p.run_time().as_nanos() as u64, runs + p.run_count()))
    }
}

/// Programs that still exist when they are looked at.
fn all() -> impl Iterator<Item = ProgramInfo> {
    loaded_programs().flatten()
}
