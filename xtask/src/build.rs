//! `cargo xtask build`: the eBPF object, then the agent that carries it.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::setup::{self, Part, ToolChain};
use crate::{btf, shell};

/// Tells gateway-agent's build script which object to embed.
pub const OBJECT_VARIABLE: &str = "SLUICE_EBPF_OBJECT";

/// What a build made.
pub struct Built {
    pub object: PathBuf,
    pub sluice: PathBuf,
}

/// Builds the object, `sluice` around it, and the server that the lab runs.
pub fn sluice(release: bool) -> Result<Built> {
    sluice_with(object()?, release)
}

/// The same around an object that prints what it decides on each packet.
pub fn tracing_sluice() -> Result<Built> {
    sluice_with(build_object(&["--features", "trace"], "target/trace")?, false)
}

fn sluice_with(object: PathBuf, release: bool) -> Result<Built> {
    let mut cargo = shell::cargo();
    cargo
        .args(["build", "--workspace", "--bin", "sluice", "--bin", "lab-server", "--locked"])
        .env(OBJECT_VARIABLE, &object);
    if release {
        cargo.arg("--release");
    }
    shell::run(&mut cargo)?;
    let folder = target_directory()?.join(if release { "release" } else { "debug" });
    Ok(Built { object, sluice: folder.join("sluice") })
}

/// Builds the eBPF object; always optimised, since the verifier takes no other.
pub fn object() -> Result<PathBuf> {
    build_object(&[], "target")
}

fn build_object(options: &[&str], target: &str) -> Result<PathBuf> {
    setup::ensure(&[Part::Ebpf])?;
    let tool_chain = setup::ebpf_tool_chain()?;
    let crate_root = ebpf_root();
    if !crate_root.join("Cargo.toml").is_file() {
        bail!("{} is missing: there is no eBPF crate to build", crate_root.display());
    }
    let target = crate_root.join(target);
    let mut cargo = ebpf_cargo(&tool_chain, "build");
    shell::run(cargo.args(options).env("CARGO_TARGET_DIR", &target))
        .with_context(|| format!("the eBPF object was not built (with {tool_chain})"))?;
    let linked = target.join("bpfel-unknown-none/release/gateway-ebpf");
    let bytes =
        std::fs::read(&linked).with_context(|| format!("the build left no eBPF object at {}", linked.display()))?;
    let bytes = btf::with_text(&bytes).with_context(|| format!("in {}", linked.display()))?;
    // Written only if it is another one, or cargo would build the agent again.
    let object = target.join("gateway-ebpf.o");
    if std::fs::read(&object).ok().as_ref() != Some(&bytes) {
        std::fs::write(&object, &bytes).with_context(|| format!("cannot write {}", object.display()))?;
    }
    Ok(object)
}

/// Builds an eBPF program that is no part of the object: a measurement.
pub fn example(name: &str) -> Result<PathBuf> {
    setup::ensure(&[Part::Ebpf])?;
    let tool_chain = setup::ebpf_tool_chain()?;
    shell::run(ebpf_cargo(&tool_chain, "build").args(["--example", name]))
        .with_context(|| format!("the eBPF example {name} was not built (with {tool_chain})"))?;
    Ok(ebpf_root().join("target/bpfel-unknown-none/release/examples").join(name))
}

/// Cargo of the eBPF tool chain with a command on gateway-ebpf.
pub fn ebpf_cargo(tool_chain: &ToolChain, task: &str) -> Command {
    let mut cargo = tool_chain.cargo(task);
    cargo.current_dir(ebpf_root()).args(["--release", "--locked", "--target", "bpfel-unknown-none"]);
    cargo.args(["-Z", "build-std=core"]).env("CARGO_TARGET_DIR", ebpf_root().join("target"));
    cargo
}

fn ebpf_root() -> PathBuf {
    shell::root().join("gateway-ebpf")
}

/// Where cargo puts what it builds for the workspace.
pub fn target_directory() -> Result<PathBuf> {
    let metadata = metadata()?;
    let directory = metadata["target_directory"].as_str().context("cargo metadata names no target_directory")?;
    Ok(PathBuf::from(directory))
}

/// What cargo says about the workspace's own packages.
pub fn metadata() -> Result<serde_json::Value> {
    let text = shell::output(shell::cargo().args(["metadata", "--no-deps", "--format-version", "1"]))?;
    serde_json::from_str(&text).context("cargo metadata gave no JSON")
}
