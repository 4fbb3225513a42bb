//! Listeners of one port that cannot be told apart.

use std::collections::HashMap;

use super::Reason;
use super::listeners::{Fate, ListenerPlan};
use crate::index::{Listener, ListenerProtocol};
use crate::ir::{HostName, Protocol};

/// Listeners of one Gateway, or of one ListenerSet, that no packet could choose between. The API forbids to pick a winner among
/// them; between a Gateway and its ListenerSets there is an order ([`super::claims`]).
pub fn mark_conflicts(listeners: &mut [ListenerPlan]) {
    let mut by_port: HashMap<(Option<usize>, u16), Vec<usize>> = HashMap::with_capacity(listeners.len());
    for (i, listener) in listeners.iter().enumerate() {
        by_port.entry((listener.set, listener.spec.port)).or_default().push(i);
    }
    for group in by_port.into_values().filter(|group| group.len() > 1) {
        for &i in &group {
            let this = &listeners[i].spec;
            let others: Vec<(Reason, &Listener)> = group
                .iter()
                .map(|&j| &*listeners[j].spec)
                .filter(|other| other.name != this.name)
                .filter_map(|other| Some((clash(&this.protocol, &other.protocol)?, other)))
                .collect();
            let Some(reason) = others.iter().map(|(reason, _)| *reason).max_by_key(|r| *r == Reason::ProtocolConflict)
            else {
                continue;
            };
            let named: Vec<String> = others.iter().map(|(_, o)| format!("{} ({})", o.name, o.protocol)).collect();
            let (named, port) = (named.join(", "), this.port);
            let of = if listeners[i].set.is_some() { "ListenerSet" } else { "Gateway" };
            let message = match (this.protocol.hostname(), reason) {
                (Some(hostname), Reason::HostnameConflict) => {
                    let what = wanted(&this.protocol, hostname);
                    format!(
                        "{what} on port {port} is also wanted by {named} of the same {of}; give each another hostname or port"
                    )
                }
                _ => format!(
                    "Port {port} is also wanted by {named} of the same {of}, and nothing in a packet tells them apart; give \
                     each another port"
                ),
            };
            listeners[i].fate = Fate::Conflicted(reason, message);
        }
    }
}

/// `TLS for every host name`
pub fn wanted(protocol: &ListenerProtocol, hostname: &HostName) -> String {
    let protocol = if matches!(protocol, ListenerProtocol::Http { .. }) { "HTTP" } else { "TLS" };
    match hostname {
        HostName::Any => format!("{protocol} for every host name"),
        hostname => format!("{protocol} for {hostname}"),
    }
}

/// Why two listeners of one port cannot be told apart: UDP from UDP, TCP from anything that runs over TCP, what comes in the clear
/// from what comes by TLS, and those of one hostname from each other (GEP-2643).
fn clash(a: &ListenerProtocol, b: &ListenerProtocol) -> Option<Reason> {
    use ListenerProtocol::{Forwarded, Http, Https, Other, Tls};
    match (a, b) {
        (Forwarded(a), Forwarded(b)) => (a == b).then_some(Reason::ProtocolConflict),
        (Forwarded(Protocol::Udp), _) | (_, Forwarded(Protocol::Udp)) | (Other(_), _) | (_, Other(_)) => None,
        (Forwarded(Protocol::Tcp), _) | (_, Forwarded(Protocol::Tcp)) => Some(Reason::ProtocolConflict),
        (Http { .. }, Https { .. } | Tls(_)) | (Https { .. } | Tls(_), Http { .. }) => Some(Reason::ProtocolConflict),
        _ => (a.hostname() == b.hostname()).then_some(Reason::HostnameConflict),
    }
}
