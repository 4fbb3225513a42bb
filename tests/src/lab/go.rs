//! Programs of Go's that tests/clients/go pins: its own, which is the ends that are Go's, and h2spec.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use anyhow::{Context, Result, ensure};

/// Where it is; it is built once for this process.
pub fn go_program() -> Result<&'static str> {
    static BUILT: Built = OnceLock::new();
    built(&BUILT, ".", "go-clients")
}

/// The suite of cases for servers of HTTP/2, likewise.
pub fn h2spec() -> Result<&'static str> {
    static BUILT: Built = OnceLock::new();
    built(&BUILT, "github.com/summerwind/h2spec/cmd/h2spec", "h2spec")
}

type Built = OnceLock<Result<PathBuf, String>>;

fn built(built: &'static Built, package: &str, name: &str) -> Result<&'static str> {
    let built = built.get_or_init(|| build(package, name).map_err(|error| format!("{error:#}")));
    let path = built.as_ref().map_err(|error| anyhow::anyhow!("{error}"))?;
    path.to_str().context("the folder of this program has a name that is no text")
}

fn build(package: &str, name: &str) -> Result<PathBuf> {
    let target = std::env::current_exe()?.with_file_name(name);
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("clients/go");
    let mut build = Command::new("go");
    build.current_dir(folder).args(["build", "-o"]).arg(&target).arg(package);
    let output = build.output().context("cannot start `go`; see `cargo xtask setup`")?;
    ensure!(output.status.success(), "go build {package}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(target)
}
