//! `cargo xtask image`: the container image of the agent, without a container engine. `deploy/Dockerfile` makes the same with one.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result};

use crate::cluster::archive::{self, Image};
use crate::{build, shell};

/// What deploy/ asks for, as a node's containerd completes the name.
const NAME: &str = "docker.io/sluice-gateway/sluice";

#[derive(clap::Args)]
pub struct Options {
    /// Not optimised: quick to build, for trying things out.
    #[arg(long)]
    pub dev: bool,
}

pub fn run(options: &Options) -> Result<()> {
    println!("{}", make(options.dev)?.display());
    Ok(())
}

/// Makes the archive and says where it is.
pub fn make(dev: bool) -> Result<PathBuf> {
    let object = build::object()?;
    let profile = if dev { "dev" } else { "release" };
    let mut cargo = shell::cargo();
    // Only the program itself is told to be static: what it is made of is what every other build has.
    cargo.args(["rustc", "--locked", "--package", "gateway-agent", "--bin", "sluice", "--profile", profile, "--"]);
    cargo.args(["-C", "target-feature=+crt-static", "-C", "strip=symbols"]).env(build::OBJECT_VARIABLE, object);
    shell::run(&mut cargo).context("the static sluice was not built")?;
    let target_directory = build::target_directory()?;
    let built = target_directory.join(if dev { "debug" } else { "release" }).join("sluice");
    let folder = target_directory.join("image");
    fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
    let program = folder.join("sluice");
    fs::copy(&built, &program).with_context(|| format!("cannot copy {} to {}", built.display(), program.display()))?;
    let name = format!("{NAME}:{}", env!("CARGO_PKG_VERSION"));
    let image = Image::of_program(&program, "/sluice", &[&name])
        .label("org.opencontainers.image.title", "sluice")
        .label("org.opencontainers.image.version", env!("CARGO_PKG_VERSION"))
        .label("org.opencontainers.image.source", env!("CARGO_PKG_REPOSITORY"))
        .label("org.opencontainers.image.licenses", "Apache-2.0 AND (MIT OR GPL-2.0-only)");
    let archive = folder.join("sluice.tar");
    archive::write(&archive, &image)?;
    Ok(archive)
}
