//! `cargo xtask lab`: the demo's network, kept for playing.

use std::io::Write;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use gateway_tests::lab::{Agent, Keep, Process, World};
use tempfile::TempDir;

use crate::build;
use crate::examples::Examples;
use crate::setup::{self, Part};

/// Which process holds which node, one a line: name, pid, inode of the network namespace. Then the manifests and the logs.
const STATE: &str = "/run/sluice-lab";
/// Begins the line of the folder with the manifests, which may be changed while the lab is up.
const EXAMPLES: &str = "examples";
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
    // The nodes have a /run of their own, and would not see one there.
    let folder = TempDir::with_prefix("sluice-lab-")?.keep();
    writeln!(state, "{EXAMPLES} {}", folder.display())?;
    let examples = Examples::new(&folder)?;
    examples.name_addresses(&world.client)?;
    let servers = examples.start_servers(&world, None)?;
    let mut agent = Agent::start(&world.gateway, &examples.manifests())?;
    let log = agent.process().log_path().to_owned();
    for log in servers.iter().map(Process::log_path).chain([log.as_path()]) {
        writeln!(state, "{LOG} {}", log.display())?;
    }
    println!(
        "The lab is up: client, gateway, pod-1, pod-2, remote; the agent reads {examples} and logs to {log}.\n\
         \n  cargo xtask lab enter client     then: curl http://198.18.50.1/ ; curl https://shop.example/ ; dig @198.18.50.1 whoami.example TXT +short\n  \
         cargo xtask lab enter gateway    then: {sluice} status ; {sluice} maps sni ; bpftool map dump pinned /sys/fs/bpf/sluice/SNI\n  \
         cargo xtask lab down",
        examples = examples.manifests().display(),
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
        if let Some(examples) = examples()? {
            let _ = std::fs::remove_dir_all(examples);
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
    if let Some(examples) = examples()? {
        let ca = examples.join("ca.pem");
        nsenter.env("CURL_CA_BUNDLE", &ca).env("SSL_CERT_FILE", &ca);
    }
    let status = nsenter.status().context("cannot start nsenter")?;
    std::process::exit(status.code().unwrap_or(1));
}

/// Sets up and builds what a lab runs.
pub fn prepare() -> Result<build::Built> {
    setup::ensure(&[Part::Lab, Part::Clients])?;
    build::sluice(false)
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

/// The folder with the manifests.
fn examples() -> Result<Option<PathBuf>> {
    let text = std::fs::read_to_string(STATE).with_context(|| format!("cannot read {STATE}"))?;
    Ok(text.lines().find_map(|line| line.strip_prefix(EXAMPLES)).map(|path| PathBuf::from(path.trim_start())))
}

/// Which network namespace a process is in.
fn inode(pid: u32) -> Option<u64> {
    let path: PathBuf = format!("/proc/{pid}/ns/net").into();
    std::fs::metadata(path).ok().map(|metadata| metadata.ino())
}
