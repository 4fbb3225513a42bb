//! A Gateway is programmed once every node that serves it has it in force.

use std::net::IpAddr;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use crate::addresses::{Stopped, owner};
use crate::bed::Bed;

const NAMESPACE: &str = "programmed";

fn listeners(count: u16) -> Value {
    (0..count).map(|i| json!({ "name": format!("http-{i}"), "port": 80 + i, "protocol": "HTTP" })).collect()
}

fn get(bed: &Bed, gateway: &str) -> Result<Value> {
    Ok(serde_json::from_str(&bed.kubectl(&format!("get gateway {gateway} -n {NAMESPACE} -o json"))?)?)
}

/// What is said of a Gateway of so many generations, of itself and then of each of its listeners.
fn programmed(bed: &Bed, gateway: &str, generation: u64) -> Result<Vec<Value>> {
    let gateway = get(bed, gateway)?;
    let listeners = gateway["status"]["listeners"].as_array().context("no listeners in the status")?;
    let of = |value: &Value| -> Result<Value> {
        let conditions = value["conditions"].as_array().context("no conditions")?;
        let found = conditions.iter().find(|condition| condition["type"] == "Programmed").context("no word")?;
        ensure!(found["observedGeneration"] == generation, "{found}");
        Ok(found.clone())
    };
    std::iter::once(&gateway["status"]).chain(listeners).map(of).collect()
}

fn wait_for_programmed(bed: &Bed, gateway: &str, generation: u64, listeners: usize) {
    bed.wait_for("Programmed", || {
        let said = programmed(bed, gateway, generation)?;
        ensure!(said.len() == 1 + listeners && said.iter().all(|c| c["status"] == "True"), "{said:?}");
        Ok(())
    });
}

/// The node that answers for a Gateway.
fn server(bed: &Bed, gateway: &str) -> Result<String> {
    let address = get(bed, gateway)?["status"]["addresses"][0]["value"].as_str().context("no address")?.to_owned();
    owner(bed, address.parse::<IpAddr>()?)
}

fn change(bed: &Bed, gateway: &str, count: u16) {
    let patch = json!({ "spec": { "listeners": listeners(count) } });
    bed.kubectl(&format!("patch gateway {gateway} -n {NAMESPACE} --type=merge -p {patch}")).unwrap();
}

#[test]
fn a_gateway_is_pending_until_the_node_that_serves_it_has_it_and_nobody_waits_for_a_dead_one() {
    let bed = Bed::new();
    let gateway = "edge";
    let spec = json!({ "gatewayClassName": "sluice", "listeners": listeners(1) });
    let manifest = json!({
        "apiVersion": "gateway.networking.k8s.io/v1", "kind": "Gateway", "metadata": { "name": gateway }, "spec": spec,
    });
    let _applied = bed.apply(NAMESPACE, &manifest.to_string());
    wait_for_programmed(&bed, gateway, 1, 1);
    // Whoever writes statuses knows for itself; its addresses move while it is silent, and stay where they are.
    let writer = bed.kubectl("get lease sluice-status -n sluice-system -o jsonpath={.spec.holderIdentity}").unwrap();
    let (writer, _) = writer.rsplit_once('_').unwrap();
    if server(&bed, gateway).unwrap() == writer {
        let _silent = Stopped::new(&bed, writer);
        bed.wait_for("another node", || {
            ensure!(server(&bed, gateway)? != writer, "{writer} has the address");
            Ok(())
        });
    }
    let node = server(&bed, gateway).unwrap();

    let stopped = Stopped::new(&bed, &node);
    // For the others it lives: this is a sign of it.
    let sign = json!({ "spec": { "leaseDurationSeconds": 120, "renewTime": "2026-01-01T00:00:00.000000Z" } });
    bed.kubectl(&format!("patch lease sluice-node-{node} -n sluice-system --type=merge -p {sign}")).unwrap();
    change(&bed, gateway, 2);
    bed.wait_for("Pending", || {
        let said = programmed(&bed, gateway, 2)?;
        let is_pending = |condition: &Value| {
            let message = condition["message"].as_str().unwrap_or_default();
            condition["status"] == "False" && condition["reason"] == "Pending" && message.contains(&node)
        };
        ensure!(said.len() == 3 && said.iter().all(is_pending), "{said:?}");
        Ok(())
    });
    assert_eq!(server(&bed, gateway).unwrap(), node);
    drop(stopped);
    wait_for_programmed(&bed, gateway, 2, 2);
    assert_eq!(server(&bed, gateway).unwrap(), node);

    let stopped = Stopped::new(&bed, &node);
    change(&bed, gateway, 3);
    wait_for_programmed(&bed, gateway, 3, 3);
    assert_ne!(server(&bed, gateway).unwrap(), node, "it says nothing any more");
    drop(stopped);
    bed.wait_for_agents();
}
