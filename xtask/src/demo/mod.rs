//! `cargo xtask demo`: real TCP, UDP, TLS and HTTP traffic through the gateway, in network namespaces of its own.

mod client;
mod http;
mod passthrough;

use std::io::{IsTerminal, Read, Write};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use gateway_tests::client::split_tcp;
use gateway_tests::lab::{Agent, Keep, World, address, wait_for};
use tabled::settings::Style;
use tabled::{Table, Tabled};
use tempfile::TempDir;

use crate::examples::Examples;
use crate::shell::Step;
use crate::{lab, setup, shell};

const CONNECTIONS: usize = 2_000;
const DOWNLOAD: usize = 50_000_000;
/// So that the download that the weights change under takes a while, in bytes a second.
const SLOW: &str = "12M";

pub fn run() -> Result<()> {
    ensure!(setup::is_root(), "network namespaces and eBPF need root: run `sudo cargo xtask demo`");
    lab::prepare()?;
    let begun = Instant::now();
    let files = Files::new()?;

    let world = step("a client, a gateway node with two pods, a remote host", || World::new(Keep::UntilDrop))?;
    let _servers = step("servers in the pods and on the remote host", || {
        files.examples.start_servers(&world, Some(&files.path("file")))
    })?;
    let agent =
        step("sluice run --manifests deploy/examples", || Agent::start(&world.gateway, &files.examples.manifests()))?;

    title("TCP: who answers, and whom does it see?");
    for url in ["http://198.18.50.1/", "http://[2001:db8:50::1]/"] {
        typed(&world, &["curl", "-sS", "-g", url])?;
    }
    note(&format!(
        "The client is {} and {}. A pod on the gateway's node sees the client itself, the remote host sees the node.",
        address::CLIENT[0],
        address::CLIENT[1]
    ));

    title("UDP: a DNS query");
    typed(&world, &["dig", "@198.18.50.1", "whoami.example", "TXT", "+short", "+tries=1"])?;
    typed(&world, &["dig", "@2001:db8:50::1", "whoami.example", "TXT", "+short", "+tries=1"])?;

    title("A download of 50 MB");
    let wanted = sha256(&files.path("file"))?;
    let begun_download = Instant::now();
    Download::start(&world, &files.path("fast"), None)?.finish(&wanted)?;
    let seconds = begun_download.elapsed().as_secs_f64();
    note(&format!("{:.2} Gbit/s, sha256 {wanted} as it should be", DOWNLOAD as f64 * 8e-9 / seconds));

    title("Weights 90/10, then 50/50 while a download runs");
    let mut download = Download::start(&world, &files.path("slow"), Some(SLOW))?;
    let mut rows = measure(&world, "90 / 10", [90, 10])?;
    let milliseconds = files.set_weights(50, 50, &agent)?.as_millis();
    rows.extend(measure(&world, "50 / 50", [50, 50])?);
    ensure!(download.runs()?, "the download was over before the weights had changed: nothing is shown");
    println!("{}", Table::new(rows).with(Style::sharp()));
    note(&format!("The new weights were in force at most {milliseconds} ms after the file had changed."));
    download.finish(&wanted)?;
    note("The download that ran meanwhile came whole: its sha256 is right.");

    passthrough::show(&world, &agent, &files.examples)?;
    http::show(&world, &files.examples)?;

    title("sluice status");
    print!("{}", agent.sluice("status")?);
    title("bpftool map dump pinned /sys/fs/bpf/sluice/LISTENERS (one entry)");
    let dump = world.gateway.run("bpftool map dump pinned /sys/fs/bpf/sluice/LISTENERS")?;
    print!("{}", entry_with(&dump, "\"port\": 443,")?);

    drop(agent);
    drop(world);
    println!();
    note(&format!("Everything is cleaned up. The demo took {:.0} s.", begun.elapsed().as_secs_f64()));
    Ok(())
}

/// The manifests, which the demo changes, and the file to download.
struct Files {
    folder: TempDir,
    examples: Examples,
}

impl Files {
    fn new() -> Result<Files> {
        let folder = TempDir::with_prefix("sluice-demo-")?;
        let files = Files { examples: Examples::new(folder.path())?, folder };
        let mut random = vec![0; DOWNLOAD];
        std::fs::File::open("/dev/urandom")?.read_exact(&mut random)?;
        std::fs::write(files.path("file"), random)?;
        Ok(files)
    }

    fn path(&self, name: &str) -> std::path::PathBuf {
        self.folder.path().join(name)
    }

    /// Changes web.yaml by renaming a new one into place; how long it took until the agent said that it has applied it.
    fn set_weights(&self, stable: u32, canary: u32, agent: &Agent) -> Result<Duration> {
        let path = self.path("manifests/web.yaml");
        let old = std::fs::read_to_string(&path)?;
        let new = old.replace("weight: 90", &format!("weight: {stable}"));
        let new = new.replace("weight: 10", &format!("weight: {canary}"));
        ensure!(new != old, "web.yaml has no weights 90 and 10 to change");
        let beside = self.path("web.yaml.new");
        std::fs::write(&beside, new)?;
        let applied = || agent.metric("sluice_apply_duration_seconds_count", &[]);
        let before = applied()?;
        let begun = Instant::now();
        std::fs::rename(beside, path)?;
        wait_for("the agent to apply the weights", Duration::from_secs(5), || match applied()? > before {
            true => Ok(begun.elapsed()),
            false => bail!("it has not"),
        })
    }
}

#[derive(Tabled)]
struct Row {
    weights: &'static str,
    backend: &'static str,
    #[tabled(rename = "wanted %")]
    wanted: String,
    #[tabled(rename = "measured %")]
    measured: String,
    connections: usize,
}

/// Opens the connections and compares who answered with the weights.
fn measure(world: &World, weights: &'static str, wanted: [u32; 2]) -> Result<Vec<Row>> {
    let split = split_tcp(&world.client, SocketAddr::new(address::GATEWAY[0], 80), CONNECTIONS);
    let answers = |names: &[&str]| -> usize { names.iter().filter_map(|name| split.get(*name)).sum() };
    let counts = [answers(&["pod-1", "pod-2"]), answers(&["remote"])];
    ensure!(
        counts.iter().sum::<usize>() == CONNECTIONS,
        "not all of {CONNECTIONS} connections were answered: {split:?}"
    );
    let percent = |count: usize| 100.0 * count as f64 / CONNECTIONS as f64;
    for (count, wanted) in counts.iter().zip(wanted) {
        // Five standard deviations of a fair draw.
        let share = f64::from(wanted) / 100.0;
        let tolerance = 500.0 * (share * (1.0 - share) / CONNECTIONS as f64).sqrt();
        let measured = percent(*count);
        ensure!(
            (measured - f64::from(wanted)).abs() <= tolerance,
            "wanted {wanted} %, measured {measured:.1} %: {split:?}"
        );
    }
    let rows = ["web-stable", "web-canary"].into_iter().zip(wanted).zip(counts);
    Ok(rows
        .map(|((backend, wanted), connections)| Row {
            weights,
            backend,
            wanted: format!("{wanted}.0"),
            measured: format!("{:.1}", percent(connections)),
            connections,
        })
        .collect())
}

/// curl in the client, fetching the file through the gateway.
struct Download {
    curl: Child,
    to: std::path::PathBuf,
}

impl Download {
    fn start(world: &World, to: &Path, limit: Option<&str>) -> Result<Download> {
        let mut curl = world.client.command("curl");
        curl.args(["-sS", "--fail", "--max-time", "30", "http://198.18.50.1/file", "--output"]).arg(to);
        if let Some(limit) = limit {
            curl.args(["--limit-rate", limit]);
        }
        let curl = curl.stdin(Stdio::null()).spawn().context("cannot start curl")?;
        Ok(Download { curl, to: to.to_owned() })
    }

    fn runs(&mut self) -> Result<bool> {
        Ok(self.curl.try_wait()?.is_none())
    }

    fn finish(mut self, wanted: &str) -> Result<()> {
        let status = self.curl.wait()?;
        ensure!(status.success(), "the download failed: curl ended with {status}");
        let got = sha256(&self.to)?;
        ensure!(got == wanted, "the download came with sha256 {got}, not {wanted}");
        Ok(())
    }
}

fn sha256(path: &Path) -> Result<String> {
    let line = shell::output(shell::command("sha256sum").arg(path))?;
    line.split(' ').next().map(str::to_owned).context("sha256sum said nothing")
}

/// Shows a command of the client and what it says.
fn typed(world: &World, words: &[&str]) -> Result<()> {
    println!("client# {}", words.join(" "));
    let text = world.client.run(&words.join(" "))?;
    if text.trim().is_empty() {
        bail!("`{}` said nothing", words.join(" "));
    }
    print!("{text}");
    std::io::stdout().flush()?;
    Ok(())
}

/// The first entry of what bpftool shows that contains something.
fn entry_with(dump: &str, what: &str) -> Result<String> {
    let entry = dump.split("    },{\n").find(|entry| entry.contains(what));
    let entry = entry.with_context(|| format!("bpftool shows no entry with {what}:\n{dump}"))?;
    let lines = entry.lines().map(|line| line.trim_start_matches("[{")).filter(|line| line.starts_with("     "));
    Ok(lines.map(|line| format!("{}\n", line.strip_prefix("    ").unwrap_or(line))).collect())
}

fn step<T>(what: &str, work: impl FnOnce() -> Result<T>) -> Result<T> {
    let step = Step::begin(what);
    let result = work();
    step.end(&result);
    result
}

fn title(text: &str) {
    match std::io::stdout().is_terminal() {
        true => println!("\n\x1b[1m{text}\x1b[0m"),
        false => println!("\n{text}"),
    }
}

fn note(text: &str) {
    println!("→ {text}");
}
