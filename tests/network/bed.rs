//! What most tests start from: the world with servers in it, manifests, and an agent that has applied them.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use gateway_tests::client::{self, Answer};
use gateway_tests::lab::{
    Agent, Endpoint, Keep, Manifests, Node, Serving, World, address, gateway, route, service, slice,
};

/// Where the servers listen.
pub const SERVER: u16 = 8080;
/// The listeners of [`Bed::publish_web`].
pub const WEB: u16 = 80;
pub const ECHO: u16 = 5000;

pub struct Bed {
    pub world: World,
    pub manifests: Manifests,
    _servers: Vec<Serving>,
}

impl Bed {
    /// The world with a server in each pod and on the remote host, and no manifests but the class.
    pub fn new() -> Bed {
        let world = World::new(Keep::UntilDrop).unwrap();
        let nodes = [&world.pods[0], &world.pods[1], &world.remote];
        let servers = nodes.map(|node| Serving::plain(node, SERVER).unwrap()).into();
        Bed { world, manifests: Manifests::new().unwrap(), _servers: servers }
    }

    /// One Gateway of both IP versions with TCP port 80 and UDP port 5000, both towards these backends.
    pub fn web(backends: &[[IpAddr; 2]]) -> Bed {
        let bed = Bed::new();
        bed.publish_web(&ready(backends));
        bed
    }

    /// Writes the manifests of [`Bed::web`] with these endpoints.
    pub fn publish_web(&self, endpoints: &[Endpoint]) {
        let [v4, v6] = address::GATEWAY.map(|address| address.to_string());
        let listeners = [("web", "TCP", WEB), ("echo", "UDP", ECHO)];
        self.manifests
            .write(
                "web.yaml",
                &[
                    gateway("edge", &[&v4, &v6], &listeners),
                    route("TCPRoute", "web", ("edge", "web"), &[("web", SERVER, 1)]),
                    route("UDPRoute", "echo", ("edge", "echo"), &[("echo", SERVER, 1)]),
                    service("web", "TCP", SERVER),
                    service("echo", "UDP", SERVER),
                    slice("web", "TCP", SERVER, endpoints),
                    slice("echo", "UDP", SERVER, endpoints),
                ],
            )
            .unwrap();
    }

    /// Starts the agent; the manifests are in the maps when this returns.
    pub fn agent(&self) -> Agent<'_> {
        Agent::start(&self.world.gateway, self.manifests.path()).unwrap()
    }

    pub fn pod(&self, index: usize) -> &Node {
        &self.world.pods[index]
    }

    /// Asks from the client over TCP.
    pub fn tcp(&self, target: SocketAddr) -> io::Result<Answer> {
        tcp_from(&self.world.client, target)
    }

    /// Asks from the client over UDP.
    pub fn udp(&self, target: SocketAddr) -> io::Result<Answer> {
        udp_from(&self.world.client, target)
    }
}

pub fn tcp_from(node: &Node, target: SocketAddr) -> io::Result<Answer> {
    node.block_on(|| client::who_tcp(target))
}

pub fn udp_from(node: &Node, target: SocketAddr) -> io::Result<Answer> {
    node.block_on(|| client::who_udp(target))
}

pub fn ready(backends: &[[IpAddr; 2]]) -> Vec<Endpoint> {
    backends.iter().flatten().map(|address| Endpoint::ready(*address)).collect()
}

/// A port of the Gateway, once for each IP version.
pub fn on_gateway(port: u16) -> [SocketAddr; 2] {
    address::GATEWAY.map(|address| SocketAddr::new(address, port))
}

/// Fails unless the answer is a refusal, and a quick one.
pub fn assert_refused<T: std::fmt::Debug>(what: &str, ask: impl FnOnce() -> io::Result<T>) {
    let begun = Instant::now();
    let answer = ask();
    let took = begun.elapsed();
    match &answer {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {}
        other => panic!("{what}: wanted a refusal, got {other:?}"),
    }
    assert!(took < Duration::from_millis(900), "{what}: the refusal took {took:?}");
}

/// Fails unless `part` of `whole` is about `share`: within five standard deviations of independent draws.
pub fn assert_share(what: &str, part: usize, whole: usize, share: f64) {
    let (part, whole) = (part as f64, whole as f64);
    let tolerance = 5.0 * (whole * share * (1.0 - share)).sqrt();
    let wanted = whole * share;
    assert!((part - wanted).abs() <= tolerance, "{what}: {part} of {whole}, wanted {wanted:.0} ± {tolerance:.0}");
}
