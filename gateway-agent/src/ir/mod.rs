//! What `compile` makes of the objects: only what is valid and decided. No Kubernetes types, no strings where an enum is
//! meant, no Option that "cannot be None here". Everything is sorted, so that equal inputs give equal bytes.

mod attachments;
pub mod http;
mod shards;

use std::cmp::Ordering;
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

pub use shards::Shards;

/// The whole data plane of this node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ir {
    /// Sorted by name. While endpoints alone change, what they do not concern stays the same `Arc`, here and below.
    pub listeners: Vec<Arc<Listener>>,
    /// Addresses that belong to Gateways alone (not to the node): what finds no listener there is refused. Sorted.
    pub exclusive_addresses: Vec<IpAddr>,
    /// Those of them that are of the address pool: one node answers for each on its links. Sorted.
    pub announced_addresses: Vec<IpAddr>,
    /// Those that are accepted. Sorted by name.
    pub gateways: Vec<Arc<Gateway>>,
    /// Of what HTTP routes send to, by [`http::Cluster::service`]: routes name it, so that another endpoint changes one list and no route.
    /// Sorted, one entry an (address, port), of both IP families, for the agent connects anew; shared with the index.
    pub endpoints: Shards<Arc<[Endpoint]>>,
}

/// What a Gateway wants of things that somebody makes on its behalf (`infrastructure`); packets and requests do not ask. A ListenerSet has
/// no such wishes: what is made is its Gateway's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gateway {
    pub namespace: Arc<str>,
    pub name: Arc<str>,
    pub infrastructure: Infrastructure,
}

/// Keys and values, in the order of the manifest.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Infrastructure {
    pub labels: Box<[(Box<str>, Box<str>)]>,
    pub annotations: Box<[(Box<str>, Box<str>)]>,
}

/// A listener that is programmed: accepted, not conflicted. A TLS listener without its certificates or without a kind of route is
/// there too, with its hostname, to refuse it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listener {
    pub name: ListenerName,
    pub addresses: Vec<IpAddr>,
    pub port: u16,
    pub traffic: Traffic,
}

impl Listener {
    pub fn protocol(&self) -> Protocol {
        match &self.traffic {
            Traffic::Forward { protocol, .. } => *protocol,
            Traffic::Tls { .. } | Traffic::Http(_) => Protocol::Tcp,
        }
    }

    /// That packets go to: of all its server names, if it has such.
    pub fn backend_sets(&self) -> impl Iterator<Item = &Arc<BackendSet>> {
        let (one, names) = match &self.traffic {
            Traffic::Forward { backends, .. } => (backends.as_ref(), &[][..]),
            Traffic::Tls { names, .. } => (None, names.as_slice()),
            Traffic::Http(_) => (None, &[][..]),
        };
        one.into_iter().chain(names.iter().filter_map(|name| name.backends.as_ref()))
    }
}

/// What a listener does with what comes to its port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Traffic {
    /// Any connection goes to the backends. `None`: no route is attached; connections are refused.
    Forward { protocol: Protocol, backends: Option<Arc<BackendSet>> },
    /// The server name of the ClientHello decides. Listeners of one Gateway, and of several, may share an address and port; what
    /// the names of one of them are already leaves out what a listener with a more specific hostname takes.
    Tls { mode: TlsMode, names: Vec<Arc<ServerName>> },
    /// The agent answers. While nothing of the listener and its routes changes, every compile has the same `Arc`.
    Http(Arc<http::Listener>),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TlsMode {
    Passthrough,
    /// The agent ends TLS with these certificates, and forwards what is inside. None: every name is refused.
    Terminate {
        certificates: Vec<Arc<Certificate>>,
    },
}

/// A certificate chain with its key, checked: the key belongs to the first certificate.
#[derive(Clone, PartialEq, Eq)]
pub struct Certificate {
    /// `Secret namespace/name`, for people.
    pub secret: Arc<str>,
    /// DER, the end entity's first.
    pub chain: Vec<Vec<u8>>,
    /// DER: PKCS #8, PKCS #1 or SEC 1.
    pub key: Vec<u8>,
}

/// Without the key, which belongs into no log.
impl fmt::Debug for Certificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Certificate").field("secret", &self.secret).field("chain", &self.chain).finish_non_exhaustive()
    }
}

/// A server name that a listener takes. Sorted by [`HostName`], no name twice in a listener.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerName {
    pub host: HostName,
    /// `None`: the listener's own hostname, which no route takes: refused, so that no less specific name gets it.
    pub backends: Option<Arc<BackendSet>>,
    /// Addresses of the listener where the name belongs to a more specific listener of another Gateway. Sorted; empty but for
    /// Gateways that share only some of their addresses.
    pub not_on: Vec<IpAddr>,
}

/// In lower case, without a trailing dot.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum HostName {
    Exact(Arc<str>),
    /// What follows `*.`: the wildcard stands for one label or more.
    Wildcard(Arc<str>),
    /// Every name, and none at all.
    Any,
}

impl HostName {
    pub fn takes(&self, host: &str) -> bool {
        match self {
            HostName::Exact(name) => **name == *host,
            HostName::Wildcard(suffix) => host.strip_suffix(&**suffix).is_some_and(|rest| rest.ends_with('.')),
            HostName::Any => true,
        }
    }
}

impl fmt::Display for HostName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            HostName::Exact(name) => f.write_str(name),
            HostName::Wildcard(suffix) => write!(f, "*.{suffix}"),
            HostName::Any => f.write_str("*"),
        }
    }
}

/// `namespace/gateway/section`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ListenerName {
    pub namespace: Arc<str>,
    pub gateway: Arc<str>,
    pub section: Arc<str>,
}

impl fmt::Display for ListenerName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}/{}", self.namespace, self.gateway, self.section)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Protocol {
    Tcp,
    Udp,
}

impl Protocol {
    /// As manifests write it.
    pub fn as_str(self) -> &'static str {
        match self {
            Protocol::Tcp => "TCP",
            Protocol::Udp => "UDP",
        }
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The backendRefs of the route that a listener forwards to, in the order of the route.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BackendSet {
    /// `TCPRoute namespace/name`, for people.
    pub route: Arc<str>,
    pub refs: Vec<BackendRef>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BackendRef {
    /// Share of new connections, relative to the other refs of the set. 0 gets no new connections, but the reference
    /// stays in the set, so that its endpoints keep the connections they have.
    pub weight: u32,
    pub target: Target,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// The reference does not resolve: its share is refused.
    Invalid,
    /// The endpoints of a Service port, sorted, one entry an (address, port), of both IP families. The list is shared with
    /// the index: while its Service does not change, every compile has the same `Arc`, so that `Arc::ptr_eq` says
    /// "nothing to do here".
    ///
    /// A listener address only takes the endpoints of its own family: the packet path rewrites addresses but does not
    /// translate between IPv4 and IPv6. `emit` filters by the family of each listener address; a reference whose
    /// endpoints are all of the other family, or of which none is `Serving`, has its share refused there.
    Endpoints {
        /// `namespace/name`
        service: Arc<str>,
        /// Of the Service.
        port: u16,
        endpoints: Arc<[Endpoint]>,
        /// BackendTLSPolicy, for what the agent took out of TLS; connections that only pass are never changed.
        tls: Option<Arc<http::BackendTls>>,
    },
}

impl Target {
    /// `namespace/name` of the Service.
    pub fn service(&self) -> Option<&Arc<str>> {
        match self {
            Target::Invalid => None,
            Target::Endpoints { service, .. } => Some(service),
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Endpoint {
    pub address: IpAddr,
    pub port: u16,
    /// On this node: it sees the client's own address.
    pub local: bool,
    /// It wants to be told the client's address by PROXY protocol v2.
    pub proxy_protocol: bool,
    pub duty: Duty,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Duty {
    /// Gets new connections.
    Serving,
    /// Not ready or terminating: keeps the connections it has. Terminating endpoints that still serve are `Serving`
    /// when the Service port has no ready endpoint of their IP family (KEP-1669).
    Draining,
}

/// How `namespace/name` sorts letter by letter: so the Gateway API decides between objects of one age. `a-b/x` comes before `a/x`,
/// as it does not by parts.
pub fn as_one_text(a: (&str, &str), b: (&str, &str)) -> Ordering {
    if a.0 == b.0 {
        return a.1.cmp(b.1);
    }
    a.0.bytes().chain(*b"/").chain(a.1.bytes()).cmp(b.0.bytes().chain(*b"/").chain(b.1.bytes()))
}
