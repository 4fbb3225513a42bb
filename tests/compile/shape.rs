//! The status as JSON, field for field as the Gateway API has it.

use std::path::Path;

use gateway_agent::compile::{Report, compile};
use gateway_agent::emit::status::Kept;
use gateway_agent::index::{Change, Index};
use gateway_agent::source::files::load_dir;
use serde_json::json;

use crate::render;

fn report(case: &str) -> Report {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("compile/cases").join(case);
    let mut index = Index::new(render::node());
    index.apply(load_dir(&dir).expect("a case").objects.into_iter().map(Change::Set));
    compile(&index).1
}

fn time(text: &str) -> jiff::Timestamp {
    text.parse().expect("a time")
}

#[test]
fn statuses_have_the_shape_of_the_gateway_api() {
    let mut kept = Kept::default();
    kept.follow(&report("observed-generation"), time("2026-01-02T03:04:05.678Z"));
    let statuses: Vec<_> = kept.iter().collect();
    let yes = |kind: &str, reason: &str, message: &str, generation: u32| {
        json!({"type": kind, "status": "True", "reason": reason, "message": message, "observedGeneration": generation,
               "lastTransitionTime": "2026-01-02T03:04:05Z"})
    };
    let mut conflicted = yes("Conflicted", "NoConflicts", "No other listener wants the same", 7);
    conflicted["status"] = "False".into();
    let expected = json!([
        {
            "apiVersion": "gateway.networking.k8s.io/v1", "kind": "GatewayClass", "metadata": {"name": "sluice"},
            "status": {"conditions": [
                yes("Accepted", "Accepted", "Gateways of this class are served by Sluice", 3),
                yes("SupportedVersion", "SupportedVersion", "Every version of the Gateway API up to v1.6 is read", 3),
            ]},
        },
        {
            "apiVersion": "gateway.networking.k8s.io/v1", "kind": "Gateway",
            "metadata": {"name": "edge", "namespace": "default"},
            "status": {
                "addresses": [
                    {"type": "IPAddress", "value": "198.18.0.10"}, {"type": "IPAddress", "value": "2001:db8::10"},
                ],
                "conditions": [
                    yes("Accepted", "Accepted", "The Gateway is served by Sluice", 7),
                    yes("Programmed", "Programmed", "The Gateway is in the data plane", 7),
                ],
                "listeners": [{
                    "name": "tcp",
                    "supportedKinds": [{"group": "gateway.networking.k8s.io", "kind": "TCPRoute"}],
                    "attachedRoutes": 1,
                    "conditions": [
                        yes("Accepted", "Accepted", "The listener is valid", 7),
                        yes("Programmed", "Programmed", "The listener is in the data plane", 7),
                        yes("ResolvedRefs", "ResolvedRefs", "All references are resolved", 7),
                        conflicted,
                    ],
                }],
            },
        },
        {
            "apiVersion": "gateway.networking.k8s.io/v1", "kind": "TCPRoute",
            "metadata": {"name": "db", "namespace": "default"},
            "status": {"parents": [{
                "parentRef": {"group": "gateway.networking.k8s.io", "kind": "Gateway", "name": "edge"},
                "controllerName": "sluice.dev/gateway-controller",
                "conditions": [
                    yes("Accepted", "Accepted", "The route is attached", 9),
                    yes("ResolvedRefs", "ResolvedRefs", "All references are resolved", 9),
                ],
            }]},
        },
    ]);
    let mut shown = serde_json::to_value(&statuses).expect("JSON");
    let features = shown[0]["status"].as_object_mut().and_then(|status| status.remove("supportedFeatures"));
    assert_eq!(features.expect("the features of the class")[1], json!({"name": "BackendTLSPolicySANValidation"}));
    assert_eq!(shown, expected);
}

#[test]
fn a_condition_keeps_its_time_until_its_status_changes() {
    let (first, later) = (time("2026-01-01T00:00:00Z"), time("2026-01-01T01:00:00Z"));
    let mut kept = Kept::default();
    kept.follow(&report("tcp-route-to-service"), first);
    // The Service is gone, so that ResolvedRefs of the route turns, and nothing else.
    kept.follow(&report("external-name-service-is-no-backend"), later);
    let json = serde_json::to_value(kept.iter().collect::<Vec<_>>()).expect("JSON");
    let mut changed = Vec::new();
    visit(&json, &mut |condition| {
        if condition["lastTransitionTime"] == later.to_string() {
            changed.push(condition["type"].clone());
        } else {
            assert_eq!(condition["lastTransitionTime"], first.to_string());
        }
    });
    assert_eq!(changed, ["ResolvedRefs"]);
}

/// Every condition in a JSON value.
fn visit(value: &serde_json::Value, see: &mut impl FnMut(&serde_json::Value)) {
    if value.get("reason").is_some() {
        see(value);
    } else if let Some(fields) = value.as_object() {
        fields.values().for_each(|v| visit(v, see));
    } else if let Some(items) = value.as_array() {
        items.iter().for_each(|v| visit(v, see));
    }
}
