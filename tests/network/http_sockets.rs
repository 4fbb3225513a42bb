//! Connections of HTTP and HTTPS listeners come to the agent's sockets, whatever happens to the agent and to listeners.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{IpAddr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use gateway_tests::client::PATIENCE;
use gateway_tests::lab::{
    Agent, Endpoint, Node, address, eventually, gateway, service, slice, sluice, tls_route, tls_secret,
};
use rustix::process::Signal;

use crate::tls::{SERVER, TlsBed};

const HTTP: u16 = 80;
const HTTPS: u16 = 443;
/// HTTPS and passthrough.
const MIXED: u16 = 8443;
/// Where the backend speaks HTTP.
const BACKEND: u16 = 8088;

struct Bed {
    tls: TlsBed,
}

impl Bed {
    fn new() -> Bed {
        let tls = TlsBed::new();
        // The listener of the TLS tests is in the way.
        tls.manifests.remove("tls.yaml").unwrap();
        serve(&tls.world.pods[0]);
        let bed = Bed { tls };
        bed.publish(&["http", "a", "b", "mixed-a", "mixed"]);
        bed
    }

    fn publish(&self, listeners: &[&str]) {
        let addresses = address::GATEWAY.map(|address| address.to_string());
        let addresses: Vec<&str> = addresses.iter().map(String::as_str).collect();
        let mut text = gateway("web", &addresses, &[]);
        for listener in listeners {
            let secret = |name: &str| format!("tls: {{certificateRefs: [{{name: {name}}}]}}");
            text += &match *listener {
                "http" => format!("  - {{name: http, protocol: HTTP, port: {HTTP}}}\n"),
                "mixed-a" => https("mixed-a", MIXED, "a.test", &secret("a")),
                "mixed" => format!(
                    "  - {{name: mixed, protocol: TLS, port: {MIXED}, hostname: 'pod-2.test', tls: {{mode: Passthrough}}}}\n"
                ),
                name => https(name, HTTPS, &format!("{name}.test"), &secret(name)),
            };
        }
        let mut documents = vec![text];
        for name in ["a", "b"] {
            let host = format!("{name}.test");
            let identity = self.tls.authority.identity(name, &[&host]).unwrap();
            documents.push(tls_secret(name, &identity.certificate_file, &identity.key_file).unwrap());
        }
        documents.push(format!(
            "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {{name: web, namespace: default}}\n\
             spec:\n  parentRefs: [{{name: web}}]\n  rules:\n  - backendRefs: [{{name: web, port: {BACKEND}}}]\n"
        ));
        documents.push(service("web", "TCP", BACKEND));
        let [v4, v6] = address::POD_1;
        documents.push(slice("web", "TCP", BACKEND, &[Endpoint::ready(v4), Endpoint::ready(v6)]));
        if listeners.contains(&"mixed") {
            documents.push(tls_route("pod-2", ("web", "mixed"), &["pod-2.test"], &[("pod-2", SERVER, 1)]));
            documents.push(service("pod-2", "TCP", SERVER));
            let [v4, v6] = address::POD_2;
            documents.push(slice("pod-2", "TCP", SERVER, &[Endpoint::ready(v4), Endpoint::ready(v6)]));
        }
        self.tls.manifests.write("web.yaml", &documents).unwrap();
    }

    fn agent(&self) -> Agent<'_> {
        self.tls.agent()
    }

    /// What curl says, with more options; names lead to the Gateway's address.
    fn curl(&self, to: IpAddr, options: &str, url: &str) -> anyhow::Result<String> {
        let to = if to.is_ipv6() { format!("[{to}]") } else { to.to_string() };
        let line = format!("curl -sS --max-time 10 --cacert {} --connect-to ::{to}: {options} {url}", self.tls.ca());
        self.tls.world.client.run(&line)
    }

    /// A request on a connection of its own.
    fn get(&self, to: SocketAddr) -> io::Result<String> {
        let mut connection = self.connect(to)?;
        get(&mut connection)
    }

    fn connect(&self, to: SocketAddr) -> io::Result<BufReader<TcpStream>> {
        let stream = self.tls.world.client.enter(|| TcpStream::connect_timeout(&to, PATIENCE))?;
        stream.set_read_timeout(Some(PATIENCE))?;
        Ok(BufReader::new(stream))
    }
}

fn https(name: &str, port: u16, hostname: &str, tls: &str) -> String {
    format!("  - {{name: {name}, protocol: HTTPS, port: {port}, hostname: {hostname}, {tls}}}\n")
}

fn on_gateway(port: u16) -> [SocketAddr; 2] {
    address::GATEWAY.map(|address| SocketAddr::new(address, port))
}

/// Asks on a connection, which stays open.
fn get(connection: &mut BufReader<TcpStream>) -> io::Result<String> {
    ask(connection, "/")?;
    answered(connection)
}

fn ask(connection: &mut BufReader<TcpStream>, path: &str) -> io::Result<()> {
    write!(connection.get_mut(), "GET {path} HTTP/1.1\r\nHost: a.test\r\n\r\n")
}

fn answered(connection: &mut BufReader<TcpStream>) -> io::Result<String> {
    let head = head(connection)?;
    let length = header(&head, "content-length").and_then(|value| value.parse().ok()).unwrap_or(0);
    let mut body = vec![0; length];
    connection.read_exact(&mut body)?;
    Ok(head + &String::from_utf8_lossy(&body))
}

/// The lines of a message up to the empty one.
fn head(stream: &mut impl BufRead) -> io::Result<String> {
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        if stream.read_line(&mut head)? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
    Ok(head)
}

fn header<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    let is_it = |line: &'a str| line.split_once(": ").filter(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, v)| v);
    head.lines().find_map(is_it)
}

/// A backend that says what it is told of the client, `/slow` after two seconds; it lives as long as the test.
fn serve(node: &Node) {
    let listener = node.enter(|| TcpListener::bind((Ipv6Addr::UNSPECIFIED, BACKEND))).unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(stream) = stream else { return };
            std::thread::spawn(move || answer(stream));
        }
    });
}

/// Until the client ends the connection.
fn answer(stream: TcpStream) -> io::Result<()> {
    let mut stream = BufReader::new(stream);
    loop {
        let head = head(&mut stream)?;
        if head.starts_with("GET /slow ") {
            std::thread::sleep(Duration::from_secs(2));
        }
        let told = |name| header(&head, name).unwrap_or("nothing");
        let body = format!("for {} by {}\n", told("x-forwarded-for"), told("x-forwarded-proto"));
        write!(stream.get_mut(), "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len())?;
    }
}

#[test]
fn http_is_answered_by_both_versions_of_ip() {
    let bed = Bed::new();
    let _agent = bed.agent();
    for (gateway, client) in address::GATEWAY.into_iter().zip(address::CLIENT) {
        assert_eq!(bed.curl(gateway, "", "http://a.test/").unwrap(), format!("for {client} by http\n"));
        let old = "--http2-prior-knowledge -w %{http_version}";
        assert_eq!(bed.curl(gateway, old, "http://a.test/").unwrap(), format!("for {client} by http\n2"));
    }
}

#[test]
fn each_server_name_has_its_own_certificate_and_its_own_hosts() {
    let bed = Bed::new();
    let agent = bed.agent();
    for (gateway, client) in address::GATEWAY.into_iter().zip(address::CLIENT) {
        for name in ["a", "b"] {
            let subject = format!("-w %{{http_version}} https://{name}.test/");
            assert_eq!(bed.curl(gateway, "", &subject).unwrap(), format!("for {client} by https\n2"));
            let url = format!("https://{name}.test/");
            let told = bed.curl(gateway, "--http1.1 --tls-max 1.2 -w %{http_version}", &url).unwrap();
            assert_eq!(told, format!("for {client} by https\n1.1"));
        }
        // The host of another listener than the connection's.
        let other = bed.curl(gateway, "-o /dev/null -w %{http_code} -H Host:b.test", "https://a.test/").unwrap();
        assert_eq!(other, "421");
        // A name of nobody.
        let error = bed.curl(gateway, "", "https://c.test/").unwrap_err().to_string();
        assert!(error.contains("unrecognized name"), "{error}");
    }
    assert_eq!(agent.metric("sluice_proxy_refused_total", &["unrecognized_name"]).unwrap(), 2.0);
}

#[test]
fn what_is_no_tls_is_refused_with_an_alert_and_counted() {
    let bed = Bed::new();
    let agent = bed.agent();
    for target in on_gateway(HTTPS) {
        let mut connection = bed.connect(target).unwrap();
        connection.get_mut().write_all(b"GET / HTTP/1.1\r\nHost: a.test\r\n\r\n").unwrap();
        let mut all = Vec::new();
        connection.read_to_end(&mut all).unwrap();
        assert_eq!(all, [21, 3, 3, 0, 2, 2, 10], "a fatal alert: unexpected message (RFC 8446 section 6)");
    }
    assert_eq!(agent.metric("sluice_proxy_refused_total", &["not_tls"]).unwrap(), 2.0);
}

#[test]
fn https_and_passthrough_share_a_port() {
    let bed = Bed::new();
    let _agent = bed.agent();
    for (target, client) in on_gateway(MIXED).into_iter().zip(address::CLIENT) {
        let told = bed.curl(target.ip(), "", &format!("https://a.test:{MIXED}/")).unwrap();
        assert_eq!(told, format!("for {client} by https\n"));
        let answer = bed.tls.who(target, "pod-2.test").unwrap();
        assert_eq!(answer.name, "pod-2");
    }
}

#[test]
fn connections_are_only_lost_while_no_agent_runs() {
    let bed = Bed::new();
    let mut agent = bed.agent();
    let [target, _] = on_gateway(HTTP);
    let (done, failures) = (AtomicBool::new(false), Mutex::new(Vec::new()));
    let mut away = Vec::new();
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                while !done.load(Ordering::Relaxed) {
                    let begun = Instant::now();
                    if let Err(error) = bed.get(target) {
                        failures.lock().unwrap().push((begun, Instant::now(), error));
                    }
                }
            });
        }
        for signal in [Signal::TERM, Signal::KILL] {
            std::thread::sleep(Duration::from_millis(300));
            let begun = Instant::now();
            agent.process().signal(signal).unwrap();
            agent.process().wait(Duration::from_secs(15)).unwrap();
            agent = bed.agent();
            away.push((begun, Instant::now()));
        }
        std::thread::sleep(Duration::from_millis(300));
        done.store(true, Ordering::Relaxed);
    });
    for (begun, ended, error) in failures.into_inner().unwrap() {
        let meets = |(from, to): &(Instant, Instant)| begun <= *to && ended >= *from;
        assert!(away.iter().any(meets), "a request failed while the agent was there: {error}");
    }
    assert!(bed.get(target).unwrap().contains("by http"));
}

#[test]
fn listener_that_goes_leaves_its_requests() {
    let bed = Bed::new();
    let agent = bed.agent();
    for target in on_gateway(HTTP) {
        bed.publish(&["http", "a"]);
        eventually("the listener", || bed.get(target).is_ok());
        let mut connection = bed.connect(target).unwrap();
        ask(&mut connection, "/slow").unwrap();
        // The last listener that the agent answers.
        bed.publish(&["mixed"]);
        eventually("new connections to be refused", || {
            bed.get(target).is_err_and(|error| error.kind() == io::ErrorKind::ConnectionRefused)
        });
        let answer = answered(&mut connection).unwrap();
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    }
    drop(agent);
}

#[test]
fn uninstall_leaves_nothing() {
    let bed = Bed::new();
    let node = &bed.tls.world.gateway;
    let mut agent = bed.agent();
    let routes = || {
        let of = |family| node.run(&format!("ip {family} route show table local proto 81")).unwrap();
        (of("-4"), of("-6"))
    };
    let (v4, v6) = routes();
    let [gateway_v4, gateway_v6] = address::GATEWAY.map(|address| address.to_string());
    assert!(v4.contains(&gateway_v4) && v6.contains(&gateway_v6), "{v4}{v6}");
    // The addresses are no Gateway's any more.
    bed.tls.manifests.remove("web.yaml").unwrap();
    eventually("the routes to go", || routes() == (String::new(), String::new()));
    bed.publish(&["http"]);
    eventually("the routes to come", || routes() != (String::new(), String::new()));
    agent.process().signal(Signal::TERM).unwrap();
    agent.process().wait(Duration::from_secs(15)).unwrap();
    let links = node.run("ls /sys/fs/bpf/sluice/links").unwrap();
    let steer = links.lines().find(|link| link.starts_with("steer_")).unwrap();
    let link = node.run(&format!("bpftool link show pinned /sys/fs/bpf/sluice/links/{steer}")).unwrap();
    let id = link.split(':').next().unwrap();
    sluice(node, "uninstall").unwrap();
    assert_eq!(routes(), (String::new(), String::new()));
    assert!(node.run(&format!("bpftool link show id {id}")).is_err(), "steer is still attached");
}
