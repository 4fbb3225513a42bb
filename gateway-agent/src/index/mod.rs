//! The objects that matter, by kind and name, and what is known of this node. It changes object by object; what
//! `compile` needs of many objects at once (the endpoints of a Service) is kept ready here.

mod endpoints;
mod gateway;
mod objects;
mod parameters;
mod route;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use crate::addresses::Addressing;

pub use endpoints::ServiceEndpoints;
pub use gateway::*;
pub use objects::*;
pub use parameters::*;
pub use route::*;

/// What the index must know of the node it is for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodeFacts {
    /// `nodeName` of the endpoints that run here.
    pub name: Arc<str>,
    /// The node's own addresses, which Gateways without `spec.addresses` share.
    pub addresses: Vec<IpAddr>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// New, or in place of the object of the same kind and name.
    Set(Object),
    Remove(ObjectId),
    /// The CRDs of the Gateway API are these now.
    Bundles(Bundles),
}

/// The CRDs of the Gateway API that a cluster has, by plural, each with the version of the bundle that it came with, if it says so.
/// Empty where there is no cluster.
pub type Bundles = BTreeMap<Box<str>, Option<Arc<str>>>;

/// What changes touch, and what is therefore to be looked at again.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reach {
    /// Anything may be another: Gateways came or went, or Namespaces, or the node has changed.
    pub everything: bool,
    /// What decides which listeners there are: GatewayClasses, Gateways, ListenerSets, and what these refer to.
    pub listeners: bool,
    /// BackendTLSPolicies, and what they refer to.
    pub policies: bool,
    /// Namespaces of ReferenceGrants.
    pub grants: BTreeSet<Arc<str>>,
    /// Services that have changed.
    pub services: BTreeSet<Name>,
    /// Services whose EndpointSlices have.
    pub endpoints: BTreeSet<Name>,
    /// EndpointSlices that belong to no Service.
    pub unread_slices: bool,
    /// Routes, as they were before; `None`: they were not.
    pub routes: BTreeMap<ObjectId, Option<Arc<Route>>>,
}

impl Reach {
    pub fn everything() -> Reach {
        Reach { everything: true, ..Reach::default() }
    }
}

/// Every map is sorted, so that what is made of it does not depend on the order of the changes.
#[derive(Debug, Default)]
pub struct Index {
    node: NodeFacts,
    addressing: Addressing,
    bundles: Bundles,
    classes: BTreeMap<Name, Arc<GatewayClass>>,
    gateways: BTreeMap<Name, Arc<Gateway>>,
    listener_sets: BTreeMap<Name, Arc<ListenerSet>>,
    routes: BTreeMap<ObjectId, Arc<Route>>,
    /// The same: sorting thousands anew for every change costs more than to look here.
    routes_by_precedence: BTreeMap<(Precedence, RouteType), Arc<Route>>,
    policies: BTreeMap<Name, Arc<BackendTlsPolicy>>,
    grants: BTreeMap<Name, Arc<ReferenceGrant>>,
    configs: BTreeMap<Name, Arc<SluiceConfig>>,
    services: BTreeMap<Name, Arc<Service>>,
    slices: BTreeMap<Name, Arc<EndpointSlice>>,
    config_maps: BTreeMap<Name, Arc<ConfigMap>>,
    secrets: BTreeMap<Name, Arc<Secret>>,
    namespaces: BTreeMap<Name, Arc<Namespace>>,
    /// Service → its EndpointSlices, sorted.
    slices_of: BTreeMap<Name, Vec<Name>>,
    /// EndpointSlices that belong to no Service.
    unread_slices: BTreeSet<Name>,
    endpoints: BTreeMap<Name, ServiceEndpoints>,
}

impl Index {
    pub fn new(node: NodeFacts) -> Index {
        Index { node, ..Index::default() }
    }

    /// Takes in changes. Costs what the changed objects and the Services they touch cost, whatever else there is.
    pub fn apply(&mut self, changes: impl IntoIterator<Item = Change>) -> Reach {
        let mut reach = Reach::default();
        for change in changes {
            match change {
                Change::Set(object) => self.set(object, &mut reach),
                Change::Remove(id) => self.remove(&id, &mut reach),
                Change::Bundles(bundles) => {
                    reach.listeners |= self.bundles != bundles;
                    self.bundles = bundles;
                }
            }
        }
        for service in reach.services.union(&reach.endpoints) {
            self.gather_endpoints(service);
        }
        reach
    }

    /// The node's own addresses may come and go.
    pub fn set_node_addresses(&mut self, addresses: Vec<IpAddr>) {
        self.node.addresses = addresses;
    }

    /// What is known of addresses: the pool, and what was given out of it.
    pub fn addressing(&self) -> &Addressing {
        &self.addressing
    }

    pub fn addressing_mut(&mut self) -> &mut Addressing {
        &mut self.addressing
    }

    pub fn node(&self) -> &NodeFacts {
        &self.node
    }

    pub fn bundles(&self) -> &Bundles {
        &self.bundles
    }

    pub fn classes(&self) -> impl Iterator<Item = &Arc<GatewayClass>> {
        self.classes.values()
    }

    pub fn gateways(&self) -> impl Iterator<Item = &Arc<Gateway>> {
        self.gateways.values()
    }

    pub fn listener_sets(&self) -> impl Iterator<Item = &Arc<ListenerSet>> {
        self.listener_sets.values()
    }

    pub fn policies(&self) -> impl Iterator<Item = &Arc<BackendTlsPolicy>> {
        self.policies.values()
    }

    pub fn routes(&self) -> impl ExactSizeIterator<Item = &Arc<Route>> {
        self.routes.values()
    }

    /// The first to win what several want first.
    pub fn routes_by_precedence(&self) -> impl Iterator<Item = &Arc<Route>> {
        self.routes_by_precedence.values()
    }

    /// Whether there are any of a type.
    pub fn has_routes(&self, of: RouteType) -> bool {
        let first = ObjectId { kind: of.kind(), name: Name { namespace: "".into(), name: "".into() } };
        self.routes.range(first..).next().is_some_and(|(id, _)| id.kind == of.kind())
    }

    pub fn route(&self, id: &ObjectId) -> Option<&Arc<Route>> {
        self.routes.get(id)
    }

    pub fn slices(&self) -> impl Iterator<Item = &Arc<EndpointSlice>> {
        self.slices.values()
    }

    pub fn unread_slices(&self) -> impl Iterator<Item = &Arc<EndpointSlice>> {
        self.unread_slices.iter().filter_map(|name| self.slices.get(name))
    }

    pub fn class(&self, name: &str) -> Option<&Arc<GatewayClass>> {
        self.classes.get(&Name { namespace: "".into(), name: name.into() })
    }

    pub fn gateway(&self, name: &Name) -> Option<&Arc<Gateway>> {
        self.gateways.get(name)
    }

    pub fn service(&self, name: &Name) -> Option<&Arc<Service>> {
        self.services.get(name)
    }

    pub fn listener_set(&self, name: &Name) -> Option<&Arc<ListenerSet>> {
        self.listener_sets.get(name)
    }

    pub fn config(&self, name: &Name) -> Option<&Arc<SluiceConfig>> {
        self.configs.get(name)
    }

    pub fn config_map(&self, name: &Name) -> Option<&Arc<ConfigMap>> {
        self.config_maps.get(name)
    }

    pub fn secret(&self, name: &Name) -> Option<&Arc<Secret>> {
        self.secrets.get(name)
    }

    /// The endpoints behind the ports of a Service.
    pub fn endpoints(&self, service: &Name) -> Option<&ServiceEndpoints> {
        self.endpoints.get(service)
    }

    /// Whether a ReferenceGrant lets objects of `kind` in `namespace` refer to the object of kind `to` named `name`.
    pub fn permits(&self, kind: Kind, namespace: &str, to: Kind, name: &Name) -> bool {
        let first = Name { namespace: name.namespace.clone(), name: "".into() };
        let there = self.grants.range(first..).take_while(|(grant, _)| grant.namespace == name.namespace);
        let is = |group: &str, named: &str, kind: Kind| *group == *kind.group() && *named == *kind.to_string();
        there.map(|(_, grant)| grant).any(|grant| {
            let from = |f: &GrantFrom| is(&f.group, &f.kind, kind) && *f.namespace == *namespace;
            let to = |t: &GrantTo| is(&t.group, &t.kind, to) && t.name.as_ref().is_none_or(|n| *n == name.name);
            grant.from.iter().any(from) && grant.to.iter().any(to)
        })
    }

    /// Whether the namespace has labels that fit. A Namespace that is not there still has the label Kubernetes gives
    /// each: its name.
    pub fn selects(&self, selector: &Selector, namespace: &str) -> bool {
        let object = self.namespaces.get(&Name { namespace: "".into(), name: namespace.into() });
        let label = |key: &str| match object.and_then(|o| o.labels.iter().find(|(k, _)| **k == *key)) {
            Some((_, value)) => Some(&**value),
            None => (key == "kubernetes.io/metadata.name").then_some(namespace),
        };
        selector.0.iter().all(|requirement| {
            let value = label(&requirement.key);
            match &requirement.test {
                LabelTest::In(values) => value.is_some_and(|v| values.iter().any(|w| **w == *v)),
                LabelTest::NotIn(values) => value.is_none_or(|v| values.iter().all(|w| **w != *v)),
                LabelTest::Exists => value.is_some(),
                LabelTest::DoesNotExist => value.is_none(),
            }
        })
    }

    fn set(&mut self, object: Object, reach: &mut Reach) {
        let name = object.meta().name.clone();
        match object {
            Object::GatewayClass(o) => put(&mut self.classes, name, o, |_| reach.listeners = true),
            Object::Gateway(o) => put(&mut self.gateways, name, o, |is_new| reach.listener_object(is_new)),
            Object::ListenerSet(o) => put(&mut self.listener_sets, name, o, |is_new| reach.listener_object(is_new)),
            Object::Route(o) => self.set_route(o, reach),
            Object::BackendTlsPolicy(o) => put(&mut self.policies, name, o, |_| reach.policies = true),
            Object::SluiceConfig(o) => put(&mut self.configs, name, o, |_| reach.listeners = true),
            Object::ConfigMap(o) => put(&mut self.config_maps, name, o, |_| reach.referred_to(Kind::ConfigMap)),
            Object::Secret(o) => put(&mut self.secrets, name, o, |_| reach.referred_to(Kind::Secret)),
            Object::Namespace(o) => put(&mut self.namespaces, name, o, |_| reach.everything = true),
            Object::ReferenceGrant(o) => {
                let namespace = name.namespace.clone();
                put(&mut self.grants, name, o, |_| reach.grant(namespace));
            }
            Object::Service(o) => {
                let touched = name.clone();
                put(&mut self.services, name, o, |_| _ = reach.services.insert(touched));
            }
            Object::EndpointSlice(o) if self.slices.get(&name) != Some(&o) => {
                self.forget_slice(&name, reach);
                match &o.service {
                    None => {
                        self.unread_slices.insert(name.clone());
                        reach.unread_slices = true;
                    }
                    Some(service) => {
                        let slices = self.slices_of.entry(service.clone()).or_default();
                        if let Err(place) = slices.binary_search(&name) {
                            slices.reserve_exact(1);
                            slices.insert(place, name.clone());
                        }
                        reach.endpoints.insert(service.clone());
                    }
                }
                self.slices.insert(name, o);
            }
            Object::EndpointSlice(_) => {}
        }
    }

    fn set_route(&mut self, route: Arc<Route>, reach: &mut Reach) {
        let id = route.id();
        let before = self.routes.get(&id).cloned();
        if before.as_ref() == Some(&route) {
            return;
        }
        if let Some(before) = &before {
            self.routes_by_precedence.remove(&before.precedence());
        }
        self.routes_by_precedence.insert(route.precedence(), Arc::clone(&route));
        self.routes.insert(id.clone(), route);
        reach.routes.entry(id).or_insert(before);
    }

    fn remove(&mut self, id: &ObjectId, reach: &mut Reach) {
        let name = &id.name;
        match id.kind {
            Kind::GatewayClass => reach.listeners |= self.classes.remove(name).is_some(),
            Kind::Gateway => reach.everything |= self.gateways.remove(name).is_some(),
            Kind::ListenerSet => reach.everything |= self.listener_sets.remove(name).is_some(),
            Kind::HTTPRoute | Kind::GRPCRoute | Kind::TCPRoute | Kind::TLSRoute | Kind::UDPRoute => {
                if let Some(route) = self.routes.remove(id) {
                    self.routes_by_precedence.remove(&route.precedence());
                    reach.routes.entry(id.clone()).or_insert(Some(route));
                }
            }
            Kind::BackendTLSPolicy => reach.policies |= self.policies.remove(name).is_some(),
            Kind::SluiceConfig => reach.listeners |= self.configs.remove(name).is_some(),
            Kind::ConfigMap => {
                if self.config_maps.remove(name).is_some() {
                    reach.referred_to(Kind::ConfigMap);
                }
            }
            Kind::ReferenceGrant => {
                if self.grants.remove(name).is_some() {
                    reach.grant(name.namespace.clone());
                }
            }
            Kind::Secret => {
                if self.secrets.remove(name).is_some() {
                    reach.referred_to(Kind::Secret);
                }
            }
            Kind::Namespace => reach.everything |= self.namespaces.remove(name).is_some(),
            Kind::Service => {
                self.services.remove(name);
                reach.services.insert(name.clone());
            }
            Kind::EndpointSlice => self.forget_slice(name, reach),
        }
    }

    fn forget_slice(&mut self, name: &Name, reach: &mut Reach) {
        reach.unread_slices |= self.unread_slices.remove(name);
        let Some(service) = self.slices.remove(name).and_then(|slice| slice.service.clone()) else { return };
        if let Some(slices) = self.slices_of.get_mut(&service) {
            slices.retain(|slice| slice != name);
            if slices.is_empty() {
                self.slices_of.remove(&service);
            }
        }
        reach.endpoints.insert(service);
    }

    fn gather_endpoints(&mut self, name: &Name) {
        let Some(service) = self.services.get(name) else {
            self.endpoints.remove(name);
            return;
        };
        let slices = self.slices_of.get(name).into_iter().flatten().filter_map(|slice| self.slices.get(slice));
        let gathered = ServiceEndpoints::gather(service, slices, &self.node.name, self.endpoints.get(name));
        self.endpoints.insert(name.clone(), gathered);
    }
}

/// Puts an object in its place. One that is as it was reaches nowhere: most often its status has been written.
fn put<T: Eq>(objects: &mut BTreeMap<Name, Arc<T>>, name: Name, object: Arc<T>, reach: impl FnOnce(bool)) {
    let before = objects.get(&name);
    if before != Some(&object) {
        reach(before.is_none());
        objects.insert(name, object);
    }
}

impl Reach {
    /// A Gateway or ListenerSet.
    fn listener_object(&mut self, is_new: bool) {
        self.listeners = true;
        self.everything |= is_new;
    }

    /// By listeners, and some by policies.
    fn referred_to(&mut self, kind: Kind) {
        self.listeners = true;
        self.policies |= kind == Kind::ConfigMap;
    }

    fn grant(&mut self, namespace: Arc<str>) {
        self.grants.insert(namespace);
        self.listeners = true;
        self.policies = true;
    }
}
