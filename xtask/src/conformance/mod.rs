//! `cargo xtask conformance`: the suite of the Gateway API against the agent as a DaemonSet in a real cluster.

mod suite;

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};
use gateway_tests::cluster::{Cluster, Shape};
use serde::Deserialize;
use tabled::settings::Style;
use tabled::{Table, Tabled};

use crate::shell::{self, Step};
use crate::{cluster, image, setup};
use suite::Suite;

/// In the order of the tables.
const PROFILES: &[&str] = &["GATEWAY-HTTP", "GATEWAY-GRPC", "GATEWAY-TLS", "GATEWAY-TCP", "GATEWAY-UDP"];
/// Begins the lines of the suite that say how a test ended (tests/conformance/conformance_test.go).
const MARK: &str = "conformance-result ";
/// In the range that tests/conformance/deploy gives the agent, and nobody else's.
const USABLE: &str = "198.18.8.250";
/// Of nobody in the cluster.
const UNUSABLE: &str = "198.18.15.250";

#[derive(clap::Args, Default)]
pub struct Options {
    /// One profile, such as GATEWAY-HTTP; may be repeated [default: all five].
    #[arg(long, value_name = "PROFILE", value_parser = clap::builder::PossibleValuesParser::new(PROFILES))]
    pub profile: Vec<String>,
    /// One test, such as HTTPRouteSimpleSameNamespace.
    #[arg(long, value_name = "NAME")]
    pub test: Option<String>,
    /// With an agent that is not optimised: quick to build.
    #[arg(long)]
    pub dev: bool,
    /// Leave a cluster up that was not before.
    #[arg(long)]
    pub keep: bool,
}

/// How a test of gateways ended.
#[derive(Deserialize)]
struct Outcome {
    test: String,
    profiles: Vec<String>,
    outcome: String,
}

/// What the tests came to.
#[derive(Clone, Copy, Default)]
pub struct Sum {
    pub passed: usize,
    pub failed: usize,
    pub skipped: usize,
}

pub fn run(options: &Options) -> Result<()> {
    let sum = count(options)?;
    ensure!(sum.failed == 0, "{} of {} tests failed", sum.failed, sum.passed + sum.failed);
    ensure!(sum.passed > 0, "no test ran");
    Ok(())
}

/// Runs the suite and shows what came out.
pub fn count(options: &Options) -> Result<Sum> {
    ensure!(setup::is_root(), "a cluster needs root: run it with sudo");
    let outcomes = with_sluice(&GROUND, options.dev, options.keep, |cluster, suite| play(cluster, suite, options))?;
    // Those that were asked for.
    let wanted = |outcome: &&Outcome| match &options.test {
        Some(test) => outcome.test == *test,
        None => options.profile.is_empty() || outcome.profiles.iter().any(|name| options.profile.contains(name)),
    };
    let outcomes: Vec<&Outcome> = outcomes.iter().filter(wanted).collect();
    show(&outcomes);
    let of = |kind: &str| outcomes.iter().filter(|outcome| outcome.outcome == kind).count();
    Ok(Sum { passed: of("passed"), failed: of("failed"), skipped: of("skipped") })
}

/// What a cluster is like, and what of deploy/ is put into it.
pub struct Ground {
    pub dual_stack: bool,
    /// A kustomization.
    pub deploy: &'static str,
}

/// With addresses of a pool for Gateways, and everything else as users have it.
pub const GROUND: Ground = Ground { dual_stack: false, deploy: "tests/conformance/deploy" };

/// Does something with a cluster that Sluice is deployed in: the one that is up, or one that ends afterwards.
pub fn with_sluice<T>(
    ground: &Ground,
    dev: bool,
    keep: bool,
    work: impl FnOnce(&Cluster, &Suite) -> Result<T>,
) -> Result<T> {
    let suite = Suite::ensure()?;
    let agent = image::make(dev)?;
    let running = cluster::running()?;
    let was_up = running.is_some();
    let cluster = match running {
        Some(cluster) => cluster,
        None => cluster::up(Shape { nodes: 2, dual_stack: ground.dual_stack })?,
    };
    let done = deploy(&cluster, &suite, &agent, ground).and_then(|()| work(&cluster, &suite));
    if !was_up && !keep {
        cluster::down()?;
    }
    done
}

/// Puts the API, the images and the agent into the cluster.
fn deploy(cluster: &Cluster, suite: &Suite, agent: &Path, ground: &Ground) -> Result<()> {
    let step = Step::begin("Sluice as a DaemonSet");
    let deployed = (|| {
        for image in suite.images().iter().map(PathBuf::as_path).chain([agent]) {
            cluster.load(image)?;
        }
        let kubectl = |arguments: &[&str]| shell::output(cluster.kubectl().args(arguments)).map(drop);
        let definitions = suite.definitions();
        kubectl(&["apply", "--server-side", "-k", definitions.to_str().context("its path is no text")?])?;
        kubectl(&["wait", "--for=condition=Established", "--timeout=60s", "crd", "--all"])?;
        let was_there = kubectl(&["-n", "sluice-system", "get", "daemonset", "sluice"]).is_ok();
        let deploy = shell::root().join(ground.deploy);
        kubectl(&["apply", "-k", deploy.to_str().context("its path is no text")?])?;
        if was_there {
            // Its image has the same name, and may be another one.
            kubectl(&["-n", "sluice-system", "rollout", "restart", "daemonset/sluice"])?;
        }
        kubectl(&["-n", "sluice-system", "rollout", "status", "daemonset/sluice", "--timeout=90s"])
            .with_context(|| agents(cluster))
    })();
    step.end(&deployed);
    deployed
}

/// What the agents say for themselves.
fn agents(cluster: &Cluster) -> String {
    let mut text = String::new();
    for arguments in [
        &["get", "pods", "-o", "wide"][..],
        &["logs", "--selector=app.kubernetes.io/name=sluice", "--tail=20", "--prefix"],
        &["get", "events", "--sort-by=.lastTimestamp"],
    ] {
        let output = cluster.kubectl().args(["-n", "sluice-system"]).args(arguments).output();
        text += &output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default();
    }
    text
}

/// Runs the suite from outside of the nodes.
fn play(cluster: &Cluster, suite: &Suite, options: &Options) -> Result<Vec<Outcome>> {
    let logs = shell::root().join("target/conformance");
    // What an earlier run said is not to be taken for this one's.
    let _ = fs::remove_dir_all(&logs);
    fs::create_dir_all(&logs).with_context(|| format!("cannot make {}", logs.display()))?;
    let report = logs.join("report.yaml");
    let mut command = cluster.control().command(suite.program());
    command.env("KUBECONFIG", cluster.kubeconfig()).args(["-test.v", "-test.timeout=60m", "--gateway-class=sluice"]);
    if !options.profile.is_empty() {
        command.arg(format!("--conformance-profiles={}", options.profile.join(",")));
    }
    command.arg(format!("--report-output={}", report.display()));
    command.arg(format!("--usable-address={USABLE}")).arg(format!("--unusable-address={UNUSABLE}"));
    command.arg("--organization=sluice-gateway").arg("--project=sluice");
    command.arg(concat!("--url=", env!("CARGO_PKG_REPOSITORY"))).arg(concat!("--version=v", env!("CARGO_PKG_VERSION")));
    command.arg(concat!("--contact=", env!("CARGO_PKG_REPOSITORY"), "/issues"));
    command.args(options.test.iter().map(|test| format!("--run-test={test}")));
    let outcomes = follow(&mut command, &logs)?;
    if options.profile.is_empty() && options.test.is_none() {
        let kept = shell::root().join("tests/conformance/reports");
        fs::create_dir_all(&kept)?;
        let kept = kept.join(concat!("experimental-v", env!("CARGO_PKG_VERSION"), "-default-report.yaml"));
        fs::copy(&report, &kept).with_context(|| format!("the suite left no report at {}", report.display()))?;
        println!("report: {}", kept.display());
    }
    Ok(outcomes)
}

/// Shows each test as it ends; what it said goes to a file of its name, and the rest to one of the suite's.
fn follow(command: &mut std::process::Command, logs: &Path) -> Result<Vec<Outcome>> {
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::inherit()).spawn()?;
    let stdout = child.stdout.take().context("the suite has no output")?;
    let mut outcomes = Vec::new();
    let (mut said, mut begun) = (Vec::new(), Instant::now());
    for line in BufReader::new(stdout).split(b'\n') {
        let line = line?;
        let Some(result) = line.strip_prefix(MARK.as_bytes()) else {
            said.extend(line);
            said.push(b'\n');
            continue;
        };
        let outcome: Outcome = serde_json::from_slice(result).context("a result of the suite is no JSON")?;
        let sign = match outcome.outcome.as_str() {
            "passed" => "✓",
            "failed" => "✗",
            _ => "-",
        };
        if outcome.outcome != "skipped" {
            println!("{sign} {} ({:.1} s)", outcome.test, begun.elapsed().as_secs_f64());
        }
        fs::write(logs.join(format!("{}.log", outcome.test)), &said)?;
        said.clear();
        begun = Instant::now();
        outcomes.push(outcome);
    }
    let status = child.wait()?;
    File::create(logs.join("suite.log"))?.write_all(&said)?;
    if !status.success() && !outcomes.iter().any(|outcome| outcome.outcome == "failed") {
        let said = String::from_utf8_lossy(&said);
        let lines: Vec<&str> = said.lines().collect();
        bail!(
            "the suite ended with {status} after {} tests, none of which failed:\n{}",
            outcomes.len(),
            lines[lines.len().saturating_sub(30)..].join("\n")
        );
    }
    Ok(outcomes)
}

#[derive(Tabled)]
struct Row {
    profile: String,
    passed: usize,
    failed: usize,
    skipped: usize,
}

fn show(outcomes: &[&Outcome]) {
    let row = |profile: &str, is_its: &dyn Fn(&Outcome) -> bool| {
        let of = |kind: &str| outcomes.iter().filter(|outcome| outcome.outcome == kind && is_its(outcome)).count();
        Row { profile: profile.to_owned(), passed: of("passed"), failed: of("failed"), skipped: of("skipped") }
    };
    let rows =
        PROFILES.iter().map(|profile| row(profile, &|outcome| outcome.profiles.iter().any(|name| name == profile)));
    // With features of several profiles, such as HTTPRoute and TLSRoute: in the suite's report they are not.
    let across = row("across profiles", &|outcome| outcome.profiles.is_empty());
    let rows = rows.chain((across.passed + across.failed + across.skipped > 0).then_some(across));
    println!("{}", Table::new(rows).with(Style::sharp()));
    let failed: Vec<&str> =
        outcomes.iter().filter(|outcome| outcome.outcome == "failed").map(|outcome| outcome.test.as_str()).collect();
    if !failed.is_empty() {
        println!("failed: {}\nwhat they said: target/conformance/NAME.log", failed.join(", "));
    }
}
