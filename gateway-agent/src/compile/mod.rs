//! `compile(&Index) -> (Ir, Report)`: the Gateway API's rules for the kinds Sluice reads. Pure: no I/O, no clock, and the
//! same index gives the same bytes. A bad object rejects only itself and shows up in the report.
//!
//! Where the API leaves room, or surprises:
//! - Listeners of one Gateway that want the same port are all refused; there is no winner (`GatewaySpec.listeners`,
//!   "Handling indistinct Listeners"; GEP-2644 for TCP beside HTTP, HTTPS and TLS).
//! - Listeners of two Gateways that share an address are not: a newcomer must not be able to cut off who was there, so
//!   the older Gateway keeps the port (as GEP-1713 has it for ListenerSets).
//! - Of several routes at one listener all are accepted and counted, and the oldest alone forwards (GEP-2644).
//! - A route is accepted by what `allowedRoutes` and `parentRefs` say, even if the listener itself is refused
//!   (`ListenerStatus.attachedRoutes`); the message tells that no traffic comes.
//! - An address of a type that is not supported refuses the Gateway; one that cannot be used leaves it accepted, not
//!   programmed, and in service on its other addresses (the conformance test GatewayStaticAddresses).
//! - TLS listeners of one port are told apart by hostname, also those of several Gateways, and also those that end TLS from
//!   those that pass it through (`TLSRouteModeMixed`). The most specific one that matches a server name takes the connection, and
//!   refuses it if no route of its own takes the name ("listener isolation"). That holds as well for one that cannot be served,
//!   because of its certificates or route kinds: it refuses.
//! - Of several TLSRoutes that want the same host name of a listener the oldest has it; an older one with `*.example.com` does not
//!   keep a younger one from `www.example.com`.
//! - A Service that exists and has no endpoints is a resolved reference; its share of connections is refused.
//! - Of an HTTPRoute and a GRPCRoute that have host names of a listener in common the older alone is attached there
//!   (`HostnameConflict`); on other listeners the younger may be.
//! - Where the API lets through what Sluice cannot do (an expression that is too large, a change of a header that frames messages), the
//!   route is not accepted (`UnsupportedValue`); the last version that was is not kept, for the status speaks of the one there is.
//! - An `ExtensionRef` is never known: `ResolvedRefs` says so, and its rule answers with 500.
//! - Listeners of a ListenerSet come after those of their Gateway and of older ListenerSets, which keep the port or hostname; within one
//!   object there is no winner. ReferenceGrants are asked for the object that the listener is written in.
//! - A listener that cannot check its clients is there only to refuse: without it a less specific one would let them in unchecked.
//! - A BackendTLSPolicy that is broken, and a certificate that a Gateway is to show to backends and has not, leave the backends they are
//!   for without requests (500) and connections. Of several CA references those that hold are enough: they only make fewer certificates valid.
//! - `kubernetes.io/wss` without a BackendTLSPolicy is no valid target, for nothing says whom to trust.
//! - TLSRoutes and TCPRoutes heed BackendTLSPolicies at TLS listeners of mode Terminate only: elsewhere nothing is taken out of the client's
//!   connection, and it goes as it is.

#![forbid(unsafe_code)]

mod addresses;
mod authorities;
mod backend_tls;
mod backends;
mod certificates;
mod claims;
mod conflicts;
mod follow;
mod gateways;
mod hostnames;
mod http;
mod listener_sets;
mod listeners;
mod overlaps;
mod policies;
mod report;
mod routes;
mod version;

use std::sync::Arc;

pub use follow::Compiled;
use follow::Followed;
use gateways::Plan;
use http::{Memo, Resolver};
use listeners::{ListenerPlan, Winner};
pub use report::*;

use crate::index::{Index, ListenerProtocol, Name, TlsMode};
use crate::ir::http::Security;
use crate::ir::{self, HostName, Ir, Listener, ListenerName, ServerName, Traffic};

/// GatewayClasses with this `spec.controllerName` are ours.
pub const CONTROLLER: &str = "sluice.dev/gateway-controller";

pub fn compile(index: &Index) -> (Ir, Report) {
    let (ir, report, ..) = decide(index, &Memo::default());
    (ir, report)
}

/// Also says which endpoints were asked for, and what a later time may go on with. `before` decides nothing but which things that are
/// equal are the same `Arc`.
fn decide(index: &Index, before: &Memo) -> (Ir, Report, Followed, Memo) {
    let mut followed = Followed::default();
    let mut report = Report::default();
    report.classes = gateways::classes(index, &mut report.problems);
    let mut plans = gateways::plan(index, &report.classes, &mut report.problems);
    let claims = claims::settle(&mut plans);
    overlaps::mark(&mut plans);
    let mut resolver = Resolver::new(index, before, &mut followed);
    report.routes = routes::attach(index, &mut plans, &claims, &mut resolver, &mut report.problems);
    let Resolver { policies, mut memo, .. } = resolver;
    report.policies = policies.report(index, &mut report.problems);

    let mut ir = Ir::default();
    for plan in &mut plans {
        let mut listeners = std::mem::take(&mut plan.listeners);
        for listener in listeners.iter_mut().filter(|l| l.holds_its_place()) {
            let name = name(plan, listener);
            let Some(traffic) = traffic(plan, listener, before.listeners.get(&name)) else { continue };
            if let Traffic::Http(http) = &traffic {
                memo.listeners.insert(name.clone(), Arc::clone(http));
            }
            let (addresses, port) = (plan.addresses.clone(), listener.spec.port);
            ir.listeners.push(Arc::new(Listener { name, addresses, port, traffic }));
        }
        plan.listeners = listeners;
        ir.exclusive_addresses.extend(plan.exclusive_addresses());
        if !plan.is_refused() {
            let Name { namespace, name } = plan.gateway.meta.name.clone();
            let infrastructure = plan.gateway.infrastructure.clone();
            ir.gateways.push(Arc::new(ir::Gateway { namespace, name, infrastructure }));
        }
    }
    ir.listeners.sort_unstable_by(|a, b| a.name.cmp(&b.name));
    ir.gateways.sort_unstable_by(|a, b| (&a.namespace, &a.name).cmp(&(&b.namespace, &b.name)));
    ir.exclusive_addresses.sort_unstable();
    ir.exclusive_addresses.dedup();
    let pool = index.addressing().pool();
    ir.announced_addresses = ir.exclusive_addresses.iter().copied().filter(|address| pool.has(*address)).collect();
    for plan in plans {
        let (gateway, sets) = plan.report();
        report.gateways.push(gateway);
        report.listener_sets.extend(sets);
    }
    report.gateways.sort_unstable_by(|a, b| a.subject.name.cmp(&b.subject.name));
    report.listener_sets.sort_unstable_by(|a, b| a.subject.name.cmp(&b.subject.name));
    report.problems.sort_unstable();
    followed.complete(index, &mut report.problems);
    (ir, report, followed, memo)
}

/// Names of listeners are unique within their object only, and have no slash: one of a ListenerSet is `namespace/name/listener`.
fn name(plan: &Plan, listener: &ListenerPlan) -> ListenerName {
    let section = &listener.spec.name;
    let Name { namespace, name: gateway } = plan.gateway.meta.name.clone();
    let section = match listener.set {
        Some(set) => format!("{}/{section}", plan.sets[set].set.meta.name).into(),
        None => section.clone(),
    };
    ListenerName { namespace, gateway, section }
}

/// `None`: a protocol that is not served.
fn traffic(plan: &Plan, listener: &mut ListenerPlan, before: Option<&Arc<ir::http::Listener>>) -> Option<Traffic> {
    match &listener.spec.protocol {
        ListenerProtocol::Forwarded(protocol) => {
            let backends = listener.hosts.get(&HostName::Any).map(|winner| Arc::clone(&winner.backends));
            Some(Traffic::Forward { protocol: *protocol, backends })
        }
        ListenerProtocol::Tls(tls) => {
            let mode = match (&tls.mode, &listener.certificates) {
                (TlsMode::Passthrough, _) => ir::TlsMode::Passthrough,
                (TlsMode::Terminate { .. }, Ok(certificates)) => {
                    ir::TlsMode::Terminate { certificates: certificates.clone() }
                }
                (TlsMode::Terminate { .. }, Err(_)) => ir::TlsMode::Terminate { certificates: Vec::new() },
            };
            Some(Traffic::Tls { mode, names: server_names(plan, listener) })
        }
        ListenerProtocol::Http { .. } | ListenerProtocol::Https { .. } => {
            let http = http_listener(plan, listener);
            Some(Traffic::Http(before.filter(|before| ***before == http).map_or_else(|| Arc::new(http), Arc::clone)))
        }
        ListenerProtocol::Other(_) => None,
    }
}

fn http_listener(plan: &Plan, listener: &mut ListenerPlan) -> ir::http::Listener {
    let mut routes = std::mem::take(&mut listener.http);
    routes.sort_by(|a, b| a.route.precedence().cmp(&b.route.precedence()));
    let security = match &listener.spec.protocol {
        ListenerProtocol::Http { .. } => Security::Http,
        _ => Security::Https {
            certificates: listener.certificates.clone().unwrap_or_default(),
            clients: listener.clients.clone(),
        },
    };
    let settings = Arc::clone(&plan.gateway.settings);
    ir::http::Listener { hostname: listener.hostname().clone(), security, routes, settings }
}

/// What a listener takes, its own hostname included, less what belongs to more specific listeners of the same address and
/// port. Each of these has its own hostname among its names, so that of all names on an address and port that match a server
/// name the most specific one belongs to the most specific listener that matches it: one look-up does for both choices.
fn server_names(plan: &Plan, listener: &ListenerPlan) -> Vec<Arc<ServerName>> {
    let hosts =
        listener.hosts.iter().filter(|(_, winner)| listener.serves() && winner.not_on.len() < plan.addresses.len());
    let name = |(host, winner): (&HostName, &Winner)| {
        let backends = Some(Arc::clone(&winner.backends));
        Arc::new(ServerName { host: host.clone(), backends, not_on: winner.not_on.clone() })
    };
    let mut names: Vec<Arc<ServerName>> = hosts.map(name).collect();
    let own = listener.hostname();
    if let Err(place) = names.binary_search_by(|name| name.host.cmp(own)) {
        names.insert(place, ServerName { host: own.clone(), backends: None, not_on: Vec::new() }.into());
    }
    names
}

/// Enough of them for a message.
fn some(names: &[String]) -> String {
    let more = if names.len() > 8 { " and more" } else { "" };
    names[..names.len().min(8)].join(", ") + more
}
