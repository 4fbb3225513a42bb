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

#![forbid(unsafe_code)]

mod backends;
mod certificates;
mod claims;
mod follow;
mod gateways;
mod hostnames;
mod listeners;
mod report;
mod routes;

use std::sync::Arc;

pub use follow::Compiled;
use follow::Followed;
use gateways::Plan;
use listeners::{ListenerPlan, Winner};
pub use report::*;

use crate::index::{Index, ListenerProtocol, TlsMode};
use crate::ir::{self, HostName, Ir, Listener, ListenerName, ServerName, Traffic};

/// GatewayClasses with this `spec.controllerName` are ours.
pub const CONTROLLER: &str = "sluice.dev/gateway-controller";

pub fn compile(index: &Index) -> (Ir, Report) {
    let (ir, report, _) = decide(index);
    (ir, report)
}

/// Also says which endpoints were asked for.
fn decide(index: &Index) -> (Ir, Report, Followed) {
    let mut followed = Followed::default();
    let mut report = Report::default();
    report.classes = gateways::classes(index, &mut report.problems);
    let mut plans = gateways::plan(index, &report.classes, &mut report.problems);
    let claims = claims::settle(&mut plans);
    report.routes = routes::attach(index, &mut plans, &claims, &mut followed, &mut report.problems);

    let mut ir = Ir::default();
    for plan in &plans {
        let listeners = plan.listeners.iter().filter(|l| l.holds_its_place());
        ir.listeners.extend(listeners.filter_map(|listener| {
            Some(Arc::new(Listener {
                name: ListenerName {
                    namespace: plan.gateway.meta.name.namespace.clone(),
                    gateway: plan.gateway.meta.name.name.clone(),
                    section: listener.spec.name.clone(),
                },
                addresses: plan.addresses.clone(),
                port: listener.spec.port,
                traffic: traffic(plan, listener)?,
            }))
        }));
        ir.exclusive_addresses.extend(plan.exclusive_addresses());
    }
    ir.listeners.sort_unstable_by(|a, b| a.name.cmp(&b.name));
    ir.exclusive_addresses.sort_unstable();
    ir.exclusive_addresses.dedup();
    report.gateways = plans.into_iter().map(gateways::Plan::report).collect();
    report.gateways.sort_unstable_by(|a, b| a.subject.name.cmp(&b.subject.name));
    report.problems.sort_unstable();
    followed.complete(index, &mut report.problems);
    (ir, report, followed)
}

/// `None`: a protocol that is not served.
fn traffic(plan: &Plan, listener: &ListenerPlan) -> Option<Traffic> {
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
        ListenerProtocol::Http | ListenerProtocol::Https | ListenerProtocol::Other(_) => None,
    }
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
