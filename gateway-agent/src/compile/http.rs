//! HTTPRoutes and GRPCRoutes: their rules, with what their references lead to.

use std::collections::BTreeSet;
use std::sync::Arc;

use hashbrown::{HashMap, HashSet};

use super::backend_tls::{Client, ClientKey, TlsKey};
use super::follow::Followed;
use super::policies::Policies;
use super::{Condition, ConditionType, Reason, backends};
use crate::index::{AppProtocol, BackendRef, Created, HttpFilter, HttpRule, Index, Name, ObjectId, Route, RouteType};
use crate::ir::ListenerName;
use crate::ir::http::{self, Application, Backend, BackendTls, Cluster, Filter, RouteKind, RouteName, Rule, Target};
use crate::proxy::http::filters::external_auth::{AuthProtocol, ExternalAuth};
use crate::proxy::http::filters::mirror::Mirror;
use crate::proxy::http::filters::unknown::Unknown;

/// What the last compile made. Equal things are taken from there, so that they are the same `Arc`.
#[derive(Debug, Default)]
pub struct Memo {
    routes: HashMap<(ObjectId, ClientKey), Made>,
    clusters: HashMap<ClusterKey, Arc<Cluster>>,
    pub(super) tls: HashMap<TlsKey, Arc<BackendTls>>,
    services: HashSet<Name>,
    pub listeners: HashMap<ListenerName, Arc<http::Listener>>,
}

impl Memo {
    /// Requests go to one of these Services.
    pub fn leads_to(&self, services: &BTreeSet<Name>) -> bool {
        services.iter().any(|service| self.services.contains(service))
    }
}

#[derive(Debug)]
struct Made {
    /// From this.
    source: Arc<Route>,
    /// What the references led to, in the order of the rules.
    targets: Vec<Target>,
    route: Arc<http::Route>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct ClusterKey {
    service: Name,
    port: u16,
    application: Application,
    client: ClientKey,
}

pub struct Resolver<'a, 'm> {
    pub(super) index: &'a Index,
    pub policies: Policies<'a>,
    pub(super) before: &'m Memo,
    /// What this compile made.
    pub memo: Memo,
    pub followed: &'m mut Followed,
}

/// A route as a Gateway serves it, and its condition `ResolvedRefs`.
pub struct Resolved {
    pub route: Arc<http::Route>,
    pub condition: Condition,
}

impl<'a, 'm> Resolver<'a, 'm> {
    pub fn new(index: &'a Index, before: &'m Memo, followed: &'m mut Followed) -> Resolver<'a, 'm> {
        let memo = Memo {
            routes: HashMap::with_capacity(before.routes.len()),
            clusters: HashMap::with_capacity(before.clusters.len()),
            tls: HashMap::with_capacity(before.tls.len()),
            services: HashSet::with_capacity(before.services.len()),
            listeners: HashMap::with_capacity(before.listeners.len()),
        };
        Resolver { index, policies: Policies::new(index), before, memo, followed }
    }

    /// `rules`: those of the route.
    pub fn route(&mut self, route: &'a Arc<Route>, rules: &'a [HttpRule], gateway: &Name, client: &Client) -> Resolved {
        let mut walk =
            Walk { resolver: self, route, gateway, client, targets: Vec::new(), reason: None, messages: Vec::new() };
        walk.rules(rules);
        let Walk { targets, reason, messages, .. } = walk;
        let condition = match reason {
            Some(reason) => Condition::no(ConditionType::ResolvedRefs, reason, messages.join("; ")),
            None => backends::resolved(),
        };
        let key = (ObjectId { kind: route.of.kind(), name: route.meta.name.clone() }, client.key());
        // Another Gateway may have had it made.
        let old = self.memo.routes.get(&key).or_else(|| self.before.routes.get(&key));
        let made = match old {
            Some(old) if Arc::ptr_eq(&old.source, route) && old.targets == targets => Arc::clone(&old.route),
            old => {
                let new = build(route, rules, &targets);
                match old.filter(|old| *old.route == new) {
                    Some(old) => Arc::clone(&old.route),
                    None => Arc::new(new),
                }
            }
        };
        let resolved = Resolved { route: Arc::clone(&made), condition };
        self.memo.routes.insert(key, Made { source: Arc::clone(route), targets, route: made });
        resolved
    }
}

/// One route whose references are followed, in the order of its rules.
struct Walk<'w, 'a, 'm> {
    resolver: &'w mut Resolver<'a, 'm>,
    route: &'a Route,
    gateway: &'w Name,
    client: &'w Client,
    targets: Vec<Target>,
    reason: Option<Reason>,
    messages: Vec<String>,
}

impl<'a> Walk<'_, 'a, '_> {
    fn rules(&mut self, rules: &'a [HttpRule]) {
        for (i, rule) in rules.iter().enumerate() {
            self.filters(&rule.filters, || format!("spec.rules[{i}]"));
            for (j, backend) in rule.backends.iter().enumerate() {
                self.target(&backend.reference, || format!("spec.rules[{i}].backendRefs[{j}]"));
                self.filters(&backend.filters, || format!("spec.rules[{i}].backendRefs[{j}]"));
            }
        }
    }

    fn filters(&mut self, filters: &'a [HttpFilter], place: impl Fn() -> String) {
        for (i, filter) in filters.iter().enumerate() {
            match filter {
                HttpFilter::Ready(_) => {}
                HttpFilter::Mirror { backend, .. } => {
                    self.target(backend, || format!("{}.filters[{i}].requestMirror.backendRef", place()));
                }
                HttpFilter::ExternalAuth { backend, protocol, .. } => {
                    let grpc = matches!(protocol, AuthProtocol::Grpc { .. });
                    self.target_for(backend, grpc, || format!("{}.filters[{i}].externalAuth.backendRef", place()));
                }
                HttpFilter::Unknown(reference) => {
                    let place = format!("{}.filters[{i}].extensionRef", place());
                    let message = format!(
                        "{place}: there is no filter {reference} for Sluice; its rule answers with 500; remove it"
                    );
                    self.wrong(Reason::InvalidKind, message);
                }
            }
        }
    }

    fn wrong(&mut self, reason: Reason, message: String) {
        self.reason.get_or_insert(reason);
        self.messages.push(message);
    }

    fn target(&mut self, backend: &'a BackendRef, place: impl Fn() -> String) {
        self.target_for(backend, self.route.of == RouteType::Grpc, place);
    }

    /// `grpc`: what is sent there is gRPC, which needs HTTP/2.
    fn target_for(&mut self, backend: &'a BackendRef, grpc: bool, place: impl Fn() -> String) {
        let target = match self.follow(backend, grpc) {
            Ok(target) => target,
            Err((reason, message)) => {
                self.wrong(reason, format!("{}: {message}", place()));
                Target::Invalid
            }
        };
        self.targets.push(target);
    }

    fn follow(&mut self, backend: &'a BackendRef, grpc: bool) -> Result<Target, (Reason, String)> {
        let found = backends::find(self.index(), self.route, backend, self.resolver.followed)?;
        let port = found.port;
        let wanted = self.resolver.tls(&backend.name, port, self.gateway, self.client);
        let (application, needs_tls) = match &port.application {
            AppProtocol::Unset if grpc => (Application::H2c, false),
            AppProtocol::Unset => (Application::Http, false),
            AppProtocol::Known { application, needs_tls } => (*application, *needs_tls),
            AppProtocol::Unknown(name) => {
                let message = format!(
                    "port {} of Service {} has appProtocol {name}, which Sluice does not speak; use kubernetes.io/h2c, \
                     kubernetes.io/ws or kubernetes.io/wss, or none",
                    port.port, backend.name
                );
                return Err((Reason::UnsupportedProtocol, message));
            }
        };
        if needs_tls && wanted == Ok(None) {
            let message = format!(
                "port {} of Service {} has appProtocol kubernetes.io/wss, and no BackendTLSPolicy says whom to trust there; add one",
                port.port, backend.name
            );
            return Err((Reason::UnsupportedProtocol, message));
        }
        // Its status, or the Gateway's, says why.
        let Ok(tls) = wanted else { return Ok(Target::Invalid) };
        // Only those with TLS differ by Gateway.
        let client = if tls.is_some() { self.client.key() } else { ClientKey::Nothing };
        let key = ClusterKey { service: backend.name.clone(), port: port.port, application, client };
        if let Some(cluster) = self.resolver.memo.clusters.get(&key) {
            return Ok(Target::Cluster(Arc::clone(cluster)));
        }
        let old = self.resolver.before.clusters.get(&key);
        let is_same =
            |old: &&Arc<Cluster>| old.endpoints == *found.endpoints && old.balance == found.balance && old.tls == tls;
        let same = old.filter(is_same);
        let cluster = same.map(Arc::clone).unwrap_or_else(|| {
            let service = format!("{}:{}", found.service, port.port).into();
            let (endpoints, balance) = (Arc::clone(found.endpoints), found.balance);
            Arc::new(Cluster { service, endpoints, application, balance, tls })
        });
        self.resolver.memo.services.insert(backend.name.clone());
        self.resolver.memo.clusters.insert(key, Arc::clone(&cluster));
        Ok(Target::Cluster(cluster))
    }

    fn index(&self) -> &'a Index {
        self.resolver.index
    }
}

/// `targets`: what [`Walk`] found, in its order.
fn build(route: &Route, rules: &[HttpRule], targets: &[Target]) -> http::Route {
    let mut targets = targets.iter().cloned();
    // `Walk` goes the same way, so that there is one for each.
    let mut next = || targets.next().unwrap_or(Target::Invalid);
    let rules = rules.iter().map(|rule| Rule {
        name: rule.name.clone(),
        matches: rule.matches.to_vec(),
        filters: filters(&rule.filters, &mut next),
        backends: rule
            .backends
            .iter()
            .map(|backend| {
                let target = next();
                Backend { weight: backend.reference.weight, filters: filters(&backend.filters, &mut next), target }
            })
            .collect(),
        timeouts: rule.timeouts,
        retry: rule.retry.clone(),
        persistence: rule.persistence.clone(),
    });
    let rules = rules.collect();
    let Name { namespace, name } = route.meta.name.clone();
    http::Route {
        name: RouteName {
            namespace,
            name,
            kind: if route.of == RouteType::Grpc { RouteKind::Grpc } else { RouteKind::Http },
        },
        created: match route.meta.created {
            Created::At(time) => http::Created::At(time.as_second()),
            Created::Unknown => http::Created::Unknown,
        },
        rules,
    }
}

fn filters(filters: &[HttpFilter], next: &mut impl FnMut() -> Target) -> Vec<Filter> {
    let ready = |filter: &HttpFilter| match filter {
        HttpFilter::Ready(filter) => filter.clone(),
        HttpFilter::Mirror { share, .. } => Filter::Mirror(Mirror { target: next(), share: *share }),
        HttpFilter::ExternalAuth { protocol, body, timeout, fails_open, .. } => {
            let (protocol, body, timeout, fails_open) = (protocol.clone(), *body, *timeout, *fails_open);
            Filter::ExternalAuth(ExternalAuth { target: next(), protocol, body, timeout, fails_open }.into())
        }
        HttpFilter::Unknown(_) => Filter::Unknown(Unknown),
    };
    filters.iter().map(ready).collect()
}
