//! What `kubectl` shows to somebody whose manifests are wrong.

use anyhow::{Context, Result, ensure};

use crate::bed::Bed;

const MANIFESTS: &str = include_str!("texts.yaml");
const NAMESPACE: &str = "texts";

/// Object, and what `kubectl describe` says of it: the reason, and what to do.
const TEXTS: &[(&str, &str, &str)] = &[
    (
        "gateway mistaken",
        "InvalidCertificateRef",
        "tls.certificateRefs[0]: there is no Secret texts/nobodys; create it or correct the reference",
    ),
    (
        "gateway mistaken",
        "ProtocolConflict",
        "Port 8097 is also wanted by twice (TCP) of the same Gateway, and nothing in a packet tells them apart; give each another port",
    ),
    (
        "gateway mistaken",
        "InvalidRouteKinds",
        "allowedRoutes.kinds: a TCP listener takes TCPRoute, not HTTPRoute; name no other",
    ),
    (
        "gateway named",
        "UnsupportedAddress",
        "spec.addresses[0]: addresses of type Hostname (shop.example) are not supported; give it type IPAddress",
    ),
    ("gateway elsewhere", "AddressNotUsable", "spec.addresses[0]: 198.18.15.251 is in no address pool"),
    (
        "httproute lost",
        "BackendNotFound",
        "spec.rules[0].backendRefs[0]: there is no Service texts/nobody; create it or correct",
    ),
    (
        "httproute lost",
        "BackendNotFound",
        "spec.rules[0].backendRefs[1]: Service texts/known has no TCP port 81; it has 80 (TCP)",
    ),
    (
        "httproute lost",
        "BackendNotFound",
        "Service kube-system/any is in another namespace, and no ReferenceGrant there lets a HTTPRoute of texts refer to it; create one there",
    ),
    (
        "httproute expressive",
        "UnsupportedValue",
        "spec.rules[0].matches[0].path.value: \"/(\\w{100}){100}\" is larger than 262144 bytes once compiled; make it shorter",
    ),
    ("httproute annotated", "UnsupportedValue", "metadata.annotations[sluice.dev/external-auth-timeout]: "),
];

/// Without its breaks of lines.
fn describe(bed: &Bed, object: &str) -> Result<String> {
    let text = bed.kubectl(&format!("describe {object} -n {NAMESPACE}"))?;
    Ok(text.split_whitespace().collect::<Vec<_>>().join(" "))
}

#[test]
fn kubectl_describe_says_what_is_wrong_and_what_to_do() {
    let bed = Bed::new();
    let _applied = bed.apply(NAMESPACE, MANIFESTS);
    for (object, reason, text) in TEXTS {
        bed.wait_for("what is wrong", || {
            let described = describe(&bed, object)?;
            ensure!(described.contains(text) && described.contains(reason), "{object}: {described}");
            Ok(())
        });
    }
    // What turned wrong is an Event too, which `describe` shows.
    bed.wait_for("an Event", || {
        let described = describe(&bed, "httproute lost")?;
        let (_, events) = described.split_once("Events:").context("no Events")?;
        ensure!(events.contains("Warning") && events.contains("there is no Service texts/nobody"), "{events}");
        Ok(())
    });
    let columns = bed.kubectl(&format!("get gateway named -n {NAMESPACE}")).unwrap();
    assert!(columns.contains("PROGRAMMED") && columns.contains("False"), "{columns}");
}
