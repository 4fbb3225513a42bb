//! SluiceConfigs: what the API server refuses, what a status says of the rest, and that a change counts at once.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use crate::bed::Bed;

/// Gateways that share the nodes' addresses, and one with a pool of its own.
const MANIFESTS: &str = include_str!("config.yaml");
const POOL: &str = "198.18.9.4";
/// From the answer of the API server on; what kubectl takes after that is in it too.
const AT_ONCE: Duration = Duration::from_secs(1);

/// A condition of a Gateway or GatewayClass: its status, reason and message.
fn condition(bed: &Bed, object: &str, kind: &str) -> Result<[String; 3]> {
    let object = bed.get(object)?;
    let conditions = object["status"]["conditions"].as_array().context("no conditions yet")?;
    let found = conditions.iter().find(|condition| condition["type"] == kind).context("not that one yet")?;
    ensure!(found["observedGeneration"] == object["metadata"]["generation"], "it is of an older generation: {found}");
    Ok(["status", "reason", "message"].map(|field| found[field].as_str().unwrap_or_default().to_owned()))
}

/// Waits for what the condition `Accepted` says.
fn wait_for_accepted(bed: &Bed, object: &str, wanted: [&str; 3]) {
    bed.wait_for("what a status says", || {
        let is = condition(bed, object, "Accepted")?;
        ensure!(is == wanted, "{object}: {is:?}");
        Ok(())
    });
}

fn patch(bed: &Bed, namespace: &str, config: &str, spec: &Value) -> Result<String> {
    bed.kubectl(&format!("patch sluiceconfig {config} -n {namespace} --type=merge -p {}", json!({ "spec": spec })))
}

/// Asks on a connection that stays open.
fn ask(stream: &mut TcpStream, headers: usize) -> Result<String> {
    let more: String = (0..headers).map(|n| format!("X-{n}: a\r\n")).collect();
    stream.write_all(format!("GET / HTTP/1.1\r\nHost: a\r\n{more}\r\n").as_bytes())?;
    let mut head = [0; 4096];
    let length = stream.read(&mut head)?;
    let line = String::from_utf8_lossy(&head[..length]);
    Ok(line.lines().next().unwrap_or_default().to_owned())
}

fn open(at: SocketAddr) -> Result<TcpStream> {
    let stream = TcpStream::connect_timeout(&at, Duration::from_secs(2))?;
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    Ok(stream)
}

#[test]
fn the_api_server_refuses_values_that_mean_nothing() {
    let bed = Bed::new();
    let namespace = "config-values";
    let _applied = bed.apply(namespace, MANIFESTS);
    for (spec, why) in [
        (json!({ "limits": { "maxStreams": 0 } }), "spec.limits.maxStreams"),
        (json!({ "limits": { "idleTimeout": "0s" } }), "is no time at all; use one like 30s"),
        (json!({ "limits": { "headerTimeout": "fast" } }), "spec.limits.headerTimeout"),
        (json!({ "accessLog": { "requests": "sometimes" } }), "spec.accessLog.requests"),
        (json!({ "addressPool": ["web"] }), "spec.addressPool[0]"),
        (json!({ "addressPool": [] }), "spec.addressPool"),
        (json!({ "trustedHops": 256 }), "spec.trustedHops"),
        (json!({ "acceptProxyProtocol": "v2" }), "spec.acceptProxyProtocol"),
    ] {
        let refused = patch(&bed, namespace, "limited", &spec).unwrap_err().to_string();
        assert!(refused.contains(why), "{spec}: {refused}");
    }
    let columns = bed.kubectl(&format!("get sluiceconfig pooled -n {namespace}")).unwrap();
    let (head, row) = columns.trim_end().split_once('\n').unwrap();
    let words = |line: &str| line.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
    assert_eq!(words(head), ["NAME", "POOL", "ACCESS-LOG", "AGE"]);
    assert_eq!(words(row)[..3], ["pooled".to_owned(), format!("[\"{POOL}\"]"), "5xx".to_owned()]);
}

#[test]
fn a_reference_that_does_not_hold_is_said_and_harms_nobody_else() {
    let bed = Bed::new();
    let namespace = "config-references";
    let _applied = bed.apply(namespace, MANIFESTS);
    let gateway = |name: &str| format!("gateway {name} -n {namespace}");
    wait_for_accepted(&bed, &gateway("limited"), ["True", "Accepted", "The Gateway is served by Sluice"]);
    let missing = format!(
        "spec.infrastructure.parametersRef: there is no SluiceConfig {namespace}/nobody; create it, or correct or remove the reference"
    );
    wait_for_accepted(&bed, &gateway("lost"), ["False", "InvalidParameters", &missing]);

    // It is looked for as soon as somebody refers to it, and found when it comes.
    let config = "apiVersion: sluice.dev/v1alpha1\nkind: SluiceConfig\nmetadata: {name: nobody}\nspec: {addressPool: [198.18.8.4, 198.18.8.0/29]}\n";
    bed.kubectl_with(&format!("apply -n {namespace} -f -"), config).unwrap();
    let overlap = format!(
        "SluiceConfig {namespace}/nobody: spec.addressPool: 198.18.8.4 and 198.18.8.0/29 overlap; leave out what is in both from one of them"
    );
    wait_for_accepted(&bed, &gateway("lost"), ["False", "InvalidParameters", &overlap]);
    patch(&bed, namespace, "nobody", &json!({ "addressPool": null })).unwrap();
    wait_for_accepted(&bed, &gateway("lost"), ["True", "Accepted", "The Gateway is served by Sluice"]);
    bed.kubectl(&format!("delete sluiceconfig nobody -n {namespace}")).unwrap();
    wait_for_accepted(&bed, &gateway("lost"), ["False", "InvalidParameters", &missing]);
    wait_for_accepted(&bed, &gateway("limited"), ["True", "Accepted", "The Gateway is served by Sluice"]);

    // The class of somebody who has forgotten the namespace.
    let class = "apiVersion: gateway.networking.k8s.io/v1\nkind: GatewayClass\nmetadata: {name: config-references}\nspec: {controllerName: \
                 sluice.dev/gateway-controller, parametersRef: {group: sluice.dev, kind: SluiceConfig, name: limited}}\n";
    bed.kubectl_with("apply -f -", class).unwrap();
    let without = "spec.parametersRef has no namespace; give it that of SluiceConfig limited";
    wait_for_accepted(&bed, "gatewayclass config-references", ["False", "InvalidParameters", without]);
    bed.kubectl("delete gatewayclass config-references").unwrap();
}

#[test]
fn a_change_counts_at_once_and_breaks_no_connection() {
    let bed = Bed::new();
    let namespace = "config-changes";
    let _applied = bed.apply(namespace, MANIFESTS);
    let network = bed.cluster.control().network().unwrap();
    bed.kubectl(&format!("wait gateway limited -n {namespace} --for=condition=Programmed --timeout=30s")).unwrap();
    let at = SocketAddr::new(bed.wait_for_address(namespace, "limited"), 8089);
    let mut kept = network.enter(|| open(at)).unwrap();
    // The tenth is one too many: Host is one too.
    assert_eq!(ask(&mut kept, 9).unwrap(), "HTTP/1.1 431 Request Header Fields Too Large");
    let mut kept = network.enter(|| open(at)).unwrap();
    assert_eq!(ask(&mut kept, 8).unwrap(), "HTTP/1.1 404 Not Found");

    patch(&bed, namespace, "limited", &json!({ "limits": { "maxHeaders": 20 }, "accessLog": { "requests": "all" } }))
        .unwrap();
    let changed = Instant::now();
    loop {
        let said = network.enter(|| ask(&mut open(at)?, 15)).unwrap();
        if said.starts_with("HTTP/1.1 404 ") {
            break;
        }
        assert!(changed.elapsed() < AT_ONCE, "after {:?}: {said}", changed.elapsed());
    }
    // A connection goes on as it began.
    assert_eq!(ask(&mut kept, 8).unwrap(), "HTTP/1.1 404 Not Found");
    // But what is written down changes for it too.
    kept.write_all(b"GET /written-down HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
    bed.wait_for("a line of the access log", || {
        let logs = bed.kubectl("logs -n sluice-system --selector=app.kubernetes.io/name=sluice --tail=200")?;
        let line = logs.lines().find(|line| line.contains("/written-down")).context("no such line")?;
        let line: Value = serde_json::from_str(line)?;
        ensure!(line["listener"] == format!("{namespace}/limited/http"), "{line}");
        Ok(())
    });
}

#[test]
fn a_gateway_has_an_address_of_the_pool_of_its_config() {
    let bed = Bed::new();
    let namespace = "config-pool";
    let _applied = bed.apply(namespace, MANIFESTS);
    let at = SocketAddr::new(POOL.parse().unwrap(), 80);
    let network = bed.cluster.control().network().unwrap();
    bed.wait_for("an answer on the address of the pool", || {
        let said = network.enter(|| ask(&mut open(at)?, 0))?;
        ensure!(said.starts_with("HTTP/1.1 404 "), "{said}");
        Ok(())
    });
    bed.wait_for("a status that says so", || {
        let line = format!("get gateway pooled -n {namespace} -o jsonpath={{.status.addresses[*].value}}");
        let addresses = bed.kubectl(&line)?;
        ensure!(addresses == POOL, "{addresses:?}");
        Ok(())
    });
}
