use std::collections::{BTreeMap, BTreeSet};

use gateway_common::{
    Address, ListenerKey, agent_backend, backend_flags, listener_kind, protocol, server_name, slot, sni_mode,
};
use proptest::prelude::*;

use super::memory::Memory;
use super::*;
use crate::emit::maps::{self, ListenerAddress, ServerName, Tls};
use crate::emit::shares::{self, Share, To};
use crate::ir::HostName;

const CAPACITY: Capacity =
    Capacity { listeners: 64, listener_ids: 64, names: 64, sets: 64, slots: 40_000, backends: 256 };

/// A listener by number, its addresses, and its shares as (backend, weight). From [`FIRST_TLS`] on each share is a name.
type Spec = (u8, Vec<u8>, Vec<(u8, u8)>);

fn backend(n: u8) -> shares::Backend {
    shares::Backend {
        address: Address::v4([198, 18, 0, n]),
        port: 80,
        protocol: protocol::TCP,
        proxy: n.is_multiple_of(5),
        local: n.is_multiple_of(2),
    }
}

/// Listeners from here on are TLS listeners, which share a port.
const FIRST_TLS: u8 = 5;

fn key(address: u8, port: u16) -> ListenerKey {
    ListenerKey { address: Address::v4([198, 19, 0, address]), port, protocol: protocol::TCP, _pad: [0; 5] }
}

fn set_of(backend: u8) -> Arc<Set> {
    let share = Share { to: To::Backend(self::backend(backend)), weight: 1 };
    Arc::new(Set { shares: [share].into(), idle: [].into() })
}

/// A name of a listener with the backend of this number; 0: with none.
fn server_name(listener: u8, host_number: u8, backend: u8) -> ServerName {
    let host = match host_number {
        0 if listener == FIRST_TLS => HostName::Any,
        host @ 0..4 => HostName::Wildcard(format!("{host}.l{listener}.example").into()),
        host => HostName::Exact(format!("{host}.l{listener}.example").into()),
    };
    let name = ServerName::new(host, [(backend != 0).then(|| set_of(backend)), None]);
    // Another Gateway has it there.
    if host_number == 9 { name.without(key(1, 443).address) } else { name }
}

fn tls(listener: u8, names: &[(u8, u8)]) -> Tls {
    let mut taken = BTreeSet::new();
    let names = names.iter().filter(|(host, _)| taken.insert(*host));
    let mode = if listener.is_multiple_of(2) { sni_mode::PASSTHROUGH } else { sni_mode::TERMINATE };
    Tls { mode, names: names.map(|(host, backend)| server_name(listener, *host, *backend).into()).collect() }
}

fn name(n: u8) -> ListenerName {
    ListenerName { namespace: "default".into(), gateway: "gw".into(), section: n.to_string().into() }
}

fn wanted(specs: &[Spec]) -> Wanted {
    let mut wanted = Wanted::default();
    let mut taken = BTreeSet::new();
    for (n, addresses, pairs) in specs.iter().filter(|s| taken.insert(s.0)) {
        let mut merged = BTreeMap::new();
        for (backend, weight) in pairs {
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
        let (port, set, tls) =
            if *n < FIRST_TLS { (u16::from(*n) + 1, set, None) } else { (443, None, Some(tls(*n, pairs))) };
        let at = |a| ListenerAddress { key: key(a, port), set: set.clone() };
        let addresses = addresses.into_iter().map(at).collect();
        wanted.listeners.push(maps::Listener { name: name(*n), addresses, tls, answered: false }.into());
    }
    wanted.addresses = specs
        .iter()
        .take(1)
        .map(|(n, ..)| maps::GatewayAddress { address: Address::v4([198, 19, 0, 0]), exclusive: n.is_multiple_of(2) })
        .collect();
    wanted
}

fn path(address: Address, _local: bool) -> Path {
    let last = address.octets[15];
    Path { source: Address::v4([198, 19, 255, 1]), ifindex: last.into(), mtu: 1400 + u16::from(last) }
}

#[test]
fn what_is_settled_is_not_looked_at_again() {
    let mut store = Memory::new(CAPACITY);
    let mut applier = Applier::adopt(&mut store).unwrap();
    let first = wanted(&[(1, vec![1], vec![(1, 1)]), (FIRST_TLS, vec![1], vec![(5, 1), (6, 2)])]);
    applier.apply(&first, path, &mut store);
    let round = applier.round;
    applier.apply(&first, path, &mut store);
    assert_eq!(applier.round, round);
    // Equal, but another.
    let second = wanted(&[(1, vec![1], vec![(1, 1)]), (FIRST_TLS, vec![1], vec![(5, 1), (6, 2)])]);
    applier.apply(&second, path, &mut store);
    assert_eq!(applier.round, round + 1);
    applier.apply(&Wanted { addresses: Vec::new(), ..second.clone() }, path, &mut store);
    assert_eq!(applier.round, round + 2);
    applier.apply(&Wanted::default(), path, &mut store);
    assert_eq!(applier.round, round + 3);
    applier.paths_changed();
    applier.apply(&Wanted::default(), path, &mut store);
    assert_eq!(applier.round, round + 4);
}

/// The maps hold what is wanted and nothing else.
fn assert_holds(store: &Memory, applier: &Applier, wanted: &Wanted) {
    store.check();
    assert_holds_names(store, applier, wanted);
    let keys: BTreeSet<_> = wanted.listeners.iter().flat_map(|l| &l.addresses).map(|a| a.key).collect();
    assert_eq!(store.listeners.len(), keys.len() + wanted.addresses.len());
    for address in wanted.listeners.iter().filter(|l| l.tls.is_none()).flat_map(|l| &l.addresses) {
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
    let sets = wanted.listeners.iter().flat_map(|l| {
        let names = l.addresses.iter().flat_map(|a| l.tls.iter().flat_map(|tls| &tls.names).map(|name| (name, &a.key)));
        let of_names = names.filter(|(name, at)| name.is_on(at)).filter_map(|(name, at)| name.set(at));
        l.addresses.iter().filter_map(|a| a.set.as_ref()).chain(of_names)
    });
    let flags = |b: &shares::Backend| {
        let flag = |flag: u8, set: bool| if set { flag } else { 0 };
        flag(backend_flags::LOCAL, b.local) | flag(backend_flags::PROXY, b.proxy)
    };
    let expected: BTreeSet<_> = sets.flat_map(|s| s.backends()).map(|b| (b.address, flags(b))).collect();
    assert_eq!(present, expected);
    assert!(store.backends.keys().all(|id| *id >= agent_backend::FIRST_OTHER));
    let of_names = store.names.values().map(|n| n.backend_set);
    let used: BTreeSet<u32> = store.listeners.values().map(|l| l.backend_set).chain(of_names).collect();
    for (id, set) in store.sets.iter().enumerate() {
        assert!(set.length == 0 || used.contains(&(id as u32)), "set {id} is left over");
    }
}

/// SNI has every name of every address, and nothing else; LISTENERS has what leads to them.
fn assert_holds_names(store: &Memory, applier: &Applier, wanted: &Wanted) {
    let ids: BTreeMap<_, _> = applier.listener_ids().collect();
    let backends: BTreeMap<_, _> = applier.backend_ids().map(|(key, id)| (*key, id)).collect();
    let mut expected = BTreeMap::new();
    let mut ports: BTreeMap<ListenerKey, (u32, u32, u16)> = BTreeMap::new();
    for listener in wanted.listeners.iter() {
        let Some(tls) = &listener.tls else { continue };
        for at in listener.addresses.iter().map(|a| &a.key) {
            let port = ports.entry(*at).or_insert((ids[&listener.name], 0, 0));
            for name in &tls.names {
                if !name.is_on(at) {
                    continue;
                }
                let (wildcard, looked_up) = match &name.host {
                    HostName::Exact(name) => (0, name.as_bytes()),
                    HostName::Wildcard(suffix) => (1, suffix.as_bytes()),
                    HostName::Any => (1, &b""[..]),
                };
                let labels = if looked_up.is_empty() { 0 } else { looked_up.split(|b| *b == b'.').count() as u32 };
                port.1 |= if wildcard == 1 { server_name::wildcard_bit(labels) } else { 0 };
                for backend in name.set(at).iter().flat_map(|set| set.backends()) {
                    let mtu = path(backend.address, backend.local).mtu;
                    if tls.mode == sni_mode::PASSTHROUGH && (port.2 == 0 || mtu < port.2) {
                        port.2 = mtu;
                    }
                }
                let key = SniKey::new(at.address, at.port, wildcard == 1, looked_up);
                expected.insert(key, (ids[&listener.name], tls.mode, name.host.to_string(), name.set(at)));
            }
        }
    }
    assert_eq!(store.names.keys().collect::<Vec<_>>(), expected.keys().collect::<Vec<_>>());
    for (key, (listener, mode, text, set)) in expected {
        let name = &store.names[&key];
        let length = name.name.iter().position(|byte| *byte == 0).unwrap();
        assert_eq!(String::from_utf8_lossy(&name.name[..length]), text);
        assert_eq!((name.listener, name.mode), (listener, mode));
        assert_eq!(name.backend_set == 0, set.is_none());
        for share in set.iter().flat_map(|set| &set.shares) {
            let To::Backend(backend) = &share.to else { unreachable!() };
            assert_eq!(store.pick(name.backend_set, 1), Some(backends[&backend.key()]));
        }
    }
    for (at, (id, wildcards, mtu)) in ports {
        let listener = store.listeners[&at];
        assert_eq!((listener.kind, listener.backend_set), (listener_kind::TLS, 0));
        assert_eq!((listener.id, listener.wildcards, listener.mtu), (id, wildcards, mtu), "{at:?}");
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
    let mut state = wanted(&[(1, vec![1], vec![(1, 1), (2, 1)]), (2, vec![1], vec![(3, 1)])]);
    state.listeners.extend(names_wanted(&[&[(1, 1)], &[(2, 2)], &[]]).listeners);
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
    let (mut store, mut applier) = adopted(Capacity { backends: 4, ..CAPACITY });
    let applied = applier.apply(&wanted(&[(1, vec![1], vec![(1, 1), (2, 1)])]), path, &mut store);
    let full = "map BACKENDS is full; enlarge it with --max-backends";
    assert_eq!(messages(&applied), [format!("backend 198.18.0.2 port 80: {full}")]);
    assert!((0..100).all(|i| store.pick(1, gateway_common::hash::mix(i)) == Some(3)));
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
    Arc::make_mut(&mut state.listeners[1]).addresses[0].key = key;
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
    assert_eq!(store.backends[&3].ifindex, 2);
    applier.paths_changed();
    applier.apply(&state, |_, _| Path { source: Address::v4([198, 19, 255, 2]), ifindex: 9, mtu: 1500 }, &mut store);
    assert_eq!(store.backends[&3].ifindex, 9);
    assert_eq!(store.backends[&3].source, Address::v4([198, 19, 255, 2]));
}

#[test]
fn slots_and_ids_that_were_freed_are_used_again() {
    // Room for two tables of 1021 slots and three backends, which is what a change needs at a time.
    let (mut store, mut applier) = adopted(Capacity { slots: 2100, backends: 6, sets: 3, ..CAPACITY });
    for round in 0..40 {
        let backend = [1, 3, 4, 6, 7][round % 5];
        let state = wanted(&[(1, vec![1], vec![(backend, 1)])]);
        let applied = applier.apply(&state, path, &mut store);
        assert_eq!(messages(&applied), Vec::<String>::new(), "in round {round}");
        assert_holds(&store, &applier, &state);
    }
}

/// One listener for each list of names and backends, all on one port of one address.
fn names_wanted(listeners: &[&[(u8, u8)]]) -> Wanted {
    let listener = |(n, names): (u8, &&[(u8, u8)])| maps::Listener {
        name: name(n),
        addresses: vec![ListenerAddress { key: key(1, 443), set: None }],
        tls: Some(tls(n, names)),
        answered: false,
    };
    Wanted { listeners: (FIRST_TLS..).zip(listeners).map(listener).map(Arc::new).collect(), addresses: Vec::new() }
}

#[test]
fn agent_has_all_of_a_port_unless_tls_passes_there() {
    let host = |name: &str| ServerName::new(HostName::Exact(name.into()), [None, None]);
    let listener = |n, port, tls: Option<(u8, &str)>, answered| maps::Listener {
        name: name(n),
        addresses: vec![ListenerAddress { key: key(1, port), set: None }],
        tls: tls.map(|(mode, name)| Tls { mode, names: vec![host(name).into()] }),
        answered,
    };
    let listener = |n, port, tls, answered| Arc::new(listener(n, port, tls, answered));
    let https = |n, name| listener(n, 443, Some((sni_mode::HTTPS, name)), true);
    let pass = || listener(3, 443, Some((sni_mode::PASSTHROUGH, "c.example")), false);
    let alone = vec![https(1, "a.example"), https(2, "b.example"), listener(4, 80, None, true)];
    let mixed = [alone.clone(), vec![pass()]].concat();
    let (mut store, mut applier) = adopted(CAPACITY);
    for (listeners, kind, names) in [
        (&alone, listener_kind::L7, 0),
        (&mixed, listener_kind::TLS, 3),
        (&alone, listener_kind::L7, 0),
        (&vec![pass()], listener_kind::TLS, 1),
    ] {
        let wanted = Wanted { listeners: listeners.clone(), addresses: Vec::new() };
        let applied = applier.apply(&wanted, path, &mut store);
        assert_eq!(messages(&applied), Vec::<String>::new());
        assert_eq!((store.listeners[&key(1, 443)].kind, store.names.len()), (kind, names));
        let http = store.listeners.get(&key(1, 80)).map(|listener| listener.kind);
        assert_eq!(http, (listeners.len() > 1).then_some(listener_kind::L7));
    }
    // Who came first has the port.
    let conflict = vec![listener(1, 80, None, true), listener(2, 80, None, false)];
    let applied = applier.apply(&Wanted { listeners: conflict, addresses: Vec::new() }, path, &mut store);
    assert_eq!(messages(&applied).len(), 1);
    assert_eq!(store.listeners[&key(1, 80)].kind, listener_kind::L7);
}

#[test]
fn a_changed_name_is_one_write_among_ten_thousand() {
    let host = |n: u32| HostName::Exact(format!("n{n}.example").into());
    let sets = [set_of(1), set_of(3)];
    let wanted = |changed: u32| {
        let set = |n| if n == changed { &sets[1] } else { &sets[0] };
        let names = (0..10_000).map(|n| ServerName::new(host(n), [Some(Arc::clone(set(n))), None]).into()).collect();
        let tls = Some(Tls { mode: sni_mode::PASSTHROUGH, names });
        let addresses = vec![ListenerAddress { key: key(1, 443), set: None }];
        let listener = maps::Listener { name: name(0), addresses, tls, answered: false };
        Wanted { listeners: vec![listener.into()], addresses: Vec::new() }
    };
    let (mut store, mut applier) = adopted(Capacity { names: 10_000, ..CAPACITY });
    store.unchecked = true;
    applier.apply(&wanted(0), path, &mut store);
    for changed in 1..5 {
        store.writes = 0;
        let applied = applier.apply(&wanted(changed), path, &mut store);
        assert_eq!(messages(&applied), Vec::<String>::new());
        assert_eq!(store.writes, 2, "the name that changes, and the one that changes back");
    }
    store.writes = 0;
    let mut applier = Applier::adopt(&mut store).unwrap();
    applier.apply(&wanted(4), path, &mut store);
    assert_eq!(store.writes, 0, "a new agent compares");
}

#[test]
fn hits_of_a_name_survive_what_is_written_over_it() {
    let (mut store, mut applier) = adopted(CAPACITY);
    applier.apply(&names_wanted(&[&[(4, 1), (5, 2)]]), path, &mut store);
    store.names.values_mut().for_each(|name| name.hits = 7);
    // Another set; another listener with another mode, and a set that stays.
    applier.apply(&names_wanted(&[&[(4, 3), (5, 2)]]), path, &mut store);
    assert!(store.names.values().all(|name| name.hits == 7));
    let mut applier = Applier::adopt(&mut store).unwrap();
    let mut other = names_wanted(&[&[(4, 3), (5, 2)]]);
    Arc::make_mut(&mut other.listeners[0]).tls.as_mut().unwrap().mode = sni_mode::PASSTHROUGH;
    applier.apply(&other, path, &mut store);
    assert!(store.names.values().all(|name| name.hits == 7 && name.mode == sni_mode::PASSTHROUGH));
}

#[test]
fn a_damaged_name_is_written_again() {
    let (mut store, mut applier) = adopted(CAPACITY);
    let state = names_wanted(&[&[(0, 1), (1, 1), (4, 1)]]);
    applier.apply(&state, path, &mut store);
    store.names.values_mut().for_each(|name| name.name[0] = b'?');
    let mut applier = Applier::adopt(&mut store).unwrap();
    assert_eq!(applier.apply(&state, path, &mut store).writes, 3);
    assert_holds(&store, &applier, &state);
}

#[test]
fn names_that_find_no_room_are_told_once_a_listener() {
    let (mut store, mut applier) = adopted(Capacity { names: 2, ..CAPACITY });
    let applied = applier.apply(&names_wanted(&[&[(4, 1), (5, 1), (6, 1), (7, 1)], &[(4, 1)]]), path, &mut store);
    let full = "map SNI is full; enlarge it with --max-server-names";
    let expected = [
        format!("listener default/gw/5: server name 6.l5.example and 1 others are not served: {full}"),
        format!("listener default/gw/6: server name 4.l6.example is not served: {full}"),
    ];
    assert_eq!(messages(&applied), expected);
    assert_eq!(store.names.len(), 2);
    // Once others have gone there is room, in the same apply.
    let state = names_wanted(&[&[(6, 1)], &[(4, 1)]]);
    let applied = applier.apply(&state, path, &mut store);
    assert_eq!(messages(&applied), Vec::<String>::new());
    assert_holds(&store, &applier, &state);
}

#[test]
fn two_names_with_one_key_are_told_apart() {
    let (mut store, mut applier) = adopted(CAPACITY);
    let mut state = names_wanted(&[&[(4, 1)], &[(5, 3)]]);
    let first = state.listeners[0].tls.clone().unwrap().names[0].clone();
    let names = &mut Arc::make_mut(&mut state.listeners[1]).tls.as_mut().unwrap().names;
    names.push(first.clone());
    names.push(ServerName::with_hash_of(&first, HostName::Exact("other.example".into())).into());
    let applied = applier.apply(&state, path, &mut store);
    let expected = [
        "listener default/gw/6: server name 4.l5.example at address 198.19.0.1 port 443 belongs to listener default/gw/5 \
         already; give one of them another hostname",
        "listener default/gw/6: server name other.example at address 198.19.0.1 port 443 cannot be told apart from \
         4.l5.example of listener default/gw/5: their hashes are the same; give one of them another port",
    ];
    assert_eq!(messages(&applied), expected);
    assert_eq!(store.names.len(), 2);
    store.check();
}

#[test]
fn a_port_is_forwarded_or_read_not_both() {
    let (mut store, mut applier) = adopted(CAPACITY);
    let mut state = names_wanted(&[&[(4, 1)], &[(5, 1)]]);
    state.listeners.insert(1, wanted(&[(1, vec![1], vec![(1, 1)])]).listeners.remove(0));
    Arc::make_mut(&mut state.listeners[1]).addresses[0].key = key(1, 443);
    let applied = applier.apply(&state, path, &mut store);
    let expected = "listener default/gw/1: address 198.19.0.1 port 443 belongs to listener default/gw/5 already; give one of \
                    them another port";
    assert_eq!(messages(&applied), [expected]);
    assert_eq!((store.listeners[&key(1, 443)].kind, store.names.len()), (listener_kind::TLS, 2));
}

#[test]
fn the_agents_sockets_have_ids_of_their_own() {
    let (mut store, mut applier) = adopted(CAPACITY);
    let address = Address::v4([198, 19, 255, 1]);
    let state = wanted(&[(1, vec![1], vec![(1, 1), (3, 1)])]);
    applier.apply(&state, path, &mut store);
    applier.set_agent_socket(false, Some((address, 9000)), &mut store).unwrap();
    let mut applier = Applier::adopt(&mut store).unwrap();
    let applied = applier.apply(&state, path, &mut store);
    assert_eq!(applied.writes, 0, "it is adopted");
    assert_eq!((store.backends[&1].port, store.backends[&1].flags), (9000, backend_flags::AGENT));
    store.writes = 0;
    applier.set_agent_socket(false, Some((address, 9000)), &mut store).unwrap();
    assert_eq!(store.writes, 0);
    applier.set_agent_socket(false, None, &mut store).unwrap();
    assert_holds(&store, &applier, &state);
}

#[test]
fn backends_of_an_older_agent_make_way_for_the_agents_sockets() {
    let (mut store, mut applier) = adopted(CAPACITY);
    let state = wanted(&[(1, vec![1], vec![(1, 1)])]);
    applier.apply(&state, path, &mut store);
    let old = store.backends.remove(&3).unwrap();
    store.backends.insert(1, old);
    store.slots.iter_mut().filter(|slot| **slot == 3).for_each(|slot| *slot = 1);
    let mut applier = Applier::adopt(&mut store).unwrap();
    applier.set_agent_socket(false, Some((Address::v4([198, 19, 255, 1]), 9000)), &mut store).unwrap();
    applier.apply(&state, path, &mut store);
    assert_eq!(store.backends[&1].flags, backend_flags::AGENT);
    applier.set_agent_socket(false, None, &mut store).unwrap();
    assert_holds(&store, &applier, &state);
}
