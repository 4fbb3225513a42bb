//! From the IR to the wanted content of the maps, by identity instead of by id: `apply` owns the ids.

#![forbid(unsafe_code)]

use std::cmp::Ordering;
use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use gateway_common::{Address, ListenerKey, protocol};
use hashbrown::HashSet;

use crate::ir::{self, Duty, Ir, ListenerName, Protocol, Target, Traffic};

/// The wanted content of LISTENERS, BACKEND_SETS, SLOTS and BACKENDS.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wanted {
    /// In the order of the IR.
    pub listeners: Vec<Listener>,
    /// Sorted.
    pub addresses: Vec<GatewayAddress>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listener {
    pub name: ListenerName,
    pub addresses: Vec<ListenerAddress>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListenerAddress {
    pub key: ListenerKey,
    /// `None`: no route is attached.
    pub set: Option<Arc<Set>>,
}

/// An address that Gateways use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct GatewayAddress {
    pub address: Address,
    /// It belongs to Gateways alone; else it is the node's own, and they share it.
    pub exclusive: bool,
}

/// What a Maglev table is made of. Equal sets share a table.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Set {
    /// At least one. Sorted, no target twice, weights without a common divisor.
    pub shares: Box<[Share]>,
    /// Backends that keep the connections they have and get no new ones. Sorted.
    pub idle: Box<[Backend]>,
}

impl Set {
    /// Every backend once.
    pub fn backends(&self) -> impl Iterator<Item = &Backend> {
        let serving = self.shares.iter().filter_map(|share| match &share.to {
            To::Backend(backend) => Some(backend),
            To::Invalid | To::Empty => None,
        });
        serving.chain(&self.idle)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Share {
    pub to: To,
    pub weight: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum To {
    Backend(Backend),
    /// A backendRef that does not resolve.
    Invalid,
    /// A backendRef without an endpoint that serves, or none of the listener address' family.
    Empty,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Backend {
    pub address: Address,
    pub port: u16,
    /// IANA number.
    pub protocol: u8,
    /// On this node.
    pub local: bool,
}

impl Backend {
    pub fn key(&self) -> BackendKey {
        BackendKey { address: self.address, port: self.port, protocol: self.protocol }
    }
}

/// What makes a backend the same backend, over restarts too.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct BackendKey {
    pub address: Address,
    pub port: u16,
    /// IANA number.
    pub protocol: u8,
}

/// The wanted content of the maps for this IR. `before` is the IR before it with what was made of it: sets whose backendRefs
/// are the same are taken from there, so that the cost is that of what has changed.
pub fn maps(ir: &Ir, before: Option<(&Ir, &Wanted)>) -> Wanted {
    let mut wanted = Wanted { listeners: Vec::with_capacity(ir.listeners.len()), addresses: gateway_addresses(ir) };
    let mut made: HashSet<Arc<Set>> = HashSet::new();
    let mut before = before.into_iter().flat_map(|(ir, wanted)| ir.listeners.iter().zip(&wanted.listeners)).peekable();
    for listener in &ir.listeners {
        while before.next_if(|(old, _)| old.name < listener.name).is_some() {}
        let old = before.peek().filter(|(old, _)| old.name == listener.name && is_same(listener, old));
        let number = number(listener.protocol());
        let Traffic::Forward { backends, .. } = &listener.traffic else { continue };
        // One set a family: an IPv4 address forwards to IPv4 endpoints only.
        let mut of_family = [None, None];
        for (ip, of_old) in old.iter().flat_map(|(old, wanted)| old.addresses.iter().zip(&wanted.addresses)) {
            of_family[Family::of(*ip) as usize] = of_old.set.clone();
        }
        let mut addresses = Vec::with_capacity(listener.addresses.len());
        for ip in &listener.addresses {
            let family = Family::of(*ip);
            if let (set @ None, Some(backends)) = (&mut of_family[family as usize], backends) {
                *set = Some(Arc::clone(
                    made.get_or_insert_with(&spread(backends, number, family), |s| Arc::new(s.clone())),
                ));
            }
            let key = ListenerKey { address: address(*ip), port: listener.port, protocol: number, _pad: [0; 5] };
            addresses.push(ListenerAddress { key, set: of_family[family as usize].clone() });
        }
        wanted.listeners.push(Listener { name: listener.name.clone(), addresses });
    }
    wanted
}

/// Whether both forward to the same, as far as can be told without looking at endpoints.
fn is_same(a: &ir::Listener, b: &ir::Listener) -> bool {
    let is_same_target = |a: &Target, b: &Target| match (a, b) {
        (Target::Invalid, Target::Invalid) => true,
        (Target::Endpoints { endpoints: a, .. }, Target::Endpoints { endpoints: b, .. }) => Arc::ptr_eq(a, b),
        _ => false,
    };
    let is_same_ref =
        |(a, b): (&ir::BackendRef, &ir::BackendRef)| a.weight == b.weight && is_same_target(&a.target, &b.target);
    let is_same_set = |a: &Option<Arc<ir::BackendSet>>, b: &Option<Arc<ir::BackendSet>>| match (a, b) {
        (None, None) => true,
        (Some(a), Some(b)) => a.refs.len() == b.refs.len() && a.refs.iter().zip(&b.refs).all(is_same_ref),
        _ => false,
    };
    match (&a.traffic, &b.traffic) {
        (Traffic::Forward { protocol: of_a, backends: a }, Traffic::Forward { protocol: of_b, backends: b }) => {
            of_a == of_b && is_same_set(a, b)
        }
        _ => false,
    }
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

#[derive(Clone, Copy, PartialEq, Eq)]
enum Family {
    V4 = 0,
    V6 = 1,
}

impl Family {
    fn of(ip: IpAddr) -> Family {
        if ip.is_ipv4() { Family::V4 } else { Family::V6 }
    }
}

fn backend(endpoint: &ir::Endpoint, protocol: u8) -> Backend {
    Backend { address: address(endpoint.address), port: endpoint.port, protocol, local: endpoint.local }
}

/// Spreads the weight of every backendRef evenly over its endpoints, without rounding.
fn spread(set: &ir::BackendSet, protocol: u8, family: Family) -> Set {
    let serving = |target: &Target| -> u64 {
        let Target::Endpoints { endpoints, .. } = target else { return 0 };
        endpoints.iter().filter(|e| serves(e, family)).count() as u64
    };
    let refs = || set.refs.iter().filter(|r| r.weight > 0);
    let scale = refs().map(|r| serving(&r.target).max(1)).try_fold(1, lcm).unwrap_or(INEXACT);
    let mut shares: Vec<(To, u128)> = Vec::new();
    for reference in refs() {
        let count = serving(&reference.target);
        let each = u128::from(reference.weight) * u128::from(scale / count.max(1));
        match &reference.target {
            Target::Invalid => shares.push((To::Invalid, each)),
            Target::Endpoints { .. } if count == 0 => shares.push((To::Empty, each)),
            Target::Endpoints { endpoints, .. } => shares.extend(
                endpoints.iter().filter(|e| serves(e, family)).map(|e| (To::Backend(backend(e, protocol)), each)),
            ),
        }
    }
    if shares.is_empty() {
        shares.push((To::Empty, 1));
    }
    let shares = normalize(shares);
    let idle = idle(set, &shares, protocol, family);
    Set { shares, idle }
}

/// The endpoints that are in no share.
fn idle(set: &ir::BackendSet, shares: &[Share], protocol: u8, family: Family) -> Box<[Backend]> {
    let is_served = |key: BackendKey| {
        let order = |share: &Share| match &share.to {
            To::Backend(backend) => backend.key().cmp(&key),
            To::Invalid | To::Empty => Ordering::Greater,
        };
        shares.binary_search_by(order).is_ok()
    };
    let mut idle: Vec<Backend> = Vec::new();
    for reference in &set.refs {
        let Target::Endpoints { endpoints, .. } = &reference.target else { continue };
        let of_family = endpoints.iter().filter(|e| Family::of(e.address) == family);
        idle.extend(of_family.map(|e| backend(e, protocol)).filter(|b| !is_served(b.key())));
    }
    idle.sort_unstable();
    idle.dedup_by_key(|backend| backend.key());
    idle.into()
}

/// Scale where the least common multiple of the numbers of endpoints needs more than 64 bits: shares are then off by less
/// than one part in 2^40.
const INEXACT: u64 = 1 << 63;

fn serves(endpoint: &ir::Endpoint, family: Family) -> bool {
    endpoint.duty == Duty::Serving && Family::of(endpoint.address) == family
}

/// Sorts, merges equal targets (one that is local by one Service and not by another is local), and brings the weights into
/// 64 bits and to their lowest terms. There is at least one.
fn normalize(mut shares: Vec<(To, u128)>) -> Box<[Share]> {
    shares.sort_unstable();
    shares.dedup_by(|later, first| {
        let same = match (&later.0, &first.0) {
            (To::Backend(later), To::Backend(first)) => later.key() == first.key(),
            (later, first) => later == first,
        };
        if same {
            *first = (later.0, first.1 + later.1);
        }
        same
    });
    let divisor = shares.iter().map(|s| s.1).fold(0, gcd).max(1);
    let largest = shares.iter().map(|s| s.1 / divisor).max().unwrap_or(1);
    let shift = (128 - largest.leading_zeros()).saturating_sub(64);
    let weight = |w: u128| ((w / divisor) >> shift).max(1) as u64;
    shares.into_iter().map(|(to, w)| Share { to, weight: weight(w) }).collect()
}

fn gcd(mut a: u128, mut b: u128) -> u128 {
    while b != 0 {
        // 128-bit division is many times slower, and nearly all weights are small.
        (a, b) = match (u64::try_from(a), u64::try_from(b)) {
            (Ok(small_a), Ok(small_b)) => (b, u128::from(small_a % small_b)),
            _ => (b, a % b),
        };
    }
    a
}

/// `None` on overflow.
fn lcm(a: u64, b: u64) -> Option<u64> {
    (a / gcd(a.into(), b.into()) as u64).checked_mul(b)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn endpoint(address: &str, duty: Duty) -> ir::Endpoint {
        ir::Endpoint { address: address.parse().unwrap(), port: 80, local: false, proxy_protocol: false, duty }
    }

    fn endpoints(list: &[ir::Endpoint]) -> Target {
        Target::Endpoints { service: "default/web:80".into(), endpoints: list.to_vec().into() }
    }

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
        maps(&Ir { listeners: vec![listener], ..Ir::default() }, None)
    }

    /// The set of an address.
    fn set(wanted: &Wanted, address: usize) -> &Set {
        wanted.listeners[0].addresses[address].set.as_ref().unwrap()
    }

    fn weights(set: &Set) -> Vec<u64> {
        set.shares.iter().map(|s| s.weight).collect()
    }

    #[test]
    fn weight_of_a_ref_is_spread_over_its_serving_endpoints() {
        use Duty::{Draining, Serving};
        let two = endpoints(&[endpoint("198.18.0.1", Serving), endpoint("198.18.0.2", Serving)]);
        let three = endpoints(&[
            endpoint("198.18.1.1", Serving),
            endpoint("198.18.1.2", Serving),
            endpoint("198.18.1.3", Serving),
            endpoint("198.18.1.4", Draining),
        ]);
        let wanted = emitted(listener(&["198.19.0.1"], vec![(90, two), (10, three)]));
        let set = set(&wanted, 0);
        // 45 each and 3 1/3 each.
        assert_eq!(weights(set), [27, 27, 2, 2, 2]);
        assert_eq!(set.idle.len(), 1, "a draining endpoint keeps its connections");
        assert_eq!(set.backends().count(), 6);
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
    fn invalid_and_empty_refs_keep_their_share() {
        let wanted = emitted(listener(
            &["198.19.0.1"],
            vec![(1, Target::Invalid), (2, endpoints(&[])), (3, endpoints(&[endpoint("198.18.0.1", Duty::Serving)]))],
        ));
        let shares = &set(&wanted, 0).shares;
        assert_eq!(weights(set(&wanted, 0)), [3, 1, 2]);
        assert_eq!((shares[1].to, shares[2].to), (To::Invalid, To::Empty));
    }

    #[test]
    fn a_ref_of_weight_zero_keeps_its_connections_and_gets_no_new_ones() {
        let one = endpoints(&[endpoint("198.18.0.1", Duty::Serving)]);
        let wanted = emitted(listener(&["198.19.0.1"], vec![(0, one)]));
        assert_eq!(*set(&wanted, 0).shares, [Share { to: To::Empty, weight: 1 }]);
        assert_eq!(set(&wanted, 0).idle.len(), 1);
    }

    #[test]
    fn listeners_with_the_same_shares_share_a_set() {
        let one = || endpoints(&[endpoint("198.18.0.1", Duty::Serving)]);
        let mut other = listener(&["198.19.0.2"], vec![(7, one())]);
        other.name.section = "other".into();
        let ir = Ir { listeners: vec![listener(&["198.19.0.1"], vec![(1, one())]), other], ..Ir::default() };
        let wanted = maps(&ir, None);
        let sets: Vec<_> = wanted.listeners.iter().map(|l| l.addresses[0].set.clone().unwrap()).collect();
        assert!(Arc::ptr_eq(&sets[0], &sets[1]));
    }

    #[test]
    fn what_did_not_change_is_taken_over_and_the_result_is_the_same() {
        let endpoints: Arc<[_]> = vec![endpoint("198.18.0.1", Duty::Serving)].into();
        let target = || Target::Endpoints { service: "s".into(), endpoints: Arc::clone(&endpoints) };
        let named = |section: &str, weight, target| {
            let mut listener = listener(&["198.19.0.1"], vec![(weight, target), (1, Target::Invalid)]);
            listener.name.section = section.into();
            listener
        };
        let first = Ir { listeners: vec![named("a", 1, target()), named("b", 1, target())], ..Ir::default() };
        let changed = endpoints_of_other_service();
        let second = Ir { listeners: vec![named("b", 1, target()), named("c", 2, changed)], ..Ir::default() };
        let before = maps(&first, None);
        let after = maps(&second, Some((&first, &before)));
        assert_eq!(after, maps(&second, None));
        let sets = [&before.listeners[1], &after.listeners[0]].map(|l| l.addresses[0].set.clone().unwrap());
        assert!(Arc::ptr_eq(&sets[0], &sets[1]));
    }

    fn endpoints_of_other_service() -> Target {
        endpoints(&[endpoint("198.18.0.9", Duty::Serving)])
    }

    #[test]
    fn addresses_are_exclusive_or_shared() {
        let mut ir = Ir { listeners: vec![listener(&["198.19.0.1", "198.19.0.2"], vec![])], ..Ir::default() };
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

    proptest! {
        /// Whatever the weights and numbers of endpoints, every ref has its exact share (one part in 2^40 where the exact
        /// weights need more than 64 bits).
        #[test]
        fn shares_are_exact(refs in proptest::collection::vec((0u32..=1_000_000, 0usize..40), 1..12)) {
            let total: u128 = refs.iter().map(|r| u128::from(r.0)).sum();
            let targets = refs.iter().enumerate().map(|(i, (weight, count))| {
                let list: Vec<_> =
                    (0..*count).map(|e| endpoint(&format!("198.18.{i}.{e}"), Duty::Serving)).collect();
                (*weight, endpoints(&list))
            });
            let wanted = emitted(listener(&["198.19.0.1"], targets.collect()));
            let set = set(&wanted, 0);
            if total == 0 {
                prop_assert_eq!(&*set.shares, [Share { to: To::Empty, weight: 1 }]);
            } else {
                let sum: u128 = set.shares.iter().map(|s| u128::from(s.weight)).sum();
                let mut empty = 0;
                for (i, (weight, count)) in refs.iter().enumerate() {
                    if *count == 0 {
                        empty += weight;
                        continue;
                    }
                    let of_ref = |s: &&Share| matches!(s.to, To::Backend(b) if b.address.octets[14] == i as u8);
                    let got: u128 = set.shares.iter().filter(of_ref).map(|s| u128::from(s.weight)).sum();
                    let (got, exact) = (got as f64 / sum as f64, f64::from(*weight) / total as f64);
                    prop_assert!((got - exact).abs() < 1e-11, "{got} instead of {exact}");
                }
                let got: u128 = set.shares.iter().filter(|s| s.to == To::Empty).map(|s| u128::from(s.weight)).sum();
                prop_assert!((got as f64 / sum as f64 - f64::from(empty) / total as f64).abs() < 1e-11);
            }
        }
    }
}
