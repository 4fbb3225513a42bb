//! The objects Sluice reads, cut down to the fields it uses. No Kubernetes types: `source` parses into these.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use jiff::Timestamp;

use crate::ir::{Certificate, HostName, Protocol};

/// The kinds Sluice reads, in the order in which reports list them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    GatewayClass,
    Gateway,
    TCPRoute,
    TLSRoute,
    UDPRoute,
    ReferenceGrant,
    Service,
    EndpointSlice,
    Secret,
    Namespace,
}

impl Kind {
    /// The API group; empty for the core group.
    pub fn group(self) -> &'static str {
        match self {
            Kind::GatewayClass
            | Kind::Gateway
            | Kind::TCPRoute
            | Kind::TLSRoute
            | Kind::UDPRoute
            | Kind::ReferenceGrant => GATEWAY_GROUP,
            Kind::EndpointSlice => "discovery.k8s.io",
            Kind::Service | Kind::Secret | Kind::Namespace => "",
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

/// `namespace/name`; the namespace of a cluster-scoped object is empty.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Name {
    pub namespace: Arc<str>,
    pub name: Arc<str>,
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
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Precedence {
    pub created: Created,
    pub name: Name,
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
    Route(Arc<Route>),
    ReferenceGrant(Arc<ReferenceGrant>),
    Service(Arc<Service>),
    EndpointSlice(Arc<EndpointSlice>),
    Secret(Arc<Secret>),
    Namespace(Arc<Namespace>),
}

impl Object {
    pub fn meta(&self) -> &Meta {
        match self {
            Object::GatewayClass(o) => &o.meta,
            Object::Gateway(o) => &o.meta,
            Object::Route(o) => &o.meta,
            Object::ReferenceGrant(o) => &o.meta,
            Object::Service(o) => &o.meta,
            Object::EndpointSlice(o) => &o.meta,
            Object::Secret(o) => &o.meta,
            Object::Namespace(o) => &o.meta,
        }
    }

    pub fn kind(&self) -> Kind {
        match self {
            Object::GatewayClass(_) => Kind::GatewayClass,
            Object::Gateway(_) => Kind::Gateway,
            Object::Route(o) => o.of.kind(),
            Object::ReferenceGrant(_) => Kind::ReferenceGrant,
            Object::Service(_) => Kind::Service,
            Object::EndpointSlice(_) => Kind::EndpointSlice,
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
    /// `parametersRef` is set.
    pub parameters: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gateway {
    pub meta: Meta,
    pub class: Arc<str>,
    /// Names are unique.
    pub listeners: Box<[Listener]>,
    pub addresses: Box<[AddressRequest]>,
    /// `infrastructure.parametersRef` is set.
    pub parameters: bool,
    /// `tls.frontend` is set: clients shall show certificates.
    pub client_certificates: bool,
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
    Http,
    Https,
    Tls(TlsListener),
    Other(Arc<str>),
}

impl fmt::Display for ListenerProtocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            ListenerProtocol::Forwarded(protocol) => protocol.as_str(),
            ListenerProtocol::Http => "HTTP",
            ListenerProtocol::Https => "HTTPS",
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

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum RouteType {
    Tcp,
    Tls,
    Udp,
}

impl RouteType {
    pub fn kind(self) -> Kind {
        match self {
            RouteType::Tcp => Kind::TCPRoute,
            RouteType::Tls => Kind::TLSRoute,
            RouteType::Udp => Kind::UDPRoute,
        }
    }

    /// Of the backends.
    pub fn protocol(self) -> Protocol {
        match self {
            RouteType::Tcp | RouteType::Tls => Protocol::Tcp,
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
    /// Of a TLSRoute; empty: whatever its listeners take.
    pub hostnames: Box<[HostName]>,
    pub parents: Box<[ParentRef]>,
    /// v1alpha2 allows several, of which no packet could choose.
    pub rules: u16,
    /// Of the first rule.
    pub backends: Box<[BackendRef]>,
}

impl Route {
    pub fn id(&self) -> ObjectId {
        ObjectId { kind: self.of.kind(), name: self.meta.name.clone() }
    }

    /// Of two of the same age and name the type decides.
    pub fn precedence(&self) -> (Precedence, RouteType) {
        (self.meta.precedence(), self.of)
    }

    /// Whether both are attached alike: they have everything in common but their backends.
    pub fn attaches_like(&self, other: &Route) -> bool {
        let key = |route: &Route| (route.meta.created, route.of, route.rules);
        key(self) == key(other)
            && self.meta.name == other.meta.name
            && self.meta.origin == other.meta.origin
            && self.hostnames == other.hostnames
            && self.parents == other.parents
    }
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
