//! From the IR to the wanted content of the maps, by identity instead of by id: `apply` owns the ids.

#![forbid(unsafe_code)]

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use gateway_common::{Address, ListenerKey, SniKey, protocol, server_name, sni_mode};
use hashbrown::HashSet;

use super::shares::{Family, Set, spread};
use crate::ir::http::Security;
use crate::ir::{self, HostName, Ir, ListenerName, Protocol, Target, TlsMode, Traffic};

/// The wanted content of LISTENERS, SNI, BACKEND_SETS, SLOTS and BACKENDS. What did not change in the IR stays the same `Arc`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wanted {
    /// In the order of the IR.
    pub listeners: Vec<Arc<Listener>>,
    /// Sorted.
    pub addresses: Vec<GatewayAddress>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listener {
    pub name: ListenerName,
    pub addresses: Vec<ListenerAddress>,
    /// `None`: connections are forwarded whatever their server name.
    pub tls: Option<Tls>,
    /// The agent answers. Where all listeners of an address and port are such, it has its connections from the node's own stack
    /// (kind L7); where others let TLS pass, it has them by their server name, as [`Listener::tls`] says.
    pub answered: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListenerAddress {
    pub key: ListenerKey,
    /// `None`: no route is attached, or the server names have them.
    pub set: Option<Arc<Set>>,
}

/// A set for IPv4 addresses and one for IPv6 addresses.
pub type OfFamily = [Option<Arc<Set>>; 2];

/// What a TLS listener has in SNI, on each of its addresses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tls {
    /// One of [`sni_mode`].
    pub mode: u8,
    /// In the order of the IR.
    pub names: Vec<Arc<ServerName>>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerName {
    pub host: HostName,
    /// As SNI has it.
    hash: u64,
    /// Its bit of `Listener::wildcards`; 0: no wildcard.
    pub wildcard_bit: u32,
    /// By family. `None`: no route takes the name, or no address of the listener is of this family.
    sets: OfFamily,
    /// Addresses of the listener that do not have it.
    not_on: Vec<Address>,
}

impl ServerName {
    pub fn new(host: HostName, sets: OfFamily) -> ServerName {
        let hash = SniKey::new(Address::UNSET, 0, false, looked_up(&host).as_bytes()).hash;
        let wildcard_bit = wildcard_bit(&host);
        ServerName { host, hash, wildcard_bit, sets, not_on: Vec::new() }
    }

    pub fn is_on(&self, at: &ListenerKey) -> bool {
        !self.not_on.contains(&at.address)
    }

    /// A name that cannot be told apart from this one.
    #[cfg(test)]
    pub fn with_hash_of(name: &ServerName, host: HostName) -> ServerName {
        ServerName { host, ..name.clone() }
    }

    /// Not on this address.
    #[cfg(test)]
    pub fn without(mut self, address: Address) -> ServerName {
        self.not_on.push(address);
        self
    }

    /// The key in SNI on this address.
    pub fn key(&self, at: &ListenerKey) -> SniKey {
        let wildcard = u8::from(!matches!(self.host, HostName::Exact(_)));
        SniKey { address: at.address, hash: self.hash, port: at.port, wildcard, _pad: [0; 5] }
    }

    /// For an address of this key.
    pub fn set(&self, at: &ListenerKey) -> Option<&Arc<Set>> {
        let family = if at.address.is_v4() { Family::V4 } else { Family::V6 };
        self.sets[family as usize].as_ref()
    }
}

fn wildcard_bit(host: &HostName) -> u32 {
    match host {
        HostName::Exact(_) => 0,
        HostName::Wildcard(suffix) => server_name::wildcard_bit(suffix.split('.').count() as u32),
        HostName::Any => server_name::wildcard_bit(0),
    }
}

/// What of a name is hashed.
fn looked_up(host: &HostName) -> &str {
    match host {
        HostName::Exact(name) | HostName::Wildcard(name) => name,
        HostName::Any => "",
    }
}

impl Wanted {
    /// Addresses that belong to Gateways alone, and where the agent answers: packets for them must come to the node's stack.
    pub fn answered_addresses(&self) -> BTreeSet<IpAddr> {
        let answered = self.listeners.iter().filter(|listener| listener.answered);
        let addresses = answered.flat_map(|listener| listener.addresses.iter().map(|at| ip(at.key.address)));
        addresses.filter(|ip| self.is_exclusive(*ip)).collect()
    }

    /// Whether the address belongs to Gateways alone.
    pub fn is_exclusive(&self, ip: IpAddr) -> bool {
        let found = self.addresses.binary_search_by_key(&address(ip), |a| a.address);
        found.is_ok_and(|i| self.addresses[i].exclusive)
    }
}

/// An address that Gateways use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct GatewayAddress {
    pub address: Address,
    /// It belongs to Gateways alone; else it is the node's own, and they share it.
    pub exclusive: bool,
}

/// The wanted content of the maps for this IR. `before` is the IR before it with what was made of it, which is taken over where
/// the IR is the same, so that the cost is that of what has changed.
pub fn maps(ir: &Ir, before: Option<(&Ir, Wanted)>) -> Wanted {
    let mut wanted = Wanted { listeners: Vec::with_capacity(ir.listeners.len()), addresses: gateway_addresses(ir) };
    let mut sets = Sets::default();
    let before = before.into_iter().flat_map(|(ir, wanted)| ir.listeners.iter().zip(wanted.listeners));
    let mut before = before.peekable();
    for listener in &ir.listeners {
        while before.next_if(|(old, _)| old.name < listener.name).is_some() {}
        let old = before.next_if(|(old, _)| old.name == listener.name);
        wanted.listeners.push(self::listener(listener, old, &mut sets));
    }
    wanted
}

/// What there was before, and what was made of it.
type Old<'a> = Option<(&'a Arc<ir::Listener>, Arc<Listener>)>;

fn listener(listener: &Arc<ir::Listener>, old: Old, sets: &mut Sets) -> Arc<Listener> {
    let old = match old {
        Some((old, wanted)) if Arc::ptr_eq(old, listener) || is_answered_the_same(old, listener) => return wanted,
        old => old.map(|(old, wanted)| (old, Arc::unwrap_or_clone(wanted))),
    };
    let number = number(listener.protocol());
    let families = [true, false].map(|v4| listener.addresses.iter().any(|ip| ip.is_ipv4() == v4));
    let answered = matches!(listener.traffic, Traffic::Http(_));
    let (of_family, tls) = match &listener.traffic {
        Traffic::Forward { backends, .. } => {
            let old = old.as_ref().and_then(|(old, wanted)| match &old.traffic {
                Traffic::Forward { protocol, backends } if self::number(*protocol) == number => {
                    Some((backends.as_ref()?, of_family(old, wanted)))
                }
                _ => None,
            });
            (sets.of(backends.as_ref(), number, families, old), None)
        }
        Traffic::Tls { mode, names } => {
            let of_same_addresses = old.as_ref().is_some_and(|(old, _)| old.addresses == listener.addresses);
            let old = old.and_then(|(old, wanted)| match (&old.traffic, wanted.tls) {
                (Traffic::Tls { names, .. }, Some(tls)) => Some((&names[..], tls.names)),
                _ => None,
            });
            let mode = match mode {
                TlsMode::Passthrough => sni_mode::PASSTHROUGH,
                TlsMode::Terminate { .. } => sni_mode::TERMINATE,
            };
            ([None, None], Some(Tls { mode, names: server_names(names, old, of_same_addresses, families, sets) }))
        }
        Traffic::Http(http) => {
            let name = || Arc::new(ServerName::new(http.hostname.clone(), [None, None]));
            let tls = matches!(http.security, Security::Https { .. });
            ([None, None], tls.then(|| Tls { mode: sni_mode::HTTPS, names: vec![name()] }))
        }
    };
    let at = |ip: &IpAddr| ListenerAddress {
        key: ListenerKey { address: address(*ip), port: listener.port, protocol: number, _pad: [0; 5] },
        set: of_family[Family::of(*ip) as usize].clone(),
    };
    let addresses = listener.addresses.iter().map(at).collect();
    Arc::new(Listener { name: listener.name.clone(), addresses, tls, answered })
}

/// The agent answers, and what has changed is no business of the kernel's: routes, certificates.
fn is_answered_the_same(old: &ir::Listener, new: &ir::Listener) -> bool {
    let is_https = |http: &ir::http::Listener| matches!(http.security, Security::Https { .. });
    let ir::Listener { name, addresses, port, traffic } = new;
    match (&old.traffic, traffic) {
        (Traffic::Http(was), Traffic::Http(is)) => {
            let same_names = was.hostname == is.hostname && is_https(was) == is_https(is);
            same_names && old.name == *name && old.addresses == *addresses && old.port == *port
        }
        _ => false,
    }
}

type OldNames<'a> = (&'a [Arc<ir::ServerName>], Vec<Arc<ServerName>>);

/// `of_same_addresses`: what is the same name in the IR is the same here.
fn server_names(
    names: &[Arc<ir::ServerName>],
    old: Option<OldNames>,
    of_same_addresses: bool,
    families: [bool; 2],
    sets: &mut Sets,
) -> Vec<Arc<ServerName>> {
    let Some((old, mut wanted)) = old else {
        return names.iter().map(|name| server_name(name, None, families, sets)).collect();
    };
    let is_same = |old: &Arc<ir::ServerName>, name: &Arc<ir::ServerName>| of_same_addresses && Arc::ptr_eq(old, name);
    let has_same_host = |(old, name): (_, &Arc<ir::ServerName>)| is_same(old, name) || old.host == name.host;
    // Where no name comes or goes the others are not touched.
    if old.len() == names.len() && old.iter().zip(names).all(has_same_host) {
        for ((old, name), wanted) in
            old.iter().zip(names).zip(&mut wanted).filter(|((old, name), _)| !is_same(old, name))
        {
            *wanted = server_name(name, Some((old, wanted)), families, sets);
        }
        return wanted;
    }
    let mut old = old.iter().zip(wanted).peekable();
    let name = |name: &Arc<ir::ServerName>| {
        // Nearly all are the same, and need not be read to see it.
        if let Some((_, wanted)) = old.next_if(|(old, _)| is_same(old, name)) {
            return wanted;
        }
        while old.next_if(|(old, _)| old.host < name.host).is_some() {}
        match old.next_if(|(old, _)| old.host == name.host) {
            Some((old, wanted)) if is_same(old, name) => wanted,
            Some((old, wanted)) => server_name(name, Some((old, &wanted)), families, sets),
            None => server_name(name, None, families, sets),
        }
    };
    names.iter().map(name).collect()
}

fn server_name(
    name: &ir::ServerName,
    old: Option<(&Arc<ir::ServerName>, &Arc<ServerName>)>,
    families: [bool; 2],
    sets: &mut Sets,
) -> Arc<ServerName> {
    let of_old = old.and_then(|(old, wanted)| Some((old.backends.as_ref()?, wanted.sets.clone())));
    let sets = sets.of(name.backends.as_ref(), protocol::TCP, families, of_old);
    let not_on: Vec<Address> = name.not_on.iter().copied().map(address).collect();
    let Some((_, wanted)) = old else {
        return Arc::new(ServerName { not_on, ..ServerName::new(name.host.clone(), sets) });
    };
    let is_same =
        |(a, b): (&Option<Arc<Set>>, &Option<Arc<Set>>)| a.as_ref().map(Arc::as_ptr) == b.as_ref().map(Arc::as_ptr);
    if wanted.not_on == not_on && wanted.sets.iter().zip(&sets).all(is_same) {
        return Arc::clone(wanted);
    }
    let ServerName { host, hash, wildcard_bit, .. } = &**wanted;
    Arc::new(ServerName { host: host.clone(), hash: *hash, wildcard_bit: *wildcard_bit, sets, not_on })
}

/// The sets that an L4 listener had on its addresses.
fn of_family(old: &ir::Listener, wanted: &Listener) -> OfFamily {
    let mut of_family = [None, None];
    for (ip, address) in old.addresses.iter().zip(&wanted.addresses) {
        of_family[Family::of(*ip) as usize] = address.set.clone();
    }
    of_family
}

/// Sets that were made already: equal ones are one.
#[derive(Default)]
struct Sets(HashSet<Arc<Set>>);

impl Sets {
    /// One set a family that is asked for, since an IPv4 address forwards to IPv4 endpoints only. `old`: backendRefs of before,
    /// and what was made of them.
    fn of(
        &mut self,
        backends: Option<&Arc<ir::BackendSet>>,
        protocol: u8,
        families: [bool; 2],
        old: Option<(&Arc<ir::BackendSet>, OfFamily)>,
    ) -> OfFamily {
        let Some(backends) = backends else { return [None, None] };
        let mut sets = match old {
            Some((old, sets)) if is_same(backends, old) => sets,
            _ => [None, None],
        };
        for (family, set) in [Family::V4, Family::V6].into_iter().zip(&mut sets) {
            if !families[family as usize] {
                *set = None;
            } else if set.is_none() {
                let made = spread(backends, protocol, family);
                *set = Some(Arc::clone(self.0.get_or_insert_with(&made, |s| Arc::new(s.clone()))));
            }
        }
        sets
    }
}

/// Whether both forward to the same, as far as can be told without looking at endpoints.
fn is_same(a: &Arc<ir::BackendSet>, b: &Arc<ir::BackendSet>) -> bool {
    let is_same_target = |a: &Target, b: &Target| match (a, b) {
        (Target::Invalid, Target::Invalid) => true,
        (Target::Endpoints { endpoints: a, .. }, Target::Endpoints { endpoints: b, .. }) => Arc::ptr_eq(a, b),
        _ => false,
    };
    let is_same_ref =
        |(a, b): (&ir::BackendRef, &ir::BackendRef)| a.weight == b.weight && is_same_target(&a.target, &b.target);
    Arc::ptr_eq(a, b) || a.refs.len() == b.refs.len() && a.refs.iter().zip(&b.refs).all(is_same_ref)
}

fn gateway_addresses(ir: &Ir) -> Vec<GatewayAddress> {
    let of_listeners: BTreeSet<IpAddr> = ir.listeners.iter().flat_map(|l| l.addresses.iter().copied()).collect();
    let exclusive: BTreeSet<IpAddr> = ir.exclusive_addresses.iter().copied().collect();
    let mut addresses: Vec<_> = of_listeners
        .union(&exclusive)
        .map(|ip| GatewayAddress { address: address(*ip), exclusive: exclusive.contains(ip) })
        .collect();
    addresses.sort_unstable();
    addresses
}

/// As the maps hold addresses: IPv4 mapped into IPv6.
pub fn address(ip: IpAddr) -> Address {
    match ip {
        IpAddr::V4(v4) => Address::v4(v4.octets()),
        IpAddr::V6(v6) => Address::v6(v6.octets()),
    }
}

/// The reverse of [`address`].
pub fn ip(address: Address) -> IpAddr {
    let o = address.octets;
    if address.is_v4() { IpAddr::from([o[12], o[13], o[14], o[15]]) } else { IpAddr::from(o) }
}

pub fn number(protocol: Protocol) -> u8 {
    match protocol {
        Protocol::Tcp => protocol::TCP,
        Protocol::Udp => protocol::UDP,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::emit::shares::To;
    use crate::emit::shares::tests::{endpoint, endpoints};
    use crate::ir::Duty;

    fn listener(addresses: &[&str], refs: Vec<(u32, Target)>) -> ir::Listener {
        let refs = refs.into_iter().map(|(weight, target)| ir::BackendRef { weight, target }).collect();
        ir::Listener {
            name: ListenerName { namespace: "default".into(), gateway: "gw".into(), section: "web".into() },
            addresses: addresses.iter().map(|a| a.parse().unwrap()).collect(),
            port: 80,
            traffic: Traffic::Forward {
                protocol: Protocol::Tcp,
                backends: Some(Arc::new(ir::BackendSet { route: "TCPRoute default/web".into(), refs })),
            },
        }
    }

    fn emitted(listener: ir::Listener) -> Wanted {
        maps(&Ir { listeners: vec![listener.into()], ..Ir::default() }, None)
    }

    /// The set of an address.
    fn set(wanted: &Wanted, address: usize) -> &Set {
        wanted.listeners[0].addresses[address].set.as_ref().unwrap()
    }

    #[test]
    fn an_address_takes_endpoints_of_its_own_family_only() {
        let both = || endpoints(&[endpoint("198.18.0.1", Duty::Serving), endpoint("2001:db8::1", Duty::Serving)]);
        let v6 = endpoints(&[endpoint("2001:db8::2", Duty::Serving)]);
        let wanted = emitted(listener(&["198.19.0.1", "2001:db8:1::1", "198.19.0.2"], vec![(1, both()), (1, v6)]));
        assert_eq!(set(&wanted, 0), set(&wanted, 2));
        assert!(set(&wanted, 0).shares.iter().any(|s| s.to == To::Empty && s.weight == 1));
        assert!(set(&wanted, 1).shares.iter().all(|s| matches!(s.to, To::Backend(_))));
    }

    #[test]
    fn listeners_with_the_same_shares_share_a_set() {
        let one = || endpoints(&[endpoint("198.18.0.1", Duty::Serving)]);
        let mut other = listener(&["198.19.0.2"], vec![(7, one())]);
        other.name.section = "other".into();
        let ir =
            Ir { listeners: vec![listener(&["198.19.0.1"], vec![(1, one())]).into(), other.into()], ..Ir::default() };
        let wanted = maps(&ir, None);
        let sets: Vec<_> = wanted.listeners.iter().map(|l| l.addresses[0].set.clone().unwrap()).collect();
        assert!(Arc::ptr_eq(&sets[0], &sets[1]));
    }

    #[test]
    fn what_did_not_change_is_taken_over_and_the_result_is_the_same() {
        let endpoints: Arc<[_]> = vec![endpoint("198.18.0.1", Duty::Serving)].into();
        let target =
            || Target::Endpoints { service: "s".into(), port: 80, endpoints: Arc::clone(&endpoints), tls: None };
        let named = |section: &str, weight, target| {
            let mut listener = listener(&["198.19.0.1"], vec![(weight, target), (1, Target::Invalid)]);
            listener.name.section = section.into();
            listener
        };
        let first =
            Ir { listeners: vec![named("a", 1, target()).into(), named("b", 1, target()).into()], ..Ir::default() };
        let changed = endpoints_of_other_service();
        let second =
            Ir { listeners: vec![named("b", 1, target()).into(), named("c", 2, changed).into()], ..Ir::default() };
        let before = maps(&first, None);
        let after = maps(&second, Some((&first, before.clone())));
        assert_eq!(after, maps(&second, None));
        let sets = [&before.listeners[1], &after.listeners[0]].map(|l| l.addresses[0].set.clone().unwrap());
        assert!(Arc::ptr_eq(&sets[0], &sets[1]));
    }

    fn endpoints_of_other_service() -> Target {
        endpoints(&[endpoint("198.18.0.9", Duty::Serving)])
    }

    fn tls_listener(addresses: &[&str], names: &[(HostName, Option<Target>)]) -> ir::Listener {
        let set = |target: &Target| {
            let refs = vec![ir::BackendRef { weight: 1, target: target.clone() }];
            Arc::new(ir::BackendSet { route: "TLSRoute default/web".into(), refs })
        };
        let name = |(host, target): &(HostName, Option<Target>)| ir::ServerName {
            host: host.clone(),
            backends: target.as_ref().map(set),
            not_on: Vec::new(),
        };
        let names = names.iter().map(name).map(Arc::new).collect();
        ir::Listener { traffic: Traffic::Tls { mode: TlsMode::Passthrough, names }, ..listener(addresses, Vec::new()) }
    }

    #[test]
    fn a_server_name_has_a_key_an_address_and_a_set_a_family() {
        let both = endpoints(&[endpoint("198.18.0.1", Duty::Serving), endpoint("2001:db8::1", Duty::Serving)]);
        let hosts = [HostName::Exact("a.example".into()), HostName::Wildcard("b.example".into()), HostName::Any];
        let names: Vec<_> = hosts.into_iter().map(|host| (host, Some(both.clone()))).collect();
        let wanted = emitted(tls_listener(&["198.19.0.1", "2001:db8:1::1"], &names));
        let listener = &wanted.listeners[0];
        let names = &listener.tls.as_ref().unwrap().names;
        for address in &listener.addresses {
            assert_eq!(address.set, None);
            let keys: Vec<_> = names.iter().map(|name| name.key(&address.key)).collect();
            let at = address.key.address;
            let expected = [
                SniKey::new(at, 80, false, b"a.example"),
                SniKey::new(at, 80, true, b"b.example"),
                SniKey::new(at, 80, true, b""),
            ];
            assert_eq!(keys, expected);
            for name in names {
                let set = name.set(&address.key).unwrap();
                assert!(set.backends().all(|b| b.address.is_v4() == at.is_v4()));
                assert_eq!(set.backends().count(), 1);
            }
        }
        assert_eq!(names.iter().map(|name| name.wildcard_bit).collect::<Vec<_>>(), [0, 1 << 2, 1]);
    }

    #[test]
    fn a_name_is_not_where_another_gateway_has_it() {
        let mut listener = tls_listener(&["198.19.0.1", "198.19.0.2"], &[(HostName::Any, None)]);
        let Traffic::Tls { names, .. } = &mut listener.traffic else { unreachable!() };
        Arc::make_mut(&mut names[0]).not_on = vec!["198.19.0.1".parse().unwrap()];
        let wanted = emitted(listener);
        let listener = &wanted.listeners[0];
        let name = &listener.tls.as_ref().unwrap().names[0];
        assert_eq!(listener.addresses.iter().map(|a| name.is_on(&a.key)).collect::<Vec<_>>(), [false, true]);
    }

    #[test]
    fn sets_of_names_that_did_not_change_are_taken_over() {
        let endpoints: Arc<[_]> = vec![endpoint("198.18.0.1", Duty::Serving)].into();
        let target =
            || Some(Target::Endpoints { service: "s".into(), port: 80, endpoints: Arc::clone(&endpoints), tls: None });
        let exact = |name: &str| HostName::Exact(name.into());
        let first =
            tls_listener(&["198.19.0.1"], &[(exact("a"), target()), (exact("c"), target()), (exact("d"), None)]);
        let changed = Some(endpoints_of_other_service());
        let second = [(exact("a"), changed), (exact("b"), target()), (exact("c"), target()), (exact("d"), target())];
        let (first, second) = [first, tls_listener(&["198.19.0.1"], &second)]
            .map(|listener| Ir { listeners: vec![listener.into()], ..Ir::default() })
            .into();
        let before = maps(&first, None);
        let after = maps(&second, Some((&first, before.clone())));
        assert_eq!(after, maps(&second, None));
        let set = |wanted: &Wanted, name: usize| {
            let listener = &wanted.listeners[0];
            listener.tls.as_ref().unwrap().names[name].set(&listener.addresses[0].key).cloned().unwrap()
        };
        assert!(Arc::ptr_eq(&set(&before, 1), &set(&after, 2)));
    }

    #[test]
    fn routes_and_certificates_of_what_the_agent_answers_are_nothing_to_the_maps() {
        let http = |hostname, security, section: &str| {
            let http = ir::http::Listener { hostname, security, routes: Default::default(), settings: Arc::default() };
            let name = ListenerName { namespace: "default".into(), gateway: "gw".into(), section: section.into() };
            let addresses = vec!["198.19.0.1".parse().unwrap()];
            let listener = ir::Listener { name, addresses, port: 80, traffic: Traffic::Http(http.into()) };
            Ir { listeners: vec![listener.into()], ..Ir::default() }
        };
        let https = || Security::Https { certificates: Vec::new(), clients: ir::http::Clients::Anonymous };
        let first = http(HostName::Any, https(), "a");
        let before = maps(&first, None);
        let after = |ir: &Ir| maps(ir, Some((&first, before.clone())));
        let is_same = |wanted: &Wanted| Arc::ptr_eq(&before.listeners[0], &wanted.listeners[0]);
        assert!(is_same(&after(&http(HostName::Any, https(), "a"))));
        for other in [http(HostName::Exact("a".into()), https(), "a"), http(HostName::Any, Security::Http, "a")] {
            let wanted = after(&other);
            assert!(!is_same(&wanted));
            assert_eq!(wanted, maps(&other, None));
        }
    }

    #[test]
    fn addresses_are_exclusive_or_shared() {
        let mut ir = Ir { listeners: vec![listener(&["198.19.0.1", "198.19.0.2"], vec![]).into()], ..Ir::default() };
        ir.exclusive_addresses = vec!["198.19.0.2".parse().unwrap(), "198.19.0.3".parse().unwrap()];
        let addresses: Vec<_> =
            maps(&ir, None).addresses.iter().map(|a| (ip(a.address).to_string(), a.exclusive)).collect();
        let expected = [("198.19.0.1", false), ("198.19.0.2", true), ("198.19.0.3", true)];
        assert_eq!(addresses, expected.map(|(address, exclusive)| (address.to_owned(), exclusive)));
    }

    #[test]
    fn addresses_survive_the_way_to_the_maps_and_back() {
        for text in ["198.18.0.1", "2001:db8::1", "::"] {
            let parsed: IpAddr = text.parse().unwrap();
            assert_eq!(ip(address(parsed)), parsed);
        }
    }
}
