//! What `apply` writes to: the maps that the control plane owns, as a trait, so that tests need no kernel.

use std::io;

use gateway_common::{Backend, BackendSet, Listener, ListenerKey, SniKey, SniName, names};

/// The maps that `apply` writes, and what happens around a write.
pub trait MapStore {
    fn capacity(&self) -> Capacity;

    fn listeners(&self) -> Result<Vec<(ListenerKey, Listener)>, StoreError>;
    /// They may be many and are large: one after the other.
    fn each_name(&self, each: &mut dyn FnMut(&SniKey, &SniName)) -> Result<(), StoreError>;
    fn name(&self, key: SniKey) -> Result<Option<SniName>, StoreError>;
    fn backends(&self) -> Result<Vec<(u32, Backend)>, StoreError>;
    fn set(&self, id: u32) -> Result<BackendSet, StoreError>;
    fn read_slots(&self, offset: u32, slots: &mut [u32]) -> Result<(), StoreError>;

    fn put_listener(&mut self, key: ListenerKey, value: Listener) -> Result<(), StoreError>;
    fn remove_listener(&mut self, key: ListenerKey) -> Result<(), StoreError>;
    fn put_name(&mut self, key: SniKey, value: SniName) -> Result<(), StoreError>;
    fn remove_name(&mut self, key: SniKey) -> Result<(), StoreError>;
    fn put_backend(&mut self, id: u32, value: Backend) -> Result<(), StoreError>;
    fn remove_backend(&mut self, id: u32) -> Result<(), StoreError>;
    /// One 8-byte write: a packet sees the old or the new one.
    fn put_set(&mut self, id: u32, value: BackendSet) -> Result<(), StoreError>;
    fn write_slots(&mut self, offset: u32, slots: &[u32]) -> Result<(), StoreError>;

    fn reset_listener_counters(&mut self, id: u32) -> Result<(), StoreError>;
    fn reset_backend_counters(&mut self, id: u32) -> Result<(), StoreError>;

    /// Returns when every packet that could still read what was replaced before the call is through.
    fn wait_for_readers(&mut self);
}

/// Entries of each map. Ids go from 1 to one below.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capacity {
    pub listeners: u32,
    pub listener_ids: u32,
    pub names: u32,
    pub sets: u32,
    pub slots: u32,
    pub backends: u32,
}

/// A map that the agent fills.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum MapName {
    Listeners,
    ListenerCounters,
    Sni,
    BackendSets,
    Slots,
    Backends,
}

impl MapName {
    pub fn name(self) -> &'static str {
        match self {
            MapName::Listeners => names::LISTENERS,
            MapName::ListenerCounters => names::LISTENER_COUNTERS,
            MapName::Sni => names::SNI,
            MapName::BackendSets => names::BACKEND_SETS,
            MapName::Slots => names::SLOTS,
            MapName::Backends => names::BACKENDS,
        }
    }

    /// The option of `sluice run` that enlarges the map.
    pub fn option(self) -> &'static str {
        match self {
            MapName::Listeners => "--max-listener-addresses",
            MapName::ListenerCounters => "--max-listeners",
            MapName::Sni => "--max-server-names",
            MapName::BackendSets => "--max-backend-sets",
            MapName::Slots => "--max-slots",
            MapName::Backends => "--max-backends",
        }
    }
}

#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    #[error("map {} is full; enlarge it with {}", .0.name(), .0.option())]
    Full(MapName),
    #[error("cannot {action} map {}: {source}", .map.name())]
    Kernel { map: MapName, action: &'static str, source: io::Error },
}
