//! The maps in memory, for tests. Every write checks what packets rely on.

use std::collections::BTreeMap;

use gateway_common::{Backend, BackendSet, Listener, ListenerKey, hash, listener_kind, slot};

use super::{Capacity, MapName, MapStore, StoreError};

pub struct Memory {
    pub capacity: Capacity,
    pub listeners: BTreeMap<ListenerKey, Listener>,
    pub sets: Vec<BackendSet>,
    pub slots: Vec<u32>,
    pub backends: BTreeMap<u32, Backend>,
    pub writes: usize,
    /// Ranges that a packet may still be reading: replaced since the last wait.
    pub read: Vec<BackendSet>,
    /// The next writes, after so many, fail.
    pub fail_after: Option<usize>,
}

impl Memory {
    pub fn new(capacity: Capacity) -> Memory {
        Memory {
            capacity,
            listeners: BTreeMap::new(),
            sets: vec![BackendSet::default(); capacity.sets as usize],
            slots: vec![0; capacity.slots as usize],
            backends: BTreeMap::new(),
            writes: 0,
            read: Vec::new(),
            fail_after: None,
        }
    }

    /// As the packet path picks.
    pub fn pick(&self, set: u32, bits: u64) -> Option<u32> {
        let set = self.sets[set as usize];
        if set.length == 0 {
            return None;
        }
        let mut id = self.slots[(set.offset + hash::reduce(bits as u32, u32::from(set.length))) as usize];
        if id == slot::NESTED {
            let nested = hash::reduce((bits >> 32) as u32, u32::from(set.nested));
            id = self.slots[(set.offset + u32::from(set.length) + nested) as usize];
        }
        Some(id)
    }

    fn wrote(&mut self, map: MapName) -> Result<(), StoreError> {
        self.writes += 1;
        match &mut self.fail_after {
            Some(0) => {
                let source = std::io::Error::from_raw_os_error(12);
                return Err(StoreError::Kernel { map, action: "write", source });
            }
            Some(left) => *left -= 1,
            None => {}
        }
        Ok(())
    }

    /// Every listener points to a whole table of backends that are there.
    pub fn check(&self) {
        for (key, listener) in self.listeners.iter().filter(|(_, l)| l.kind == listener_kind::L4) {
            let set = self.sets[listener.backend_set as usize];
            assert!(listener.backend_set == 0 || set.length > 0, "{key:?} points to an empty set");
            let table = set.offset as usize..set.offset as usize + usize::from(set.length) + usize::from(set.nested);
            for entry in &self.slots[table] {
                let known = *entry >= slot::FIRST_SPECIAL || self.backends.contains_key(entry);
                assert!(*entry != 0 && known, "{key:?} has a slot with backend {entry}, which is not there");
            }
        }
    }
}

impl MapStore for Memory {
    fn capacity(&self) -> Capacity {
        self.capacity
    }

    fn listeners(&self) -> Result<Vec<(ListenerKey, Listener)>, StoreError> {
        Ok(self.listeners.iter().map(|(k, v)| (*k, *v)).collect())
    }

    fn backends(&self) -> Result<Vec<(u32, Backend)>, StoreError> {
        Ok(self.backends.iter().map(|(k, v)| (*k, *v)).collect())
    }

    fn set(&self, id: u32) -> Result<BackendSet, StoreError> {
        Ok(self.sets[id as usize])
    }

    fn read_slots(&self, offset: u32, slots: &mut [u32]) -> Result<(), StoreError> {
        slots.copy_from_slice(&self.slots[offset as usize..offset as usize + slots.len()]);
        Ok(())
    }

    fn put_listener(&mut self, key: ListenerKey, value: Listener) -> Result<(), StoreError> {
        self.wrote(MapName::Listeners)?;
        if !self.listeners.contains_key(&key) && self.listeners.len() == self.capacity.listeners as usize {
            return Err(StoreError::Full(MapName::Listeners));
        }
        self.listeners.insert(key, value);
        self.check();
        Ok(())
    }

    fn remove_listener(&mut self, key: ListenerKey) -> Result<(), StoreError> {
        self.wrote(MapName::Listeners)?;
        assert!(self.listeners.remove(&key).is_some());
        Ok(())
    }

    fn put_backend(&mut self, id: u32, value: Backend) -> Result<(), StoreError> {
        self.wrote(MapName::Backends)?;
        assert!(id != 0);
        if !self.backends.contains_key(&id) && self.backends.len() == self.capacity.backends as usize {
            return Err(StoreError::Full(MapName::Backends));
        }
        self.backends.insert(id, value);
        Ok(())
    }

    fn remove_backend(&mut self, id: u32) -> Result<(), StoreError> {
        self.wrote(MapName::Backends)?;
        assert!(self.backends.remove(&id).is_some());
        self.check();
        Ok(())
    }

    fn put_set(&mut self, id: u32, value: BackendSet) -> Result<(), StoreError> {
        self.wrote(MapName::BackendSets)?;
        assert!(id != 0);
        self.read.push(self.sets[id as usize]);
        self.sets[id as usize] = value;
        self.check();
        Ok(())
    }

    fn write_slots(&mut self, offset: u32, slots: &[u32]) -> Result<(), StoreError> {
        self.wrote(MapName::Slots)?;
        let end = offset + slots.len() as u32;
        for set in self.read.iter().chain(&self.sets).filter(|s| s.length > 0) {
            let set_end = set.offset + u32::from(set.length) + u32::from(set.nested);
            assert!(end <= set.offset || set_end <= offset, "slots are written that a packet may read");
        }
        self.slots[offset as usize..end as usize].copy_from_slice(slots);
        Ok(())
    }

    fn reset_listener_counters(&mut self, _: u32) -> Result<(), StoreError> {
        Ok(())
    }

    fn reset_backend_counters(&mut self, _: u32) -> Result<(), StoreError> {
        Ok(())
    }

    fn wait_for_readers(&mut self) {
        self.read.clear();
    }
}
