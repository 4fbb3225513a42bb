//! What `compile` makes of the objects: only what is valid and decided. No Kubernetes types, no strings where an enum is
//! meant, no Option that "cannot be None here". Everything is sorted, so that equal inputs give equal bytes.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

/// The whole data plane of this node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ir {
    /// Sorted by name.
    pub listeners: Vec<Listener>,
    /// Addresses that belong to Gateways alone (not to the node): what finds no listener there is refused. Sorted.
    pub exclusive_addresses: Vec<IpAddr>,
}

/// A listener that is programmed: accepted, not conflicted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listener {
    pub name: ListenerName,
    pub addresses: Vec<IpAddr>,
    pub port: u16,
    pub protocol: Protocol,
    /// `None`: no route is attached; connections are refused.
    pub backends: Option<Arc<BackendSet>>,
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
    Endpoints { service: Arc<str>, endpoints: Arc<[Endpoint]> },
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Endpoint {
    pub address: IpAddr,
    pub port: u16,
    /// On this node: it sees the client's own address.
    pub local: bool,
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
