//! What is done to each contender, and what it gives.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use clap::ValueEnum;
use serde_json::{Value, json};

use super::super::contender::Contender;
use super::super::network::{GATEWAY, Network};
use super::super::stats::Measure;
use super::place::{CORE, FEW, GRPC_PORT, MANY, NAME, PORT, TLS_PORT};

pub const REQUESTS_PER_SECOND: Measure = Measure::new("requests_per_second", "1/s");
/// Of the gateway's core: user, system and interrupts.
pub const CPU_S: Measure = Measure::new("cpu_s_per_100000_requests", "s");
pub const LATENCY_P50: Measure = Measure::new("latency_us_p50", "µs");
pub const LATENCY_P99: Measure = Measure::new("latency_us_p99", "µs");
pub const LATENCY_P999: Measure = Measure::new("latency_us_p99.9", "µs");

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Scenario {
    /// HTTP/1.1, 64 connections, answers of 1 KiB.
    Small,
    /// The same with answers of 100 KiB.
    Large,
    /// A connection a request, 64 at a time.
    Connections,
    /// A TLS connection a request, full handshakes with ECDSA P-256, 8 at a time.
    Handshakes,
    /// The same, resumed.
    Resumed,
    /// HTTP/1.1 over TLS, 64 connections, answers of 1 KiB.
    Https,
    /// HTTP/2 over TLS, 4 connections with 100 streams each.
    H2,
    /// Unary calls over HTTP/2 in the clear, 4 connections with 100 streams each.
    Grpc,
    /// HTTP/1.1 to 10 routes by path.
    FewRoutes,
    /// To 10,000.
    ManyRoutes,
    /// At a fixed rate, half of what the slowest contender can do.
    Latency,
}

/// A scenario that goes as fast as it can.
pub struct Load {
    pub scenario: Scenario,
    pub name: &'static str,
    pub routes: usize,
    tool: Tool,
}

enum Tool {
    /// Path and further options; `https`.
    Wrk(&'static str, &'static [&'static str], bool),
    Routes,
    H2load(&'static str, &'static [&'static str]),
    TlsRequests(bool),
}

pub const LATENCY: &str = "HTTP/1.1, 1 KiB, at a fixed rate";

pub const LOADS: &[Load] = &[
    load(Scenario::Small, "HTTP/1.1, 1 KiB", Tool::Wrk("/small", &[], false)),
    load(Scenario::Large, "HTTP/1.1, 100 KiB", Tool::Wrk("/large", &[], false)),
    load(Scenario::Connections, "new connections", Tool::Wrk("/small", &["-H", "Connection: close"], false)),
    load(Scenario::Handshakes, "new TLS connections", Tool::TlsRequests(false)),
    load(Scenario::Resumed, "new TLS connections, resumed", Tool::TlsRequests(true)),
    load(Scenario::Https, "HTTPS, 1 KiB", Tool::Wrk("/small", &[], true)),
    load(Scenario::H2, "HTTP/2 over TLS, 1 KiB", Tool::H2load("https://{}:{tls}/small", &[])),
    load(
        Scenario::Grpc,
        "gRPC, unary",
        Tool::H2load(
            "http://{}:{grpc}/bench.Echo/Unary",
            &["-H", "content-type: application/grpc", "-H", "te: trailers"],
        ),
    ),
    load(Scenario::FewRoutes, "10 routes", Tool::Routes),
    Load { scenario: Scenario::ManyRoutes, name: "10,000 routes", routes: MANY, tool: Tool::Routes },
];

const fn load(scenario: Scenario, name: &'static str, tool: Tool) -> Load {
    Load { scenario, name, routes: FEW, tool }
}

/// What loads need to run.
pub struct Gear<'a> {
    pub network: &'a Network,
    /// PEM of the authority.
    pub ca: &'a Path,
    /// `routes.lua`.
    pub script: &'a Path,
    /// A gRPC message.
    pub message: &'a Path,
    pub seconds: u32,
}

/// Reads the report of a tool.
type Count = fn(&str) -> Result<Counted>;

impl Load {
    /// Runs it once; the report is in the words of `bench-load`.
    pub fn run(&self, gear: &Gear, contender: Contender) -> Result<Value> {
        let host = contender.targets(PORT, PORT).first().map_or(GATEWAY, |target| *target.ip());
        let seconds = gear.seconds.to_string();
        let (command, count): (Vec<String>, Count) = match &self.tool {
            Tool::Wrk(path, options, https) => {
                let url = match https {
                    true => format!("https://{host}:{TLS_PORT}{path}"),
                    false => format!("http://{host}:{PORT}{path}"),
                };
                let mut command = wrk(&seconds);
                command.extend(options.iter().map(|option| (*option).to_owned()));
                command.push(url);
                (command, of_wrk)
            }
            Tool::Routes => {
                let mut command = wrk(&seconds);
                command.extend(["-s".to_owned(), gear.script.display().to_string(), format!("http://{host}:{PORT}/")]);
                command.extend(["--".to_owned(), self.routes.to_string()]);
                (command, of_wrk)
            }
            Tool::H2load(url, options) => {
                let url = url.replacen("{}", &host.to_string(), 1);
                let url = url.replace("{tls}", &TLS_PORT.to_string()).replace("{grpc}", &GRPC_PORT.to_string());
                let mut command = words(&["h2load", "-t", "1", "-c", "4", "-m", "100", "-D", &seconds]);
                if self.scenario == Scenario::Grpc {
                    command.extend(["-d".to_owned(), gear.message.display().to_string()]);
                }
                command.extend(options.iter().map(|option| (*option).to_owned()));
                command.push(url);
                (command, of_h2load)
            }
            Tool::TlsRequests(resume) => {
                let program = gear.network.load_program().display().to_string();
                let target = format!("{host}:{TLS_PORT}");
                let (ca, milliseconds) = (gear.ca.display().to_string(), (gear.seconds * 1000).to_string());
                let mut command =
                    words(&[&program, "tls-requests", "--targets", &target, "--name", NAME, "--path", "/small"]);
                command.extend(words(&["--ca", &ca, "--warm-up-ms", "0", "--measure-ms", &milliseconds]));
                if *resume {
                    command.push("--resume".to_owned());
                }
                (command, of_ours)
            }
        };
        let mut report = gear.network.around(CORE, &command)?;
        let said = report["said"].as_str().unwrap_or_default().to_owned();
        let counted = count(&said).with_context(|| format!("{} said:\n{said}", command.join(" ")))?;
        report["units"] = json!(counted.units);
        report["failed"] = json!(counted.failed);
        report["failure"] = json!(counted.failure);
        Ok(report)
    }

    /// What a report of the load says in our words.
    pub fn values(&self, report: &Value) -> Result<Vec<(Measure, f64)>> {
        let (units, seconds) = (number(report, "units")?, number(report, "seconds")?);
        let busy = number(report, "core_seconds")?;
        Ok(vec![(REQUESTS_PER_SECOND, units / seconds), (CPU_S, busy / units * 1e5)])
    }
}

/// 1 KiB at so many requests a second: latencies in microseconds.
pub fn at_rate(gear: &Gear, contender: Contender, rate: f64, log: &Path) -> Result<(Value, Vec<u32>)> {
    const CLIENTS: u32 = 32;
    let host = contender.targets(PORT, PORT).first().map_or(GATEWAY, |target| *target.ip());
    // h2load begins a log anew only where there is none.
    let _ = std::fs::remove_file(log);
    let (clients, seconds, each) =
        (CLIENTS.to_string(), (gear.seconds * 2).to_string(), (rate / f64::from(CLIENTS)).round().max(1.0).to_string());
    let log_option = format!("--log-file={}", log.display());
    let url = format!("http://{host}:{PORT}/small");
    let command = ["h2load", "--h1", "-t", "1", "-c", &clients, "-D", &seconds, "--rps", &each, &log_option, &url];
    let mut report = gear.network.around(CORE, &words(&command))?;
    let said = report["said"].as_str().unwrap_or_default().to_owned();
    let counted = of_h2load(&said).with_context(|| format!("{} said:\n{said}", command.join(" ")))?;
    report["units"] = json!(counted.units);
    report["failed"] = json!(counted.failed);
    let text = std::fs::read_to_string(log).context("h2load left no log")?;
    // Start, status and duration of a request a line, the times in microseconds.
    let mut latencies: Vec<u32> =
        text.lines().filter_map(|line| line.split('\t').nth(2)?.trim().parse().ok()).collect();
    ensure!(!latencies.is_empty(), "h2load's log says nothing of latencies");
    latencies.sort_unstable();
    Ok((report, latencies))
}

struct Counted {
    units: f64,
    failed: f64,
    failure: Option<String>,
}

fn words(words: &[&str]) -> Vec<String> {
    words.iter().map(|word| (*word).to_owned()).collect()
}

fn wrk(seconds: &str) -> Vec<String> {
    words(&["wrk", "-t", "1", "-c", "64", "-d", &format!("{seconds}s")])
}

/// `  12345 requests in 2.00s, 14.1MB read`, and where something went wrong a line that says so.
fn of_wrk(said: &str) -> Result<Counted> {
    let lines = || said.lines().map(str::trim);
    let requests = lines().find_map(|line| line.split_once(" requests in ")).context("no number of requests")?;
    let units: f64 = requests.0.parse()?;
    let wrong = lines().find(|line| line.starts_with("Non-2xx"));
    let failed = match wrong.and_then(|line| line.rsplit_once(": ")) {
        Some((_, count)) => count.parse()?,
        None => 0.0,
    };
    let broken = lines().find(|line| line.starts_with("Socket errors:"));
    let broken_count: f64 =
        broken.map_or(0.0, |line| line.split([' ', ',']).filter_map(|word| word.parse::<f64>().ok()).sum());
    Ok(Counted { units: units - failed, failed: failed + broken_count, failure: wrong.or(broken).map(str::to_owned) })
}

/// `requests: 100 total, 100 started, 100 done, 99 succeeded, 1 failed, 0 errored, 0 timeout`.
fn of_h2load(said: &str) -> Result<Counted> {
    let line = said.lines().find(|line| line.starts_with("requests: ")).context("no number of requests")?;
    let of = |what: &str| -> Result<f64> {
        let mut words = line.split([' ', ',']).filter(|word| !word.is_empty()).collect::<Vec<_>>().into_iter().rev();
        words.find(|word| *word == what).with_context(|| format!("nothing of {what}"))?;
        Ok(words.next().context("no number")?.parse()?)
    };
    let (units, failed) = (of("succeeded")?, of("failed")?);
    Ok(Counted { units, failed, failure: (failed > 0.0).then(|| line.to_owned()) })
}

fn of_ours(said: &str) -> Result<Counted> {
    let report: Value = serde_json::from_str(said)?;
    let failure = report["failure"].as_str().map(str::to_owned);
    Ok(Counted { units: number(&report, "units")?, failed: number(&report, "failed")?, failure })
}

fn number(report: &Value, name: &str) -> Result<f64> {
    report[name].as_f64().with_context(|| format!("the load reports no {name}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_load_generators_say_is_understood() {
        let fine = of_wrk("Running 2s test\n  12345 requests in 2.00s, 14.1MB read\nRequests/sec: 6172\n").unwrap();
        assert_eq!((fine.units, fine.failed), (12345.0, 0.0));
        let wrong = "  100 requests in 2.00s, 14.1MB read\n  Socket errors: connect 1, read 2, write 3, timeout 4\n  Non-2xx or 3xx responses: 7\n";
        let wrong = of_wrk(wrong).unwrap();
        assert_eq!((wrong.units, wrong.failed), (93.0, 17.0));
        let said = "requests: 100 total, 100 started, 99 done, 98 succeeded, 2 failed, 1 errored, 0 timeout\n";
        let counted = of_h2load(said).unwrap();
        assert_eq!((counted.units, counted.failed), (98.0, 2.0));
    }
}
