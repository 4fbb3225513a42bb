//! One pass over everything that is wanted.

use std::sync::Arc;

use gateway_common::{Address, Backend, BackendSet, Listener, ListenerKey, backend_flags, listener_kind};
use hashbrown::{HashMap, HashSet};

use super::ids::Range;
use super::{
    Applied, Applier, MapName, MapStore, Object, Path, PresentBackend, PresentListener, PresentSet, Problem,
    ProblemKind, StoreError,
};
use crate::emit::maps::{self, BackendKey, GatewayAddress, Set, Wanted, ip};
use crate::ir::ListenerName;

/// What the listeners of a present set want instead of it.
#[derive(PartialEq, Eq)]
struct Users {
    /// All that were looked at want this one.
    wanted: Option<usize>,
    /// Those that want none.
    left: u32,
}

/// How a way to a backend is found.
type PathOf<'a> = &'a dyn Fn(Address, bool) -> Path;

/// What becomes of a wanted set.
#[derive(Clone, Copy)]
enum Place {
    /// It is in the maps.
    Present(u32),
    /// Index of the sets that are to be made.
    ToMake(usize),
    /// It found no room.
    Nowhere,
}

impl Applier {
    pub(super) fn pass(&mut self, wanted: &Wanted, path: PathOf<'_>, store: &mut dyn MapStore) -> Applied {
        self.round += 1;
        self.settle();
        let mut applied = Applied::default();
        if std::mem::take(&mut self.paths_changed) {
            self.compare_backends(path, store, &mut applied);
        }
        let places = self.put_sets(wanted, path, store, &mut applied);
        self.put_listeners(wanted, &places, store, &mut applied);
        self.put_addresses(wanted, store, &mut applied);
        self.remove_listeners(store, &mut applied);
        self.remove_sets(store, &mut applied);
        self.remove_backends(store, &mut applied);
        applied
    }

    /// Writes the backends whose way has changed.
    fn compare_backends(&mut self, path: PathOf<'_>, store: &mut dyn MapStore, applied: &mut Applied) {
        for (key, present) in self.backends.iter_mut().filter(|(_, b)| b.users > 0) {
            if let Err(error) = present.update(key, path, store, applied) {
                self.paths_changed = true;
                applied.note(Err(error), || Object::Backend(*key));
            }
        }
    }

    /// Where the set of every listener address is, in the order of the addresses.
    fn put_sets(
        &mut self,
        wanted: &Wanted,
        path: PathOf<'_>,
        store: &mut dyn MapStore,
        applied: &mut Applied,
    ) -> Vec<Option<Place>> {
        let mut to_make: Vec<&Arc<Set>> = Vec::new();
        let mut place_to_make: HashMap<&Set, usize> = HashMap::new();
        let mut places = Vec::with_capacity(wanted.listeners.len());
        for address in wanted.listeners.iter().flat_map(|l| &l.addresses) {
            places.push(address.set.as_ref().map(|set| match self.present(set, &address.key) {
                Some(id) => Place::Present(id),
                None => Place::ToMake(*place_to_make.entry(&**set).or_insert_with(|| {
                    to_make.push(set);
                    to_make.len() - 1
                })),
            }));
        }
        if to_make.is_empty() {
            return places;
        }
        let in_place = self.sets_to_replace(wanted, &places, to_make.len());
        let made: Vec<Place> = to_make
            .iter()
            .enumerate()
            .map(|(j, set)| {
                let of_content = self.set_of_content.get(*set).copied();
                let made = self.put_set(set, of_content.or(in_place[j]), path, store, applied);
                match (made, of_content) {
                    (Ok(id), _) => Place::Present(id),
                    (Err(error), of_content) => {
                        applied.note(Err(error), || first_user(wanted, set));
                        of_content.map_or(Place::Nowhere, Place::Present)
                    }
                }
            })
            .collect();
        for place in places.iter_mut().flatten() {
            if let Place::ToMake(j) = *place {
                *place = made[j];
            }
        }
        places
    }

    /// The id of this set, if all of it is in the maps: nearly always the one that the listener has.
    fn present(&mut self, set: &Arc<Set>, key: &ListenerKey) -> Option<u32> {
        let has = |sets: &HashMap<u32, PresentSet>, id: u32| {
            sets.get(&id).is_some_and(|s| s.content.as_ref().is_some_and(|content| Arc::ptr_eq(content, set)))
        };
        let of_listener = self.listeners.get(key).map(|l| l.value.backend_set).filter(|id| has(&self.sets, *id));
        let id = of_listener.or_else(|| self.set_of_content.get(set).copied())?;
        let present = self.sets.get_mut(&id)?;
        present.wanted = self.round;
        present.missing.is_empty().then_some(id)
    }

    /// For every set that is to be made the present one that it replaces under its id: where all listeners that have that one
    /// want the same new one. Else connections would go to backends that are not their listener's for a moment.
    fn sets_to_replace(&self, wanted: &Wanted, places: &[Option<Place>], to_make: usize) -> Vec<Option<u32>> {
        let mut users: HashMap<u32, Users> = HashMap::new();
        for present in self.listeners.values() {
            users.entry(present.value.backend_set).or_insert(Users { wanted: None, left: 0 }).left += 1;
        }
        let mut candidates = vec![None; to_make];
        let mut seen = HashSet::new();
        for (address, place) in wanted.listeners.iter().flat_map(|l| &l.addresses).zip(places) {
            let (Some(Place::ToMake(j)), Some(present)) = (*place, self.listeners.get(&address.key)) else { continue };
            let id = present.value.backend_set;
            let Some(users) = users.get_mut(&id).filter(|_| id != 0) else { continue };
            if *candidates[j].get_or_insert(id) == id && users.wanted.is_none() && seen.insert(id) {
                users.wanted = Some(j);
            }
            if users.wanted == Some(j) {
                users.left -= 1;
            }
        }
        let free = |id: &u32| self.sets.get(id).is_some_and(|s| s.wanted != self.round);
        candidates
            .into_iter()
            .enumerate()
            .map(|(j, id)| id.filter(free).filter(|id| users.get(id) == Some(&Users { wanted: Some(j), left: 0 })))
            .collect()
    }

    fn put_set(
        &mut self,
        set: &Arc<Set>,
        in_place: Option<u32>,
        path: PathOf<'_>,
        store: &mut dyn MapStore,
        applied: &mut Applied,
    ) -> Result<u32, StoreError> {
        let missing = self.claim(set, path, store, applied);
        let placed = self.place_set(set, in_place, store, applied);
        match placed {
            Ok((id, range)) => self.keep_set(id, range, set, missing),
            Err(_) => self.disclaim(set, &missing),
        }
        placed.map(|(id, _)| id)
    }

    fn place_set(
        &mut self,
        set: &Set,
        in_place: Option<u32>,
        store: &mut dyn MapStore,
        applied: &mut Applied,
    ) -> Result<(u32, Range), StoreError> {
        self.table.fill(set, |key| self.backends.get(key).map(|b| b.id));
        if let Some(id) = in_place
            && let Some(range) = self.holds(id, store)
        {
            return Ok((id, range));
        }
        let range = self.take_range(store)?;
        let Some(id) = in_place.or_else(|| self.set_ids.take()) else {
            self.ranges.free(range);
            return Err(StoreError::Full(MapName::BackendSets));
        };
        let written =
            store.write_slots(range.offset, self.table.slots()).and_then(|()| store.put_set(id, self.table.at(range)));
        if let Err(error) = written {
            self.ranges.free(range);
            if in_place.is_none() {
                self.set_ids.free(id);
            }
            return Err(error);
        }
        applied.writes += 1;
        Ok((id, range))
    }

    /// Makes the set a user of its backends; those that find no room are returned.
    fn claim(
        &mut self,
        set: &Set,
        path: PathOf<'_>,
        store: &mut dyn MapStore,
        applied: &mut Applied,
    ) -> Vec<BackendKey> {
        let mut missing = Vec::new();
        for backend in set.backends() {
            let key = backend.key();
            let claimed = match self.backends.get_mut(&key) {
                Some(present) => {
                    present.users += 1;
                    present.local_users += u32::from(backend.local);
                    // Adopted, or now local.
                    let compare = present.users == 1 || backend.local && present.local_users == 1;
                    if compare && let Err(error) = present.update(&key, path, store, applied) {
                        self.paths_changed = true;
                        applied.note(Err(error), || Object::Backend(key));
                    }
                    Ok(())
                }
                None => {
                    let added = self.add_backend(backend, path, store);
                    applied.writes += usize::from(added.is_ok());
                    added
                }
            };
            if claimed.is_err() {
                missing.push(key);
            }
            applied.note_unless_ok(claimed, || Object::Backend(key));
        }
        missing
    }

    fn add_backend(
        &mut self,
        backend: &maps::Backend,
        path: PathOf<'_>,
        store: &mut dyn MapStore,
    ) -> Result<(), StoreError> {
        let key = backend.key();
        let value = value(&key, backend.local, path);
        let id = self.backend_ids.take().ok_or(StoreError::Full(MapName::Backends))?;
        let put = store.reset_backend_counters(id).and_then(|()| store.put_backend(id, value));
        match put {
            Ok(()) => {
                let local_users = u32::from(backend.local);
                self.backends.insert(key, PresentBackend { id, value, users: 1, local_users });
            }
            Err(_) => self.backend_ids.free(id),
        }
        put
    }

    /// The set is no user of its backends any more.
    fn disclaim(&mut self, set: &Set, missing: &[BackendKey]) {
        for backend in set.backends() {
            let key = backend.key();
            let Some(present) = self.backends.get_mut(&key).filter(|_| !missing.contains(&key)) else { continue };
            present.users -= 1;
            present.local_users -= u32::from(backend.local);
            if present.users == 0 {
                self.idle_backends.push(key);
            }
        }
    }

    /// Where the table that was just filled is already: adopted, or as incomplete as before.
    fn holds(&self, id: u32, store: &dyn MapStore) -> Option<Range> {
        let (present, slots) = (self.sets.get(&id)?, self.table.slots());
        if present.range.length as usize != slots.len() || store.set(id).ok()? != self.table.at(present.range) {
            return None;
        }
        let mut held = vec![0; slots.len()];
        store.read_slots(present.range.offset, &mut held).ok()?;
        (held == slots).then_some(present.range)
    }

    fn keep_set(&mut self, id: u32, range: Range, set: &Arc<Set>, missing: Vec<BackendKey>) {
        let present = PresentSet { range, content: Some(Arc::clone(set)), missing, wanted: self.round };
        if let Some(before) = self.sets.insert(id, present) {
            self.drop_set(before, range);
        }
        self.set_of_content.insert(Arc::clone(set), id);
    }

    /// What a set leaves behind that is replaced or removed; `kept` is the range that goes on.
    fn drop_set(&mut self, set: PresentSet, kept: Range) {
        if set.range != kept {
            self.ranges.free(set.range);
        }
        if let Some(content) = set.content {
            self.set_of_content.remove(&content);
            self.disclaim(&content, &set.missing);
        }
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

    fn put_listeners(
        &mut self,
        wanted: &Wanted,
        places: &[Option<Place>],
        store: &mut dyn MapStore,
        applied: &mut Applied,
    ) {
        let mut owners: HashMap<ListenerKey, &ListenerName> = HashMap::new();
        let mut bound: HashSet<u32> = self.listener_names.values().copied().collect();
        let mut places = places.iter();
        for listener in &wanted.listeners {
            let places: Vec<_> = places.by_ref().take(listener.addresses.len()).collect();
            let id = match self.listener_id(listener, &mut bound, store) {
                Ok(id) => id,
                Err(error) => {
                    // What is there already goes on as it is.
                    self.want_again(listener);
                    applied.note(Err(error), || Object::Listener(listener.name.clone()));
                    continue;
                }
            };
            for (address, place) in listener.addresses.iter().zip(places) {
                if let Some(owner) = owners.get(&address.key) {
                    let (address, port) = (ip(address.key.address), address.key.port);
                    let error = ProblemKind::Taken { address, port, owner: (*owner).clone() };
                    applied.problems.push(Problem { object: Object::Listener(listener.name.clone()), error });
                    continue;
                }
                owners.insert(address.key, &listener.name);
                let backend_set = match place {
                    None => 0,
                    Some(Place::Present(id)) => *id,
                    // The one before it goes on.
                    Some(_) => self.listeners.get(&address.key).map_or(0, |l| l.value.backend_set),
                };
                if let Some(set) = self.sets.get_mut(&backend_set) {
                    set.wanted = self.round;
                }
                let value = Listener { kind: listener_kind::L4, id, backend_set, ..Listener::default() };
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
                self.drop_set(set, Range { offset: 0, length: 0 });
                self.set_ids.free(id);
                applied.removals += 1;
            }
            applied.note(removed, || Object::Datapath);
        }
    }

    fn remove_backends(&mut self, store: &mut dyn MapStore, applied: &mut Applied) {
        let mut idle = std::mem::take(&mut self.idle_backends);
        idle.sort_unstable();
        idle.dedup();
        let of_key = |key: BackendKey| self.backends.get(&key).filter(|b| b.users == 0).map(|b| (Some(key), b.id));
        let unwanted: Vec<(Option<BackendKey>, u32)> =
            idle.into_iter().filter_map(of_key).chain(self.stray_backends.iter().map(|id| (None, *id))).collect();
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
            } else {
                self.idle_backends.extend(key);
            }
            applied.note(removed, || key.map_or(Object::Datapath, Object::Backend));
        }
        applied.backends_removed |= applied.removals > before;
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

fn first_user(wanted: &Wanted, set: &Arc<Set>) -> Object {
    let has = |l: &&maps::Listener| l.addresses.iter().any(|a| a.set.as_ref() == Some(set));
    wanted.listeners.iter().find(has).map_or(Object::Datapath, |l| Object::Listener(l.name.clone()))
}

impl PresentBackend {
    /// Writes the value if it is not what it should be.
    fn update(
        &mut self,
        key: &BackendKey,
        path: PathOf<'_>,
        store: &mut dyn MapStore,
        applied: &mut Applied,
    ) -> Result<(), StoreError> {
        let value = value(key, self.local_users > 0, path);
        if self.value != value {
            store.put_backend(self.id, value)?;
            self.value = value;
            applied.writes += 1;
        }
        Ok(())
    }
}

fn value(key: &BackendKey, local: bool, path: PathOf<'_>) -> Backend {
    let BackendKey { address, port, protocol } = *key;
    let path = path(address, local);
    Backend {
        address,
        source: path.source,
        port,
        flags: if local { backend_flags::LOCAL } else { 0 },
        protocol,
        ifindex: if local { path.ifindex } else { 0 },
    }
}
