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
//! - A Service that exists and has no endpoints is a resolved reference; its share of connections is refused.

#![forbid(unsafe_code)]

mod backends;
mod gateways;
mod report;
mod routes;

use std::sync::Arc;

pub use report::*;

use crate::index::Index;
use crate::ir::{Ir, Listener, ListenerName, Traffic};

/// GatewayClasses with this `spec.controllerName` are ours.
pub const CONTROLLER: &str = "sluice.dev/gateway-controller";

pub fn compile(index: &Index) -> (Ir, Report) {
    let mut report = Report::default();
    report.classes = gateways::classes(index, &mut report.problems);
    let mut plans = gateways::plan(index, &report.classes, &mut report.problems);
    report.routes = routes::attach(index, &mut plans, &mut report.problems);
    backends::unread_slices(index, &mut report.problems);

    let mut ir = Ir::default();
    for plan in &plans {
        ir.listeners.extend(plan.listeners.iter().filter(|l| l.is_programmed()).map(|listener| Listener {
            name: ListenerName {
                namespace: plan.gateway.meta.name.namespace.clone(),
                gateway: plan.gateway.meta.name.name.clone(),
                section: listener.spec.name.clone(),
            },
            addresses: plan.addresses.clone(),
            port: listener.spec.port,
            traffic: Traffic::Forward {
                protocol: listener.protocol,
                backends: listener.backends.as_ref().map(Arc::clone),
            },
        }));
        ir.exclusive_addresses.extend(plan.exclusive_addresses());
    }
    ir.listeners.sort_unstable_by(|a, b| a.name.cmp(&b.name));
    ir.exclusive_addresses.sort_unstable();
    ir.exclusive_addresses.dedup();
    report.gateways = plans.into_iter().map(gateways::Plan::report).collect();
    report.gateways.sort_unstable_by(|a, b| a.subject.name.cmp(&b.subject.name));
    report.problems.sort_unstable();
    (ir, report)
}
