//! Two frames that arrive on two CPUs at the same moment.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, PoisonError};

use anyhow::{Context, Result, anyhow, ensure};
use aya::programs::SchedClassifier;
use gateway_common::Reason;
use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::unistd::Pid;

use super::{Lab, run, words};
use crate::net::Port;
use crate::outcome::{Hook, Outcome};

/// Another lab's pair would keep one of this pair from its CPU while the other one waits for it.
static AT_WORK: Mutex<()> = Mutex::new(());
/// Turns of an empty loop, some microseconds.
const PATIENCE: u32 = 5_000;

impl Lab {
    /// Runs `ingress_tc` on both, each on a CPU of its own; so many turns of a loop may the first be late, or, if negative, the second.
    /// What DROPS counted is answered once, as nobody knows whose it is.
    pub fn tc_at_once(&mut self, frames: [(Port, &[u8]); 2], late: i32) -> Result<([Outcome; 2], Vec<Reason>)> {
        let cpus = two_cpus()?;
        let _alone = AT_WORK.lock().unwrap_or_else(PoisonError::into_inner);
        let indexes = frames.map(|(port, _)| self.index(port));
        let program: &SchedClassifier = self.ebpf.program("ingress_tc").context("no ingress_tc")?.try_into()?;
        let ready = AtomicU32::new(0);
        let one = &|which: usize| -> Result<(i32, Vec<u8>)> {
            let mut only = CpuSet::new();
            only.set(cpus[which])?;
            sched_setaffinity(Pid::from_raw(0), &only).context("cannot choose the CPU")?;
            let context = words(192, &[(36, indexes[which]), (40, indexes[which])]);
            ready.fetch_add(1, Ordering::AcqRel);
            // Neither sleeps here: waking up takes longer than what is to be met. But the other one may need this CPU to come.
            let mut turns = 0;
            while ready.load(Ordering::Acquire) < 2 {
                turns += 1;
                if turns % PATIENCE == 0 {
                    std::thread::yield_now();
                }
                std::hint::spin_loop();
            }
            for _ in 0..if which == 0 { late } else { -late } {
                std::hint::spin_loop();
            }
            run(program, frames[which].1, &context)
        };
        let [first, second] = std::thread::scope(|scope| {
            let threads = [0, 1].map(|which| scope.spawn(move || one(which)));
            threads.map(|thread| thread.join().unwrap_or_else(|_| Err(anyhow!("a thread panicked"))))
        });
        let (first, second) = (first?, second?);
        let (port, frame) = frames[0];
        let first = self.outcome(Hook::Tc, port, first.0, frame, first.1)?;
        let (port, frame) = frames[1];
        let second = self.outcome(Hook::Tc, port, second.0, frame, second.1)?;
        let reasons = first.reasons.clone();
        Ok(([first, second], reasons))
    }
}

/// The first two that this process may use.
fn two_cpus() -> Result<[usize; 2]> {
    let allowed = sched_getaffinity(Pid::from_raw(0))?;
    let mut cpus = (0..CpuSet::count()).filter(|cpu| allowed.is_set(*cpu).unwrap_or(false));
    let found: Vec<usize> = cpus.by_ref().take(2).collect();
    ensure!(found.len() == 2, "this test needs two CPUs");
    Ok([found[0], found[1]])
}
