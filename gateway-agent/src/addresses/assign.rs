//! Who gets which address of the pool.

use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;

use super::Pool;
use crate::index::Name;

/// What a Gateway asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wish<'a> {
    pub gateway: &'a Name,
    /// Empty: it shares the node's own addresses, and an address that it asks for by name is the operator's to bring here.
    pub pool: &'a Pool,
    /// Addresses by name; usable ones.
    pub fixed: Vec<IpAddr>,
    /// Any will do: one of each IP version that the pool has.
    pub any: bool,
    /// What it had the last time that anybody looked.
    pub recorded: &'a [IpAddr],
}

/// What there is to give.
#[derive(Clone, Copy, Debug)]
pub struct Given<'a> {
    /// The node's own addresses.
    pub node: &'a [IpAddr],
    /// Addresses of Gateways that are not there now: they are given away last.
    pub absent: &'a BTreeSet<IpAddr>,
    /// This node decides; else addresses are only those that another has recorded.
    pub decides: bool,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Assigned {
    /// Sorted.
    pub addresses: Vec<IpAddr>,
    /// Addresses asked for by name that it does not get.
    pub refused: Vec<(IpAddr, Refusal)>,
    /// Why it has fewer addresses than it could.
    pub missing: Vec<Missing>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    NotInPool,
    /// The pool gave it to another Gateway.
    Held(Name),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Missing {
    Exhausted {
        v6: bool,
    },
    /// Another node assigns, and has not yet.
    NotYet,
    /// It has no pool, and the node no address.
    Nothing,
}

/// In the order of the wishes, which is that of precedence.
///
/// What a Gateway has it keeps; then come those that ask for an address by name, then the others. An address that the pool gave to one
/// Gateway is its alone; several may ask for one by name and share it.
pub fn assign(given: &Given, wishes: &[Wish]) -> Vec<Assigned> {
    let kept = keep(given, wishes);
    let holder: HashMap<IpAddr, &Name> =
        kept.iter().zip(wishes).flat_map(|(kept, wish)| kept.iter().map(|address| (*address, wish.gateway))).collect();
    let mut taken: BTreeSet<IpAddr> = holder.keys().copied().chain(given.node.iter().copied()).collect();
    let mut assigned: Vec<Assigned> = Vec::with_capacity(wishes.len());
    for (wish, kept) in wishes.iter().zip(kept) {
        let mut of_wish = Assigned { addresses: kept, ..Assigned::default() };
        for address in &wish.fixed {
            match holder.get(address) {
                Some(other) => of_wish.refused.push((*address, Refusal::Held((*other).clone()))),
                None if wish.pool.is_empty() || wish.pool.has(*address) || given.node.contains(address) => {
                    of_wish.addresses.push(*address);
                    taken.insert(*address);
                }
                None => of_wish.refused.push((*address, Refusal::NotInPool)),
            }
        }
        assigned.push(of_wish);
    }
    let mut free = Free::new(given, taken);
    for (wish, of_wish) in wishes.iter().zip(&mut assigned) {
        let families = [false, true].into_iter().filter(|v6| wish.any && wish.pool.has_family(*v6));
        for v6 in families {
            let is_kept = |address: &IpAddr| address.is_ipv6() == v6 && !wish.fixed.contains(address);
            if of_wish.addresses.iter().any(is_kept) {
                continue;
            }
            match free.next(wish.pool, v6) {
                _ if !given.decides => of_wish.missing.push(Missing::NotYet),
                Some(address) => of_wish.addresses.push(address),
                None => of_wish.missing.push(Missing::Exhausted { v6 }),
            }
        }
        if wish.any && wish.pool.is_empty() {
            of_wish.addresses.extend(given.node);
            of_wish.missing.extend(of_wish.addresses.is_empty().then_some(Missing::Nothing));
        }
        of_wish.missing.dedup();
        of_wish.addresses.sort_unstable();
        of_wish.addresses.dedup();
    }
    assigned
}

/// What each Gateway that takes any address goes on to have: one of each IP version.
fn keep(given: &Given, wishes: &[Wish]) -> Vec<Vec<IpAddr>> {
    // Who asks for an address by name and had it before is not cut off by one who had it too, by name at that time.
    let asked_again =
        |wish: &Wish| wish.fixed.iter().copied().filter(|a| wish.recorded.contains(a)).collect::<Vec<_>>();
    let asked: BTreeSet<IpAddr> = wishes.iter().flat_map(asked_again).collect();
    let mut held = BTreeSet::new();
    let of = |wish: &Wish| {
        let mut kept: Vec<IpAddr> = Vec::new();
        let may_keep =
            |address: &&IpAddr| wish.pool.has(**address) && !given.node.contains(*address) && !asked.contains(*address);
        for address in wish.recorded.iter().filter(|_| wish.any).filter(may_keep) {
            if kept.iter().all(|other| other.is_ipv6() != address.is_ipv6()) && held.insert(*address) {
                kept.push(*address);
            }
        }
        kept
    };
    wishes.iter().map(of).collect()
}

/// Addresses that nobody has, in the order of each pool; those of Gateways that are not there come last.
struct Free<'a> {
    absent: &'a BTreeSet<IpAddr>,
    taken: BTreeSet<IpAddr>,
    /// As far as each has been looked through. Pools are few, and may have addresses in common.
    pools: Vec<(&'a Pool, [Rest<'a>; 2])>,
}

type Rest<'a> = Box<dyn Iterator<Item = IpAddr> + 'a>;

impl<'a> Free<'a> {
    fn new(given: &Given<'a>, taken: BTreeSet<IpAddr>) -> Free<'a> {
        Free { absent: given.absent, taken, pools: Vec::new() }
    }

    fn next(&mut self, pool: &'a Pool, v6: bool) -> Option<IpAddr> {
        let at = self.pools.iter().position(|(known, _)| *known == pool).unwrap_or_else(|| {
            self.pools.push((pool, [rest(pool, self.absent, false), rest(pool, self.absent, true)]));
            self.pools.len() - 1
        });
        let rest = &mut self.pools[at].1[usize::from(v6)];
        let next = rest.find(|address| !self.taken.contains(address))?;
        self.taken.insert(next);
        Some(next)
    }
}

fn rest<'a>(pool: &'a Pool, absent: &'a BTreeSet<IpAddr>, v6: bool) -> Rest<'a> {
    let never = pool.addresses(v6).filter(|address| !absent.contains(address));
    let again = absent.iter().copied().filter(move |address| address.is_ipv6() == v6 && pool.has(*address));
    Box::new(never.chain(again))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn name(name: &str) -> Name {
        Name { namespace: "default".into(), name: name.into() }
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn ips(texts: &[&str]) -> Vec<IpAddr> {
        texts.iter().map(|text| ip(text)).collect()
    }

    fn pool(texts: &[&str]) -> Pool {
        Pool::new(texts.iter().map(|text| text.parse().unwrap()).collect()).unwrap()
    }

    #[derive(Debug)]
    struct Asks {
        name: Name,
        fixed: Vec<IpAddr>,
        any: bool,
        recorded: Vec<IpAddr>,
    }

    fn wants(of: &str, recorded: &[&str]) -> Asks {
        Asks { name: name(of), fixed: Vec::new(), any: true, recorded: ips(recorded) }
    }

    fn fixed(of: &str, addresses: &[&str], recorded: &[&str]) -> Asks {
        Asks { fixed: ips(addresses), any: false, ..wants(of, recorded) }
    }

    fn given() -> Given<'static> {
        static NOBODY: BTreeSet<IpAddr> = BTreeSet::new();
        Given { node: &[], absent: &NOBODY, decides: true }
    }

    fn wish<'a>(Asks { name, fixed, any, recorded }: &'a Asks, pool: &'a Pool) -> Wish<'a> {
        Wish { gateway: name, pool, fixed: fixed.clone(), any: *any, recorded }
    }

    fn assigned(given: &Given, pool: &Pool, asks: &[Asks]) -> Vec<Assigned> {
        assign(given, &asks.iter().map(|asks| wish(asks, pool)).collect::<Vec<_>>())
    }

    fn addresses(given: &Given, pool: &Pool, asks: &[Asks]) -> Vec<Vec<String>> {
        let text = |of: Assigned| of.addresses.iter().map(IpAddr::to_string).collect();
        assigned(given, pool, asks).into_iter().map(text).collect()
    }

    #[test]
    fn a_gateway_has_one_address_of_each_ip_version() {
        let pool = pool(&["198.18.0.0/30", "2001:db8::/126"]);
        assert_eq!(
            addresses(&given(), &pool, &[wants("a", &[]), wants("b", &[])]),
            [["198.18.0.1", "2001:db8::1"], ["198.18.0.2", "2001:db8::2"]]
        );
    }

    #[test]
    fn what_it_had_it_keeps_whoever_comes_first() {
        let pool = pool(&["198.18.0.0/29"]);
        let asks = [wants("older", &[]), wants("younger", &["198.18.0.1"])];
        assert_eq!(addresses(&given(), &pool, &asks), [["198.18.0.2"], ["198.18.0.1"]]);
        // Not out of the pool, though: the operator has taken the address back.
        let asks = [wants("a", &["198.18.5.1", "198.18.0.4"])];
        assert_eq!(addresses(&given(), &pool, &asks), [["198.18.0.4"]]);
    }

    #[test]
    fn of_two_that_had_the_same_the_first_keeps_it() {
        let pool = pool(&["198.18.0.0/29"]);
        let asks = [wants("a", &["198.18.0.3"]), wants("b", &["198.18.0.3"])];
        assert_eq!(addresses(&given(), &pool, &asks), [["198.18.0.3"], ["198.18.0.1"]]);
        // Unless one asks for it by name, and had it.
        let asks = [wants("a", &["198.18.0.3"]), fixed("b", &["198.18.0.3"], &["198.18.0.3"])];
        assert_eq!(addresses(&given(), &pool, &asks), [["198.18.0.1"], ["198.18.0.3"]]);
    }

    #[test]
    fn an_address_by_name_is_of_the_pool_or_the_nodes_and_nobody_elses() {
        let pool = pool(&["198.18.0.0/29"]);
        let node = ips(&["198.18.9.9"]);
        let given = Given { node: &node, ..given() };
        let asks = [
            fixed("a", &["198.18.0.1", "198.18.9.9", "198.18.7.7"], &[]),
            wants("b", &["198.18.0.2"]),
            fixed("c", &["198.18.0.2"], &[]),
            fixed("d", &["198.18.0.1"], &[]),
        ];
        let of = assigned(&given, &pool, &asks);
        assert_eq!(of[0].addresses, ips(&["198.18.0.1", "198.18.9.9"]));
        assert_eq!(of[0].refused, [(ip("198.18.7.7"), Refusal::NotInPool)]);
        assert_eq!(of[2].refused, [(ip("198.18.0.2"), Refusal::Held(name("b")))]);
        assert!(of[2].addresses.is_empty());
        assert_eq!(of[3].addresses, ips(&["198.18.0.1"]), "asked for by name, an address is shared");
    }

    #[test]
    fn addresses_by_name_are_not_given_to_others() {
        let pool = pool(&["198.18.0.0/29"]);
        let asks = [wants("a", &[]), fixed("b", &["198.18.0.1"], &[])];
        assert_eq!(addresses(&given(), &pool, &asks), [["198.18.0.2"], ["198.18.0.1"]]);
    }

    #[test]
    fn the_nodes_own_address_is_given_to_nobody() {
        let pool = pool(&["198.18.0.0/30"]);
        let node = ips(&["198.18.0.1"]);
        let given = Given { node: &node, ..given() };
        assert_eq!(addresses(&given, &pool, &[wants("a", &["198.18.0.1"])]), [["198.18.0.2"]]);
    }

    #[test]
    fn an_empty_pool_is_told_by_ip_version() {
        let pool = pool(&["198.18.0.1", "2001:db8::/64"]);
        let of = assigned(&given(), &pool, &[wants("a", &[]), wants("b", &[])]);
        assert_eq!(of[1].addresses, ips(&["2001:db8::2"]));
        assert_eq!(of[1].missing, [Missing::Exhausted { v6: false }]);
    }

    #[test]
    fn addresses_of_gateways_that_have_gone_are_given_away_last() {
        let pool = pool(&["198.18.0.0/30"]);
        let absent = BTreeSet::from([ip("198.18.0.1")]);
        let given = Given { absent: &absent, ..given() };
        assert_eq!(addresses(&given, &pool, &[wants("a", &[]), wants("b", &[])]), [["198.18.0.2"], ["198.18.0.1"]]);
    }

    #[test]
    fn who_does_not_decide_waits() {
        let pool = pool(&["198.18.0.0/29"]);
        let given = Given { decides: false, ..given() };
        let of =
            assigned(&given, &pool, &[wants("a", &["198.18.0.4"]), wants("b", &[]), fixed("c", &["198.18.0.2"], &[])]);
        assert_eq!(of[0].addresses, ips(&["198.18.0.4"]));
        assert_eq!((&of[1].addresses[..], &of[1].missing[..]), (&[][..], &[Missing::NotYet][..]));
        assert_eq!(of[2].addresses, ips(&["198.18.0.2"]));
    }

    #[test]
    fn without_a_pool_the_nodes_addresses_are_shared() {
        let (pool, node) = (Pool::default(), ips(&["198.18.9.9"]));
        let given = Given { node: &node, ..given() };
        let asks = [wants("a", &[]), wants("b", &["198.18.0.1"]), fixed("c", &["198.18.0.2"], &[])];
        assert_eq!(addresses(&given, &pool, &asks), [["198.18.9.9"], ["198.18.9.9"], ["198.18.0.2"]]);
    }

    #[test]
    fn pools_may_have_addresses_in_common_and_give_each_once() {
        let (wide, narrow, none) = (pool(&["198.18.0.0/29"]), pool(&["198.18.0.1-198.18.0.2"]), Pool::default());
        let node = ips(&["198.18.9.9"]);
        let given = Given { node: &node, ..given() };
        let asks =
            [wants("a", &[]), wants("b", &[]), wants("c", &[]), wants("d", &[]), fixed("e", &["198.18.0.3"], &[])];
        let wishes =
            [(0, &narrow), (1, &wide), (2, &narrow), (3, &none), (4, &none)].map(|(i, pool)| wish(&asks[i], pool));
        let of = assign(&given, &wishes);
        let addresses: Vec<_> = of.iter().map(|of| of.addresses.clone()).collect();
        assert_eq!(addresses[..2], [ips(&["198.18.0.1"]), ips(&["198.18.0.2"])]);
        assert_eq!((&addresses[2], &of[2].missing[..]), (&Vec::new(), &[Missing::Exhausted { v6: false }][..]));
        assert_eq!(addresses[3..], [node.clone(), ips(&["198.18.0.3"])], "who has no pool shares, or brings its own");
    }

    /// Some hosts of 198.18.0.0/28, in it and beside it.
    fn hosts() -> impl Strategy<Value = Vec<IpAddr>> {
        proptest::collection::vec((0u8..20).prop_map(|host| IpAddr::from([198, 18, 0, host])), 0..3)
    }

    fn asks() -> impl Strategy<Value = Vec<(Vec<IpAddr>, bool, Vec<IpAddr>)>> {
        proptest::collection::vec((hosts(), any::<bool>(), hosts()), 0..20)
    }

    fn named(asks: Vec<(Vec<IpAddr>, bool, Vec<IpAddr>)>) -> Vec<Asks> {
        let named = asks.into_iter().enumerate();
        named.map(|(i, (fixed, any, recorded))| Asks { name: name(&format!("g{i}")), fixed, any, recorded }).collect()
    }

    proptest! {
        /// What the pool gave is one Gateway's alone; nobody goes without while there is something to give; and the next time
        /// everybody has the same.
        #[test]
        fn whatever_they_ask(asks in asks(), node in hosts(), absent in hosts()) {
            let pool = pool(&["198.18.0.0/28"]);
            let absent: BTreeSet<IpAddr> = absent.into_iter().collect();
            let given = Given { node: &node, absent: &absent, ..given() };
            let mut asks = named(asks);
            let first = assigned(&given, &pool, &asks);
            let mut users: HashMap<IpAddr, Vec<&Asks>> = HashMap::new();
            for (of, ask) in first.iter().zip(&asks) {
                of.addresses.iter().for_each(|address| users.entry(*address).or_default().push(ask));
                for address in &of.addresses {
                    prop_assert!(pool.has(*address) || (node.contains(address) && ask.fixed.contains(address)));
                }
                prop_assert!(ask.any || of.missing.is_empty());
            }
            for (address, users) in &users {
                let by_name = users.iter().all(|ask| ask.fixed.contains(address));
                prop_assert!(users.len() == 1 || by_name, "{address} is shared");
                prop_assert!(by_name || !node.contains(address), "{address} is the node's");
            }
            if first.iter().any(|of| !of.missing.is_empty()) {
                prop_assert!(pool.addresses(false).all(|a| users.contains_key(&a) || node.contains(&a)), "some is left");
            }
            for (of, ask) in first.iter().zip(&mut asks) {
                ask.recorded.clone_from(&of.addresses);
            }
            let again: Vec<Vec<IpAddr>> = assigned(&given, &pool, &asks).into_iter().map(|of| of.addresses).collect();
            let first: Vec<Vec<IpAddr>> = first.into_iter().map(|of| of.addresses).collect();
            prop_assert_eq!(again, first);
        }

        /// Who comes or goes moves nobody.
        #[test]
        fn neighbours_do_not_move(asks in asks(), place in 0usize..20, fixed in hosts(), any in any::<bool>()) {
            let pool = pool(&["198.18.0.0/28"]);
            let mut asks = named(asks);
            let first = assigned(&given(), &pool, &asks);
            for (of, ask) in first.iter().zip(&mut asks) {
                ask.recorded.clone_from(&of.addresses);
            }
            let place = place.min(asks.len());
            asks.insert(place, Asks { name: name("new"), fixed, any, recorded: Vec::new() });
            let mut second = assigned(&given(), &pool, &asks);
            second.remove(place);
            for (before, after) in first.iter().zip(&second) {
                for address in &before.addresses {
                    prop_assert!(after.addresses.contains(address), "{before:?} became {after:?}");
                }
            }
        }
    }
}
