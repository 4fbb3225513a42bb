//! What is made on behalf of an accepted Gateway: a headless Service, named as GEP-1762 has it, with the labels and annotations of
//! `spec.infrastructure`, and EndpointSlices that lead its DNS name to the Gateway's addresses. They go with the Gateway.

use std::collections::BTreeSet;
use std::net::IpAddr;

use http::{Method, StatusCode};
use serde_json::{Map, Value, json};

use crate::source::kube::{Api, ApiError, Format, JSON};

const NAME: &str = "gateway.networking.k8s.io/gateway-name";
const CLASS: &str = "gateway.networking.k8s.io/gateway-class-name";
/// Tells ours from what users have made.
const MANAGED_BY: (&str, &str) = ("app.kubernetes.io/managed-by", "sluice.dev");
/// Of a Service's name, and of a label's value.
const MOST_NAME: usize = 63;

/// Objects to apply, with the path of the list that each belongs to; `gateway`: as the API server has it, with its status.
pub fn made(gateway: &Value) -> Vec<(String, Value)> {
    let (metadata, spec) = (&gateway["metadata"], &gateway["spec"]);
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let (namespace, gateway_name, class) =
        (text(&metadata["namespace"]), text(&metadata["name"]), text(&spec["gatewayClassName"]));
    let name = service_name(&gateway_name, &class);
    let infrastructure = &spec["infrastructure"];
    let mut labels = infrastructure["labels"].as_object().cloned().unwrap_or_default();
    for (key, value) in [(NAME, &gateway_name), (CLASS, &class)] {
        if value.len() <= MOST_NAME {
            labels.insert(key.into(), value.as_str().into());
        }
    }
    labels.insert(MANAGED_BY.0.into(), MANAGED_BY.1.into());
    let ports: BTreeSet<(u64, &str)> = array(&spec["listeners"])
        .iter()
        .filter_map(|listener| {
            let protocol = if listener["protocol"] == "UDP" { "UDP" } else { "TCP" };
            Some((listener["port"].as_u64()?, protocol))
        })
        .collect();
    let ports: Vec<Value> = ports
        .into_iter()
        .map(|(port, protocol)| {
            json!({ "name": format!("{}-{port}", protocol.to_lowercase()), "port": port, "protocol": protocol })
        })
        .collect();
    let meta = |name: &str, labels: Map<String, Value>| {
        json!({
            "name": name,
            "namespace": namespace,
            "labels": labels,
            "annotations": infrastructure["annotations"].as_object().cloned().unwrap_or_default(),
            "ownerReferences": [{
                "apiVersion": gateway["apiVersion"], "kind": "Gateway", "name": gateway_name, "uid": metadata["uid"],
            }],
        })
    };
    let service = json!({
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": meta(&name, labels.clone()),
        "spec": { "clusterIP": "None", "ports": ports },
    });
    let addresses: Vec<IpAddr> =
        array(&gateway["status"]["addresses"]).iter().filter_map(|a| a["value"].as_str()?.parse().ok()).collect();
    let slice = |family: &str, v6: bool| {
        let mut labels = labels.clone();
        labels.insert("kubernetes.io/service-name".into(), name.as_str().into());
        labels.insert("endpointslice.kubernetes.io/managed-by".into(), "sluice.dev".into());
        let mine = addresses.iter().filter(|address| address.is_ipv6() == v6);
        let endpoints: Vec<Value> =
            mine.map(|address| json!({ "addresses": [address], "conditions": { "ready": true } })).collect();
        json!({
            "apiVersion": "discovery.k8s.io/v1",
            "kind": "EndpointSlice",
            "metadata": meta(&format!("{name}-{}", family.to_lowercase()), labels),
            "addressType": family,
            "ports": ports,
            "endpoints": endpoints,
        })
    };
    let slices = format!("/apis/discovery.k8s.io/v1/namespaces/{namespace}/endpointslices");
    vec![
        (format!("/api/v1/namespaces/{namespace}/services"), service),
        (slices.clone(), slice("IPv4", false)),
        (slices, slice("IPv6", true)),
    ]
}

/// Whether there is to be anything.
pub fn is_due(gateway: &Value) -> bool {
    let is_accepted = |condition: &Value| condition["type"] == "Accepted" && condition["status"] == "True";
    gateway["metadata"]["deletionTimestamp"].is_null()
        && array(&gateway["status"]["conditions"]).iter().any(is_accepted)
}

/// Makes them, or makes them what they are to be. Says which one is somebody else's, if one is: that is left alone.
pub async fn apply(api: &Api, objects: &[(String, Value)]) -> Result<Option<String>, ApiError> {
    for (list, object) in objects {
        let name = object["metadata"]["name"].as_str().unwrap_or_default();
        let path = format!("{list}/{name}");
        match api.get(&path, JSON).await {
            Err(ApiError::Refused { code: StatusCode::NOT_FOUND, .. }) => {}
            Err(error) => return Err(error),
            Ok(present) => {
                let present: Value = serde_json::from_slice(&present).map_err(ApiError::malformed)?;
                let ours = |key: &str| present["metadata"]["labels"][key] == object["metadata"]["labels"][key];
                if !ours(MANAGED_BY.0) || !ours(NAME) {
                    return Ok(Some(format!("{} {name}", object["kind"].as_str().unwrap_or_default())));
                }
            }
        }
        let path = format!("{path}?fieldManager=sluice&force=true");
        api.send(Method::PATCH, &path, Format::Apply, object.to_string().into()).await?;
    }
    Ok(None)
}

/// `GATEWAY-CLASS`, as far as a Service may be called so; a name that had to be cut ends in a hash of the whole.
fn service_name(gateway: &str, class: &str) -> String {
    let whole = format!("{gateway}-{class}");
    let mut name = whole.replace('.', "-");
    if !name.starts_with(|c: char| c.is_ascii_lowercase()) {
        name.insert_str(0, "gateway-");
    }
    if name.len() > MOST_NAME {
        name.truncate(MOST_NAME - 9);
        name = format!("{}-{:08x}", name.trim_end_matches('-'), super::digest::text(&whole) as u32);
    }
    name
}

fn array(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gateway() -> Value {
        json!({
            "apiVersion": "gateway.networking.k8s.io/v1",
            "metadata": { "name": "edge", "namespace": "a", "uid": "u" },
            "spec": {
                "gatewayClassName": "sluice",
                "infrastructure": { "labels": { "l": "1" }, "annotations": { "n": "2" } },
                "listeners": [
                    { "port": 443, "protocol": "TLS" }, { "port": 443, "protocol": "HTTPS" }, { "port": 53, "protocol": "UDP" },
                ],
            },
            "status": { "conditions": [{ "type": "Accepted", "status": "True" }], "addresses": [{ "value": "198.18.0.1" }, { "value": "2001:db8::1" }] },
        })
    }

    #[test]
    fn a_service_has_what_was_asked_for_and_leads_to_the_gateway() {
        assert!(is_due(&gateway()));
        let made = made(&gateway());
        for (_, object) in &made {
            let metadata = &object["metadata"];
            assert_eq!((&metadata["labels"]["l"], &metadata["labels"][NAME]), (&json!("1"), &json!("edge")));
            assert_eq!(
                (&metadata["annotations"]["n"], &metadata["ownerReferences"][0]["uid"]),
                (&json!("2"), &json!("u"))
            );
        }
        let [(_, service), (_, v4), (_, v6)] = &made[..] else { panic!("{made:?}") };
        assert_eq!(
            (&service["metadata"]["name"], &service["spec"]["clusterIP"]),
            (&json!("edge-sluice"), &json!("None"))
        );
        assert_eq!(service["spec"]["ports"].as_array().unwrap().len(), 2);
        assert_eq!(v4["endpoints"][0]["addresses"], json!(["198.18.0.1"]));
        assert_eq!(v6["endpoints"][0]["addresses"], json!(["2001:db8::1"]));
        assert_eq!(v6["metadata"]["labels"]["kubernetes.io/service-name"], "edge-sluice");
    }

    #[test]
    fn nothing_is_made_for_a_gateway_that_goes_or_is_refused() {
        let mut refused = gateway();
        refused["status"]["conditions"][0]["status"] = "False".into();
        assert!(!is_due(&refused));
        let mut going = gateway();
        going["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z".into();
        assert!(!is_due(&going));
    }

    #[test]
    fn names_are_those_that_a_service_may_have() {
        assert_eq!(service_name("1.edge", "sluice"), "gateway-1-edge-sluice");
        let (a, b) = (service_name(&"a".repeat(100), "x"), service_name(&"a".repeat(100), "y"));
        assert!(a.len() <= MOST_NAME && a != b, "{a} {b}");
    }
}
