//! Gateways, ListenerSets and their listeners, cut down to the fields that are used.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use super::{GATEWAY_GROUP, Meta, ParametersRef, ParentRef};
use crate::ir::http::Unverified;
use crate::ir::{HostName, Infrastructure, Protocol};

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gateway {
    pub meta: Meta,
    pub class: Arc<str>,
    /// Names are unique.
    pub listeners: Box<[Arc<Listener>]>,
    pub addresses: Box<[AddressRequest]>,
    /// `status.addresses`: what it had when that was written.
    pub had: Box<[IpAddr]>,
    /// `infrastructure.parametersRef`.
    pub parameters: Option<ParametersRef>,
    /// `infrastructure.labels` and `.annotations`.
    pub infrastructure: Infrastructure,
    /// `allowedListeners`: whose ListenerSets it takes.
    pub listener_sets: AllowedNamespaces,
    pub tls: GatewayTls,
    /// What the API lets through and Sluice cannot do. Then the rest is as it was before, or there are no listeners.
    pub refused: Option<Box<str>>,
}

/// `spec.tls`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GatewayTls {
    /// `frontend.default`.
    pub clients: Option<ClientValidation>,
    /// `frontend.perPort`, sorted; `None`: clients of the port are not asked, whatever the default says.
    pub clients_of: Box<[(u16, Option<ClientValidation>)]>,
    /// `backend.clientCertificateRef`.
    pub client: Option<CertificateRef>,
}

impl GatewayTls {
    /// What clients of a port have to show.
    pub fn clients_of(&self, port: u16) -> Option<&ClientValidation> {
        match self.clients_of.binary_search_by_key(&port, |(port, _)| *port) {
            Ok(place) => self.clients_of[place].1.as_ref(),
            Err(_) => self.clients.as_ref(),
        }
    }

    /// Clients without a valid certificate are let in somewhere.
    pub fn is_insecure(&self) -> bool {
        let of_ports = self.clients_of.iter().filter_map(|(_, clients)| clients.as_ref());
        self.clients.iter().chain(of_ports).any(|clients| clients.unverified == Unverified::Allowed)
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientValidation {
    pub authorities: Box<[AuthorityRef]>,
    pub unverified: Unverified,
}

/// An entry of `caCertificateRefs`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuthorityRef {
    pub group: Arc<str>,
    pub kind: Arc<str>,
    /// `None`: that of the object.
    pub namespace: Option<Arc<str>>,
    pub name: Arc<str>,
}

/// More listeners for a Gateway.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListenerSet {
    pub meta: Meta,
    pub parent: ParentRef,
    /// Names are unique.
    pub listeners: Box<[Arc<Listener>]>,
    /// As of a Gateway.
    pub refused: Option<Box<str>>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listener {
    pub name: Arc<str>,
    pub port: u16,
    pub protocol: ListenerProtocol,
    /// `allowedRoutes.kinds`; empty: every kind that fits the protocol.
    pub kinds: Box<[RouteKind]>,
    pub namespaces: AllowedNamespaces,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ListenerProtocol {
    Forwarded(Protocol),
    Http {
        /// Without `hostname`: [`HostName::Any`].
        hostname: HostName,
    },
    Https {
        hostname: HostName,
        certificates: Box<[CertificateRef]>,
    },
    Tls(TlsListener),
    Other(Arc<str>),
}

impl ListenerProtocol {
    /// `None`: it does not go by host names.
    pub fn hostname(&self) -> Option<&HostName> {
        match self {
            ListenerProtocol::Http { hostname } | ListenerProtocol::Https { hostname, .. } => Some(hostname),
            ListenerProtocol::Tls(tls) => Some(&tls.hostname),
            ListenerProtocol::Forwarded(_) | ListenerProtocol::Other(_) => None,
        }
    }

    /// What is in TLS is taken out.
    pub fn ends_tls(&self) -> bool {
        let ends = |tls: &TlsListener| matches!(tls.mode, TlsMode::Terminate { .. });
        matches!(self, ListenerProtocol::Https { .. }) || matches!(self, ListenerProtocol::Tls(tls) if ends(tls))
    }

    /// The requests inside are read.
    pub fn is_http(&self) -> bool {
        matches!(self, ListenerProtocol::Http { .. } | ListenerProtocol::Https { .. })
    }
}

impl fmt::Display for ListenerProtocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            ListenerProtocol::Forwarded(protocol) => protocol.as_str(),
            ListenerProtocol::Http { .. } => "HTTP",
            ListenerProtocol::Https { .. } => "HTTPS",
            ListenerProtocol::Tls(_) => "TLS",
            ListenerProtocol::Other(name) => name,
        })
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsListener {
    /// Without `hostname`: [`HostName::Any`].
    pub hostname: HostName,
    pub mode: TlsMode,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TlsMode {
    Passthrough,
    Terminate { certificates: Box<[CertificateRef]> },
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CertificateRef {
    pub group: Arc<str>,
    pub kind: Arc<str>,
    /// `None`: that of the Gateway.
    pub namespace: Option<Arc<str>>,
    pub name: Arc<str>,
}

/// `group` and `kind` of a route, as `allowedRoutes.kinds` names them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RouteKind {
    pub group: Arc<str>,
    pub kind: Arc<str>,
}

impl fmt::Display for RouteKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if *self.group == *GATEWAY_GROUP { f.write_str(&self.kind) } else { write!(f, "{}/{}", self.group, self.kind) }
    }
}

/// The namespaces whose routes a listener takes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AllowedNamespaces {
    Same,
    All,
    Selector(Selector),
    /// Also `Selector` without a selector.
    None,
}

/// A label selector; every requirement must hold, none selects everything.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Selector(pub Box<[Requirement]>);

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Requirement {
    pub key: Box<str>,
    pub test: LabelTest,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LabelTest {
    In(Box<[Box<str>]>),
    /// Also holds where the label is missing.
    NotIn(Box<[Box<str>]>),
    Exists,
    DoesNotExist,
}

/// An entry of `spec.addresses`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AddressRequest {
    Address(IpAddr),
    /// Type `IPAddress` without a value: any address will do.
    Any,
    /// Type `IPAddress` with a value that is no address.
    NotAnAddress(Arc<str>),
    /// Another type, and the value.
    Type(Arc<str>, Arc<str>),
}
