//! The suite as a program, and the images of its backends: built by Go from tests/conformance, once for all clones on a machine.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};

use crate::cluster::archive::{self, Image};
use crate::cluster::tools::{cached, go_build};
use crate::setup::{self, Part};
use crate::shell;

const API: &str = "sigs.k8s.io/gateway-api";
const SUITE: &str = "sigs.k8s.io/gateway-api/conformance";
/// Last part of an image's name, and the package that is built for it.
const BACKENDS: &[(&str, &str)] =
    &[("echo-basic", "sigs.k8s.io/gateway-api/conformance/echo-basic"), ("coredns", "./coredns")];

pub struct Suite {
    folder: PathBuf,
    /// Where the module of the Gateway API is, with its CRDs.
    api: PathBuf,
}

impl Suite {
    /// Finds the programs, or builds them: about two minutes, the first time.
    pub fn ensure() -> Result<Suite> {
        setup::ensure(&[Part::Cluster])?;
        Ok(Suite { folder: cached("conformance", &sources_text()?, build)?, api: module(API)? })
    }

    pub fn program(&self) -> PathBuf {
        self.folder.join("conformance.test")
    }

    pub fn images(&self) -> Vec<PathBuf> {
        BACKENDS.iter().map(|(name, _)| self.folder.join(format!("{name}.tar"))).collect()
    }

    /// Every kind of the Gateway API, with the fields that are experimental.
    pub fn definitions(&self) -> PathBuf {
        self.api.join("config/crd/experimental")
    }
}

fn sources() -> PathBuf {
    shell::root().join("tests/conformance")
}

fn sources_text() -> Result<Vec<u8>> {
    let mut all = format!("{BACKENDS:?}").into_bytes();
    for file in ["go.mod", "go.sum", "conformance_test.go", "coredns/main.go"] {
        let path = sources().join(file);
        all.extend(fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?);
    }
    Ok(all)
}

fn build(folder: &Path) -> Result<()> {
    let mut go = shell::command("go");
    go.current_dir(sources()).env("CGO_ENABLED", "0").args(["test", "-c", "-trimpath", "-ldflags", "-s -w", "-o"]);
    shell::step("the conformance suite (a minute on two cores)", go.arg(folder.join("conformance.test")).arg("."))?;
    let wanted = wanted_images(&module(SUITE)?)?;
    for (name, package) in BACKENDS {
        let program = folder.join(name);
        go_build(&format!("go build {name}"), &sources(), package, "-s -w", &program)?;
        let is_it = |image: &&str| image.rsplit_once(':').is_some_and(|(path, _)| path.ends_with(&format!("/{name}")));
        let names: Vec<&str> = wanted.iter().map(String::as_str).filter(is_it).collect();
        ensure!(!names.is_empty(), "the suite asks for no image {name}: what does it use?");
        // For tests of our own.
        let ours = format!("localhost/{name}:local");
        let names: Vec<&str> = names.into_iter().chain([ours.as_str()]).collect();
        let image = Image::of_program(&program, &format!("/{name}"), &names);
        archive::write(&folder.join(format!("{name}.tar")), &image)?;
    }
    Ok(())
}

/// Where Go keeps a module that tests/conformance requires.
fn module(path: &str) -> Result<PathBuf> {
    let mut go = shell::command("go");
    go.current_dir(sources()).args(["list", "-m", "-f", "{{.Dir}}", path]);
    let folder = shell::output(&mut go)?;
    Ok(PathBuf::from(folder.trim()))
}

/// The images that the suite's manifests for gateways name.
fn wanted_images(suite: &Path) -> Result<BTreeSet<String>> {
    let mut images = BTreeSet::new();
    for folder in ["base", "tests"] {
        let folder = suite.join(folder);
        for entry in fs::read_dir(&folder).with_context(|| format!("cannot read {}", folder.display()))? {
            let path = entry?.path();
            if path.extension().is_some_and(|extension| extension == "yaml") {
                let text = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
                let named =
                    text.lines().filter_map(|line| line.trim().trim_start_matches("- ").strip_prefix("image: "));
                images.extend(named.map(|image| image.trim().trim_matches('"').to_owned()));
            }
        }
    }
    Ok(images)
}
