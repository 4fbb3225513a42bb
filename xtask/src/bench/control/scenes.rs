//! What is done to the cluster, one thing after the other, and what is seen of it.

use std::net::SocketAddr;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use gateway_tests::cluster::plan::Family;
use gateway_tests::cluster::{Api, Cluster};
use serde_json::{Value, json};

use super::agents::{self, Audit, Writes};
use super::traffic::{self, Asker, Load, Seen, until};
use super::world::{self, DEPLOYMENTS, HTTP, HTTP_ROUTES, PODS, SERVERS, SETS, SLICES, TCP, World, host};
use super::{
    ANONYMOUS, COMPLETE, CPU, FAILED, GAP, GATEWAY_WRITES, LEASE_WRITES, MAX, MEAN, MEDIAN, OF_FILES, P99, READY,
    REQUESTS, RESIDENT, Size, WRITES, WRITES_AT_REST,
};
use crate::bench::Progress;
use crate::bench::stats::{Measure, Observation, median};

/// What does not come within it does not come.
const PATIENCE: Duration = Duration::from_secs(60);
/// As long as it takes until everybody is done with a change, so that the next one is alone.
const PAUSE: Duration = Duration::from_millis(30);
/// Nobody writes a status for this long: the agents are done. The numbers of a Gateway's routes may take 5 s.
const QUIET: Duration = Duration::from_secs(6);
/// Ten times a second.
const BEAT: Duration = Duration::from_millis(100);

const EMPTY: &str = "no route";
pub const ROUTES: &str = "HTTPRoutes";
pub const LISTENER_SETS: &str = "ListenerSets";
pub const ONE_BY_ONE: &str = "HTTPRoutes one by one";
pub const HTTP_ENDPOINT: &str = "endpoint of all HTTPRoutes";
pub const TCP_ENDPOINT: &str = "endpoint of a TCPRoute";
pub const CHANGING: &str = "a route that changes";
pub const FLAPPING: &str = "a pod that flaps";
pub const ROLLOUT: &str = "a rollout of pods";
pub const KILLED: &str = "an agent killed";
pub const AGENTS_REPLACED: &str = "agents replaced";

const AGENTS: &str = "/apis/apps/v1/namespaces/sluice-system/daemonsets/sluice";
const AGENT_PODS: &str = "/api/v1/namespaces/sluice-system/pods?labelSelector=app.kubernetes.io/name%3Dsluice";
const OWNERS: &str = "/apis/coordination.k8s.io/v1/namespaces/sluice-system/leases/sluice-addresses";

type Scene<'a> = (&'static str, fn(&mut Scenes<'a>) -> Result<()>);

pub struct Scenes<'a> {
    cluster: &'a Cluster,
    size: Size,
    api: Api,
    audit: Audit,
    /// Goes with us.
    _world: World<'a>,
    http: SocketAddr,
    tcp: SocketAddr,
    observations: Vec<Observation>,
    remarks: Vec<String>,
}

impl<'a> Scenes<'a> {
    /// The calling thread is in the network of [`Cluster::control`].
    pub fn new(cluster: &'a Cluster, size: Size) -> Result<Scenes<'a>> {
        for (name, port) in SERVERS {
            traffic::serve(SocketAddr::new(Family::V4.control(), port), name)?;
        }
        let mut api = Api::connect(cluster)?;
        let world = World::new(cluster, &mut api)?;
        let address = world.address(&mut api)?;
        let (http, tcp) = (SocketAddr::new(address, HTTP), SocketAddr::new(address, TCP));
        until(PATIENCE, || says(&mut Asker::new(tcp), "plain", SERVERS[0].0)).context("the first answer")?;
        Ok(Scenes {
            cluster,
            size,
            api,
            audit: Audit::of(cluster)?,
            _world: world,
            http,
            tcp,
            observations: Vec::new(),
            remarks: Vec::new(),
        })
    }

    /// What was measured, and what is to be said of it.
    pub fn play(mut self) -> Result<(Vec<Observation>, Vec<String>)> {
        let scenes: [Scene<'a>; 10] = [
            ("agents with nothing to do", |scenes| scenes.at_rest(EMPTY)),
            ("routes, one by one", Self::one_by_one),
            ("the rest of the routes", Self::routes),
            ("endpoints that change", Self::endpoints),
            ("a route that changes under load", Self::changing),
            ("a pod that flaps", Self::flapping),
            ("a rollout", Self::rollout),
            ("an agent, killed", Self::killed),
            ("all agents, replaced", Self::agents_replaced),
            ("ListenerSets", Self::listener_sets),
        ];
        let progress = Progress::begin(scenes.len());
        for (what, play) in scenes {
            progress.step(what)?;
            play(&mut self).context(what)?;
        }
        progress.end();
        Ok((self.observations, self.remarks))
    }

    fn note(&mut self, scenario: &'static str, measure: Measure, value: f64) {
        self.observations.push(Observation { round: 0, scenario, measure, contender: "sluice", value });
    }

    fn note_times(&mut self, scenario: &'static str, times: &[Duration]) {
        let mut times: Vec<f64> = times.iter().map(|time| time.as_secs_f64() * 1e3).collect();
        times.sort_unstable_by(f64::total_cmp);
        let p99 = (times.len() * 99).div_ceil(100).saturating_sub(1);
        self.note(scenario, MEAN, times.iter().sum::<f64>() / times.len() as f64);
        self.note(scenario, MEDIAN, median(&times));
        self.note(scenario, P99, times.get(p99).copied().unwrap_or(f64::NAN));
        self.note(scenario, MAX, times.last().copied().unwrap_or(f64::NAN));
    }

    fn note_seen(&mut self, scenario: &'static str, seen: Seen) {
        self.note(scenario, REQUESTS, seen.requests as f64);
        self.note(scenario, FAILED, seen.failed as f64);
        self.note(scenario, GAP, seen.longest_gap);
        if let Some(failure) = seen.failure {
            self.remarks.push(format!("{scenario}: {} failed, one of them with {failure:?}", seen.failed));
        }
    }

    /// Writes of a kind and of the Gateway from one time to another.
    fn note_writes(&mut self, scenario: &'static str, resource: &str, (before, after): (&Writes, &Writes)) {
        self.note(scenario, WRITES, (after.of(resource) - before.of(resource)) as f64);
        self.note(scenario, GATEWAY_WRITES, (after.of("gateways") - before.of("gateways")) as f64);
    }

    /// What the agents use when nothing happens.
    fn at_rest(&mut self, scenario: &'static str) -> Result<()> {
        self.quiet()?;
        let begun = Instant::now();
        let (before, writes) = (agents::usage(self.cluster)?, self.audit.writes()?);
        std::thread::sleep(Duration::from_secs(self.size.seconds));
        let (after, later) = (agents::usage(self.cluster)?, self.audit.writes()?);
        let seconds = begun.elapsed().as_secs_f64();
        let cpu = |(before, after): (&agents::Usage, &agents::Usage)| (after.cpu - before.cpu) / seconds * 1e3;
        self.note(scenario, CPU, before.iter().zip(&after).map(cpu).fold(0.0, f64::max));
        let most = after.into_iter().max_by(|a, b| a.resident.total_cmp(&b.resident)).context("no node")?;
        self.note(scenario, RESIDENT, most.resident);
        self.note(scenario, ANONYMOUS, most.anonymous);
        self.note(scenario, OF_FILES, most.resident - most.anonymous);
        self.note(scenario, WRITES_AT_REST, (later.but_leases() - writes.but_leases()) as f64);
        self.note(scenario, LEASE_WRITES, (later.of("leases") - writes.of("leases")) as f64 / seconds);
        Ok(())
    }

    /// Waits until no status is written any more.
    fn quiet(&mut self) -> Result<Writes> {
        let (begun, mut last, mut since) = (Instant::now(), self.audit.writes()?, Instant::now());
        while since.elapsed() < QUIET {
            ensure!(begun.elapsed() < 3 * PATIENCE, "the agents go on writing");
            std::thread::sleep(Duration::from_millis(500));
            let now = self.audit.writes()?;
            if now.but_leases() != last.but_leases() {
                (last, since) = (now, Instant::now());
            }
        }
        Ok(last)
    }

    fn create_route(&mut self, i: usize) -> Result<()> {
        self.api.create(HTTP_ROUTES, &world::http_route(&format!("r{i}"), &host(i), "backend"))
    }

    fn one_by_one(&mut self) -> Result<()> {
        let before = self.audit.writes()?;
        let mut asker = Asker::new(self.http);
        let mut times = Vec::with_capacity(self.size.one_by_one);
        for i in 0..self.size.one_by_one {
            self.create_route(i)?;
            let host = host(i);
            times.push(until(PATIENCE, || says(&mut asker, &host, SERVERS[0].0)).context(host.clone())?);
        }
        self.note_times(ONE_BY_ONE, &times);
        let after = self.quiet()?;
        self.note_writes(ONE_BY_ONE, "httproutes", (&before, &after));
        Ok(())
    }

    fn routes(&mut self) -> Result<()> {
        (self.size.one_by_one..self.size.routes).try_for_each(|i| self.create_route(i))?;
        let (last, mut asker) = (host(self.size.routes - 1), Asker::new(self.http));
        until(PATIENCE, || says(&mut asker, &last, SERVERS[0].0))?;
        self.at_rest(ROUTES)
    }

    fn endpoints(&mut self) -> Result<()> {
        let (mut of_http, mut of_tcp) = (Vec::new(), Vec::new());
        let (mut asker, host) = (Asker::new(self.http), host(0));
        for i in 1..=self.size.changes {
            // There and back again.
            let (name, port) = SERVERS[i % 2];
            self.api.merge(&format!("{SLICES}/backend"), &world::to_port(port))?;
            of_http.push(until(PATIENCE, || says(&mut asker, &host, name)).context("HTTP")?);
            std::thread::sleep(PAUSE);
            self.api.merge(&format!("{SLICES}/plain"), &world::to_port(port))?;
            of_tcp.push(until(PATIENCE, || says(&mut Asker::new(self.tcp), "plain", name)).context("TCP")?);
            std::thread::sleep(PAUSE);
        }
        self.note_times(HTTP_ENDPOINT, &of_http);
        self.note_times(TCP_ENDPOINT, &of_tcp);
        Ok(())
    }

    /// Load on a route of its own.
    fn load(&mut self, name: &str, host: &'static str, service: &str) -> Result<Load> {
        self.api.create(HTTP_ROUTES, &world::http_route(name, host, service))?;
        let mut asker = Asker::new(self.http);
        until(PATIENCE, || asker.get(host, "/").is_ok_and(|answer| answer.status == 200)).context(host)?;
        Ok(Load::start(4, self.http, host, false))
    }

    fn changing(&mut self) -> Result<()> {
        let load = self.load("changing", "changing.example.com", "backend")?;
        let mut beat = Instant::now();
        for i in 0..self.size.seconds * 10 {
            let change = json!({"spec": {"rules": world::rules("backend", Some(&format!("m{i}")))}});
            self.api.merge(&format!("{HTTP_ROUTES}/changing"), &change)?;
            beat += BEAT;
            std::thread::sleep(beat.saturating_duration_since(Instant::now()));
        }
        self.note_seen(CHANGING, load.end()?);
        Ok(())
    }

    /// Of two pods one stops being ready and is again, twice a second; half-way its process is killed.
    fn flapping(&mut self) -> Result<()> {
        let names = ["stays", "flaps"];
        for (name, node) in names.into_iter().zip(self.cluster.nodes()) {
            self.api.create(PODS, &world::flapping_pod(name, node.name()))?;
            self.api.merge_lists(&format!("{PODS}/{name}/status"), &world::gate(true))?;
        }
        let [stays, flaps] = names.map(|name| format!("{PODS}/{name}"));
        self.reaches(&stays, world::is_ready)?;
        self.reaches(&flaps, world::is_ready)?;
        let load = self.load("flapping", "flapping.example.com", world::FLAPPING)?;
        let (mut beat, beats) = (Instant::now(), self.size.seconds * 2);
        for i in 0..beats {
            let mut flap = |open| self.api.merge_lists(&format!("{flaps}/status"), &world::gate(open));
            flap(false)?;
            std::thread::sleep(BEAT * 5 / 2);
            flap(true)?;
            beat += BEAT * 5;
            std::thread::sleep(beat.saturating_duration_since(Instant::now()));
            if i == beats / 2 {
                let node = self.cluster.nodes().get(1).context("a cluster of one node")?;
                node.run(Path::new("pkill"), &["-KILL", "--exact", "echo-basic"])?;
            }
        }
        self.note_seen(FLAPPING, load.end()?);
        self.api.delete(&stays)?;
        self.api.delete(&flaps)
    }

    fn rollout(&mut self) -> Result<()> {
        let pods = format!("{DEPLOYMENTS}/{}", world::ROLLOUT);
        self.api.create(DEPLOYMENTS, &world::deployment(self.size.replicas))?;
        self.reaches(&pods, world::is_rolled_out)?;
        let load = self.load("rollout", "rollout.example.com", world::ROLLOUT)?;
        self.api.merge(&pods, &world::restarted())?;
        self.reaches(&pods, world::is_rolled_out)?;
        // The last of the old ones end.
        std::thread::sleep(Duration::from_secs(3));
        self.note_seen(ROLLOUT, load.end()?);
        self.api.delete(&pods)
    }

    /// Waits until an object is so.
    fn reaches(&mut self, path: &str, is_so: fn(&Value) -> bool) -> Result<()> {
        let begun = Instant::now();
        loop {
            let now = self.api.get(path)?;
            if is_so(&now) {
                return Ok(());
            }
            ensure!(begun.elapsed() < 3 * PATIENCE, "{path} does not get ready: {}", now["status"]);
            std::thread::sleep(Duration::from_millis(200));
        }
    }

    /// On the node that has the Gateway's address; a route changes while it is away.
    fn killed(&mut self) -> Result<()> {
        let lease = self.api.get(OWNERS)?;
        let owners = lease["metadata"]["annotations"]["sluice.dev/owners"].as_str().context("nobody owns addresses")?;
        let address = self.tcp.ip().to_string();
        let owner = owners.lines().find_map(|line| line.strip_prefix(&format!("{address} "))).context("no owner")?;
        let nodes = (1..).zip(self.cluster.nodes());
        let (number, node) = nodes.into_iter().find(|(_, node)| node.name() == owner).context("no node")?;
        let load = Load::start(2, self.tcp, "plain", true);
        let before = agents::pid(node)?;
        agents::kill(node)?;
        let last = self.size.routes - 1;
        let change = json!({"spec": {"rules": world::rules("other", None)}});
        self.api.merge(&format!("{HTTP_ROUTES}/r{last}"), &change)?;
        until(PATIENCE, || agents::pid(node).is_ok_and(|now| now != before)).context("the kubelet starts it again")?;
        until(PATIENCE, || agents::is_ready(number)).context("the new agent")?;
        let ready = agents::age(node)?;
        let (last, mut asker) = (host(last), Asker::new(self.http));
        until(PATIENCE, || says(&mut asker, &last, SERVERS[1].0)).context("what changed meanwhile")?;
        let complete = agents::age(node)?;
        std::thread::sleep(Duration::from_secs(self.size.seconds));
        self.note_seen(KILLED, load.end()?);
        self.note(KILLED, READY, ready);
        self.note(KILLED, COMPLETE, complete);
        self.at_rest(KILLED)
    }

    fn agents_replaced(&mut self) -> Result<()> {
        let loads = [Load::start(2, self.tcp, "plain", true), Load::start(2, self.http, "r0.example.com", true)];
        self.api.merge(AGENTS, &world::restarted())?;
        self.reaches(AGENTS, world::is_rolled_out)?;
        // Those of before still have connections.
        let nodes = self.cluster.nodes().len();
        let begun = Instant::now();
        while self.api.get(AGENT_PODS)?["items"].as_array().is_none_or(|pods| pods.len() != nodes) {
            ensure!(begun.elapsed() < PATIENCE, "the agents of before do not end");
            std::thread::sleep(Duration::from_millis(200));
        }
        let mut all = Seen::default();
        for load in loads {
            all.add(load.end()?);
        }
        self.note_seen(AGENTS_REPLACED, all);
        Ok(())
    }

    /// With agents that have held nothing else.
    fn listener_sets(&mut self) -> Result<()> {
        self.api.delete(HTTP_ROUTES)?;
        self.quiet()?;
        for (number, node) in (1..).zip(self.cluster.nodes()) {
            let before = agents::pid(node)?;
            agents::kill(node)?;
            let is_back = || agents::pid(node).is_ok_and(|now| now != before) && agents::is_ready(number);
            until(PATIENCE, is_back).context("an agent that was killed")?;
        }
        let before = self.quiet()?;
        for i in 0..self.size.listener_sets {
            self.api.create(SETS, &world::listener_set(i))?;
        }
        // The writer of statuses was killed: until another takes its place there is nothing to wait for.
        let last = self.size.listener_sets - 1;
        self.reaches(&format!("{SETS}/s{last}"), |set| set["status"]["conditions"][0]["status"] == "True")?;
        let after = self.quiet()?;
        self.note_writes(LISTENER_SETS, "listenersets", (&before, &after));
        self.at_rest(LISTENER_SETS)
    }
}

/// Whether this server answers.
fn says(asker: &mut Asker, host: &str, server: &str) -> bool {
    asker.get(host, "/").is_ok_and(|answer| answer.status == 200 && answer.body == server.as_bytes())
}
