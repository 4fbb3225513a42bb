//! `cargo xtask lab`: the demo's network, kept for playing.

use std::io::Write;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use gateway_tests::lab::{Agent, Keep, Node, Process, World, binary, wait_for};

use crate::build;
use crate::setup::{self, Part};
use crate::shell;

/// Which process holds which node, one a line: name, pid, inode of the network namespace. Then the logs.
const STATE: &str = "/run/sluice-lab";
/// Begins the line of a log.
const LOG: &str = "log";

/// Lays the network and starts the servers and the agent in it.
pub fn up() -> Result<()> {
    ensure!(setup::is_root(), "network namespaces need root: run `sudo cargo xtask lab up`");
    ensure!(held()?.is_empty(), "the lab is already up; `cargo xtask lab down` ends it");
    let built = prepare()?;
    let world = World::new(Keep::Forever)?;
    let mut state = std::fs::File::create(STATE).with_context(|| format!("cannot write {STATE}"))?;
    for node in world.nodes() {
        writeln!(state, "{} {} {}", node.name(), node.pid(), inode(node.pid()).context("a node has died")?)?;
    }
    let servers = start_servers(&world, None)?;
    let examples = shell::root().join("deploy/examples");
    let mut agent = Agent::start(&world.gateway, &examples)?;
    let log = agent.process().log_path().to_owned();
    for log in servers.iter().map(Process::log_path).chain([log.as_path()]) {
        writeln!(state, "{LOG} {}", log.display())?;
    }
    println!(
        "The lab is up: client, gateway, pod-1, pod-2, remote; the agent reads {examples} and logs to {log}.\n\
         \n  cargo xtask lab enter client     then: curl http://198.18.50.1/ ; dig @198.18.50.1 whoami.example TXT +short\n  \
         cargo xtask lab enter gateway    then: {sluice} status ; bpftool map dump pinned /sys/fs/bpf/sluice/LISTENERS\n  \
         cargo xtask lab down",
        examples = examples.display(),
        log = log.display(),
        sluice = built.sluice.display()
    );
    Ok(())
}

/// Ends everything that runs in the lab's nodes.
pub fn down() -> Result<()> {
    let nodes = held()?;
    if nodes.is_empty() {
        println!("the lab is not up");
    }
    // Only what runs in a namespace that we made.
    for process in std::fs::read_dir("/proc")?.flatten() {
        let Some(pid) = process.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else { continue };
        if nodes.iter().any(|node| inode(pid) == Some(node.inode)) {
            let _ = Command::new("kill").args(["-KILL", &pid.to_string()]).status();
        }
    }
    if Path::new(STATE).exists() {
        for log in std::fs::read_to_string(STATE)?.lines().filter_map(|line| line.strip_prefix(LOG)) {
            // Somebody may have tidied up already.
            let _ = std::fs::remove_file(log.trim_start());
        }
        std::fs::remove_file(STATE).with_context(|| format!("cannot remove {STATE}"))?;
    }
    Ok(())
}

/// A shell in a node, or a command.
pub fn enter(node: &str, command: &[String]) -> Result<()> {
    let nodes = held()?;
    let Some(held) = nodes.iter().find(|held| held.name == node) else {
        let names: Vec<&str> = nodes.iter().map(|held| held.name.as_str()).collect();
        bail!("the lab has no node {node:?}; it has: {} (`cargo xtask lab up` makes it)", names.join(", "));
    };
    let mut nsenter = Command::new("nsenter");
    nsenter.args(["--net", "--mount", "--root", "--target", &held.pid.to_string(), "--"]);
    if command.is_empty() {
        nsenter.args(["sh", "-i"]).env("PS1", format!("{node}# "));
    } else {
        nsenter.args(command);
    }
    let status = nsenter.status().context("cannot start nsenter")?;
    std::process::exit(status.code().unwrap_or(1));
}

/// Sets up and builds what a lab runs.
pub fn prepare() -> Result<build::Built> {
    setup::ensure(&[Part::Lab])?;
    build::sluice(false)
}

/// The servers that deploy/examples is about: TCP on 8080 everywhere, DNS on the pods.
pub fn start_servers(world: &World, file: Option<&Path>) -> Result<Vec<Process>> {
    let nodes: [&Node; 3] = [&world.pods[0], &world.pods[1], &world.remote];
    let server = |node: &Node| -> Result<Process> {
        let mut command = node.command(binary("lab-server")?);
        command.arg(node.name()).args(["--tcp", "8080", "--dns", "5353"]);
        if let Some(file) = file {
            command.arg("--file").arg(file);
        }
        node.spawn("lab-server", command)
    };
    let mut servers = nodes.into_iter().map(server).collect::<Result<Vec<Process>>>()?;
    for server in &mut servers {
        wait_for("a lab-server to be ready", Duration::from_secs(5), || match server.ended()? {
            Some(status) => Ok(Err(anyhow::anyhow!("it ended with {status}: {}", server.log()))),
            None => server.log().contains("ready").then_some(Ok(())).context("it says nothing"),
        })??;
    }
    Ok(servers)
}

struct Held {
    name: String,
    pid: u32,
    inode: u64,
}

/// The nodes of a lab that is up.
fn held() -> Result<Vec<Held>> {
    if !Path::new(STATE).exists() {
        return Ok(Vec::new());
    }
    let text = std::fs::read_to_string(STATE).with_context(|| format!("cannot read {STATE}"))?;
    let parse = |line: &str| {
        let mut words = line.split(' ');
        let held = Held {
            name: words.next()?.to_owned(),
            pid: words.next()?.parse().ok()?,
            inode: words.next()?.parse().ok()?,
        };
        // The pid may be somebody else's by now.
        (inode(held.pid) == Some(held.inode)).then_some(held)
    };
    Ok(text.lines().filter_map(parse).collect())
}

/// Which network namespace a process is in.
fn inode(pid: u32) -> Option<u64> {
    let path: PathBuf = format!("/proc/{pid}/ns/net").into();
    std::fs::metadata(path).ok().map(|metadata| metadata.ino())
}
