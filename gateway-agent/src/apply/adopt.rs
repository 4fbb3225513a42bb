//! What an earlier agent left in the maps becomes the starting point: identities are read back, ids stay.

use gateway_common::{BackendSet, listener_kind, slot};
use hashbrown::{HashMap, HashSet};

use super::ids::{Ids, Range, Ranges};
use super::table::Table;
use super::{Applier, MapStore, PresentBackend, PresentListener, PresentSet, StoreError};
use crate::emit::maps::BackendKey;

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
        for (id, value) in present {
            let key = BackendKey { address: value.address, port: value.port, protocol: value.protocol };
            if id == 0 || id >= capacity.backends.min(slot::FIRST_SPECIAL) || backends.contains_key(&key) {
                stray_backends.push(id);
            } else {
                backends.insert(key, PresentBackend { id, value, users: 0, local_users: 0 });
            }
        }
        let listeners: HashMap<_, _> =
            store.listeners()?.into_iter().map(|(key, value)| (key, PresentListener { value, wanted: 0 })).collect();
        let mut ranges = Ranges::new(capacity.slots);
        let mut sets = HashMap::new();
        let mut set_ids: Vec<u32> = listeners.values().map(|l| l.value.backend_set).collect();
        set_ids.sort_unstable();
        set_ids.dedup();
        for id in set_ids.into_iter().filter(|id| (1..capacity.sets).contains(id)) {
            let BackendSet { offset, length, nested } = store.set(id)?;
            let range = Range { offset, length: u32::from(length) + u32::from(nested) };
            // Ranges that overlap are nobody's: their sets are written anew.
            if length > 0 && ranges.claim(range) {
                sets.insert(id, PresentSet { range, content: None, missing: Vec::new(), wanted: 0 });
            }
        }
        let listener_ids: HashSet<u32> =
            listeners.values().filter(|l| l.value.kind == listener_kind::L4).map(|l| l.value.id).collect();
        let backend_ids: HashSet<u32> = backends.values().map(|b| b.id).chain(stray_backends.iter().copied()).collect();
        Ok(Applier {
            capacity,
            backend_ids: Ids::new(capacity.backends.min(slot::FIRST_SPECIAL), &backend_ids),
            listener_ids: Ids::new(capacity.listener_ids, &listener_ids),
            set_ids: Ids::new(capacity.sets, &sets.keys().copied().collect()),
            idle_backends: backends.keys().copied().collect(),
            backends,
            stray_backends,
            listeners,
            listener_names: HashMap::new(),
            adopted_listener_ids: listener_ids.iter().copied().collect(),
            sets,
            set_of_content: HashMap::new(),
            ranges,
            table: Table::default(),
            round: 0,
            paths_changed: false,
        })
    }
}
