//! The cluster that the tests find, and namespaces of their own in it.

use std::io::Write;
use std::net::IpAddr;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use gateway_tests::cluster::{Cluster, Place, Tools};
use gateway_tests::lab::wait_for;
use serde_json::Value;

/// Says where the state of the cluster is, and where the programs that it is made of.
const STATE: &str = "SLUICE_CLUSTER";
const TOOLS: &str = "SLUICE_CLUSTER_TOOLS";

pub const PATIENCE: Duration = Duration::from_secs(60);

pub struct Bed {
    pub cluster: Cluster,
}

impl Bed {
    pub fn new() -> Bed {
        let folder = |name: &str| -> PathBuf {
            std::env::var_os(name).unwrap_or_else(|| panic!("{name} is not set: run `cargo xtask test cluster`")).into()
        };
        let cluster = Cluster::of(&folder(STATE), Tools::at(&folder(TOOLS))).unwrap();
        Bed { cluster: cluster.expect("no cluster is up: run `cargo xtask test cluster`") }
    }

    /// `kubectl` with these words, for what it prints.
    pub fn kubectl(&self, line: &str) -> Result<String> {
        self.kubectl_with(line, "")
    }

    pub fn kubectl_with(&self, line: &str, input: &str) -> Result<String> {
        let mut command = self.cluster.kubectl();
        command.args(line.split_whitespace()).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn()?;
        child.stdin.take().context("kubectl has no input")?.write_all(input.as_bytes())?;
        let output = child.wait_with_output()?;
        let error = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "kubectl {line}: {}", error.trim_end());
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    pub fn wait_for(&self, what: &str, ask: impl FnMut() -> Result<()>) {
        wait_for(what, PATIENCE, ask).unwrap();
    }

    /// An object, or a list of them.
    pub fn get(&self, what: &str) -> Result<Value> {
        Ok(serde_json::from_str(&self.kubectl(&format!("get {what} -o json"))?)?)
    }

    /// The first address of a Gateway, once it has one.
    pub fn wait_for_address(&self, namespace: &str, gateway: &str) -> IpAddr {
        let line = format!("get gateway {gateway} -n {namespace} -o jsonpath={{.status.addresses[0].value}}");
        wait_for("the Gateway's address", PATIENCE, || self.kubectl(&line)?.parse().context("it has none")).unwrap()
    }

    /// Kills all agents, each to its end; the kubelets start others.
    pub fn kill_agents(&self) {
        self.cluster.nodes().iter().for_each(|node| node.kill("sluice").unwrap());
    }

    /// Until the pods of a Deployment are ready. A kubelet that has been without an API server asks again after a minute at the latest.
    pub fn wait_for_pods(&self, namespace: &str, deployment: &str) {
        self.kubectl(&format!("rollout status deployment/{deployment} -n {namespace} --timeout=150s")).unwrap();
    }

    /// Until all nodes have an agent that is ready, and each gives the others signs of its life.
    pub fn wait_for_agents(&self) {
        self.wait_for("agents on all nodes", || {
            let line = "get daemonset sluice -n sluice-system -o jsonpath={.status.numberReady}/{.status.desiredNumberScheduled}";
            let ready = self.kubectl(line)?;
            ensure!(ready == format!("{0}/{0}", self.cluster.nodes().len()), "{ready} are ready");
            Ok(())
        });
        let signs = || -> Result<Vec<String>> {
            let of = |node: &Place| {
                self.kubectl(&format!(
                    "get lease sluice-node-{} -n sluice-system -o jsonpath={{.spec.renewTime}}",
                    node.name()
                ))
            };
            self.cluster.nodes().iter().map(of).collect()
        };
        let before = signs().unwrap();
        self.wait_for("signs of all agents", || {
            ensure!(
                signs()?.iter().zip(&before).all(|(now, before)| now != before),
                "some have given none since {before:?}"
            );
            Ok(())
        });
    }

    /// A namespace with these objects in it.
    pub fn apply(&self, name: &str, manifests: &str) -> Applied<'_> {
        let applied = Applied { bed: self, name: name.to_owned() };
        self.kubectl(&format!("create namespace {name}")).unwrap();
        self.kubectl_with(&format!("apply -n {name} -f -"), manifests).unwrap();
        applied
    }
}

/// Goes with everything in it.
pub struct Applied<'a> {
    bed: &'a Bed,
    name: String,
}

impl Drop for Applied<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            for what in ["get pods,gateways,httproutes,tcproutes -o yaml", "get events"] {
                eprintln!(
                    "--- {what} ---\n{}",
                    self.bed.kubectl(&format!("{what} -n {}", self.name)).unwrap_or_default()
                );
            }
        }
        // The cluster ends after the tests.
        let _ = self.bed.kubectl(&format!("delete namespace {} --wait=false", self.name));
    }
}
