//! Objects that are wrong, among others that are not.

use std::net::IpAddr;

use anyhow::{Context, Result, ensure};
use gateway_tests::tls::Authority;
use serde_json::Value;

use crate::bed::Bed;
use crate::statuses::writes;
use crate::traffic::{ALL, Site};

/// A condition of a listener: status and reason.
fn condition(bed: &Bed, namespace: &str, listener: &str, kind: &str) -> Result<(String, String)> {
    let gateway = bed.get(&format!("gateway secure -n {namespace}"))?;
    let listeners = gateway["status"]["listeners"].as_array().context("no listeners")?;
    let listener = listeners.iter().find(|known| known["name"] == listener).context("not this listener")?;
    let conditions = listener["conditions"].as_array().context("no conditions")?;
    let found = conditions.iter().find(|condition| condition["type"] == kind).context("not this condition")?;
    let text = |field: &str| found[field].as_str().unwrap_or_default().to_owned();
    Ok((text("status"), text("reason")))
}

fn get(bed: &Bed, authority: &Authority, name: &str, address: IpAddr) -> Result<()> {
    let (ca, connect) = (authority.file().display().to_string(), format!("::{address}:443"));
    let url = format!("https://{name}/");
    let arguments = ["-sS", "--fail", "--max-time", "2", "--cacert", &ca, "--connect-to", &connect, &url];
    bed.cluster.control().run("curl".as_ref(), &arguments).map(drop)
}

#[test]
fn a_secret_that_goes_or_is_wrong_is_its_own_listeners_trouble_only() {
    let bed = Bed::new();
    let namespace = "secrets";
    let site = Site::new(&bed, namespace);
    let authority = Authority::new().unwrap();
    let identity = |name: &str| authority.identity(name, &[&format!("{name}.example")]).unwrap();
    let (a, b) = (identity("a"), identity("b"));
    let create = |name: &str, certificate: &std::path::Path, key: &std::path::Path| {
        let files = format!("--cert={} --key={}", certificate.display(), key.display());
        let made = bed.kubectl(&format!("create secret tls {name} -n {namespace} --dry-run=client -o yaml {files}"));
        bed.kubectl_with(&format!("apply -n {namespace} -f -"), &made.unwrap()).unwrap();
    };
    create("a", &a.certificate_file, &a.key_file);
    create("b", &b.certificate_file, &b.key_file);
    bed.kubectl_with(&format!("apply -n {namespace} -f -"), GATEWAY).unwrap();
    let address = bed.wait_for_address(namespace, "secure");
    let is_served = |name: &str| bed.wait_for(name, || get(&bed, &authority, &format!("{name}.example"), address));
    let wait = |status: &str, reason: &str| {
        bed.wait_for(&format!("{status} for {reason}"), || {
            let found = condition(&bed, namespace, "a", "ResolvedRefs")?;
            ensure!(found == (status.to_owned(), reason.to_owned()), "{found:?}");
            Ok(())
        });
        assert_eq!(condition(&bed, namespace, "b", "ResolvedRefs").unwrap().0, "True");
        get(&bed, &authority, "b.example", address).unwrap();
    };
    is_served("a");
    is_served("b");
    let traffic = site.traffic();

    bed.kubectl(&format!("delete secret a -n {namespace}")).unwrap();
    wait("False", "InvalidCertificateRef");
    get(&bed, &authority, "a.example", address).unwrap_err();
    // A certificate with the key of another.
    let opaque = format!(
        "{{apiVersion: v1, kind: Secret, metadata: {{name: a}}, type: kubernetes.io/tls, stringData: {{tls.crt: {:?}, tls.key: nonsense}}}}",
        std::fs::read_to_string(&a.certificate_file).unwrap()
    );
    bed.kubectl_with(&format!("apply -n {namespace} -f -"), &opaque).unwrap();
    wait("False", "InvalidCertificateRef");
    get(&bed, &authority, "a.example", address).unwrap_err();
    create("a", &a.certificate_file, &a.key_file);
    wait("True", "ResolvedRefs");
    is_served("a");
    traffic.end().assert_all_answered(&ALL);
}

const GATEWAY: &str = "\
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: secure}
spec:
  gatewayClassName: sluice
  listeners:
  - {name: a, port: 443, protocol: HTTPS, hostname: a.example, tls: {certificateRefs: [{name: a}]}}
  - {name: b, port: 443, protocol: HTTPS, hostname: b.example, tls: {certificateRefs: [{name: b}]}}
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: secure}
spec:
  parentRefs: [{name: secure}]
  rules:
  - backendRefs: [{name: echo, port: 80}]
";

const EACH: usize = 500;

/// What the API server lets through, and a condition says: each kind of mistake has the type and the reason of one that is not True.
const MISTAKES: [(&str, &str, &str); 4] = [
    (
        "parentRefs: [{name: edge, sectionName: http}]\n  rules: [{backendRefs: [{name: nobody, port: 80}]}]",
        "ResolvedRefs",
        "BackendNotFound",
    ),
    (
        "parentRefs: [{name: edge, sectionName: nothing}]\n  rules: [{backendRefs: [{name: echo, port: 80}]}]",
        "Accepted",
        "NoMatchingParent",
    ),
    (
        "parentRefs: [{name: edge, sectionName: http}]\n  rules: [{backendRefs: [{name: echo, namespace: default, port: 80}]}]",
        "ResolvedRefs",
        "RefNotPermitted",
    ),
    (
        "parentRefs: [{name: edge, sectionName: http}]\n  rules: [{backendRefs: [{name: echo, kind: Thing, group: example.com}]}]",
        "ResolvedRefs",
        "InvalidKind",
    ),
];

#[test]
fn five_hundred_bad_routes_are_told_why_and_five_hundred_good_ones_work() {
    let bed = Bed::new();
    let namespace = "bad";
    let site = Site::new(&bed, namespace);
    let route = |name: String, spec: &str| {
        format!(
            "---\napiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {{name: {name}}}\nspec:\n  hostnames: [{name}.example]\n  {spec}\n"
        )
    };
    let good = "parentRefs: [{name: edge, sectionName: http}]\n  rules: [{backendRefs: [{name: echo, port: 80}]}]";
    let manifests: String = (0..EACH)
        .map(|i| route(format!("bad-{i}"), MISTAKES[i % MISTAKES.len()].0) + &route(format!("good-{i}"), good))
        .collect();
    let (routes, gateways) = (writes(&bed, "HTTPRoute").unwrap(), writes(&bed, "Gateway").unwrap());
    let traffic = site.traffic();
    bed.kubectl_with(&format!("create -n {namespace} -f -"), &manifests).unwrap();
    bed.wait_for("a right condition of each", || {
        let all = bed.get(&format!("httproutes -n {namespace}"))?;
        let routes = all["items"].as_array().context("no items")?;
        routes.iter().try_for_each(|route| is_told(route).with_context(|| route["metadata"]["name"].to_string()))
    });
    for i in [0, EACH / 2, EACH - 1] {
        let (name, url) = (format!("Host: good-{i}.example"), format!("http://{}/", site.address));
        bed.cluster.control().run("curl".as_ref(), &["-sS", "--fail", "--max-time", "2", "-H", &name, &url]).unwrap();
    }
    traffic.end().assert_all_answered(&ALL);
    let (routes, gateways) = (writes(&bed, "HTTPRoute").unwrap() - routes, writes(&bed, "Gateway").unwrap() - gateways);
    eprintln!("{routes} writes of routes, {gateways} of Gateways");
    // Routes of the tests before may still be going.
    assert!((2.0 * EACH as f64..=2.0 * EACH as f64 + 10.0).contains(&routes), "{routes} writes of routes");
    assert!(gateways <= 50.0, "{gateways} writes of Gateways");
}

fn is_told(route: &Value) -> Result<()> {
    let name = route["metadata"]["name"].as_str().unwrap_or_default();
    let conditions = route["status"]["parents"][0]["conditions"].as_array().context("no conditions")?;
    let bad = conditions.iter().find(|condition| condition["status"] != "True");
    let Some((kind, number)) = name.split_once('-') else { return Ok(()) };
    match kind {
        "bad" => {
            let (_, kind, reason) = MISTAKES[number.parse::<usize>()? % MISTAKES.len()];
            let bad = bad.context("all is well")?;
            ensure!(bad["type"] == kind && bad["reason"] == reason, "{bad}");
            ensure!(bad["message"].as_str().is_some_and(|message| !message.is_empty()), "{bad} does not say why");
        }
        _ => ensure!(bad.is_none(), "{bad:?}"),
    }
    Ok(())
}
