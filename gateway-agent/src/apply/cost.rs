//! What one changed object costs, without the kernel: `cargo test --release -p gateway-agent cost -- --ignored --nocapture`.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;

use super::memory::Memory;
use super::{Applier, Capacity, Path};
use crate::compile::Compiled;
use crate::emit::maps::{self, Wanted};
use crate::emit::proxy::table;
use crate::emit::status::{carry_times, status};
use crate::index::{Change, Index, NodeFacts, Object, Reach, Route};
use crate::proxy::{Table, Tls};
use crate::source::manifest;

/// Of this thread: others take their share of the machine.
fn cpu() -> Duration {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Duration::new(now.tv_sec as u64, now.tv_nsec as u32)
}

fn objects(text: &str) -> Vec<Object> {
    manifest::read(&"cost.yaml".into(), text, &mut Default::default()).unwrap().objects
}

fn slice(i: usize, last: u8) -> String {
    format!(
        "---\n{{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, metadata: {{name: s{i}, labels: \
         {{kubernetes.io/service-name: s{i}}}}}, addressType: IPv4, ports: [{{port: 8443}}], \
         endpoints: [{{addresses: [198.18.0.{last}]}}]}}\n"
    )
}

fn route(i: usize, weight: u32) -> String {
    let (a, b) = (2 * i, 2 * i + 1);
    format!(
        "---\n{{apiVersion: gateway.networking.k8s.io/v1, kind: TLSRoute, metadata: {{name: r{i}}}, spec: {{parentRefs: \
         [{{name: g}}], hostnames: [n{a}.example.com, n{b}.example.com], rules: [{{backendRefs: [{{name: s{i}, port: 443, weight: {weight}}}, \
         {{name: s0, port: 443, weight: 7}}]}}]}}}}\n"
    )
}

fn heavier(route: &Route) -> Arc<Route> {
    let mut route = route.clone();
    route.backends[0].weight += 1;
    route.into()
}

fn world(routes: usize) -> String {
    let mut text = String::from(
        "{apiVersion: gateway.networking.k8s.io/v1, kind: GatewayClass, metadata: {name: sluice}, spec: {controllerName: \
         sluice.dev/gateway-controller}}\n---\n{apiVersion: gateway.networking.k8s.io/v1, kind: Gateway, metadata: {name: g}, \
         spec: {gatewayClassName: sluice, listeners: [{name: tls, port: 443, protocol: TLS, tls: {mode: Passthrough}}]}}\n",
    );
    for i in 0..routes {
        text += &format!(
            "---\n{{apiVersion: v1, kind: Service, metadata: {{name: s{i}}}, spec: {{ports: [{{port: 443}}]}}}}\n"
        );
        text += &slice(i, (i % 200) as u8 + 1);
        text += &route(i, 1);
    }
    text
}

#[derive(Default)]
struct Steps(Vec<(&'static str, Vec<Duration>)>);

impl Steps {
    fn time<T>(&mut self, step: &'static str, work: impl FnOnce() -> T) -> T {
        let start = cpu();
        let done = work();
        let took = cpu() - start;
        match self.0.iter_mut().find(|(name, _)| *name == step) {
            Some((_, times)) => times.push(took),
            None => self.0.push((step, vec![took])),
        }
        done
    }
}

#[test]
#[ignore = "measures"]
fn cost_of_one_change() {
    let routes = 5_000;
    let capacity =
        Capacity { listeners: 1024, listener_ids: 1024, names: 16_384, sets: 16_384, slots: 8 << 20, backends: 16_384 };
    let mut store = Memory::new(capacity);
    store.unchecked = true;
    let mut applier = Applier::adopt(&mut store).unwrap();
    let mut index = Index::new(NodeFacts { name: "n".into(), addresses: vec!["198.19.0.1".parse().unwrap()] });
    index.apply(objects(&world(routes)).into_iter().map(Change::Set));
    let tls = Tls::new().unwrap();
    let (mut compiled, mut wanted) = (Compiled::default(), Wanted::default());
    let (mut proxy, mut statuses, mut problems) = (Table::default(), Vec::new(), Vec::new());
    let mut steps = Steps::default();
    let what: fn(usize) -> String = match std::env::var("COST").as_deref() {
        Ok("route") => |i| route(5_000 + i, 1),
        _ => |i| slice(i * 97 % 5_000, 250),
    };
    for round in 0..41 {
        let objects = match std::env::var("COST").as_deref() {
            _ if round == 0 => Vec::new(),
            Ok("weight") => vec![Object::Route(heavier(index.routes().nth(round * 97).unwrap()))],
            _ => objects(&what(round)),
        };
        if round == 1 {
            steps.0.clear();
        }
        let start = cpu();
        let mut reach = steps.time("index", || index.apply(objects.into_iter().map(Change::Set)));
        if round == 0 {
            reach = Reach::Everything;
        }
        let before = Arc::clone(&compiled.ir);
        steps.time("compile", || compiled.follow(&index, &reach));
        wanted = steps.time("emit", || maps::maps(&compiled.ir, Some((&before, std::mem::take(&mut wanted)))));
        steps.time("proxy", || proxy = table(&compiled.ir, &proxy, &tls));
        steps.time("drop ir", || drop(before));
        let path = |_, _| Path::default();
        let writes = store.writes;
        let applied = steps.time("apply", || applier.apply(&wanted, path, &mut store));
        assert!(applied.problems.is_empty(), "{:?}", applied.problems);
        if round == 1 {
            println!("{} writes", store.writes - writes);
        }
        if !matches!(&reach, Reach::Backends(touched) if touched.routes.is_empty()) {
            steps.time("status", || {
                let mut new = status(&compiled.report);
                carry_times(&mut new, &statuses, Timestamp::UNIX_EPOCH);
                statuses = new;
            });
        }
        steps.time("problems", || problems.clone_from(&compiled.report.problems));
        let all = cpu() - start;
        match steps.0.iter_mut().find(|step| step.0 == "all") {
            Some(step) => step.1.push(all),
            None => steps.0.push(("all", vec![all])),
        }
    }
    for (step, mut times) in steps.0 {
        times.sort_unstable();
        println!("{step:12} {:8.3} ms", times[times.len() / 2].as_secs_f64() * 1e3);
    }
}
