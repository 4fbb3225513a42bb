//! Traffic from outside of the nodes through a Gateway to pods on both.

use std::collections::BTreeSet;

use anyhow::{Result, ensure};

use crate::bed::Bed;

const MANIFESTS: &str = include_str!("example.yaml");
/// Of the Gateway in example.yaml.
const ADDRESS: &str = "198.18.8.1";

/// What the pod says of a request.
fn get(bed: &Bed, port: u16) -> Result<String> {
    let url = format!("http://{ADDRESS}:{port}/");
    bed.cluster.control().run("curl".as_ref(), &["--silent", "--show-error", "--fail", "--max-time", "5", &url])
}

#[test]
fn http_and_tcp_reach_the_pods_of_both_nodes() {
    works(&Bed::new(), "example");
}

pub fn works(bed: &Bed, namespace: &str) {
    let _applied = bed.apply(namespace, MANIFESTS);
    bed.wait_for_pods(namespace, "echo");
    for port in [80, 81] {
        let mut pods = BTreeSet::new();
        bed.wait_for("answers of both pods", || {
            let answer: serde_json::Value = serde_json::from_str(&get(bed, port)?)?;
            pods.extend(answer["pod"].as_str().map(str::to_owned));
            ensure!(pods.len() == 2, "port {port}: so far {pods:?}");
            Ok(())
        });
    }
}
