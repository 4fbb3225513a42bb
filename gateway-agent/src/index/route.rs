//! Routes and the policies for their backends, cut down to the fields that are used.

use std::sync::Arc;
use std::time::Duration;
use std::{fmt, iter};

use super::{AuthorityRef, Kind, Meta, Name, ObjectId, Precedence};
use crate::ir::http::{Authorities, Filter, Identity, Match, Persistence, Retry, Timeouts};
use crate::ir::{HostName, Protocol};
use crate::proxy::http::filters::external_auth::AuthProtocol;
use crate::proxy::http::filters::mirror::Share;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum RouteType {
    Http,
    Grpc,
    Tcp,
    Tls,
    Udp,
}

impl RouteType {
    pub fn kind(self) -> Kind {
        match self {
            RouteType::Http => Kind::HTTPRoute,
            RouteType::Grpc => Kind::GRPCRoute,
            RouteType::Tcp => Kind::TCPRoute,
            RouteType::Tls => Kind::TLSRoute,
            RouteType::Udp => Kind::UDPRoute,
        }
    }

    /// The agent reads what comes by it.
    pub fn is_http(self) -> bool {
        matches!(self, RouteType::Http | RouteType::Grpc)
    }

    /// Of the backends.
    pub fn protocol(self) -> Protocol {
        match self {
            RouteType::Http | RouteType::Grpc | RouteType::Tcp | RouteType::Tls => Protocol::Tcp,
            RouteType::Udp => Protocol::Udp,
        }
    }
}

/// As people know it: `TCPRoute`.
impl fmt::Display for RouteType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.kind().fmt(f)
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    pub meta: Meta,
    pub of: RouteType,
    /// Of HTTPRoutes, GRPCRoutes and TLSRoutes; empty: whatever their listeners take.
    pub hostnames: Box<[HostName]>,
    pub parents: Box<[ParentRef]>,
    pub rules: Rules,
}

impl Route {
    pub fn id(&self) -> ObjectId {
        ObjectId { kind: self.of.kind(), name: self.meta.name.clone() }
    }

    /// Of two of the same age and name the type decides.
    pub fn precedence(&self) -> (Precedence, RouteType) {
        (self.meta.precedence(), self.of)
    }

    /// Services that it names, some more than once.
    pub fn services(&self) -> impl Iterator<Item = &Name> {
        let rules = match &self.rules {
            Rules::Http(rules) => &rules[..],
            Rules::Refused(_) | Rules::Forward { .. } => &[],
        };
        self.rules.backends().iter().chain(rules.iter().flat_map(HttpRule::references)).map(|backend| &backend.name)
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Rules {
    Forward {
        /// v1alpha2 allows several, of which no packet could choose.
        count: u16,
        /// Of the first rule.
        backends: Box<[BackendRef]>,
    },
    Http(Box<[HttpRule]>),
    /// What the API lets through and Sluice cannot do (`spec.rules[0]…: why`): the route is not accepted.
    Refused(Box<str>),
}

impl Rules {
    /// That packets are forwarded to.
    pub fn backends(&self) -> &[BackendRef] {
        match self {
            Rules::Forward { backends, .. } => backends,
            Rules::Http(_) | Rules::Refused(_) => &[],
        }
    }
}

/// A rule of an HTTPRoute or GRPCRoute. What needs no other object is as the IR has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HttpRule {
    /// Its own, or its number.
    pub name: Arc<str>,
    /// Never empty.
    pub matches: Box<[Match]>,
    pub filters: Box<[HttpFilter]>,
    pub backends: Box<[HttpBackendRef]>,
    pub timeouts: Timeouts,
    pub retry: Option<Retry>,
    pub persistence: Option<Arc<Persistence>>,
}

impl HttpRule {
    fn references(&self) -> impl Iterator<Item = &BackendRef> {
        let of_backends = self.backends.iter();
        let of_backends =
            of_backends.flat_map(|backend| iter::once(&backend.reference).chain(references(&backend.filters)));
        references(&self.filters).chain(of_backends)
    }
}

/// Where filters send requests to.
fn references(filters: &[HttpFilter]) -> impl Iterator<Item = &BackendRef> {
    filters.iter().filter_map(|filter| match filter {
        HttpFilter::Mirror { backend, .. } | HttpFilter::ExternalAuth { backend, .. } => Some(backend),
        HttpFilter::Ready(_) | HttpFilter::Unknown(_) => None,
    })
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HttpBackendRef {
    pub reference: BackendRef,
    pub filters: Box<[HttpFilter]>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HttpFilter {
    Ready(Filter),
    Mirror {
        backend: BackendRef,
        share: Share,
    },
    ExternalAuth {
        backend: BackendRef,
        protocol: AuthProtocol,
        body: usize,
        timeout: Duration,
        fails_open: bool,
    },
    /// `ExtensionRef`; none is known.
    Unknown(Arc<str>),
}

/// As written, for the status repeats it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParentRef {
    pub group: Option<Arc<str>>,
    pub kind: Option<Arc<str>>,
    pub namespace: Option<Arc<str>>,
    pub name: Arc<str>,
    pub section: Option<Arc<str>>,
    pub port: Option<u16>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BackendRef {
    pub group: Arc<str>,
    pub kind: Arc<str>,
    pub name: Name,
    pub port: Option<u16>,
    /// 0 to 1,000,000.
    pub weight: u32,
}

/// How to speak TLS to a Service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BackendTlsPolicy {
    pub meta: Meta,
    /// Distinct.
    pub targets: Box<[PolicyTarget]>,
    /// SNI. Also who the backend must be, if `identities` is empty.
    pub server_name: Arc<str>,
    pub identities: Box<[Identity]>,
    pub trust: Trust,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PolicyTarget {
    pub group: Arc<str>,
    pub kind: Arc<str>,
    pub name: Arc<str>,
    /// The name of a port.
    pub section: Option<Arc<str>>,
}

impl PolicyTarget {
    pub fn is_service(&self) -> bool {
        self.group.is_empty() && &*self.kind == "Service"
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Trust {
    System,
    /// `wellKnownCACertificates` with another name.
    Unknown(Arc<str>),
    /// Never empty.
    These(Box<[AuthorityRef]>),
    /// What the API lets through and Sluice cannot do: nothing is known of it.
    Refused(Box<str>),
}

/// `ca.crt` of a ConfigMap; what is wrong with it is for those who refer to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigMap {
    pub meta: Meta,
    pub authorities: Result<Arc<Authorities>, Box<str>>,
}
