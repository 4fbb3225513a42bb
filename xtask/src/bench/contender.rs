//! Who is measured, and how each is put in place and taken away again. Only one is there at a time.

use std::net::SocketAddrV4;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::ValueEnum;
use gateway_tests::lab::{Manifests, Process, wait_for};
use tempfile::NamedTempFile;

use super::l4::Scenario;
use super::network::{BACKENDS, BULK_PORT, GATEWAY, INSIDE, Network, PORT};
use super::sluice::{self, Sluice};

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Contender {
    Sluice,
    Haproxy,
    Nginx,
    Nftables,
    Direct,
}

impl Contender {
    pub const ALL: &[Contender] =
        &[Contender::Sluice, Contender::Haproxy, Contender::Nginx, Contender::Nftables, Contender::Direct];

    pub const fn name(self) -> &'static str {
        match self {
            Contender::Sluice => "sluice",
            Contender::Haproxy => "haproxy",
            Contender::Nginx => "nginx",
            Contender::Nftables => "nftables",
            Contender::Direct => "direct",
        }
    }

    pub fn takes_part(self, scenario: Scenario) -> bool {
        // HAProxy forwards no UDP.
        (self, scenario) != (Contender::Haproxy, Scenario::Udp)
    }

    /// Where the load goes: to the gateway, or without one to the backends in turn.
    pub fn targets(self, scenario: Scenario) -> Vec<SocketAddrV4> {
        let port = match scenario {
            Scenario::Bulk | Scenario::Paced => BULK_PORT,
            Scenario::Connections | Scenario::Latency | Scenario::Udp => PORT,
        };
        match self {
            Contender::Direct => BACKENDS.map(|address| SocketAddrV4::new(address, port)).to_vec(),
            _ => vec![SocketAddrV4::new(GATEWAY, port)],
        }
    }

    /// The version, as it says it itself.
    pub fn version(self, network: &Network) -> Result<Option<String>> {
        let line = match self {
            Contender::Haproxy => "haproxy -v",
            Contender::Nginx => "nginx -v",
            Contender::Nftables => "nft --version",
            Contender::Sluice | Contender::Direct => return Ok(None),
        };
        // nginx says it on its standard error.
        let mut words = line.split(' ');
        let output = network.gateway.command(words.next().unwrap_or_default()).args(words).output()?;
        let text = [output.stdout, output.stderr].concat();
        Ok(String::from_utf8_lossy(&text).lines().next().map(str::to_owned))
    }

    /// Puts it in place; it goes when what is returned is dropped.
    pub fn start<'n>(self, network: &'n Network, state: &'n State) -> Result<Running<'n>> {
        let started = match self {
            Contender::Direct => Ok(Running::Nothing),
            Contender::Sluice => {
                let program = state.program.as_deref().context("its program was not built")?;
                Sluice::start(&network.gateway, program, state.manifests.path()).map(Running::Sluice)
            }
            Contender::Nftables => Rules::load(network, state).map(Running::Rules),
            Contender::Haproxy => {
                let mut haproxy = network.gateway.command("haproxy");
                haproxy.arg("-db").arg("-f").arg(state.haproxy.path());
                proxy(network, self, haproxy)
            }
            Contender::Nginx => {
                // Its workers outlive a master that is killed; in a process namespace the kernel takes them along.
                let mut nginx = network.gateway.command("unshare");
                nginx
                    .args(["--pid", "--fork", "--kill-child=KILL", "nginx", "-e", "stderr", "-c"])
                    .arg(state.nginx.path());
                proxy(network, self, nginx)
            }
        };
        started.with_context(|| format!("cannot start {}", self.name()))
    }
}

/// What the contenders are started with; the same in every round.
pub struct State {
    /// The agent, if it takes part.
    program: Option<PathBuf>,
    manifests: Manifests,
    haproxy: NamedTempFile,
    nginx: NamedTempFile,
    nftables: NamedTempFile,
    flowtable: NamedTempFile,
    /// Whether the kernel has nftables' flow tables.
    pub has_flowtable: bool,
}

impl State {
    pub fn new(program: Option<PathBuf>, network: &Network) -> Result<State> {
        let mut state = State {
            program,
            manifests: sluice::manifests()?,
            haproxy: rendered(include_str!("peers/haproxy.cfg"))?,
            nginx: rendered(include_str!("peers/nginx.conf"))?,
            nftables: rendered(include_str!("peers/nftables.nft"))?,
            flowtable: rendered(include_str!("peers/nftables-flowtable.nft"))?,
            has_flowtable: false,
        };
        let rules = Rules::load(network, &state)?;
        state.has_flowtable = network.gateway.run(&format!("nft -f {}", state.flowtable.path().display())).is_ok();
        drop(rules);
        Ok(state)
    }
}

/// A configuration with the addresses of the network put in.
fn rendered(template: &str) -> Result<NamedTempFile> {
    let values = [
        ("{{gateway}}", GATEWAY.to_string()),
        ("{{port}}", PORT.to_string()),
        ("{{bulk_port}}", BULK_PORT.to_string()),
        ("{{backend_1}}", BACKENDS[0].to_string()),
        ("{{backend_2}}", BACKENDS[1].to_string()),
        ("{{inside_1}}", INSIDE[0].to_string()),
        ("{{inside_2}}", INSIDE[1].to_string()),
    ];
    let text = values.iter().fold(template.to_owned(), |text, (name, value)| text.replace(name, value));
    let file = NamedTempFile::new()?;
    std::fs::write(file.path(), text)?;
    Ok(file)
}

/// A contender in place.
pub enum Running<'n> {
    Nothing,
    Sluice(#[expect(dead_code, reason = "held for what its drop does")] Sluice<'n>),
    Rules(#[expect(dead_code, reason = "held for what its drop does")] Rules<'n>),
    Proxy(#[expect(dead_code, reason = "held for what its drop does")] Process),
}

/// Starts a proxy and waits until both its ports are open.
fn proxy(network: &Network, contender: Contender, command: std::process::Command) -> Result<Running<'static>> {
    let mut process = network.gateway.spawn(contender.name(), command)?;
    for port in [PORT, BULK_PORT] {
        wait_for("its ports", Duration::from_secs(5), || {
            if let Some(status) = process.ended()? {
                return Ok(Err(anyhow::anyhow!("it ended with {status}:\n{}", process.log())));
            }
            let listening = network.gateway.run(&format!("ss -Hltn sport = :{port}"))?;
            if listening.is_empty() { bail!("port {port} is closed") } else { Ok(Ok(())) }
        })??;
    }
    Ok(Running::Proxy(process))
}

/// nftables' rules.
pub struct Rules<'n> {
    network: &'n Network,
}

impl<'n> Rules<'n> {
    fn load(network: &'n Network, state: &State) -> Result<Rules<'n>> {
        // A port that a client uses again is free after a second at its end, so it need not stay here for two minutes.
        network.gateway.sysctl(&[("netfilter/nf_conntrack_tcp_timeout_time_wait", "10")])?;
        network.gateway.run(&format!("nft -f {}", state.nftables.path().display()))?;
        let rules = Rules { network };
        if state.has_flowtable {
            network.gateway.run(&format!("nft -f {}", state.flowtable.path().display()))?;
        }
        Ok(rules)
    }
}

impl Drop for Rules<'_> {
    fn drop(&mut self) {
        // Should it fail, the namespace goes at the end, and with it the rules.
        let _ = self.network.gateway.run("nft flush ruleset");
    }
}
