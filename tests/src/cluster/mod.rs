//! A real Kubernetes in namespaces: a control plane and nodes with kubelet and containerd. It stays until somebody ends it;
//! everything of it is in one folder and in namespaces, and goes with them.

mod api;
mod cgroups;
mod control;
pub mod http;
mod life;
mod node;
mod outage;
mod place;
pub mod plan;
mod state;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

pub use api::Api;
pub use node::PAUSE;
pub use outage::Outage;
pub use place::Place;

use crate::lab::wait_for;
use state::State;

/// Programs and images that a cluster is made of.
pub struct Tools {
    folder: PathBuf,
}

impl Tools {
    /// etcd, kube-apiserver and the others lie in this folder, CNI plugins in `cni`, image archives in `images`.
    pub fn at(folder: &Path) -> Tools {
        Tools { folder: folder.to_owned() }
    }

    pub fn folder(&self) -> &Path {
        &self.folder
    }

    pub fn program(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    fn cni(&self) -> PathBuf {
        self.folder.join("cni")
    }
}

#[derive(Clone, Copy, Debug)]
pub struct Shape {
    pub nodes: u8,
    pub dual_stack: bool,
}

pub struct Cluster {
    tools: Tools,
    state: State,
    control: Place,
    nodes: Vec<Place>,
}

impl Cluster {
    /// Makes a cluster whose state lies in `folder`, with these images in each node. What a crashed one left there is cleared up first.
    pub fn up(folder: &Path, tools: Tools, shape: Shape, images: &[PathBuf]) -> Result<Cluster> {
        ensure!((1..=plan::MOST_NODES).contains(&shape.nodes), "a cluster has 1 to {} nodes", plan::MOST_NODES);
        let state = State::at(folder);
        state.clear().context("what an earlier cluster left cannot be cleared up")?;
        let names: Vec<String> = (1..=shape.nodes).map(plan::node_name).collect();
        let control = control::begin(&state, &tools, &names, shape.dual_stack)?;
        control::finish(&control, &state, &tools)?;
        let make = |number| {
            let making =
                node::Making { state: &state, tools: &tools, number, nodes: shape.nodes, dual_stack: shape.dual_stack };
            making.make(&control, images)
        };
        let nodes: Result<Vec<Place>> = std::thread::scope(|scope| {
            let threads: Vec<_> = (1..=shape.nodes).map(|number| scope.spawn(move || make(number))).collect();
            threads.into_iter().map(|thread| thread.join().unwrap_or_else(|_| bail!("a thread panicked"))).collect()
        });
        let nodes = nodes?;
        let cluster = Cluster { tools, state, control, nodes };
        wait_for("the nodes to be Ready", Duration::from_secs(60), || cluster.are_ready(&names))
            .with_context(|| control::last_lines(&cluster.state.folder().join(&names[0]).join("kubelet.log")))?;
        Ok(cluster)
    }

    /// The cluster whose state lies in `folder`, if all of it lives.
    pub fn of(folder: &Path, tools: Tools) -> Result<Option<Cluster>> {
        let state = State::at(folder);
        let places: Option<Vec<Place>> =
            state.places()?.into_iter().map(|(name, life)| Place::of(&name, life)).collect();
        let Some(mut places) = places.filter(|places| places.len() > 1) else { return Ok(None) };
        let nodes = places.split_off(1);
        let control = places.remove(0);
        Ok(Some(Cluster { tools, state, control, nodes }))
    }

    /// Ends what is in `folder`, whatever state it is in.
    pub fn down(folder: &Path) -> Result<()> {
        State::at(folder).clear()
    }

    /// The place outside of the nodes that reaches them, the pods and what Gateways listen on.
    pub fn control(&self) -> &Place {
        &self.control
    }

    pub fn nodes(&self) -> &[Place] {
        &self.nodes
    }

    pub fn kubeconfig(&self) -> PathBuf {
        self.state.folder().join("kubeconfig")
    }

    /// The API server's audit events of every request of the agent, one a line.
    pub fn audit(&self) -> PathBuf {
        control::Files::new(&self.state).audit()
    }

    /// Every request of the agent so far.
    pub fn requests(&self) -> Result<Vec<serde_json::Value>> {
        let path = self.audit();
        let text = std::fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
        text.lines().map(|line| serde_json::from_str(line).context("an audit event is no JSON")).collect()
    }

    /// `kubectl` as the administrator.
    pub fn kubectl(&self) -> Command {
        let mut kubectl = self.control.command(self.tools.program("kubectl"));
        kubectl.arg("--kubeconfig").arg(self.kubeconfig());
        kubectl
    }

    /// Imports an image archive into every node.
    pub fn load(&self, archive: &Path) -> Result<()> {
        self.nodes.iter().try_for_each(|node| node::load(node, &self.tools, archive))
    }

    fn are_ready(&self, names: &[String]) -> Result<()> {
        const READY: &str = "{range .items[*]}{.metadata.name}={.status.conditions[?(@.type==\"Ready\")].status} {end}";
        let output = self.kubectl().args(["get", "nodes", "-o", &format!("jsonpath={READY}")]).output()?;
        ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr).trim_end());
        let said = String::from_utf8_lossy(&output.stdout);
        let missing = names.iter().find(|name| !said.split(' ').any(|node| node == format!("{name}=True")));
        match missing {
            Some(name) => bail!("{name} is not; the nodes are {said:?}"),
            None => Ok(()),
        }
    }
}

fn text(path: &Path) -> Result<&str> {
    path.to_str().with_context(|| format!("{} is no text", path.display()))
}
