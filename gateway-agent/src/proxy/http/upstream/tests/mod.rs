//! Requests through the agent to backends that behave in every way that backends do: sockets all the way.

mod bodies;
mod connections;
mod grpc;
mod retries;
mod sessions;
mod tls;
mod upgrades;

use std::cell::Cell;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use hyper_util::server::conn::auto;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::watch;
use tokio::task::LocalSet;
use tokio::time::timeout;

use crate::ir::http::{
    Application, Attachment, Backend, BackendTls, Balance, Cluster, Created, Listener, Match, PathMatch, Retry, Route,
    RouteKind, RouteName, Rule, Security, Settings, Target, Timeouts,
};
use crate::ir::{self, Endpoint, HostName, Ir, ListenerName, Traffic};
use crate::panics;
use crate::proxy::Origin;
use crate::proxy::http::body::Body;
use crate::proxy::http::server::{self, Client, Executor};
use crate::proxy::http::snapshot::Snapshot;
use crate::proxy::http::worker::Local;
use crate::proxy::tests::bed::nobody;
use crate::proxy::tests::ir::{endpoint, service, services};

const GATEWAY: &str = "198.18.0.1:80";
const ROOM: u32 = 1 << 20;

/// With what a test needs of a worker.
fn run(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let in_time = async { timeout(Duration::from_secs(60), test).await };
    panics::none_in(|| LocalSet::new().block_on(&runtime, in_time)).expect("within a minute");
}

/// A backend's socket, where it takes connections, and how many it has taken.
struct Server {
    endpoint: Endpoint,
    connections: Rc<Cell<usize>>,
}

/// Answers requests of HTTP/1.1 and HTTP/2, of which it takes so many streams.
async fn server<F, R>(streams: u32, answer: impl Fn(http::Request<Incoming>) -> F + Clone + 'static) -> Server
where
    F: Future<Output = http::Response<R>> + 'static,
    R: hyper::body::Body<Data = Bytes, Error: Into<super::super::body::BodyError>> + 'static,
{
    accepting(move |stream| {
        let answer = answer.clone();
        async move {
            let answer = service_fn(|request| {
                let response = answer(request);
                async move { Ok::<_, Infallible>(response.await) }
            });
            let mut builder = auto::Builder::new(Executor);
            builder.http2().max_concurrent_streams(streams).enable_connect_protocol();
            // Clients may break off.
            let _ = builder.serve_connection_with_upgrades(TokioIo::new(stream), answer).await;
        }
    })
    .await
}

async fn accepting<F: Future<Output = ()> + 'static>(serve: impl Fn(TcpStream) -> F + 'static) -> Server {
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(ROOM).unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let socket = socket.listen(100).unwrap();
    let endpoint = endpoint(&socket.local_addr().unwrap().to_string());
    let connections = Rc::new(Cell::new(0));
    let count = Rc::clone(&connections);
    tokio::task::spawn_local(async move {
        loop {
            let (stream, _) = socket.accept().await.unwrap();
            stream.set_nodelay(true).unwrap();
            count.set(count.get() + 1);
            tokio::task::spawn_local(serve(stream));
        }
    });
    Server { endpoint, connections }
}

fn text(text: impl Into<Bytes>) -> http::Response<Full<Bytes>> {
    http::Response::new(Full::new(text.into()))
}

fn cluster(endpoints: Vec<Endpoint>) -> Cluster {
    Cluster { service: service(endpoints), application: Application::Http, balance: Balance::RoundRobin, tls: None }
}

fn to(cluster: Cluster) -> Backend {
    Backend { weight: 1, filters: Vec::new(), target: Target::Cluster(Arc::new(cluster)) }
}

/// For every path.
fn rule(backends: Vec<Backend>) -> Rule {
    Rule {
        name: "0".into(),
        matches: [Match::path(PathMatch::Prefix("".into()))].into(),
        filters: Vec::new(),
        backends,
        timeouts: Timeouts::default(),
        retry: None,
        persistence: None,
    }
}

fn retrying(codes: &[u16], attempts: u32, backends: Vec<Backend>) -> Rule {
    let codes = codes.iter().map(|code| http::StatusCode::from_u16(*code).unwrap()).collect();
    Rule { retry: Some(Retry { codes, attempts, backoff: Duration::from_millis(5) }), ..rule(backends) }
}

/// A worker, and what it goes by.
struct Gateway {
    local: Rc<Local>,
    published: Arc<ArcSwap<Snapshot>>,
}

impl Gateway {
    fn new(rule: Rule) -> Gateway {
        let published = Arc::new(ArcSwap::from_pointee(Snapshot::default()));
        let gateway = Gateway { local: Local::new(Arc::clone(&published), 1, usize::MAX), published };
        gateway.publish(rule);
        gateway
    }

    fn to(endpoint: &Endpoint) -> Gateway {
        Gateway::new(rule(vec![to(cluster(vec![endpoint.clone()]))]))
    }

    fn speaking(application: Application, endpoint: &Endpoint) -> Gateway {
        Gateway::new(rule(vec![to(Cluster { application, ..cluster(vec![endpoint.clone()]) })]))
    }

    fn publish(&self, rule: Rule) {
        let name = RouteName { namespace: "default".into(), name: "web".into(), kind: RouteKind::Http };
        let route = Arc::new(Route { name, created: Created::Unknown, rules: vec![rule] });
        let http = Listener {
            hostname: HostName::Any,
            security: Security::Http,
            routes: [Attachment { hosts: [HostName::Any].into(), route }].into_iter().collect(),
            settings: Arc::default(),
        };
        let gateway: SocketAddr = GATEWAY.parse().unwrap();
        let listener = ir::Listener {
            name: ListenerName { namespace: "default".into(), gateway: "gw".into(), section: "http".into() },
            addresses: vec![gateway.ip()],
            port: gateway.port(),
            traffic: Traffic::Http(Arc::new(http)),
        };
        let ir = Ir { listeners: vec![listener.into()], endpoints: services(), ..Ir::default() };
        self.published.store(Arc::new(Snapshot::build(&ir, &self.published.load())));
    }

    /// A connection of a client.
    async fn connect(&self) -> TcpStream {
        let socket = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = TcpSocket::new_v4().unwrap();
        // Segments of the loopback interface are as large as what sockets have room for: then each waits for the one before.
        client.set_recv_buffer_size(ROOM).unwrap();
        let client = client.connect(socket.local_addr().unwrap()).await.unwrap();
        let (served, peer) = socket.accept().await.unwrap();
        for socket in [&client, &served] {
            socket.set_nodelay(true).unwrap();
        }
        let origin = Origin { client: peer, gateway: GATEWAY.parse().unwrap() };
        let client_of = Client { local: Rc::clone(&self.local), origin, security: server::Security::Clear };
        tokio::task::spawn_local(async move {
            let (_going, stop) = watch::channel(false);
            server::serve(served, client_of, &Settings::default(), stop).await;
        });
        client
    }

    async fn http1(&self) -> http1::SendRequest<Body> {
        let (sender, connection) = http1::handshake(TokioIo::new(self.connect().await)).await.unwrap();
        tokio::task::spawn_local(connection.with_upgrades());
        sender
    }

    async fn http2(&self) -> http2::SendRequest<Body> {
        let stream = TokioIo::new(self.connect().await);
        let (sender, connection) = http2::handshake(Executor, stream).await.unwrap();
        tokio::task::spawn_local(connection);
        sender
    }

    /// By a connection of its own.
    async fn send(&self, request: http::Request<Body>) -> http::Response<Incoming> {
        self.http1().await.send_request(request).await.unwrap()
    }

    async fn get(&self) -> (u16, String) {
        whole(self.send(get("/")).await).await
    }
}

fn get(path: &str) -> http::Request<Body> {
    http::Request::get(path).header("host", "example.com").body(Body::empty()).unwrap()
}

fn post(body: impl Into<Bytes>) -> http::Request<Body> {
    http::Request::post("/").header("host", "example.com").body(Body::of(body.into())).unwrap()
}

async fn whole(response: http::Response<Incoming>) -> (u16, String) {
    let status = response.status().as_u16();
    let body = response.into_body().collect().await.unwrap().to_bytes();
    (status, String::from_utf8(body.to_vec()).unwrap())
}

/// To the end of a head.
async fn read_head(stream: &mut TcpStream) -> String {
    let mut got = Vec::new();
    while !got.ends_with(b"\r\n\r\n") {
        match stream.read_u8().await {
            Ok(byte) => got.push(byte),
            Err(_) => break,
        }
    }
    String::from_utf8(got).unwrap()
}

async fn write(stream: &mut TcpStream, text: &str) {
    stream.write_all(text.as_bytes()).await.unwrap();
}
