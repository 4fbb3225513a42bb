//! Routes and the policies for their backends, cut down to the fields that are used.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

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

    /// Whether both are attached alike: they have everything in common but the backends that packets are forwarded to.
    pub fn attaches_like(&self, other: &Route) -> bool {
        let key = |route: &Route| (route.meta.created, route.of);
        let alike = match (&self.rules, &other.rules) {
            (Rules::Forward { count, .. }, Rules::Forward { count: other, .. }) => count == other,
            (Rules::Http(_), _) | (_, Rules::Http(_)) => false,
        };
        alike
            && key(self) == key(other)
            && self.meta.name == other.meta.name
            && self.meta.origin == other.meta.origin
            && self.hostnames == other.hostnames
            && self.parents == other.parents
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
    /// `Err`: what the API lets through and Sluice cannot do (`spec.rules[0]…: why`): the route is not accepted.
    Http(Result<Box<[HttpRule]>, Box<str>>),
}

impl Rules {
    /// That packets are forwarded to.
    pub fn backends(&self) -> &[BackendRef] {
        match self {
            Rules::Forward { backends, .. } => backends,
            Rules::Http(_) => &[],
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

impl BackendTlsPolicy {
    /// Whether it is for a Service, or a port of it.
    pub fn targets(&self, service: &Name) -> bool {
        let is_it = |target: &PolicyTarget| target.is_service() && target.name == service.name;
        self.meta.name.namespace == service.namespace && self.targets.iter().any(is_it)
    }
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
}

/// `ca.crt` of a ConfigMap; what is wrong with it is for those who refer to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigMap {
    pub meta: Meta,
    pub authorities: Result<Arc<Authorities>, Box<str>>,
}
