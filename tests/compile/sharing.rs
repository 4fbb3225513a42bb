//! What did not change is not made again: emit and apply go by that.

use std::sync::Arc;
use std::time::Instant;

use gateway_agent::compile::{Compiled, compile};
use gateway_agent::index::{Change, EndpointSlice, Index, Kind, Name, Object, ObjectId, Reach, Route, Rules, Service};
use gateway_agent::ir::http::{Balance, Listener};
use gateway_agent::ir::{Endpoint, Ir, Target, TlsMode, Traffic};
use gateway_agent::source::Strings;
use gateway_agent::source::files::load_dir;
use gateway_agent::source::manifest::read;

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

/// Manifests of so many HTTPRoutes at one Gateway, each with a Service of its own.
fn many_routes(count: usize) -> Index {
    let mut text = "apiVersion: gateway.networking.k8s.io/v1\nkind: GatewayClass\nmetadata: {name: sluice}\n\
                    spec: {controllerName: sluice.dev/gateway-controller}\n---\n\
                    apiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\nmetadata: {name: edge}\n\
                    spec: {gatewayClassName: sluice, listeners: [{name: a, protocol: HTTP, port: 80}, \
                    {name: b, protocol: HTTP, port: 81, hostname: other.example.org}]}\n"
        .to_owned();
    for i in 0..count {
        text += &format!(
            "---\napiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {{name: r{i}}}\nspec: {{parentRefs: \
             [{{name: edge}}], hostnames: [h{i}.example.com], rules: [{{matches: [{{path: {{value: /a{i}}}}}], backendRefs: \
             [{{name: s{i}, port: 80}}]}}]}}\n---\n{}",
            service(&format!("s{i}"), &format!("198.19.{}.{}", i / 250, 1 + i % 250))
        );
    }
    index_of(&text)
}

fn service(name: &str, address: &str) -> String {
    format!(
        "{{apiVersion: v1, kind: Service, metadata: {{name: {name}}}, spec: {{ports: [{{port: 80}}]}}}}\n---\n\
         {{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, metadata: {{name: {name}, labels: \
         {{kubernetes.io/service-name: {name}}}}}, addressType: IPv4, ports: [{{port: 80}}], endpoints: \
         [{{addresses: [{address}]}}]}}\n"
    )
}

fn index_of(text: &str) -> Index {
    let mut index = Index::new(render::node());
    index.apply(objects(text).into_iter().map(Change::Set));
    index
}

fn objects(text: &str) -> Vec<Object> {
    let manifest = read(&Arc::from("a.yaml"), text, &mut Strings::default()).expect("YAML");
    assert!(manifest.problems.is_empty(), "{:?}", manifest.problems);
    manifest.objects
}

fn http<'a>(ir: &'a Ir, section: &str) -> &'a Arc<Listener> {
    let found = ir.listeners.iter().find(|listener| *listener.name.section == *section).expect("the listener");
    match &found.traffic {
        Traffic::Http(http) => http,
        other => panic!("{other:?} is no HTTP"),
    }
}

/// The names of routes of the listener `a` that are another `Arc` than before.
fn changed(before: &Ir, after: &Ir) -> Vec<String> {
    let before = &http(before, "a").routes;
    let routes = http(after, "a").routes.iter().map(|attachment| &attachment.route);
    let new = routes.filter(|route| !before.iter().any(|old| Arc::ptr_eq(&old.route, route)));
    new.map(|route| route.name.to_string()).collect()
}

/// Takes in changes as the agent does, and says what the IR was before.
fn change(index: &mut Index, compiled: &mut Compiled, changes: impl IntoIterator<Item = Change>) -> Arc<Ir> {
    let before = Arc::clone(&compiled.ir);
    let reach = index.apply(changes);
    compiled.follow(index, &reach);
    before
}

#[test]
fn nothing_changed_is_the_same_arc() {
    let index = many_routes(3);
    let mut compiled = Compiled::of(&index);
    let before = Arc::clone(&compiled.ir);
    compiled.follow(&index, &Reach::everything());
    assert_eq!(http(&before, "a").routes.len(), 3);
    assert!(Arc::ptr_eq(http(&before, "a"), http(&compiled.ir, "a")));
}

#[test]
fn one_changed_route_is_the_only_new_one() {
    let mut index = many_routes(3);
    let mut compiled = Compiled::of(&index);
    let route = |index: &Index, name: &str| {
        Route::clone(index.routes().find(|route| *route.meta.name.name == *name).expect("the route"))
    };
    // Written again, on another line: nothing that counts.
    let mut again = route(&index, "r0");
    again.meta.origin.line += 1;
    let before = change(&mut index, &mut compiled, [Change::Set(Object::Route(again.into()))]);
    assert!(Arc::ptr_eq(http(&before, "a"), http(&compiled.ir, "a")));

    let mut other = route(&index, "r1");
    let Rules::Http(rules) = &mut other.rules else { panic!("rules") };
    rules[0].timeouts.request = Some(std::time::Duration::from_secs(1));
    let before = change(&mut index, &mut compiled, [Change::Set(Object::Route(other.into()))]);
    assert_eq!(changed(&before, &compiled.ir), ["HTTPRoute default/r1"]);
    assert!(!Arc::ptr_eq(http(&before, "a"), http(&compiled.ir, "a")));
    assert!(Arc::ptr_eq(http(&before, "b"), http(&compiled.ir, "b")), "a listener of which nothing changed");
}

#[test]
fn endpoints_change_one_list_and_no_route() {
    let mut index = many_routes(3);
    let mut compiled = Compiled::of(&index);
    let slice = |address: &str| {
        let all = objects(&service("s2", address)).into_iter();
        all.filter(|o| o.kind() == Kind::EndpointSlice).map(Change::Set).collect::<Vec<_>>()
    };
    let before = change(&mut index, &mut compiled, slice("198.18.9.9"));
    assert!(before.listeners.iter().zip(&compiled.ir.listeners).all(|(before, after)| Arc::ptr_eq(before, after)));
    let changed_lists = |before: &Ir, after: &Ir| -> Vec<usize> {
        let list = |ir: &Ir, i: &usize| ir.endpoints.get(&format!("default/s{i}:80")).expect("a list").clone();
        (0..3).filter(|i| !Arc::ptr_eq(&list(before, i), &list(after, i))).collect()
    };
    assert_eq!(changed_lists(&before, &compiled.ir), [2]);
    let list = compiled.ir.endpoints.get("default/s2:80").expect("a list");
    assert_eq!(list[0].address.to_string(), "198.18.9.9");
    let gone = ObjectId { kind: Kind::Service, name: Name { namespace: "default".into(), name: "s0".into() } };
    let before = change(&mut index, &mut compiled, [Change::Remove(gone)]);
    assert_eq!(changed(&before, &compiled.ir), ["HTTPRoute default/r0"]);
    assert!(compiled.ir.endpoints.get("default/s0:80").is_none());
}

#[test]
fn lists_are_of_what_http_routes_send_to() {
    let mut index = many_routes(2);
    let mut compiled = Compiled::of(&index);
    // Nobody sends there.
    change(&mut index, &mut compiled, objects(&service("other", "198.18.9.9")).into_iter().map(Change::Set));
    assert_eq!(compiled.ir.endpoints.len(), 2);
    let first = index.routes().next().expect("a route").id();
    change(&mut index, &mut compiled, [Change::Remove(first)]);
    assert!(compiled.ir.endpoints.get("default/s0:80").is_none());
    let by_tcp = "{apiVersion: gateway.networking.k8s.io/v1, kind: TCPRoute, metadata: {name: t}, spec: {parentRefs: [{name: edge}], \
                  rules: [{backendRefs: [{name: other, port: 80}]}]}}";
    change(&mut index, &mut compiled, objects(by_tcp).into_iter().map(Change::Set));
    assert_eq!(compiled.ir.endpoints.len(), 1);
    assert_eq!(*compiled.ir, compile(&index).0);
}

#[test]
fn what_was_compiled_before_does_not_show() {
    let mut index = many_routes(4);
    let mut compiled = Compiled::of(&index);
    let policy = "{apiVersion: gateway.networking.k8s.io/v1, kind: BackendTLSPolicy, metadata: {name: p}, spec: {targetRefs: \
                  [{group: '', kind: Service, name: s1}], validation: {hostname: a.example.com, wellKnownCACertificates: System}}}";
    for text in [policy, &policy.replace("a.example", "b.example"), &service("s1", "198.18.9.9")] {
        change(&mut index, &mut compiled, objects(text).into_iter().map(Change::Set));
        assert_eq!((&*compiled.ir, &compiled.report), (&compile(&index).0, &compile(&index).1));
    }
    let policy = index.policies().next().expect("the policy").meta.name.clone();
    let gone = ObjectId { kind: Kind::BackendTLSPolicy, name: policy };
    change(&mut index, &mut compiled, [Change::Remove(gone)]);
    assert_eq!((&*compiled.ir, &compiled.report), (&compile(&index).0, &compile(&index).1));
}

/// Not a benchmark: it notices when a change costs the square of what there is.
#[test]
fn one_changed_service_of_5000_costs_little() {
    let mut index = many_routes(5_000);
    let start = Instant::now();
    let mut compiled = Compiled::of(&index);
    let first = start.elapsed();
    let start = Instant::now();
    let mut changes: Vec<_> = objects(&service("s42", "198.18.9.9")).into_iter().map(Change::Set).collect();
    let Some(Change::Set(Object::Service(service))) = changes.first_mut() else { panic!("a Service") };
    Arc::make_mut(service).balance = Balance::RoundRobin;
    let before = change(&mut index, &mut compiled, changes);
    let again = start.elapsed();
    println!("5,000 routes: {first:?} at first, {again:?} with one changed");
    let (old, new) = (&http(&before, "a").routes, &http(&compiled.ir, "a").routes);
    let different = old.iter().zip(new.iter()).filter(|(old, new)| !Arc::ptr_eq(&old.route, &new.route));
    assert_eq!((old.len(), new.len(), different.count()), (5_000, 5_000, 1));
    assert!(again.as_secs_f64() < 2.0, "{again:?}");
}
