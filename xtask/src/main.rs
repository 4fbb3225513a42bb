//! Tasks of the project: `cargo xtask COMMAND`. Each sets up what it needs itself.

#![forbid(unsafe_code)]

mod build;
mod setup;
mod shell;

use anyhow::Result;
use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(bin_name = "cargo xtask", about = "Tasks of the Sluice project; each sets up what it needs itself.")]
struct Options {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Find or install the tools that building, testing and measuring need.
    Setup,
    /// Build the eBPF object and the `sluice` binary that carries it.
    Build {
        /// Optimised.
        #[arg(long)]
        release: bool,
    },
}

fn main() -> Result<()> {
    match Options::parse().task {
        Task::Setup => setup::all(),
        Task::Build { release } => {
            let built = build::sluice(release)?;
            println!("{}", built.sluice.display());
            Ok(())
        }
    }
}
