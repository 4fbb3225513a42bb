//! The backendRefs of a route: whether they may be followed, and the endpoints they lead to.

use std::sync::Arc;

use super::grants::permit;
use super::services::Uses;
use super::{Condition, ConditionType, Reason};
use crate::index::{BackendRef, Index, Kind, PortProtocol, Route, Service, ServicePort};
use crate::ir::http::Balance;
use crate::ir::{self, BackendSet, Endpoint, Protocol, Target};

/// What a route forwards to, and its condition `ResolvedRefs`, for which it does not matter what endpoints there are.
pub fn resolve(index: &Index, route: &Route, backends: &[BackendRef], uses: &mut Uses) -> (BackendSet, Condition) {
    let mut wrong: Option<Reason> = None;
    let mut messages = Vec::new();
    let mut refs = Vec::with_capacity(backends.len());
    for (i, backend) in backends.iter().enumerate() {
        let target = follow(index, route, backend, uses).unwrap_or_else(|(reason, message)| {
            wrong.get_or_insert(reason);
            messages.push(format!("spec.rules[0].backendRefs[{i}]: {message}"));
            Target::Invalid
        });
        refs.push(ir::BackendRef { weight: backend.weight, target });
    }
    let condition = match wrong {
        Some(reason) => Condition::no(ConditionType::ResolvedRefs, reason, messages.join("; ")),
        None => resolved(),
    };
    (BackendSet { route: format!("{} {}", route.of, route.meta.name).into(), refs }, condition)
}

pub fn resolved() -> Condition {
    Condition::yes(ConditionType::ResolvedRefs, Reason::ResolvedRefs, "All references are resolved")
}

fn follow(index: &Index, route: &Route, backend: &BackendRef, uses: &mut Uses) -> Result<Target, (Reason, String)> {
    let found = find(index, route, backend, uses)?;
    let (service, endpoints) = (found.service.clone(), found.endpoints.clone());
    Ok(Target::Endpoints { service, port: found.port.port, endpoints, tls: None })
}

/// A port of a Service that a route refers to.
pub struct Found<'i> {
    /// `namespace/name`.
    pub service: &'i Arc<str>,
    pub balance: Balance,
    pub port: &'i ServicePort,
    pub endpoints: &'i Arc<[Endpoint]>,
}

/// Where a reference leads, if it may be followed.
pub fn find<'i>(
    index: &'i Index,
    route: &Route,
    backend: &BackendRef,
    uses: &mut Uses,
) -> Result<Found<'i>, (Reason, String)> {
    let BackendRef { group, kind, name, port, .. } = backend;
    if !group.is_empty() || &**kind != "Service" {
        let slash = if group.is_empty() { "" } else { "/" };
        let message = format!("{group}{slash}{kind} is no backend for Sluice; refer to a Service");
        return Err((Reason::InvalidKind, message));
    }
    permit(index, (route.of.kind(), &route.meta.name.namespace), (Kind::Service, name))?;
    let Some(service) = index.service(name) else {
        let message = format!("there is no Service {name}; create it or correct the reference");
        return Err((Reason::BackendNotFound, message));
    };
    if service.external {
        let message = format!("Service {name} is of type ExternalName, which has no endpoints; refer to another");
        return Err((Reason::InvalidKind, message));
    }
    let Some(number) = *port else {
        return Err((Reason::BackendNotFound, format!("names no port of Service {name}; add one")));
    };
    let protocol = route.of.protocol();
    let found = port_of(service, number, protocol).and_then(|port| {
        let all = index.endpoints(name)?;
        Some(Found { service: all.service(), balance: service.balance, port, endpoints: all.port(number, protocol)? })
    });
    if found.is_some() {
        uses.note(name, (number, protocol));
    }
    found.ok_or_else(|| {
        let ports: Vec<String> = service.ports.iter().map(|p| format!("{} ({})", p.port, p.protocol)).collect();
        let has = if ports.is_empty() { "no ports".to_owned() } else { ports.join(", ") };
        let message = format!("Service {name} has no {protocol} port {number}; it has {has}");
        (Reason::BackendNotFound, message)
    })
}

/// The port of a Service with this number.
pub fn port_of(service: &Service, number: u16, protocol: Protocol) -> Option<&ServicePort> {
    let is_it = |port: &&ServicePort| port.port == number && port.protocol == PortProtocol::Forwarded(protocol);
    service.ports.iter().find(is_it)
}
