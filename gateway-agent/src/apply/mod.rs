//! Brings the maps from what they hold to what is wanted. Owns the ids.
//!
//! Make before break: backends, slots, BACKEND_SETS, listeners; then the removals in reverse. After every single write each
//! listener points to a complete set. Only what differs is written, and only tables of changed sets are computed. What
//! finds no room is reported and left out; the rest goes on.
//!
//! `status` brings statuses to the API server.

#![forbid(unsafe_code)]

pub mod address_file;
mod adopt;
mod agent_socket;
mod bucket;
#[cfg(test)]
mod cost;
mod ids;
mod listeners;
#[cfg(test)]
mod memory;
mod names;
pub mod owners;
mod round;
pub mod status;
mod store;
mod table;
#[cfg(test)]
mod tests;

use std::sync::{Arc, Weak};

use gateway_common::{Address, Backend, Listener, ListenerKey, SniKey};
use hashbrown::HashMap;

use crate::emit::maps::{self, GatewayAddress, Wanted};
use crate::emit::shares::{BackendKey, Set};
use crate::ir::{HostName, ListenerName};
use ids::{Ids, Range, Ranges};
pub use store::{Capacity, MapName, MapStore, StoreError};
use table::Table;

/// How the node reaches an address.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Path {
    /// The node's own address towards it; unset: there is no route.
    pub source: Address,
    /// The host end of the pod's veth pair, if the address is behind one; 0: none.
    pub ifindex: u32,
    /// The largest IP packet that goes there; 0: not known.
    pub mtu: u16,
}

/// What is in the maps, by identity.
pub struct Applier {
    capacity: Capacity,
    backends: HashMap<BackendKey, PresentBackend>,
    /// Backends that may have no user any more.
    idle_backends: Vec<BackendKey>,
    /// Ids in BACKENDS that belong to nothing.
    stray_backends: Vec<u32>,
    /// IPv4 and IPv6.
    agent_sockets: [Option<Backend>; 2],
    listeners: HashMap<ListenerKey, PresentListener>,
    names: HashMap<SniKey, PresentName>,
    listener_names: HashMap<ListenerName, u32>,
    /// Until the first round has said whose they are.
    adopted_listener_ids: Vec<u32>,
    sets: HashMap<u32, PresentSet>,
    set_of_content: HashMap<Arc<Set>, u32>,
    backend_ids: Ids,
    listener_ids: Ids,
    set_ids: Ids,
    ranges: Ranges,
    table: Table,
    round: u32,
    /// Values of backends are to be compared with the ways to them.
    paths_changed: bool,
    /// What is in the maps with nothing left to do.
    settled: Option<Settled>,
}

/// Content as it was wanted, to know it again: what changes is another `Arc`.
struct Settled {
    /// Weak, so that whoever has the last of each may take it apart.
    listeners: Vec<Weak<maps::Listener>>,
    addresses: Vec<GatewayAddress>,
}

impl Settled {
    fn new(wanted: &Wanted) -> Settled {
        Settled {
            listeners: wanted.listeners.iter().map(Arc::downgrade).collect(),
            addresses: wanted.addresses.clone(),
        }
    }

    fn is(&self, wanted: &Wanted) -> bool {
        let is_same = |(known, now): (&Weak<maps::Listener>, &Arc<maps::Listener>)| known.as_ptr() == Arc::as_ptr(now);
        self.addresses == wanted.addresses
            && self.listeners.len() == wanted.listeners.len()
            && self.listeners.iter().zip(&wanted.listeners).all(is_same)
    }
}

struct PresentBackend {
    id: u32,
    value: Backend,
    /// Of the way to it; 0: not known.
    mtu: u16,
    /// Sets that have it, and those of them that call it local.
    users: u32,
    local_users: u32,
}

struct PresentListener {
    value: Listener,
    /// The round that wanted it last.
    wanted: u32,
}

/// A server name on an address and port.
struct PresentName {
    backend_set: u32,
    listener: u32,
    mode: u8,
    /// The text is the one that belongs to the key.
    readable: bool,
    /// The round that wanted it last.
    wanted: u32,
}

struct PresentSet {
    range: Range,
    /// `None`: adopted, and not compared yet.
    content: Option<Arc<Set>>,
    /// Members that have found no room.
    missing: Vec<BackendKey>,
    /// The smallest on the ways to its backends; 0: not known.
    mtu: u16,
    /// The round that needed it last.
    wanted: u32,
}

/// What an apply did.
#[derive(Debug, Default)]
pub struct Applied {
    /// Entries put or removed; a table counts as one.
    pub writes: usize,
    /// Entries removed.
    pub removals: usize,
    /// Flows of backends that have gone are to be ended now, by `sweep`.
    pub backends_removed: bool,
    pub problems: Vec<Problem>,
}

/// An object that is not, or not wholly, in the maps.
#[derive(Debug)]
pub struct Problem {
    pub object: Object,
    pub error: ProblemKind,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Object {
    Listener(ListenerName),
    Backend(BackendKey),
    Address(Address),
    /// Not of one object.
    Datapath,
}

#[derive(Debug, thiserror::Error)]
pub enum ProblemKind {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("address {address} port {port} belongs to listener {owner} already; give one of them another port")]
    Taken { address: std::net::IpAddr, port: u16, owner: ListenerName },
    #[error(
        "server name {host} at address {address} port {port} belongs to listener {owner} already; give one of them another \
         hostname"
    )]
    NameTaken { host: HostName, address: std::net::IpAddr, port: u16, owner: ListenerName },
    #[error(
        "server name {host} at address {address} port {port} cannot be told apart from {other} of listener {owner}: their \
         hashes are the same; give one of them another port"
    )]
    NamesCollide { host: HostName, address: std::net::IpAddr, port: u16, other: HostName, owner: ListenerName },
    #[error("server name {host}{} not served: {error}", others(*.more))]
    Names { host: HostName, more: usize, error: StoreError },
}

fn others(more: usize) -> String {
    if more == 0 { " is".to_owned() } else { format!(" and {more} others are") }
}

impl Problem {
    /// The kernel refused a map as such, whatever the object.
    pub fn is_of_the_kernel(&self) -> bool {
        self.store().is_some_and(|error| matches!(error, StoreError::Kernel { .. }))
    }

    fn store(&self) -> Option<&StoreError> {
        match &self.error {
            ProblemKind::Store(error) | ProblemKind::Names { error, .. } => Some(error),
            _ => None,
        }
    }
}

impl std::fmt::Display for Problem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        use crate::emit::maps::ip;
        match &self.object {
            Object::Listener(ListenerName { namespace, gateway, section }) => {
                write!(f, "listener {namespace}/{gateway}/{section}: ")?;
            }
            Object::Backend(key) => write!(f, "backend {} port {}: ", ip(key.address), key.port)?,
            Object::Address(address) => write!(f, "Gateway address {}: ", ip(*address))?,
            Object::Datapath => {}
        }
        self.error.fmt(f)
    }
}

impl Applier {
    /// Brings the maps to `wanted`. Never fails as a whole: what could not be written is in [`Applied::problems`], and is
    /// tried again by the next call.
    pub fn apply(
        &mut self,
        wanted: &Wanted,
        path: impl Fn(Address, bool) -> Path,
        store: &mut dyn MapStore,
    ) -> Applied {
        let is_settled = self.settled.take().filter(|settled| !self.paths_changed && settled.is(wanted));
        if is_settled.is_some() {
            self.settled = is_settled;
            return Applied::default();
        }
        let mut applied = self.pass(wanted, &path, store);
        // What was removed last makes room for what came first.
        let full = |p: &Problem| matches!(p.store(), Some(StoreError::Full(_)));
        if applied.removals > 0 && applied.problems.iter().any(full) {
            store.wait_for_readers();
            self.settle();
            let again = self.pass(wanted, &path, store);
            applied = Applied {
                writes: applied.writes + again.writes,
                removals: applied.removals + again.removals,
                backends_removed: applied.backends_removed || again.backends_removed,
                problems: again.problems,
            };
        }
        if applied.problems.is_empty() {
            self.settled = Some(Settled::new(wanted));
        }
        applied
    }

    /// The ways to backends may have changed: the next [`Applier::apply`] asks for all of them.
    pub fn paths_changed(&mut self) {
        self.paths_changed = true;
    }

    /// Ids freed by earlier calls may be taken again.
    fn settle(&mut self) {
        self.backend_ids.settle();
        self.listener_ids.settle();
        self.set_ids.settle();
    }

    /// Listeners that have an id, with it.
    pub fn listener_ids(&self) -> impl Iterator<Item = (&ListenerName, u32)> {
        self.listener_names.iter().map(|(name, id)| (name, *id))
    }

    pub fn backend_ids(&self) -> impl Iterator<Item = (&BackendKey, u32)> {
        self.backends.iter().map(|(key, backend)| (key, backend.id))
    }

    /// Sets with their ids, tables and what is in them.
    pub fn sets(&self) -> impl Iterator<Item = (u32, Range, Option<&Set>)> {
        self.sets.iter().map(|(id, set)| (*id, set.range, set.content.as_deref()))
    }

    pub fn capacity(&self) -> Capacity {
        self.capacity
    }

    pub fn fill(&self) -> Fill {
        Fill {
            listener_addresses: self.listeners.len() as u32,
            listeners: self.listener_names.len() as u32,
            names: self.names.len() as u32,
            sets: self.sets.len() as u32,
            slots: self.capacity.slots - self.ranges.free_slots(),
            backends: self.backends.len() as u32,
        }
    }
}

/// How full the maps are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fill {
    pub listener_addresses: u32,
    pub listeners: u32,
    pub names: u32,
    pub sets: u32,
    pub slots: u32,
    pub backends: u32,
}
