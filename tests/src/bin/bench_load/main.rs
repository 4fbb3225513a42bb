//! The load of `cargo xtask bench`: servers and clients, the same for every contender.
//!
//! A client warms up, measures for a while and prints one line of JSON; it takes the CPU time of the machine at exactly
//! the beginning and the end of what it counts. One thread each, so that the gateway between them is the only thing that
//! differs.

#![forbid(unsafe_code)]

mod around;
mod bulk;
mod connections;
mod cpu;
mod datagrams;
mod events;
mod first_byte;
mod held;
mod hello;
mod server;
mod tls_requests;

use std::net::{Ipv4Addr, SocketAddrV4};
use std::time::Duration;

use anyhow::{Context, Result};
use clap::{Args, Parser, Subcommand};
use rustix::thread::{CpuSet, sched_setaffinity};
use serde_json::{Value, json};

use crate::cpu::Usage;
use crate::hello::Names;

#[derive(Parser)]
#[command(about = "Servers and clients of `cargo xtask bench`.")]
struct Options {
    /// The core to run on.
    #[arg(long)]
    core: Option<usize>,
    #[command(subcommand)]
    role: Role,
}

#[derive(Subcommand)]
enum Role {
    /// Answers on TCP and UDP ports, and sends without end on another TCP port.
    Serve(server::Options),
    /// New TCP connections, each with one exchange of 64 bytes or of a ClientHello and a record, closed by the client.
    Connections {
        #[command(flatten)]
        run: Run,
        /// Connections at a time.
        #[arg(long, default_value_t = 1)]
        concurrency: usize,
        /// Addresses to connect from, in turn.
        #[arg(long, value_delimiter = ',', required = true)]
        sources: Vec<Ipv4Addr>,
        #[command(flatten)]
        names: Names,
    },
    /// One client at a low rate: how long from the SYN to the first byte of the answer to its ClientHello.
    FirstByte {
        #[command(flatten)]
        run: Run,
        /// Connections a second.
        #[arg(long, default_value_t = 500)]
        rate: u32,
        #[arg(long, value_delimiter = ',', required = true)]
        sources: Vec<Ipv4Addr>,
        #[command(flatten)]
        names: Names,
    },
    /// Opens connections, says `held` when all have an answer, and holds them until it is killed.
    Hold(held::Options),
    /// Takes what servers send over a few connections.
    Bulk {
        #[command(flatten)]
        run: Run,
        #[arg(long, default_value_t = 4)]
        connections: usize,
        /// Mbit/s of all of them together; 0: as much as goes.
        #[arg(long, default_value_t = 0)]
        mbit: u64,
        #[command(flatten)]
        names: Names,
    },
    /// New TLS connections, each with one request of HTTP/1.1.
    TlsRequests(tls_requests::Options),
    /// Runs a command, and says what it cost.
    Around(around::Options),
    /// UDP datagrams of 64 bytes that servers send back.
    Datagrams {
        #[command(flatten)]
        run: Run,
        /// Sockets, each a flow of its own.
        #[arg(long, default_value_t = 32)]
        flows: usize,
        /// Datagrams on their way in each flow.
        #[arg(long, default_value_t = 4)]
        window: u32,
    },
}

/// What every client is told.
#[derive(Args)]
struct Run {
    /// Where to, in turn.
    #[arg(long, value_delimiter = ',', required = true)]
    targets: Vec<SocketAddrV4>,
    /// Not counted, at the beginning.
    #[arg(long, default_value_t = 200)]
    warm_up_ms: u64,
    #[arg(long)]
    measure_ms: u64,
}

impl Run {
    fn warm_up(&self) -> Duration {
        Duration::from_millis(self.warm_up_ms)
    }

    fn measure(&self) -> Duration {
        Duration::from_millis(self.measure_ms)
    }
}

/// What a client found.
struct Outcome {
    /// Connections, bytes or datagrams.
    units: u64,
    /// Units that were tried and failed.
    failed: u64,
    /// How the first of them failed.
    failure: Option<String>,
    usage: Usage,
    /// By name, in nanoseconds, one for each unit.
    latencies: Vec<(&'static str, Vec<u32>)>,
}

fn main() -> Result<()> {
    let options = Options::parse();
    if let Some(core) = options.core {
        let mut cores = CpuSet::new();
        cores.set(core);
        sched_setaffinity(None, &cores).with_context(|| format!("cannot run on core {core}"))?;
    }
    let outcome = match options.role {
        Role::Serve(options) => return server::serve(&options),
        Role::Hold(options) => return held::hold(&options),
        Role::Around(options) => {
            println!("{}", around::run(&options)?);
            return Ok(());
        }
        Role::TlsRequests(options) => tls_requests::run(&options)?,
        Role::Connections { run, concurrency, sources, names } => {
            connections::run(&run, concurrency, &sources, names.hellos()?)?
        }
        Role::FirstByte { run, rate, sources, names } => first_byte::run(&run, rate, &sources, names.hellos()?)?,
        Role::Bulk { run, connections, mbit, names } => bulk::run(&run, connections, mbit, names.hellos()?)?,
        Role::Datagrams { run, flows, window } => datagrams::run(&run, flows, window)?,
    };
    println!("{}", report(outcome));
    Ok(())
}

fn report(outcome: Outcome) -> Value {
    let mut report = json!({
        "units": outcome.units,
        "failed": outcome.failed,
        "failure": outcome.failure,
        "seconds": outcome.usage.seconds,
        "cpu_seconds": outcome.usage.cpu,
        "foreign_cpu_seconds": outcome.usage.foreign,
    });
    for (name, mut latencies) in outcome.latencies {
        latencies.sort_unstable();
        for per_mille in [500, 990] {
            let us = percentile(&latencies, per_mille).map(|ns| f64::from(ns) / 1e3);
            report[format!("{name}_us_p{}", per_mille / 10)] = json!(us);
        }
    }
    report
}

/// The smallest value that so many thousandths of the sorted values do not exceed.
fn percentile(sorted: &[u32], per_mille: usize) -> Option<u32> {
    let rank = (sorted.len() * per_mille).div_ceil(1000).max(1);
    sorted.get(rank - 1).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_percentile_is_a_value_that_was_measured() {
        let hundred: Vec<u32> = (1..=100).collect();
        assert_eq!(percentile(&hundred, 500), Some(50));
        assert_eq!(percentile(&hundred, 990), Some(99));
        assert_eq!(percentile(&[7], 500), Some(7));
        assert_eq!(percentile(&[7], 990), Some(7));
        assert_eq!(percentile(&[], 990), None);
    }
}
