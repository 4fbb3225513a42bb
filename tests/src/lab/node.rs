//! A node: a network namespace and a mount namespace with its own bpffs, /sys and /run, held by a sleeping process.

use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::os::fd::AsFd;
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result, bail, ensure};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use super::process::{self, Process};

/// Prepares the node's own view of the file system, says so, and stays.
/// /sys comes first: it shows the interfaces of the network namespace that mounts it.
const HOLD: &str = "mount -t sysfs sysfs /sys && mount -t bpf bpf /sys/fs/bpf && mount -t tmpfs tmpfs /run \
                    && ip link set lo up && echo ready && exec sleep infinity";

/// Whether a node outlives the process that made it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Keep {
    /// The kernel kills what is in the node when the thread that made it ends.
    UntilDrop,
    /// It stays until somebody kills its holder: `cargo xtask lab`.
    Forever,
}

pub struct Node {
    name: String,
    pid: u32,
    keep: Keep,
    /// None for a node that an earlier process made.
    holder: Option<Child>,
    network: Network,
}

impl Node {
    pub fn new(name: &str, keep: Keep) -> Result<Node> {
        let mut command = process::launcher(keep);
        command.args(["unshare", "--net", "--mount", "--propagation", "private", "sh", "-c", HOLD]);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut holder = command.spawn().context("cannot start `unshare`; see `cargo xtask setup`")?;
        let mut ready = String::new();
        let stdout = holder.stdout.take().context("the holder has no output")?;
        BufReader::new(stdout).read_line(&mut ready)?;
        if ready.trim() != "ready" {
            let output = holder.wait_with_output()?;
            bail!("node {name} was not made (root is needed): {}", String::from_utf8_lossy(&output.stderr).trim_end());
        }
        let pid = holder.id();
        Ok(Node { name: name.to_owned(), pid, keep, network: Network::of(pid)?, holder: Some(holder) })
    }

    /// A node that is held by a process of an earlier run.
    pub fn adopt(name: &str, pid: u32) -> Result<Node> {
        Ok(Node { name: name.to_owned(), pid, keep: Keep::Forever, network: Network::of(pid)?, holder: None })
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    /// The process that holds the node's namespaces.
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// A command that will run in this node. It is killed when the calling thread ends, unless the node is kept.
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = process::launcher(self.keep);
        command
            .args(["nsenter", "--net", "--mount", "--root", "--target"])
            .arg(self.pid.to_string())
            .arg("--")
            .arg(program);
        command
    }

    /// Runs a command line (split at white space) to its end, for its standard output.
    pub fn run(&self, line: &str) -> Result<String> {
        let mut words = line.split_whitespace();
        let mut command = self.command(words.next().context("an empty command line")?);
        let output = command.args(words).stdin(Stdio::null()).output()?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        if !output.status.success() {
            let error = String::from_utf8_lossy(&output.stderr);
            bail!("`{line}` in {} ended with {}:\n{text}{}", self.name, output.status, error.trim_end());
        }
        Ok(text)
    }

    /// Runs lines of `ip` in one process.
    pub fn ip(&self, lines: &str) -> Result<()> {
        let lines: Vec<&str> = lines.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
        let mut command = self.command("ip");
        command.args(["-batch", "-"]).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child = command.spawn()?;
        child.stdin.take().context("ip has no input")?.write_all((lines.join("\n") + "\n").as_bytes())?;
        let output = child.wait_with_output()?;
        let error = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "ip in {} said {}\nto {lines:#?}", self.name, error.trim_end());
        Ok(())
    }

    /// Runs a closure on a thread of its own whose sockets belong to this node.
    pub fn enter<R: Send>(&self, work: impl FnOnce() -> R + Send) -> R {
        let joined = std::thread::scope(|scope| {
            let thread = || {
                self.network.join().unwrap_or_else(|error| panic!("node {}: {error:#}", self.name));
                work()
            };
            scope.spawn(thread).join()
        });
        joined.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }

    /// Runs a future on a thread of its own whose sockets belong to this node.
    pub fn block_on<F: Future<Output: Send>>(&self, make: impl FnOnce() -> F + Send) -> F::Output {
        self.enter(|| crate::client::block_on(make()))
    }

    /// A handle on the node's network for a thread that lives longer than a borrow.
    pub(super) fn network(&self) -> Result<Network> {
        Ok(Network(self.network.0.try_clone()?))
    }

    /// Starts a process that runs beside the caller.
    pub fn spawn(&self, name: &str, command: Command) -> Result<Process> {
        Process::start(&format!("{name} in {}", self.name), command, self.keep)
    }

    /// Sets kernel parameters below /proc/sys/net.
    pub fn sysctl(&self, settings: &[(&str, &str)]) -> Result<()> {
        self.enter(|| {
            for (name, value) in settings {
                std::fs::write(format!("/proc/sys/net/{name}"), value)
                    .with_context(|| format!("cannot set net/{name} to {value}"))?;
            }
            Ok(())
        })
    }

    /// Switches features of an interface, as `ethtool -K` names them.
    pub fn offload(&self, interface: &str, features: &[&str], on: bool) -> Result<()> {
        let state = if on { "on" } else { "off" };
        let switches: Vec<String> = features.iter().map(|feature| format!("{feature} {state}")).collect();
        self.run(&format!("ethtool -K {interface} {}", switches.join(" "))).map(drop)
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if self.keep == Keep::Forever {
            return;
        }
        if let Some(holder) = &mut self.holder {
            // The namespaces go with their last process.
            let _ = holder.kill();
            let _ = holder.wait();
        }
    }
}

/// A network namespace.
pub(super) struct Network(File);

impl Network {
    fn of(pid: u32) -> Result<Network> {
        let path = format!("/proc/{pid}/ns/net");
        File::open(&path).map(Network).with_context(|| format!("cannot open {path}"))
    }

    /// Moves the calling thread into it for good.
    pub(super) fn join(&self) -> Result<()> {
        move_into_link_name_space(self.0.as_fd(), Some(LinkNameSpaceType::Network)).context("cannot enter its network")
    }
}

/// A cable between two nodes; both ends are up.
pub fn veth(a: (&Node, &str), b: (&Node, &str)) -> Result<()> {
    let ((a, a_name), (b, b_name)) = (a, b);
    a.ip(&format!("link add {a_name} type veth peer name {b_name} netns {}\nlink set {a_name} up", b.pid()))?;
    b.ip(&format!("link set {b_name} up"))
}
