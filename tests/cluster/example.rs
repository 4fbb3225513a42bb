//! The example of the README: traffic from outside of the nodes through its Gateway to pods on both.

use std::collections::BTreeSet;
use std::net::IpAddr;

use anyhow::{Context, Result, ensure};

use crate::bed::Bed;

const README: &str = include_str!("../../README.md");
/// The Service that it speaks of.
const SERVICE: &str = include_str!("example.yaml");

/// What a reader of the README applies.
fn manifests() -> &'static str {
    let (_, text) = README.split_once("### In Kubernetes").unwrap();
    let (_, text) = text.split_once("kubectl apply -f - <<'END'\n").unwrap();
    text.split_once("\nEND\n").unwrap().0
}

/// What the pod says of a request.
fn get(bed: &Bed, address: IpAddr, port: u16) -> Result<String> {
    let url = format!("http://{address}:{port}/");
    bed.cluster.control().run("curl".as_ref(), &["--silent", "--show-error", "--fail", "--max-time", "5", &url])
}

#[test]
fn http_and_tcp_reach_the_pods_of_both_nodes_also_from_pods() {
    works(&Bed::new(), "example");
}

pub fn works(bed: &Bed, namespace: &str) {
    let _applied = bed.apply(namespace, &format!("{SERVICE}---\n{}", manifests()));
    bed.kubectl(&format!("wait gateway edge -n {namespace} --for=condition=Programmed --timeout=30s")).unwrap();
    let address = bed.wait_for_address(namespace, "edge");
    bed.wait_for_pods(namespace, "echo");
    for port in [80, 81] {
        let mut pods = BTreeSet::new();
        bed.wait_for("answers of both pods", || {
            let answer: serde_json::Value = serde_json::from_str(&get(bed, address, port)?)?;
            pods.extend(answer["pod"].as_str().map(str::to_owned));
            ensure!(pods.len() == 2, "port {port}: so far {pods:?}");
            Ok(())
        });
        // Who answers for the address is the node of one of them.
        for node in bed.cluster.nodes() {
            let url = format!("http://{address}:{port}/");
            bed.wait_for(&format!("an answer to a pod of {} at port {port}", node.name()), || {
                let pod = node.process("echo-basic")?.context("no pod runs there")?;
                let curl = ["curl", "--silent", "--show-error", "--fail", "--max-time", "5", &url];
                node.run("nsenter".as_ref(), &[&["--net", "--target", &pod, "--"], &curl[..]].concat()).map(drop)
            });
        }
    }
}
