//! The network that every contender is measured on: a client, the gateway's node, two hosts behind it.
//!
//! ```text
//! client ── c0 ── eth-client  gateway  eth-backend-1 ── eth0 ── backend 1
//!                                      eth-backend-2 ── eth0 ── backend 2
//! ```
//!
//! The client's load runs on core 0 and the servers on core 1. Whatever is between them may use both, as it would when it had
//! the node for itself: a proxy has a thread for each core, and the kernel's own forwarding runs on the core that sends.

use std::net::{Ipv4Addr, SocketAddrV4};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use gateway_tests::lab::{Keep, Node, Process, veth, wait_for};

pub const CLIENTS: [Ipv4Addr; 4] = [v4(0, 11), v4(0, 12), v4(0, 13), v4(0, 14)];
/// Where the contenders listen: the node's own address towards the client.
pub const GATEWAY: Ipv4Addr = v4(0, 1);
/// The node's own addresses towards the backends.
pub const INSIDE: [Ipv4Addr; 2] = [v4(1, 1), v4(2, 1)];
pub const BACKENDS: [Ipv4Addr; 2] = [v4(1, 2), v4(2, 2)];
/// Exchanges over TCP and UDP, on this port and as many after it as the bench asks for.
pub const PORT: u16 = 7000;
pub const BULK_PORT: u16 = 6999;
/// The same two behind a ClientHello.
pub const TLS_PORT: u16 = 6998;
pub const TLS_BULK_PORT: u16 = 6997;

const CLIENT_CORE: &str = "0";
const SERVER_CORE: &str = "1";

const fn v4(network: u8, host: u8) -> Ipv4Addr {
    Ipv4Addr::new(198, 18, network, host)
}

pub struct Network {
    pub client: Node,
    pub gateway: Node,
    pub backends: [Node; 2],
    load: PathBuf,
    _servers: Vec<Process>,
}

/// How much answers on each of the two backends' nodes.
#[derive(Clone, Copy, Debug)]
pub struct Servers {
    /// Addresses, from that in [`BACKENDS`] on.
    pub addresses: u8,
    pub ports: u16,
}

impl Network {
    /// Lays it and starts the servers; `load` is the program `bench-load`.
    pub fn new(load: &Path, servers: Servers) -> Result<Network> {
        let node = |name| Node::new(name, Keep::UntilDrop);
        let mut network = Network {
            client: node("client")?,
            gateway: node("gateway")?,
            backends: [node("backend-1")?, node("backend-2")?],
            load: load.to_owned(),
            _servers: Vec::new(),
        };
        for node in [&network.client, &network.gateway, &network.backends[0], &network.backends[1]] {
            node.sysctl(SETTINGS)?;
        }
        network.gateway.sysctl(&[("ipv4/ip_forward", "1")])?;
        network.lay(servers)?;
        for (backend, address) in network.backends.iter().zip(BACKENDS) {
            network._servers.push(network.serve(backend, address, servers)?);
        }
        Ok(network)
    }

    fn lay(&self, servers: Servers) -> Result<()> {
        veth((&self.client, "c0"), (&self.gateway, "eth-client"))?;
        self.gateway.ip(&format!("address add {GATEWAY}/24 dev eth-client"))?;
        let addresses = CLIENTS.map(|address| format!("address add {address}/24 dev c0\n")).concat();
        self.client.ip(&format!("{addresses}route add default via {GATEWAY}"))?;
        for (i, backend) in self.backends.iter().enumerate() {
            let (outside, inside, address) = (format!("eth-{}", backend.name()), INSIDE[i], BACKENDS[i]);
            veth((backend, "eth0"), (&self.gateway, &outside))?;
            self.gateway.ip(&format!("address add {inside}/24 dev {outside}"))?;
            let addresses = following(address, servers.addresses);
            let addresses: String = addresses.map(|address| format!("address add {address}/24 dev eth0\n")).collect();
            backend.ip(&format!("{addresses}route add default via {inside}"))?;
        }
        Ok(())
    }

    fn serve(&self, backend: &Node, address: Ipv4Addr, servers: Servers) -> Result<Process> {
        let mut server = backend.command(&self.load);
        let addresses = following(address, servers.addresses).map(|address| address.to_string()).collect::<Vec<_>>();
        let (port, ports, bulk_port) = (PORT.to_string(), servers.ports.to_string(), BULK_PORT.to_string());
        server.args(["--core", SERVER_CORE, "serve", "--addresses", &addresses.join(",")]);
        server.args(["--port", &port, "--ports", &ports, "--bulk-port", &bulk_port]);
        server.args(["--tls-port", &TLS_PORT.to_string(), "--tls-bulk-port", &TLS_BULK_PORT.to_string()]);
        let mut server = backend.spawn("bench-load serve", server)?;
        wait_for("the servers", Duration::from_secs(10), || {
            ensure!(server.ended()?.is_none(), "the server has ended:\n{}", server.log());
            ensure!(server.log().contains("ready"), "it is not ready");
            Ok(())
        })?;
        Ok(server)
    }

    /// Runs a load from the client for its report.
    pub fn load(&self, kind: &str, targets: &[SocketAddrV4], times: Times, more: &[&str]) -> Result<serde_json::Value> {
        let mut load = self.client(kind, targets);
        for (option, time) in [("--warm-up-ms", times.warm_up), ("--measure-ms", times.measure)] {
            load.args([option, &time.as_millis().to_string()]);
        }
        let output = load.args(more).output().context("cannot start bench-load")?;
        let error = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "the load `{kind}` ended with {}:\n{}", output.status, error.trim_end());
        serde_json::from_slice(&output.stdout).context("bench-load gave no report")
    }

    /// Runs a load generator that is not ours, from the client; the report says how long `core` was busy meanwhile.
    pub fn around(&self, core: usize, command: &[String]) -> Result<serde_json::Value> {
        let mut load = self.client.command(&self.load);
        load.args(["--core", CLIENT_CORE, "around", "--watch-core", &core.to_string(), "--"]).args(command);
        let output = load.output().context("cannot start bench-load")?;
        let error = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "`{}` ended with {}:\n{}", command.join(" "), output.status, error.trim_end());
        serde_json::from_slice(&output.stdout).context("bench-load gave no report")
    }

    /// `bench-load`.
    pub fn load_program(&self) -> &Path {
        &self.load
    }

    /// A load that was not started yet.
    pub fn client(&self, kind: &str, targets: &[SocketAddrV4]) -> Command {
        let mut load = self.client.command(&self.load);
        let targets = targets.iter().map(ToString::to_string).collect::<Vec<_>>().join(",");
        load.args(["--core", CLIENT_CORE, kind, "--targets", &targets]);
        load
    }
}

/// The addresses that a load connects from, as it takes them.
pub fn sources() -> String {
    CLIENTS.map(|address| address.to_string()).join(",")
}

/// So many addresses from this one on.
pub fn following(first: Ipv4Addr, count: u8) -> impl Iterator<Item = Ipv4Addr> {
    let [a, b, c, d] = first.octets();
    (0..count).map(move |i| Ipv4Addr::new(a, b, c, d + i))
}

/// How long a load runs.
#[derive(Clone, Copy, Debug)]
pub struct Times {
    pub warm_up: Duration,
    pub measure: Duration,
}

/// The same on every node. The kernel gives a namespace reno whatever the machine's own default is; ports are many and may be
/// used again after a second in TIME_WAIT, as the proxies' manuals advise; what one run learned about a path is not kept for the next.
const SETTINGS: &[(&str, &str)] = &[
    ("ipv4/tcp_congestion_control", "reno"),
    ("ipv4/ip_local_port_range", "1024 60999"),
    ("ipv4/tcp_tw_reuse", "1"),
    ("ipv4/tcp_max_tw_buckets", "1000000"),
    ("ipv4/tcp_no_metrics_save", "1"),
    ("ipv4/tcp_max_syn_backlog", "4096"),
    ("core/somaxconn", "4096"),
];
