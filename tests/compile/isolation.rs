//! Which backends a server name leads to: what compile made of listeners and routes, looked up as the data plane does (by the IR,
//! by the map entries, by the agent's table), against the Gateway API's rules taken literally, for one server name at a time.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use gateway_agent::compile::{CONTROLLER, compile};
use gateway_agent::emit::maps::{self, Wanted};
use gateway_agent::index::{
    AddressRequest, AllowedNamespaces, CertificateRef, Change, Created, Gateway, GatewayClass, GatewayTls, Index,
    Listener, ListenerProtocol, Meta, Name, Object, Origin, ParentRef, Route, RouteType, Rules, TlsListener, TlsMode,
};
use gateway_agent::ir::{HostName, Infrastructure, Ir, Traffic};
use gateway_agent::proxy::{Table, To};
use gateway_common::SniKey;
use proptest::prelude::*;

use crate::render;

const ADDRESSES: [&str; 2] = ["198.18.5.1", "2001:db8:5::1"];
const HOSTNAMES: [&str; 9] = [
    "*",
    "*.com",
    "example.com",
    "*.example.com",
    "a.example.com",
    "*.a.example.com",
    "b.a.example.com",
    "*.b.a.example.com",
    "xexample.com",
];
const SERVER_NAMES: [&str; 12] = [
    "com",
    "example.com",
    "xexample.com",
    "a.example.com",
    "xa.example.com",
    "b.a.example.com",
    "c.a.example.com",
    "c.b.a.example.com",
    "d.c.b.a.example.com",
    "other.com",
    "example.org",
    "a.xexample.com",
];

#[derive(Clone, Debug)]
struct World {
    gateways: Vec<WrittenGateway>,
    routes: Vec<WrittenRoute>,
}

#[derive(Clone, Debug)]
struct WrittenGateway {
    created: Option<i64>,
    /// Of [`ADDRESSES`].
    addresses: Vec<usize>,
    listeners: Vec<WrittenListener>,
}

#[derive(Clone, Debug)]
struct WrittenListener {
    port: u16,
    hostname: &'static str,
    /// It ends TLS with a certificate that is not there.
    broken: bool,
}

#[derive(Clone, Debug)]
struct WrittenRoute {
    created: Option<i64>,
    gateway: usize,
    section: Option<usize>,
    port: Option<u16>,
    hostnames: Vec<&'static str>,
}

/// The listener that takes a connection, and the route whose backends get it; `None`: refused.
type Outcome = Option<(String, Option<String>)>;

// The rules taken literally.

impl World {
    fn outcome(&self, address: usize, port: u16, server_name: Option<&str>) -> Outcome {
        let mut taking: Option<(usize, usize)> = None;
        for (gateway, listener) in self.live() {
            let written = &self.gateways[gateway].listeners[listener];
            let here = written.port == port && self.gateways[gateway].addresses.contains(&address);
            let better = taking.is_none_or(|(g, l)| {
                specificity(written.hostname) > specificity(self.gateways[g].listeners[l].hostname)
            });
            if here && matches(written.hostname, server_name) && better {
                taking = Some((gateway, listener));
            }
        }
        let (gateway, listener) = taking?;
        Some((format!("gw{gateway}/l{listener}"), self.route(gateway, listener, server_name)))
    }

    /// Of the routes of a listener that take a name, the one with the most specific match, then the oldest, then the first by name.
    fn route(&self, gateway: usize, listener: usize, server_name: Option<&str>) -> Option<String> {
        let of_listener = &self.gateways[gateway].listeners[listener];
        if of_listener.broken {
            return None;
        }
        let mut best: Option<(Vec<u32>, usize)> = None;
        for (i, route) in self.routes.iter().enumerate() {
            let attached = route.gateway == gateway
                && route.section.is_none_or(|section| section == listener)
                && route.port.is_none_or(|port| port == of_listener.port);
            let everything = ["*"];
            let hostnames = if route.hostnames.is_empty() { &everything[..] } else { &route.hostnames };
            let matching = hostnames.iter().filter(|host| attached && matches(host, server_name));
            // Within the listener a match is at least as specific as the listener's own.
            let of_match = |host: &&str| specificity(host).max(specificity(of_listener.hostname));
            let Some(specificity) = matching.map(of_match).max() else { continue };
            let beats = best.as_ref().is_none_or(|(than, other)| {
                let older = age(route.created, i) < age(self.routes[*other].created, *other);
                specificity > *than || (specificity == *than && older)
            });
            if beats {
                best = Some((specificity, i));
            }
        }
        best.map(|(_, i)| format!("TLSRoute default/r{i}"))
    }

    /// Listeners that are not conflicted, the Gateways that come first first.
    fn live(&self) -> Vec<(usize, usize)> {
        let mut order: Vec<usize> = (0..self.gateways.len()).collect();
        order.sort_by_key(|&i| age(self.gateways[i].created, i));
        let mut live: Vec<(usize, usize)> = Vec::new();
        for gateway in order {
            let of_gateway = &self.gateways[gateway];
            for (l, listener) in of_gateway.listeners.iter().enumerate() {
                let same = |other: &WrittenListener| other.port == listener.port && other.hostname == listener.hostname;
                let indistinct = of_gateway.listeners.iter().filter(|other| same(other)).count() > 1;
                let taken = live.iter().any(|&(g, l)| {
                    let other = &self.gateways[g];
                    let meet = other.addresses.iter().any(|address| of_gateway.addresses.contains(address));
                    g != gateway && meet && same(&other.listeners[l])
                });
                if !indistinct && !taken {
                    live.push((gateway, l));
                }
            }
        }
        live
    }
}

fn age(created: Option<i64>, i: usize) -> (bool, Option<i64>, usize) {
    (created.is_none(), created, i)
}

fn matches(hostname: &str, server_name: Option<&str>) -> bool {
    match (hostname.strip_prefix('*'), server_name) {
        (Some(""), _) => true,
        (_, None) => false,
        (Some(suffix), Some(name)) => name.len() > suffix.len() && name.ends_with(suffix),
        (None, Some(name)) => name == hostname,
    }
}

/// Exact before wildcard, then by the number of labels.
fn specificity(hostname: &str) -> Vec<u32> {
    let exact = !hostname.starts_with('*');
    vec![exact.into(), hostname.split('.').count() as u32]
}

// What compile makes of it.

fn objects(world: &World) -> Vec<Object> {
    let class = GatewayClass { meta: meta("sluice", None), controller: CONTROLLER.into(), parameters: None };
    let gateways = world.gateways.iter().enumerate().map(|(i, written)| {
        let request = |address: &usize| AddressRequest::Address(ADDRESSES[*address].parse().expect("an address"));
        let gateway = Gateway {
            had: Box::default(),
            meta: meta(&format!("gw{i}"), written.created),
            class: "sluice".into(),
            listeners: written.listeners.iter().enumerate().map(|(l, listener)| listener.object(l).into()).collect(),
            addresses: written.addresses.iter().map(request).collect(),
            parameters: None,
            infrastructure: Infrastructure::default(),
            listener_sets: AllowedNamespaces::None,
            tls: GatewayTls::default(),
            refused: None,
        };
        Object::Gateway(gateway.into())
    });
    let routes = world.routes.iter().enumerate().map(|(i, written)| {
        let parent = ParentRef {
            group: None,
            kind: None,
            namespace: None,
            name: format!("gw{}", written.gateway).into(),
            section: written.section.map(|section| format!("l{section}").into()),
            port: written.port,
        };
        let route = Route {
            meta: meta(&format!("r{i}"), written.created),
            of: RouteType::Tls,
            hostnames: written.hostnames.iter().map(|text| host(text)).collect(),
            parents: [parent].into(),
            rules: Rules::Forward { count: 1, backends: [].into() },
        };
        Object::Route(route.into())
    });
    gateways.chain(routes).chain([Object::GatewayClass(class.into())]).collect()
}

impl WrittenListener {
    fn object(&self, i: usize) -> Listener {
        let missing = CertificateRef { group: "".into(), kind: "Secret".into(), namespace: None, name: "no".into() };
        let mode = match self.broken {
            true => TlsMode::Terminate { certificates: [missing].into() },
            false => TlsMode::Passthrough,
        };
        Listener {
            name: format!("l{i}").into(),
            port: self.port,
            protocol: ListenerProtocol::Tls(TlsListener { hostname: host(self.hostname), mode }),
            kinds: [].into(),
            namespaces: AllowedNamespaces::Same,
        }
    }
}

fn host(text: &str) -> HostName {
    match text.strip_prefix("*.") {
        Some(suffix) => HostName::Wildcard(suffix.into()),
        None if text == "*" => HostName::Any,
        None => HostName::Exact(text.into()),
    }
}

fn meta(name: &str, created: Option<i64>) -> Meta {
    let at = |second| Created::At(jiff::Timestamp::from_second(second).expect("a time"));
    Meta {
        name: Name { namespace: if name == "sluice" { "" } else { "default" }.into(), name: name.into() },
        generation: 0,
        created: created.map_or(Created::Unknown, at),
        origin: Origin { file: "a.yaml".into(), line: 1 },
    }
}

/// One look-up, as the data plane does it: the most specific of all names on an address and port.
fn look_up(ir: &Ir, address: IpAddr, port: u16, server_name: Option<&str>) -> Outcome {
    let mut names = Vec::new();
    for listener in ir.listeners.iter().filter(|l| l.port == port && l.addresses.contains(&address)) {
        let Traffic::Tls { names: of_listener, .. } = &listener.traffic else { panic!("TLS only") };
        names.extend(of_listener.iter().filter(|n| !n.not_on.contains(&address)).map(|name| (listener, name)));
    }
    let mut hosts: Vec<&HostName> = names.iter().map(|(_, name)| &name.host).collect();
    hosts.sort_unstable();
    hosts.dedup();
    assert_eq!(hosts.len(), names.len(), "a name is there twice on {address}, port {port}");
    let matching = names.into_iter().filter(|(_, name)| matches(&name.host.to_string(), server_name));
    let (listener, name) = matching.max_by_key(|(_, name)| specificity(&name.host.to_string()))?;
    let section = format!("{}/{}", listener.name.gateway, listener.name.section);
    Some((section, name.backends.as_ref().map(|set| Arc::clone(&set.route).to_string())))
}

/// The same by the keys of the map SNI, as the kernel walks a name.
fn look_up_in_maps(wanted: &Wanted, address: IpAddr, port: u16, server_name: Option<&str>) -> Option<(String, bool)> {
    let mut sni: HashMap<SniKey, (String, bool)> = HashMap::new();
    for listener in &wanted.listeners {
        for at in &listener.addresses {
            for name in listener.tls.iter().flat_map(|tls| &tls.names).filter(|name| name.is_on(&at.key)) {
                let value =
                    (format!("{}/{}", listener.name.gateway, listener.name.section), name.set(&at.key).is_some());
                assert_eq!(sni.insert(name.key(&at.key), value), None, "a key is there twice");
            }
        }
    }
    let key = |wildcard, name: &str| SniKey::new(maps::address(address), port, wildcard, name.as_bytes());
    let exact = server_name.map(|name| key(false, name));
    let suffixes = server_name.into_iter().flat_map(|name| name.match_indices('.').map(move |(i, _)| &name[i + 1..]));
    let wildcards = suffixes.map(|suffix| key(true, suffix));
    let mut keys = exact.into_iter().chain(wildcards).chain([key(true, "")]);
    keys.find_map(|key| sni.get(&key).cloned())
}

fn world() -> impl Strategy<Value = World> {
    let created = || prop::option::of(0_i64..3);
    let port = || prop::sample::select(vec![443_u16, 443, 8443]);
    let listener = (port(), prop::sample::select(&HOSTNAMES[..]), prop::bool::weighted(0.1))
        .prop_map(|(port, hostname, broken)| WrittenListener { port, hostname, broken });
    let addresses = prop::sample::subsequence(vec![0, 1], 1..=2);
    let gateway = (created(), addresses, prop::collection::vec(listener, 1..5))
        .prop_map(|(created, addresses, listeners)| WrittenGateway { created, addresses, listeners });
    let hostnames = prop::collection::vec(prop::sample::select(&HOSTNAMES[1..]), 0..4);
    let section = prop::option::weighted(0.3, 0_usize..4);
    let route = (created(), 0_usize..3, section, prop::option::weighted(0.2, port()), hostnames).prop_map(
        |(created, gateway, section, port, hostnames)| WrittenRoute { created, gateway, section, port, hostnames },
    );
    (prop::collection::vec(gateway, 1..4), prop::collection::vec(route, 0..7))
        .prop_map(|(gateways, routes)| World { gateways, routes })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_server_name_leads_where_the_rules_say(world in world()) {
        let mut index = Index::new(render::node());
        index.apply(objects(&world).into_iter().map(Change::Set));
        let (ir, _) = compile(&index);
        let wanted = maps::maps(&ir, None);
        let table = Table::new(Arc::new(ir.clone()), Default::default());
        for (i, address) in ADDRESSES.iter().enumerate() {
            let address = address.parse().expect("an address");
            for port in [443, 8443] {
                for name in SERVER_NAMES.iter().map(|name| Some(*name)).chain([None]) {
                    let expected = world.outcome(i, port, name);
                    let found = look_up(&ir, address, port, name);
                    prop_assert_eq!(&found, &expected, "{:?} to {}:{}", name, address, port);
                    let of_kernel = look_up_in_maps(&wanted, address, port, name);
                    let has_backends = expected.clone().map(|(listener, route)| (listener, route.is_some()));
                    prop_assert_eq!(of_kernel, has_backends, "{:?} to {}:{} in the maps", name, address, port);
                    let of_agent = table.find(SocketAddr::new(address, port), name.map(str::as_bytes));
                    let of_agent = of_agent.map(|found| match found.to {
                        To::Backends(backends) => backends.route.to_string(),
                        To::Http(_) => panic!("TLS only"),
                    });
                    let route = expected.and_then(|(_, route)| route);
                    prop_assert_eq!(of_agent, route, "{:?} to {}:{} in the agent", name, address, port);
                }
            }
        }
    }
}
