//! `cargo xtask test`: the stages, what each ran, and the sum.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context, Result, bail};
use clap::ValueEnum;
use tabled::settings::Style;
use tabled::{Table, Tabled};

use crate::setup::{self, Part};
use crate::{build, cluster, conformance, shell};

/// Those that run when none is named. The others are to join them when all six have passed three times in a row from a clean clone.
const USUAL: &[Stage] = &[Stage::Lint, Stage::Unit, Stage::Packets, Stage::Network];

/// The integration tests that are stages of their own.
const OWN_STAGES: &[&str] = &["packets", "network", "cluster"];

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Stage {
    /// Formatting, clippy, licences.
    Lint,
    /// Everything that needs no kernel.
    Unit,
    /// Frames through the programs by BPF_PROG_TEST_RUN (needs root).
    Packets,
    /// Real clients in network namespaces (needs root).
    Network,
    /// The agent as a DaemonSet in a real Kubernetes (needs root).
    Cluster,
    /// The suite of the Gateway API (needs root).
    Conformance,
}

#[derive(Clone, Copy, Default)]
struct Count {
    passed: usize,
    failed: usize,
    skipped: usize,
}

impl std::ops::AddAssign for Count {
    fn add_assign(&mut self, other: Count) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.skipped += other.skipped;
    }
}

impl Count {
    fn of(passed: bool) -> Count {
        Count { passed: usize::from(passed), failed: usize::from(!passed), skipped: 0 }
    }
}

#[derive(Tabled)]
struct Row {
    stage: String,
    passed: usize,
    failed: usize,
    skipped: usize,
    seconds: u64,
}

/// Runs the stages, or the usual ones if none is named.
pub fn run(stages: &[Stage]) -> Result<()> {
    let stages = if stages.is_empty() { USUAL } else { stages };
    let mut rows = Vec::new();
    let mut sum = Count::default();
    for stage in stages {
        let name = format!("{stage:?}").to_lowercase();
        println!("── {name} ──");
        let begun = Instant::now();
        let mut count = stage.run().unwrap_or_else(|error| {
            println!("{name}: {error:#}");
            Count::of(false)
        });
        if count.passed + count.failed == 0 {
            println!("{name}: ran nothing, which is a failure");
            count.failed = 1;
        }
        sum += count;
        let Count { passed, failed, skipped } = count;
        rows.push(Row { stage: name, passed, failed, skipped, seconds: begun.elapsed().as_secs() });
    }
    println!("{}", Table::new(rows).with(Style::sharp()));
    println!("{} passed, {} failed, {} skipped", sum.passed, sum.failed, sum.skipped);
    if sum.failed > 0 {
        std::process::exit(1);
    }
    Ok(())
}

impl Stage {
    fn run(self) -> Result<Count> {
        match self {
            Stage::Lint => lint(),
            Stage::Unit => unit(),
            Stage::Packets => integration("packets", &[]),
            // Two at a time: the machine's cores are part of what is tested. Floods alone: the kernel's backlog of a core, which
            // they fill, is one for all namespaces.
            Stage::Network => {
                setup::ensure(&[Part::Clients])?;
                let mut arguments = vec!["--test-threads=2", "--skip", FLOODS];
                // The one test that is ignored otherwise.
                match setup::browser() {
                    Ok(()) => arguments.push("--include-ignored"),
                    Err(error) => println!("- chromium: skipped, {error:#}"),
                }
                let mut count = Count::default();
                if let Err(error) = setup::grpcio() {
                    println!("- gRPC's C core: skipped, {error:#}");
                    arguments.extend(["--skip", C_CORE]);
                    count.skipped = 1;
                }
                count += integration("network", &arguments)?;
                count += integration("network", &["--test-threads=1", FLOODS])?;
                Ok(count)
            }
            Stage::Cluster => cluster_tests(),
            Stage::Conformance => {
                let sum = conformance::count(&conformance::Options { dev: true, ..Default::default() })?;
                Ok(Count { passed: sum.passed, failed: sum.failed, skipped: sum.skipped })
            }
        }
    }
}

fn lint() -> Result<Count> {
    setup::ensure(&[Part::Lint])?;
    // The agent embeds it, and clippy compiles the agent.
    let object = build::object()?;
    let ebpf = shell::root().join("gateway-ebpf");
    let mut count = Count::default();

    count += check("rustfmt", shell::cargo().args(["fmt", "--all", "--check"]));
    count += check("rustfmt of gateway-ebpf", shell::cargo().current_dir(&ebpf).args(["fmt", "--check"]));

    let mut clippy = shell::cargo();
    clippy.args(["clippy", "--workspace", "--all-targets", "--locked", "--", "-D", "warnings"]);
    count += check("clippy", clippy.env(build::OBJECT_VARIABLE, &object));
    let mut clippy = build::ebpf_cargo(&setup::ebpf_tool_chain()?, "clippy");
    clippy.args(["--bins", "--examples", "--", "-D", "warnings"]);
    count += check("clippy of gateway-ebpf", &mut clippy);

    // A workspace of its own, which nothing else builds whole.
    let mut clippy = shell::cargo();
    clippy.current_dir(shell::root().join("fuzz")).args(["clippy", "--bins", "--locked", "--target-dir"]);
    clippy.arg(shell::root().join("target/fuzz")).args(["--", "-D", "warnings"]);
    count += check("clippy of fuzz", clippy.env(build::OBJECT_VARIABLE, &object));

    for (name, folder) in [("", shell::root()), (" of gateway-ebpf", ebpf.as_path())] {
        let deny = |what: &[&str]| {
            let mut deny = shell::cargo();
            deny.current_dir(folder).args(["deny", "--workspace", "--locked", "--config"]);
            deny.arg(shell::root().join("deny.toml")).arg("check").args(what);
            deny
        };
        count += check(&format!("cargo-deny{name}"), &mut deny(&["bans", "licenses", "sources"]));
    }
    count += advisories();
    Ok(count)
}

/// Known vulnerabilities. Their list comes from the network, which a machine may not have.
fn advisories() -> Count {
    let mut fetch = shell::cargo();
    match shell::output(fetch.args(["deny", "fetch", "db"])) {
        Ok(_) => check("cargo-deny advisories", shell::cargo().args(["deny", "check", "advisories"])),
        Err(_) => {
            println!("- cargo-deny advisories: skipped, the advisory database cannot be fetched from here");
            Count { skipped: 1, ..Count::default() }
        }
    }
}

/// One check of lint: says what it found if it fails.
fn check(name: &str, command: &mut Command) -> Count {
    let step = shell::Step::begin(name);
    let result = shell::output(command);
    step.end(&result);
    if let Err(error) = &result {
        println!("{name}: {error:#}");
    }
    Count::of(result.is_ok())
}

fn unit() -> Result<Count> {
    let object = build::object()?;
    let mut cargo = shell::cargo();
    cargo.args(["test", "--workspace", "--no-fail-fast", "--locked", "--lib", "--bins"]);
    for test in integration_tests()? {
        if !OWN_STAGES.contains(&test.as_str()) {
            cargo.args(["--test", &test]);
        }
    }
    libtest(cargo.env(build::OBJECT_VARIABLE, object))
}

/// The names of all targets of kind `test` in the workspace.
fn integration_tests() -> Result<Vec<String>> {
    let metadata = build::metadata()?;
    let packages = metadata["packages"].as_array().context("cargo metadata lists no packages")?;
    let targets = packages.iter().filter_map(|package| package["targets"].as_array()).flatten();
    let tests = targets.filter(|target| target["kind"][0] == "test");
    Ok(tests.filter_map(|target| target["name"].as_str()).map(str::to_owned).collect())
}

/// Network tests that fill queues of the whole machine.
const FLOODS: &str = "floods::";
/// The test of a client that PyPI has.
const C_CORE: &str = "http::rpc::calls_of_the_c_core_pass";

fn integration(name: &str, arguments: &[&str]) -> Result<Count> {
    if !setup::is_root() {
        bail!("stage {name} loads programs into the kernel: run it as root");
    }
    setup::ensure(&[Part::Lab])?;
    let built = build::sluice(false)?;
    let mut cargo = shell::cargo();
    cargo.args(["test", "--workspace", "--locked", "--test", name, "--"]).args(arguments);
    libtest(cargo.env(build::OBJECT_VARIABLE, built.object))
}

fn cluster_tests() -> Result<Count> {
    setup::ensure(&[Part::Lab])?;
    let (tools, helm) = (cluster::tools::ensure()?, cluster::tools::helm()?);
    // As it was built for the other stages: a release takes minutes more.
    let ground = conformance::Ground { dual_stack: true, deploy: "tests/cluster/deploy" };
    conformance::with_sluice(&ground, true, false, |_, _| {
        let mut cargo = shell::cargo();
        // One at a time: they stop agents, and count what agents do.
        cargo.args(["test", "--workspace", "--locked", "--test", "cluster", "--", "--test-threads=1"]);
        cargo.env("SLUICE_CLUSTER", cluster::folder()).env("SLUICE_CLUSTER_TOOLS", tools.folder());
        cargo.env("SLUICE_HELM", &helm);
        libtest(cargo.env(build::OBJECT_VARIABLE, build::object()?))
    })
}

/// Runs `cargo test`, shows what it says, and adds up its results.
fn libtest(command: &mut Command) -> Result<Count> {
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().context("cannot start cargo test")?;
    let stdout = child.stdout.take().context("cargo test has no output")?;
    let mut count = Count::default();
    for line in BufReader::new(stdout).split(b'\n') {
        let line = line?;
        let line = String::from_utf8_lossy(&line);
        println!("{line}");
        count += result_of(&line).unwrap_or_default();
    }
    let status = child.wait()?;
    if !status.success() && count.failed == 0 {
        // It did not build, or a test took the whole process down.
        println!("`{}` ended with {status}", shell::shown(command));
        count.failed = 1;
    }
    Ok(count)
}

/// Of a line like `test result: ok. 3 passed; 0 failed; 1 ignored; 0 measured; …`.
fn result_of(line: &str) -> Option<Count> {
    let results = line.strip_prefix("test result: ")?.split_once(". ")?.1;
    let mut count = Count::default();
    for result in results.split("; ") {
        let (number, what) = result.trim().split_once(' ')?;
        match (number.parse(), what) {
            (Ok(number), "passed") => count.passed = number,
            (Ok(number), "failed") => count.failed = number,
            (Ok(number), "ignored") => count.skipped = number,
            _ => {}
        }
    }
    Some(count)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_of_libtest_are_read() {
        let line = "test result: FAILED. 3 passed; 2 failed; 1 ignored; 0 measured; 7 filtered out; finished in 0.04s";
        let Count { passed, failed, skipped } = result_of(line).unwrap();
        assert_eq!((passed, failed, skipped), (3, 2, 1));
        assert!(result_of("test result_of ... ok").is_none());
    }
}
