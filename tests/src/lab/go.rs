//! The program of tests/clients/go: the ends that are Go's.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use anyhow::{Context, Result, ensure};

/// Where it is; it is built once for this process.
pub fn go_program() -> Result<&'static str> {
    static BUILT: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    let built = BUILT.get_or_init(|| build().map_err(|error| format!("{error:#}")));
    let path = built.as_ref().map_err(|error| anyhow::anyhow!("{error}"))?;
    path.to_str().context("the folder of this program has a name that is no text")
}

fn build() -> Result<PathBuf> {
    let target = std::env::current_exe()?.with_file_name("go-clients");
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("clients/go");
    let mut build = Command::new("go");
    build.current_dir(folder).args(["build", "-o"]).arg(&target).arg(".");
    let output = build.output().context("cannot start `go`; see `cargo xtask setup`")?;
    ensure!(output.status.success(), "go build: {}", String::from_utf8_lossy(&output.stderr));
    Ok(target)
}
