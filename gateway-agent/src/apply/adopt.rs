//! What an earlier agent left in the maps becomes the starting point: identities are read back, ids stay.

use gateway_common::{BackendSet, agent_backend, backend_flags, listener_kind, slot};
use hashbrown::{HashMap, HashSet};

use super::ids::{Ids, Range, Ranges};
use super::table::Table;
use super::{Applier, MapStore, PresentBackend, PresentListener, PresentName, PresentSet, StoreError};
use crate::emit::shares::BackendKey;

impl Applier {
    /// From the content of the maps. What makes no sense in them is taken for unused, and written over or removed.
    pub fn adopt(store: &mut dyn MapStore) -> Result<Applier, StoreError> {
        // What that agent freed last may have been in use still.
        store.wait_for_readers();
        let capacity = store.capacity();
        let mut backends = HashMap::new();
        let mut stray_backends = Vec::new();
        let mut present = store.backends()?;
        present.sort_unstable_by_key(|(id, _)| *id);
        let ids = agent_backend::FIRST_OTHER..capacity.backends.min(slot::FIRST_SPECIAL);
        let mut agent_sockets = [None; 2];
        for (id, value) in present {
            let proxy = value.flags & backend_flags::PROXY != 0;
            let key = BackendKey { address: value.address, port: value.port, protocol: value.protocol, proxy };
            match id {
                agent_backend::V4 | agent_backend::V6 if value.flags & backend_flags::AGENT != 0 => {
                    agent_sockets[(id - agent_backend::V4) as usize] = Some(value);
                }
                id if ids.contains(&id) && !backends.contains_key(&key) => {
                    backends.insert(key, PresentBackend { id, value, mtu: 0, users: 0, local_users: 0 });
                }
                id => stray_backends.push(id),
            }
        }
        let listeners: HashMap<_, _> =
            store.listeners()?.into_iter().map(|(key, value)| (key, PresentListener { value, wanted: 0 })).collect();
        let mut names = HashMap::new();
        store.each_name(&mut |key, value| {
            names.insert(*key, PresentName::adopted(key, value));
        })?;
        let mut ranges = Ranges::new(capacity.slots);
        let mut sets = HashMap::new();
        let of_names = names.values().map(|n: &PresentName| n.backend_set);
        let mut set_ids: Vec<u32> = listeners.values().map(|l| l.value.backend_set).chain(of_names).collect();
        set_ids.sort_unstable();
        set_ids.dedup();
        for id in set_ids.into_iter().filter(|id| (1..capacity.sets).contains(id)) {
            let BackendSet { offset, length, nested } = store.set(id)?;
            let range = Range { offset, length: u32::from(length) + u32::from(nested) };
            // Ranges that overlap are nobody's: their sets are written anew.
            if length > 0 && ranges.claim(range) {
                sets.insert(id, PresentSet { range, content: None, missing: Vec::new(), mtu: 0, wanted: 0 });
            }
        }
        let has_id = |l: &&PresentListener| matches!(l.value.kind, listener_kind::L4 | listener_kind::TLS);
        let of_names = names.values().map(|n| n.listener);
        let listener_ids: HashSet<u32> =
            listeners.values().filter(has_id).map(|l| l.value.id).chain(of_names).collect();
        let backend_ids: HashSet<u32> = backends.values().map(|b| b.id).chain(stray_backends.iter().copied()).collect();
        Ok(Applier {
            capacity,
            backend_ids: Ids::new(ids, &backend_ids),
            listener_ids: Ids::new(1..capacity.listener_ids, &listener_ids),
            set_ids: Ids::new(1..capacity.sets, &sets.keys().copied().collect()),
            idle_backends: backends.keys().copied().collect(),
            backends,
            stray_backends,
            agent_sockets,
            listeners,
            names,
            listener_names: HashMap::new(),
            adopted_listener_ids: listener_ids.iter().copied().collect(),
            sets,
            set_of_content: HashMap::new(),
            ranges,
            table: Table::default(),
            round: 0,
            paths_changed: false,
            settled: None,
        })
    }
}
