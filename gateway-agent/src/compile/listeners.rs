//! The listeners of a Gateway: what they take, which are distinct, what their status says.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

use super::hostnames::covers;
use super::{Condition, ConditionType, ListenerReport, Reason, certificates};
use crate::index::{
    GATEWAY_GROUP, Gateway, Index, Listener, ListenerProtocol, Name, RouteKind, RouteType, TlsListener, TlsMode,
};
use crate::ir::{BackendSet, Certificate, HostName, Protocol};

/// A listener on its way to the IR.
pub struct ListenerPlan<'a> {
    pub spec: &'a Listener,
    pub fate: Fate,
    /// The types of routes that can be attached; none if `allowedRoutes.kinds` names no type that fits.
    pub takes: Vec<RouteType>,
    /// `allowedRoutes.kinds` names kinds that cannot be attached.
    bad_kinds: Option<String>,
    pub certificates: Result<Vec<Arc<Certificate>>, (Reason, String)>,
    /// Listeners of the same port whose hostname and its own have names in common.
    overlaps: Vec<&'a str>,
    pub attached: u32,
    /// The host names that routes want of it, and who gets each. A listener that does not go by host names has one:
    /// [`HostName::Any`].
    pub hosts: BTreeMap<HostName, Winner<'a>>,
}

/// The route that comes first.
pub struct Winner<'a> {
    pub of: RouteType,
    pub name: &'a Name,
    pub backends: Arc<BackendSet>,
    /// Addresses on which a more specific listener has the host name.
    pub not_on: Vec<IpAddr>,
}

/// What becomes of a listener.
pub enum Fate {
    Programmed,
    Unsupported(Reason, String),
    Conflicted(Reason, String),
    /// Its Gateway is not accepted or has no address.
    Idle,
}

impl<'a> ListenerPlan<'a> {
    pub fn new(spec: &'a Listener, gateway: &Gateway, index: &Index) -> ListenerPlan<'a> {
        let fits = fitting_routes(&spec.protocol);
        let is = |kind: &RouteKind, of: RouteType| &*kind.group == GATEWAY_GROUP && *kind.kind == *of.to_string();
        let is_named = |of: &RouteType| spec.kinds.is_empty() || spec.kinds.iter().any(|kind| is(kind, *of));
        let wrong = spec.kinds.iter().filter(|kind| !fits.iter().any(|of| is(kind, *of)));
        let wrong: Vec<String> = wrong.map(ToString::to_string).collect();
        let right: Vec<String> = fits.iter().map(ToString::to_string).collect();
        let bad_kinds = (!fits.is_empty() && !wrong.is_empty()).then(|| {
            let (right, wrong) = (right.join(" or "), wrong.join(", "));
            format!("allowedRoutes.kinds: a {} listener takes {right}, not {wrong}", described(&spec.protocol))
        });
        ListenerPlan {
            spec,
            fate: fate(&spec.protocol, gateway),
            takes: fits.iter().copied().filter(is_named).collect(),
            bad_kinds,
            certificates: match &spec.protocol {
                ListenerProtocol::Tls(tls) => certificates::resolve(index, gateway, &tls.mode),
                _ => Ok(Vec::new()),
            },
            overlaps: Vec::new(),
            attached: 0,
            hosts: BTreeMap::new(),
        }
    }

    /// The names that it is for.
    pub fn hostname(&self) -> &'a HostName {
        match &self.spec.protocol {
            ListenerProtocol::Tls(tls) => &tls.hostname,
            _ => &HostName::Any,
        }
    }

    /// Connections are forwarded, as far as there are routes.
    pub fn serves(&self) -> bool {
        matches!(self.fate, Fate::Programmed) && !self.takes.is_empty() && self.certificates.is_ok()
    }

    /// It is in the data plane. A TLS listener that cannot serve is there to refuse: a Secret that is missing for a moment must
    /// not hand its names to a listener that is less specific.
    pub fn holds_its_place(&self) -> bool {
        self.serves() || matches!((&self.fate, &self.spec.protocol), (Fate::Programmed, ListenerProtocol::Tls(_)))
    }

    pub fn is_invalid(&self) -> bool {
        matches!(self.fate, Fate::Unsupported(..) | Fate::Conflicted(..))
            || self.takes.is_empty()
            || self.certificates.is_err()
    }

    pub fn report(self) -> ListenerReport {
        use ConditionType::{Accepted, Conflicted, Programmed};
        let resolved = self.resolved();
        let (accepted, programmed, conflicted) = match self.fate {
            Fate::Programmed => {
                let programmed = if self.certificates.is_err() {
                    let message = "Without its certificates it is there only to refuse connections for its hostname";
                    Condition::no(Programmed, Reason::Invalid, message)
                } else if !self.takes.is_empty() {
                    Condition::yes(Programmed, Reason::Programmed, "The listener is in the data plane")
                } else if matches!(self.spec.protocol, ListenerProtocol::Tls(_)) {
                    let message =
                        "No route could be attached, so it is there only to refuse connections for its hostname";
                    Condition::no(Programmed, Reason::Invalid, message)
                } else {
                    let message = "No route could be attached, so it is not in the data plane";
                    Condition::no(Programmed, Reason::Invalid, message)
                };
                (Condition::yes(Accepted, Reason::Accepted, "The listener is valid"), programmed, None)
            }
            Fate::Idle => (
                Condition::yes(Accepted, Reason::Accepted, "The listener is valid"),
                Condition::no(
                    Programmed,
                    Reason::Pending,
                    "The Gateway is not accepted or has no address; see its conditions",
                ),
                None,
            ),
            Fate::Unsupported(reason, message) => (
                Condition::no(Accepted, reason, message),
                Condition::no(Programmed, Reason::Invalid, "Not accepted, so not in the data plane"),
                None,
            ),
            Fate::Conflicted(reason, message) => (
                Condition::no(Accepted, reason, message.clone()),
                Condition::no(Programmed, reason, "Not accepted, so not in the data plane"),
                Some(Condition::yes(Conflicted, reason, message)),
            ),
        };
        // For clients that use a connection for several host names: TLS of one listener may carry requests for another.
        let overlapping = (!self.overlaps.is_empty()).then(|| {
            let message = format!("The hostname has names in common with that of {}", self.overlaps.join(", "));
            Condition::yes(ConditionType::OverlappingTLSConfig, Reason::OverlappingHostnames, message)
        });
        let distinct = || Condition::no(Conflicted, Reason::NoConflicts, "No other listener wants the same");
        ListenerReport {
            name: self.spec.name.clone(),
            port: self.spec.port,
            supported: self.takes,
            attached: self.attached,
            conditions: [accepted, programmed, resolved, conflicted.unwrap_or_else(distinct)]
                .into_iter()
                .chain(overlapping)
                .collect(),
        }
    }

    fn resolved(&self) -> Condition {
        let kinds = self.bad_kinds.as_ref().map(|message| (Reason::InvalidRouteKinds, message.as_str()));
        let certificates = self.certificates.as_ref().err().map(|(reason, message)| (*reason, message.as_str()));
        let wrong: Vec<_> = certificates.into_iter().chain(kinds).collect();
        match wrong.first() {
            Some((reason, _)) => {
                let messages: Vec<&str> = wrong.iter().map(|(_, message)| *message).collect();
                Condition::no(ConditionType::ResolvedRefs, *reason, messages.join("; "))
            }
            None => Condition::yes(ConditionType::ResolvedRefs, Reason::ResolvedRefs, "All references are resolved"),
        }
    }
}

/// Listeners of one Gateway that no packet could choose between. The API forbids to pick a winner among them.
pub fn mark_conflicts(listeners: &mut [ListenerPlan]) {
    let mut by_port: HashMap<u16, Vec<usize>> = HashMap::with_capacity(listeners.len());
    for (i, listener) in listeners.iter().enumerate() {
        by_port.entry(listener.spec.port).or_default().push(i);
    }
    for group in by_port.into_values().filter(|group| group.len() > 1) {
        for &i in &group {
            let this = listeners[i].spec;
            let others: Vec<(Reason, &Listener)> = group
                .iter()
                .map(|&j| listeners[j].spec)
                .filter(|other| other.name != this.name)
                .filter_map(|other| Some((clash(&this.protocol, &other.protocol)?, other)))
                .collect();
            let Some(reason) = others.iter().map(|(reason, _)| *reason).max_by_key(|r| *r == Reason::ProtocolConflict)
            else {
                continue;
            };
            let named: Vec<String> = others.iter().map(|(_, o)| format!("{} ({})", o.name, o.protocol)).collect();
            let (named, port) = (named.join(", "), this.port);
            let message = match (&this.protocol, reason) {
                (ListenerProtocol::Tls(TlsListener { hostname, .. }), Reason::HostnameConflict) => {
                    let what = match hostname {
                        HostName::Any => "every host name".to_owned(),
                        hostname => hostname.to_string(),
                    };
                    format!(
                        "TLS for {what} on port {port} is also wanted by {named} of the same Gateway; give each another \
                         hostname or port"
                    )
                }
                _ => format!(
                    "Port {port} is also wanted by {named} of the same Gateway, and nothing in a packet tells them apart; \
                     give each another port"
                ),
            };
            listeners[i].fate = Fate::Conflicted(reason, message);
        }
    }
}

/// Listeners of one Gateway and port of which one is more specific than the other. No conflict, but worth knowing.
pub fn mark_overlaps(listeners: &mut [ListenerPlan]) {
    for i in 0..listeners.len() {
        let this = &listeners[i];
        let meets = |other: &&ListenerPlan| {
            other.spec.port == this.spec.port
                && other.hostname() != this.hostname()
                && matches!((&this.fate, &other.fate), (Fate::Programmed, Fate::Programmed))
                && matches!(
                    (&this.spec.protocol, &other.spec.protocol),
                    (ListenerProtocol::Tls(_), ListenerProtocol::Tls(_))
                )
                && (covers(this.hostname(), other.hostname()) || covers(other.hostname(), this.hostname()))
        };
        listeners[i].overlaps = listeners.iter().filter(meets).map(|other| &*other.spec.name).collect();
    }
}

/// Why two listeners of one port cannot be told apart: UDP from UDP, TCP from anything that runs over TCP, TLS from HTTP
/// (GEP-2643). HTTP, HTTPS and TLS listeners differ by host name from their own kind.
fn clash(a: &ListenerProtocol, b: &ListenerProtocol) -> Option<Reason> {
    use ListenerProtocol::{Forwarded, Http, Https, Tls};
    match (a, b) {
        (Forwarded(a), Forwarded(b)) => (a == b).then_some(Reason::ProtocolConflict),
        (Forwarded(Protocol::Tcp), Http | Https | Tls(_)) | (Http | Https | Tls(_), Forwarded(Protocol::Tcp)) => {
            Some(Reason::ProtocolConflict)
        }
        (Tls(_), Http) | (Http, Tls(_)) => Some(Reason::ProtocolConflict),
        (Tls(a), Tls(b)) => (a.hostname == b.hostname).then_some(Reason::HostnameConflict),
        _ => None,
    }
}

/// The types of routes that a listener can have. TLS that ends here leaves TCP, so a TCPRoute will do (as TLSRoute has it in its
/// documentation).
fn fitting_routes(protocol: &ListenerProtocol) -> &'static [RouteType] {
    match protocol {
        ListenerProtocol::Forwarded(Protocol::Tcp) => &[RouteType::Tcp],
        ListenerProtocol::Forwarded(Protocol::Udp) => &[RouteType::Udp],
        ListenerProtocol::Tls(TlsListener { mode: TlsMode::Passthrough, .. }) => &[RouteType::Tls],
        ListenerProtocol::Tls(TlsListener { mode: TlsMode::Terminate { .. }, .. }) => &[RouteType::Tls, RouteType::Tcp],
        ListenerProtocol::Http | ListenerProtocol::Https | ListenerProtocol::Other(_) => &[],
    }
}

fn fate(protocol: &ListenerProtocol, gateway: &Gateway) -> Fate {
    match protocol {
        ListenerProtocol::Tls(TlsListener { mode: TlsMode::Terminate { .. }, .. }) if gateway.client_certificates => {
            let message = "spec.tls.frontend of the Gateway is not supported: nobody would check the certificates of clients; \
                           remove it, or use mode Passthrough";
            Fate::Unsupported(Reason::UnsupportedValue, message.to_owned())
        }
        ListenerProtocol::Forwarded(_) | ListenerProtocol::Tls(_) => Fate::Programmed,
        other => {
            let name = other.to_string();
            let capitals = ["TCP", "UDP", "TLS"].into_iter().find(|known| known.eq_ignore_ascii_case(&name));
            let message = match capitals {
                Some(known) => format!("Protocol {name} is none; write it in capital letters: {known}"),
                None => format!("Protocol {name} is not supported by this version of Sluice; use TCP, UDP or TLS"),
            };
            Fate::Unsupported(Reason::UnsupportedProtocol, message)
        }
    }
}

/// `TLS Passthrough`
pub fn described(protocol: &ListenerProtocol) -> String {
    match protocol {
        ListenerProtocol::Tls(TlsListener { mode: TlsMode::Passthrough, .. }) => format!("{protocol} Passthrough"),
        ListenerProtocol::Tls(TlsListener { mode: TlsMode::Terminate { .. }, .. }) => format!("{protocol} Terminate"),
        other => other.to_string(),
    }
}
