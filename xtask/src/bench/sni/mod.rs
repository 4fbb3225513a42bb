//! `cargo xtask bench sni`: TLS passthrough by server name against the peers, all of it with canned ClientHellos, so that nobody's
//! cryptography is measured. Real TLS goes through each contender once, before anything is counted.

mod check;
mod goals;
mod held;
mod lookup;
mod place;
mod scenario;

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use self::place::{FEW, MANY, Place};
use self::scenario::{Load, PROGRAM_NS_PER_CONNECTION, Scenario};
use super::choice::Choice;
use super::contender::Contender;
use super::network::{Network, Servers, Times};
use super::noise::Noise;
use super::programs::Programs;
use super::stats::Observation;
use super::{Progress, machine, report};
use crate::setup::{self, Part};
use crate::{build, shell};

const BENCH: &str = "sni";

const CONTENDERS: &[Contender] =
    &[Contender::Sluice, Contender::Haproxy, Contender::Nginx, Contender::Envoy, Contender::Direct];

/// What a reader must know beside what every bench has.
const METHOD: [&str; 2] = [
    "a connection: handshake, a ClientHello of 512 bytes (post-quantum: 1,750) there, a record of 127 bytes back, closed by the client; nobody \
     encrypts. Real TLS went through each contender first",
    "memory: growth of the processes' proportional set size, entries of FLOWS, and the kernel's objects (socket, inode, dentry, file) for \
     as many TCP sockets as the gateway's namespace has more; socket buffers are not counted",
];

/// Options of this bench.
#[derive(clap::Args)]
pub struct Options {
    /// Fewer and shorter rounds: below 60 s, and noisier.
    #[arg(long)]
    quick: bool,
    #[command(flatten)]
    choice: Choice<Scenario>,
}

impl Options {
    fn rounds(&self) -> usize {
        if self.quick { 1 } else { 9 }
    }

    /// Of what takes long and varies little.
    fn few_rounds(&self) -> usize {
        if self.quick { 1 } else { 3 }
    }

    fn times(&self) -> Times {
        let (warm_up, measure) = if self.quick { (100, 500) } else { (200, 1500) };
        Times { warm_up: Duration::from_millis(warm_up), measure: Duration::from_millis(measure) }
    }

    fn contenders(&self) -> &[Contender] {
        self.choice.contenders(CONTENDERS)
    }

    fn wants(&self, scenario: Scenario) -> bool {
        self.choice.wants(scenario)
    }

    /// Of those that are a load, the ones that are wanted.
    fn loads(&self) -> Vec<&'static Load> {
        scenario::LOADS.iter().filter(|load| self.wants(load.scenario)).collect()
    }
}

pub fn run(options: &Options) -> Result<()> {
    let contenders = options.contenders();
    ensure!(!contenders.contains(&Contender::Nftables), "nftables reads no server names: see `bench l4`");
    setup::ensure(&[Part::Lab, Part::Bench])?;
    if contenders.contains(&Contender::Envoy) {
        setup::ensure(&[Part::Envoy])?;
    }
    let sluice = match contenders.contains(&Contender::Sluice) {
        true => Some(build::sluice(true)?.sluice),
        false => None,
    };
    shell::run(shell::cargo().args(["build", "--release", "--package", "gateway-tests", "--bin", "bench-load"]))?;
    let load = build::target_directory()?.join("release/bench-load");

    let loads = options.loads();
    let of_each_contender =
        options.rounds() * loads.len() + if options.wants(Scenario::Held) { options.few_rounds() } else { 0 };
    let progress = Progress::begin(of_each_contender * contenders.len());
    let mut noise = Noise::default();
    let mut bench = Bench { options, load: &load, sluice: sluice.as_deref(), progress: &progress, noise: &mut noise };
    let mut remarks = machine::remarks()?;
    remarks.extend(METHOD.map(str::to_owned));
    let mut observations = bench.compare(&loads, &mut remarks)?;
    if options.wants(Scenario::Held) {
        observations.extend(bench.hold()?);
    }
    if options.wants(Scenario::Lookup) {
        observations.extend(lookup::run(options.few_rounds())?);
    }
    progress.end();
    remarks.extend(noise.remarks());
    let rows = report::rows(BENCH, &observations);
    remarks.extend(goals::share(&rows));
    report::write(BENCH, &rows, &goals::goals(&rows), &remarks)
}

struct Bench<'a> {
    options: &'a Options,
    load: &'a Path,
    sluice: Option<&'a Path>,
    progress: &'a Progress,
    noise: &'a mut Noise,
}

impl Bench<'_> {
    /// Everybody on the same network, one after the other, again and again.
    fn compare(&mut self, loads: &[&'static Load], remarks: &mut Vec<String>) -> Result<Vec<Observation>> {
        let mut observations = Vec::new();
        if loads.is_empty() {
            return Ok(observations);
        }
        let network = Network::new(self.load, Servers { addresses: 1, ports: 1 })?;
        let check = check::Servers::start(&network)?;
        let places = [Place::new(FEW, self.sluice)?, Place::new(MANY, self.sluice)?];
        for contender in self.options.contenders() {
            remarks.extend(contender.version(&network, &places[0].state)?);
        }
        for round in 0..self.options.rounds() {
            for &contender in self.options.contenders() {
                for place in &places {
                    let loads: Vec<_> = loads.iter().filter(|load| load.names == place.names).collect();
                    if loads.is_empty() {
                        continue;
                    }
                    let mut programs = Programs::before();
                    let _running = contender.start(&network, &place.state)?;
                    if round == 0 && contender != Contender::Direct {
                        let who = contender.name();
                        check
                            .through_gateway()
                            .with_context(|| format!("{who} does not route real TLS by its name"))?;
                    }
                    for load in loads {
                        observations.extend(self.once(&network, contender, load, round)?);
                        if contender == Contender::Sluice && load.counts_programs {
                            programs.find()?;
                            observations.push(self.programs(&network, &programs, load, round)?);
                        }
                    }
                }
            }
        }
        Ok(observations)
    }

    fn once(
        &mut self,
        network: &Network,
        contender: Contender,
        load: &'static Load,
        round: usize,
    ) -> Result<Vec<Observation>> {
        let (rounds, name) = (self.options.rounds(), contender.name());
        let what = format!("round {} of {rounds}: {name}, {}", round + 1, load.name);
        self.progress.step(&what)?;
        let report = load.run(network, contender, self.options.times()).with_context(|| what.clone())?;
        self.noise.note(&what, &report)?;
        let values = load.values(&report)?.into_iter();
        Ok(values
            .map(|(measure, value)| Observation { round, scenario: load.name, measure, contender: name, value })
            .collect())
    }

    /// What a connection spends in Sluice's programs: once more, because counting it costs time itself.
    fn programs(
        &self,
        network: &Network,
        programs: &Programs,
        load: &'static Load,
        round: usize,
    ) -> Result<Observation> {
        let (time, _, report) = programs.time(|| load.run(network, Contender::Sluice, self.options.times()))?;
        // The programs run in the warm-up too.
        let value = time / load.connections(&report, self.options.times())?;
        let (scenario, contender) = (load.name, Contender::Sluice.name());
        Ok(Observation { round, scenario, measure: PROGRAM_NS_PER_CONNECTION, contender, value })
    }

    fn hold(&mut self) -> Result<Vec<Observation>> {
        let place = Place::for_holding(self.sluice)?;
        let rounds = self.options.few_rounds();
        let mut observations = Vec::new();
        for round in 0..rounds {
            for &contender in self.options.contenders() {
                let name = contender.name();
                self.progress.step(&format!("round {} of {rounds}: {name}, {}", round + 1, held::SCENARIO))?;
                // Each on a network of its own, so that nothing of the one before is still being cleaned up.
                let network = Network::new(self.load, Servers { addresses: 1, ports: 1 })?;
                let values = held::run(&network, contender, &place.state).with_context(|| format!("{name}, held"))?;
                observations.extend(values.into_iter().map(|(measure, value)| Observation {
                    round,
                    scenario: held::SCENARIO,
                    measure,
                    contender: name,
                    value,
                }));
            }
        }
        Ok(observations)
    }
}
