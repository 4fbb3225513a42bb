//! The agent as a real process on a node.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::node::Node;
use super::process::Process;
use super::wait::wait_for;
use super::world::address;

/// Where the agent of a node serves /metrics, /healthz and /readyz: the node's own loopback.
const ADMIN: &str = "127.0.0.1:9464";

/// A running `sluice run`.
pub struct Agent<'n> {
    node: &'n Node,
    process: Process,
}

impl<'n> Agent<'n> {
    /// Starts it and waits until the manifests are in the maps.
    pub fn start(node: &'n Node, manifests: &Path) -> Result<Agent<'n>> {
        Agent::start_with(node, manifests, &[])
    }

    /// The same with more options.
    pub fn start_with(node: &'n Node, manifests: &Path, options: &[&str]) -> Result<Agent<'n>> {
        let mut agent = Agent::launch(node, manifests, options)?;
        agent.ready()?;
        Ok(agent)
    }

    /// The same with more variables in its environment.
    pub fn start_in(
        node: &'n Node,
        manifests: &Path,
        options: &[&str],
        environment: &[(&str, &OsStr)],
    ) -> Result<Agent<'n>> {
        let mut agent = Agent::spawn(node, manifests, options, environment)?;
        agent.ready()?;
        Ok(agent)
    }

    /// Starts it and does not wait.
    pub fn launch(node: &'n Node, manifests: &Path, options: &[&str]) -> Result<Agent<'n>> {
        Agent::spawn(node, manifests, options, &[])
    }

    fn spawn(node: &'n Node, manifests: &Path, options: &[&str], environment: &[(&str, &OsStr)]) -> Result<Agent<'n>> {
        let mut command = node.command(binary("sluice")?);
        command.envs(environment.iter().copied());
        command.arg("run").arg("--manifests").arg(manifests);
        command.args(["--node-name", address::NODE_NAME, "--admin-address", ADMIN]).args(options);
        Ok(Agent { node, process: node.spawn("sluice run", command)? })
    }

    /// Waits until it is ready.
    pub fn ready(&mut self) -> Result<()> {
        let waited = wait_for("the agent to be ready", Duration::from_secs(15), || {
            if let Some(status) = self.process.ended()? {
                return Ok(Err(anyhow::anyhow!("sluice run ended with {status}")));
            }
            self.node.run(&format!("curl -sS --fail http://{ADMIN}/readyz")).map(Ok)
        });
        waited.and_then(|answer| answer.map(drop)).with_context(|| format!("its log:\n{}", self.process.log()))
    }

    /// Runs another `sluice` command on the agent's node, for its standard output.
    pub fn sluice(&self, arguments: &str) -> Result<String> {
        sluice(self.node, arguments)
    }

    /// The body of a page of the admin server.
    pub fn page(&self, path: &str) -> Result<String> {
        self.node.run(&format!("curl -sS --fail http://{ADMIN}{path}"))
    }

    /// The sum of a metric over all label sets that contain `labels`.
    pub fn metric(&self, name: &str, labels: &[&str]) -> Result<f64> {
        let page = self.page("/metrics")?;
        let lines = page.lines().filter(|line| {
            let end = line.find(['{', ' ']).unwrap_or(line.len());
            line[..end] == *name && labels.iter().all(|label| line.contains(label))
        });
        let values: Vec<f64> = lines.filter_map(|line| line.rsplit(' ').next()?.parse().ok()).collect();
        ensure!(!values.is_empty(), "no metric {name} with {labels:?} in:\n{page}");
        Ok(values.iter().sum())
    }

    /// Its resident memory.
    pub fn resident_kib(&self) -> Result<u64> {
        self.status_kib("VmRSS:")
    }

    /// Of that, what is not of its file: a debug build has much of that, which it reads as it comes to it.
    pub fn anonymous_kib(&self) -> Result<u64> {
        self.status_kib("RssAnon:")
    }

    fn status_kib(&self, field: &str) -> Result<u64> {
        let status =
            std::fs::read_to_string(format!("/proc/{}/status", self.process.pid())).context("the agent has ended")?;
        let line = status.lines().find_map(|line| line.strip_prefix(field));
        let text = line.with_context(|| format!("/proc/PID/status has no {field}"))?;
        text.trim().trim_end_matches(" kB").parse().with_context(|| format!("{field} is no number"))
    }

    pub fn process(&mut self) -> &mut Process {
        &mut self.process
    }

    /// Kills it with SIGKILL: it has no chance to clean up.
    pub fn kill(self) -> Result<()> {
        self.process.kill()
    }
}

/// Runs a `sluice` command on a node, for its standard output.
pub fn sluice(node: &Node, arguments: &str) -> Result<String> {
    node.run(&format!("{} {arguments}", binary("sluice")?.display()))
}

/// A binary of this workspace: it lies beside the program that runs, or above it if that is a test.
pub fn binary(name: &str) -> Result<PathBuf> {
    let this = std::env::current_exe()?;
    let folder = this.parent().context("this program is in no folder")?;
    let folder = if folder.ends_with("deps") { folder.join("..") } else { folder.to_owned() };
    let path = folder.join(name);
    ensure!(path.is_file(), "{} is missing; `cargo xtask test` and `cargo xtask demo` build it", path.display());
    Ok(path)
}
