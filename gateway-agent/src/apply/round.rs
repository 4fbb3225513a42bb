//! One pass over everything that is wanted.

use std::sync::Arc;

use gateway_common::{Address, Backend, BackendSet, ListenerKey, SniKey, backend_flags};
use hashbrown::{HashMap, HashSet};

use super::ids::Range;
use super::{Applied, Applier, MapName, MapStore, Object, Path, PresentBackend, PresentSet, Problem, StoreError};
use crate::emit::maps::{self, ServerName, Wanted};
use crate::emit::shares::{self, BackendKey, Set};

/// What points to a set.
#[derive(Clone, Copy)]
enum User {
    Listener(ListenerKey),
    Name(SniKey),
}

/// What the users of a present set want instead of it.
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
pub(super) enum Place {
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
        let claims = self.put_ids(wanted, store, &mut applied);
        // A name is there before the mask of its port tells of it, and longer.
        let ports = self.put_names(wanted, &claims, &places, store, &mut applied);
        self.put_listeners(wanted, &claims, &places, &ports, store, &mut applied);
        self.put_addresses(wanted, store, &mut applied);
        self.remove_listeners(store, &mut applied);
        self.remove_names(store, &mut applied);
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
        for set in self.sets.values_mut() {
            set.mtu = set.content.as_ref().map_or(0, |content| mtu(content, &self.backends));
        }
    }

    /// Where the set of every user is, in the order of [`users`].
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
        // Names that follow each other often share their set.
        let mut last: Option<(&Arc<Set>, Place)> = None;
        for (user, set) in users(wanted) {
            let Some(set) = set else {
                places.push(None);
                continue;
            };
            if let Some((_, place)) = last.filter(|(last, _)| Arc::ptr_eq(last, set)) {
                places.push(Some(place));
                continue;
            }
            let place = match self.present(set, user) {
                Some(id) => Place::Present(id),
                None => Place::ToMake(*place_to_make.entry(&**set).or_insert_with(|| {
                    to_make.push(set);
                    to_make.len() - 1
                })),
            };
            last = Some((set, place));
            places.push(Some(place));
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

    fn set_of(&self, user: User) -> Option<u32> {
        match user {
            User::Listener(key) => self.listeners.get(&key).map(|l| l.value.backend_set),
            User::Name(key) => self.names.get(&key).map(|n| n.backend_set),
        }
    }

    /// The id of this set, if all of it is in the maps: nearly always the one that the user has.
    fn present(&mut self, set: &Arc<Set>, user: User) -> Option<u32> {
        let has = |sets: &HashMap<u32, PresentSet>, id: u32| {
            sets.get(&id).is_some_and(|s| s.content.as_ref().is_some_and(|content| Arc::ptr_eq(content, set)))
        };
        let of_user = self.set_of(user).filter(|id| has(&self.sets, *id));
        let id = of_user.or_else(|| self.set_of_content.get(set).copied())?;
        let present = self.sets.get_mut(&id)?;
        present.wanted = self.round;
        present.missing.is_empty().then_some(id)
    }

    /// For every set that is to be made the present one that it replaces under its id: where all users of that one want the same
    /// new one. Else connections would go to backends that are not theirs for a moment.
    fn sets_to_replace(&self, wanted: &Wanted, places: &[Option<Place>], to_make: usize) -> Vec<Option<u32>> {
        let mut users: HashMap<u32, Users> = HashMap::new();
        let of_names = self.names.values().map(|n| n.backend_set);
        for id in self.listeners.values().map(|l| l.value.backend_set).chain(of_names) {
            users.entry(id).or_insert(Users { wanted: None, left: 0 }).left += 1;
        }
        let mut candidates = vec![None; to_make];
        let mut seen = HashSet::new();
        for ((user, _), place) in self::users(wanted).zip(places) {
            let (Some(Place::ToMake(j)), Some(id)) = (*place, self.set_of(user)) else { continue };
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
        backend: &shares::Backend,
        path: PathOf<'_>,
        store: &mut dyn MapStore,
    ) -> Result<(), StoreError> {
        let key = backend.key();
        let (value, mtu) = value(&key, backend.local, path);
        let id = self.backend_ids.take().ok_or(StoreError::Full(MapName::Backends))?;
        let put = store.reset_backend_counters(id).and_then(|()| store.put_backend(id, value));
        match put {
            Ok(()) => {
                let local_users = u32::from(backend.local);
                self.backends.insert(key, PresentBackend { id, value, mtu, users: 1, local_users });
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
        let mtu = mtu(set, &self.backends);
        let present = PresentSet { range, content: Some(Arc::clone(set)), missing, mtu, wanted: self.round };
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
    pub(super) fn note(&mut self, result: Result<(), StoreError>, object: impl FnOnce() -> Object) {
        match result {
            Ok(()) => self.writes += 1,
            Err(error) => self.problems.push(Problem { object: object(), error: error.into() }),
        }
    }

    pub(super) fn note_unless_ok(&mut self, result: Result<(), StoreError>, object: impl FnOnce() -> Object) {
        if result.is_err() {
            self.note(result, object);
        }
    }
}

/// Everything that wants a set or none: addresses of L4 listeners, and names of TLS listeners on each of their addresses.
fn users(wanted: &Wanted) -> impl Iterator<Item = (User, Option<&Arc<Set>>)> {
    wanted.listeners.iter().flat_map(|listener| {
        let of_address = |address| listener.tls.is_none().then_some(of_address(address));
        let addresses = listener.addresses.iter().filter_map(of_address);
        let at = listener.addresses.iter().map(|address| &address.key);
        let names = at.flat_map(|at| listener.tls.iter().flat_map(|tls| &tls.names).map(|name| of_name(name, at)));
        addresses.chain(names)
    })
}

/// Where the name is not it needs no set.
fn of_name<'a>(name: &'a ServerName, at: &ListenerKey) -> (User, Option<&'a Arc<Set>>) {
    (User::Name(name.key(at)), name.set(at).filter(|_| name.is_on(at)))
}

fn of_address(address: &maps::ListenerAddress) -> (User, Option<&Arc<Set>>) {
    (User::Listener(address.key), address.set.as_ref())
}

fn first_user(wanted: &Wanted, set: &Arc<Set>) -> Object {
    let uses = |l: &&Arc<maps::Listener>| {
        let names = || l.tls.iter().flat_map(|tls| &tls.names);
        l.addresses.iter().any(|a| a.set.as_ref() == Some(set) || names().any(|name| name.set(&a.key) == Some(set)))
    };
    wanted.listeners.iter().find(uses).map_or(Object::Datapath, |l| Object::Listener(l.name.clone()))
}

/// The smallest on the ways to the backends of a set; 0: not known.
fn mtu(set: &Set, backends: &HashMap<BackendKey, PresentBackend>) -> u16 {
    let known = set.backends().filter_map(|b| backends.get(&b.key())).map(|b| b.mtu).filter(|mtu| *mtu != 0);
    known.min().unwrap_or(0)
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
        let (value, mtu) = value(key, self.local_users > 0, path);
        self.mtu = mtu;
        if self.value != value {
            store.put_backend(self.id, value)?;
            self.value = value;
            applied.writes += 1;
        }
        Ok(())
    }
}

/// With the MTU of the way.
fn value(key: &BackendKey, local: bool, path: PathOf<'_>) -> (Backend, u16) {
    let BackendKey { address, port, protocol, proxy } = *key;
    let path = path(address, local);
    let flag = |flag: u8, set: bool| if set { flag } else { 0 };
    let value = Backend {
        address,
        source: path.source,
        port,
        flags: flag(backend_flags::LOCAL, local) | flag(backend_flags::PROXY, proxy),
        protocol,
        ifindex: if local { path.ifindex } else { 0 },
    };
    (value, path.mtu)
}
