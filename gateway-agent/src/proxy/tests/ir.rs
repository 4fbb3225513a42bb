//! Pieces of an IR.

use std::cell::RefCell;
use std::sync::Arc;

use crate::ir::http::BackendTls;
use crate::ir::{
    BackendRef, BackendSet, Duty, Endpoint, HostName, Listener, ListenerName, ServerName, Shards, Target, TlsMode,
    Traffic,
};

/// On port 443.
pub fn listener(section: &str, addresses: &[&str], mode: TlsMode, names: Vec<ServerName>) -> Arc<Listener> {
    Arc::new(Listener {
        name: ListenerName { namespace: "default".into(), gateway: "gw".into(), section: section.into() },
        addresses: addresses.iter().map(|a| a.parse().unwrap()).collect(),
        port: 443,
        traffic: Traffic::Tls { mode, names: names.into_iter().map(Arc::new).collect() },
    })
}

/// As manifests write it; `*` is any.
pub fn named(host: &str, backends: Option<BackendSet>) -> ServerName {
    let host = match host.strip_prefix("*.") {
        Some(suffix) => HostName::Wildcard(suffix.into()),
        None if host == "*" => HostName::Any,
        None => HostName::Exact(host.into()),
    };
    ServerName { host, backends: backends.map(Arc::new), not_on: Vec::new() }
}

pub fn backends(route: &str, refs: Vec<(u32, Target)>) -> BackendSet {
    let refs = refs.into_iter().map(|(weight, target)| BackendRef { weight, target }).collect();
    BackendSet { route: route.into(), refs }
}

pub fn endpoints(list: &[Endpoint]) -> Target {
    Target::Endpoints { service: "default/web".into(), port: 443, endpoints: list.to_vec().into(), tls: None }
}

/// That only who a policy says is spoken to.
pub fn secure(list: &[Endpoint], tls: BackendTls) -> Target {
    let tls = Some(Arc::new(tls));
    Target::Endpoints { service: "default/web".into(), port: 443, endpoints: list.to_vec().into(), tls }
}

pub fn endpoint(address: &str) -> Endpoint {
    let address: std::net::SocketAddr = address.parse().unwrap();
    Endpoint { address: address.ip(), port: address.port(), local: false, proxy_protocol: false, duty: Duty::Serving }
}

thread_local! {
    /// Every test has a thread to itself.
    static SERVICES: RefCell<Shards<Arc<[Endpoint]>>> = RefCell::default();
}

/// The port of a Service with these endpoints, as clusters name it; [`services`] knows it from now on.
pub fn service(endpoints: Vec<Endpoint>) -> Arc<str> {
    let ports: Vec<String> = endpoints.iter().map(|endpoint| endpoint.port.to_string()).collect();
    let name = format!("default/web:{}", ports.join("+"));
    SERVICES.with_borrow_mut(|services| services.set(&name, Some(endpoints.into())));
    name.into()
}

/// The endpoints of all Services that a test named.
pub fn services() -> Shards<Arc<[Endpoint]>> {
    SERVICES.with_borrow(Shards::clone)
}
