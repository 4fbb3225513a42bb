//! What one changed object costs, from the index to the maps, without the kernel. To be run alone, in a release build:
//! `cargo test --release -p gateway-agent cost -- --ignored --nocapture --test-threads 1`.

use std::sync::Arc;
use std::time::Duration;

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
fn cost_of_a_changed_http_route() {
    measure(HTTP, |_, i| set(objects(&route(HTTP, i).replace("a.n", "c.n"))));
}

#[test]
#[ignore = "measures"]
fn cost_of_a_new_http_route() {
    measure(HTTP, |_, i| set(objects(&route(HTTP, ROUTES + i))));
}

#[test]
#[ignore = "measures"]
fn cost_of_a_deleted_http_route() {
    measure(HTTP, |_, i| objects(&route(HTTP, i)).iter().map(|route| Change::Remove(route.id())).collect());
}

#[test]
#[ignore = "measures"]
fn cost_of_an_endpoint() {
    measure(TLS, |_, i| set(objects(&slice(i, 250))));
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
    measure(TLS, |_, i| set(objects(&route(TLS, ROUTES + i))));
}

/// Prints the median of what each step costs.
fn measure(of: Routes, change: impl Fn(&Index, usize) -> Vec<Change>) {
    let mut world = World::new(of);
    let mut steps: Vec<(&str, Vec<Duration>)> = Vec::new();
    for i in 0..CHANGES {
        let changes = change(&world.index, 1 + i * 97);
        for (step, took) in world.take(changes) {
            match steps.iter_mut().find(|(name, _)| *name == step) {
                Some((_, times)) => times.push(took),
                None => steps.push((step, vec![took])),
            }
        }
    }
    for (step, mut times) in steps {
        times.sort_unstable();
        println!("{step:8} {:7.3} ms", times[times.len() / 2].as_secs_f64() * 1e3);
    }
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
    fn new(of: Routes) -> World {
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
        let mut world = World {
            index: Index::new(node),
            compiled: Compiled::default(),
            wanted: Wanted::default(),
            tls: Tls::new().unwrap(),
            table: Table::default(),
            store,
            applier,
            statuses: Kept::default(),
            http: Snapshot::default(),
        };
        let services =
            (0..ROUTES).map(|i| format!("{SERVICE}metadata: {{name: s{i}}}, spec: {{ports: [{{port: 443}}]}}}}\n"));
        let slices = (0..ROUTES).map(|i| slice(i, (i % 200) as u8));
        let text: String = [GATEWAY.replace("LISTENER", of.listener)]
            .into_iter()
            .chain(services)
            .chain(slices)
            .chain((0..ROUTES).map(|i| route(of, i)))
            .collect();
        world.take(set(objects(&text)));
        world
    }

    /// Takes in objects; what each step took of this thread's time, for others take their share of the machine.
    fn take(&mut self, changes: Vec<Change>) -> Vec<(&'static str, Duration)> {
        let mut took = Vec::new();
        let mut last = cpu();
        let first = last;
        let mut done = |step| {
            let now = cpu();
            took.push((step, now - last));
            last = now;
        };
        let reach = self.index.apply(changes);
        done("index");
        let before = Arc::clone(&self.compiled.ir);
        self.compiled.follow(&self.index, &reach);
        done("compile");
        self.wanted = maps::maps(&self.compiled.ir, Some((&before, std::mem::take(&mut self.wanted))));
        self.table = proxy::table(&self.compiled.ir, &self.table, &self.tls);
        drop(before);
        done("emit");
        self.http = Snapshot::build(&self.compiled.ir, &self.http);
        done("requests");
        let applied = self.applier.apply(&self.wanted, |_, _| Path::default(), &mut self.store);
        assert!(applied.problems.is_empty(), "{:?}", applied.problems);
        done("apply");
        took.push(("in maps", last - first));
        self.statuses.follow(&self.compiled.report, Timestamp::UNIX_EPOCH);
        took.push(("status", cpu() - last));
        took
    }
}

fn cpu() -> Duration {
    let now = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(now.tv_sec as u64, now.tv_nsec as u32)
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

fn slice(i: usize, last: u8) -> String {
    let labels = format!("labels: {{kubernetes.io/service-name: s{i}}}");
    format!("{SLICE}metadata: {{name: s{i}, {labels}}}, endpoints: [{{addresses: [198.18.0.{last}]}}]}}\n")
}

fn route(of: Routes, i: usize) -> String {
    let backends = format!("{{name: s{}, port: 443}}, {{name: s0, port: 443, weight: 7}}", i % ROUTES);
    format!(
        "---\n{{apiVersion: gateway.networking.k8s.io/v1, kind: {}, metadata: {{name: r{i}}}, spec: {{parentRefs: [{{name: edge}}], hostnames: [a.n{i}.example.com, \
         b.n{i}.example.com], rules: [{{backendRefs: [{backends}]}}]}}}}\n",
        of.kind
    )
}
