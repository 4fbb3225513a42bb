//! `cargo xtask cluster`: a real Kubernetes in namespaces of this machine.

pub mod archive;
pub mod tools;

use std::path::PathBuf;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use clap::Subcommand;
use gateway_tests::cluster::{Cluster, Place, Shape};

use crate::setup;
use crate::shell::{self, Step};

#[derive(Subcommand)]
pub enum Task {
    /// Make a control plane and nodes; what an earlier cluster of this clone left is cleared up first.
    Up {
        #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u8).range(1..=9))]
        nodes: u8,
        /// Pods and Services have IPv4 and IPv6 addresses.
        #[arg(long)]
        dual_stack: bool,
    },
    /// End everything that belongs to it.
    Down,
    /// kubectl as the administrator.
    Kubectl {
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
    /// Import image archives into every node.
    LoadImage {
        #[arg(required = true)]
        archives: Vec<PathBuf>,
    },
    /// A shell in a node or in `control`, which is outside of the nodes, or a command.
    Enter {
        place: String,
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        command: Vec<String>,
    },
}

pub fn run(task: &Task) -> Result<()> {
    ensure!(setup::is_root(), "a cluster needs root: run it with sudo");
    match task {
        Task::Up { nodes, dual_stack } => {
            if running()?.is_some() {
                println!("the cluster is already up; `cargo xtask cluster down` ends it");
                return Ok(());
            }
            let cluster = up(Shape { nodes: *nodes, dual_stack: *dual_stack })?;
            println!(
                "The cluster is up: {}.\n\n  cargo xtask cluster kubectl get nodes\n  cargo xtask cluster enter node-1\n  cargo xtask cluster down\n\n\
                 Its state and its logs are in {}.",
                cluster.nodes().iter().map(Place::name).collect::<Vec<_>>().join(", "),
                folder().display()
            );
            Ok(())
        }
        Task::Down => down(),
        Task::Kubectl { arguments } => exec(get()?.kubectl().args(arguments)),
        Task::LoadImage { archives } => {
            let cluster = get()?;
            archives.iter().try_for_each(|archive| {
                let archive = archive.canonicalize().with_context(|| format!("cannot find {}", archive.display()))?;
                cluster.load(&archive)
            })
        }
        Task::Enter { place, command } => {
            let cluster = get()?;
            let mut places = cluster.nodes().iter().chain([cluster.control()]);
            let names = || cluster.nodes().iter().map(Place::name).collect::<Vec<_>>().join(", ");
            let place = places
                .find(|known| known.name() == place)
                .with_context(|| format!("the cluster has no {place:?}; it has control, {}", names()))?;
            match command.split_first() {
                Some((program, arguments)) => exec(place.command(program).args(arguments)),
                None => exec(place.command("sh").arg("-i").env("PS1", format!("{}# ", place.name()))),
            }
        }
    }
}

/// Makes a cluster, with the images it cannot do without.
pub fn up(shape: Shape) -> Result<Cluster> {
    let tools = tools::ensure()?;
    let images = [tools::pause(&tools)];
    let step = Step::begin(&format!("a Kubernetes of {} nodes", shape.nodes));
    let begun = Instant::now();
    let cluster = Cluster::up(&folder(), tools, shape, &images);
    step.end(&cluster);
    cluster.with_context(|| {
        format!(
            "the cluster was not made in {} s; its logs are in {}, and `cargo xtask cluster down` clears up",
            begun.elapsed().as_secs(),
            folder().display()
        )
    })
}

pub fn down() -> Result<()> {
    Cluster::down(&folder())
}

/// The cluster of this clone, if it is up.
pub fn running() -> Result<Option<Cluster>> {
    Cluster::of(&folder(), tools::ensure()?)
}

fn get() -> Result<Cluster> {
    running()?.context("no cluster is up; `cargo xtask cluster up` makes one")
}

/// Where its state is.
pub fn folder() -> PathBuf {
    shell::root().join("target/cluster")
}

/// Runs a command on our terminal, and ends as it does.
fn exec(command: &mut std::process::Command) -> Result<()> {
    let status = command.status().with_context(|| format!("cannot start `{}`", shell::shown(command)))?;
    std::process::exit(status.code().unwrap_or(1));
}
