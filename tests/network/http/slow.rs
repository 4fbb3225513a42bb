//! Clients that are slow, and as many of them as there may be: what they cost, and what the others notice.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use gateway_tests::lab::raise_open_files;
use gateway_tests::web::{SHOP, Web};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::http;

const CLIENTS: u64 = 10_000;
/// Open files that the agent leaves for each connection, and some more.
const FILES: u64 = 7;

/// What a slow client sends at once, and later.
struct Slow {
    kind: &'static str,
    /// Bytes that one may cost: 10,000 with slow heads less than 200 MiB. A body has a request under way to a backend, and HTTP/2 its buffers and
    /// two of them.
    most: u64,
    begin: Vec<u8>,
    later: Vec<u8>,
}

fn kinds() -> [Slow; 3] {
    let head = format!("POST /h2/echo HTTP/1.1\r\nHost: {SHOP}\r\nContent-Length: 100000\r\n");
    let post = [&b"\x83\x86\x44\x08/h2/echo\x41"[..], &[SHOP.len() as u8], SHOP.as_bytes()].concat();
    let streams = [frame(4, 0, 0, &[]), frame(1, 4, 1, &post), frame(1, 4, 3, &post)].concat();
    [
        Slow { kind: "heads", most: 20 << 10, begin: head.as_bytes().into(), later: b"x".into() },
        Slow { kind: "bodies", most: 48 << 10, begin: format!("{head}\r\nbegin").into(), later: b"x".into() },
        Slow {
            kind: "streams",
            most: 128 << 10,
            begin: [b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", &streams[..]].concat(),
            later: frame(0, 0, 3, b"x"),
        },
    ]
}

fn frame(kind: u8, flags: u8, stream: u8, payload: &[u8]) -> Vec<u8> {
    [&[0, 0, payload.len() as u8, kind, flags, 0, 0, 0, stream], payload].concat()
}

#[test]
fn ten_thousand_slow_clients_cost_little_and_slow_nobody_down() {
    // The machine may not let the agent have files for all of them; then as many as it has.
    let clients = raise_open_files().unwrap().map_or(CLIENTS, |files| CLIENTS.min(files / FILES));
    for slow in kinds() {
        let web = Web::new().unwrap();
        web.publish_gateway("limits: {maxConnections: 20000, headerTimeout: 1m}").unwrap();
        let agent = web.agent().unwrap();
        let alone = web.world.client.block_on(|| normal(http()[0]));
        let before = agent.resident_kib().unwrap();
        let (resident, refused, beside) = web.world.client.block_on(|| async {
            let mut open = Vec::new();
            for n in 0..clients {
                let mut client = TcpStream::connect(http()[n as usize % 2]).await.unwrap();
                client.write_all(&slow.begin).await.unwrap();
                open.push(client);
            }
            let mut beside = Vec::new();
            for part in open.chunks_mut(100) {
                for client in part {
                    client.write_all(&slow.later).await.unwrap_or_else(|error| panic!("{}: {error}", slow.kind));
                }
                beside.extend(normal(http()[1]).await);
            }
            // While they are there: who goes in the middle of a request is refused.
            let refused = agent.metric("sluice_http_refused_total", &[]).unwrap();
            (agent.resident_kib().unwrap(), refused, beside)
        });
        let each = ((resident - before) << 10) / clients;
        let (alone, beside) = (median(alone), median(beside));
        println!(
            "{}: {clients} clients, {each} bytes each, a normal one {alone:?} before, {beside:?} beside",
            slow.kind
        );
        assert!(each < slow.most, "{}: {each} bytes each, not {}", slow.kind, slow.most);
        assert!(beside < 4 * alone + Duration::from_millis(5), "{}: {alone:?} alone, {beside:?} beside", slow.kind);
        assert!(agent.metric("sluice_http_connections_active", &[]).unwrap() >= 0.0);
        println!(
            "{}",
            agent
                .page("/metrics")
                .unwrap()
                .lines()
                .filter(|l| l.contains("refused") && !l.ends_with(" 0"))
                .collect::<Vec<_>>()
                .join("\n")
        );
        assert_eq!(refused, 0.0, "{}", slow.kind);
    }
}

/// How long requests take, each by a connection of its own.
async fn normal(target: SocketAddr) -> Vec<Duration> {
    let mut took = Vec::new();
    for _ in 0..5 {
        let began = Instant::now();
        let mut client = TcpStream::connect(target).await.unwrap();
        let request = format!("GET / HTTP/1.1\r\nHost: {SHOP}\r\nConnection: close\r\n\r\n");
        client.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        client.read_to_string(&mut answer).await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
        took.push(began.elapsed());
    }
    took
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort();
    times[times.len() / 2]
}
