//! The corpus of this folder against the server part of the agent, without a kernel between: every case is answered in one of the ways
//! that it has for safe.

#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking, also in its helpers")]

use std::net::{SocketAddr, TcpListener};
use std::rc::Rc;
use std::sync::Arc;

use arc_swap::ArcSwap;
use gateway_agent::ir::http::{
    self as ir, Application, Attachment, Backend, Cluster, Match, PathMatch, Route, Rule, Target,
};
use gateway_agent::ir::{Duty, Endpoint, HostName, Ir, Listener, ListenerName, Shards, Traffic};
use gateway_agent::proxy::Origin;
use gateway_agent::proxy::http::server::{self, Client, Security};
use gateway_agent::proxy::http::snapshot::Snapshot;
use gateway_agent::proxy::http::worker::Local;
use gateway_tests::smuggling::{Case, Recorder, Table, Verdict, connect, corpus};
use tokio::sync::watch;
use tokio::task::LocalSet;

/// Cases that run beside each other, each with a worker and a backend of its own.
const AT_A_TIME: usize = 8;

#[test]
fn no_case_of_the_corpus_is_read_in_two_ways() {
    let mut cases = corpus().unwrap();
    if let Ok(only) = std::env::var("CASE") {
        cases.retain(|case| case.name.contains(&only));
        assert!(!cases.is_empty(), "no case has \"{only}\" in its name");
    }
    let part = cases.len().div_ceil(AT_A_TIME);
    let wrong: Vec<String> = std::thread::scope(|scope| {
        let parts: Vec<_> = cases.chunks(part).map(|cases| scope.spawn(|| play(cases))).collect();
        parts.into_iter().flat_map(|part| part.join().unwrap()).collect()
    });
    assert!(wrong.is_empty(), "{} of {} cases:\n{}", wrong.len(), cases.len(), wrong.join("\n"));
}

/// What was not as wanted.
fn play(cases: &[Case]) -> Vec<String> {
    let recorder = Recorder::start(TcpListener::bind("127.0.0.1:0").unwrap()).unwrap();
    let worker = worker(recorder.address());
    let table = Table { recorder: &recorder, connect: &|| connect(worker), connect_h2: &|| connect(worker) };
    let outcomes = cases.iter().map(|case| (case, table.play(case).unwrap()));
    let wrong = outcomes.filter(|(_, outcome)| outcome.verdict != Verdict::Wanted);
    wrong.map(|(case, outcome)| format!("{:?} {}: {outcome}", outcome.verdict, case.name)).collect()
}

/// A worker of the agent that leads everything to this backend, on a thread of its own.
fn worker(backend: SocketAddr) -> SocketAddr {
    let socket = TcpListener::bind("127.0.0.1:0").unwrap();
    socket.set_nonblocking(true).unwrap();
    let address = socket.local_addr().unwrap();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        LocalSet::new().block_on(&runtime, async {
            let socket = tokio::net::TcpListener::from_std(socket).unwrap();
            let snapshot = Snapshot::build(&to(backend, address), &Snapshot::default());
            let local = Local::new(Arc::new(ArcSwap::from_pointee(snapshot)), 1, usize::MAX);
            loop {
                let (stream, peer) = socket.accept().await.unwrap();
                stream.set_nodelay(true).unwrap();
                let origin = Origin { client: peer, gateway: address };
                let client = Client { local: Rc::clone(&local), origin, security: Security::Clear };
                tokio::task::spawn_local(async move {
                    let (_going, stop) = watch::channel(false);
                    server::serve(stream, client, &ir::Settings::default(), stop).await;
                });
            }
        });
    });
    address
}

/// As clusters name the port of a Service.
const RECORDER: &str = "default/recorder:80";

fn to(backend: SocketAddr, at: SocketAddr) -> Ir {
    let endpoint = Endpoint {
        address: backend.ip(),
        port: backend.port(),
        local: false,
        proxy_protocol: false,
        duty: Duty::Serving,
    };
    let mut endpoints = Shards::default();
    endpoints.set(RECORDER, Some(Arc::from([endpoint])));
    let cluster = Cluster {
        service: RECORDER.into(),
        application: Application::Http,
        balance: ir::Balance::default(),
        tls: None,
    };
    let rule = Rule {
        name: "all".into(),
        matches: [Match::path(PathMatch::Prefix("".into()))].into(),
        filters: Vec::new(),
        backends: vec![Backend { weight: 1, filters: Vec::new(), target: Target::Cluster(Arc::new(cluster)) }],
        timeouts: ir::Timeouts::default(),
        retry: None,
        persistence: None,
    };
    let name = ir::RouteName { namespace: "default".into(), name: "all".into(), kind: ir::RouteKind::Http };
    let route = Arc::new(Route { name, created: ir::Created::Unknown, rules: vec![rule] });
    let http = ir::Listener {
        hostname: HostName::Any,
        security: ir::Security::Http,
        routes: [Attachment { hosts: [HostName::Any].into(), route }].into_iter().collect(),
        settings: Arc::default(),
    };
    let name = ListenerName { namespace: "default".into(), gateway: "gw".into(), section: "http".into() };
    let traffic = Traffic::Http(Arc::new(http));
    let listener = Listener { name, addresses: vec![at.ip()], port: at.port(), traffic };
    Ir { listeners: vec![listener.into()], endpoints, ..Ir::default() }
}
