//! Traffic of every kind while routes, endpoints and certificates change: nothing may fail, and memory stays as it is.

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use tokio_rustls::rustls::client::Resumption;
use tokio_rustls::rustls::pki_types::ServerName;
use tokio_rustls::rustls::{ClientConfig, ClientConnection, StreamOwned};

use crate::lab::{Agent, Endpoint, address, go_program};
use crate::tls::Identity;
use crate::web::{APP, PORT, SHOP, TLS_PORT, Web};

/// Between two changes; what changes takes turns.
const BETWEEN_CHANGES: Duration = Duration::from_millis(100);
/// So often the agent's memory is looked at.
const TENTHS: u32 = 10;
const PATIENCE: Duration = Duration::from_secs(10);

/// What was seen.
#[derive(Debug)]
pub struct Report {
    pub requests: u64,
    pub changes: u64,
    /// Different certificates that clients were shown for one name, and different routes that a request went by: so many changes were in
    /// force, one after the other.
    pub certificates: usize,
    pub routes: usize,
    /// Of the agent, after each tenth of the time.
    pub resident_kib: Vec<u64>,
    /// What failed, with the client that it failed for. Nothing should have.
    pub failures: Vec<String>,
}

impl Report {
    /// Says from what to what the agent's memory has grown since the third tenth, if that is more than what allocators keep.
    pub fn growth(&self) -> Option<[u64; 2]> {
        const GROWTH: f64 = 1.2;
        /// For agents that are small.
        const SLACK_KIB: u64 = 4 << 10;
        let (early, late) = (*self.resident_kib.get(2)?, *self.resident_kib.last()?);
        (late as f64 > (early + SLACK_KIB) as f64 * GROWTH).then_some([early, late])
    }
}

pub fn run(duration: Duration) -> Result<Report> {
    let web = Web::new()?;
    let identities = [0, 1].map(|i| web.authority.identity(&format!("shop-{i}"), &[SHOP, "cors.test", "rpc.test"]));
    let [first, second] = identities;
    let identities = [first?, second?];
    web.name_addresses(&[SHOP, APP, "rpc.test"])?;
    web.publish_routes(&numbered(0))?;
    let mut agent = web.agent()?;
    let clients = clients(&web, duration)?;
    let mut trust = web.authority.client()?;
    // Who resumes is shown no certificate.
    trust.resumption = Resumption::disabled();
    let trust = Arc::new(trust);
    let stop = AtomicBool::new(false);
    let (mut changes, mut resident) = (0, Vec::new());
    let watched = std::thread::scope(|scope| -> Result<[Watched; 2]> {
        let certificates = scope.spawn(|| web.world.client.enter(|| watch(&stop, || certificate(&trust))));
        let routes = scope.spawn(|| web.world.client.enter(|| watch(&stop, generation)));
        let changed = change(&web, &identities, &mut agent, duration, &mut changes, &mut resident);
        stop.store(true, Ordering::Relaxed);
        let join = |thread: std::thread::ScopedJoinHandle<'_, Watched>| {
            thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        };
        let watched = [join(certificates), join(routes)];
        changed.map(|()| watched)
    })?;
    let mut report = Report {
        requests: 0,
        changes,
        certificates: watched[0].seen.len(),
        routes: watched[1].seen.len(),
        resident_kib: resident,
        failures: Vec::new(),
    };
    for watched in watched {
        report.requests += watched.asked;
        report.failures.extend(watched.failures);
    }
    for client in clients {
        match client.finish() {
            Ok(requests) => report.requests += requests,
            Err(error) => report.failures.push(format!("{error:#}")),
        }
    }
    Ok(report)
}

/// Changes one thing after the other, each into what it was not before.
fn change(
    web: &Web,
    identities: &[Identity; 2],
    agent: &mut Agent,
    duration: Duration,
    changes: &mut u64,
    resident: &mut Vec<u64>,
) -> Result<()> {
    let [pod_1, pod_2] = [address::POD_1, address::POD_2].map(|addresses| addresses.map(Endpoint::ready));
    let draining = address::POD_2.map(Endpoint::draining);
    let endpoints =
        [[pod_1, pod_2].concat(), [pod_1, draining].concat(), pod_1.to_vec(), [pod_1, pod_2].concat(), pod_2.to_vec()];
    let begun = Instant::now();
    while begun.elapsed() < duration {
        let turn = *changes as usize / 3;
        match *changes % 3 {
            0 => web.publish_routes(&numbered(*changes))?,
            1 => web.publish_both(&endpoints[turn % endpoints.len()])?,
            _ => web.publish_certificates(&identities[turn % identities.len()], &web.app)?,
        }
        *changes += 1;
        std::thread::sleep(BETWEEN_CHANGES);
        if begun.elapsed() * TENTHS >= duration * (resident.len() as u32 + 1) {
            resident.push(agent.resident_kib()?);
        }
    }
    Ok(())
}

/// A route that says its number in a header of its answers.
fn numbered(number: u64) -> String {
    format!(
        "---\napiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {{name: numbered, namespace: default}}\nspec:\n  \
         parentRefs: [{{name: edge}}]\n  hostnames: [numbered.test]\n  rules:\n  \
         - filters: [{{type: ResponseHeaderModifier, responseHeaderModifier: {{set: [{{name: X-Number, value: 'n{number}'}}]}}}}]\n    \
         backendRefs: [{{name: both, port: 8080}}]\n"
    )
}

/// What a client of ours saw, asking again and again.
struct Watched {
    asked: u64,
    seen: BTreeSet<Vec<u8>>,
    failures: Vec<String>,
}

fn watch(stop: &AtomicBool, ask: impl Fn() -> Result<Vec<u8>>) -> Watched {
    let mut watched = Watched { asked: 0, seen: BTreeSet::new(), failures: Vec::new() };
    while !stop.load(Ordering::Relaxed) {
        match ask() {
            Ok(seen) => {
                watched.seen.insert(seen);
            }
            Err(error) => watched.failures.push(format!("request {}: {error:#}", watched.asked)),
        }
        watched.asked += 1;
        std::thread::sleep(Duration::from_millis(20));
    }
    watched
}

/// A new TLS connection and a request on it; what the server showed.
fn certificate(trust: &Arc<ClientConfig>) -> Result<Vec<u8>> {
    let socket = connect(SocketAddr::new(address::GATEWAY[0], TLS_PORT))?;
    let tls = ClientConnection::new(Arc::clone(trust), ServerName::try_from(SHOP)?)?;
    let mut stream = StreamOwned::new(tls, socket);
    ask(&mut stream, SHOP, "/both").context("over TLS")?;
    let shown = stream.conn.peer_certificates().and_then(|chain| chain.first()).context("no certificate was shown")?;
    Ok(shown.to_vec())
}

/// A new connection and a request on it; the number of the route that it went by.
fn generation() -> Result<Vec<u8>> {
    let mut stream = connect(SocketAddr::new(address::GATEWAY[1], PORT))?;
    let answer = ask(&mut stream, "numbered.test", "/")?;
    let number =
        answer.lines().find_map(|line| line.to_ascii_lowercase().strip_prefix("x-number: ").map(str::to_owned));
    number.map(String::into_bytes).with_context(|| format!("the answer has no number: {answer}"))
}

fn connect(target: SocketAddr) -> Result<TcpStream> {
    let socket = TcpStream::connect_timeout(&target, PATIENCE).context("cannot connect")?;
    socket.set_read_timeout(Some(PATIENCE))?;
    Ok(socket)
}

fn ask(stream: &mut (impl Read + Write), host: &str, path: &str) -> Result<String> {
    write!(stream, "GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n")?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).context("the answer is cut off")?;
    let answer = String::from_utf8_lossy(&answer).into_owned();
    ensure!(answer.starts_with("HTTP/1.1 200 "), "the answer is {answer:?}");
    Ok(answer)
}

/// A program that asks until the time is over.
struct Client {
    name: &'static str,
    child: Child,
    requests: Requests,
}

/// Of what a program said: how many requests it made, if none failed.
type Requests = fn(&str) -> Result<u64>;

/// A second.
const NEW_CONNECTIONS: u64 = 50;
/// Of gRPC's interoperability tests: a kind each.
const CALLS: &[&str] = &["who", "large_unary", "client_streaming", "server_streaming", "ping_pong", "custom_metadata"];
/// By both versions of HTTP, to backends of both.
const BODIES: &[&str] = &[
    "http://shop.test/both/echo",
    "http://shop.test/both-h2/echo",
    "https://shop.test/both/echo",
    "https://shop.test/both-h2/echo",
];

fn clients(web: &Web, duration: Duration) -> Result<Vec<Client>> {
    let seconds = duration.as_secs().max(1);
    let (hold, connections) = (format!("{seconds}s"), (seconds * NEW_CONNECTIONS).to_string());
    let (http, https) = (format!("http://{}/both", address::GATEWAY[0]), format!("https://{SHOP}/both"));
    let (rpc, ca, seconds) = (format!("{}:{TLS_PORT}", address::GATEWAY[0]), web.ca(), seconds.to_string());
    let (authority, rate) = (format!(":authority: {SHOP}"), NEW_CONNECTIONS.to_string());
    let go = go_program()?;
    let kinds: [(&str, Requests, &[&str]); 6] = [
        (
            "h2load, HTTP/1.1",
            of_h2load,
            &["h2load", "--h1", "-t", "1", "-c", "8", "--rps", "25", "-D", &seconds, "-H", &authority, &http],
        ),
        (
            "h2load, HTTP/2",
            of_h2load,
            &["h2load", "-t", "1", "-c", "4", "-m", "10", "--rps", "50", "-D", &seconds, &https],
        ),
        (
            "h2load, new connections",
            of_h2load,
            &[
                "h2load",
                "--h1",
                "-t",
                "1",
                "-n",
                &connections,
                "-c",
                &connections,
                "-r",
                &rate,
                "-H",
                &authority,
                &http,
            ],
        ),
        (
            "gRPC",
            of_go,
            &[
                &[go, "rpc", "-address", &rpc, "-ca", &ca, "-name", "rpc.test", "-header", "both", "-hold", &hold][..],
                CALLS,
            ]
            .concat(),
        ),
        ("WebSocket", of_go, &[go, "socket", "-url", "wss://shop.test/socket", "-ca", &ca, "-hold", &hold]),
        ("bodies", of_go, &[&[go, "bodies", "-ca", &ca, "-hold", &hold][..], BODIES].concat()),
    ];
    let start = |(name, requests, words): (&'static str, Requests, &[&str])| -> Result<Client> {
        let (program, arguments) = words.split_first().context("no program")?;
        let mut command: Command = web.world.client.command(program);
        command.args(arguments).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let child = command.spawn().with_context(|| format!("cannot start {name}"))?;
        Ok(Client { name, child, requests })
    };
    kinds.into_iter().map(start).collect()
}

impl Client {
    /// How many requests it made, if none failed.
    fn finish(self) -> Result<u64> {
        let output = self.child.wait_with_output()?;
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        let error = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "{} ended with {}:\n{said}{error}", self.name, output.status);
        (self.requests)(&said).with_context(|| format!("{} said:\n{said}", self.name))
    }
}

/// `requests: 100 total, 100 started, 100 done, 100 succeeded, 0 failed, 0 errored, 0 timeout`
fn of_h2load(said: &str) -> Result<u64> {
    let line = said.lines().find(|line| line.starts_with("requests: ")).context("no requests")?;
    ensure!(line.ends_with(" 0 failed, 0 errored, 0 timeout"), "{line}");
    let codes = said.lines().find(|line| line.starts_with("status codes: ")).context("no status codes")?;
    ensure!(codes.ends_with(" 0 3xx, 0 4xx, 0 5xx"), "{codes}");
    let succeeded = line.split(", ").find_map(|part| part.strip_suffix(" succeeded")).context("none succeeded")?;
    Ok(succeeded.parse()?)
}

/// `NAME: 14 messages came back as they were`, `100 calls passed`
fn of_go(said: &str) -> Result<u64> {
    let number = said.split_whitespace().find_map(|word| word.parse().ok());
    number.context("no number")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_that_clients_tell_of_are_seen() {
        let codes = "\nstatus codes: 5 2xx, 0 3xx, 0 4xx, 0 5xx\n";
        let fine = "requests: 5 total, 5 started, 5 done, 5 succeeded, 0 failed, 0 errored, 0 timeout";
        assert_eq!(of_h2load(&format!("{fine}{codes}")).unwrap(), 5);
        assert!(of_h2load(&format!("{}{codes}", fine.replace("0 failed", "1 failed"))).is_err());
        assert!(of_h2load(&format!("{fine}{}", codes.replace("0 5xx", "1 5xx"))).is_err());
    }

    #[test]
    fn memory_that_grows_is_seen() {
        let report = |resident_kib| Report {
            requests: 0,
            changes: 0,
            certificates: 0,
            routes: 0,
            resident_kib,
            failures: Vec::new(),
        };
        assert_eq!(report(vec![10_000, 20_000, 30_000, 31_000, 38_000]).growth(), None);
        assert_eq!(report(vec![10_000, 20_000, 30_000, 31_000, 48_000]).growth(), Some([30_000, 48_000]));
    }
}
