//! What tables cost, to be measured: `cargo test --release -p gateway-agent --lib table::cost -- --ignored --nocapture`.

use std::hint::black_box;
use std::time::{Duration, Instant};

use http::Request;

use super::*;
use crate::ir::http::*;
use crate::ir::{HostName, Ir, Listener, ListenerName, Traffic};
use crate::proxy::http::snapshot::Snapshot;

/// A request costs 12 µs and more (FACTS.md): a tenth of it is what many routes may add.
const MORE: Duration = Duration::from_nanos(1_200);

fn route(i: usize, path: String, headers: Vec<HeaderMatch>) -> Arc<Route> {
    let rules = super::tests::rules(vec![vec![Match { headers, ..Match::path(PathMatch::Prefix(path.into())) }]]);
    let name = RouteName { namespace: "default".into(), name: format!("r-{i:05}").into(), kind: RouteKind::Http };
    Arc::new(Route { name, created: Created::Unknown, rules })
}

fn host(i: usize) -> HostName {
    HostName::Exact(format!("h{i}.example.com").into())
}

/// Every route has a host of its own.
fn by_host(count: usize) -> Vec<Attachment> {
    (0..count).map(|i| Attachment { hosts: [host(i)].into(), route: route(i, "/api".into(), Vec::new()) }).collect()
}

/// All have one host, and each a path.
fn by_path(count: usize) -> Vec<Attachment> {
    let route = |i| route(i, format!("/api/v{i}"), Vec::new());
    (0..count).map(|i| Attachment { hosts: [host(0)].into(), route: route(i) }).collect()
}

/// Of one look-up, over requests for all of the routes in no order.
fn look_up(attachments: &[Attachment], to: impl Fn(usize) -> (String, String)) -> Duration {
    let table = Table::build(None, &super::tests::all(attachments));
    let requests: Vec<(String, Parts)> = (0..attachments.len())
        .map(|i| {
            let (host, path) = to(i * 7_919 % attachments.len());
            (host, Request::get(path).body(()).unwrap().into_parts().0)
        })
        .collect();
    let look_ups = 1_000_000;
    let all = || {
        let start = Instant::now();
        for (host, request) in requests.iter().cycle().take(look_ups) {
            assert!(table.find(black_box(host), request.uri.path(), request).is_some());
        }
        start.elapsed() / look_ups as u32
    };
    (0..5).map(|_| all()).min().unwrap()
}

#[test]
#[ignore = "it measures, on a quiet machine and optimized"]
fn ten_thousand_routes_cost_little_more_than_ten() {
    let host_of = |i: usize| (format!("h{i}.example.com"), "/api/users/7".to_owned());
    let path_of = |i: usize| ("h0.example.com".to_owned(), format!("/api/v{i}/users/7"));
    for (name, few, many) in [
        ("by host", look_up(&by_host(10), host_of), look_up(&by_host(10_000), host_of)),
        ("by path", look_up(&by_path(10), path_of), look_up(&by_path(10_000), path_of)),
    ] {
        println!("{name}: of 10 routes {few:?}, of 10,000 {many:?} a look-up");
        assert!(many < few + MORE, "{name}");
    }
}

fn listener(attachments: Vec<Attachment>) -> Ir {
    let http = crate::ir::http::Listener {
        hostname: HostName::Any,
        security: Security::Http,
        routes: attachments.into_iter().collect(),
        settings: Arc::default(),
    };
    let name = ListenerName { namespace: "default".into(), gateway: "gw".into(), section: "http".into() };
    let addresses = vec!["198.18.0.1".parse().unwrap()];
    let listener = Listener { name, addresses, port: 80, traffic: Traffic::Http(Arc::new(http)) };
    Ir { listeners: vec![listener.into()], ..Ir::default() }
}

#[test]
#[ignore = "it measures, on a quiet machine and optimized"]
fn a_changed_route_of_five_thousand_costs_little() {
    for (name, make) in [("by host", by_host as fn(usize) -> Vec<Attachment>), ("by path", by_path)] {
        let mut attachments = make(5_000);
        let first = listener(attachments.clone());
        let start = Instant::now();
        let before = Snapshot::build(&first, &Snapshot::default());
        let whole = start.elapsed();
        attachments[2_500].route = route(2_500, "/changed".into(), Vec::new());
        let second = listener(attachments);
        let start = Instant::now();
        let after = Snapshot::build(&second, &before);
        let one = start.elapsed();
        println!("{name}: 5,000 routes {whole:?}, one of them changed {one:?}");
        assert!(one * 20 < whole, "{name}");
        drop((before, after));
    }
}
