//! The commands of `sluice`.

#![forbid(unsafe_code)]

mod access_log;
pub mod check;
mod client;
mod maps;
pub mod output;
mod run;
mod session_keys;
mod status;
mod trace;
mod trace_http;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::admin::Query;
use output::Output;

/// A Kubernetes Gateway API data plane in the Linux kernel.
#[derive(Parser)]
#[command(name = "sluice", version, arg_required_else_help = true)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Serve a directory of manifests on this node.
    Run(Box<run::Options>),
    /// Say what would become of a directory of manifests, without a node.
    Check {
        /// The directory with the manifests.
        directory: PathBuf,
        #[arg(long, short, value_enum, default_value_t)]
        output: Output,
    },
    /// Show the status of all objects, with counters.
    Status {
        #[command(flatten)]
        agent: AgentSocket,
        #[arg(long, short, value_enum, default_value_t)]
        output: Output,
    },
    /// Show what is in the maps, with the names of the objects behind the ids.
    Maps {
        #[arg(value_enum)]
        what: maps::What,
        #[command(flatten)]
        agent: AgentSocket,
        #[arg(long, short, value_enum, default_value_t)]
        output: Output,
    },
    /// Say what would happen to a TLS connection, step by step, or what happens to those that come.
    Trace(trace::Options),
    /// Remove everything that Sluice attached or pinned on this node; connections through it end.
    Uninstall {
        #[arg(long, default_value = DEFAULT_PIN_DIR)]
        pin_dir: PathBuf,
    },
}

const DEFAULT_PIN_DIR: &str = "/sys/fs/bpf/sluice";
const DEFAULT_SOCKET: &str = "/run/sluice/sluice.sock";

#[derive(clap::Args)]
struct AgentSocket {
    /// The unix socket of the agent.
    #[arg(long, default_value = DEFAULT_SOCKET)]
    socket: PathBuf,
}

/// Runs the command that the process was started with.
pub fn main() -> ExitCode {
    let result = match Arguments::parse().command {
        Command::Run(options) => run::run(*options),
        Command::Check { directory, output } => check::check(&directory, output),
        Command::Status { agent, output } => client::ask(&agent.socket, Query::Status).and_then(|answer| {
            output::print(&match output::structured(&answer, output)? {
                Some(text) => text,
                None => status::table(&answer, output::coloured()),
            })
        }),
        Command::Maps { what, agent, output } => client::ask(&agent.socket, what.query()).and_then(|answer| {
            output::print(&match output::structured(&answer, output)? {
                Some(text) => text,
                None => maps::table(what, &answer),
            })
        }),
        Command::Trace(options) => trace::trace(&options),
        Command::Uninstall { pin_dir } => uninstall(&pin_dir),
    };
    result.unwrap_or_else(|error| {
        eprintln!("sluice: {error:#}");
        ExitCode::FAILURE
    })
}

fn uninstall(pin_dir: &std::path::Path) -> anyhow::Result<ExitCode> {
    let removed = crate::datapath::uninstall(pin_dir)?;
    output::print(&match (removed.pins, removed.filters) {
        (0, 0) => format!("nothing of Sluice is on this node (pin directory {})\n", pin_dir.display()),
        (pins, 0) => format!("removed {pins} pinned programs, maps and links\n"),
        (pins, filters) => format!("removed {pins} pinned programs, maps and links, and {filters} traffic filters\n"),
    })
}
