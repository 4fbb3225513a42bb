//! Which node answers for which address of the pool.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use gateway_common::hash::mix;

/// Address → name of the node. Written down only where it changes.
pub type Owners = BTreeMap<IpAddr, Arc<str>>;

/// So many addresses that no Gateway has keep their owner.
const KEPT: usize = 256;

/// An owner that lives keeps its addresses: to move one cuts the connections to it, so a node that comes back gets nothing back by
/// itself. The others go to whoever of the living has fewest.
///
/// Who decides may know less of the Gateways than who decided before: an address that no Gateway has stays where it is for a while.
pub fn decide(living: &BTreeSet<Arc<str>>, recorded: &Owners, addresses: &BTreeSet<IpAddr>) -> Owners {
    let stays = |(address, owner): &(&IpAddr, &Arc<str>)| {
        living.contains(*owner) || (living.is_empty() && addresses.contains(*address))
    };
    let (wanted, unwanted): (Vec<_>, Vec<_>) =
        recorded.iter().filter(stays).partition(|(address, _)| addresses.contains(*address));
    let mut owners: Owners = wanted.into_iter().map(|(address, owner)| (*address, Arc::clone(owner))).collect();
    let mut loads: BTreeMap<&Arc<str>, usize> = living.iter().map(|node| (node, 0)).collect();
    for owner in owners.values() {
        if let Some(load) = loads.get_mut(owner) {
            *load += 1;
        }
    }
    let free: Vec<IpAddr> = addresses.iter().filter(|address| !owners.contains_key(address)).copied().collect();
    for address in free {
        // Of equals not always the first by name, or one node would have the first address of every cluster.
        let Some((node, load)) = loads.iter_mut().min_by_key(|(node, load)| (**load, draw(&address, node))) else {
            break;
        };
        *load += 1;
        owners.insert(address, Arc::clone(node));
    }
    owners.extend(unwanted.into_iter().take(KEPT).map(|(address, owner)| (*address, Arc::clone(owner))));
    owners
}

/// The same on every node.
fn draw(address: &IpAddr, node: &str) -> u64 {
    let octets: &[u8] = match address {
        IpAddr::V4(v4) => &v4.octets(),
        IpAddr::V6(v6) => &v6.octets(),
    };
    octets.iter().chain(node.as_bytes()).fold(0x9e37_79b9_7f4a_7c15, |hash, byte| mix(hash ^ u64::from(*byte)))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn nodes(names: &[u8]) -> BTreeSet<Arc<str>> {
        names.iter().map(|name| format!("node-{name}").into()).collect()
    }

    fn addresses(hosts: &[u8]) -> BTreeSet<IpAddr> {
        hosts.iter().map(|host| IpAddr::from([198, 18, 0, *host])).collect()
    }

    fn loads(owners: &Owners, living: &BTreeSet<Arc<str>>) -> Vec<usize> {
        living.iter().map(|node| owners.values().filter(|owner| *owner == node).count()).collect()
    }

    #[test]
    fn first_addresses_are_not_all_the_first_nodes() {
        let living = nodes(&[1, 2, 3]);
        let owner = |host: u8| decide(&living, &Owners::new(), &addresses(&[host])).into_values().next().unwrap();
        let owners: BTreeSet<Arc<str>> = (0..20).map(owner).collect();
        assert_eq!(owners, living);
    }

    #[test]
    fn an_address_that_no_gateway_has_keeps_its_owner_as_long_as_he_lives() {
        let recorded = decide(&nodes(&[1]), &Owners::new(), &addresses(&[7]));
        assert_eq!(decide(&nodes(&[1, 2]), &recorded, &addresses(&[])), recorded);
        assert_eq!(decide(&nodes(&[2]), &recorded, &addresses(&[])), Owners::new());
        let many = (0..2 * KEPT as u16).map(|i| (IpAddr::from([198, 18, (i >> 8) as u8, i as u8]), "node-1".into()));
        assert_eq!(decide(&nodes(&[1]), &many.collect(), &addresses(&[])).len(), KEPT);
    }

    #[test]
    fn when_nobody_lives_nothing_changes() {
        let recorded = decide(&nodes(&[1]), &Owners::new(), &addresses(&[7]));
        assert_eq!(decide(&nodes(&[]), &recorded, &addresses(&[7, 8])), recorded);
    }

    fn some() -> impl Strategy<Value = Vec<u8>> {
        proptest::collection::vec(0u8..30, 0..20)
    }

    proptest! {
        #[test]
        fn everything_has_an_owner_that_lives(before in some(), living in some(), had in some(), wanted in some()) {
            let recorded = decide(&nodes(&before), &Owners::new(), &addresses(&had));
            let (living, wanted) = (nodes(&living), addresses(&wanted));
            let owners = decide(&living, &recorded, &wanted);
            if !living.is_empty() {
                prop_assert!(wanted.iter().all(|address| owners.get(address).is_some_and(|owner| living.contains(owner))));
                prop_assert!(owners.values().all(|owner| living.contains(owner)));
            }
            prop_assert_eq!(decide(&living, &owners, &wanted), owners);
        }

        /// Whoever comes takes nothing from those who are there.
        #[test]
        fn only_what_the_dead_had_moves(before in some(), living in some(), had in some(), wanted in some()) {
            let recorded = decide(&nodes(&before), &Owners::new(), &addresses(&had));
            let living = nodes(&living);
            for (address, owner) in decide(&living, &recorded, &addresses(&wanted)) {
                if let Some(before) = recorded.get(&address).filter(|before| living.contains(*before)) {
                    prop_assert_eq!(&owner, before);
                }
            }
        }

        #[test]
        fn what_is_given_anew_is_given_evenly(living in some(), wanted in some()) {
            let (living, wanted) = (nodes(&living), addresses(&wanted));
            let loads = loads(&decide(&living, &Owners::new(), &wanted), &living);
            if let (Some(least), Some(most)) = (loads.iter().min(), loads.iter().max()) {
                prop_assert!(most - least <= 1, "{loads:?}");
            }
        }
    }
}
