//! The maps in memory, for tests. Every write checks what packets rely on.

use std::collections::BTreeMap;

use gateway_common::{
    Address, Backend, BackendSet, Listener, ListenerKey, SniKey, SniName, hash, listener_kind, server_name, slot,
};

use super::{Capacity, MapName, MapStore, StoreError};

pub struct Memory {
    pub capacity: Capacity,
    pub listeners: BTreeMap<ListenerKey, Listener>,
    pub names: BTreeMap<SniKey, SniName>,
    pub sets: Vec<BackendSet>,
    pub slots: Vec<u32>,
    pub backends: BTreeMap<u32, Backend>,
    pub writes: usize,
    /// Ranges that a packet may still be reading: replaced since the last wait.
    pub read: Vec<BackendSet>,
    /// The next writes, after so many, fail.
    pub fail_after: Option<usize>,
    /// Writes are not checked: so much takes its time.
    pub unchecked: bool,
}

impl Memory {
    pub fn new(capacity: Capacity) -> Memory {
        Memory {
            capacity,
            listeners: BTreeMap::new(),
            names: BTreeMap::new(),
            sets: vec![BackendSet::default(); capacity.sets as usize],
            slots: vec![0; capacity.slots as usize],
            backends: BTreeMap::new(),
            writes: 0,
            read: Vec::new(),
            fail_after: None,
            unchecked: false,
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

    fn check_write(&self) {
        if !self.unchecked {
            self.check();
        }
    }

    /// Every listener and name points to a whole table of backends that are there.
    pub fn check(&self) {
        for (key, listener) in self.listeners.iter().filter(|(_, l)| l.kind == listener_kind::L4) {
            self.check_set(listener.backend_set, key);
        }
        for (key, name) in &self.names {
            self.check_set(name.backend_set, key);
        }
        // A mask that could not be written may lag behind.
        if self.fail_after.is_none() {
            self.check_masks();
        }
    }

    /// A mask leads to no name that is not there.
    fn check_masks(&self) {
        let mut bits: BTreeMap<(Address, u16), u32> = BTreeMap::new();
        for (key, name) in self.names.iter().filter(|(key, _)| key.wildcard == 1) {
            let text = name.name.split(|byte| *byte == 0).next().unwrap_or_default();
            let labels = text.iter().filter(|byte| **byte == b'.').count() as u32;
            *bits.entry((key.address, key.port)).or_default() |= server_name::wildcard_bit(labels);
        }
        for (key, listener) in &self.listeners {
            let bits = bits.get(&(key.address, key.port)).copied().unwrap_or_default();
            assert_eq!(listener.wildcards & !bits, 0, "{key:?} looks for names that are not there");
        }
    }

    fn check_set(&self, id: u32, key: &dyn std::fmt::Debug) {
        let set = self.sets[id as usize];
        assert!(id == 0 || set.length > 0, "{key:?} points to an empty set");
        let table = set.offset as usize..set.offset as usize + usize::from(set.length) + usize::from(set.nested);
        for entry in &self.slots[table] {
            let known = *entry >= slot::FIRST_SPECIAL || self.backends.contains_key(entry);
            assert!(*entry != 0 && known, "{key:?} has a slot with backend {entry}, which is not there");
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

    fn each_name(&self, each: &mut dyn FnMut(&SniKey, &SniName)) -> Result<(), StoreError> {
        self.names.iter().for_each(|(key, value)| each(key, value));
        Ok(())
    }

    fn name(&self, key: SniKey) -> Result<Option<SniName>, StoreError> {
        Ok(self.names.get(&key).copied())
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
        self.check_write();
        Ok(())
    }

    fn remove_listener(&mut self, key: ListenerKey) -> Result<(), StoreError> {
        self.wrote(MapName::Listeners)?;
        assert!(self.listeners.remove(&key).is_some());
        Ok(())
    }

    fn put_name(&mut self, key: SniKey, value: SniName) -> Result<(), StoreError> {
        self.wrote(MapName::Sni)?;
        if !self.names.contains_key(&key) && self.names.len() == self.capacity.names as usize {
            return Err(StoreError::Full(MapName::Sni));
        }
        self.names.insert(key, value);
        self.check_write();
        Ok(())
    }

    fn remove_name(&mut self, key: SniKey) -> Result<(), StoreError> {
        self.wrote(MapName::Sni)?;
        assert!(self.names.remove(&key).is_some());
        self.check_write();
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
        self.check_write();
        Ok(())
    }

    fn put_set(&mut self, id: u32, value: BackendSet) -> Result<(), StoreError> {
        self.wrote(MapName::BackendSets)?;
        assert!(id != 0);
        self.read.push(self.sets[id as usize]);
        self.sets[id as usize] = value;
        self.check_write();
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
