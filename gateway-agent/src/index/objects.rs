//! The objects Sluice reads, cut down to the fields it uses. No Kubernetes types: `source` parses into these.

use std::cmp::Ordering;
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use jiff::Timestamp;

use super::{BackendTlsPolicy, ConfigMap, Gateway, ListenerSet, ParametersRef, Route, SluiceConfig};
use crate::ir::http::{Application, Balance};
use crate::ir::{Certificate, Protocol, as_one_text};

/// The kinds Sluice reads, in the order in which reports list them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    GatewayClass,
    Gateway,
    ListenerSet,
    HTTPRoute,
    GRPCRoute,
    TCPRoute,
    TLSRoute,
    UDPRoute,
    BackendTLSPolicy,
    ReferenceGrant,
    SluiceConfig,
    Service,
    EndpointSlice,
    ConfigMap,
    Secret,
    Namespace,
}

impl Kind {
    /// The API group; empty for the core group.
    pub fn group(self) -> &'static str {
        match self {
            Kind::GatewayClass
            | Kind::Gateway
            | Kind::ListenerSet
            | Kind::HTTPRoute
            | Kind::GRPCRoute
            | Kind::TCPRoute
            | Kind::TLSRoute
            | Kind::UDPRoute
            | Kind::BackendTLSPolicy
            | Kind::ReferenceGrant => GATEWAY_GROUP,
            Kind::SluiceConfig => SLUICE_GROUP,
            Kind::EndpointSlice => "discovery.k8s.io",
            Kind::Service | Kind::ConfigMap | Kind::Secret | Kind::Namespace => "",
        }
    }

    /// Objects of this kind live in a namespace.
    pub fn namespaced(self) -> bool {
        !matches!(self, Kind::GatewayClass | Kind::Namespace)
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self:?}")
    }
}

pub const GATEWAY_GROUP: &str = "gateway.networking.k8s.io";
/// Of kinds of our own.
pub const SLUICE_GROUP: &str = "sluice.dev";

/// `namespace/name`; the namespace of a cluster-scoped object is empty.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Name {
    pub namespace: Arc<str>,
    pub name: Arc<str>,
}

impl Name {
    fn parts(&self) -> (&str, &str) {
        (&self.namespace, &self.name)
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.namespace.is_empty() { f.write_str(&self.name) } else { write!(f, "{}/{}", self.namespace, self.name) }
    }
}

/// Kind and name: what makes an object the same object.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ObjectId {
    pub kind: Kind,
    pub name: Name,
}

impl fmt::Display for ObjectId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.kind, self.name)
    }
}

/// Where an object was written down.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Origin {
    /// As the user knows it: the directory as given, and the file in it.
    pub file: Arc<str>,
    /// From 1.
    pub line: u32,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.file, self.line)
    }
}

/// When an object came into being. One without a timestamp (most manifests) counts as younger than all that have one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Created {
    At(Timestamp),
    Unknown,
}

/// What decides between objects that want the same thing: the older, then the first by `namespace/name`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Precedence {
    pub created: Created,
    pub name: Name,
}

impl Ord for Precedence {
    fn cmp(&self, other: &Precedence) -> Ordering {
        self.created.cmp(&other.created).then_with(|| as_one_text(self.name.parts(), other.name.parts()))
    }
}

impl PartialOrd for Precedence {
    fn partial_cmp(&self, other: &Precedence) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Meta {
    pub name: Name,
    /// 0: not given.
    pub generation: i64,
    pub created: Created,
    pub origin: Origin,
}

impl Meta {
    pub fn precedence(&self) -> Precedence {
        Precedence { created: self.created, name: self.name.clone() }
    }
}

/// One object. The source and the index share it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Object {
    GatewayClass(Arc<GatewayClass>),
    Gateway(Arc<Gateway>),
    ListenerSet(Arc<ListenerSet>),
    Route(Arc<Route>),
    BackendTlsPolicy(Arc<BackendTlsPolicy>),
    ReferenceGrant(Arc<ReferenceGrant>),
    SluiceConfig(Arc<SluiceConfig>),
    Service(Arc<Service>),
    EndpointSlice(Arc<EndpointSlice>),
    ConfigMap(Arc<ConfigMap>),
    Secret(Arc<Secret>),
    Namespace(Arc<Namespace>),
}

impl Object {
    pub fn meta(&self) -> &Meta {
        match self {
            Object::GatewayClass(o) => &o.meta,
            Object::Gateway(o) => &o.meta,
            Object::ListenerSet(o) => &o.meta,
            Object::Route(o) => &o.meta,
            Object::BackendTlsPolicy(o) => &o.meta,
            Object::ReferenceGrant(o) => &o.meta,
            Object::SluiceConfig(o) => &o.meta,
            Object::Service(o) => &o.meta,
            Object::EndpointSlice(o) => &o.meta,
            Object::ConfigMap(o) => &o.meta,
            Object::Secret(o) => &o.meta,
            Object::Namespace(o) => &o.meta,
        }
    }

    pub fn kind(&self) -> Kind {
        match self {
            Object::GatewayClass(_) => Kind::GatewayClass,
            Object::Gateway(_) => Kind::Gateway,
            Object::ListenerSet(_) => Kind::ListenerSet,
            Object::Route(o) => o.of.kind(),
            Object::BackendTlsPolicy(_) => Kind::BackendTLSPolicy,
            Object::ReferenceGrant(_) => Kind::ReferenceGrant,
            Object::SluiceConfig(_) => Kind::SluiceConfig,
            Object::Service(_) => Kind::Service,
            Object::EndpointSlice(_) => Kind::EndpointSlice,
            Object::ConfigMap(_) => Kind::ConfigMap,
            Object::Secret(_) => Kind::Secret,
            Object::Namespace(_) => Kind::Namespace,
        }
    }

    pub fn id(&self) -> ObjectId {
        ObjectId { kind: self.kind(), name: self.meta().name.clone() }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GatewayClass {
    pub meta: Meta,
    pub controller: Arc<str>,
    pub parameters: Option<ParametersRef>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReferenceGrant {
    pub meta: Meta,
    pub from: Box<[GrantFrom]>,
    pub to: Box<[GrantTo]>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GrantFrom {
    pub group: Arc<str>,
    pub kind: Arc<str>,
    pub namespace: Arc<str>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GrantTo {
    pub group: Arc<str>,
    pub kind: Arc<str>,
    /// `None`: every object of the kind.
    pub name: Option<Arc<str>>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Service {
    pub meta: Meta,
    /// Type `ExternalName`: a name in the DNS, no endpoints.
    pub external: bool,
    /// Its endpoints want to be told the client's address by PROXY protocol v2.
    pub proxy_protocol: bool,
    /// How its endpoints share requests.
    pub balance: Balance,
    pub ports: Box<[ServicePort]>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServicePort {
    /// Empty: the only port, without a name.
    pub name: Arc<str>,
    pub port: u16,
    pub protocol: PortProtocol,
    /// `targetPort`, if it is a number: where an EndpointSlice says "all ports".
    pub target: Option<u16>,
    pub application: AppProtocol,
}

/// `appProtocol`, for those that speak HTTP to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AppProtocol {
    /// Nothing is said, or something that HTTP/1.1 is fine for (`http`, `https`).
    Unset,
    Known {
        application: Application,
        /// `kubernetes.io/wss`: without TLS it would not be what it says.
        needs_tls: bool,
    },
    /// Of Kubernetes or the Gateway API, and not known here.
    Unknown(Arc<str>),
}

/// The protocol of a Service or EndpointSlice port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PortProtocol {
    Forwarded(Protocol),
    Sctp,
}

impl fmt::Display for PortProtocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            PortProtocol::Forwarded(protocol) => f.write_str(protocol.as_str()),
            PortProtocol::Sctp => f.write_str("SCTP"),
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndpointSlice {
    pub meta: Meta,
    /// By the label `kubernetes.io/service-name`; `None`: belongs to no Service.
    pub service: Option<Name>,
    pub ports: Box<[SlicePort]>,
    pub endpoints: Box<[SliceEndpoint]>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SlicePort {
    pub name: Arc<str>,
    pub protocol: PortProtocol,
    /// `None`: all ports.
    pub port: Option<u16>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SliceEndpoint {
    /// The first; the others lead to the same place.
    pub address: IpAddr,
    pub node: Option<Arc<str>>,
    pub health: Health,
}

/// The conditions of an endpoint, as far as they matter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Health {
    Ready,
    /// Serving and terminating: gets new connections when no endpoint is ready.
    LastResort,
    NotReady,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Secret {
    pub meta: Meta,
    /// What is wrong with it is for those who refer to it.
    pub certificate: Result<Arc<Certificate>, Box<str>>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Namespace {
    pub meta: Meta,
    /// Sorted by key.
    pub labels: Labels,
}

/// Keys and values.
pub type Labels = Box<[(Box<str>, Box<str>)]>;
