//! Who is measured, and how each is put in place and taken away again. Only one is there at a time.

use std::ffi::OsStr;
use std::net::SocketAddrV4;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::ValueEnum;
use gateway_tests::lab::{Manifests, Process, wait_for};
use tempfile::NamedTempFile;

use super::network::{BACKENDS, GATEWAY, Network};
use super::sluice::Sluice;

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Contender {
    Sluice,
    Haproxy,
    Nginx,
    Envoy,
    Nftables,
    Direct,
}

impl Contender {
    pub const fn name(self) -> &'static str {
        match self {
            Contender::Sluice => "sluice",
            Contender::Haproxy => "haproxy",
            Contender::Nginx => "nginx",
            Contender::Envoy => "envoy",
            Contender::Nftables => "nftables",
            Contender::Direct => "direct",
        }
    }

    /// Where the load goes: to a port of the gateway, or without one to a port of the backends in turn.
    pub fn targets(self, gateway: u16, backends: u16) -> Vec<SocketAddrV4> {
        match self {
            Contender::Direct => BACKENDS.map(|address| SocketAddrV4::new(address, backends)).to_vec(),
            _ => vec![SocketAddrV4::new(GATEWAY, gateway)],
        }
    }

    /// The version, as it says it itself.
    pub fn version(self, network: &Network, state: &State) -> Result<Option<String>> {
        let in_gateway = |program: &str, argument: &str| {
            let mut command = network.gateway.command(program);
            command.arg(argument);
            command
        };
        let mut command = match self {
            Contender::Haproxy => in_gateway("haproxy", "-v"),
            Contender::Nginx => in_gateway("nginx", "-v"),
            Contender::Nftables => in_gateway("nft", "--version"),
            Contender::Envoy => {
                let mut command = network.gateway.command(&state.envoy()?.program);
                command.arg("--version");
                command
            }
            Contender::Sluice | Contender::Direct => return Ok(None),
        };
        // nginx says it on its standard error.
        let output = command.output()?;
        let text = [output.stdout, output.stderr].concat();
        let text = String::from_utf8_lossy(&text);
        // Envoy begins with an empty line and the path of its program.
        let line = text.lines().find(|line| !line.trim().is_empty()).map(|line| match line.split_once("version: ") {
            Some((_, version)) if self == Contender::Envoy => format!("envoy version: {version}"),
            _ => line.to_owned(),
        });
        Ok(line)
    }

    /// Puts it in place; it goes when what is returned is dropped.
    pub fn start<'n>(self, network: &'n Network, state: &'n State) -> Result<Running<'n>> {
        let started = match self {
            Contender::Direct => Ok(Running::Nothing),
            Contender::Sluice => {
                let program = state.program.as_deref().context("its program was not built")?;
                let command = state.command(network, program);
                Sluice::start(&network.gateway, program, command, state.manifests.path()).map(Running::Sluice)
            }
            Contender::Nftables => {
                let rules = state.nftables.as_ref().context("it takes no part in this bench")?;
                Rules::load(network, rules).map(Running::Rules)
            }
            Contender::Haproxy => {
                let mut haproxy = state.command(network, "haproxy");
                haproxy.arg("-db").arg("-f").arg(state.haproxy.path());
                proxy(network, self, haproxy, state.ports)
            }
            Contender::Nginx => {
                // Its workers outlive a master that is killed; in a process namespace the kernel takes them along.
                let mut nginx = state.command(network, "unshare");
                nginx
                    .args(["--pid", "--fork", "--kill-child=KILL", "nginx", "-e", "stderr", "-c"])
                    .arg(state.nginx.path());
                proxy(network, self, nginx, state.ports)
            }
            Contender::Envoy => {
                let Envoy { program, configuration } = state.envoy()?;
                let mut envoy = state.command(network, program);
                let workers = if state.core.is_some() { "1" } else { "2" };
                envoy.args([
                    "--concurrency",
                    workers,
                    "--disable-hot-restart",
                    "--log-level",
                    "error",
                    "--config-path",
                ]);
                envoy.arg(configuration.path());
                proxy(network, self, envoy, state.ports)
            }
        };
        started.with_context(|| format!("cannot start {}", self.name()))
    }
}

/// What the contenders are started with; the same in every round.
pub struct State {
    /// The agent, if it takes part.
    pub program: Option<PathBuf>,
    pub manifests: Manifests,
    pub haproxy: NamedTempFile,
    pub nginx: NamedTempFile,
    /// These two take no part in every bench.
    pub envoy: Option<Envoy>,
    pub nftables: Option<Nftables>,
    /// That a proxy opens.
    pub ports: &'static [u16],
    /// The one core that it gets; without one it gets all.
    pub core: Option<usize>,
}

impl State {
    /// A command on the gateway's node, on the core that it may use.
    fn command(&self, network: &Network, program: impl AsRef<OsStr>) -> Command {
        match self.core {
            None => network.gateway.command(program),
            Some(core) => {
                let mut command = network.gateway.command("taskset");
                command.args(["--cpu-list", &core.to_string()]).arg(program);
                command
            }
        }
    }

    fn envoy(&self) -> Result<&Envoy> {
        self.envoy.as_ref().context("Envoy takes no part in this bench, or was not installed")
    }
}

pub struct Envoy {
    pub program: PathBuf,
    /// By whose name it ends, Envoy knows what it is.
    pub configuration: NamedTempFile,
}

pub struct Nftables {
    rules: NamedTempFile,
    flowtable: NamedTempFile,
    /// Whether the kernel has nftables' flow tables.
    pub has_flowtable: bool,
}

impl Nftables {
    /// Finds out what the kernel has.
    pub fn new(network: &Network, rules: NamedTempFile, flowtable: NamedTempFile) -> Result<Nftables> {
        let mut nftables = Nftables { rules, flowtable, has_flowtable: false };
        let loaded = Rules::load(network, &nftables)?;
        let flowtable = format!("nft -f {}", nftables.flowtable.path().display());
        nftables.has_flowtable = network.gateway.run(&flowtable).is_ok();
        drop(loaded);
        Ok(nftables)
    }
}

/// A file with a configuration whose `{{name}}`s are replaced by values.
pub fn rendered(template: &str, values: &[(&str, String)], end: &str) -> Result<NamedTempFile> {
    let text =
        values.iter().fold(template.to_owned(), |text, (name, value)| text.replace(&format!("{{{{{name}}}}}"), value));
    if let Some((_, rest)) = text.split_once("{{") {
        bail!("nothing was put in for {{{{{} of a configuration", rest.lines().next().unwrap_or_default());
    }
    let file = tempfile::Builder::new().prefix("sluice-bench-").suffix(end).tempfile()?;
    std::fs::write(file.path(), text)?;
    Ok(file)
}

/// A contender in place.
pub enum Running<'n> {
    Nothing,
    Sluice(Sluice<'n>),
    Rules(#[expect(dead_code, reason = "held for what its drop does")] Rules<'n>),
    Proxy(Process),
}

impl Running<'_> {
    /// The process that stands for it, if there is one.
    pub fn pid(&self) -> Option<u32> {
        match self {
            Running::Nothing | Running::Rules(_) => None,
            Running::Sluice(sluice) => sluice.pid(),
            Running::Proxy(process) => Some(process.pid()),
        }
    }
}

/// Starts a proxy and waits until its ports are open.
fn proxy(network: &Network, contender: Contender, command: Command, ports: &[u16]) -> Result<Running<'static>> {
    const PATIENCE: Duration = Duration::from_secs(10);
    let is_open =
        |port: u16| Ok::<_, anyhow::Error>(!network.gateway.run(&format!("ss -Hltn sport = :{port}"))?.is_empty());
    for &port in ports {
        // The one before may take a moment to die, workers after their master.
        wait_for(
            "the ports to be free",
            PATIENCE,
            || if is_open(port)? { bail!("port {port} is open") } else { Ok(()) },
        )?;
    }
    let mut process = network.gateway.spawn(contender.name(), command)?;
    for &port in ports {
        wait_for("its ports", PATIENCE, || {
            if let Some(status) = process.ended()? {
                return Ok(Err(anyhow::anyhow!("it ended with {status}:\n{}", process.log())));
            }
            if is_open(port)? { Ok(Ok(())) } else { bail!("port {port} is closed:\n{}", process.log()) }
        })??;
    }
    Ok(Running::Proxy(process))
}

/// nftables' rules.
pub struct Rules<'n> {
    network: &'n Network,
}

impl<'n> Rules<'n> {
    fn load(network: &'n Network, nftables: &Nftables) -> Result<Rules<'n>> {
        // A port that a client uses again is free after a second at its end, so it need not stay here for two minutes.
        network.gateway.sysctl(&[("netfilter/nf_conntrack_tcp_timeout_time_wait", "10")])?;
        network.gateway.run(&format!("nft -f {}", nftables.rules.path().display()))?;
        let rules = Rules { network };
        if nftables.has_flowtable {
            network.gateway.run(&format!("nft -f {}", nftables.flowtable.path().display()))?;
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_configuration_has_all_its_values() {
        let values = [("port", "80".to_owned())];
        let file = rendered("listen {{port}} {{port}};", &values, ".conf").unwrap();
        assert_eq!(std::fs::read_to_string(file.path()).unwrap(), "listen 80 80;");
        assert!(rendered("listen {{address}};", &values, ".conf").is_err());
    }
}
