//! `cargo xtask soak`: mixed traffic for minutes while routes, endpoints and certificates change ten times a second.

use std::time::Duration;

use anyhow::{Result, ensure};
use gateway_tests::soak;

use crate::setup::{self, Part};
use crate::{build, shell};

/// Of what is resident after the first quarter, growth that is no leak: what allocators keep.
const GROWTH: f64 = 1.2;
/// The same for agents that are small.
const SLACK_KIB: u64 = 4 << 10;

#[derive(clap::Args)]
pub struct Options {
    #[arg(long, default_value_t = 60)]
    seconds: u64,
}

pub fn run(options: &Options) -> Result<()> {
    ensure!(setup::is_root(), "network namespaces need root: run `sudo cargo xtask soak`");
    ensure!(
        options.seconds >= 5,
        "--seconds {}: five at least, so that every kind of change comes several times",
        options.seconds
    );
    setup::ensure(&[Part::Lab, Part::Clients, Part::Bench])?;
    build::sluice(false)?;
    let step = shell::Step::begin(&format!(
        "{} s of HTTP/1.1, HTTP/2, new connections, gRPC and a WebSocket",
        options.seconds
    ));
    let report = soak::run(Duration::from_secs(options.seconds));
    step.end(&report);
    let report = report?;
    let [early, late] = report.resident_kib;
    println!(
        "{} requests, {} changes of which {} routes and {} certificates were seen in force; the agent had {early} KiB resident after a quarter, \
         {late} KiB at the end",
        report.requests, report.changes, report.routes, report.certificates
    );
    ensure!(report.failures.is_empty(), "{} failed:\n{}", report.failures.len(), report.failures.join("\n"));
    ensure!(
        late as f64 <= (early + SLACK_KIB) as f64 * GROWTH,
        "the agent's memory has grown from {early} to {late} KiB"
    );
    Ok(())
}
