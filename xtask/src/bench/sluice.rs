//! Sluice as a contender: the agent with the manifests of two routes.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::time::Duration;

use super::interrupt;
use super::network::{BACKENDS, BULK_PORT, GATEWAY, PORT};
use anyhow::{Context, Result, ensure};
use gateway_tests::lab::{Endpoint, Manifests, Node, Process, gateway, route, service, slice, wait_for};

const ADMIN: &str = "127.0.0.1:9464";

/// The agent and what it has attached.
pub struct Sluice<'n> {
    node: &'n Node,
    program: &'n Path,
    process: Option<Process>,
}

impl<'n> Sluice<'n> {
    /// Starts the agent and waits until the manifests are in the maps.
    pub fn start(node: &'n Node, program: &'n Path, manifests: &Path) -> Result<Sluice<'n>> {
        let mut command = node.command(program);
        command.arg("run").arg("--manifests").arg(manifests).args(["--admin-address", ADMIN]);
        let mut sluice = Sluice { node, program, process: Some(node.spawn("sluice run", command)?) };
        sluice.wait().with_context(|| format!("its log:\n{}", sluice.log()))?;
        Ok(sluice)
    }

    /// What the agent has resident in memory, in MiB.
    pub fn memory(&self) -> Result<f64> {
        let pid = self.process.as_ref().context("it was not started")?.pid();
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).context("the agent has ended")?;
        resident(&status).context("/proc/PID/status has no VmRSS")
    }

    fn log(&self) -> String {
        self.process.as_ref().map(Process::log).unwrap_or_default()
    }

    fn wait(&mut self) -> Result<()> {
        let process = self.process.as_mut().context("it was not started")?;
        wait_for("the agent to be ready", Duration::from_secs(30), || {
            if let Some(status) = process.ended()? {
                return Ok(Err(anyhow::anyhow!("sluice run ended with {status}")));
            }
            self.node.enter(ready).map(Ok)
        })?
    }
}

/// Asks the agent in the network of the calling thread.
fn ready() -> Result<()> {
    let mut stream = TcpStream::connect(ADMIN)?;
    stream.set_read_timeout(Some(Duration::from_secs(1)))?;
    stream.write_all(b"GET /readyz HTTP/1.1\r\nHost: node\r\nConnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    ensure!(answer.starts_with("HTTP/1.1 200"), "/readyz says {}", answer.lines().next().unwrap_or("nothing"));
    Ok(())
}

/// MiB, from a process's status.
fn resident(status: &str) -> Option<f64> {
    let kib: f64 =
        status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib / 1024.0)
}

impl Drop for Sluice<'_> {
    fn drop(&mut self) {
        // The programs would stay attached without their agent, so that the next contender would run behind them.
        self.process = None;
        let gone = self.node.run(&format!("{} uninstall", self.program.display()));
        // After Ctrl-C the node may be gone already, and its programs with it.
        if let Err(error) = gone
            && !interrupt::came()
        {
            eprintln!("{error:#}");
        }
    }
}

/// Both ports of the bench, over TCP, and the first over UDP too.
pub fn manifests() -> Result<Manifests> {
    let manifests = Manifests::new()?;
    let endpoints = BACKENDS.map(|address| Endpoint::ready(address.into()));
    let listeners = [("tcp", "TCP", PORT), ("bulk", "TCP", BULK_PORT), ("udp", "UDP", PORT)];
    let mut documents = vec![gateway("bench", &[&GATEWAY.to_string()], &listeners)];
    for (name, protocol, port) in listeners {
        documents.push(route(&format!("{protocol}Route"), name, ("bench", name), &[(name, port, 1)]));
        documents.push(service(name, protocol, port));
        documents.push(slice(name, protocol, port, &endpoints));
    }
    manifests.write("bench.yaml", &documents)?;
    Ok(manifests)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resident_memory_is_read_in_mib() {
        assert_eq!(resident("Name:\tsluice\nVmRSS:\t   12288 kB\nThreads:\t3\n"), Some(12.0));
        assert_eq!(resident("Name:\tsluice\n"), None);
    }
}
