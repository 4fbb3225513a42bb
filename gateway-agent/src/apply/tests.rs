use std::collections::{BTreeMap, BTreeSet};

use gateway_common::{Address, ListenerKey, listener_kind, protocol, slot};
use proptest::prelude::*;

use super::memory::Memory;
use super::*;
use crate::emit::maps::{self, ListenerAddress, Share, To};

const CAPACITY: Capacity = Capacity { listeners: 64, listener_ids: 64, sets: 64, slots: 40_000, backends: 256 };

/// A listener by number, its addresses, and its shares as (backend, weight).
type Spec = (u8, Vec<u8>, Vec<(u8, u8)>);

fn backend(n: u8) -> maps::Backend {
    maps::Backend {
        address: Address::v4([198, 18, 0, n]),
        port: 80,
        protocol: protocol::TCP,
        local: n.is_multiple_of(2),
    }
}

fn name(n: u8) -> ListenerName {
    ListenerName { namespace: "default".into(), gateway: "gw".into(), section: n.to_string().into() }
}

fn wanted(specs: &[Spec]) -> Wanted {
    let mut wanted = Wanted::default();
    let mut taken = BTreeSet::new();
    for (n, addresses, shares) in specs.iter().filter(|s| taken.insert(s.0)) {
        let mut merged = BTreeMap::new();
        for (backend, weight) in shares {
            *merged.entry(*backend).or_insert(0) += u64::from(*weight) + 1;
        }
        // Every third backend only keeps its connections.
        let (idle, serving): (Vec<u8>, Vec<u8>) = merged.keys().partition(|b| *b % 3 == 2);
        let share = |b: u8| Share { to: To::Backend(backend(b)), weight: merged[&b] };
        let mut shares: Vec<Share> = serving.into_iter().map(share).collect();
        if shares.is_empty() {
            shares.push(Share { to: To::Empty, weight: 1 });
        }
        let idle = idle.into_iter().map(backend).collect();
        let set = (!merged.is_empty()).then(|| Arc::new(Set { shares: shares.into(), idle }));
        let addresses: BTreeSet<u8> = addresses.iter().copied().collect();
        let at = |a| {
            let address = Address::v4([198, 19, 0, a]);
            ListenerKey { address, port: u16::from(*n) + 1, protocol: protocol::TCP, _pad: [0; 5] }
        };
        let addresses = addresses.into_iter().map(|a| ListenerAddress { key: at(a), set: set.clone() }).collect();
        wanted.listeners.push(maps::Listener { name: name(*n), addresses });
    }
    wanted.addresses = specs
        .iter()
        .take(1)
        .map(|(n, ..)| maps::GatewayAddress { address: Address::v4([198, 19, 0, 0]), exclusive: n.is_multiple_of(2) })
        .collect();
    wanted
}

fn path(address: Address, _local: bool) -> Path {
    Path { source: Address::v4([198, 19, 255, 1]), ifindex: u32::from(address.octets[15]) }
}

/// The maps hold what is wanted and nothing else.
fn assert_holds(store: &Memory, applier: &Applier, wanted: &Wanted) {
    store.check();
    let keys = wanted.listeners.iter().flat_map(|l| &l.addresses);
    assert_eq!(store.listeners.len(), keys.clone().count() + wanted.addresses.len());
    for address in keys {
        let listener = store.listeners[&address.key];
        assert_eq!(listener.kind, listener_kind::L4);
        let Some(set) = &address.set else {
            assert_eq!(listener.backend_set, 0);
            continue;
        };
        // Every backend gets its share of hashes.
        let mut counts: BTreeMap<u32, u64> = BTreeMap::new();
        const HASHES: u64 = 4096;
        for i in 0..HASHES {
            *counts.entry(store.pick(listener.backend_set, gateway_common::hash::mix(i + 1)).unwrap()).or_default() +=
                1;
        }
        let total: u64 = set.shares.iter().map(|s| s.weight).sum();
        let known: BTreeMap<_, _> = applier.backend_ids().map(|(key, id)| (*key, id)).collect();
        for share in &set.shares {
            let slot = match share.to {
                To::Backend(backend) => known[&backend.key()],
                To::Invalid => slot::INVALID,
                To::Empty => slot::EMPTY,
            };
            let got = counts.remove(&slot).unwrap_or(0) as f64 / HASHES as f64;
            let exact = share.weight as f64 / total as f64;
            assert!((got - exact).abs() < 0.05, "{got} instead of {exact}");
        }
        assert!(counts.is_empty());
    }
    for address in &wanted.addresses {
        let kind = if address.exclusive { listener_kind::EXCLUSIVE } else { listener_kind::SHARED };
        let key = ListenerKey { address: address.address, ..ListenerKey::default() };
        assert_eq!(store.listeners[&key].kind, kind);
    }
    let present: BTreeSet<_> = store.backends.values().map(|b| (b.address, b.flags)).collect();
    let sets = wanted.listeners.iter().flat_map(|l| &l.addresses).filter_map(|a| a.set.as_ref());
    let expected: BTreeSet<_> = sets.flat_map(|s| s.backends()).map(|b| (b.address, u8::from(b.local))).collect();
    assert_eq!(present, expected);
    let used: BTreeSet<u32> = store.listeners.values().map(|l| l.backend_set).collect();
    for (id, set) in store.sets.iter().enumerate() {
        assert!(set.length == 0 || used.contains(&(id as u32)), "set {id} is left over");
    }
}

fn specs() -> impl Strategy<Value = Vec<Spec>> {
    let shares = prop::collection::vec((0u8..12, 0u8..4), 0..6);
    prop::collection::vec((0u8..8, prop::collection::vec(0u8..3, 1..3), shares), 0..8)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Whatever is wanted one after the other, with a new agent in between or not, ends in the right maps, and no write on the
    /// way leaves a listener without a whole set (`Memory` checks that).
    #[test]
    fn any_sequence_of_wanted_states_ends_in_the_right_maps(
        states in prop::collection::vec((specs(), any::<bool>()), 1..6)
    ) {
        let mut store = Memory::new(CAPACITY);
        let mut applier = Applier::adopt(&mut store).unwrap();
        for (specs, restart) in states {
            let wanted = wanted(&specs);
            if restart {
                applier = Applier::adopt(&mut store).unwrap();
            }
            let applied = applier.apply(&wanted, path, &mut store);
            prop_assert!(applied.problems.is_empty(), "{:?}", applied.problems);
            assert_holds(&store, &applier, &wanted);
            prop_assert_eq!(applier.apply(&wanted, path, &mut store).writes, 0);
            let mut anew = Applier::adopt(&mut store).unwrap();
            let applied = anew.apply(&wanted, path, &mut store);
            prop_assert_eq!(applied.writes, 0, "a new agent finds nothing to write");
        }
    }

    /// A write that fails harms nothing, and the next apply makes up for it.
    #[test]
    fn failing_writes_are_made_up_for(first in specs(), second in specs(), writes in 0usize..40) {
        let mut store = Memory::new(CAPACITY);
        let mut applier = Applier::adopt(&mut store).unwrap();
        applier.apply(&wanted(&first), path, &mut store);
        store.fail_after = Some(writes);
        let wanted = wanted(&second);
        applier.apply(&wanted, path, &mut store);
        store.check();
        store.fail_after = None;
        let applied = applier.apply(&wanted, path, &mut store);
        prop_assert!(applied.problems.is_empty(), "{:?}", applied.problems);
        assert_holds(&store, &applier, &wanted);
    }
}

fn adopted(capacity: Capacity) -> (Memory, Applier) {
    let mut store = Memory::new(capacity);
    let applier = Applier::adopt(&mut store).unwrap();
    (store, applier)
}

fn messages(applied: &Applied) -> Vec<String> {
    applied.problems.iter().map(ToString::to_string).collect()
}

#[test]
fn one_changed_endpoint_writes_one_table_in_place() {
    let (mut store, mut applier) = adopted(CAPACITY);
    applier.apply(&wanted(&[(1, vec![1, 2], vec![(1, 1), (2, 1)]), (2, vec![1], vec![(3, 1)])]), path, &mut store);
    let before = store.listeners.clone();
    store.writes = 0;
    let after = wanted(&[(1, vec![1, 2], vec![(1, 1), (4, 1)]), (2, vec![1], vec![(3, 1)])]);
    let applied = applier.apply(&after, path, &mut store);
    assert_eq!(store.listeners, before, "the set changes behind its id");
    assert_eq!(store.writes, 4, "a backend, its slots, the set, the removed backend");
    assert!(applied.backends_removed);
}

#[test]
fn listeners_that_part_get_a_set_of_their_own() {
    let (mut store, mut applier) = adopted(CAPACITY);
    applier.apply(&wanted(&[(1, vec![1], vec![(1, 1)]), (2, vec![1], vec![(1, 1)])]), path, &mut store);
    let parted = wanted(&[(1, vec![1], vec![(2, 1)]), (2, vec![1], vec![(3, 1)])]);
    applier.apply(&parted, path, &mut store);
    assert_holds(&store, &applier, &parted);
}

#[test]
fn ids_of_backends_and_listeners_survive_a_restart() {
    let (mut store, mut applier) = adopted(CAPACITY);
    let state = wanted(&[(1, vec![1], vec![(1, 1), (2, 1)]), (2, vec![1], vec![(3, 1)])]);
    applier.apply(&state, path, &mut store);
    let ids = |applier: &Applier| {
        let listeners: BTreeMap<_, _> = applier.listener_ids().map(|(n, id)| (n.clone(), id)).collect();
        let backends: BTreeMap<_, _> = applier.backend_ids().map(|(k, id)| (*k, id)).collect();
        (listeners, backends)
    };
    let before = ids(&applier);
    let mut applier = Applier::adopt(&mut store).unwrap();
    applier.apply(&state, path, &mut store);
    assert_eq!(ids(&applier), before);
}

#[test]
fn damaged_maps_are_repaired() {
    let (mut store, mut applier) = adopted(CAPACITY);
    let state = wanted(&[(1, vec![1], vec![(1, 1), (2, 1)]), (2, vec![1], vec![(3, 1)])]);
    applier.apply(&state, path, &mut store);
    store.slots[3] = slot::INVALID;
    let both: Vec<u32> = store.listeners.values().map(|l| l.backend_set).filter(|s| *s != 0).collect();
    store.sets[both[1] as usize] = store.sets[both[0] as usize];
    let copy = *store.backends.values().next().unwrap();
    store.backends.insert(200, copy);
    let mut applier = Applier::adopt(&mut store).unwrap();
    let applied = applier.apply(&state, path, &mut store);
    assert_eq!(messages(&applied), Vec::<String>::new());
    assert_holds(&store, &applier, &state);
    assert!(!store.backends.contains_key(&200));
}

#[test]
fn a_listener_that_finds_no_room_is_named_and_the_others_go_on() {
    let (mut store, mut applier) = adopted(Capacity { listeners: 2, ..CAPACITY });
    let state = wanted(&[(1, vec![1], vec![(1, 1)]), (2, vec![1], vec![(2, 1)]), (3, vec![1], vec![(3, 1)])]);
    let applied = applier.apply(&state, path, &mut store);
    let full = "map LISTENERS is full; enlarge it with --max-listener-addresses";
    assert_eq!(messages(&applied)[0], format!("listener default/gw/3: {full}"));
    assert_eq!(store.listeners.len(), 2);
    store.check();
}

#[test]
fn a_table_that_finds_no_room_leaves_the_one_before_it() {
    let (mut store, mut applier) = adopted(Capacity { slots: 1500, ..CAPACITY });
    applier.apply(&wanted(&[(1, vec![1], vec![(1, 1)])]), path, &mut store);
    let before = store.slots.clone();
    let applied = applier.apply(&wanted(&[(1, vec![1], vec![(1, 1), (4, 1)])]), path, &mut store);
    let full = "map SLOTS is full; enlarge it with --max-slots";
    assert_eq!(messages(&applied), [format!("listener default/gw/1: {full}")]);
    assert_eq!(store.slots, before);
    store.check();
}

#[test]
fn a_backend_that_finds_no_room_leaves_its_share_to_the_others() {
    let (mut store, mut applier) = adopted(Capacity { backends: 2, ..CAPACITY });
    let applied = applier.apply(&wanted(&[(1, vec![1], vec![(1, 1), (2, 1)])]), path, &mut store);
    let full = "map BACKENDS is full; enlarge it with --max-backends";
    assert_eq!(messages(&applied), [format!("backend 198.18.0.2 port 80: {full}")]);
    assert!((0..100).all(|i| store.pick(1, gateway_common::hash::mix(i)) == Some(1)));
    // Once the other is gone there is room.
    let state = wanted(&[(1, vec![1], vec![(2, 1)])]);
    let applied = applier.apply(&state, path, &mut store);
    assert_eq!(messages(&applied), Vec::<String>::new());
    assert_holds(&store, &applier, &state);
}

#[test]
fn two_listeners_for_one_port_are_told_apart() {
    let (mut store, mut applier) = adopted(CAPACITY);
    let mut state = wanted(&[(1, vec![1], vec![(1, 1)]), (2, vec![1], vec![(2, 1)])]);
    let key = state.listeners[0].addresses[0].key;
    state.listeners[1].addresses[0].key = key;
    let applied = applier.apply(&state, path, &mut store);
    let expected = "listener default/gw/2: address 198.19.0.1 port 2 belongs to listener default/gw/1 already; give one of \
                    them another port";
    assert_eq!(messages(&applied), [expected]);
    store.check();
}

#[test]
fn a_backend_that_moves_to_another_interface_is_written_again() {
    let (mut store, mut applier) = adopted(CAPACITY);
    let state = wanted(&[(1, vec![1], vec![(2, 1)])]);
    applier.apply(&state, path, &mut store);
    assert_eq!(store.backends[&1].ifindex, 2);
    applier.paths_changed();
    applier.apply(&state, |_, _| Path { source: Address::v4([198, 19, 255, 2]), ifindex: 9 }, &mut store);
    assert_eq!(store.backends[&1].ifindex, 9);
    assert_eq!(store.backends[&1].source, Address::v4([198, 19, 255, 2]));
}
