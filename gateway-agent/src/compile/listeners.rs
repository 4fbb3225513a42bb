//! The listeners of a Gateway: what they take, what their status says.

use std::sync::Arc;

use super::authorities::{self, Referrer};
use super::certificates::Owner;
use super::overlaps::Overlaps;
use super::{Condition, ConditionType, ListenerReport, Reason, certificates, some};
use crate::index::{
    GATEWAY_GROUP, Gateway, Index, Kind, Listener, ListenerProtocol, RouteKind, RouteType, TlsListener, TlsMode,
};
use crate::ir::http::Clients;
use crate::ir::{Certificate, HostName, Protocol};

/// A listener on its way to the IR.
pub struct ListenerPlan {
    pub spec: Arc<Listener>,
    /// The ListenerSet of the plan that it is of; `None`: the Gateway's own.
    pub set: Option<usize>,
    /// Among the listeners of its object.
    pub place: usize,
    pub fate: Fate,
    /// The types of routes that can be attached; none if `allowedRoutes.kinds` names no type that fits.
    pub takes: Vec<RouteType>,
    /// `allowedRoutes.kinds` names kinds that cannot be attached.
    bad_kinds: Option<String>,
    pub certificates: Result<Vec<Arc<Certificate>>, (Reason, String)>,
    /// What an HTTPS listener asks of its clients.
    pub clients: Clients,
    /// References to certificates for clients that do not hold.
    bad_authorities: Option<(Reason, String)>,
    pub overlaps: Overlaps,
}

/// What becomes of a listener.
pub enum Fate {
    Programmed,
    Unsupported(Reason, String),
    Conflicted(Reason, String),
    /// Its Gateway is not accepted or has no address.
    Idle,
}

impl ListenerPlan {
    pub fn new(
        (place, spec): (usize, &Arc<Listener>),
        (set, owner): (Option<usize>, Owner),
        gateway: &Gateway,
        index: &Index,
    ) -> ListenerPlan {
        let (clients, bad_authorities) = clients(spec, gateway, index);
        let fits = fitting_routes(&spec.protocol);
        let is = |kind: &RouteKind, of: RouteType| &*kind.group == GATEWAY_GROUP && *kind.kind == *of.to_string();
        let is_named = |of: &RouteType| spec.kinds.is_empty() || spec.kinds.iter().any(|kind| is(kind, *of));
        let wrong = spec.kinds.iter().filter(|kind| !fits.iter().any(|of| is(kind, *of)));
        let wrong: Vec<String> = wrong.map(ToString::to_string).collect();
        let right: Vec<String> = fits.iter().map(ToString::to_string).collect();
        let bad_kinds = (!fits.is_empty() && !wrong.is_empty()).then(|| {
            let (right, wrong) = (right.join(" or "), wrong.join(", "));
            format!(
                "allowedRoutes.kinds: a {} listener takes {right}, not {wrong}; name no other",
                described(&spec.protocol)
            )
        });
        ListenerPlan {
            spec: Arc::clone(spec),
            set,
            place,
            fate: fate(spec, gateway),
            takes: fits.iter().copied().filter(is_named).collect(),
            bad_kinds,
            certificates: certificates::resolve(index, owner, &spec.protocol),
            clients,
            bad_authorities,
            overlaps: Overlaps::default(),
        }
    }

    /// The names that it is for.
    pub fn hostname(&self) -> &HostName {
        self.spec.protocol.hostname().unwrap_or(&HostName::Any)
    }

    /// Connections are forwarded, as far as there are routes.
    pub fn serves(&self) -> bool {
        matches!(self.fate, Fate::Programmed) && !self.cannot_serve()
    }

    /// It is in the data plane. A listener with a hostname that cannot serve is there to refuse: a Secret that is missing for a moment
    /// must not hand its names to a listener that is less specific.
    pub fn holds_its_place(&self) -> bool {
        self.serves() || (matches!(self.fate, Fate::Programmed) && self.spec.protocol.hostname().is_some())
    }

    pub fn is_invalid(&self) -> bool {
        matches!(self.fate, Fate::Unsupported(..) | Fate::Conflicted(..)) || self.cannot_serve()
    }

    fn cannot_serve(&self) -> bool {
        self.takes.is_empty() || self.certificates.is_err() || self.clients == Clients::Refused
    }

    /// But for the routes that are attached.
    pub fn report(&self) -> ListenerReport {
        use ConditionType::{Accepted, Conflicted, Programmed};
        let resolved = self.resolved();
        let (accepted, programmed, conflicted) = match &self.fate {
            Fate::Programmed if self.clients == Clients::Refused => {
                let why = "No CA certificate reference holds, so no client can be checked; see ResolvedRefs";
                let programmed = "Without certificates to check clients with it is there only to refuse connections";
                (
                    Condition::no(Accepted, Reason::NoValidCACertificate, why),
                    Condition::no(Programmed, Reason::Invalid, programmed),
                    None,
                )
            }
            Fate::Programmed => {
                let programmed = if self.certificates.is_err() {
                    let message = "Without its certificates it is there only to refuse connections for its hostname";
                    Condition::no(Programmed, Reason::Invalid, message)
                } else if !self.takes.is_empty() {
                    Condition::yes(Programmed, Reason::Programmed, "The listener is in the data plane")
                } else if self.spec.protocol.hostname().is_some() {
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
                Condition::no(Accepted, *reason, message.clone()),
                Condition::no(Programmed, Reason::Invalid, "Not accepted, so not in the data plane"),
                None,
            ),
            Fate::Conflicted(reason, message) => (
                Condition::no(Accepted, *reason, message.clone()),
                Condition::no(Programmed, *reason, "Not accepted, so not in the data plane"),
                Some(Condition::yes(Conflicted, *reason, message.clone())),
            ),
        };
        let overlapping = overlapping(&self.overlaps);
        let distinct = || Condition::no(Conflicted, Reason::NoConflicts, "No other listener wants the same");
        ListenerReport {
            name: self.spec.name.clone(),
            port: self.spec.port,
            supported: self.takes.clone(),
            attached: 0,
            conditions: [accepted, programmed, resolved, conflicted.unwrap_or_else(distinct)]
                .into_iter()
                .chain(overlapping)
                .collect(),
        }
    }

    fn resolved(&self) -> Condition {
        let kinds = self.bad_kinds.as_ref().map(|message| (Reason::InvalidRouteKinds, message.as_str()));
        let certificates = self.certificates.as_ref().err().map(|(reason, message)| (*reason, message.as_str()));
        let authorities = self.bad_authorities.as_ref().map(|(reason, message)| (*reason, message.as_str()));
        let wrong: Vec<_> = certificates.into_iter().chain(authorities).chain(kinds).collect();
        match wrong.first() {
            Some((reason, _)) => {
                let messages: Vec<&str> = wrong.iter().map(|(_, message)| *message).collect();
                Condition::no(ConditionType::ResolvedRefs, *reason, messages.join("; "))
            }
            None => Condition::yes(ConditionType::ResolvedRefs, Reason::ResolvedRefs, "All references are resolved"),
        }
    }
}

/// For clients that use a connection for several host names: TLS of one listener may carry requests for another. Where both reasons hold
/// it is the certificates that are named (`ListenerConditionOverlappingTLSConfig`): clients go by these.
fn overlapping(overlaps: &Overlaps) -> Option<Condition> {
    let Overlaps { hostnames, certificates } = overlaps;
    let told = |what: &str, of: &str, others: &[String]| {
        (!others.is_empty()).then(|| format!("The {what} has names in common with {of} of {}", some(others)))
    };
    let by_hostname = told("hostname", "that", hostnames);
    let by_certificate = told("certificate", "one", certificates);
    let reason = if by_certificate.is_some() { Reason::OverlappingCertificates } else { Reason::OverlappingHostnames };
    let messages: Vec<String> = by_certificate.into_iter().chain(by_hostname).collect();
    let yes = |message| Condition::yes(ConditionType::OverlappingTLSConfig, reason, message);
    (!messages.is_empty()).then(|| yes(messages.join(". ")))
}

/// The types of routes that a listener can have. TLS that ends here leaves TCP, so a TCPRoute will do (as TLSRoute has it in its
/// documentation).
fn fitting_routes(protocol: &ListenerProtocol) -> &'static [RouteType] {
    match protocol {
        ListenerProtocol::Forwarded(Protocol::Tcp) => &[RouteType::Tcp],
        ListenerProtocol::Forwarded(Protocol::Udp) => &[RouteType::Udp],
        ListenerProtocol::Tls(TlsListener { mode: TlsMode::Passthrough, .. }) => &[RouteType::Tls],
        ListenerProtocol::Tls(TlsListener { mode: TlsMode::Terminate { .. }, .. }) => &[RouteType::Tls, RouteType::Tcp],
        ListenerProtocol::Http { .. } | ListenerProtocol::Https { .. } => &[RouteType::Http, RouteType::Grpc],
        ListenerProtocol::Other(_) => &[],
    }
}

fn fate(spec: &Listener, gateway: &Gateway) -> Fate {
    match &spec.protocol {
        ListenerProtocol::Tls(TlsListener { mode: TlsMode::Terminate { .. }, .. })
            if gateway.tls.clients_of(spec.port).is_some() =>
        {
            let message = "spec.tls.frontend of the Gateway is not supported for TLS listeners, only for HTTPS: nobody would check \
                           the certificates of clients; use tls.frontend.perPort to leave this port out, or mode Passthrough";
            Fate::Unsupported(Reason::UnsupportedValue, message.to_owned())
        }
        ListenerProtocol::Other(name) => {
            let known = ["HTTP", "HTTPS", "TLS", "TCP", "UDP"];
            let message = match known.into_iter().find(|known| known.eq_ignore_ascii_case(name)) {
                Some(known) => format!("Protocol {name} is none; write it in capital letters: {known}"),
                None => format!("Protocol {name} is not supported by Sluice; use {}", known.join(", ")),
            };
            Fate::Unsupported(Reason::UnsupportedProtocol, message)
        }
        _ => Fate::Programmed,
    }
}

/// `tls.frontend` of the Gateway, for an HTTPS listener; and what is wrong with its references.
fn clients(spec: &Listener, gateway: &Gateway, index: &Index) -> (Clients, Option<(Reason, String)>) {
    let wanted = gateway.tls.clients_of(spec.port);
    let (ListenerProtocol::Https { .. }, Some(wanted)) = (&spec.protocol, wanted) else {
        return (Clients::Anonymous, None);
    };
    let namespace = &gateway.meta.name.namespace;
    let referrer = Referrer { kind: Kind::Gateway, namespace, bad_kind: Reason::InvalidCACertificateKind };
    let field = "spec.tls.frontend of the Gateway: caCertificateRefs";
    let found = authorities::resolve(index, &referrer, field, &wanted.authorities);
    let clients = match found.authorities {
        Some(authorities) => Clients::Checked { authorities, unverified: wanted.unverified },
        None => Clients::Refused,
    };
    (clients, found.wrong)
}

/// `TLS Passthrough`
pub fn described(protocol: &ListenerProtocol) -> String {
    match protocol {
        ListenerProtocol::Tls(TlsListener { mode: TlsMode::Passthrough, .. }) => format!("{protocol} Passthrough"),
        ListenerProtocol::Tls(TlsListener { mode: TlsMode::Terminate { .. }, .. }) => format!("{protocol} Terminate"),
        other => other.to_string(),
    }
}
