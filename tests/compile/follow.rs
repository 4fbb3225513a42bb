//! What followed changes of endpoints is what it would be from scratch.

use std::collections::BTreeSet;
use std::sync::Arc;

use gateway_agent::compile::{Compiled, compile};
use gateway_agent::emit::maps::{Wanted, maps};
use gateway_agent::index::{
    BackendRef, Change, EndpointSlice, Health, Index, Name, Object, ObjectId, Reach, Route, Service, Touched,
};
use gateway_agent::ir::Traffic;
use proptest::prelude::*;
use proptest::sample::Index as Pick;

use crate::order::world;
use crate::render;

/// What happens to an EndpointSlice, a route or a Service.
#[derive(Clone, Debug)]
enum Step {
    Remove,
    AsItWas,
    NoEndpoints,
    OtherAddress(u8),
    OtherHealth,
    /// It moves to another Service, or (with luck) to one that is not there.
    OtherService(Pick),
    NoService,
    /// Of a route: its first backend has another weight.
    Weight(u32),
    /// Of a route: its last backend is gone.
    FewerBackends,
    /// Of a route: it leads to a Service more.
    MoreBackends(Pick),
    /// Of a Service: it is gone, or back. Nothing that can be followed.
    Service,
}

fn step() -> impl Strategy<Value = (Pick, Step)> {
    let what = prop_oneof![
        Just(Step::Remove),
        Just(Step::AsItWas),
        Just(Step::NoEndpoints),
        any::<u8>().prop_map(Step::OtherAddress),
        Just(Step::OtherHealth),
        any::<Pick>().prop_map(Step::OtherService),
        Just(Step::NoService),
        (0_u32..3).prop_map(Step::Weight),
        Just(Step::FewerBackends),
        any::<Pick>().prop_map(Step::MoreBackends),
        Just(Step::Service),
    ];
    (any::<Pick>(), what)
}

fn slices(objects: &[Object]) -> Vec<Arc<EndpointSlice>> {
    fn slice(object: &Object) -> Option<Arc<EndpointSlice>> {
        if let Object::EndpointSlice(slice) = object { Some(Arc::clone(slice)) } else { None }
    }
    objects.iter().filter_map(slice).collect()
}

fn services(objects: &[Object]) -> Vec<Arc<Service>> {
    fn service(object: &Object) -> Option<Arc<Service>> {
        if let Object::Service(service) = object { Some(Arc::clone(service)) } else { None }
    }
    objects.iter().filter_map(service).collect()
}

fn routes(objects: &[Object]) -> Vec<ObjectId> {
    objects.iter().filter(|object| matches!(object, Object::Route(_))).map(Object::id).collect()
}

/// What a step makes of a route, if it is one for routes.
fn changed_route(objects: &[Object], index: &Index, at: &Pick, step: &Step) -> Option<Route> {
    let mut route = Route::clone(index.route(at.get(&routes(objects)))?);
    let mut backends = route.backends.to_vec();
    match step {
        Step::Weight(weight) => backends.first_mut()?.weight = *weight,
        Step::FewerBackends => drop(backends.pop()),
        Step::MoreBackends(pick) => {
            let service = Arc::clone(pick.get(&services(objects)));
            let port = service.ports.first().map(|port| port.port);
            let name = service.meta.name.clone();
            backends.push(BackendRef { group: "".into(), kind: "Service".into(), name, port, weight: 1 });
        }
        _ => return None,
    }
    route.meta.generation += 1;
    route.backends = backends.into();
    Some(route)
}

fn change(objects: &[Object], index: &Index, at: &Pick, step: &Step) -> Change {
    if let Some(route) = changed_route(objects, index, at, step) {
        return Change::Set(Object::Route(route.into()));
    }
    if let Step::Service = step {
        let service = Object::Service(Arc::clone(at.get(&services(objects))));
        let there = index.service(&service.meta().name).is_some();
        return if there { Change::Remove(service.id()) } else { Change::Set(service) };
    }
    let mut slice = EndpointSlice::clone(at.get::<Arc<_>>(&slices(objects)));
    match step {
        Step::Remove => return Change::Remove(Object::EndpointSlice(slice.into()).id()),
        Step::AsItWas | Step::Service | Step::Weight(_) | Step::FewerBackends | Step::MoreBackends(_) => {}
        Step::NoEndpoints => slice.endpoints = [].into(),
        Step::OtherAddress(last) => {
            slice.endpoints.iter_mut().take(1).for_each(|e| e.address = [198, 18, 9, *last].into());
        }
        Step::OtherHealth => slice.endpoints.iter_mut().for_each(|e| e.health = Health::NotReady),
        Step::OtherService(pick) => {
            let name = pick.get(&services(objects)).meta.name.clone();
            slice.service = Some(Name { namespace: slice.meta.name.namespace.clone(), name: name.name });
        }
        Step::NoService => slice.service = None,
    }
    Change::Set(Object::EndpointSlice(slice.into()))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_followed_its_endpoints_is_what_it_is_from_scratch(
        objects in world().prop_filter("something to change", |o| {
            !slices(o).is_empty() && !services(o).is_empty() && !routes(o).is_empty()
        }),
        batches in proptest::collection::vec(proptest::collection::vec(step(), 1..4), 1..12),
    ) {
        let mut index = Index::new(render::node());
        index.apply(objects.iter().cloned().map(Change::Set));
        let mut compiled = Compiled::of(&index);
        let mut wanted: Wanted = maps(&compiled.ir, None);
        for batch in batches {
            let changes: Vec<Change> = batch.iter().map(|(at, step)| change(&objects, &index, at, step)).collect();
            let before = Arc::clone(&compiled.ir);
            let reach = index.apply(changes);
            let has_service = batch.iter().any(|(_, step)| matches!(step, Step::Service));
            prop_assert_eq!(reach == Reach::Everything, has_service);
            compiled.follow(&index, &reach);
            let (ir, report) = compile(&index);
            prop_assert_eq!(&*compiled.ir, &ir);
            prop_assert_eq!(&compiled.report, &report);
            wanted = maps(&compiled.ir, Some((&before, wanted)));
            prop_assert_eq!(&wanted, &maps(&ir, None));
        }
    }
}

/// A world to look at closely: names of several routes on one listener, one route to two Services.
fn two_routes() -> Index {
    let mut text = String::from(
        "{apiVersion: gateway.networking.k8s.io/v1, kind: GatewayClass, metadata: {name: sluice}, \
         spec: {controllerName: sluice.dev/gateway-controller}}\n---\n\
         {apiVersion: gateway.networking.k8s.io/v1, kind: Gateway, metadata: {name: g}, spec: {gatewayClassName: sluice, \
         listeners: [{name: tls, port: 443, protocol: TLS, tls: {mode: Passthrough}}, \
         {name: tcp, port: 5432, protocol: TCP}]}}\n",
    );
    for service in ["a", "b"] {
        text += &format!(
            "---\n{{apiVersion: v1, kind: Service, metadata: {{name: {service}}}, spec: {{ports: [{{port: 443}}]}}}}\n---\n\
             {{apiVersion: gateway.networking.k8s.io/v1, kind: TLSRoute, metadata: {{name: {service}}}, spec: {{\
             parentRefs: [{{name: g, sectionName: tls}}], hostnames: [{service}.example.com, www.{service}.example.com], \
             rules: [{{backendRefs: [{{name: {service}, port: 443}}]}}]}}}}\n"
        );
    }
    let dir = tempfile::tempdir().expect("a directory");
    std::fs::write(dir.path().join("all.yaml"), text).expect("a file");
    let mut index = Index::new(render::node());
    let objects = gateway_agent::source::files::load_dir(dir.path()).expect("manifests").objects;
    index.apply(objects.into_iter().map(Change::Set));
    index
}

#[test]
fn an_endpoint_of_one_service_leaves_everything_else_as_it_is() {
    let mut index = two_routes();
    let mut compiled = Compiled::of(&index);
    let before = Arc::clone(&compiled.ir);
    let wanted_before = maps(&before, None);
    let service = Name { namespace: "default".into(), name: "a".into() };
    let slice = format!(
        "{{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, metadata: {{name: a, labels: \
         {{kubernetes.io/service-name: {}}}}}, addressType: IPv4, ports: [{{port: 443}}], endpoints: [{{addresses: [198.18.1.1]}}]}}",
        service.name
    );
    let dir = tempfile::tempdir().expect("a directory");
    std::fs::write(dir.path().join("slice.yaml"), slice).expect("a file");
    let objects = gateway_agent::source::files::load_dir(dir.path()).expect("manifests").objects;
    let reach = index.apply(objects.into_iter().map(Change::Set));
    assert_eq!(reach, Reach::Backends(Touched { services: BTreeSet::from([service]), ..Touched::default() }));
    compiled.follow(&index, &reach);
    let wanted = maps(&compiled.ir, Some((&before, wanted_before.clone())));
    let mut same = Vec::new();
    for (i, listener) in compiled.ir.listeners.iter().enumerate() {
        let shared = Arc::ptr_eq(listener, &before.listeners[i]);
        assert_eq!(shared, Arc::ptr_eq(&wanted.listeners[i], &wanted_before.listeners[i]));
        same.push((listener.name.section.to_string(), shared));
        let (Traffic::Tls { names, .. }, Traffic::Tls { names: old, .. }) =
            (&listener.traffic, &before.listeners[i].traffic)
        else {
            continue;
        };
        let tls = |wanted: &Wanted| wanted.listeners[i].tls.clone().expect("names").names;
        for (i, name) in names.iter().enumerate() {
            let shared = Arc::ptr_eq(name, &old[i]);
            assert_eq!(shared, Arc::ptr_eq(&tls(&wanted)[i], &tls(&wanted_before)[i]));
            same.push((name.host.to_string(), shared));
        }
        let sets: Vec<_> = names.iter().filter_map(|name| name.backends.as_ref()).collect();
        assert!(Arc::ptr_eq(sets[0], sets[2]), "names of one route share its backends");
    }
    let expected = [
        ("tcp", true),
        ("tls", false),
        ("a.example.com", false),
        ("b.example.com", true),
        ("www.a.example.com", false),
        ("www.b.example.com", true),
        // The listener's own.
        ("*", true),
    ];
    assert_eq!(same, expected.map(|(name, same)| (name.to_owned(), same)));
}
