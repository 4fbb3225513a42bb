//! The Services that routes send to: by which routes, and what is wrong with them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::board::RouteKey;
use crate::index::{Index, Kind, Name, ObjectId, Route};
use crate::ir::{Endpoint, Protocol, Shards};
use crate::source::{Problem, Severity};

/// Of a Service.
pub type Port = (u16, Protocol);

/// What a route sends to.
#[derive(Debug, Default)]
pub struct Uses {
    /// Ports that are there. Distinct.
    ports: Vec<(Name, Port)>,
    /// Ports of Services that have BackendTLSPolicies, by name, and the Gateways that speak to them.
    pub with_policies: Vec<(Name, (Arc<str>, Name))>,
    /// It is attached to a listener that forwards without looking inside.
    pub is_plain: bool,
}

impl Uses {
    pub fn note(&mut self, service: &Name, port: Port) {
        if !self.ports.iter().any(|(other, of_other)| other == service && *of_other == port) {
            self.ports.push((service.clone(), port));
        }
    }

    /// Nothing more is noted.
    pub fn shrink(&mut self) {
        self.ports.shrink_to_fit();
        self.with_policies.shrink_to_fit();
    }

    pub fn note_policy(&mut self, service: &Name, port: &Arc<str>, gateway: &Name) {
        let is_it = |(other, (of_port, of_gateway)): &(Name, (Arc<str>, Name))| {
            other == service && of_port == port && of_gateway == gateway
        };
        if !self.with_policies.iter().any(is_it) {
            self.with_policies.push((service.clone(), (port.clone(), gateway.clone())));
        }
    }
}

#[derive(Default)]
pub struct Services(BTreeMap<Name, Used>);

#[derive(Default)]
struct Used {
    /// Routes that name it, sorted.
    by: Vec<RouteKey>,
    /// Its ports that they send to, and those that they did since somebody looked.
    ports: Vec<UsedPort>,
    /// Of routes at listeners that forward without looking inside.
    plain: u32,
    problems: Vec<Problem>,
}

#[derive(PartialEq, Eq)]
struct UsedPort {
    port: Port,
    routes: u32,
    /// Of these, routes of HTTP.
    http: u32,
}

impl Services {
    /// The route does what is said of it here.
    pub fn add(&mut self, key: &RouteKey, route: &Route, uses: &Uses) {
        for name in route.services() {
            if !self.0.contains_key(name) {
                self.0.insert(name.clone(), Used::default());
            }
            let Some(used) = self.0.get_mut(name) else { continue };
            if let Err(at) = used.by.binary_search(key) {
                if used.by.is_empty() {
                    used.by.reserve_exact(1);
                }
                used.by.insert(at, key.clone());
            }
            used.plain += u32::from(uses.is_plain);
        }
        for (name, port) in &uses.ports {
            let Some(used) = self.0.get_mut(name) else { continue };
            let http = u32::from(key.1.is_http());
            match used.ports.iter_mut().find(|known| known.port == *port) {
                Some(known) => (known.routes, known.http) = (known.routes + 1, known.http + http),
                None => {
                    used.ports.reserve_exact(1);
                    used.ports.push(UsedPort { port: *port, routes: 1, http });
                }
            }
        }
    }

    /// What was added.
    pub fn remove(&mut self, key: &RouteKey, route: &Route, uses: &Uses) {
        for name in route.services() {
            let Some(used) = self.0.get_mut(name) else { continue };
            if let Ok(at) = used.by.binary_search(key) {
                used.by.remove(at);
            }
            used.plain -= u32::from(uses.is_plain);
        }
        for (name, port) in &uses.ports {
            let Some(used) = self.0.get_mut(name) else { continue };
            if let Some(known) = used.ports.iter_mut().find(|known| known.port == *port) {
                known.routes -= 1;
                known.http -= u32::from(key.1.is_http());
            }
        }
    }

    /// Routes that name the Service.
    pub fn users(&self, service: &Name) -> &[RouteKey] {
        self.0.get(service).map(|used| &used.by[..]).unwrap_or_default()
    }

    /// Routes that name Services of this namespace.
    pub fn users_in<'s>(&'s self, namespace: &'s Arc<str>) -> impl Iterator<Item = &'s RouteKey> {
        let first = Name { namespace: namespace.clone(), name: "".into() };
        let there = self.0.range(first..).take_while(move |(name, _)| name.namespace == *namespace);
        there.flat_map(|(_, used)| &used.by)
    }

    /// What is other than in `lists`, of these: the endpoints of ports that HTTP routes send to.
    pub fn endpoints(
        &self,
        index: &Index,
        services: &BTreeSet<Name>,
        lists: &Shards<Arc<[Endpoint]>>,
    ) -> Vec<(String, Option<Arc<[Endpoint]>>)> {
        let mut changes = Vec::new();
        for name in services {
            let Some(used) = self.0.get(name) else { continue };
            let endpoints = index.endpoints(name);
            for UsedPort { port, http, .. } in used.ports.iter().filter(|used| used.port.1 == Protocol::Tcp) {
                let list = endpoints.filter(|_| *http > 0).and_then(|endpoints| endpoints.port(port.0, port.1));
                let of_port = port_of(name, port.0);
                let is_same = match (lists.get(&of_port), list) {
                    (Some(old), Some(new)) => Arc::ptr_eq(old, new),
                    (None, None) => true,
                    _ => false,
                };
                if !is_same {
                    changes.push((of_port, list.cloned()));
                }
            }
        }
        changes
    }

    /// Says anew what is wrong with these.
    pub fn look_again(
        &mut self,
        index: &Index,
        services: &BTreeSet<Name>,
        mut replace: impl FnMut(&[Problem], &[Problem]),
    ) {
        for name in services {
            let Some(used) = self.0.get_mut(name) else { continue };
            let problems = used.problems(index, name);
            if problems != used.problems {
                replace(&used.problems, &problems);
                used.problems = problems;
            }
            used.ports.retain(|port| port.routes > 0);
            if used.by.is_empty() {
                self.0.remove(name);
            }
        }
    }
}

/// As [`http::Cluster::service`](crate::ir::http::Cluster) names it.
pub fn port_of(service: &Name, port: u16) -> String {
    format!("{service}:{port}")
}

impl Used {
    fn problems(&self, index: &Index, name: &Name) -> Vec<Problem> {
        let Some(service) = index.service(name) else { return Vec::new() };
        let warn = |field: &str, message: &str| {
            let id = ObjectId { kind: Kind::Service, name: name.clone() };
            Problem::of_object(Severity::Warning, id, &service.meta.origin, field, message)
        };
        let endpoints = |port: &Port| index.endpoints(name)?.port(port.0, port.1);
        let used = self.ports.iter().filter(|port| port.routes > 0);
        let is_empty = used.filter_map(|used| endpoints(&used.port)).any(|endpoints| endpoints.is_empty());
        let leads_nowhere = is_empty.then(|| {
            let message = "no EndpointSlice gives it endpoints (by the label kubernetes.io/service-name, and ports of the same \
                           name and protocol), so its share of connections is refused";
            warn("", message)
        });
        let without_effect = (self.plain > 0 && service.proxy_protocol).then(|| {
            let message = "has no effect on what comes by TCP and UDP listeners, only by TLS listeners";
            warn("metadata.annotations[sluice.dev/proxy-protocol]", message)
        });
        leads_nowhere.into_iter().chain(without_effect).collect()
    }
}

/// EndpointSlices that hang in the air: most often a label forgotten in a manifest.
pub fn unread_slices(index: &Index) -> Vec<Problem> {
    let problem = |slice: &Arc<crate::index::EndpointSlice>| {
        let id = ObjectId { kind: Kind::EndpointSlice, name: slice.meta.name.clone() };
        let message = "belongs to no Service, so it does nothing; add the label kubernetes.io/service-name";
        Problem::of_object(Severity::Warning, id, &slice.meta.origin, "metadata.labels", message)
    };
    index.unread_slices().map(problem).collect()
}
