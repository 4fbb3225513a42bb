//! `cargo xtask soak`: mixed traffic for minutes while routes, endpoints and certificates change ten times a second.

use std::time::Duration;

use anyhow::{Result, bail, ensure};
use gateway_tests::soak;

use crate::setup::{self, Part};
use crate::{build, shell};

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
        "{} s of HTTP/1.1, HTTP/2, new connections, gRPC of all kinds, a WebSocket and large bodies",
        options.seconds
    ));
    let report = soak::run(Duration::from_secs(options.seconds));
    step.end(&report);
    let report = report?;
    let resident: Vec<String> = report.resident_kib.iter().map(u64::to_string).collect();
    println!(
        "{} requests, {} changes of which {} routes and {} certificates were seen in force; KiB that the agent had resident after each tenth: {}",
        report.requests,
        report.changes,
        report.routes,
        report.certificates,
        resident.join(", ")
    );
    ensure!(report.failures.is_empty(), "{} failed:\n{}", report.failures.len(), report.failures.join("\n"));
    if let Some([early, late]) = report.growth() {
        bail!("the agent's memory has grown from {early} to {late} KiB");
    }
    Ok(())
}
