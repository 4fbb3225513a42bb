//! Whole requests: a client's socket → table → backend's socket, and back.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::LocalSet;

mod direct;
mod http2;
mod limits;
mod metering;
mod tunnels;

use super::answer::Reason;
use super::body::Body;
use super::exchange::Scheme;
use super::filters::Filter;
use super::filters::redirect::Redirect;
use super::filters::request_headers::{Changes, RequestHeaders};
use super::filters::response_headers::ResponseHeaders;
use super::filters::rewrite::PathChange;
use super::server::{self, Client, Executor, Security};
use super::snapshot::Snapshot;
use super::worker::Local;
use crate::ir::http::{
    self as ir, Application, Attachment, Backend, Balance, Cluster, Match, PathMatch, Route, Rule, Target,
};
use crate::ir::{Endpoint, HostName, Ir, Listener, ListenerName, Traffic};
use crate::proxy::Origin;
use crate::proxy::tests::ir::{endpoint, service, services};

/// On one thread, as a worker has it.
async fn within<T>(seconds: u64, test: impl Future<Output = T>) -> T {
    let in_time = async { tokio::time::timeout(Duration::from_secs(seconds), test).await };
    LocalSet::new().run_until(in_time).await.expect("in time")
}

pub(super) const GATEWAY: &str = "198.18.0.1:80";

pub(crate) fn rule(prefix: &str, backends: Vec<Backend>) -> Rule {
    Rule {
        name: prefix.into(),
        matches: [Match::path(PathMatch::Prefix(prefix.into()))].into(),
        filters: Vec::new(),
        backends,
        timeouts: ir::Timeouts::default(),
        retry: None,
        persistence: None,
    }
}

pub(super) fn to(endpoints: Vec<Endpoint>) -> Backend {
    speaking(Application::Http, endpoints)
}

pub(super) fn speaking(application: Application, endpoints: Vec<Endpoint>) -> Backend {
    let cluster = Cluster { service: service(endpoints), application, balance: Balance::default(), tls: None };
    Backend { weight: 1, filters: Vec::new(), target: Target::Cluster(Arc::new(cluster)) }
}

/// A worker that serves these rules for example.com.
pub(crate) fn serving(rules: Vec<Rule>) -> Rc<Local> {
    serving_at(HostName::Exact("example.com".into()), rules)
}

pub(super) fn serving_at(hostname: HostName, rules: Vec<Rule>) -> Rc<Local> {
    serving_within(usize::MAX, hostname, rules)
}

/// With so many bytes for what clients make it keep.
fn serving_within(memory: usize, hostname: HostName, rules: Vec<Rule>) -> Rc<Local> {
    serving_as(memory, ir::Settings::default(), hostname, rules)
}

fn serving_with(settings: ir::Settings, rules: Vec<Rule>) -> Rc<Local> {
    serving_as(usize::MAX, settings, HostName::Exact("example.com".into()), rules)
}

fn serving_as(memory: usize, settings: ir::Settings, hostname: HostName, rules: Vec<Rule>) -> Rc<Local> {
    let name = ir::RouteName { namespace: "default".into(), name: "web".into(), kind: ir::RouteKind::Http };
    let route = Arc::new(Route { name, created: ir::Created::Unknown, rules });
    let http = ir::Listener {
        hostname: hostname.clone(),
        security: ir::Security::Http,
        routes: [Attachment { hosts: [hostname].into(), route }].into_iter().collect(),
        settings: Arc::new(settings),
    };
    let other = ir::Listener {
        hostname: HostName::Exact("other.example.com".into()),
        security: ir::Security::Http,
        routes: Default::default(),
        settings: Arc::default(),
    };
    let snapshot = snapshot(vec![("http", http), ("other", other)], &Snapshot::default());
    Local::new(Arc::new(ArcSwap::from_pointee(snapshot)), 1, memory)
}

fn snapshot(listeners: Vec<(&str, ir::Listener)>, before: &Snapshot) -> Snapshot {
    let gateway: SocketAddr = GATEWAY.parse().unwrap();
    let listener = |(section, http): (&str, ir::Listener)| Listener {
        name: listener_name(section),
        addresses: vec![gateway.ip()],
        port: gateway.port(),
        traffic: Traffic::Http(Arc::new(http)),
    };
    Snapshot::build(
        &Ir {
            listeners: listeners.into_iter().map(listener).map(Arc::new).collect(),
            endpoints: services(),
            ..Ir::default()
        },
        before,
    )
}

fn listener_name(section: &str) -> ListenerName {
    ListenerName { namespace: "default".into(), gateway: "gw".into(), section: section.into() }
}

/// A connection of a client to the worker.
pub(super) async fn client(local: &Rc<Local>, security: Security) -> TcpStream {
    let (client, going) = client_of(local, security, ir::Settings::default()).await;
    // The agent goes on.
    std::mem::forget(going);
    client
}

/// With what tells the agent to stop.
async fn client_of(local: &Rc<Local>, security: Security, settings: ir::Settings) -> (TcpStream, watch::Sender<bool>) {
    let socket = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let client = TcpStream::connect(socket.local_addr().unwrap()).await.unwrap();
    let (served, peer) = socket.accept().await.unwrap();
    let origin = Origin { client: peer, gateway: GATEWAY.parse().unwrap() };
    let of = Client { local: Rc::clone(local), origin, security };
    let (going, stop) = watch::channel(false);
    tokio::task::spawn_local(async move { server::serve(served, of, &settings, stop).await });
    (client, going)
}

/// So many heads.
async fn read_heads(stream: &mut TcpStream, heads: usize) -> String {
    let mut got = String::new();
    let read = async {
        while got.matches("\r\n\r\n").count() < heads {
            let mut some = [0; 4096];
            let n = stream.read(&mut some).await.unwrap();
            assert!(n > 0, "the end, after {got}");
            got.push_str(std::str::from_utf8(&some[..n]).unwrap());
        }
    };
    tokio::time::timeout(Duration::from_secs(5), read).await.expect("an answer");
    got
}

async fn get(stream: &mut TcpStream, host: &str, path: &str) -> String {
    let request = format!("GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: x-own\r\nX-Own: 1\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    read_heads(stream, 1).await
}

/// Takes one connection, and answers every request on it with what it was.
async fn echo(socket: TcpListener) {
    let (mut stream, _) = socket.accept().await.unwrap();
    loop {
        let request = read_heads(&mut stream, 1).await;
        let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{request}", request.len());
        stream.write_all(answer.as_bytes()).await.unwrap();
    }
}

#[tokio::test]
async fn a_request_goes_to_its_backend_and_comes_back() {
    let one = async {
        let socket = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = socket.local_addr().unwrap().to_string();
        let backend = tokio::task::spawn_local(echo(socket));
        let changes = |name: &'static str| {
            let set = vec![(name.parse().unwrap(), HeaderValue::from_static("yes"))];
            Changes::new(set, Vec::new(), Vec::new()).unwrap()
        };
        let filters = vec![
            Filter::RequestHeaders(RequestHeaders(changes("x-request"))),
            Filter::ResponseHeaders(ResponseHeaders(changes("x-response"))),
        ];
        let local = serving(vec![Rule { filters, ..rule("/a", vec![to(vec![endpoint(&address)])]) }]);
        let mut client = client(&local, Security::Clear).await;
        // Twice, by one connection on either side.
        for path in ["/a/b?q=%20", "/a/./c/../d"] {
            client.write_all(format!("GET {path} HTTP/1.1\r\nHost: Example.com\r\n\r\n").as_bytes()).await.unwrap();
            // Its own, and the request as the backend has it.
            let got = read_heads(&mut client, 2).await;
            assert!(got.starts_with("HTTP/1.1 200 OK\r\n"), "{got}");
            assert!(got.contains("x-response: yes") && got.contains("x-request: yes"), "{got}");
            assert!(got.contains("x-forwarded-for: 127.0.0.1") && got.contains("host: Example.com"), "{got}");
            assert!(got.contains(if path.contains('?') { "GET /a/b?q=%20 " } else { "GET /a/d " }), "{got}");
        }
        assert!(!backend.is_finished());
        assert_eq!((local.metrics.requests.get(), local.metrics.class(2)), (2, 2));
    };
    within(5, one).await;
}

#[tokio::test]
async fn what_goes_nowhere_is_answered_by_the_agent() {
    let all = async {
        let gone = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().to_string();
        let invalid = Backend { weight: 1, filters: Vec::new(), target: Target::Invalid };
        let local = serving(vec![
            rule("/invalid", vec![invalid]),
            rule("/none", Vec::new()),
            rule("/empty", vec![to(Vec::new())]),
            rule("/gone", vec![to(vec![endpoint(&gone)])]),
            Rule { filters: vec![Filter::Unknown(super::filters::unknown::Unknown)], ..rule("/unknown", Vec::new()) },
        ]);
        let mut client = client(&local, Security::Clear).await;
        for (host, path, status, reason) in [
            ("example.com", "/other", "404", Reason::NoRoute),
            ("example.net", "/invalid", "404", Reason::NoRoute),
            ("example.com", "/invalid", "500", Reason::InvalidBackend),
            ("example.com", "/none", "500", Reason::InvalidBackend),
            ("example.com", "/unknown", "500", Reason::UnknownFilter),
            ("example.com", "/empty", "503", Reason::NoEndpoint),
            ("example.com", "/gone", "502", Reason::Unreachable),
            ("example.com", "/a%5Cb", "400", Reason::BadRequest),
        ] {
            let before = local.metrics.answered(reason);
            let got = get(&mut client, host, path).await;
            assert!(got.starts_with(&format!("HTTP/1.1 {status} ")), "{host}{path}: {got}");
            assert_eq!(local.metrics.answered(reason), before + 1, "{host}{path}");
        }
    };
    within(5, all).await;
}

#[tokio::test]
async fn a_redirect_says_only_what_changes() {
    let all = async {
        let none = Redirect { scheme: None, host: None, port: None, path: None, status: StatusCode::FOUND };
        let path = Some(PathChange::Prefix("/new".into()));
        let https =
            Redirect { scheme: Some(Scheme::Https), path, status: StatusCode::MOVED_PERMANENTLY, ..none.clone() };
        let other = Redirect { host: Some("other.example.com".into()), port: Some(8080), ..none };
        let by = |prefix, redirect| Rule { filters: vec![Filter::Redirect(redirect)], ..rule(prefix, Vec::new()) };
        let local = serving(vec![by("/https", https), by("/other", other)]);
        let mut client = client(&local, Security::Clear).await;
        let got = get(&mut client, "example.com", "/https/a?q=1").await;
        assert!(
            got.starts_with("HTTP/1.1 301 ") && got.contains("location: https://example.com/new/a?q=1\r\n"),
            "{got}"
        );
        let got = get(&mut client, "example.com", "/other/").await;
        assert!(got.starts_with("HTTP/1.1 302 "), "{got}");
        assert!(got.contains("location: http://other.example.com:8080/other/\r\n"), "{got}");
    };
    within(5, all).await;
}

#[tokio::test]
async fn a_host_of_another_listener_than_the_server_name_is_misdirected() {
    let all = async {
        let local = serving(vec![rule("", Vec::new())]);
        let tls = |section| Security::Tls { listener: listener_name(section), h2: false, session: None };
        let (mut own, mut other) = (client(&local, tls("http")).await, client(&local, tls("other")).await);
        assert!(get(&mut own, "example.com", "/").await.starts_with("HTTP/1.1 500 "));
        assert!(get(&mut other, "example.com", "/").await.starts_with("HTTP/1.1 421 "));
        assert!(get(&mut other, "example.net", "/").await.starts_with("HTTP/1.1 404 "), "no listener has it");
    };
    within(5, all).await;
}

/// HTTP/2 by prior knowledge: answers every request with its method, URI and a trailer: the number that its path ends with, or 0.
async fn echo_http2(socket: TcpListener) {
    let (stream, _) = socket.accept().await.unwrap();
    let service = service_fn(|request: http::Request<Incoming>| async move {
        let echo = format!("{} {}", request.method(), request.uri());
        let status = request.uri().path().rsplit('/').next().and_then(|last| last.parse::<u16>().ok()).unwrap_or(0);
        let trailers = HeaderMap::from_iter([(HeaderName::from_static("grpc-status"), HeaderValue::from(status))]);
        // Of no length that anybody knows.
        let frames = [Frame::data(Bytes::from(echo)), Frame::trailers(trailers)].map(Ok::<_, Infallible>);
        Ok::<_, Infallible>(http::Response::new(StreamBody::new(futures_util::stream::iter(frames))))
    });
    let builder = hyper::server::conn::http2::Builder::new(Executor);
    builder.serve_connection(TokioIo::new(stream), service).await.unwrap();
}

#[tokio::test]
async fn calls_of_grpc_go_by_http2_on_both_sides() {
    let all = async {
        let socket = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let backend = endpoint(&socket.local_addr().unwrap().to_string());
        tokio::task::spawn_local(echo_http2(socket));
        let local = serving(vec![rule("/a.B", vec![speaking(Application::H2c, vec![backend])])]);
        let stream = TokioIo::new(client(&local, Security::Clear).await);
        let (mut sender, connection) = hyper::client::conn::http2::handshake(Executor, stream).await.unwrap();
        tokio::task::spawn_local(connection);
        let call = |path: &str| {
            let uri = format!("http://example.com{path}");
            http::Request::post(uri)
                .header("content-type", "application/grpc")
                .header("te", "trailers")
                .body(Body::empty())
        };
        // Twice: the backend takes one connection.
        for _ in 0..2 {
            let response = sender.send_request(call("/a.B/C").unwrap()).await.unwrap();
            let got = response.into_body().collect().await.unwrap();
            assert_eq!(got.trailers().unwrap()["grpc-status"], "0");
            assert_eq!(got.to_bytes(), "POST http://example.com/a.B/C");
        }
        let response = sender.send_request(call("/other").unwrap()).await.unwrap();
        assert_eq!((response.status().as_u16(), &response.headers()["grpc-status"]), (200, &HeaderValue::from(12)));
    };
    within(5, all).await;
}
