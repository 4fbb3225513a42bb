//! CPU time around a load generator that is not ours.

use std::process::Command;

use anyhow::{Context, Result, ensure};
use clap::Args;
use serde_json::{Value, json};

use crate::cpu::{Sample, busy};

#[derive(Args)]
pub struct Options {
    /// The core that is of interest.
    #[arg(long)]
    watch_core: usize,
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, required = true)]
    command: Vec<String>,
}

/// Runs the command to its end; what it said is part of the report.
pub fn run(options: &Options) -> Result<Value> {
    let (program, arguments) = options.command.split_first().context("no command")?;
    let sample = Sample::begin()?;
    let begun = busy(options.watch_core)?;
    let output = Command::new(program).args(arguments).output().with_context(|| format!("cannot start {program}"))?;
    let core = busy(options.watch_core)? - begun;
    let usage = sample.end()?;
    let said = String::from_utf8_lossy(&output.stdout);
    let error = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{program} ended with {}:\n{said}{error}", output.status);
    Ok(json!({
        "seconds": usage.seconds,
        "cpu_seconds": usage.cpu,
        "foreign_cpu_seconds": usage.foreign,
        "core_seconds": core,
        "said": said,
    }))
}
