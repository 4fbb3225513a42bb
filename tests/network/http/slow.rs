//! Clients that are slow, and as many of them as there may be: what they cost, and what the others notice.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use gateway_tests::lab::{Agent, eventually, raise_open_files};
use gateway_tests::web::{SHOP, Web};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::ClientConfig;
use tokio_rustls::rustls::pki_types::ServerName;

use super::{http, https};

const CLIENTS: u64 = 10_000;
/// Open files that the agent leaves for each connection, and some more.
const FILES: u64 = 7;
/// Bytes that one may cost: 10,000 less than 200 MiB.
const MOST: u64 = 20 << 10;
/// MiB that those who cost more may be estimated to cost, and what they may cost: estimates err, and the first of them bring what the agent
/// has once. The most that was seen was 26.
const LITTLE: u64 = 16;
const ALLOWED: u64 = 2 * LITTLE;

/// What a slow client sends at once, and later.
struct Slow {
    kind: &'static str,
    /// With ALPN.
    tls: Option<&'static [u8]>,
    begin: Vec<u8>,
    later: Vec<u8>,
}

const HTTP1: Option<&[u8]> = Some(b"http/1.1");
const HTTP2: Option<&[u8]> = Some(b"h2");

impl Slow {
    fn new(kind: &'static str, tls: Option<&'static [u8]>, begin: impl Into<Vec<u8>>, later: &[u8]) -> Slow {
        Slow { kind, tls, begin: begin.into(), later: later.into() }
    }
}

/// Those that cost little each.
fn cheap() -> [Slow; 4] {
    [
        Slow::new("heads", None, post("/echo"), b"x"),
        Slow::new("bodies to HTTP/1.1", None, body("/echo"), b"x"),
        Slow::new("bodies to HTTP/2", None, body("/h2/echo"), b"x"),
        Slow::new("heads by TLS", HTTP1, post("/echo"), b"x"),
    ]
}

/// Those whose protocol makes them more.
fn costly() -> [Slow; 6] {
    let get = format!("GET /bytes?count=1000000 HTTP/1.1\r\nHost: {SHOP}\r\n\r\n");
    let posts = http2(&[&asks(1, POST, "/h2/echo", false), &asks(3, POST, "/echo", false)]);
    let gets = http2(&[&asks(1, GET, "/bytes?count=1000000", true), &asks(3, GET, "/h2/bytes?count=1000000", true)]);
    // With windows that take more of each than anybody keeps, so that it is the socket that takes nothing.
    let wide = [frame(4, 0, 0, &[0, 4, 0x10, 0, 0, 0]), frame(8, 0, 0, &[0x10, 0, 0, 0])].concat();
    let many: Vec<u8> = (0..10).flat_map(|n| asks(2 * n + 1, GET, "/bytes?count=100000", true)).collect();
    let more = frame(0, 0, 3, b"x");
    let ping = frame(6, 0, 0, &[0; 8]);
    [
        Slow::new("readers of HTTP/1.1", None, get.as_bytes(), b""),
        Slow::new("bodies by TLS", HTTP1, body("/echo"), b"x"),
        Slow::new("readers by TLS", HTTP1, get.as_bytes(), b""),
        Slow::new("readers by two streams", None, gets, &ping),
        Slow::new("readers by ten wide streams", None, http2(&[&wide, &many]), &ping),
        Slow::new("bodies by two streams and TLS", HTTP2, posts, &more),
    ]
}

fn post(path: &str) -> String {
    format!("POST {path} HTTP/1.1\r\nHost: {SHOP}\r\nContent-Length: 100000\r\n")
}

fn body(path: &str) -> String {
    format!("{}\r\nbegin", post(path))
}

fn http2(frames: &[&[u8]]) -> Vec<u8> {
    [b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", &frame(4, 0, 0, &[])[..], &frames.concat()].concat()
}

/// Methods as in HPACK's table.
const GET: u8 = 0x82;
const POST: u8 = 0x83;

/// HEADERS of a request.
fn asks(stream: u8, method: u8, path: &str, whole: bool) -> Vec<u8> {
    let text = |index: u8, text: &str| [&[index, text.len() as u8], text.as_bytes()].concat();
    let block = [&[method, 0x86][..], &text(0x04, path), &text(0x01, SHOP)].concat();
    frame(1, 4 | u8::from(whole), stream, &block)
}

fn frame(kind: u8, flags: u8, stream: u8, payload: &[u8]) -> Vec<u8> {
    [&[0, 0, payload.len() as u8, kind, flags, 0, 0, 0, stream], payload].concat()
}

trait Stream: AsyncRead + AsyncWrite + Unpin {}

impl<S: AsyncRead + AsyncWrite + Unpin> Stream for S {}

impl Slow {
    async fn connect(&self, n: usize, config: &ClientConfig) -> io::Result<Box<dyn Stream>> {
        let to = if self.tls.is_some() { https() } else { http() }[n % 2];
        let socket = if to.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }.unwrap();
        // So that it is the agent that has what is not read, not the client's kernel.
        socket.set_recv_buffer_size(4 << 10).unwrap();
        let stream = socket.connect(to).await?;
        let Some(protocol) = self.tls else { return Ok(Box::new(stream)) };
        let mut config = config.clone();
        config.alpn_protocols = vec![protocol.into()];
        let name = ServerName::try_from(SHOP).unwrap();
        Ok(Box::new(TlsConnector::from(Arc::new(config)).connect(name, stream).await?))
    }
}

#[test]
fn ten_thousand_slow_clients_cost_little_and_slow_nobody_down() {
    let clients = as_many_as(CLIENTS);
    for slow in cheap() {
        let measured = Measured::of(&slow, clients, &[]);
        let (each, beside, alone) = (measured.kept / clients, measured.beside, measured.alone);
        assert!(each < MOST, "{}: {each} bytes each, not {MOST}", slow.kind);
        assert!(beside < 4 * alone + Duration::from_millis(5), "{}: {alone:?} alone, {beside:?} beside", slow.kind);
        assert_eq!(measured.refused[0], 0.0, "{}", slow.kind);
    }
}

#[test]
fn clients_that_cost_more_are_refused_when_they_cost_too_much() {
    let clients = as_many_as(1_000);
    for slow in costly() {
        let measured = Measured::of(&slow, clients, &["--proxy-memory", &LITTLE.to_string(), "--sweep-interval", "1"]);
        let kept = measured.kept >> 20;
        assert!(kept < ALLOWED, "{}: {kept} MiB, not {ALLOWED}", slow.kind);
        assert!(measured.refused[1] > 0.0, "{}: nobody was refused", slow.kind);
        assert!(measured.served || !slow.kind.starts_with("readers"), "{} make no room for others", slow.kind);
    }
}

/// The machine may not let the agent have files for all of them; then as many as it has.
fn as_many_as(clients: u64) -> u64 {
    raise_open_files().unwrap().map_or(clients, |files| clients.min(files / FILES))
}

struct Measured {
    /// Bytes that the agent has beyond what it had.
    kept: u64,
    /// Connections and requests: all, and for what they would cost.
    refused: [f64; 2],
    /// Whether one that comes while they are there is served.
    served: bool,
    /// How long normal requests take without slow clients, and beside them.
    alone: Duration,
    beside: Duration,
}

impl Measured {
    fn of(slow: &Slow, clients: u64, options: &[&str]) -> Measured {
        let web = Web::new().unwrap();
        web.publish_gateway("limits: {maxConnections: 20000, headerTimeout: 1m}").unwrap();
        let agent = Agent::start_with(&web.world.gateway, web.manifests.path(), options).unwrap();
        let config = web.authority.client().unwrap();
        let alone = web.world.client.block_on(|| normal(http()[0]));
        let before = agent.anonymous_kib().unwrap();
        let refusals: [&[&str]; 2] = [&[], &["out_of_memory"]];
        let (resident, refused, served, beside) = web.world.client.block_on(|| async {
            let mut open = Vec::new();
            for n in 0..clients as usize {
                // Who is refused may be so before it has sent all.
                if let Ok(mut client) = slow.connect(n, &config).await
                    && client.write_all(&slow.begin).await.is_ok()
                {
                    open.push(client);
                }
            }
            let mut beside = Vec::new();
            for part in open.chunks_mut(100) {
                for client in part {
                    let _ = client.write_all(&slow.later).await;
                    let _ = client.flush().await;
                }
                beside.extend(normal(http()[1]).await);
            }
            // While they are there: who goes in the middle of a request is refused.
            let refused = refusals.map(|of| agent.metric("sluice_http_refused_total", of).unwrap());
            // What has been freed goes back to the kernel with the next sweep.
            tokio::time::sleep(Duration::from_millis(1_500)).await;
            let served = ask(http()[0]).await.starts_with("HTTP/1.1 200 ");
            (agent.anonymous_kib().unwrap(), refused, served, beside)
        });
        let measured =
            Measured { kept: (resident - before) << 10, refused, served, alone: median(alone), beside: median(beside) };
        println!(
            "{}: {clients} clients, {} bytes each, {refused:?} refused, a normal one {:?} before, {:?} beside",
            slow.kind,
            measured.kept / clients,
            measured.alone,
            measured.beside
        );
        // Whoever comes when they have gone is served.
        eventually("a normal client to be served", || {
            web.world.client.block_on(|| ask(http()[0])).starts_with("HTTP/1.1 200 ")
        });
        measured
    }
}

/// How long requests take, each by a connection of its own.
async fn normal(target: SocketAddr) -> Vec<Duration> {
    let mut took = Vec::new();
    for _ in 0..5 {
        let began = Instant::now();
        ask(target).await;
        took.push(began.elapsed());
    }
    took
}

async fn ask(target: SocketAddr) -> String {
    let mut client = TcpStream::connect(target).await.unwrap();
    let request = format!("GET / HTTP/1.1\r\nHost: {SHOP}\r\nConnection: close\r\n\r\n");
    client.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    client.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 "), "{answer}");
    answer
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort();
    times[times.len() / 2]
}
