//! The cases of h2spec, a suite for servers of HTTP/2 (RFC 9113) and HPACK (RFC 7541), in the clear and over TLS.

use gateway_tests::lab::h2spec;
use gateway_tests::web::{PORT, TLS_PORT, Web};

use super::http;

/// h2spec asks for the address, so that this takes what no host takes.
const ROUTE: &str = "---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: h2spec, namespace: default}
spec:
  parentRefs: [{name: edge}]
  rules:
  - backendRefs: [{name: pod-1, port: 8080}]
";
/// Strict ones too.
const CASES: usize = 146;
/// A port that speaks HTTP/1.1 as well answers this one with 400 before it closes, where h2spec wants nothing but the end.
const OF_HTTP_1: &str = "2: Sends invalid connection preface";

#[test]
fn every_case_for_servers_of_http_2_passes() {
    let web = Web::new().unwrap();
    web.publish_routes(ROUTE).unwrap();
    let _agent = web.agent().unwrap();
    let over_tls = ["--tls", "--insecure"];
    let host = http()[0].ip().to_string();
    for (port, more, wanted) in [(PORT, &[][..], vec![OF_HTTP_1]), (TLS_PORT, &over_tls, vec![])] {
        let port = port.to_string();
        let mut suite = web.world.client.command(h2spec().unwrap());
        suite.args(["--strict", "--host", &host, "--port", &port]).args(more);
        let said = String::from_utf8(suite.output().unwrap().stdout).unwrap();
        let failed = said.split_once("Failures:").map_or("", |(_, failures)| failures).lines();
        let failed: Vec<&str> = failed.filter_map(|line| line.trim().strip_prefix("× ")).collect();
        let sum = format!("{CASES} tests, {} passed, 0 skipped, {} failed", CASES - wanted.len(), wanted.len());
        assert!(failed == wanted && said.contains(&sum), "at {host}:{port}: {said}");
    }
}
