//! HTTPRoutes and GRPCRoutes: their rules, with what their references lead to.

use std::sync::Arc;

use hashbrown::HashMap;

use super::backend_tls::{Client, ClientKey, TlsKey};
use super::policies::Policies;
use super::services::Uses;
use super::{Condition, ConditionType, Reason, backends, services};
use crate::index::{AppProtocol, BackendRef, Created, HttpFilter, HttpRule, Index, Name, Route, RouteType};
use crate::ir::http::{self, Application, Backend, BackendTls, Cluster, Filter, RouteKind, RouteName, Rule, Target};
use crate::proxy::http::filters::external_auth::{AuthProtocol, ExternalAuth};
use crate::proxy::http::filters::mirror::Mirror;
use crate::proxy::http::filters::unknown::Unknown;

/// What was made for routes that lead to the same. Equal things are taken from here, so that they are the same `Arc`.
#[derive(Debug, Default)]
pub struct Memo {
    clusters: HashMap<ClusterKey, Arc<Cluster>>,
    pub(super) tls: HashMap<TlsKey, Arc<BackendTls>>,
    /// Clusters that were in use when those that were not were thrown away.
    kept: usize,
}

impl Memo {
    /// Throws away what nobody uses, once that may be half of it.
    pub fn tidy(&mut self) {
        if self.clusters.len() > 2 * self.kept + 64 {
            self.clusters.retain(|_, cluster| Arc::strong_count(cluster) > 1);
            self.tls.retain(|_, tls| Arc::strong_count(tls) > 1);
            self.kept = self.clusters.len();
        }
    }
}

/// A route as Gateways serve it that show the same to backends.
#[derive(Clone, Debug)]
pub struct Made {
    client: ClientKey,
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

/// Follows the references of a route.
pub struct Resolver<'a> {
    pub index: &'a Index,
    pub policies: &'a Policies,
    pub memo: &'a mut Memo,
    /// What was made of the route before.
    pub before: &'a [Made],
    pub made: Vec<Made>,
    pub uses: Uses,
}

/// A route as a Gateway serves it, and its condition `ResolvedRefs`.
pub struct Resolved {
    pub route: Arc<http::Route>,
    pub condition: Condition,
}

impl<'a> Resolver<'a> {
    pub fn route(
        &mut self,
        source: &'a Arc<Route>,
        rules: &'a [HttpRule],
        gateway: &Name,
        client: &Client,
    ) -> Resolved {
        let mut walk = Walk {
            resolver: self,
            route: source,
            gateway,
            client,
            targets: Vec::new(),
            reason: None,
            messages: Vec::new(),
        };
        walk.rules(rules);
        let Walk { mut targets, reason, messages, .. } = walk;
        targets.shrink_to_fit();
        let condition = match reason {
            Some(reason) => Condition::no(ConditionType::ResolvedRefs, reason, messages.join("; ")),
            None => backends::resolved(),
        };
        let client = client.key();
        let is_it = |made: &&Made| made.client == client;
        // Another Gateway may have had it made.
        let here = self.made.iter().find(is_it);
        let route = match here.or_else(|| self.before.iter().find(is_it)) {
            Some(old) if Arc::ptr_eq(&old.source, source) && old.targets == targets => Arc::clone(&old.route),
            old => {
                let new = build(source, rules, &targets);
                match old.filter(|old| *old.route == new) {
                    Some(old) => Arc::clone(&old.route),
                    None => Arc::new(new),
                }
            }
        };
        if here.is_none() {
            let (source, route) = (Arc::clone(source), Arc::clone(&route));
            self.made.push(Made { client, source, targets, route });
        }
        Resolved { route, condition }
    }
}

/// One route whose references are followed, in the order of its rules.
struct Walk<'w, 'a> {
    resolver: &'w mut Resolver<'a>,
    route: &'a Route,
    gateway: &'w Name,
    client: &'w Client,
    targets: Vec<Target>,
    reason: Option<Reason>,
    messages: Vec<String>,
}

impl<'a> Walk<'_, 'a> {
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
        let found = backends::find(self.index(), self.route, backend, &mut self.resolver.uses)?;
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
        let old = self.resolver.memo.clusters.get(&key);
        let is_same = |old: &&Arc<Cluster>| old.balance == found.balance && old.tls == tls;
        if let Some(same) = old.filter(is_same) {
            return Ok(Target::Cluster(Arc::clone(same)));
        }
        let service = services::port_of(&backend.name, port.port).into();
        let cluster = Arc::new(Cluster { service, application, balance: found.balance, tls });
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
        matches: Arc::clone(&rule.matches),
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
