//! Listeners with the routes at them, to the IR.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use super::board::Seat;
use super::stage::{At, Stage};
use crate::index::{ListenerProtocol, TlsMode};
use crate::ir::http::{self, Security};
use crate::ir::{self, HostName, Listener, ServerName, Traffic};

/// `None`: a listener that has no place in the data plane. What is the same in `before` stays the same `Arc`.
pub fn listener(stage: &Stage, at: At, seat: &Seat, before: Option<&Arc<Listener>>) -> Option<Arc<Listener>> {
    let (plan, listener) = (stage.plan(at), stage.listener(at));
    if !listener.holds_its_place() {
        return None;
    }
    let (addresses, port) = (plan.addresses.clone(), listener.spec.port);
    let traffic = traffic(stage, at, seat, before.map(|before| &before.traffic))?;
    let new = Listener { name: stage.name(at), addresses, port, traffic };
    Some(before.filter(|before| ***before == new).map_or_else(|| Arc::new(new), Arc::clone))
}

/// Puts what has become of some host names, or of the routes of an HTTP listener, in its place.
pub fn follow(stage: &Stage, at: At, seat: &Seat, hosts: &BTreeSet<HostName>, listener: &mut Arc<Listener>) {
    match &listener.traffic {
        Traffic::Forward { backends, .. } => {
            let new = winner(seat, &HostName::Any);
            if *backends != new
                && let Traffic::Forward { backends, .. } = &mut Arc::make_mut(listener).traffic
            {
                *backends = new;
            }
        }
        Traffic::Http(http) => {
            if http.routes != seat.http {
                let new = http::Listener { routes: seat.http.clone(), ..http::Listener::clone(http) };
                Arc::make_mut(listener).traffic = Traffic::Http(new.into());
            }
        }
        Traffic::Tls { names, .. } => {
            let mut changes = Vec::with_capacity(hosts.len());
            for host in hosts {
                let place = names.binary_search_by(|name| name.host.cmp(host));
                let new = server_name(stage, at, seat, host);
                if place.ok().map(|place| &*names[place]) != new.as_ref() {
                    changes.push((host, new));
                }
            }
            if changes.is_empty() {
                return;
            }
            let Traffic::Tls { names, .. } = &mut Arc::make_mut(listener).traffic else { return };
            for (host, new) in changes {
                match (names.binary_search_by(|name| name.host.cmp(host)), new.map(Arc::new)) {
                    (Ok(place), Some(new)) => names[place] = new,
                    (Ok(place), None) => drop(names.remove(place)),
                    (Err(place), Some(new)) => names.insert(place, new),
                    (Err(_), None) => {}
                }
            }
        }
    }
}

/// `None`: a protocol that is not served.
fn traffic(stage: &Stage, at: At, seat: &Seat, before: Option<&Traffic>) -> Option<Traffic> {
    let listener = stage.listener(at);
    match &listener.spec.protocol {
        ListenerProtocol::Forwarded(protocol) => {
            Some(Traffic::Forward { protocol: *protocol, backends: winner(seat, &HostName::Any) })
        }
        ListenerProtocol::Tls(tls) => {
            let mode = match (&tls.mode, &listener.certificates) {
                (TlsMode::Passthrough, _) => ir::TlsMode::Passthrough,
                (TlsMode::Terminate { .. }, Ok(certificates)) => {
                    ir::TlsMode::Terminate { certificates: certificates.clone() }
                }
                (TlsMode::Terminate { .. }, Err(_)) => ir::TlsMode::Terminate { certificates: Vec::new() },
            };
            Some(Traffic::Tls { mode, names: server_names(stage, at, seat, before) })
        }
        ListenerProtocol::Http { .. } | ListenerProtocol::Https { .. } => {
            let http = http_listener(stage, at, seat);
            let before = match before {
                Some(Traffic::Http(before)) if **before == http => Some(before),
                _ => None,
            };
            Some(Traffic::Http(before.map_or_else(|| Arc::new(http), Arc::clone)))
        }
        ListenerProtocol::Other(_) => None,
    }
}

fn http_listener(stage: &Stage, at: At, seat: &Seat) -> http::Listener {
    let (plan, listener) = (stage.plan(at), stage.listener(at));
    let security = match &listener.spec.protocol {
        ListenerProtocol::Http { .. } => Security::Http,
        _ => Security::Https {
            certificates: listener.certificates.clone().unwrap_or_default(),
            clients: listener.clients.clone(),
        },
    };
    let settings = Arc::clone(&plan.settings);
    http::Listener { hostname: listener.hostname().clone(), security, routes: seat.http.clone(), settings }
}

fn winner(seat: &Seat, host: &HostName) -> Option<Arc<ir::BackendSet>> {
    seat.hosts.get(host).and_then(|wishes| wishes.first()).map(|(_, backends)| Arc::clone(backends))
}

/// What a listener takes, its own hostname included, less what belongs to more specific listeners of the same address and
/// port. Each of these has its own hostname among its names, so that of all names on an address and port that match a server
/// name the most specific one belongs to the most specific listener that matches it: one look-up does for both choices.
fn server_names(stage: &Stage, at: At, seat: &Seat, before: Option<&Traffic>) -> Vec<Arc<ServerName>> {
    let before = match before {
        Some(Traffic::Tls { names, .. }) => &names[..],
        _ => &[],
    };
    let own = stage.listener(at).hostname();
    let is_missing = !seat.hosts.contains_key(own);
    let name = |host: &HostName| {
        let new = server_name(stage, at, seat, host)?;
        let old = before.binary_search_by(|name| name.host.cmp(host)).ok().map(|place| &before[place]);
        Some(old.filter(|old| ***old == new).map_or_else(|| Arc::new(new), Arc::clone))
    };
    let mut names: Vec<Arc<ServerName>> = seat.hosts.keys().filter_map(name).collect();
    if let (true, Some(new)) = (is_missing, name(own)) {
        let place = names.partition_point(|name| name.host < *own);
        names.insert(place, new);
    }
    names
}

/// `None`: the listener does not take the name.
fn server_name(stage: &Stage, at: At, seat: &Seat, host: &HostName) -> Option<ServerName> {
    let (plan, listener) = (stage.plan(at), stage.listener(at));
    let taken_away = |address: &IpAddr| stage.claims.taken_away(*address, &listener.spec, host).is_some();
    let wanted = || {
        let backends = winner(seat, host).filter(|_| listener.serves())?;
        let not_on: Vec<IpAddr> = plan.addresses.iter().copied().filter(taken_away).collect();
        let host = host.clone();
        (not_on.len() < plan.addresses.len()).then_some(ServerName { host, backends: Some(backends), not_on })
    };
    let own =
        || (host == listener.hostname()).then(|| ServerName { host: host.clone(), backends: None, not_on: Vec::new() });
    wanted().or_else(own)
}
