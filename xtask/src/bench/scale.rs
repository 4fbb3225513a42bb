//! Sluice at size: what a packet costs with 1,000 listeners and 10,000 backends, how long a changed endpoint takes to be in the
//! maps, and what memory the agent has.

use std::net::{Ipv4Addr, SocketAddrV4};
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use aya::maps::{Array, HashMap, Map, MapData};
use gateway_common::{Address, Backend, BackendSet, Listener, ListenerKey, names, protocol};
use gateway_tests::lab::{Endpoint, Manifests, gateway, route, service, slice};

use super::Progress;
use super::network::{BACKENDS, GATEWAY, Network, PORT, Servers, Times, following, sources};
use super::noise::Noise;
use super::programs::Programs;
use super::sluice::Sluice;
use super::stats::{Measure, Observation, median};

const CPU_US_PER_CONNECTION: Measure = Measure::new("cpu_us_per_connection", "µs");
const CPU_US_PER_PACKET: Measure = Measure::new("cpu_us_per_packet", "µs");
const PROGRAM_NS_PER_PACKET: Measure = Measure::new("program_ns_per_packet", "ns");
const PROPAGATION_MS_MEDIAN: Measure = Measure::new("propagation_ms_median", "ms");
const PROPAGATION_MS_MEAN: Measure = Measure::new("propagation_ms_mean", "ms");
const PROPAGATION_MS_MAX: Measure = Measure::new("propagation_ms_max", "ms");
const MEMORY_MIB: Measure = Measure::new("memory_mib", "MiB");

/// Where the bench's listeners begin.
const FIRST_LISTENER: u16 = 10_000;
/// The API allows a Gateway 64 listeners.
const LISTENERS_OF_A_GATEWAY: u16 = 64;
/// An address on the way to the first backend on which nothing answers: what an endpoint is changed to.
const OTHER_ADDRESS: Ipv4Addr = Ipv4Addr::new(198, 18, 1, 200);
/// A change that takes longer than this did not come through.
const PATIENCE: Duration = Duration::from_secs(5);
/// Between two looks at the maps: with the kernel's timer slack about 0.1 ms. Looking without a pause would take a core from the agent.
const POLL: Duration = Duration::from_micros(50);
/// Between two changes, so that each is one.
const PAUSE: Duration = Duration::from_millis(50);

/// How much the agent has to hold.
#[derive(Clone, Copy)]
struct Size {
    listeners: u16,
    /// Of each listener's route, half of them on either backend node.
    endpoints: u8,
}

const SMALL: Size = Size { listeners: 1, endpoints: 2 };
const LARGE: Size = Size { listeners: 1_000, endpoints: 10 };

#[derive(Clone, Copy)]
struct Case {
    size: Size,
    scenario: &'static str,
    /// TCPRoutes with new connections, or UDPRoutes with datagrams.
    tcp: bool,
}

const CASES: [Case; 4] = [
    Case { size: SMALL, scenario: "tcp, 1 listener, 2 backends", tcp: true },
    Case { size: LARGE, scenario: "tcp, 1,000 listeners, 10,000 backends", tcp: true },
    Case { size: SMALL, scenario: "udp, 1 listener, 2 backends", tcp: false },
    Case { size: LARGE, scenario: "udp, 1,000 listeners, 10,000 backends", tcp: false },
];

/// How much of it is done.
#[derive(Clone, Copy)]
pub struct Effort {
    pub rounds: usize,
    pub times: Times,
    /// Changes of an endpoint in each round.
    pub changes: usize,
}

impl Effort {
    pub fn steps(self) -> usize {
        self.rounds * CASES.len()
    }
}

pub fn run(
    load: &Path,
    sluice: &Path,
    effort: Effort,
    progress: &Progress,
    noise: &mut Noise,
) -> Result<Vec<Observation>> {
    let network = Network::new(load, Servers { addresses: LARGE.endpoints / 2, ports: LARGE.listeners })?;
    let mut observations = Vec::new();
    for round in 0..effort.rounds {
        for case in CASES {
            progress.step(&format!("round {} of {}: sluice, {}", round + 1, effort.rounds, case.scenario))?;
            let mut note = |scenario, measure, value| {
                observations.push(Observation { round, scenario, measure, contender: "sluice", value });
            };
            let manifests = case.manifests()?;
            let mut programs = Programs::before();
            let agent = Sluice::start(&network.gateway, sluice, network.gateway.command(sluice), manifests.path())?;
            programs.find()?;
            let (measure, cost) = case.cost(&network, effort.times, noise)?;
            note(case.scenario, measure, cost);
            let time = programs.time_per_run(|| case.cost(&network, effort.times, noise).map(drop))?;
            note(case.scenario, PROGRAM_NS_PER_PACKET, time);
            if case.tcp && case.size.listeners > 1 {
                let mut maps = Maps::open(network.gateway.pid())?;
                let times = propagation(case, &manifests, &mut maps, effort.changes)?;
                let scenario = "one endpoint of 1,000 routes changes";
                note(scenario, PROPAGATION_MS_MEDIAN, median(&times));
                note(scenario, PROPAGATION_MS_MEAN, times.iter().sum::<f64>() / times.len() as f64);
                note(scenario, PROPAGATION_MS_MAX, times.iter().copied().fold(0.0, f64::max));
                note("agent with 1,000 routes", MEMORY_MIB, agent.memory()?);
            }
        }
    }
    Ok(observations)
}

impl Case {
    fn protocol(self) -> &'static str {
        if self.tcp { "TCP" } else { "UDP" }
    }

    /// Gateways of 64 listeners, and for each listener a file with its route and service and one with its EndpointSlice.
    fn manifests(self) -> Result<Manifests> {
        let manifests = Manifests::new()?;
        let protocol = self.protocol();
        for first in (0..self.size.listeners).step_by(LISTENERS_OF_A_GATEWAY.into()) {
            let range = first..self.size.listeners.min(first + LISTENERS_OF_A_GATEWAY);
            let sections: Vec<String> = range.clone().map(section).collect();
            let listeners: Vec<_> =
                sections.iter().zip(range).map(|(s, i)| (s.as_str(), protocol, FIRST_LISTENER + i)).collect();
            let name = gateway_of(first);
            manifests.write(&format!("{name}.yaml"), &[gateway(&name, &[&GATEWAY.to_string()], &listeners)])?;
        }
        for i in 0..self.size.listeners {
            let (name, port) = (section(i), PORT + i);
            let kind = format!("{protocol}Route");
            let route = route(&kind, &name, (&gateway_of(i), &name), &[(&name, port, 1)]);
            manifests.write(&format!("route-{i}.yaml"), &[route, service(&name, protocol, port)])?;
            self.write_slice(&manifests, i, None)?;
        }
        Ok(manifests)
    }

    /// The EndpointSlice of a listener; `other` takes the place of the first endpoint.
    fn write_slice(self, manifests: &Manifests, i: u16, other: Option<Ipv4Addr>) -> Result<()> {
        let half = self.size.endpoints / 2;
        let mut addresses: Vec<_> = BACKENDS.into_iter().flat_map(|backend| following(backend, half)).collect();
        if let Some(other) = other {
            addresses[0] = other;
        }
        let endpoints: Vec<_> = addresses.into_iter().map(|address| Endpoint::ready(address.into())).collect();
        manifests.write(&format!("slice-{i}.yaml"), &[slice(&section(i), self.protocol(), PORT + i, &endpoints)])
    }

    /// CPU time a connection or packet, over all listeners.
    fn cost(self, network: &Network, times: Times, noise: &mut Noise) -> Result<(Measure, f64)> {
        let ports = (0..self.size.listeners).map(|i| FIRST_LISTENER + i);
        let targets: Vec<_> = ports.map(|port| SocketAddrV4::new(GATEWAY, port)).collect();
        let sources = sources();
        let (kind, measure, more) = match self.tcp {
            true => ("connections", CPU_US_PER_CONNECTION, vec!["--concurrency", "64", "--sources", &sources]),
            // As many flows whatever the size.
            false => ("datagrams", CPU_US_PER_PACKET, vec!["--flows", "256", "--window", "1"]),
        };
        let report = network.load(kind, &targets, times, &more)?;
        let number = |name: &str| report[name].as_f64().with_context(|| format!("the load reports no {name}"));
        noise.note(self.scenario, &report)?;
        Ok((measure, number("cpu_seconds")? * 1e6 / number("units")?))
    }
}

fn section(i: u16) -> String {
    format!("l{i}")
}

fn gateway_of(i: u16) -> String {
    format!("g{}", i / LISTENERS_OF_A_GATEWAY)
}

/// Changes one endpoint after the other, each in the slice of another route, and says how many ms each took from the rename of
/// the file until new connections went by it.
fn propagation(case: Case, manifests: &Manifests, maps: &mut Maps, changes: usize) -> Result<Vec<f64>> {
    let mut times = Vec::with_capacity(changes);
    for change in 0..changes {
        let i = (change * 17 % usize::from(case.size.listeners)) as u16;
        let (old, new) = (Address::v4(BACKENDS[0].octets()), Address::v4(OTHER_ADDRESS.octets()));
        let slot = maps.slot_of(i, &old)?.with_context(|| format!("listener {i} has no slot for {}", BACKENDS[0]))?;
        let before = maps.slot(i, slot)?;
        std::thread::sleep(PAUSE);
        // Writing the new file is not the agent's work, and takes no part of a millisecond worth mentioning.
        let begun = Instant::now();
        case.write_slice(manifests, i, Some(OTHER_ADDRESS))?;
        while maps.slot(i, slot)? == before {
            std::thread::sleep(POLL);
            ensure!(
                begun.elapsed() < PATIENCE,
                "a changed endpoint of listener {i} was not in the maps after {PATIENCE:?}"
            );
        }
        times.push(begun.elapsed().as_secs_f64() * 1e3);
        maps.slot_of(i, &new)?.with_context(|| format!("listener {i} has no slot for the new {OTHER_ADDRESS}"))?;
        case.write_slice(manifests, i, None)?;
        std::thread::sleep(PAUSE);
    }
    Ok(times)
}

/// The pinned maps, looked at from outside the agent.
struct Maps {
    listeners: HashMap<MapData, ListenerKey, Listener>,
    sets: Array<MapData, BackendSet>,
    slots: Array<MapData, u32>,
    backends: HashMap<MapData, u32, Backend>,
}

impl Maps {
    /// Opens those of a node, whose file system is seen through the process that holds it.
    fn open(node: u32) -> Result<Maps> {
        let open = |name: &str| {
            let path = format!("/proc/{node}/root/sys/fs/bpf/sluice/{name}");
            MapData::from_pin(&path).and_then(Map::from_map_data).with_context(|| format!("cannot open {path}"))
        };
        Ok(Maps {
            listeners: open(names::LISTENERS)?.try_into()?,
            sets: open(names::BACKEND_SETS)?.try_into()?,
            slots: open(names::SLOTS)?.try_into()?,
            backends: open(names::BACKENDS)?.try_into()?,
        })
    }

    fn set(&self, listener: u16) -> Result<BackendSet> {
        let port = FIRST_LISTENER + listener;
        let address = Address::v4(GATEWAY.octets());
        let key = ListenerKey { address, port, protocol: protocol::TCP, ..ListenerKey::default() };
        let listener = self.listeners.get(&key, 0).with_context(|| format!("port {port} is not in LISTENERS"))?;
        Ok(self.sets.get(&listener.backend_set, 0)?)
    }

    /// What a slot of a listener's table holds now: three system calls, a few µs.
    fn slot(&self, listener: u16, slot: u32) -> Result<u32> {
        Ok(self.slots.get(&(self.set(listener)?.offset + slot), 0)?)
    }

    /// The first slot of a listener's table that leads to this backend.
    fn slot_of(&self, listener: u16, address: &Address) -> Result<Option<u32>> {
        for slot in 0..self.set(listener)?.length.into() {
            let id = self.slot(listener, slot)?;
            if self.backends.get(&id, 0).is_ok_and(|backend| backend.address == *address) {
                return Ok(Some(slot));
            }
        }
        Ok(None)
    }
}
