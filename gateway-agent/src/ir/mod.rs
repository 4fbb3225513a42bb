//! What `compile` makes of the objects: only what is valid and decided. No Kubernetes types, no strings where an enum is
//! meant, no Option that "cannot be None here". Everything is sorted, so that equal inputs give equal bytes.

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

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Protocol {
    Tcp,
    Udp,
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
    /// Share of new connections, relative to the other refs of the set; 0 is kept out.
    pub weight: u32,
    pub target: Target,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// The reference does not resolve: its share is refused.
    Invalid,
    /// The endpoints of a Service port, sorted. If none is `Serving`, the share is refused.
    Endpoints { service: Arc<str>, endpoints: Vec<Endpoint> },
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
    /// Not ready or terminating: keeps the connections it has.
    Draining,
}
