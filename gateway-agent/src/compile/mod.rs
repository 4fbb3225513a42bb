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
//! - Where the API lets through what Sluice cannot do (an expression that is too large, a change of a header that frames messages, a word of a
//!   later version of the API), the route is not accepted (`UnsupportedValue`); the last version that was is not kept, for the status speaks
//!   of the one there is. A Gateway or ListenerSet is not accepted either (`Invalid`), but is served as it was before: many depend on it. Of a
//!   BackendTLSPolicy nothing is known then, and nothing is sent.
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
mod board;
mod certificates;
mod claims;
mod conflicts;
mod follow;
mod gateways;
mod grants;
mod hostnames;
mod http;
mod listener_ir;
mod listener_sets;
mod listeners;
mod overlaps;
mod parameters;
mod policies;
mod report;
mod routes;
mod services;
mod stage;
mod version;

use std::sync::Arc;

pub use follow::Compiled;
pub use report::*;

use crate::index::Index;
use crate::ir::Ir;

/// GatewayClasses with this `spec.controllerName` are ours.
pub const CONTROLLER: &str = "sluice.dev/gateway-controller";

pub fn compile(index: &Index) -> (Ir, Report) {
    let Compiled { ir, report, .. } = Compiled::of(index);
    (Arc::unwrap_or_clone(ir), report)
}

/// Enough of them for a message.
fn some(names: &[String]) -> String {
    let more = if names.len() > 8 { " and more" } else { "" };
    names[..names.len().min(8)].join(", ") + more
}
