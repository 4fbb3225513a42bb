//! `cargo xtask bench control`: what many objects cost an agent, and how soon a change counts, on a real API server with the agent as a DaemonSet.
//! Changes are made over a connection to the API server that is kept; time runs from its answer.

mod agents;
mod traffic;
mod world;

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use gateway_tests::cluster::plan::Family;
use gateway_tests::cluster::{Api, Cluster};
use serde_json::json;

use self::agents::Writes;
use self::traffic::{Asker, Load, Seen, until};
use self::world::{HTTP, HTTP_ROUTES, NAMESPACE, SERVERS, SETS, SLICES, TCP, World, host};
use super::report::{self, Goal, Output, Verdict};
use super::stats::{Measure, Observation, median};
use super::{Progress, machine};
use crate::{conformance, setup};

const BENCH: &str = "control";
/// What does not come within it does not come.
const PATIENCE: Duration = Duration::from_secs(60);
/// As long as it takes until everybody is done with a change, so that the next one is alone.
const PAUSE: Duration = Duration::from_millis(30);

const RESIDENT: Measure = Measure::new("memory_mib", "MiB");
const ANONYMOUS: Measure = Measure::new("memory_anonymous_mib", "MiB");
const CPU: Measure = Measure::new("cpu_ms_per_s", "ms/s");
const WRITES: Measure = Measure::new("api_writes", "writes");
const GATEWAY_WRITES: Measure = Measure::new("api_writes_gateway", "writes");
const MEAN: Measure = Measure::new("propagation_ms_mean", "ms");
const MEDIAN: Measure = Measure::new("propagation_ms_median", "ms");
const P99: Measure = Measure::new("propagation_ms_p99", "ms");
const MAX: Measure = Measure::new("propagation_ms_max", "ms");
const REQUESTS: Measure = Measure::new("requests", "requests");
const FAILED: Measure = Measure::new("failed_requests", "requests");
const GAP: Measure = Measure::new("longest_gap_ms", "ms");
const START: Measure = Measure::new("start_ms", "ms");

const EMPTY: &str = "no route";
const ROUTES: &str = "HTTPRoutes";
const LISTENER_SETS: &str = "ListenerSets";
const ONE_BY_ONE: &str = "routes one by one";
const HTTP_ENDPOINT: &str = "an endpoint that all HTTPRoutes share";
const TCP_ENDPOINT: &str = "an endpoint of a TCPRoute";
const CHANGING: &str = "a route that changes 10 times a second";
const FLAPPING: &str = "an endpoint that flaps";
const ROLLOUT: &str = "a rollout of backends";
const RESTART: &str = "the agent killed and started again";

#[derive(clap::Args)]
pub struct Options {
    /// A tenth of everything, for a look.
    #[arg(long)]
    quick: bool,
    /// With an agent that is not optimised: its figures are no use but to try the bench.
    #[arg(long)]
    dev: bool,
    /// Leave a cluster up that was not before.
    #[arg(long)]
    keep: bool,
    /// What to print; the files are written in any case.
    #[arg(long, value_enum, default_value_t)]
    output: Output,
}

/// How much of it is done.
#[derive(Clone, Copy)]
struct Size {
    routes: usize,
    one_by_one: usize,
    listener_sets: usize,
    changes: usize,
    replicas: usize,
    seconds: u64,
}

const WHOLE: Size =
    Size { routes: 5_000, one_by_one: 3_000, listener_sets: 2_500, changes: 100, replicas: 20, seconds: 10 };
const QUICK: Size = Size { routes: 500, one_by_one: 300, listener_sets: 250, changes: 20, replicas: 4, seconds: 3 };

const STEPS: [&str; 9] = [
    "an agent with nothing to do",
    "routes, one by one",
    "the rest of the routes",
    "endpoints that change",
    "a route that changes under load",
    "an endpoint that flaps",
    "a rollout",
    "the agent, killed",
    "ListenerSets",
];

pub fn run(options: &Options) -> Result<()> {
    ensure!(setup::is_root(), "a cluster needs root: run it with sudo");
    let size = if options.quick { QUICK } else { WHOLE };
    let observations = conformance::with_sluice(options.dev, options.keep, |cluster, _| {
        let network = cluster.control().network()?;
        network.enter(|| Bench::new(cluster, size)?.run())
    })?;
    let mut remarks = machine::remarks()?;
    // The others are about benches that share cores out.
    remarks.truncate(1);
    remarks.push(format!(
        "{} HTTPRoutes of one Gateway, {} of them one by one; {} ListenerSets; {} changes of an endpoint; {} backends rolled out; two nodes, the API \
         server, etcd and the clients on the same cores",
        size.routes, size.one_by_one, size.listener_sets, size.changes, size.replicas
    ));
    remarks.push("propagation: from the API server's answer to a client that keeps its connection to the first answer of the gateway that shows the change, \
                  asked for every 0.2 ms".to_owned());
    remarks.push("memory and CPU of the larger of the two agents; it writes statuses".to_owned());
    if options.dev {
        remarks.push("THE AGENT WAS NOT OPTIMISED: these are no figures of Sluice".to_owned());
    }
    let rows = report::rows(BENCH, &observations);
    let value = |scenario: &str, measure: Measure| {
        let row = rows.iter().find(|row| row.scenario == scenario && row.measure == measure.name);
        row.map_or(f64::NAN, |row| row.median)
    };
    let goal = |what: &'static str, scenario, measure: Measure, most: f64| {
        let measured = value(scenario, measure);
        Goal {
            what,
            wanted: format!("at most {} {}", report::number(most), measure.unit),
            measured: report::number(measured),
            verdict: Verdict::of(measured <= most),
        }
    };
    let goals = [
        goal("resident with all HTTPRoutes", ROUTES, RESIDENT, 30.0),
        goal("resident with all ListenerSets", LISTENER_SETS, RESIDENT, 30.0),
        goal("CPU when nothing changes", ROUTES, CPU, 5.0),
        goal("a new route, mean", ONE_BY_ONE, MEAN, 5.0),
        goal("a new route, worst", ONE_BY_ONE, MAX, 50.0),
        goal("an endpoint of all HTTPRoutes, median", HTTP_ENDPOINT, MEDIAN, 5.0),
        goal("an endpoint in the kernel, median", TCP_ENDPOINT, MEDIAN, 5.0),
        goal("a changing route: failed requests", CHANGING, FAILED, 0.0),
        goal("a flapping endpoint: failed requests", FLAPPING, FAILED, 0.0),
        goal("a rollout: failed requests", ROLLOUT, FAILED, 0.0),
        goal("connections through the kernel while the agent is away: failed", RESTART, FAILED, 0.0),
        goal("from the agent's start to ready", RESTART, START, 2_000.0),
    ];
    report::write_as(BENCH, &rows, &goals, &remarks, options.output)
}

struct Bench<'a> {
    cluster: &'a Cluster,
    size: Size,
    api: Api,
    world: World<'a>,
    http: SocketAddr,
    tcp: SocketAddr,
    progress: Progress,
    observations: Vec<Observation>,
}

impl<'a> Bench<'a> {
    fn new(cluster: &'a Cluster, size: Size) -> Result<Bench<'a>> {
        let progress = Progress::begin(STEPS.len());
        for (name, port) in SERVERS {
            traffic::serve(SocketAddr::new(Family::V4.control(), port), name)?;
        }
        let mut api = Api::connect(cluster)?;
        let world = World::new(cluster, &mut api)?;
        let address: IpAddr = world.address(&mut api)?;
        let (http, tcp) = (SocketAddr::new(address, HTTP), SocketAddr::new(address, TCP));
        until(PATIENCE, || says(&mut Asker::new(tcp), "plain", SERVERS[0].0)).context("the first answer")?;
        Ok(Bench { cluster, size, api, world, http, tcp, progress, observations: Vec::new() })
    }

    fn run(mut self) -> Result<Vec<Observation>> {
        let steps: [fn(&mut Self) -> Result<()>; STEPS.len()] = [
            Self::empty,
            Self::one_by_one,
            Self::routes,
            Self::endpoints,
            Self::changing,
            Self::flapping,
            Self::rollout,
            Self::restart,
            Self::listener_sets,
        ];
        for (what, step) in STEPS.into_iter().zip(steps) {
            self.progress.step(what)?;
            step(&mut self).context(what)?;
        }
        let Bench { world, progress, observations, .. } = self;
        progress.end();
        drop(world);
        Ok(observations)
    }

    fn note(&mut self, scenario: &'static str, measure: Measure, value: f64) {
        self.observations.push(Observation { round: 0, scenario, measure, contender: "sluice", value });
    }

    fn note_times(&mut self, scenario: &'static str, times: &mut [f64]) {
        times.sort_unstable_by(f64::total_cmp);
        let rank = (times.len() * 99).div_ceil(100).max(1) - 1;
        self.note(scenario, MEAN, times.iter().sum::<f64>() / times.len() as f64);
        self.note(scenario, MEDIAN, median(times));
        self.note(scenario, P99, times.get(rank).copied().unwrap_or(f64::NAN));
        self.note(scenario, MAX, times.last().copied().unwrap_or(f64::NAN));
    }

    fn note_seen(&mut self, scenario: &'static str, seen: Seen) {
        self.note(scenario, REQUESTS, seen.requests as f64);
        self.note(scenario, FAILED, seen.failed as f64);
        self.note(scenario, GAP, seen.longest_gap);
    }

    /// What the agents use when nothing happens.
    fn at_rest(&mut self, scenario: &'static str) -> Result<()> {
        self.quiet()?;
        let begun = Instant::now();
        let before = agents::usage(self.cluster)?;
        std::thread::sleep(Duration::from_secs(self.size.seconds));
        let after = agents::usage(self.cluster)?;
        let seconds = begun.elapsed().as_secs_f64();
        let most = |values: &mut dyn Iterator<Item = f64>| values.fold(0.0, f64::max);
        let cpu = most(&mut before.iter().zip(&after).map(|(before, after)| (after.cpu - before.cpu) / seconds * 1e3));
        self.note(scenario, RESIDENT, most(&mut after.iter().map(|usage| usage.resident)));
        self.note(scenario, ANONYMOUS, most(&mut after.iter().map(|usage| usage.anonymous)));
        self.note(scenario, CPU, cpu);
        Ok(())
    }

    /// Waits until nobody writes any more.
    fn quiet(&self) -> Result<Writes> {
        let (begun, mut last, mut since) = (Instant::now(), Writes::now(self.cluster)?, Instant::now());
        while since.elapsed() < Duration::from_secs(6) {
            ensure!(begun.elapsed() < 5 * PATIENCE, "the agents go on writing");
            std::thread::sleep(Duration::from_millis(500));
            let now = Writes::now(self.cluster)?;
            if now.but_leases() != last.but_leases() {
                (last, since) = (now, Instant::now());
            }
        }
        Ok(last)
    }

    fn empty(&mut self) -> Result<()> {
        self.at_rest(EMPTY)
    }

    fn one_by_one(&mut self) -> Result<()> {
        let before = self.quiet()?;
        let mut asker = Asker::new(self.http);
        let mut times = Vec::with_capacity(self.size.one_by_one);
        for i in 0..self.size.one_by_one {
            let host = host(i);
            let route = world::http_route(&format!("r{i}"), &[&host], "backend");
            self.api.create(HTTP_ROUTES, &route)?;
            let took = until(PATIENCE, || says(&mut asker, &host, SERVERS[0].0)).with_context(|| host.clone())?;
            times.push(took.as_secs_f64() * 1e3);
        }
        self.note_times(ONE_BY_ONE, &mut times);
        let after = self.quiet()?;
        self.note(ONE_BY_ONE, WRITES, (after.of("httproutes") - before.of("httproutes")) as f64);
        self.note(ONE_BY_ONE, GATEWAY_WRITES, (after.of("gateways") - before.of("gateways")) as f64);
        Ok(())
    }

    fn routes(&mut self) -> Result<()> {
        for i in self.size.one_by_one..self.size.routes {
            self.api.create(HTTP_ROUTES, &world::http_route(&format!("r{i}"), &[&host(i)], "backend"))?;
        }
        let (last, mut asker) = (host(self.size.routes - 1), Asker::new(self.http));
        until(PATIENCE, || says(&mut asker, &last, SERVERS[0].0))?;
        self.at_rest(ROUTES)
    }

    fn endpoints(&mut self) -> Result<()> {
        let mut of_http = Vec::new();
        let mut of_tcp = Vec::new();
        let (mut asker, host) = (Asker::new(self.http), host(0));
        for i in 1..=self.size.changes {
            let (name, port) = SERVERS[i % 2];
            self.api.merge(&format!("{SLICES}/backend"), &world::to_port(port))?;
            let took = until(PATIENCE, || says(&mut asker, &host, name)).context("HTTP")?;
            of_http.push(took.as_secs_f64() * 1e3);
            std::thread::sleep(PAUSE);
            self.api.merge(&format!("{SLICES}/plain"), &world::to_port(port))?;
            let took = until(PATIENCE, || says(&mut Asker::new(self.tcp), "plain", name)).context("TCP")?;
            of_tcp.push(took.as_secs_f64() * 1e3);
            std::thread::sleep(PAUSE);
        }
        self.note_times(HTTP_ENDPOINT, &mut of_http);
        self.note_times(TCP_ENDPOINT, &mut of_tcp);
        Ok(())
    }

    /// A route of its own for a load.
    fn route_for_load(&mut self, name: &str, host: &str, service: &str) -> Result<()> {
        self.api.create(HTTP_ROUTES, &world::http_route(name, &[host], service))?;
        let mut asker = Asker::new(self.http);
        until(PATIENCE, || asker.get(host, "/").is_ok_and(|answer| answer.status == 200)).map(drop)
    }

    fn changing(&mut self) -> Result<()> {
        const HOST: &str = "changing.example.com";
        self.route_for_load("changing", HOST, "backend")?;
        let load = Load::start(4, self.http, HOST, false);
        for i in 0..self.size.seconds * 10 {
            let change = json!({"spec": {"rules": world::rules("backend", &format!("m{i}"))}});
            self.api.merge(&format!("{HTTP_ROUTES}/changing"), &change)?;
            std::thread::sleep(Duration::from_millis(100));
        }
        let seen = load.end()?;
        self.note_seen(CHANGING, seen);
        Ok(())
    }

    fn flapping(&mut self) -> Result<()> {
        const HOST: &str = "flapping.example.com";
        self.route_for_load("flapping", HOST, "flapping")?;
        let load = Load::start(4, self.http, HOST, false);
        for i in 0..self.size.seconds * 10 {
            self.api.merge(&format!("{SLICES}/flaps"), &world::readiness(i % 2 == 1))?;
            std::thread::sleep(Duration::from_millis(100));
        }
        let seen = load.end()?;
        self.note_seen(FLAPPING, seen);
        Ok(())
    }

    fn rollout(&mut self) -> Result<()> {
        const HOST: &str = "pods.example.com";
        const PODS: &str = "/apis/apps/v1/namespaces/bench-control/deployments/pods";
        self.api.create(world::DEPLOYMENTS, &world::deployment(self.size.replicas))?;
        self.rolled_out(PODS)?;
        self.route_for_load("pods", HOST, "pods")?;
        let load = Load::start(4, self.http, HOST, false);
        self.api.merge(PODS, &world::restarted("again"))?;
        self.rolled_out(PODS)?;
        // The last of the old ones end.
        std::thread::sleep(Duration::from_secs(3));
        let seen = load.end()?;
        self.note_seen(ROLLOUT, seen);
        self.api.delete(PODS)
    }

    fn rolled_out(&mut self, deployment: &str) -> Result<()> {
        let begun = Instant::now();
        loop {
            let now = self.api.get(deployment)?;
            if world::is_rolled_out(&now) {
                return Ok(());
            }
            ensure!(begun.elapsed() < 3 * PATIENCE, "the pods of {NAMESPACE} are not ready: {}", now["status"]);
            std::thread::sleep(Duration::from_millis(200));
        }
    }

    /// On the node that has the Gateway's address.
    fn restart(&mut self) -> Result<()> {
        let lease = self.api.get("/apis/coordination.k8s.io/v1/namespaces/sluice-system/leases/sluice-addresses")?;
        let owners = lease["metadata"]["annotations"]["sluice.dev/owners"].as_str().context("nobody owns addresses")?;
        let address = self.tcp.ip().to_string();
        let owner = owners.lines().find_map(|line| line.strip_prefix(&format!("{address} "))).context("no owner")?;
        let (number, node) =
            (1..).zip(self.cluster.nodes()).find(|(_, node)| node.name() == owner).context("no node")?;
        let load = Load::start(2, self.tcp, "plain", true);
        let before = agents::pid(node)?;
        agents::kill(node)?;
        until(PATIENCE, || agents::pid(node).is_ok_and(|now| now != before)).context("the kubelet starts it again")?;
        let started = Instant::now();
        until(PATIENCE, || agents::is_ready(number)).context("the new agent")?;
        let took = started.elapsed();
        std::thread::sleep(Duration::from_secs(self.size.seconds));
        ensure!(load.requests() > 0, "no connection was tried");
        let seen = load.end()?;
        self.note_seen(RESTART, seen);
        self.note(RESTART, START, took.as_secs_f64() * 1e3);
        let (last, mut asker) = (host(self.size.routes - 1), Asker::new(self.http));
        until(PATIENCE, || asker.get(&last, "/").is_ok_and(|answer| answer.status == 200)).map(drop)
    }

    fn listener_sets(&mut self) -> Result<()> {
        self.api.delete(HTTP_ROUTES)?;
        let before = self.quiet()?;
        for i in 0..self.size.listener_sets {
            self.api.create(SETS, &world::listener_set(i))?;
        }
        let after = self.quiet()?;
        self.note(LISTENER_SETS, WRITES, (after.of("listenersets") - before.of("listenersets")) as f64);
        self.note(LISTENER_SETS, GATEWAY_WRITES, (after.of("gateways") - before.of("gateways")) as f64);
        self.at_rest(LISTENER_SETS)
    }
}

/// Whether this server answers.
fn says(asker: &mut Asker, host: &str, server: &str) -> bool {
    asker.get(host, "/").is_ok_and(|answer| answer.status == 200 && answer.body == server.as_bytes())
}
