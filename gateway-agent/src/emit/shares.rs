//! What a Maglev table is made of: the weights of backendRefs, spread over their endpoints without rounding.

#![forbid(unsafe_code)]

use std::cmp::Ordering;
use std::net::IpAddr;

use gateway_common::Address;

use super::maps::address;
use crate::ir::{self, Duty, Target};

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
    /// It wants a PROXY protocol header.
    pub proxy: bool,
    /// On this node.
    pub local: bool,
}

impl Backend {
    pub fn key(&self) -> BackendKey {
        BackendKey { address: self.address, port: self.port, protocol: self.protocol, proxy: self.proxy }
    }
}

/// What makes a backend the same backend, over restarts too.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct BackendKey {
    pub address: Address,
    pub port: u16,
    /// IANA number.
    pub protocol: u8,
    /// It wants a PROXY protocol header: an endpoint may be that of two Services, and one of them says so.
    pub proxy: bool,
}

/// An IPv4 address forwards to IPv4 endpoints only.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Family {
    V4 = 0,
    V6 = 1,
}

impl Family {
    pub fn of(ip: IpAddr) -> Family {
        if ip.is_ipv4() { Family::V4 } else { Family::V6 }
    }
}

fn backend(endpoint: &ir::Endpoint, protocol: u8) -> Backend {
    Backend {
        address: address(endpoint.address),
        port: endpoint.port,
        protocol,
        proxy: endpoint.proxy_protocol,
        local: endpoint.local,
    }
}

/// Spreads the weight of every backendRef evenly over its endpoints, without rounding.
pub fn spread(set: &ir::BackendSet, protocol: u8, family: Family) -> Set {
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
pub mod tests {
    use gateway_common::protocol;
    use proptest::prelude::*;

    use super::*;

    pub fn endpoint(address: &str, duty: Duty) -> ir::Endpoint {
        ir::Endpoint { address: address.parse().unwrap(), port: 80, local: false, proxy_protocol: false, duty }
    }

    pub fn endpoints(list: &[ir::Endpoint]) -> Target {
        Target::Endpoints { service: "default/web".into(), port: 80, endpoints: list.to_vec().into(), tls: None }
    }

    fn spread_v4(refs: Vec<(u32, Target)>) -> Set {
        let refs = refs.into_iter().map(|(weight, target)| ir::BackendRef { weight, target }).collect();
        spread(&ir::BackendSet { route: "TCPRoute default/web".into(), refs }, protocol::TCP, Family::V4)
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
        let set = spread_v4(vec![(90, two), (10, three)]);
        // 45 each and 3 1/3 each.
        assert_eq!(weights(&set), [27, 27, 2, 2, 2]);
        assert_eq!(set.idle.len(), 1, "a draining endpoint keeps its connections");
        assert_eq!(set.backends().count(), 6);
    }

    #[test]
    fn invalid_and_empty_refs_keep_their_share() {
        let set = spread_v4(vec![
            (1, Target::Invalid),
            (2, endpoints(&[])),
            (3, endpoints(&[endpoint("198.18.0.1", Duty::Serving)])),
        ]);
        assert_eq!(weights(&set), [3, 1, 2]);
        assert_eq!((set.shares[1].to, set.shares[2].to), (To::Invalid, To::Empty));
    }

    #[test]
    fn a_ref_of_weight_zero_keeps_its_connections_and_gets_no_new_ones() {
        let one = endpoints(&[endpoint("198.18.0.1", Duty::Serving)]);
        let set = spread_v4(vec![(0, one)]);
        assert_eq!(*set.shares, [Share { to: To::Empty, weight: 1 }]);
        assert_eq!(set.idle.len(), 1);
    }

    #[test]
    fn an_endpoint_that_wants_proxy_protocol_is_a_backend_of_its_own() {
        let plain = endpoint("198.18.0.1", Duty::Serving);
        let proxy = ir::Endpoint { proxy_protocol: true, ..plain.clone() };
        let refs = vec![(1, endpoints(&[plain])), (1, endpoints(&[proxy]))];
        let set = spread_v4(refs);
        assert_eq!(weights(&set), [1, 1]);
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
            let set = spread_v4(targets.collect());
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
