//! `cargo xtask bench NAME`: measurements against peers. Each writes `target/bench/NAME.json` (rows), `NAME.svg`, `NAME.md`
//! and prints a table.

mod choice;
mod contender;
mod control;
mod interrupt;
mod l4;
mod l7;
mod machine;
mod memory;
mod network;
mod noise;
mod programs;
mod report;
mod scale;
mod sluice;
mod sni;
mod stats;
mod svg;

use anyhow::{Result, bail, ensure};
use clap::Subcommand;
use indicatif::{ProgressBar, ProgressStyle};

pub use self::contender::rendered;

#[derive(Subcommand)]
pub enum Bench {
    /// TCP and UDP forwarding against haproxy, nginx, nftables and no gateway at all.
    L4(l4::Options),
    /// TLS passthrough by server name against haproxy, nginx, Envoy and no gateway at all.
    Sni(sni::Options),
    /// HTTP against nginx, haproxy and Envoy.
    L7(l7::Options),
    /// A cluster with thousands of objects: memory, API writes, and how soon a change counts.
    Control(control::Options),
}

pub fn run(bench: &Bench) -> Result<()> {
    interrupt::watch()?;
    let result = match bench {
        Bench::L4(options) => l4::run(options),
        Bench::Sni(options) => sni::run(options),
        Bench::L7(options) => l7::run(options),
        Bench::Control(options) => control::run(options),
    };
    // What was interrupted fails in one way or another: this is the reason for all of them.
    if interrupt::came() { bail!("interrupted; nothing was left behind and nothing was written") } else { result }
}

/// A bar that says what is measured and how long it will still take; plain lines in a pipe.
struct Progress {
    bar: ProgressBar,
}

impl Progress {
    fn begin(steps: usize) -> Progress {
        let bar = ProgressBar::new(steps as u64);
        if let Ok(style) = ProgressStyle::with_template("{bar:30} {pos}/{len} {msg} ({elapsed} of about {duration})") {
            bar.set_style(style);
        }
        Progress { bar }
    }

    /// Says what begins now, unless it is not to begin any more.
    fn step(&self, what: &str) -> Result<()> {
        ensure!(!interrupt::came(), "interrupted before {what}");
        if self.bar.is_hidden() {
            eprintln!("· {what}");
        }
        self.bar.set_message(what.to_owned());
        self.bar.inc(1);
        Ok(())
    }

    fn end(self) {
        self.bar.finish_and_clear();
    }
}
