//! What a connection is decided by: the IR itself, which is sorted, with a way in by address and port.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use hashbrown::HashMap;

use super::Terminator;
use super::front::Front;
use super::http::table::Hosts;
use crate::ir::http::Security;
use crate::ir::{BackendSet, HostName, Ir, Listener, Traffic};

/// One state of everything. Made by `emit`, never changed.
#[derive(Debug, Default)]
pub struct Table {
    ir: Arc<Ir>,
    ports: HashMap<SocketAddr, Port>,
    /// By the index in the IR, of the listeners where TLS ends.
    terminators: HashMap<usize, Arc<Terminator>>,
}

/// The listeners of an address and port that connections come to the agent for.
#[derive(Debug, Default)]
pub struct Port {
    /// TLS listeners, by their indexes in the IR.
    tls: Vec<usize>,
    /// HTTPS listeners, by their indexes in the IR.
    https: Hosts<usize>,
    /// The first of the HTTP listeners, which share the port with no others.
    clear: Option<Front>,
    is_proxied: bool,
}

impl Port {
    /// `None`: TLS is spoken here.
    pub fn clear(&self) -> Option<Front> {
        self.clear.clone()
    }

    /// Whether connections begin with a PROXY protocol header: where one of the HTTP and HTTPS listeners wants it.
    pub fn is_proxied(&self) -> bool {
        self.is_proxied
    }

    fn add(&mut self, i: usize, listener: &Listener) {
        let http = match &listener.traffic {
            Traffic::Forward { .. } => return,
            Traffic::Tls { .. } => return self.tls.push(i),
            Traffic::Http(http) => http,
        };
        self.is_proxied |= http.settings.proxy_protocol;
        match http.security {
            Security::Https { .. } => self.https.set(&http.hostname, i),
            Security::Http => {
                let front = || Front { name: listener.name.clone(), listener: Arc::clone(http) };
                self.clear.get_or_insert_with(front);
            }
        }
    }
}

/// What a server name leads to.
#[derive(Clone, Debug)]
pub struct Found {
    /// Where TLS ends, if it ends here.
    pub terminator: Option<Arc<Terminator>>,
    pub to: To,
}

#[derive(Clone, Debug)]
pub enum To {
    Backends(Arc<BackendSet>),
    /// `terminator` is there unless the listener is there to refuse its hostname.
    Http(Front),
}

impl Table {
    /// `terminators`: for every listener of the IR where TLS ends.
    pub fn new(ir: Arc<Ir>, terminators: HashMap<usize, Arc<Terminator>>) -> Table {
        let mut ports: HashMap<SocketAddr, Port> = HashMap::new();
        for (i, listener) in ir.listeners.iter().enumerate() {
            if let Traffic::Forward { .. } = listener.traffic {
                continue;
            }
            for ip in &listener.addresses {
                ports.entry(SocketAddr::new(*ip, listener.port)).or_default().add(i, listener);
            }
        }
        Table { ir, ports, terminators }
    }

    pub fn port(&self, gateway: SocketAddr) -> Option<&Port> {
        self.ports.get(&gateway)
    }

    /// The terminator of the listener with this index.
    pub fn terminator(&self, listener: usize) -> Option<&Arc<Terminator>> {
        self.terminators.get(&listener)
    }

    pub fn ir(&self) -> &Ir {
        &self.ir
    }

    /// By the most specific name that fits: exact, then the longest wildcard, then any. `name` is in lower case; a hello without
    /// one only finds the last. `None`: refused.
    pub fn find(&self, gateway: SocketAddr, name: Option<&[u8]>) -> Option<Found> {
        let port = self.ports.get(&gateway)?;
        let name = name.unwrap_or_default();
        let https = std::str::from_utf8(name).ok().and_then(|name| port.https.of(name).next());
        let https = https.map(|i| (key(self.hostname(*i)), *i));
        let exact = (!name.is_empty()).then_some((EXACT, name));
        let dots = name.iter().enumerate().filter(|(_, byte)| **byte == b'.');
        let wildcards = dots.map(|(i, _)| (WILDCARD, &name[i + 1..]));
        let mut wanted = exact.into_iter().chain(wildcards).chain([(ANY, &[][..])]);
        wanted.find_map(|key| match https {
            Some((of_https, i)) if of_https == key => Some(self.https(i)),
            _ => port.tls.iter().find_map(|i| self.of_listener(*i, gateway.ip(), key)),
        })?
    }

    fn hostname(&self, listener: usize) -> &HostName {
        match &self.ir.listeners[listener].traffic {
            Traffic::Http(http) => &http.hostname,
            Traffic::Tls { .. } | Traffic::Forward { .. } => &HostName::Any,
        }
    }

    fn https(&self, listener: usize) -> Option<Found> {
        let Listener { name, traffic: Traffic::Http(http), .. } = &*self.ir.listeners[listener] else { return None };
        let front = Front { name: name.clone(), listener: Arc::clone(http) };
        Some(Found { terminator: self.terminators.get(&listener).cloned(), to: To::Http(front) })
    }

    /// `None`: the listener does not know the name; `Some(None)`: it refuses it.
    fn of_listener(&self, listener: usize, address: IpAddr, key: Key) -> Option<Option<Found>> {
        let Traffic::Tls { names, .. } = &self.ir.listeners[listener].traffic else { return None };
        let found = &names[names.binary_search_by(|name| self::key(&name.host).cmp(&key)).ok()?];
        if found.not_on.contains(&address) {
            return None;
        }
        Some(found.backends.as_ref().map(|backends| Found {
            terminator: self.terminators.get(&listener).cloned(),
            to: To::Backends(Arc::clone(backends)),
        }))
    }
}

/// A [`HostName`] as it sorts.
type Key<'a> = (u8, &'a [u8]);

const EXACT: u8 = 0;
const WILDCARD: u8 = 1;
const ANY: u8 = 2;

fn key(host: &HostName) -> Key<'_> {
    match host {
        HostName::Exact(name) => (EXACT, name.as_bytes()),
        HostName::Wildcard(suffix) => (WILDCARD, suffix.as_bytes()),
        HostName::Any => (ANY, &[]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ir::TlsMode;
    use crate::proxy::tests::ir::{backends, listener, named};

    /// The route that a name leads to.
    fn route(table: &Table, gateway: &str, name: Option<&str>) -> Option<String> {
        let found = table.find(gateway.parse().unwrap(), name.map(str::as_bytes))?;
        match found.to {
            To::Backends(backends) => Some(backends.route.to_string()),
            To::Http(front) => Some(front.name.to_string()),
        }
    }

    fn table() -> Table {
        let mut names = vec![
            named("shop.example.com", Some(backends("exact", vec![]))),
            named("*.example.com", Some(backends("one", vec![]))),
            named("*.deep.example.com", Some(backends("two", vec![]))),
            named("*.refused.example.com", None),
        ];
        names.sort_unstable_by(|a, b| a.host.cmp(&b.host));
        let first = listener("a", &["198.19.0.1", "2001:db8::1"], TlsMode::Passthrough, names);
        let any = vec![named("*", Some(backends("any", vec![])))];
        let second = listener("b", &["198.19.0.1"], TlsMode::Passthrough, any);
        Table::new(Arc::new(Ir { listeners: vec![first, second], ..Ir::default() }), HashMap::new())
    }

    #[test]
    fn the_most_specific_name_decides() {
        let table = table();
        let expected = [
            (Some("shop.example.com"), Some("exact")),
            (Some("other.example.com"), Some("one")),
            (Some("a.b.example.com"), Some("one")),
            (Some("a.deep.example.com"), Some("two")),
            (Some("deep.example.com"), Some("one")),
            (Some("x.refused.example.com"), None),
            (Some("example.com"), Some("any")),
            (Some("notexample.com"), Some("any")),
            (Some("com"), Some("any")),
            (None, Some("any")),
        ];
        for (name, to) in expected {
            assert_eq!(route(&table, "198.19.0.1:443", name).as_deref(), to, "{name:?}");
        }
    }

    #[test]
    fn a_name_that_another_gateway_has_on_an_address_is_not_taken_there() {
        let mut names = vec![named("shop.example.com", Some(backends("own", vec![])))];
        names[0].not_on = vec!["198.19.0.2".parse().unwrap()];
        let own = listener("a", &["198.19.0.1", "198.19.0.2"], TlsMode::Passthrough, names);
        let names = vec![named("*.example.com", Some(backends("other", vec![])))];
        let other = listener("b", &["198.19.0.2"], TlsMode::Passthrough, names);
        let table = Table::new(Arc::new(Ir { listeners: vec![own, other], ..Ir::default() }), HashMap::new());
        for (gateway, to) in [("198.19.0.1:443", "own"), ("198.19.0.2:443", "other")] {
            assert_eq!(route(&table, gateway, Some("shop.example.com")).as_deref(), Some(to));
        }
    }

    #[test]
    fn an_address_only_has_the_names_of_its_own_listeners() {
        let table = table();
        assert_eq!(route(&table, "[2001:db8::1]:443", Some("shop.example.com")).as_deref(), Some("exact"));
        for (gateway, name) in [
            ("[2001:db8::1]:443", Some("other.org")),
            ("[2001:db8::1]:443", None),
            ("198.19.0.1:8443", Some("shop.example.com")),
            ("198.19.0.2:443", Some("shop.example.com")),
        ] {
            assert_eq!(route(&table, gateway, name), None, "{gateway} {name:?}");
        }
    }
}
