//! What did not change is not made again: emit and apply go by that.

use std::sync::Arc;

use gateway_agent::compile::compile;
use gateway_agent::index::{Change, EndpointSlice, Index, Kind, Name, Object, ObjectId, Service};
use gateway_agent::ir::{Endpoint, Ir, Target, TlsMode, Traffic};
use gateway_agent::source::files::load_dir;

use crate::render;

fn write(dir: &std::path::Path, name: &str, text: &str) {
    std::fs::write(dir.join(name), text).expect("a file");
}

/// Two Services with a route each.
fn two_services(address: &str) -> (tempfile::TempDir, Index) {
    let dir = tempfile::tempdir().expect("a directory");
    write(dir.path(), "gateway.yaml", include_str!("cases/route-with-two-gateways/manifests.yaml"));
    for (service, address) in [("one", "198.18.1.1"), ("two", address)] {
        let text = format!(
            "{{apiVersion: v1, kind: Service, metadata: {{name: {service}}}, spec: {{ports: [{{port: 1}}]}}}}\n---\n\
             {{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, metadata: {{name: {service}, \
             labels: {{kubernetes.io/service-name: {service}}}}}, addressType: IPv4, ports: [{{port: 1}}], \
             endpoints: [{{addresses: [{address}]}}]}}\n---\n\
             {{apiVersion: gateway.networking.k8s.io/v1, kind: TCPRoute, metadata: {{name: a-{service}}}, \
             spec: {{parentRefs: [{{name: {}}}], rules: [{{backendRefs: [{{name: {service}, port: 1}}]}}]}}}}\n",
            if service == "one" { "a" } else { "b" }
        );
        write(dir.path(), &format!("{service}.yaml"), &text);
    }
    let mut index = Index::new(render::node());
    index.apply(load_dir(dir.path()).expect("manifests").objects.into_iter().map(Change::Set));
    (dir, index)
}

fn endpoints<'a>(ir: &'a Ir, name: &str) -> &'a Arc<[Endpoint]> {
    let sets = ir.listeners.iter().flat_map(|l| l.backend_sets());
    let mut targets = sets.flat_map(|set| &set.refs).map(|r| &r.target);
    targets
        .find_map(|target| match target {
            Target::Endpoints { service, endpoints, .. } if **service == *name => Some(endpoints),
            _ => None,
        })
        .expect("the service")
}

#[test]
fn a_changed_slice_leaves_the_endpoints_of_other_services_alone() {
    let (_dir, mut index) = two_services("198.18.1.2");
    let (before, _) = compile(&index);
    let (_other_dir, other) = two_services("198.18.1.3");
    let slice = other.slices().find(|s| &*s.meta.name.name == "two").expect("the slice").clone();
    index.apply([Change::Set(Object::EndpointSlice(slice))]);
    let (after, _) = compile(&index);
    assert!(Arc::ptr_eq(endpoints(&before, "default/one"), endpoints(&after, "default/one")));
    assert_ne!(endpoints(&before, "default/two"), endpoints(&after, "default/two"));
}

#[test]
fn a_slice_written_again_as_it_was_keeps_its_endpoints() {
    let (_dir, mut index) = two_services("198.18.1.2");
    let (before, _) = compile(&index);
    let slice = index.slices().find(|s| &*s.meta.name.name == "two").expect("the slice").clone();
    index.apply([Change::Set(Object::EndpointSlice(slice))]);
    let (after, _) = compile(&index);
    assert!(Arc::ptr_eq(endpoints(&before, "default/two"), endpoints(&after, "default/two")));
}

#[test]
fn asking_for_proxy_protocol_changes_the_endpoints_of_that_service_alone() {
    let (_dir, mut index) = two_services("198.18.1.2");
    let (before, _) = compile(&index);
    let name = Name { namespace: "default".into(), name: "two".into() };
    let mut service = Service::clone(index.service(&name).expect("the service"));
    service.proxy_protocol = true;
    index.apply([Change::Set(Object::Service(service.into()))]);
    let (after, _) = compile(&index);
    assert!(Arc::ptr_eq(endpoints(&before, "default/one"), endpoints(&after, "default/one")));
    let asked = |ir| endpoints(ir, "default/two").iter().map(|endpoint| endpoint.proxy_protocol).collect::<Vec<_>>();
    assert_eq!((asked(&before), asked(&after)), (vec![false], vec![true]));
}

#[test]
fn a_certificate_is_read_once() {
    let case = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("compile/cases/tls-several-certificates");
    let mut index = Index::new(render::node());
    index.apply(load_dir(&case).expect("a case").objects.into_iter().map(Change::Set));
    let certificates = |index: &Index| {
        let (ir, _) = compile(index);
        let found = ir.listeners.iter().find_map(|listener| match &listener.traffic {
            Traffic::Tls { mode: TlsMode::Terminate { certificates }, .. } => Some(certificates.clone()),
            _ => None,
        });
        found.expect("a listener that ends TLS")
    };
    let (before, after) = (certificates(&index), certificates(&index));
    assert_eq!(before.len(), 2);
    assert!(before.iter().zip(&after).all(|(before, after)| Arc::ptr_eq(before, after)));
    assert!(!format!("{:?}", before[0]).contains("key"), "keys belong into no log");
}

#[test]
fn a_removed_slice_takes_its_endpoints_with_it() {
    let (_dir, mut index) = two_services("198.18.1.2");
    let slice = index.slices().find(|s| &*s.meta.name.name == "two").expect("the slice").meta.name.clone();
    index.apply([Change::Remove(ObjectId { kind: Kind::EndpointSlice, name: slice })]);
    let (after, _) = compile(&index);
    assert_eq!(endpoints(&after, "default/two").len(), 0);
    assert_eq!(endpoints(&after, "default/one").len(), 1);
}

#[test]
fn a_slice_that_changes_its_service_leaves_the_old_one() {
    let (_dir, mut index) = two_services("198.18.1.2");
    let slice = index.slices().find(|s| &*s.meta.name.name == "two").expect("the slice");
    let mut moved = EndpointSlice::clone(slice);
    moved.service = index.slices().find(|s| &*s.meta.name.name == "one").expect("the slice").service.clone();
    index.apply([Change::Set(Object::EndpointSlice(moved.into()))]);
    let (after, _) = compile(&index);
    assert_eq!(endpoints(&after, "default/two").len(), 0);
    assert_eq!(endpoints(&after, "default/one").len(), 2);
}
