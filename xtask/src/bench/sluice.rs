//! Sluice as a contender: the agent with its manifests.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use gateway_tests::lab::{Node, Process, wait_for};

use super::{interrupt, memory};

const ADMIN: &str = "127.0.0.1:9464";

/// The agent and what it has attached.
pub struct Sluice<'n> {
    node: &'n Node,
    program: &'n Path,
    process: Option<Process>,
}

impl<'n> Sluice<'n> {
    /// Starts the agent and waits until the manifests are in the maps. `command`: the program on the node, before its arguments.
    pub fn start(node: &'n Node, program: &'n Path, mut command: Command, manifests: &Path) -> Result<Sluice<'n>> {
        command.arg("run").arg("--manifests").arg(manifests).args(["--admin-address", ADMIN]);
        let mut sluice = Sluice { node, program, process: Some(node.spawn("sluice run", command)?) };
        sluice.wait().with_context(|| format!("its log:\n{}", sluice.log()))?;
        Ok(sluice)
    }

    /// The agent.
    pub fn pid(&self) -> Option<u32> {
        self.process.as_ref().map(Process::pid)
    }

    /// What the agent has resident in memory, in MiB.
    pub fn memory(&self) -> Result<f64> {
        let kib = memory::resident(self.pid().context("it was not started")?)?;
        Ok(kib / 1024.0)
    }

    fn log(&self) -> String {
        self.process.as_ref().map(Process::log).unwrap_or_default()
    }

    fn wait(&mut self) -> Result<()> {
        let process = self.process.as_mut().context("it was not started")?;
        wait_for("the agent to be ready", Duration::from_secs(60), || {
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
