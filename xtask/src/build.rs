//! `cargo xtask build`: the eBPF object, then the agent that carries it.

use std::path::PathBuf;

use anyhow::{Context, Result, bail};

use crate::setup::{self, Part};
use crate::shell;

/// Tells gateway-agent's build script which object to embed.
pub const OBJECT_VARIABLE: &str = "SLUICE_EBPF_OBJECT";

/// What a build made.
pub struct Built {
    pub object: PathBuf,
    pub sluice: PathBuf,
    /// The folder of the binaries of this profile.
    pub folder: PathBuf,
}

/// Builds the object, and `sluice` around it.
pub fn sluice(release: bool) -> Result<Built> {
    let object = object()?;
    let mut cargo = shell::cargo();
    cargo.args(["build", "--package", "gateway-agent", "--bin", "sluice"]).env(OBJECT_VARIABLE, &object);
    if release {
        cargo.arg("--release");
    }
    shell::run(&mut cargo)?;
    let folder = target_directory()?.join(if release { "release" } else { "debug" });
    Ok(Built { object, sluice: folder.join("sluice"), folder })
}

/// Builds the eBPF object; always optimised, since the verifier takes no other.
pub fn object() -> Result<PathBuf> {
    setup::ensure(&[Part::Ebpf])?;
    let tool_chain = setup::ebpf_tool_chain()?;
    let crate_root = shell::root().join("gateway-ebpf");
    if !crate_root.join("Cargo.toml").is_file() {
        bail!("{} is missing: there is no eBPF crate to build", crate_root.display());
    }
    let target = crate_root.join("target");
    let mut cargo = tool_chain.cargo();
    cargo.current_dir(&crate_root).args(["build", "--release", "--locked", "--target", "bpfel-unknown-none"]);
    cargo.args(["-Z", "build-std=core", "--target-dir"]).arg(&target);
    shell::run(&mut cargo).with_context(|| format!("the eBPF object was not built (with {tool_chain})"))?;
    let object = target.join("bpfel-unknown-none/release/gateway-ebpf");
    match std::fs::metadata(&object) {
        Ok(metadata) if metadata.len() > 0 => Ok(object),
        _ => bail!("the build left no eBPF object at {}", object.display()),
    }
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
