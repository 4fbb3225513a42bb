//! Tasks of the project: `cargo xtask COMMAND`. Each sets up what it needs itself.

#![forbid(unsafe_code)]

mod bench;
mod btf;
mod build;
mod cluster;
mod conformance;
mod demo;
mod examples;
mod image;
mod lab;
mod setup;
mod shell;
mod smuggling;
mod soak;
mod test;

use std::process::ExitCode;

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
        /// With programs that print what they decide on each packet.
        #[arg(long, conflicts_with = "release")]
        trace: bool,
    },
    /// Real traffic through the gateway in network namespaces: what it is and that it works, in a minute.
    Demo,
    /// The demo's namespaces, kept for playing.
    #[command(subcommand)]
    Lab(Lab),
    /// Make the container image of the agent; prints where the archive is.
    Image(image::Options),
    /// A real Kubernetes in namespaces of this machine.
    #[command(subcommand)]
    Cluster(cluster::Task),
    /// The suite of the Gateway API against the agent in a real Kubernetes.
    Conformance(conformance::Options),
    /// Run the tests; without a stage, those of CI.
    Test { stages: Vec<test::Stage> },
    /// Send malformed requests to Sluice, nginx and haproxy, and show where they differ.
    Smuggling(smuggling::Options),
    /// Mixed HTTP traffic while everything changes: nothing may fail.
    Soak(soak::Options),
    /// Measure against peers; writes target/bench/NAME.json and NAME.svg, and prints a table.
    #[command(subcommand)]
    Bench(bench::Bench),
}

#[derive(Subcommand)]
enum Lab {
    /// Make the nodes client, gateway, pod-1, pod-2 and remote; start the servers and the agent.
    Up,
    /// End everything that runs in them.
    Down,
    /// A shell in a node, or a command.
    Enter {
        node: String,
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        command: Vec<String>,
    },
}

fn main() -> ExitCode {
    match run(Options::parse().task) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(task: Task) -> Result<()> {
    match task {
        Task::Setup => setup::all(),
        Task::Build { release, trace } => {
            let built = if trace { build::tracing_sluice()? } else { build::sluice(release)? };
            println!("{}", built.sluice.display());
            Ok(())
        }
        Task::Demo => demo::run(),
        Task::Lab(Lab::Up) => lab::up(),
        Task::Lab(Lab::Down) => lab::down(),
        Task::Lab(Lab::Enter { node, command }) => lab::enter(&node, &command),
        Task::Image(options) => image::run(&options),
        Task::Cluster(task) => cluster::run(&task),
        Task::Conformance(options) => conformance::run(&options),
        Task::Test { stages } => test::run(&stages),
        Task::Smuggling(options) => smuggling::run(&options),
        Task::Soak(options) => soak::run(&options),
        Task::Bench(bench) => bench::run(&bench),
    }
}
