//! What is done to each contender, and what it gives.

use anyhow::{Context, Result};
use clap::ValueEnum;
use serde_json::Value;

use super::super::contender::Contender;
use super::super::network::{Network, TLS_BULK_PORT, TLS_PORT, Times, sources};
use super::super::stats::Measure;
use super::place::{BULK_NAME, EXCHANGE_NAMES, FEW, MANY, PORT};

pub const CONNECTIONS_PER_SECOND: Measure = Measure::new("connections_per_second", "1/s");
pub const CPU_US_PER_CONNECTION: Measure =
    Measure::compared("cpu_us_per_connection", "added_cpu_us_per_connection", "µs");
pub const LATENCY_US_P50: Measure = Measure::compared("latency_us_p50", "added_latency_us_p50", "µs");
pub const LATENCY_US_P99: Measure = Measure::compared("latency_us_p99", "added_latency_us_p99", "µs");
pub const BULK_GBIT_PER_SECOND: Measure = Measure::new("bulk_gbit_per_second", "Gbit/s");
pub const CPU_S_PER_GB: Measure = Measure::compared("cpu_s_per_gb", "added_cpu_s_per_gb", "s");
/// Sluice alone: what a connection spends in its programs, all its packets together.
pub const PROGRAM_NS_PER_CONNECTION: Measure = Measure::new("program_ns_per_connection", "ns");

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Scenario {
    /// New connections, 64 at a time: a ClientHello of 512 bytes there, a record back, closed by the client.
    Connections,
    /// The same with a ClientHello of 1,750 bytes in two segments.
    PostQuantum,
    /// One client, 500 connections a second: from the SYN to the first byte of the answer.
    FirstByte,
    /// Four connections from server to client, as fast as they go.
    Bulk,
    /// The same at 10 Gbit/s in all, in bursts of a millisecond: where CPU time is measured, as in `bench l4`.
    Paced,
    /// New connections to 10,000 names instead of 10.
    Names,
    /// 5,000 connections that are held: the memory that they take up.
    Held,
    /// What a look-up of a name costs in the kernel: the map that Sluice has, and an LPM trie instead of it.
    Lookup,
}

/// A scenario that is a load of `bench-load`.
pub struct Load {
    pub scenario: Scenario,
    pub name: &'static str,
    /// How many names the gateway has.
    pub names: u32,
    /// Whether the time in Sluice's programs is measured too.
    pub counts_programs: bool,
    kind: &'static str,
    options: &'static [&'static str],
}

const CLASSIC: &[&str] = &["--concurrency", "64", "--hello", "classic"];

pub const LOADS: &[Load] = &[
    Load {
        scenario: Scenario::Connections,
        name: "new connections, 10 names",
        names: FEW,
        counts_programs: true,
        kind: "connections",
        options: CLASSIC,
    },
    Load {
        scenario: Scenario::PostQuantum,
        name: "new connections, post-quantum",
        names: FEW,
        counts_programs: false,
        kind: "connections",
        options: &["--concurrency", "64", "--hello", "post-quantum"],
    },
    Load {
        scenario: Scenario::FirstByte,
        name: "first byte",
        names: FEW,
        counts_programs: false,
        kind: "first-byte",
        options: &["--rate", "500", "--hello", "classic"],
    },
    Load {
        scenario: Scenario::Bulk,
        name: "bulk",
        names: FEW,
        counts_programs: false,
        kind: "bulk",
        options: &["--connections", "4", "--hello", "classic"],
    },
    Load {
        scenario: Scenario::Paced,
        name: "bulk at 10 Gbit/s",
        names: FEW,
        counts_programs: false,
        kind: "bulk",
        options: &["--connections", "4", "--mbit", "10000", "--hello", "classic"],
    },
    Load {
        scenario: Scenario::Names,
        name: "new connections, 10,000 names",
        names: MANY,
        counts_programs: true,
        kind: "connections",
        options: CLASSIC,
    },
];

impl Load {
    fn is_bulk(&self) -> bool {
        matches!(self.scenario, Scenario::Bulk | Scenario::Paced)
    }

    /// Runs it once.
    pub fn run(&self, network: &Network, contender: Contender, times: Times) -> Result<Value> {
        let (port, name) = if self.is_bulk() { (TLS_BULK_PORT, BULK_NAME) } else { (TLS_PORT, EXCHANGE_NAMES) };
        let (names, sources) = (self.names.to_string(), sources());
        let mut options = [&["--name", name], self.options].concat();
        if !self.is_bulk() {
            options.extend(["--names", &names, "--sources", &sources]);
        }
        network.load(self.kind, &contender.targets(PORT, port), times, &options)
    }

    /// What a report of the load says in our words.
    pub fn values(&self, report: &Value) -> Result<Vec<(Measure, f64)>> {
        let (units, seconds) = (number(report, "units")?, number(report, "seconds")?);
        let cpu = number(report, "cpu_seconds")?;
        Ok(match self.scenario {
            Scenario::FirstByte => vec![
                (LATENCY_US_P50, number(report, "first_byte_us_p50")?),
                (LATENCY_US_P99, number(report, "first_byte_us_p99")?),
            ],
            Scenario::Bulk => vec![(BULK_GBIT_PER_SECOND, units * 8.0 / 1e9 / seconds)],
            Scenario::Paced => vec![(CPU_S_PER_GB, cpu * 1e9 / units)],
            _ => vec![(CONNECTIONS_PER_SECOND, units / seconds), (CPU_US_PER_CONNECTION, cpu * 1e6 / units)],
        })
    }

    /// About how many connections were made in all, the warm-up included.
    pub fn connections(&self, report: &Value, times: Times) -> Result<f64> {
        let per_second = number(report, "units")? / number(report, "seconds")?;
        Ok(per_second * (times.warm_up + times.measure).as_secs_f64())
    }
}

fn number(report: &Value, name: &str) -> Result<f64> {
    report[name].as_f64().with_context(|| format!("the load reports no {name}"))
}
