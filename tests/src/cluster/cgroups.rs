//! The cgroups of a cluster: below one of its own in every hierarchy of the machine, of version 1 or 2.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use super::life::Life;

const ROOT: &str = "/sys/fs/cgroup";
/// Of version 2: what its children may be given.
const CONTROLLERS: &str = "cgroup.controllers";
/// Of the hierarchy `cpuset` of version 1: without these a cgroup takes no process, and they are not inherited.
const CPUSET: &[&str] = &["cpuset.cpus", "cpuset.mems"];

/// A cgroup that a node sees as the root of its hierarchy.
pub struct Own {
    pub hierarchy: PathBuf,
    pub cgroup: PathBuf,
}

/// Makes a node's cgroups. `control`: the first process of the cluster, after which they are named.
pub fn make(control: &Life, node: &str) -> Result<Vec<Own>> {
    let make = |hierarchy: PathBuf| {
        let cluster = hierarchy.join(name(control));
        let cgroup = cluster.join(node);
        for folder in [&cluster, &cgroup] {
            make_one(folder).with_context(|| format!("cannot make the cgroup {}", folder.display()))?;
        }
        Ok(Own { hierarchy, cgroup })
    };
    hierarchies()?.into_iter().map(make).collect()
}

/// Removes those of a cluster in which nothing runs any more.
pub fn remove(control: &Life) -> Result<()> {
    for tree in hierarchies()?.into_iter().map(|hierarchy| hierarchy.join(name(control))).filter(|tree| tree.is_dir()) {
        remove_tree(&tree).with_context(|| format!("cannot remove the cgroup {}", tree.display()))?;
    }
    Ok(())
}

fn name(control: &Life) -> String {
    format!("sluice-cluster-{}", control.pid())
}

/// One of version 2, or those of version 1, among which may be one of version 2.
fn hierarchies() -> Result<Vec<PathBuf>> {
    let root = Path::new(ROOT);
    if root.join(CONTROLLERS).exists() {
        return Ok(vec![root.to_owned()]);
    }
    let entries = fs::read_dir(root).with_context(|| format!("cannot read {ROOT}"))?.flatten();
    // Links are second names.
    Ok(entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())).map(|entry| entry.path()).collect())
}

fn make_one(folder: &Path) -> Result<()> {
    let parent = folder.parent().context("it has no parent")?;
    // Whatever the parent has is wanted below; the kernel may refuse some, and then nobody can use them.
    let controllers = fs::read_to_string(parent.join(CONTROLLERS)).unwrap_or_default();
    for controller in controllers.split_whitespace() {
        let _ = fs::write(parent.join("cgroup.subtree_control"), format!("+{controller}"));
    }
    fs::create_dir_all(folder)?;
    for file in CPUSET {
        let own = folder.join(file);
        if own.exists() && fs::read_to_string(&own)?.trim().is_empty() {
            fs::write(&own, fs::read_to_string(parent.join(file))?.trim())?;
        }
    }
    Ok(())
}

/// The files of a cgroup go with its folder.
fn remove_tree(folder: &Path) -> std::io::Result<()> {
    for entry in fs::read_dir(folder)?.flatten() {
        if entry.file_type()?.is_dir() {
            remove_tree(&entry.path())?;
        }
    }
    fs::remove_dir(folder)
}
