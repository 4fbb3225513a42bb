//! Statuses that the agents write.

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use crate::bed::Bed;

/// On a port of its own: Gateways without an address share those of the nodes.
fn gateway(port: u16) -> String {
    format!(
        "
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {{name: edge}}
spec:
  gatewayClassName: sluice
  listeners:
  - {{name: http, port: {port}, protocol: HTTP}}
"
    )
}

fn route(name: &str) -> String {
    format!(
        "---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {{name: {name}}}
spec:
  parentRefs: [{{name: edge}}]
  hostnames: [{name}.example]
"
    )
}

/// The parents that a route has in its status, by controller.
fn parents(bed: &Bed, namespace: &str, name: &str, controller: &str) -> Result<Vec<Value>> {
    let route = bed.get(&format!("httproute {name} -n {namespace}"))?;
    let parents = route["status"]["parents"].as_array().cloned().unwrap_or_default();
    Ok(parents.into_iter().filter(|parent| parent["controllerName"] == controller).collect())
}

/// The condition `Accepted` of the one parent of ours, once it is about this generation.
fn accepted(bed: &Bed, namespace: &str, name: &str, generation: u32) -> Result<Value> {
    let parents = parents(bed, namespace, name, "sluice.dev/gateway-controller")?;
    ensure!(parents.len() == 1, "parents of ours: {parents:?}");
    let conditions = parents[0]["conditions"].as_array().context("no conditions")?;
    let accepted = conditions.iter().find(|c| c["type"] == "Accepted").context("not Accepted yet")?;
    ensure!(accepted["observedGeneration"] == generation && accepted["status"] == "True", "{accepted}");
    Ok(accepted.clone())
}

fn patch(bed: &Bed, what: &str, patch: &Value) {
    bed.kubectl(&format!("patch {what} -p {patch}")).unwrap();
}

#[test]
fn what_others_wrote_into_a_status_stays() {
    let bed = Bed::new();
    let namespace = "statuses-others";
    let _applied = bed.apply(namespace, &(gateway(8098) + &route("a")));
    let mut first = Value::Null;
    bed.wait_for("the first status", || {
        first = accepted(&bed, namespace, "a", 1)?;
        Ok(())
    });
    let condition = json!({
        "type": "Accepted", "status": "True", "reason": "Accepted", "message": "", "observedGeneration": 1,
        "lastTransitionTime": "2026-01-01T00:00:00Z",
    });
    let theirs = json!({
        "controllerName": "example.com/other", "parentRef": { "name": "other" }, "conditions": [condition],
    });
    let add = json!([{ "op": "add", "path": "/status/parents/-", "value": theirs }]);
    patch(&bed, &format!("httproute a -n {namespace} --subresource=status --type=json"), &add);
    patch(
        &bed,
        &format!("httproute a -n {namespace} --type=merge"),
        &json!({ "spec": { "hostnames": ["b.example"] } }),
    );
    bed.wait_for("the status of the changed route", || {
        let second = accepted(&bed, namespace, "a", 2)?;
        ensure!(second["lastTransitionTime"] == first["lastTransitionTime"], "{first} became {second}");
        Ok(())
    });
    assert_eq!(parents(&bed, namespace, "a", "example.com/other").unwrap().len(), 1);

    patch(&bed, &format!("httproute a -n {namespace} --type=merge"), &json!({ "spec": { "parentRefs": null } }));
    bed.wait_for("our parent to go", || {
        let ours = parents(&bed, namespace, "a", "sluice.dev/gateway-controller")?;
        ensure!(ours.is_empty(), "{ours:?}");
        Ok(())
    });
    assert_eq!(parents(&bed, namespace, "a", "example.com/other").unwrap().len(), 1);
}

#[test]
fn another_agent_writes_when_the_writer_goes() {
    let bed = Bed::new();
    let namespace = "statuses-writer";
    let _applied = bed.apply(namespace, &(gateway(8099) + &route("a")));
    bed.wait_for("the first status", || accepted(&bed, namespace, "a", 1).map(drop));
    let lease = "get lease sluice-status -n sluice-system -o jsonpath={.spec.holderIdentity}";
    let holder = bed.kubectl(lease).unwrap();
    let (node, _) = holder.rsplit_once('_').unwrap();
    let pods = "get pods -n sluice-system -o name --field-selector spec.nodeName=";
    let pod = bed.kubectl(&format!("{pods}{node}")).unwrap();
    bed.kubectl(&format!("delete -n sluice-system --wait=false {}", pod.trim())).unwrap();
    bed.kubectl_with(&format!("apply -n {namespace} -f -"), &route("b")).unwrap();
    bed.wait_for("a status by another agent", || {
        accepted(&bed, namespace, "b", 1)?;
        let now = bed.kubectl(lease)?;
        ensure!(now != holder && !now.is_empty(), "{now} is the holder");
        Ok(())
    });
}

/// Statuses of a kind that all agents have written.
pub fn writes(bed: &Bed, kind: &str) -> Result<f64> {
    let pods = bed.kubectl("get pods -n sluice-system -o jsonpath={.items[*].metadata.name}")?;
    let mut sum = 0.0;
    for pod in pods.split_whitespace() {
        let path = format!("/api/v1/namespaces/sluice-system/pods/{pod}:9464/proxy/metrics");
        let metrics = bed.kubectl(&format!("get --raw {path}"))?;
        let name = format!("sluice_status_writes_total{{kind=\"{kind}\"}} ");
        let count = metrics.lines().find_map(|line| line.strip_prefix(&name));
        sum += count.map_or(Ok(0.0), str::parse)?;
    }
    Ok(sum)
}

#[test]
fn a_thousand_routes_cost_a_write_each_and_few_of_their_gateway() {
    const ROUTES: usize = 1_000;
    /// Routes of the tests before are still going, and lose their Services first.
    const OTHERS: f64 = 10.0;
    let bed = Bed::new();
    let namespace = "statuses-many";
    let _applied = bed.apply(namespace, &gateway(8100));
    let (routes, gateways) = (writes(&bed, "HTTPRoute").unwrap(), writes(&bed, "Gateway").unwrap());
    let manifests: String = (0..ROUTES).map(|i| route(&format!("r{i}"))).collect();
    bed.kubectl_with(&format!("create -n {namespace} -f -"), &manifests).unwrap();
    bed.wait_for("the Gateway to have them all", || {
        let count = bed
            .kubectl(&format!("get gateway edge -n {namespace} -o jsonpath={{.status.listeners[0].attachedRoutes}}"))?;
        ensure!(count == ROUTES.to_string(), "{count} are attached");
        accepted(&bed, namespace, &format!("r{}", ROUTES - 1), 1).map(drop)
    });
    let (routes, gateways) = (writes(&bed, "HTTPRoute").unwrap() - routes, writes(&bed, "Gateway").unwrap() - gateways);
    assert!((ROUTES as f64..=ROUTES as f64 + OTHERS).contains(&routes), "{routes} writes of routes");
    assert!((1.0..=50.0).contains(&gateways), "{gateways} writes of Gateways");
}
