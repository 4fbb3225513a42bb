//! `cargo xtask bench l7`: HTTP against the peers, one core each: the contender has core 1 for itself, clients and backends share core 0.

mod goals;
mod place;
mod scenario;

use std::path::Path;

use anyhow::{Context, Result, ensure};
use gateway_tests::tls::Authority;
use tempfile::TempDir;

use self::place::{Answering, FEW, MANY, Place};
use self::scenario::{Gear, LATENCY, LATENCY_P50, LATENCY_P99, LATENCY_P999, Load, REQUESTS_PER_SECOND, Scenario};
use super::choice::Choice;
use super::contender::Contender;
use super::network::{Network, Servers};
use super::noise::Noise;
use super::stats::{Observation, Row};
use super::{Progress, machine, report};
use crate::setup::{self, Part};
use crate::{build, shell};

const BENCH: &str = "l7";

const CONTENDERS: &[Contender] = &[Contender::Sluice, Contender::Nginx, Contender::Haproxy, Contender::Envoy];

/// What a reader must know beside what every bench has.
const METHOD: [&str; 5] = [
    "load generators (wrk, h2load, rustls for new TLS connections) and backends (nginx) on core 0; the contender on core 1, one worker",
    "CPU: all that core 1 did (user, system, interrupts, and whatever other processes of the machine did there), per 100,000 requests; where \
     core 0 is the one that is full, requests per second say less than this",
    "10 and 10,000 routes: HTTP/1.1, 1 KiB, prefixes of the path; nginx has locations, HAProxy a map, Envoy a list",
    "all go round the two backends in turn: these share core 0, so that who avoids the one with more requests under way lets them wait for \
     the scheduler (HAProxy with leastconn doubles its p99, and so does Sluice with its default)",
    "the fixed rate comes in bursts: h2load sends every 10 ms what is due",
];

/// Options of this bench.
#[derive(clap::Args)]
pub struct Options {
    /// Fewer and shorter rounds, and noisier.
    #[arg(long)]
    quick: bool,
    #[command(flatten)]
    choice: Choice<Scenario>,
}

impl Options {
    fn rounds(&self) -> usize {
        if self.quick { 1 } else { 5 }
    }

    fn seconds(&self) -> u32 {
        if self.quick { 1 } else { 3 }
    }

    fn contenders(&self) -> &[Contender] {
        self.choice.contenders(CONTENDERS)
    }

    fn wants(&self, scenario: Scenario) -> bool {
        self.choice.wants(scenario)
    }

    /// Of those that go as fast as they can, the ones that are wanted; what the fixed rate is found by is always among them.
    fn loads(&self) -> Vec<&'static Load> {
        let needed = |scenario| scenario == Scenario::Small && self.wants(Scenario::Latency);
        scenario::LOADS.iter().filter(|load| self.wants(load.scenario) || needed(load.scenario)).collect()
    }
}

pub fn run(options: &Options) -> Result<()> {
    let contenders = options.contenders();
    for no_proxy in [Contender::Nftables, Contender::Direct] {
        ensure!(!contenders.contains(&no_proxy), "{} is no HTTP proxy: see `bench l4`", no_proxy.name());
    }
    setup::ensure(&[Part::Lab, Part::Bench])?;
    if contenders.contains(&Contender::Envoy) {
        setup::ensure(&[Part::Envoy])?;
    }
    let sluice = match contenders.contains(&Contender::Sluice) {
        true => Some(build::sluice(true)?.sluice),
        false => None,
    };
    shell::run(shell::cargo().args(["build", "--release", "--package", "gateway-tests", "--bin", "bench-load"]))?;
    let program = build::target_directory()?.join("release/bench-load");

    let loads = options.loads();
    let latency = usize::from(options.wants(Scenario::Latency));
    let progress = Progress::begin(options.rounds() * (loads.len() + latency) * contenders.len());
    let folder = TempDir::with_prefix("sluice-bench-")?;
    let (script, message, log) =
        (folder.path().join("routes.lua"), folder.path().join("message"), folder.path().join("log"));
    std::fs::write(&script, include_str!("../peers/l7/routes.lua"))?;
    // Not compressed, no bytes.
    std::fs::write(&message, [0; 5])?;
    let authority = Authority::new()?;
    let identity = place::identity(&authority)?;
    let network = Network::new(&program, Servers { addresses: 1, ports: 1 })?;
    let _answering = Answering::start(&network)?;
    let places = [Place::new(FEW, &identity, sluice.as_deref())?, Place::new(MANY, &identity, sluice.as_deref())?];
    let gear = Gear {
        network: &network,
        ca: &authority.file(),
        script: &script,
        message: &message,
        seconds: options.seconds(),
    };
    let mut remarks = machine::remarks()?;
    // The last two are about other ways to share the cores.
    remarks.truncate(1);
    remarks.extend(METHOD.map(str::to_owned));
    for contender in contenders {
        remarks.extend(contender.version(&network, &places[0].state)?);
    }

    let mut bench = Bench { options, gear, places: &places, progress: &progress, noise: Noise::default() };
    let mut observations = bench.compare(&loads)?;
    if options.wants(Scenario::Latency) {
        let rows = report::rows(BENCH, &observations);
        let rate = half_of_the_slowest(&rows).context("nobody's rate was measured")?;
        remarks
            .push(format!("the fixed rate is {rate:.0} requests a second, half of what the slowest contender can do"));
        observations.extend(bench.latencies(rate, &log)?);
    }
    let noise = bench.noise;
    progress.end();
    remarks.extend(noise.remarks());
    let rows = report::rows(BENCH, &observations);
    report::write(BENCH, &rows, &goals::goals(&rows), &remarks)
}

fn half_of_the_slowest(rows: &[Row]) -> Option<f64> {
    let name = scenario::LOADS.iter().find(|load| load.scenario == Scenario::Small)?.name;
    let rates = rows.iter().filter(|row| (row.scenario, row.measure) == (name, REQUESTS_PER_SECOND.name));
    rates.map(|row| row.median / 2.0).min_by(f64::total_cmp)
}

struct Bench<'a> {
    options: &'a Options,
    gear: Gear<'a>,
    places: &'a [Place],
    progress: &'a Progress,
    noise: Noise,
}

impl Bench<'_> {
    /// Everybody on the same network, one after the other, again and again.
    fn compare(&mut self, loads: &[&'static Load]) -> Result<Vec<Observation>> {
        let mut observations = Vec::new();
        for round in 0..self.options.rounds() {
            for &contender in self.options.contenders() {
                for place in self.places {
                    let loads: Vec<_> = loads.iter().filter(|load| load.routes == place.routes).collect();
                    if loads.is_empty() {
                        continue;
                    }
                    let _running = contender.start(self.gear.network, &place.state)?;
                    for load in loads {
                        observations.extend(self.once(contender, load, round)?);
                    }
                }
            }
        }
        Ok(observations)
    }

    fn once(&mut self, contender: Contender, load: &'static Load, round: usize) -> Result<Vec<Observation>> {
        let what = self.step(contender, load.name, round)?;
        let report = load.run(&self.gear, contender).with_context(|| what.clone())?;
        if !self.noise.is_measurement(&what, &report) {
            return Ok(Vec::new());
        }
        let (scenario, contender) = (load.name, contender.name());
        let values = load.values(&report)?.into_iter();
        Ok(values.map(|(measure, value)| Observation { round, scenario, measure, contender, value }).collect())
    }

    fn latencies(&mut self, rate: f64, log: &Path) -> Result<Vec<Observation>> {
        let mut observations = Vec::new();
        for round in 0..self.options.rounds() {
            for &contender in self.options.contenders() {
                let what = self.step(contender, LATENCY, round)?;
                let place = self.places.first().context("no place")?;
                let _running = contender.start(self.gear.network, &place.state)?;
                let (report, sorted) =
                    scenario::at_rate(&self.gear, contender, rate, log).with_context(|| what.clone())?;
                if !self.noise.is_measurement(&what, &report) {
                    continue;
                }
                for (measure, per_mille) in [(LATENCY_P50, 500), (LATENCY_P99, 990), (LATENCY_P999, 999)] {
                    let rank = (sorted.len() * per_mille).div_ceil(1000).max(1);
                    let value = sorted.get(rank - 1).copied().map_or(f64::NAN, f64::from);
                    let contender = contender.name();
                    observations.push(Observation { round, scenario: LATENCY, measure, contender, value });
                }
            }
        }
        Ok(observations)
    }

    fn step(&self, contender: Contender, name: &str, round: usize) -> Result<String> {
        let what = format!("round {} of {}: {}, {name}", round + 1, self.options.rounds(), contender.name());
        self.progress.step(&what)?;
        Ok(what)
    }
}
