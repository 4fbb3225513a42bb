//! `cargo xtask bench l4`: TCP and UDP forwarding against the peers, then Sluice alone at size.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use clap::ValueEnum;
use gateway_tests::lab::{Endpoint, Manifests, gateway, route, service, slice};
use serde_json::Value;

use super::choice::Choice;
use super::contender::{Contender, Nftables, State, rendered};
use super::network::{BACKENDS, BULK_PORT, GATEWAY, INSIDE, Network, PORT, Servers, Times, sources};
use super::noise::Noise;
use super::scale::{self, Effort};
use super::stats::{Measure, Observation};
use super::{Progress, machine, report};
use crate::{build, setup, shell};

const BENCH: &str = "l4";

const CONTENDERS: &[Contender] =
    &[Contender::Sluice, Contender::Haproxy, Contender::Nginx, Contender::Nftables, Contender::Direct];

const CONNECTIONS_PER_SECOND: Measure = Measure::new("connections_per_second", "1/s");
const CPU_US_PER_CONNECTION: Measure = Measure::compared("cpu_us_per_connection", "added_cpu_us_per_connection", "µs");
const BULK_GBIT_PER_SECOND: Measure = Measure::new("bulk_gbit_per_second", "Gbit/s");
const CPU_S_PER_GB: Measure = Measure::compared("cpu_s_per_gb", "added_cpu_s_per_gb", "s");
const PACKETS_PER_SECOND: Measure = Measure::new("packets_per_second", "1/s");
const CPU_US_PER_PACKET: Measure = Measure::compared("cpu_us_per_packet", "added_cpu_us_per_packet", "µs");
const LATENCY_US_P50: Measure = Measure::new("latency_us_p50", "µs");
const LATENCY_US_P99: Measure = Measure::new("latency_us_p99", "µs");

/// What is done to each contender.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Scenario {
    /// New TCP connections, 64 at a time, one exchange of 64 bytes each.
    Connections,
    /// One connection at a time: how long the handshake takes, and how long it is to the backend's first answer (a proxy
    /// completes the handshake before it has spoken to any backend, so only the second compares like with like).
    Latency,
    /// Four TCP connections from server to client, as fast as they go.
    Bulk,
    /// The same at 10 Gbit/s in all, in bursts of a millisecond. This is where CPU time is measured: at full speed its amount a
    /// GB depends on how far the reader lags behind (a gateway that slows the sender makes larger batches), here all do the same work.
    Paced,
    /// 32 flows with four datagrams of 64 bytes on their way in each, sent back by the backend; each direction counts.
    Udp,
}

impl Scenario {
    const ALL: &[Scenario] =
        &[Scenario::Connections, Scenario::Latency, Scenario::Bulk, Scenario::Paced, Scenario::Udp];

    const fn name(self) -> &'static str {
        match self {
            Scenario::Connections => "connections",
            Scenario::Latency => "latency",
            Scenario::Bulk => "bulk",
            Scenario::Paced => "bulk at 10 Gbit/s",
            Scenario::Udp => "udp",
        }
    }

    const fn port(self) -> u16 {
        match self {
            Scenario::Bulk | Scenario::Paced => BULK_PORT,
            Scenario::Connections | Scenario::Latency | Scenario::Udp => PORT,
        }
    }

    /// HAProxy forwards no UDP.
    fn takes(self, contender: Contender) -> bool {
        (contender, self) != (Contender::Haproxy, Scenario::Udp)
    }

    /// Runs it once.
    fn run(self, network: &Network, contender: Contender, times: Times) -> Result<Value> {
        let sources = sources();
        let (kind, more) = match self {
            Scenario::Connections => ("connections", vec!["--concurrency", "64", "--sources", &sources]),
            Scenario::Latency => ("connections", vec!["--concurrency", "1", "--sources", &sources]),
            Scenario::Bulk => ("bulk", vec!["--connections", "4"]),
            Scenario::Paced => ("bulk", vec!["--connections", "4", "--mbit", "10000"]),
            Scenario::Udp => ("datagrams", vec!["--flows", "32", "--window", "4"]),
        };
        network.load(kind, &contender.targets(self.port(), self.port()), times, &more)
    }

    /// What a report of the load says in our words: (scenario, measure, value).
    fn values(self, report: &Value) -> Result<Vec<(&'static str, Measure, f64)>> {
        let number = |name: &str| report[name].as_f64().with_context(|| format!("the load reports no {name}"));
        let (units, seconds, cpu) = (number("units")?, number("seconds")?, number("cpu_seconds")?);
        let name = self.name();
        Ok(match self {
            Scenario::Connections => {
                vec![(name, CONNECTIONS_PER_SECOND, units / seconds), (name, CPU_US_PER_CONNECTION, cpu * 1e6 / units)]
            }
            Scenario::Latency => vec![
                ("handshake", LATENCY_US_P50, number("connect_us_p50")?),
                ("handshake", LATENCY_US_P99, number("connect_us_p99")?),
                ("first answer", LATENCY_US_P50, number("exchange_us_p50")?),
                ("first answer", LATENCY_US_P99, number("exchange_us_p99")?),
            ],
            Scenario::Bulk => vec![(name, BULK_GBIT_PER_SECOND, units * 8.0 / 1e9 / seconds)],
            Scenario::Paced => vec![(name, CPU_S_PER_GB, cpu * 1e9 / units)],
            Scenario::Udp => {
                vec![(name, PACKETS_PER_SECOND, units / seconds), (name, CPU_US_PER_PACKET, cpu * 1e6 / units)]
            }
        })
    }
}

/// Options of this bench.
#[derive(clap::Args)]
pub struct Options {
    /// Fewer and shorter rounds: below 60 s, and noisier.
    #[arg(long)]
    quick: bool,
    #[command(flatten)]
    choice: Choice<Scenario>,
    /// Only Sluice alone with many listeners and backends.
    #[arg(long, conflicts_with_all = ["contenders", "scenarios"])]
    at_size: bool,
}

impl Options {
    fn rounds(&self) -> usize {
        if self.quick { 2 } else { 9 }
    }

    fn times(&self, scenario: Scenario) -> Times {
        let (warm_up, measure) = match (self.quick, scenario) {
            (true, Scenario::Latency) => (50, 300),
            (true, _) => (100, 600),
            (false, Scenario::Latency) => (100, 700),
            (false, _) => (200, 1500),
        };
        Times { warm_up: Duration::from_millis(warm_up), measure: Duration::from_millis(measure) }
    }

    /// How much of Sluice alone at size.
    fn scale(&self) -> Effort {
        let (rounds, warm_up, measure, changes) = if self.quick { (1, 100, 500, 50) } else { (3, 200, 1500, 50) };
        Effort {
            rounds,
            times: Times { warm_up: Duration::from_millis(warm_up), measure: Duration::from_millis(measure) },
            changes,
        }
    }

    /// Whether nothing was left out.
    fn is_whole(&self) -> bool {
        self.choice.is_all()
    }

    fn contenders(&self) -> &[Contender] {
        self.choice.contenders(CONTENDERS)
    }

    fn scenarios(&self) -> &[Scenario] {
        self.choice.scenarios(Scenario::ALL)
    }
}

pub fn run(options: &Options) -> Result<()> {
    ensure!(!options.contenders().contains(&Contender::Envoy), "Envoy takes no part in this bench: see `bench sni`");
    setup::ensure(&[setup::Part::Lab, setup::Part::Bench])?;
    let sluice = match options.contenders().contains(&Contender::Sluice) {
        true => Some(build::sluice(true)?.sluice),
        false => None,
    };
    shell::run(shell::cargo().args(["build", "--release", "--package", "gateway-tests", "--bin", "bench-load"]))?;
    let load = build::target_directory()?.join("release/bench-load");

    let scale = sluice.as_deref().filter(|_| options.is_whole()).map(|sluice| (sluice, options.scale()));
    let steps =
        if options.at_size { 0 } else { options.rounds() * options.contenders().len() * options.scenarios().len() };
    let progress = Progress::begin(steps + scale.map_or(0, |(_, effort)| effort.steps()));
    let mut remarks = machine::remarks()?;
    let mut noise = Noise::default();
    let mut observations = Vec::new();
    if !options.at_size {
        observations = compare(options, &load, sluice.clone(), &progress, &mut noise, &mut remarks)?;
    }
    if let Some((sluice, effort)) = scale {
        observations.extend(scale::run(&load, sluice, effort, &progress, &mut noise)?);
    }
    progress.end();
    remarks.extend(noise.remarks());
    report::write(BENCH, &report::rows(BENCH, &observations), &[], &remarks)
}

/// Everybody on the same network, one after the other, again and again.
fn compare(
    options: &Options,
    load: &Path,
    sluice: Option<PathBuf>,
    progress: &Progress,
    noise: &mut Noise,
    remarks: &mut Vec<String>,
) -> Result<Vec<Observation>> {
    let network = Network::new(load, Servers { addresses: 1, ports: 1 })?;
    let state = state(sluice, &network)?;
    for contender in options.contenders() {
        remarks.extend(contender.version(&network, &state)?);
    }
    let has_flowtable = state.nftables.as_ref().is_some_and(|nftables| nftables.has_flowtable);
    if options.contenders().contains(&Contender::Nftables) && !has_flowtable {
        remarks.push("nftables without a flow table: this kernel has none (CONFIG_NF_FLOW_TABLE)".to_owned());
    }
    let mut observations = Vec::new();
    for round in 0..options.rounds() {
        for contender in options.contenders() {
            let _running = contender.start(&network, &state)?;
            for scenario in options.scenarios() {
                let (name, rounds) = (contender.name(), options.rounds());
                let what = format!("round {} of {rounds}: {name}, {}", round + 1, scenario.name());
                progress.step(&what)?;
                if !scenario.takes(*contender) {
                    continue;
                }
                let report =
                    scenario.run(&network, *contender, options.times(*scenario)).with_context(|| what.clone())?;
                noise.note(&what, &report)?;
                for (scenario, measure, value) in scenario.values(&report)? {
                    observations.push(Observation { round, scenario, measure, contender: name, value });
                }
            }
        }
    }
    Ok(observations)
}

fn state(program: Option<PathBuf>, network: &Network) -> Result<State> {
    let values = [
        ("gateway", GATEWAY.to_string()),
        ("port", PORT.to_string()),
        ("bulk_port", BULK_PORT.to_string()),
        ("backend_1", BACKENDS[0].to_string()),
        ("backend_2", BACKENDS[1].to_string()),
        ("inside_1", INSIDE[0].to_string()),
        ("inside_2", INSIDE[1].to_string()),
    ];
    let rules = rendered(include_str!("peers/l4/nftables.nft"), &values, ".nft")?;
    let flowtable = rendered(include_str!("peers/l4/nftables-flowtable.nft"), &values, ".nft")?;
    Ok(State {
        program,
        manifests: manifests()?,
        haproxy: rendered(include_str!("peers/l4/haproxy.cfg"), &values, ".cfg")?,
        nginx: rendered(include_str!("peers/l4/nginx.conf"), &values, ".conf")?,
        envoy: None,
        nftables: Some(Nftables::new(network, rules, flowtable)?),
        ports: &[PORT, BULK_PORT],
        core: None,
    })
}

/// Both ports of the bench, over TCP, and the first over UDP too.
fn manifests() -> Result<Manifests> {
    let manifests = Manifests::new()?;
    let endpoints = BACKENDS.map(|address| Endpoint::ready(address.into()));
    let listeners = [("tcp", "TCP", PORT), ("bulk", "TCP", BULK_PORT), ("udp", "UDP", PORT)];
    let mut documents = vec![gateway("bench", &[&GATEWAY.to_string()], &listeners)];
    for (name, protocol, port) in listeners {
        documents.push(route(&format!("{protocol}Route"), name, ("bench", name), &[(name, port, 1)]));
        documents.push(service(name, protocol, port));
        documents.push(slice(name, protocol, port, &endpoints));
    }
    manifests.write("bench.yaml", &documents)?;
    Ok(manifests)
}
