//! From the IR to the wanted content of the maps, by identity instead of by id: `apply` owns the ids.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use gateway_common::{Address, ListenerKey, protocol};
use hashbrown::HashMap;

use crate::ir::{self, Duty, Ir, ListenerName, Protocol, Target};

/// The wanted content of LISTENERS, BACKEND_SETS, SLOTS and BACKENDS.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wanted {
    /// In the order of the IR.
    pub listeners: Vec<Listener>,
    /// Sorted.
    pub addresses: Vec<GatewayAddress>,
    /// No two are equal.
    pub sets: Vec<Arc<Set>>,
    /// Every endpoint that a listener can have connections with, those that get no new ones too; no two are equal.
    pub backends: Vec<Backend>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listener {
    pub name: ListenerName,
    pub addresses: Vec<ListenerAddress>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ListenerAddress {
    pub key: ListenerKey,
    /// Index in [`Wanted::sets`]; `None`: every connection is refused.
    pub set: Option<usize>,
}

/// An address that Gateways use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct GatewayAddress {
    pub address: Address,
    /// It belongs to Gateways alone; else it is the node's own, and they share it.
    pub exclusive: bool,
}

/// What a Maglev table is made of: sorted, no target twice, weights without a common divisor. Equal sets share a table.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Set {
    pub shares: Box<[Share]>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Share {
    pub to: To,
    pub weight: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum To {
    Backend(BackendKey),
    /// A backendRef that does not resolve.
    Invalid,
    /// A backendRef without an endpoint that serves, or none of the listener address' family.
    Empty,
}

/// What makes a backend the same backend, over restarts too.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct BackendKey {
    pub address: Address,
    pub port: u16,
    /// IANA number.
    pub protocol: u8,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Backend {
    pub key: BackendKey,
    /// On this node.
    pub local: bool,
}

/// The wanted content of the maps for this IR.
pub fn maps(ir: &Ir) -> Wanted {
    let mut wanted = Wanted { addresses: gateway_addresses(ir), ..Wanted::default() };
    let mut sets = HashMap::new();
    let mut backends = HashMap::new();
    for listener in &ir.listeners {
        let number = number(listener.protocol);
        // One set a family: an IPv4 address forwards to IPv4 endpoints only.
        let mut of_family = [None, None];
        let mut addresses = Vec::with_capacity(listener.addresses.len());
        for ip in &listener.addresses {
            let family = Family::of(*ip);
            let set = of_family[family as usize].get_or_insert_with(|| {
                let set = listener.backends.as_ref()?;
                collect_backends(set, number, family, &mut wanted.backends, &mut backends);
                let set = Arc::new(spread(set, number, family)?);
                Some(*sets.entry(set).or_insert_with_key(|set| {
                    wanted.sets.push(Arc::clone(set));
                    wanted.sets.len() - 1
                }))
            });
            let key = ListenerKey { address: address(*ip), port: listener.port, protocol: number, _pad: [0; 5] };
            addresses.push(ListenerAddress { key, set: *set });
        }
        wanted.listeners.push(Listener { name: listener.name.clone(), addresses });
    }
    wanted
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

fn key(endpoint: &ir::Endpoint, protocol: u8) -> BackendKey {
    BackendKey { address: address(endpoint.address), port: endpoint.port, protocol }
}

/// Adds what is not there yet; an endpoint that one Service calls local and another does not is local.
fn collect_backends(
    set: &ir::BackendSet,
    protocol: u8,
    family: Family,
    backends: &mut Vec<Backend>,
    places: &mut HashMap<BackendKey, usize>,
) {
    for reference in &set.refs {
        let Target::Endpoints { endpoints, .. } = &reference.target else { continue };
        for endpoint in endpoints.iter().filter(|e| Family::of(e.address) == family) {
            let key = key(endpoint, protocol);
            let place = *places.entry(key).or_insert(backends.len());
            match backends.get_mut(place) {
                Some(backend) => backend.local |= endpoint.local,
                None => backends.push(Backend { key, local: endpoint.local }),
            }
        }
    }
}

/// Spreads the weight of every backendRef evenly over its endpoints, without rounding. `None`: nothing has any weight.
fn spread(set: &ir::BackendSet, protocol: u8, family: Family) -> Option<Set> {
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
            Target::Endpoints { endpoints, .. } => shares
                .extend(endpoints.iter().filter(|e| serves(e, family)).map(|e| (To::Backend(key(e, protocol)), each))),
        }
    }
    normalize(shares)
}

/// Scale where the least common multiple of the numbers of endpoints needs more than 64 bits: shares are then off by less
/// than one part in 2^40.
const INEXACT: u64 = 1 << 63;

fn serves(endpoint: &ir::Endpoint, family: Family) -> bool {
    endpoint.duty == Duty::Serving && Family::of(endpoint.address) == family
}

/// Sorts, merges equal targets, and brings the weights into 64 bits and to their lowest terms.
fn normalize(mut shares: Vec<(To, u128)>) -> Option<Set> {
    shares.sort_unstable();
    shares.dedup_by(|later, first| {
        let same = later.0 == first.0;
        if same {
            first.1 += later.1;
        }
        same
    });
    let divisor = shares.iter().map(|s| s.1).reduce(gcd)?;
    let largest = shares.iter().map(|s| s.1 / divisor).max()?;
    let shift = (128 - largest.leading_zeros()).saturating_sub(64);
    let weight = |w: u128| ((w / divisor) >> shift).max(1) as u64;
    Some(Set { shares: shares.into_iter().map(|(to, w)| Share { to, weight: weight(w) }).collect() })
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
        ir::Endpoint { address: address.parse().unwrap(), port: 80, local: false, duty }
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
            protocol: Protocol::Tcp,
            backends: Some(Arc::new(ir::BackendSet { route: "TCPRoute default/web".into(), refs })),
        }
    }

    fn emitted(listener: ir::Listener) -> Wanted {
        maps(&Ir { listeners: vec![listener], ..Ir::default() })
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
        assert_eq!(wanted.sets.len(), 1);
        // 45 each and 3 1/3 each.
        assert_eq!(weights(&wanted.sets[0]), [27, 27, 2, 2, 2]);
        assert_eq!(wanted.backends.len(), 6, "a draining endpoint keeps its connections");
    }

    #[test]
    fn an_address_takes_endpoints_of_its_own_family_only() {
        let both = || endpoints(&[endpoint("198.18.0.1", Duty::Serving), endpoint("2001:db8::1", Duty::Serving)]);
        let v6 = endpoints(&[endpoint("2001:db8::2", Duty::Serving)]);
        let wanted = emitted(listener(&["198.19.0.1", "2001:db8:1::1", "198.19.0.2"], vec![(1, both()), (1, v6)]));
        let sets: Vec<_> = wanted.listeners[0].addresses.iter().map(|a| a.set).collect();
        assert_eq!(sets, [Some(0), Some(1), Some(0)]);
        assert!(wanted.sets[0].shares.iter().any(|s| s.to == To::Empty && s.weight == 1));
        assert!(wanted.sets[1].shares.iter().all(|s| matches!(s.to, To::Backend(_))));
    }

    #[test]
    fn invalid_and_empty_refs_keep_their_share() {
        let wanted = emitted(listener(
            &["198.19.0.1"],
            vec![(1, Target::Invalid), (2, endpoints(&[])), (3, endpoints(&[endpoint("198.18.0.1", Duty::Serving)]))],
        ));
        let shares = &wanted.sets[0].shares;
        assert_eq!(weights(&wanted.sets[0]), [3, 1, 2]);
        assert_eq!((shares[1].to, shares[2].to), (To::Invalid, To::Empty));
    }

    #[test]
    fn a_ref_of_weight_zero_keeps_its_connections_and_gets_no_new_ones() {
        let one = endpoints(&[endpoint("198.18.0.1", Duty::Serving)]);
        let wanted = emitted(listener(&["198.19.0.1"], vec![(0, one)]));
        assert_eq!((wanted.sets.len(), wanted.backends.len()), (0, 1));
        assert_eq!(wanted.listeners[0].addresses[0].set, None);
    }

    #[test]
    fn listeners_with_the_same_shares_share_a_set() {
        let one = || endpoints(&[endpoint("198.18.0.1", Duty::Serving)]);
        let mut other = listener(&["198.19.0.2"], vec![(7, one())]);
        other.name.section = "other".into();
        let ir = Ir { listeners: vec![listener(&["198.19.0.1"], vec![(1, one())]), other], ..Ir::default() };
        assert_eq!(maps(&ir).sets.len(), 1);
    }

    #[test]
    fn addresses_are_exclusive_or_shared() {
        let mut ir = Ir { listeners: vec![listener(&["198.19.0.1", "198.19.0.2"], vec![])], ..Ir::default() };
        ir.exclusive_addresses = vec!["198.19.0.2".parse().unwrap(), "198.19.0.3".parse().unwrap()];
        let addresses: Vec<_> = maps(&ir).addresses.iter().map(|a| (ip(a.address).to_string(), a.exclusive)).collect();
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
            prop_assert_eq!(wanted.sets.is_empty(), total == 0);
            if let Some(set) = wanted.sets.first() {
                let sum: u128 = set.shares.iter().map(|s| u128::from(s.weight)).sum();
                let mut empty = 0;
                for (i, (weight, count)) in refs.iter().enumerate() {
                    if *count == 0 {
                        empty += weight;
                        continue;
                    }
                    let of_ref = |s: &&Share| matches!(s.to, To::Backend(k) if k.address.octets[14] == i as u8);
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
