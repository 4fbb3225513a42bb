//! One state of all that requests are decided by. Made aside, swapped in whole, never changed.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

use hashbrown::HashMap;

use super::access_log::Which;
use super::metrics::{Labels, Shared};
use super::places::Place;
use super::session;
use super::table::{Hosts, Table};
use crate::ir::http::Cluster;
use crate::ir::{self, Endpoint, Ir, ListenerName, Shards, Traffic};

#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    ports: HashMap<SocketAddr, Arc<Port>>,
    listeners: BTreeMap<ListenerName, Arc<Listener>>,
    endpoints: Shards<Arc<[Endpoint]>>,
    /// Listeners have requests written down, whatever the agent was told.
    is_logged: bool,
    /// The same for every snapshot that was built upon another.
    pub shared: Arc<Shared>,
    /// Sessions are signed with them; those of the first snapshot, so that no change ends them.
    pub sessions: session::Keys,
}

/// The HTTP and HTTPS listeners of an address and port.
#[derive(Debug, Default)]
pub struct Port {
    logged: Logged,
    hosts: Hosts<Arc<Listener>>,
}

/// What the listeners of a port say of requests that are to be written down.
#[derive(Debug, Default)]
struct Logged {
    /// What the first one says: of requests that find no listener.
    first: Option<Option<Which>>,
    /// One wants some.
    wanted: bool,
    /// One says nothing.
    silent: bool,
}

/// A listener with its table.
#[derive(Debug)]
pub struct Listener {
    pub name: ListenerName,
    pub ir: Arc<ir::http::Listener>,
    pub table: Table,
}

impl Snapshot {
    /// For this IR, with what is the same as `before`: the cost is that of what has changed, and of a look at each listener.
    pub fn build(ir: &Ir, before: &Snapshot) -> Snapshot {
        let (shared, sessions) = (Arc::clone(&before.shared), before.sessions.clone());
        let endpoints = ir.endpoints.clone();
        let (ports, listeners, is_logged) = (HashMap::new(), BTreeMap::new(), false);
        let mut snapshot = Snapshot { ports, listeners, endpoints, is_logged, shared, sessions };
        let mut hosts: HashMap<SocketAddr, Port> = HashMap::new();
        for listener in &ir.listeners {
            let Traffic::Http(http) = &listener.traffic else { continue };
            let built = before.listener(&listener.name, http);
            for ip in &listener.addresses {
                let port = hosts.entry(SocketAddr::new(*ip, listener.port)).or_default();
                port.hosts.set(&http.hostname, Arc::clone(&built));
                port.logged.add(http.settings.logged);
                snapshot.is_logged |= port.logged.wanted;
            }
            snapshot.listeners.insert(listener.name.clone(), built);
        }
        snapshot.ports = hosts.into_iter().map(|(at, port)| (at, Arc::new(port))).collect();
        snapshot
    }

    /// The same, with other keys for sessions.
    pub fn with_sessions(&self, sessions: session::Keys) -> Snapshot {
        Snapshot { sessions, ..self.clone() }
    }

    fn listener(&self, name: &ListenerName, http: &Arc<ir::http::Listener>) -> Arc<Listener> {
        let before = self.listeners.get(name);
        if let Some(same) = before.filter(|before| Arc::ptr_eq(&before.ir, http)) {
            return Arc::clone(same);
        }
        let table = Table::build(before.map(|before| (&before.ir.routes, &before.table)), &http.routes);
        Arc::new(Listener { name: name.clone(), ir: Arc::clone(http), table })
    }

    /// Where requests to a cluster of this snapshot can go.
    pub fn endpoints(&self, cluster: &Cluster) -> &[Endpoint] {
        self.endpoints.get(&cluster.service).map(|list| &**list).unwrap_or_default()
    }

    /// Whether connections that wanted to go there still would find it.
    pub fn serves(&self, place: &Place) -> bool {
        self.ports.contains_key(&place.gateway)
            && place.listener.as_ref().is_none_or(|listener| self.listeners.contains_key(listener))
    }

    /// Whether there still are such requests.
    pub fn has(&self, labels: &Labels) -> bool {
        let Some(listener) = self.listeners.get(&labels.listener) else { return false };
        labels.route.as_ref().is_none_or(|(route, rule)| {
            let named = listener.ir.routes.iter().find(|attachment| attachment.route.name == *route);
            named.is_some_and(|attachment| attachment.route.rules.iter().any(|other| other.name == *rule))
        })
    }

    /// Addresses and ports with listeners.
    pub fn gateways(&self) -> impl Iterator<Item = SocketAddr> {
        self.ports.keys().copied()
    }

    pub fn listeners(&self) -> impl Iterator<Item = &Listener> {
        self.listeners.values().map(|listener| &**listener)
    }

    /// Which requests that come in there are written down, as long as no more is known of them. `None`: none of them.
    pub fn logged(&self, gateway: SocketAddr) -> Option<Which> {
        let otherwise = self.shared.log.get()?.which;
        if otherwise == Which::None && !self.is_logged {
            return None;
        }
        let (first, is_logged) = match self.ports.get(&gateway).map(|port| &port.logged) {
            Some(said) => (said.first.flatten(), said.wanted || said.silent && otherwise != Which::None),
            None => (None, otherwise != Which::None),
        };
        is_logged.then(|| first.unwrap_or(otherwise))
    }

    pub fn port(&self, gateway: SocketAddr) -> Option<&Port> {
        self.ports.get(&gateway).map(|port| &**port)
    }
}

impl Logged {
    fn add(&mut self, said: Option<Which>) {
        self.first.get_or_insert(said);
        self.wanted |= said.is_some_and(|which| which != Which::None);
        self.silent |= said.is_none();
    }
}

impl Port {
    /// The most specific listener for a host, or a server name: it alone takes the request (listener isolation).
    pub fn listener(&self, host: &str) -> Option<&Arc<Listener>> {
        self.hosts.of(host).next()
    }
}
