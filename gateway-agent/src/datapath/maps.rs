//! The pinned maps: their shapes, and what the agent does with each.

use std::io;
use std::mem::size_of;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use aya::maps::{MapInfo, MapType};
use gateway_common::{
    Address, Announced, Backend, BackendSet, Collecting, Config, CookieKey, Counter, Flow, FlowKey, FragmentKey,
    FragmentTrack, Handshake, HeldFragment, HeldKey, Hello, Interface, Listener, ListenerKey, SniKey, SniName, names,
    reason::REASONS, sizes,
};

use super::raw::{self, Map};
use crate::apply::{Capacity, MapName, MapStore, StoreError};

/// Sizes of the maps that have an option.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sizes {
    pub listener_addresses: u32,
    pub listeners: u32,
    pub server_names: u32,
    pub backend_sets: u32,
    pub slots: u32,
    pub backends: u32,
    pub flows: u32,
    pub embryonic: u32,
    pub hellos: u32,
}

impl Default for Sizes {
    fn default() -> Sizes {
        Sizes {
            listener_addresses: sizes::LISTENERS as u32,
            listeners: sizes::LISTENER_IDS as u32,
            server_names: sizes::SNI as u32,
            backend_sets: sizes::BACKEND_SETS as u32,
            slots: sizes::SLOTS as u32,
            backends: sizes::BACKENDS as u32,
            flows: sizes::FLOWS as u32,
            embryonic: sizes::EMBRYONIC as u32,
            hellos: sizes::HELLOS as u32,
        }
    }
}

/// What is kept when a map has to be made anew with another number of entries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keep {
    Hash,
    Array,
    /// Nothing; what that means to people.
    Lost(&'static str),
}

/// What a map must be like to be adopted.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    pub name: &'static str,
    pub kind: MapType,
    pub key: u32,
    pub value: u32,
    pub entries: u32,
    pub keep: Keep,
}

impl Shape {
    /// Those of the object, and those that the kernel sets by itself.
    fn flags(&self) -> u32 {
        const BPF_F_NO_PREALLOC: u32 = 1;
        const BPF_F_RDONLY_PROG: u32 = 1 << 7;
        match self.name {
            names::SNI | names::ANNOUNCED => BPF_F_NO_PREALLOC,
            names::XDP_PORTS => BPF_F_RDONLY_PROG,
            _ => 0,
        }
    }

    /// Whether entries mean the same.
    pub fn fits(&self, info: &MapInfo) -> bool {
        info.map_type().is_ok_and(|kind| kind == self.kind)
            && (info.key_size(), info.value_size(), info.map_flags()) == (self.key, self.value, self.flags())
    }

    pub fn is_same(&self, info: &MapInfo) -> bool {
        self.fits(info) && info.max_entries() == self.entries
    }
}

/// Every pinned map.
pub fn shapes(sizes: &Sizes) -> Vec<Shape> {
    use Keep::{Array, Hash, Lost};
    fn of<K, V>(name: &'static str, kind: MapType, entries: usize, keep: Keep) -> Shape {
        Shape { name, kind, key: size_of::<K>() as u32, value: size_of::<V>() as u32, entries: entries as u32, keep }
    }
    const COUNTERS: Keep = Lost("counters start from 0");
    const HANDSHAKES: Keep = Lost("TLS connections whose ClientHello is under way are refused");
    const FRAGMENTS: Keep = Lost("fragmented datagrams on their way are dropped");
    let n = |entries: u32| entries as usize;
    vec![
        of::<ListenerKey, Listener>(names::LISTENERS, MapType::Hash, n(sizes.listener_addresses), Hash),
        of::<u32, BackendSet>(names::BACKEND_SETS, MapType::Array, n(sizes.backend_sets), Array),
        of::<u32, u32>(names::SLOTS, MapType::Array, n(sizes.slots), Array),
        of::<u32, Backend>(names::BACKENDS, MapType::Hash, n(sizes.backends), Hash),
        of::<FlowKey, Flow>(names::FLOWS, MapType::Hash, n(sizes.flows), Hash),
        of::<FlowKey, Flow>(
            names::EMBRYONIC,
            MapType::LruHash,
            n(sizes.embryonic),
            Lost("connections that are being opened are refused and opened again by their clients"),
        ),
        of::<FragmentKey, FragmentTrack>(names::FRAGMENTS, MapType::LruHash, sizes::FRAGMENTS, FRAGMENTS),
        of::<HeldKey, HeldFragment>(names::HELD, MapType::LruHash, sizes::HELD, FRAGMENTS),
        of::<SniKey, SniName>(names::SNI, MapType::Hash, n(sizes.server_names), Hash),
        of::<FlowKey, Handshake>(names::HANDSHAKES, MapType::LruHash, sizes::HANDSHAKES, HANDSHAKES),
        of::<FlowKey, Collecting>(names::COLLECTING, MapType::LruHash, sizes::COLLECTING, HANDSHAKES),
        of::<u32, Hello>(names::HELLOS, MapType::Array, n(sizes.hellos), HANDSHAKES),
        of::<u32, CookieKey>(names::COOKIE_KEY, MapType::Array, 1, Array),
        of::<u32, Config>(names::CONFIG, MapType::Array, 1, Array),
        of::<u32, u64>(names::DROPS, MapType::PerCpuArray, REASONS, COUNTERS),
        of::<u32, Counter>(names::LISTENER_COUNTERS, MapType::PerCpuArray, n(sizes.listeners), COUNTERS),
        of::<u32, Counter>(names::BACKEND_COUNTERS, MapType::PerCpuArray, n(sizes.backends), COUNTERS),
        of::<(), ()>(names::EVENTS, MapType::RingBuf, sizes::EVENTS, Lost("access log lines not yet written")),
        of::<u32, u64>(names::EVENTS_LOST, MapType::PerCpuArray, 1, COUNTERS),
        of::<u32, Interface>(names::INTERFACES, MapType::Hash, sizes::INTERFACES, Lost("filled anew at once")),
        of::<u32, [u32; 2]>(names::XDP_PORTS, MapType::DevMapHash, sizes::XDP_PORTS, Lost("filled anew at once")),
        of::<Address, Announced>(names::ANNOUNCED, MapType::Hash, sizes::ANNOUNCED, Lost("filled anew at once")),
        of::<u32, u32>(names::AGENT_SOCKETS, MapType::SockMap, sizes::AGENT_SOCKETS, Lost("filled anew at once")),
    ]
}

/// The maps that the agent reads and writes.
pub struct Maps {
    pub listeners: Map<ListenerKey, Listener>,
    pub sets: Map<u32, BackendSet>,
    pub slots: Map<u32, u32>,
    pub backends: Map<u32, Backend>,
    pub flows: Map<FlowKey, Flow>,
    pub embryonic: Map<FlowKey, Flow>,
    pub names: Map<SniKey, SniName>,
    pub handshakes: Map<FlowKey, Handshake>,
    pub hellos: Map<u32, Hello>,
    pub cookie_key: Map<u32, CookieKey>,
    pub config: Map<u32, Config>,
    pub drops: Map<u32, u64>,
    pub listener_counters: Map<u32, Counter>,
    pub backend_counters: Map<u32, Counter>,
    pub events_lost: Map<u32, u64>,
    pub interfaces: Map<u32, Interface>,
    pub xdp_ports: Map<u32, [u32; 2]>,
    pub announced: Map<Address, Announced>,
    /// Values are descriptors.
    pub agent_sockets: Map<u32, u32>,
    /// Possible CPUs: so many values has an element of a per-CPU map.
    pub cpus: usize,
    /// Where they are pinned.
    directory: PathBuf,
}

impl Maps {
    /// The maps pinned in this directory, which have been brought into shape.
    pub fn open(directory: &Path, sizes: &Sizes) -> io::Result<Maps> {
        let open = |name: &str| -> io::Result<(OwnedFd, u32)> {
            let entries = shapes(sizes).iter().find(|s| s.name == name).map_or(0, |s| s.entries);
            let path = directory.join(name);
            let fd = raw::open(&path).map_err(|error| {
                io::Error::new(error.kind(), format!("cannot open map {}: {error}", path.display()))
            })?;
            Ok((fd, entries))
        };
        macro_rules! map {
            ($name:expr) => {{
                let (fd, entries) = open($name)?;
                Map::new(fd, entries)
            }};
        }
        Ok(Maps {
            listeners: map!(names::LISTENERS),
            sets: map!(names::BACKEND_SETS),
            slots: map!(names::SLOTS),
            backends: map!(names::BACKENDS),
            flows: map!(names::FLOWS),
            embryonic: map!(names::EMBRYONIC),
            names: map!(names::SNI),
            handshakes: map!(names::HANDSHAKES),
            hellos: map!(names::HELLOS),
            cookie_key: map!(names::COOKIE_KEY),
            config: map!(names::CONFIG),
            drops: map!(names::DROPS),
            listener_counters: map!(names::LISTENER_COUNTERS),
            backend_counters: map!(names::BACKEND_COUNTERS),
            events_lost: map!(names::EVENTS_LOST),
            interfaces: map!(names::INTERFACES),
            xdp_ports: map!(names::XDP_PORTS),
            announced: map!(names::ANNOUNCED),
            agent_sockets: map!(names::AGENT_SOCKETS),
            cpus: aya::util::nr_cpus().map_err(|(file, error)| io::Error::other(format!("{file}: {error}")))?,
            directory: directory.to_owned(),
        })
    }

    /// What every pinned map takes of the kernel's memory now, in bytes.
    pub fn memory(&self) -> io::Result<Vec<(&'static str, u64)>> {
        let of = |name| Ok((name, raw::memory(raw::open(&self.directory.join(name))?.as_fd())?));
        shapes(&Sizes::default()).iter().map(|shape| of(shape.name)).collect()
    }
}

fn failed(map: MapName, action: &'static str) -> impl FnOnce(io::Error) -> StoreError {
    move |source| match source.raw_os_error() {
        // Of the kernel's map kinds (kernel/bpf/hashtab.c, arraymap.c) when there is no room.
        Some(libc::E2BIG | libc::ENOSPC | libc::ENOMEM) => StoreError::Full(map),
        _ => StoreError::Kernel { map, action, source },
    }
}

/// The maps as `apply` writes them.
pub struct Store<'a>(pub &'a Maps);

impl MapStore for Store<'_> {
    fn capacity(&self) -> Capacity {
        let maps = self.0;
        Capacity {
            listeners: maps.listeners.entries(),
            listener_ids: maps.listener_counters.entries(),
            names: maps.names.entries(),
            sets: maps.sets.entries(),
            slots: maps.slots.entries(),
            backends: maps.backends.entries(),
        }
    }

    fn listeners(&self) -> Result<Vec<(ListenerKey, Listener)>, StoreError> {
        let mut all = Vec::new();
        let scanned =
            self.0.listeners.scan(|keys, values| all.extend(keys.iter().copied().zip(values.iter().copied())));
        scanned.map(|()| all).map_err(failed(MapName::Listeners, "read"))
    }

    fn backends(&self) -> Result<Vec<(u32, Backend)>, StoreError> {
        let mut all = Vec::new();
        let scanned = self.0.backends.scan(|keys, values| all.extend(keys.iter().copied().zip(values.iter().copied())));
        scanned.map(|()| all).map_err(failed(MapName::Backends, "read"))
    }

    fn each_name(&self, each: &mut dyn FnMut(&SniKey, &SniName)) -> Result<(), StoreError> {
        let scanned = self.0.names.scan(|keys, values| keys.iter().zip(values).for_each(|(k, v)| each(k, v)));
        scanned.map_err(failed(MapName::Sni, "read"))
    }

    fn name(&self, key: SniKey) -> Result<Option<SniName>, StoreError> {
        self.0.names.get(&key).map_err(failed(MapName::Sni, "read"))
    }

    fn set(&self, id: u32) -> Result<BackendSet, StoreError> {
        let set = self.0.sets.get(&id).map_err(failed(MapName::BackendSets, "read"))?;
        Ok(set.unwrap_or_default())
    }

    fn read_slots(&self, offset: u32, slots: &mut [u32]) -> Result<(), StoreError> {
        self.0.slots.read(offset, slots).map_err(failed(MapName::Slots, "read"))
    }

    fn put_listener(&mut self, key: ListenerKey, value: Listener) -> Result<(), StoreError> {
        self.0.listeners.put(&key, &value).map_err(failed(MapName::Listeners, "write"))
    }

    fn remove_listener(&mut self, key: ListenerKey) -> Result<(), StoreError> {
        removed(self.0.listeners.remove(&key)).map_err(failed(MapName::Listeners, "remove from"))
    }

    fn put_name(&mut self, key: SniKey, value: SniName) -> Result<(), StoreError> {
        self.0.names.put(&key, &value).map_err(failed(MapName::Sni, "write"))
    }

    fn remove_name(&mut self, key: SniKey) -> Result<(), StoreError> {
        removed(self.0.names.remove(&key)).map_err(failed(MapName::Sni, "remove from"))
    }

    fn put_backend(&mut self, id: u32, value: Backend) -> Result<(), StoreError> {
        self.0.backends.put(&id, &value).map_err(failed(MapName::Backends, "write"))
    }

    fn remove_backend(&mut self, id: u32) -> Result<(), StoreError> {
        removed(self.0.backends.remove(&id)).map_err(failed(MapName::Backends, "remove from"))
    }

    fn put_set(&mut self, id: u32, value: BackendSet) -> Result<(), StoreError> {
        self.0.sets.put(&id, &value).map_err(failed(MapName::BackendSets, "write"))
    }

    fn write_slots(&mut self, offset: u32, slots: &[u32]) -> Result<(), StoreError> {
        let keys: Vec<u32> = (offset..).take(slots.len()).collect();
        self.0.slots.put_all(&keys, slots).map_err(|(_, error)| failed(MapName::Slots, "write")(error))
    }

    fn reset_listener_counters(&mut self, id: u32) -> Result<(), StoreError> {
        let reset = self.0.listener_counters.reset_per_cpu(id, self.0.cpus);
        reset.map_err(failed(MapName::ListenerCounters, "write"))
    }

    fn reset_backend_counters(&mut self, id: u32) -> Result<(), StoreError> {
        let reset = self.0.backend_counters.reset_per_cpu(id, self.0.cpus);
        reset.map_err(failed(MapName::Backends, "write"))
    }

    fn wait_for_readers(&mut self) {
        raw::wait_for_programs();
    }
}

/// What is not there any more is as good as removed.
fn removed(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}
