//! What followed changes is what it would be from nothing, and what they do not concern is not made again.

use std::collections::BTreeSet;
use std::fmt::Debug;
use std::sync::Arc;

use gateway_agent::compile::{Compiled, Report, compile};
use gateway_agent::emit::maps::{Wanted, maps};
use gateway_agent::index::{
    BackendRef, Change, Created, EndpointSlice, Health, HttpBackendRef, Index, Name, Object, Reach, Route, Rules,
    Service,
};
use gateway_agent::ir::{HostName, Ir, Traffic};
use proptest::prelude::*;
use proptest::sample::Index as Pick;

use crate::order::world;
use crate::render;

/// What happens to an object. What is not for its kind leaves it as it was in the beginning.
#[derive(Clone, Debug)]
enum Step {
    Remove,
    AsItWas,
    /// It takes the place of one of another world that has its kind and name, if there is one.
    AsElsewhere,
    /// Of an EndpointSlice.
    NoEndpoints,
    OtherAddress(u8),
    OtherHealth,
    /// It moves to another Service, or (with luck) to one that is not there.
    OtherService(Pick),
    NoService,
    /// Of a route that forwards: its first backend has another weight.
    Weight(u32),
    /// Of any route: the last backend of its first rule is gone.
    FewerBackends,
    /// It leads to a Service more.
    MoreBackends(Pick),
    /// It wants other host names.
    Hosts(Vec<HostName>),
    /// It is of another age: others may come first.
    Age(Option<i64>),
    /// It names another parent, as some other route does.
    Parents(Pick),
}

fn hosts() -> impl Strategy<Value = Vec<HostName>> {
    let all = vec![
        HostName::Wildcard("example.com".into()),
        HostName::Exact("a.example.com".into()),
        HostName::Exact("www.example.com".into()),
        HostName::Exact("www.example.org".into()),
    ];
    proptest::sample::subsequence(all, 0..3)
}

fn step() -> impl Strategy<Value = (Pick, Step)> {
    let of_any = prop_oneof![Just(Step::Remove), Just(Step::AsItWas), Just(Step::AsElsewhere)];
    let of_slices = prop_oneof![
        Just(Step::NoEndpoints),
        any::<u8>().prop_map(Step::OtherAddress),
        Just(Step::OtherHealth),
        any::<Pick>().prop_map(Step::OtherService),
        Just(Step::NoService),
    ];
    let of_routes = prop_oneof![
        (0_u32..3).prop_map(Step::Weight),
        Just(Step::FewerBackends),
        any::<Pick>().prop_map(Step::MoreBackends),
        hosts().prop_map(Step::Hosts),
        proptest::option::of(0_i64..3).prop_map(Step::Age),
        any::<Pick>().prop_map(Step::Parents),
    ];
    (any::<Pick>(), prop_oneof![2 => of_any, 1 => of_slices, 3 => of_routes])
}

fn services(objects: &[Object]) -> Vec<Arc<Service>> {
    fn service(object: &Object) -> Option<Arc<Service>> {
        if let Object::Service(service) = object { Some(Arc::clone(service)) } else { None }
    }
    objects.iter().filter_map(service).collect()
}

fn routes(objects: &[Object]) -> Vec<Arc<Route>> {
    fn route(object: &Object) -> Option<Arc<Route>> {
        if let Object::Route(route) = object { Some(Arc::clone(route)) } else { None }
    }
    objects.iter().filter_map(route).collect()
}

/// `None`: there are none.
fn picked<T>(all: &[Arc<T>], pick: &Pick) -> Option<Arc<T>> {
    (!all.is_empty()).then(|| Arc::clone(pick.get(all)))
}

fn to(service: &Service) -> BackendRef {
    let port = service.ports.first().map(|port| port.port);
    BackendRef { group: "".into(), kind: "Service".into(), name: service.meta.name.clone(), port, weight: 1 }
}

/// Whether there was something to change.
fn change_route(route: &mut Route, objects: &[Object], step: &Step) -> Option<()> {
    route.meta.generation += 1;
    match (step, &mut route.rules) {
        (Step::Hosts(hosts), _) => route.hostnames = hosts.clone().into(),
        (Step::Age(age), _) => {
            route.meta.created =
                age.map_or(Created::Unknown, |age| Created::At(jiff::Timestamp::from_second(age).expect("a time")));
        }
        (Step::Parents(pick), _) => {
            route.parents = picked(&routes(objects), pick)?.parents.clone();
        }
        (Step::Weight(weight), Rules::Forward { backends, .. }) => backends.first_mut()?.weight = *weight,
        (Step::FewerBackends, Rules::Forward { backends, .. }) => {
            let mut fewer = backends.to_vec();
            fewer.pop();
            *backends = fewer.into();
        }
        (Step::FewerBackends, Rules::Http(rules)) => {
            let mut fewer = rules.first()?.backends.to_vec();
            fewer.pop();
            rules.first_mut()?.backends = fewer.into();
        }
        (Step::MoreBackends(pick), Rules::Forward { backends, .. }) => {
            let more = to(&*picked(&services(objects), pick)?);
            *backends = backends.iter().cloned().chain([more]).collect();
        }
        (Step::MoreBackends(pick), Rules::Http(rules)) => {
            let more = to(&*picked(&services(objects), pick)?);
            let mut backends = rules.first()?.backends.to_vec();
            let filters = Box::default();
            backends.push(HttpBackendRef { reference: more, filters });
            rules.first_mut()?.backends = backends.into();
        }
        _ => return None,
    }
    Some(())
}

fn change_slice(slice: &mut EndpointSlice, objects: &[Object], step: &Step) {
    match step {
        Step::NoEndpoints => slice.endpoints = [].into(),
        Step::OtherAddress(last) => {
            slice.endpoints.iter_mut().take(1).for_each(|e| e.address = [198, 18, 9, *last].into());
        }
        Step::OtherHealth => slice.endpoints.iter_mut().for_each(|e| e.health = Health::NotReady),
        Step::OtherService(pick) => {
            let name = picked(&services(objects), pick).map(|service| service.meta.name.name.clone());
            let namespace = slice.meta.name.namespace.clone();
            slice.service = name.map(|name| Name { namespace, name });
        }
        Step::NoService => slice.service = None,
        _ => {}
    }
}

/// `elsewhere`: the objects of another world.
fn change(objects: &[Object], elsewhere: &[Object], index: &Index, at: &Pick, step: &Step) -> Change {
    let all: Vec<&Object> = objects.iter().chain(elsewhere).collect();
    let object = *at.get(&all);
    match (step, object) {
        (Step::Remove, _) => Change::Remove(object.id()),
        (Step::AsElsewhere, _) => {
            let other = elsewhere.iter().find(|other| other.id() == object.id());
            Change::Set(other.unwrap_or(object).clone())
        }
        (_, Object::EndpointSlice(slice)) => {
            let mut slice = EndpointSlice::clone(slice);
            change_slice(&mut slice, objects, step);
            Change::Set(Object::EndpointSlice(slice.into()))
        }
        (_, Object::Route(route)) => {
            // On top of what happened to it before.
            let mut changed = Route::clone(index.route(&route.id()).unwrap_or(route));
            match change_route(&mut changed, objects, step) {
                Some(()) => Change::Set(Object::Route(changed.into())),
                None => Change::Set(object.clone()),
            }
        }
        _ => Change::Set(object.clone()),
    }
}

/// What is equal is to be the same.
fn check_shared<T: PartialEq + Debug>(before: &[Arc<T>], after: &[Arc<T>]) -> Result<(), TestCaseError> {
    for new in after {
        let old = before.iter().find(|old| *old == new);
        if let Some(old) = old {
            prop_assert!(before.iter().any(|old| Arc::ptr_eq(old, new)), "made again: {:?}", old);
        }
    }
    Ok(())
}

fn check_all_shared(before: (&Ir, &Report), after: (&Ir, &Report)) -> Result<(), TestCaseError> {
    let ((before, old), (after, new)) = (before, after);
    check_shared(&before.listeners, &after.listeners)?;
    check_shared(&old.classes, &new.classes)?;
    check_shared(&old.gateways, &new.gateways)?;
    check_shared(&old.listener_sets, &new.listener_sets)?;
    check_shared(&old.routes, &new.routes)?;
    check_shared(&old.policies, &new.policies)?;
    for listener in &after.listeners {
        let Some(old) = before.listeners.iter().find(|old| old.name == listener.name) else { continue };
        match (&old.traffic, &listener.traffic) {
            (Traffic::Tls { names: old, .. }, Traffic::Tls { names: new, .. }) => check_shared(old, new)?,
            (Traffic::Http(old), Traffic::Http(new)) => {
                check_shared(std::slice::from_ref(old), std::slice::from_ref(new))?;
                let routes = |listener: &gateway_agent::ir::http::Listener| -> Vec<_> {
                    listener.routes.iter().map(|attachment| Arc::clone(&attachment.route)).collect()
                };
                check_shared(&routes(old), &routes(new))?;
            }
            _ => {}
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 600, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_followed_changes_is_what_it_is_from_nothing(
        objects in world(),
        elsewhere in world(),
        batches in proptest::collection::vec(proptest::collection::vec(step(), 1..4), 1..12),
    ) {
        let mut index = Index::new(render::node());
        index.apply(objects.iter().cloned().map(Change::Set));
        let mut compiled = Compiled::of(&index);
        let mut wanted: Wanted = maps(&compiled.ir, None);
        for batch in batches {
            let changes: Vec<Change> =
                batch.iter().map(|(at, step)| change(&objects, &elsewhere, &index, at, step)).collect();
            let before = (Arc::clone(&compiled.ir), compiled.report.clone());
            let reach = index.apply(changes);
            compiled.follow(&index, &reach);
            let (ir, report) = compile(&index);
            prop_assert_eq!(&*compiled.ir, &ir);
            prop_assert_eq!(&compiled.report, &report);
            check_all_shared((&before.0, &before.1), (&compiled.ir, &compiled.report))?;
            wanted = maps(&compiled.ir, Some((&before.0, wanted)));
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
    assert_eq!(reach, Reach { endpoints: BTreeSet::from([service]), ..Reach::default() });
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
