//! What one changed object costs, from the index to the maps, without the kernel. To be run alone, in a release build:
//! `cargo test --release -p gateway-agent cost -- --ignored --nocapture --test-threads 1`.

use std::sync::Arc;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use rustix::time::{ClockId, clock_gettime};

use super::memory::Memory;
use super::{Applier, Capacity, Path};
use crate::compile::Compiled;
use crate::emit::maps::{self, Wanted};
use crate::emit::proxy;
use crate::emit::status::Kept;
use crate::index::{Change, Index, NodeFacts, Object, Route, Rules};
use crate::proxy::http::snapshot::Snapshot;
use crate::proxy::{Table, Tls};
use crate::source::directory::Directory;
use crate::source::files::Watcher;
use crate::source::manifest;

/// Each with two names, a Service of its own and one that all share.
const ROUTES: usize = 5_000;
const CHANGES: usize = 40;

#[derive(Clone, Copy)]
struct Routes {
    kind: &'static str,
    listener: &'static str,
}

const TLS: Routes =
    Routes { kind: "TLSRoute", listener: "name: tls, port: 443, protocol: TLS, tls: {mode: Passthrough}" };
const HTTP: Routes = Routes { kind: "HTTPRoute", listener: "name: http, port: 80, protocol: HTTP" };

fn set(objects: Vec<Object>) -> Vec<Change> {
    objects.into_iter().map(Change::Set).collect()
}

#[test]
#[ignore = "measures"]
fn cost_of_an_endpoint_of_http() {
    measure(HTTP, |_, i| set(objects(&slice(i, 250))));
}

#[test]
#[ignore = "measures"]
fn cost_of_an_endpoint_that_all_http_routes_share() {
    measure(HTTP, |_, i| set(objects(&slice(0, 1 + (i % 200) as u8))));
}

#[test]
#[ignore = "measures"]
fn cost_of_a_changed_http_route() {
    measure(HTTP, |_, i| set(objects(&route(HTTP, i, ROUTES).replace("a.n", "c.n"))));
}

#[test]
#[ignore = "measures"]
fn cost_of_a_new_http_route() {
    measure(HTTP, |_, i| set(objects(&route(HTTP, ROUTES + i, ROUTES))));
}

#[test]
#[ignore = "measures"]
fn cost_of_a_deleted_http_route() {
    measure(HTTP, |_, i| objects(&route(HTTP, i, ROUTES)).iter().map(|route| Change::Remove(route.id())).collect());
}

#[test]
#[ignore = "measures"]
fn cost_of_an_endpoint() {
    measure(TLS, |_, i| set(objects(&slice(i, 250))));
}

#[test]
#[ignore = "measures"]
fn cost_of_an_endpoint_that_all_share() {
    measure(TLS, |_, i| set(objects(&slice(0, 1 + (i % 200) as u8))));
}

#[test]
#[ignore = "measures"]
fn cost_of_a_weight() {
    measure(TLS, |index, i| {
        let mut route = Route::clone(index.routes().nth(i).unwrap());
        if let Rules::Forward { backends, .. } = &mut route.rules {
            backends[0].weight += 1;
        }
        set(vec![Object::Route(route.into())])
    });
}

#[test]
#[ignore = "measures"]
fn cost_of_a_new_route() {
    measure(TLS, |_, i| set(objects(&route(TLS, ROUTES + i, ROUTES))));
}

/// From a directory with a file for each route to all that is made of it: how long each step takes, and how much memory is resident after it.
#[test]
#[ignore = "measures"]
fn cost_of_the_start_with_http_routes() {
    const SERVICES: usize = 50;
    let dir = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| std::fs::write(dir.path().join(name), text).unwrap();
    write("base.yaml", &base(HTTP, SERVICES));
    (0..ROUTES).for_each(|i| write(&format!("route-{i}.yaml"), &route(HTTP, i, SERVICES)));
    let mut world = World::empty();
    println!("{:8} {:22.1} MiB", "nothing", resident());
    let mut directory = Directory::new(dir.path().to_owned());
    let start = cpu();
    let changes = directory.read_all().unwrap();
    let read = Step { name: "read", took: cpu() - start, resident: resident() };
    for Step { name, took, resident } in [read].into_iter().chain(world.take(changes)) {
        println!("{name:8} {:7.0} ms {resident:11.1} MiB", took.as_secs_f64() * 1e3);
    }
}

/// From the rename of a file to the snapshot that requests go by, and all that is made beside it.
#[tokio::test]
#[ignore = "measures"]
async fn cost_of_a_renamed_file() {
    const OF: usize = 3_000;
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    std::fs::write(path("base.yaml"), base(HTTP, OF)).unwrap();
    (0..OF).for_each(|i| std::fs::write(path(&format!("route-{i}.yaml")), route(HTTP, i, OF)).unwrap());
    let (loaded, mut batches) = Watcher::start(dir.path().to_owned()).unwrap();
    let mut world = World::empty();
    world.take(set(loaded.objects));
    let mut times = Vec::new();
    for i in 0..50 {
        tokio::time::sleep(Duration::from_millis(20)).await;
        std::fs::write(path("new"), route(HTTP, i * 31, OF).replace("a.n", "c.n")).unwrap();
        let start = Instant::now();
        std::fs::rename(path("new"), path(&format!("route-{}.yaml", i * 31))).unwrap();
        let batch = batches.recv().await.unwrap();
        world.take(batch.changes);
        times.push(start.elapsed());
    }
    times.sort_unstable();
    println!("median {:?}, longest {:?}", times[times.len() / 2], times.last().unwrap());
}

/// Prints the median of what each step costs.
fn measure(of: Routes, change: impl Fn(&Index, usize) -> Vec<Change>) {
    let mut world = World::new(of);
    let mut steps: Vec<(&str, Vec<Duration>)> = Vec::new();
    for i in 0..CHANGES {
        let changes = change(&world.index, 1 + i * 97);
        for Step { name, took, .. } in world.take(changes) {
            match steps.iter_mut().find(|(other, _)| *other == name) {
                Some((_, times)) => times.push(took),
                None => steps.push((name, vec![took])),
            }
        }
    }
    for (step, mut times) in steps {
        times.sort_unstable();
        println!("{step:8} {:7.3} ms", times[times.len() / 2].as_secs_f64() * 1e3);
    }
}

struct Step {
    name: &'static str,
    took: Duration,
    /// MiB, after it.
    resident: f64,
}

/// The agent, but for the kernel.
struct World {
    index: Index,
    compiled: Compiled,
    wanted: Wanted,
    tls: Tls,
    table: Table,
    store: Memory,
    applier: Applier,
    statuses: Kept,
    http: Snapshot,
}

impl World {
    /// Every route has a Service of its own.
    fn new(of: Routes) -> World {
        let mut world = World::empty();
        let text: String = [base(of, ROUTES)].into_iter().chain((0..ROUTES).map(|i| route(of, i, ROUTES))).collect();
        world.take(set(objects(&text)));
        world
    }

    fn empty() -> World {
        let size = 4 * ROUTES as u32;
        let mut store = Memory::new(Capacity {
            listeners: 64,
            listener_ids: 64,
            names: size,
            sets: size,
            slots: 8 << 20,
            backends: size,
        });
        store.unchecked = true;
        let applier = Applier::adopt(&mut store).unwrap();
        let node = NodeFacts { name: "node".into(), addresses: vec!["198.19.0.1".parse().unwrap()] };
        World {
            index: Index::new(node),
            compiled: Compiled::default(),
            wanted: Wanted::default(),
            tls: Tls::new().unwrap(),
            table: Table::default(),
            store,
            applier,
            statuses: Kept::default(),
            http: Snapshot::default(),
        }
    }

    /// Takes in objects; what each step took of this thread's time, for others take their share of the machine.
    fn take(&mut self, changes: Vec<Change>) -> Vec<Step> {
        let mut steps: Vec<Step> = Vec::new();
        let mut last = cpu();
        let mut done = |name| {
            steps.push(Step { name, took: cpu() - last, resident: resident() });
            last = cpu();
        };
        let reach = self.index.apply(changes);
        done("index");
        let before = Arc::clone(&self.compiled.ir);
        self.compiled.follow(&self.index, &reach);
        done("compile");
        self.wanted = maps::maps(&self.compiled.ir, Some((&before, std::mem::take(&mut self.wanted))));
        done("emit");
        self.table = proxy::table(&self.compiled.ir, &self.table, &self.tls);
        drop(before);
        done("table");
        self.http = Snapshot::build(&self.compiled.ir, &self.http);
        done("requests");
        let applied = self.applier.apply(&self.wanted, |_, _| Path::default(), &mut self.store);
        assert!(applied.problems.is_empty(), "{:?}", applied.problems);
        done("apply");
        self.statuses.follow(&self.compiled.report, Timestamp::UNIX_EPOCH);
        done("status");
        let took = steps.iter().map(|step| step.took).sum();
        steps.push(Step { name: "all", took, resident: resident() });
        steps
    }
}

fn cpu() -> Duration {
    let now = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(now.tv_sec as u64, now.tv_nsec as u32)
}

/// MiB of this process.
fn resident() -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let kib =
        status.lines().find_map(|line| line.strip_prefix("VmRSS:")?.strip_suffix("kB")?.trim().parse::<u32>().ok());
    f64::from(kib.unwrap()) / 1024.0
}

fn objects(text: &str) -> Vec<Object> {
    manifest::read(&"cost.yaml".into(), text, &mut Default::default()).unwrap().objects
}

const GATEWAY: &str = "\
{apiVersion: gateway.networking.k8s.io/v1, kind: GatewayClass, metadata: {name: sluice}, \
spec: {controllerName: sluice.dev/gateway-controller}}
---
{apiVersion: gateway.networking.k8s.io/v1, kind: Gateway, metadata: {name: edge}, \
spec: {gatewayClassName: sluice, listeners: [{LISTENER}]}}
";
const SERVICE: &str = "---\n{apiVersion: v1, kind: Service, ";
const SLICE: &str =
    "---\n{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, addressType: IPv4, ports: [{port: 443}], ";

/// All but the routes.
fn base(of: Routes, services: usize) -> String {
    let service = |i| format!("{SERVICE}metadata: {{name: s{i}}}, spec: {{ports: [{{port: 443}}]}}}}\n");
    let slices = (0..services).map(|i| slice(i, (i % 200) as u8));
    [GATEWAY.replace("LISTENER", of.listener)].into_iter().chain((0..services).map(service)).chain(slices).collect()
}

fn slice(i: usize, last: u8) -> String {
    let labels = format!("labels: {{kubernetes.io/service-name: s{i}}}");
    format!("{SLICE}metadata: {{name: s{i}, {labels}}}, endpoints: [{{addresses: [198.18.0.{last}]}}]}}\n")
}

fn route(of: Routes, i: usize, services: usize) -> String {
    let backends = format!("{{name: s{}, port: 443}}, {{name: s0, port: 443, weight: 7}}", i % services);
    format!(
        "---\n{{apiVersion: gateway.networking.k8s.io/v1, kind: {}, metadata: {{name: r{i}}}, spec: {{parentRefs: [{{name: edge}}], hostnames: [a.n{i}.example.com, \
         b.n{i}.example.com], rules: [{{backendRefs: [{backends}]}}]}}}}\n",
        of.kind
    )
}
