//! One pass over everything that is wanted.

use std::sync::Arc;

use gateway_common::{Address, BackendSet, Listener, ListenerKey, backend_flags, listener_kind};
use hashbrown::{HashMap, HashSet};

use super::ids::Range;
use super::{
    Applied, Applier, Backend, MapName, MapStore, Object, Path, PresentListener, PresentSet, Problem, ProblemKind,
    StoreError,
};
use crate::emit::maps::{self, BackendKey, GatewayAddress, Wanted, ip};
use crate::ir::ListenerName;

/// What the listeners of a present set want instead of it.
#[derive(PartialEq, Eq)]
struct Users {
    /// All that were looked at want this one.
    wanted: Option<usize>,
    /// Those that want none.
    left: u32,
}

impl Applier {
    pub(super) fn pass(
        &mut self,
        wanted: &Wanted,
        path: &dyn Fn(Address, bool) -> Path,
        store: &mut dyn MapStore,
    ) -> Applied {
        self.round += 1;
        self.settle();
        let mut applied = Applied::default();
        self.put_backends(wanted, path, store, &mut applied);
        let set_ids = self.put_sets(wanted, store, &mut applied);
        self.put_listeners(wanted, &set_ids, store, &mut applied);
        self.put_addresses(wanted, store, &mut applied);
        self.remove_listeners(store, &mut applied);
        self.remove_sets(store, &mut applied);
        self.remove_backends(store, &mut applied);
        applied
    }

    fn put_backends(
        &mut self,
        wanted: &Wanted,
        path: &dyn Fn(Address, bool) -> Path,
        store: &mut dyn MapStore,
        applied: &mut Applied,
    ) {
        for backend in &wanted.backends {
            let value = value(backend, path(backend.key.address, backend.local));
            let problem = match self.backends.get_mut(&backend.key) {
                Some(present) => {
                    present.wanted = self.round;
                    if present.value == value {
                        continue;
                    }
                    let put = store.put_backend(present.id, value);
                    if put.is_ok() {
                        present.value = value;
                    }
                    put
                }
                None => self.add_backend(backend.key, value, store),
            };
            applied.note(problem, || Object::Backend(backend.key));
        }
    }

    fn add_backend(
        &mut self,
        key: BackendKey,
        value: gateway_common::Backend,
        store: &mut dyn MapStore,
    ) -> Result<(), StoreError> {
        let id = self.backend_ids.take().ok_or(StoreError::Full(MapName::Backends))?;
        let put = store.reset_backend_counters(id).and_then(|()| store.put_backend(id, value));
        match put {
            Ok(()) => drop(self.backends.insert(key, Backend { id, value, wanted: self.round })),
            Err(_) => self.backend_ids.free(id),
        }
        put
    }

    /// The set id of every wanted set; `Err` is not in the maps.
    fn put_sets(&mut self, wanted: &Wanted, store: &mut dyn MapStore, applied: &mut Applied) -> Vec<Option<u32>> {
        let mut ids: Vec<Option<u32>> = vec![None; wanted.sets.len()];
        for (id, set) in ids.iter_mut().zip(&wanted.sets) {
            let present = self.set_of_content.get(set).and_then(|id| Some((*id, self.sets.get_mut(id)?)));
            if let Some((present_id, present)) = present {
                present.wanted = self.round;
                if present.complete {
                    *id = Some(present_id);
                }
            }
        }
        if ids.iter().all(Option::is_some) {
            return ids;
        }
        let (users, candidates) = self.users(wanted);
        for (j, set) in wanted.sets.iter().enumerate() {
            if ids[j].is_some() {
                continue;
            }
            let of_content = self.set_of_content.get(set).copied();
            // In place only where nobody else's connections would go to these backends.
            let in_place = of_content.or_else(|| {
                let id = candidates[j]?;
                let free = self.sets.get(&id).is_some_and(|s| s.wanted != self.round);
                (free && users.get(&id).is_some_and(|u| *u == Users { wanted: Some(j), left: 0 })).then_some(id)
            });
            match self.put_set(set, in_place, store, applied) {
                Ok(id) => ids[j] = Some(id),
                Err(error) => {
                    ids[j] = of_content;
                    let problem = Err(error);
                    applied.note(problem, || first_user(wanted, j));
                }
            }
        }
        ids
    }

    /// For every present set what its listeners want now, and for every wanted set the one that its first listener has.
    fn users(&self, wanted: &Wanted) -> (HashMap<u32, Users>, Vec<Option<u32>>) {
        let mut users: HashMap<u32, Users> = HashMap::new();
        for present in self.listeners.values() {
            users.entry(present.value.backend_set).or_insert(Users { wanted: None, left: 0 }).left += 1;
        }
        let mut candidates = vec![None; wanted.sets.len()];
        let mut seen = HashSet::new();
        for address in wanted.listeners.iter().flat_map(|l| &l.addresses) {
            let (Some(j), Some(present)) = (address.set, self.listeners.get(&address.key)) else { continue };
            let id = present.value.backend_set;
            let Some(users) = users.get_mut(&id).filter(|_| id != 0) else { continue };
            if *candidates[j].get_or_insert(id) == id && users.wanted.is_none() && seen.insert(id) {
                users.wanted = Some(j);
            }
            if users.wanted == Some(j) {
                users.left -= 1;
            }
        }
        (users, candidates)
    }

    fn put_set(
        &mut self,
        set: &Arc<maps::Set>,
        in_place: Option<u32>,
        store: &mut dyn MapStore,
        applied: &mut Applied,
    ) -> Result<u32, StoreError> {
        let complete = self.table.fill(set, |key| self.backends.get(key).map(|b| b.id));
        if let Some(id) = in_place
            && self.holds(id, store)
        {
            self.keep_set(id, self.sets[&id].range, set, complete);
            return Ok(id);
        }
        let range = self.take_range(store)?;
        let id = match in_place {
            Some(id) => Some(id),
            None => self.set_ids.take(),
        };
        let Some(id) = id else {
            self.return_range(range);
            return Err(StoreError::Full(MapName::BackendSets));
        };
        let written =
            store.write_slots(range.offset, self.table.slots()).and_then(|()| store.put_set(id, self.table.at(range)));
        if let Err(error) = written {
            self.return_range(range);
            if in_place.is_none() {
                self.set_ids.free(id);
            }
            return Err(error);
        }
        applied.writes += 1;
        if let Some(old) = self.sets.get(&id) {
            self.ranges.free(old.range);
        }
        self.keep_set(id, range, set, complete);
        Ok(id)
    }

    /// Whether this set has the table that was just filled already: adopted, or as incomplete as before.
    fn holds(&mut self, id: u32, store: &dyn MapStore) -> bool {
        let (Some(present), slots) = (self.sets.get(&id), self.table.slots()) else { return false };
        if present.range.length as usize != slots.len() || store.set(id).ok() != Some(self.table.at(present.range)) {
            return false;
        }
        let mut held = vec![0; slots.len()];
        store.read_slots(present.range.offset, &mut held).is_ok() && held == slots
    }

    fn keep_set(&mut self, id: u32, range: Range, set: &Arc<maps::Set>, complete: bool) {
        let present = PresentSet { range, content: Some(Arc::clone(set)), complete, wanted: self.round };
        if let Some(PresentSet { content: Some(before), .. }) = self.sets.insert(id, present) {
            self.set_of_content.remove(&before);
        }
        self.set_of_content.insert(Arc::clone(set), id);
    }

    /// Room for the table; what rests is only taken when there is no other, because that means waiting.
    fn take_range(&mut self, store: &mut dyn MapStore) -> Result<Range, StoreError> {
        let length = self.table.slots().len() as u32;
        if let Some(range) = self.ranges.take(length) {
            return Ok(range);
        }
        if self.ranges.has_resting() {
            store.wait_for_readers();
            self.ranges.settle();
        }
        self.ranges.take(length).ok_or(StoreError::Full(MapName::Slots))
    }

    fn return_range(&mut self, range: Range) {
        self.ranges.free(range);
    }

    fn put_listeners(
        &mut self,
        wanted: &Wanted,
        set_ids: &[Option<u32>],
        store: &mut dyn MapStore,
        applied: &mut Applied,
    ) {
        let mut owners: HashMap<ListenerKey, &ListenerName> = HashMap::new();
        let mut bound: HashSet<u32> = self.listener_names.values().copied().collect();
        for listener in &wanted.listeners {
            let id = match self.listener_id(listener, &mut bound, store) {
                Ok(id) => id,
                Err(error) => {
                    // What is there already goes on as it is.
                    self.want_again(listener);
                    applied.note(Err(error), || Object::Listener(listener.name.clone()));
                    continue;
                }
            };
            for address in &listener.addresses {
                if let Some(owner) = owners.get(&address.key) {
                    let (address, port) = (ip(address.key.address), address.key.port);
                    let error = ProblemKind::Taken { address, port, owner: (*owner).clone() };
                    applied.problems.push(Problem { object: Object::Listener(listener.name.clone()), error });
                    continue;
                }
                owners.insert(address.key, &listener.name);
                let before = self.listeners.get(&address.key).map_or(0, |l| l.value.backend_set);
                let backend_set = match address.set {
                    None => 0,
                    // A set that found no room: the one before it, if it is still there.
                    Some(j) => set_ids[j].unwrap_or(before),
                };
                if let Some(set) = self.sets.get_mut(&backend_set) {
                    set.wanted = self.round;
                }
                let value = Listener { kind: listener_kind::L4, _pad: [0; 3], id, backend_set };
                let put = self.put_listener(address.key, value, store, applied);
                applied.note_unless_ok(put, || Object::Listener(listener.name.clone()));
            }
        }
        let names: HashSet<&ListenerName> = wanted.listeners.iter().map(|l| &l.name).collect();
        let freed = &mut self.listener_ids;
        self.listener_names.retain(|name, id| {
            let wanted = names.contains(name);
            if !wanted {
                freed.free(*id);
            }
            wanted
        });
        for id in self.adopted_listener_ids.drain(..).filter(|id| !bound.contains(id)) {
            freed.free(id);
        }
    }

    /// The id of the listener's counters: the one it has, the one it had before this agent started, or a new one.
    fn listener_id(
        &mut self,
        listener: &maps::Listener,
        bound: &mut HashSet<u32>,
        store: &mut dyn MapStore,
    ) -> Result<u32, StoreError> {
        if let Some(id) = self.listener_names.get(&listener.name) {
            return Ok(*id);
        }
        let ids = 1..self.capacity.listener_ids;
        let adopted = listener
            .addresses
            .iter()
            .filter_map(|a| self.listeners.get(&a.key))
            .map(|l| l.value.id)
            .find(|id| ids.contains(id) && !bound.contains(id));
        let id = match adopted {
            Some(id) => id,
            None => {
                let id = self.listener_ids.take().ok_or(StoreError::Full(MapName::ListenerCounters))?;
                if let Err(error) = store.reset_listener_counters(id) {
                    self.listener_ids.free(id);
                    return Err(error);
                }
                id
            }
        };
        bound.insert(id);
        self.listener_names.insert(listener.name.clone(), id);
        Ok(id)
    }

    fn want_again(&mut self, listener: &maps::Listener) {
        for address in &listener.addresses {
            let Some(present) = self.listeners.get_mut(&address.key) else { continue };
            present.wanted = self.round;
            if let Some(set) = self.sets.get_mut(&present.value.backend_set) {
                set.wanted = self.round;
            }
        }
    }

    fn put_listener(
        &mut self,
        key: ListenerKey,
        value: Listener,
        store: &mut dyn MapStore,
        applied: &mut Applied,
    ) -> Result<(), StoreError> {
        if let Some(present) = self.listeners.get_mut(&key) {
            present.wanted = self.round;
            if present.value == value {
                return Ok(());
            }
        }
        let put = store.put_listener(key, value);
        match (&put, self.listeners.get(&key).map(|l| l.value.backend_set)) {
            (Ok(()), _) => {
                applied.writes += 1;
                self.listeners.insert(key, PresentListener { value, wanted: self.round });
            }
            // It still points to what it did.
            (Err(_), Some(before)) => {
                if let Some(set) = self.sets.get_mut(&before) {
                    set.wanted = self.round;
                }
            }
            (Err(_), None) => {}
        }
        put
    }

    fn put_addresses(&mut self, wanted: &Wanted, store: &mut dyn MapStore, applied: &mut Applied) {
        for GatewayAddress { address, exclusive } in &wanted.addresses {
            let key = ListenerKey { address: *address, ..ListenerKey::default() };
            let kind = if *exclusive { listener_kind::EXCLUSIVE } else { listener_kind::SHARED };
            let value = Listener { kind, ..Listener::default() };
            let put = self.put_listener(key, value, store, applied);
            applied.note_unless_ok(put, || Object::Address(*address));
        }
    }

    fn remove_listeners(&mut self, store: &mut dyn MapStore, applied: &mut Applied) {
        let round = self.round;
        let mut unwanted: Vec<ListenerKey> =
            self.listeners.iter().filter(|(_, l)| l.wanted != round).map(|(key, _)| *key).collect();
        // Entries of addresses (port 0) before their listeners, as they were made after them.
        unwanted.sort_unstable_by_key(|key| (key.port, *key));
        for key in unwanted {
            let removed = store.remove_listener(key);
            if removed.is_ok() {
                self.listeners.remove(&key);
                applied.removals += 1;
            } else if let Some(set) = self.listeners.get(&key).map(|l| l.value.backend_set)
                && let Some(set) = self.sets.get_mut(&set)
            {
                set.wanted = round;
            }
            applied.note(removed, || Object::Datapath);
        }
    }

    fn remove_sets(&mut self, store: &mut dyn MapStore, applied: &mut Applied) {
        let round = self.round;
        let unwanted: Vec<u32> = self.sets.iter().filter(|(_, s)| s.wanted != round).map(|(id, _)| *id).collect();
        for id in unwanted {
            let removed = store.put_set(id, BackendSet::default());
            if removed.is_ok()
                && let Some(set) = self.sets.remove(&id)
            {
                self.ranges.free(set.range);
                self.set_ids.free(id);
                if let Some(content) = set.content {
                    self.set_of_content.remove(&content);
                }
                applied.removals += 1;
            }
            applied.note(removed, || Object::Datapath);
        }
    }

    fn remove_backends(&mut self, store: &mut dyn MapStore, applied: &mut Applied) {
        let round = self.round;
        let unwanted: Vec<(Option<BackendKey>, u32)> = self
            .backends
            .iter()
            .filter(|(_, b)| b.wanted != round)
            .map(|(key, b)| (Some(*key), b.id))
            .chain(self.stray_backends.iter().map(|id| (None, *id)))
            .collect();
        let before = applied.removals;
        for (key, id) in unwanted {
            let removed = store.remove_backend(id);
            if removed.is_ok() {
                match key {
                    Some(key) => drop(self.backends.remove(&key)),
                    None => self.stray_backends.retain(|stray| *stray != id),
                }
                self.backend_ids.free(id);
                applied.removals += 1;
            }
            applied.note(removed, || key.map_or(Object::Datapath, Object::Backend));
        }
        if applied.removals > before {
            let swept = store.sweep();
            applied.note_unless_ok(swept, || Object::Datapath);
        }
    }
}

impl Applied {
    fn note(&mut self, result: Result<(), StoreError>, object: impl FnOnce() -> Object) {
        match result {
            Ok(()) => self.writes += 1,
            Err(error) => self.problems.push(Problem { object: object(), error: error.into() }),
        }
    }

    fn note_unless_ok(&mut self, result: Result<(), StoreError>, object: impl FnOnce() -> Object) {
        if result.is_err() {
            self.note(result, object);
        }
    }
}

fn first_user(wanted: &Wanted, set: usize) -> Object {
    let user = wanted.listeners.iter().find(|l| l.addresses.iter().any(|a| a.set == Some(set)));
    user.map_or(Object::Datapath, |l| Object::Listener(l.name.clone()))
}

fn value(backend: &maps::Backend, path: Path) -> gateway_common::Backend {
    let BackendKey { address, port, protocol } = backend.key;
    gateway_common::Backend {
        address,
        source: path.source,
        port,
        flags: if backend.local { backend_flags::LOCAL } else { 0 },
        protocol,
        ifindex: if backend.local { path.ifindex } else { 0 },
    }
}
