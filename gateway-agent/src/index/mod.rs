//! The objects that matter, by kind and name, and what is known of this node. It changes object by object; what
//! `compile` needs of many objects at once (the endpoints of a Service) is kept ready here.

mod endpoints;
mod gateway;
mod objects;
mod route;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use crate::addresses::Addressing;

pub use endpoints::ServiceEndpoints;
pub use gateway::*;
pub use objects::*;
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

/// How far changes reach.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reach {
    /// Only where connections of the same routes, host names and listeners go.
    Backends(Touched),
    Everything,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Touched {
    /// Whose EndpointSlices have changed. (There are also those of no Service.)
    pub services: BTreeSet<Name>,
    /// Of which nothing but the backends has changed, as they were before.
    pub routes: BTreeMap<ObjectId, Arc<Route>>,
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
        let mut touched = Touched::default();
        let mut only_backends = true;
        for change in changes {
            only_backends &= self.concerns_only_backends(&change);
            match change {
                Change::Set(Object::Route(route)) => self.set_route(route, &mut touched.routes),
                Change::Set(object) => self.set(object, &mut touched.services),
                Change::Remove(id) => self.remove(&id, &mut touched.services),
                Change::Bundles(bundles) => self.bundles = bundles,
            }
        }
        for service in &touched.services {
            self.gather_endpoints(service);
        }
        if only_backends { Reach::Backends(touched) } else { Reach::Everything }
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

    fn concerns_only_backends(&self, change: &Change) -> bool {
        match change {
            Change::Set(Object::EndpointSlice(_)) => true,
            Change::Set(Object::Route(new)) => self.route(&new.id()).is_some_and(|old| new.attaches_like(old)),
            Change::Set(_) => false,
            Change::Bundles(bundles) => *bundles == self.bundles,
            Change::Remove(id) => id.kind == Kind::EndpointSlice,
        }
    }

    fn set_route(&mut self, route: Arc<Route>, touched: &mut BTreeMap<ObjectId, Arc<Route>>) {
        let id = route.id();
        let before = self.routes.insert(id.clone(), Arc::clone(&route));
        if let Some(before) = &before {
            self.routes_by_precedence.remove(&before.precedence());
        }
        self.routes_by_precedence.insert(route.precedence(), route);
        if let Some(before) = before {
            touched.entry(id).or_insert(before);
        }
    }

    fn set(&mut self, object: Object, touched: &mut BTreeSet<Name>) {
        let name = object.meta().name.clone();
        match object {
            Object::GatewayClass(o) => drop(self.classes.insert(name, o)),
            Object::Gateway(o) => drop(self.gateways.insert(name, o)),
            Object::Route(o) => self.set_route(o, &mut BTreeMap::new()),
            Object::ListenerSet(o) => drop(self.listener_sets.insert(name, o)),
            Object::BackendTlsPolicy(o) => drop(self.policies.insert(name, o)),
            Object::ConfigMap(o) => drop(self.config_maps.insert(name, o)),
            Object::ReferenceGrant(o) => drop(self.grants.insert(name, o)),
            Object::Secret(o) => drop(self.secrets.insert(name, o)),
            Object::Namespace(o) => drop(self.namespaces.insert(name, o)),
            Object::Service(o) => {
                self.services.insert(name.clone(), o);
                touched.insert(name);
            }
            Object::EndpointSlice(o) => {
                self.forget_slice(&name, touched);
                if o.service.is_none() {
                    self.unread_slices.insert(name.clone());
                }
                if let Some(service) = &o.service {
                    let slices = self.slices_of.entry(service.clone()).or_default();
                    if let Err(place) = slices.binary_search(&name) {
                        slices.reserve_exact(1);
                        slices.insert(place, name.clone());
                    }
                    touched.insert(service.clone());
                }
                self.slices.insert(name, o);
            }
        }
    }

    fn remove(&mut self, id: &ObjectId, touched: &mut BTreeSet<Name>) {
        match id.kind {
            Kind::GatewayClass => drop(self.classes.remove(&id.name)),
            Kind::Gateway => drop(self.gateways.remove(&id.name)),
            Kind::ListenerSet => drop(self.listener_sets.remove(&id.name)),
            Kind::HTTPRoute | Kind::GRPCRoute | Kind::TCPRoute | Kind::TLSRoute | Kind::UDPRoute => {
                if let Some(route) = self.routes.remove(id) {
                    self.routes_by_precedence.remove(&route.precedence());
                }
            }
            Kind::BackendTLSPolicy => drop(self.policies.remove(&id.name)),
            Kind::ConfigMap => drop(self.config_maps.remove(&id.name)),
            Kind::ReferenceGrant => drop(self.grants.remove(&id.name)),
            Kind::Secret => drop(self.secrets.remove(&id.name)),
            Kind::Namespace => drop(self.namespaces.remove(&id.name)),
            Kind::Service => {
                self.services.remove(&id.name);
                touched.insert(id.name.clone());
            }
            Kind::EndpointSlice => self.forget_slice(&id.name, touched),
        }
    }

    fn forget_slice(&mut self, name: &Name, touched: &mut BTreeSet<Name>) {
        self.unread_slices.remove(name);
        let Some(service) = self.slices.remove(name).and_then(|slice| slice.service.clone()) else { return };
        if let Some(slices) = self.slices_of.get_mut(&service) {
            slices.retain(|slice| slice != name);
            if slices.is_empty() {
                self.slices_of.remove(&service);
            }
        }
        touched.insert(service);
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
