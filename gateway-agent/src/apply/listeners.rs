//! LISTENERS, and the ids of listeners.

use gateway_common::{Listener, ListenerKey, listener_kind};
use hashbrown::{HashMap, HashSet};

use super::names::Port;
use super::round::Place;
use super::{Applied, Applier, MapName, MapStore, Object, PresentListener, Problem, ProblemKind, StoreError};
use crate::emit::maps::{self, GatewayAddress, Wanted, ip};
use crate::ir::ListenerName;

/// Which wanted listener has what.
pub(super) struct Claims {
    /// Of every listener, in order; `None`: there is no room for it.
    pub ids: Vec<Option<u32>>,
    /// The first listener on each address and port.
    owners: HashMap<ListenerKey, usize>,
    /// Where TLS passes, or is spliced to the agent, for one of the listeners.
    spliced: HashSet<ListenerKey>,
}

impl Claims {
    /// Whether the listener is served there: TLS and HTTPS listeners share an address and port with each other only, and HTTP
    /// listeners with HTTP listeners.
    pub fn has(&self, wanted: &Wanted, listener: usize, at: &ListenerKey) -> bool {
        let is_tls = |i: usize| wanted.listeners[i].tls.is_some();
        let is_http = |i: usize| wanted.listeners[i].answered && !is_tls(i);
        let shares = |owner: usize| is_tls(owner) && is_tls(listener) || is_http(owner) && is_http(listener);
        self.owners.get(at).is_none_or(|owner| *owner == listener || shares(*owner))
    }

    /// Whether the names of TLS listeners are in SNI there: else the agent has every connection.
    pub fn is_spliced(&self, at: &ListenerKey) -> bool {
        self.spliced.contains(at)
    }
}

impl Applier {
    pub(super) fn put_ids(&mut self, wanted: &Wanted, store: &mut dyn MapStore, applied: &mut Applied) -> Claims {
        let mut bound: HashSet<u32> = self.listener_names.values().copied().collect();
        let mut claims =
            Claims { ids: Vec::with_capacity(wanted.listeners.len()), owners: HashMap::new(), spliced: HashSet::new() };
        for (i, listener) in wanted.listeners.iter().enumerate() {
            let id = self.listener_id(listener, &mut bound, store);
            claims.ids.push(id.as_ref().ok().copied());
            if let Err(error) = id {
                // What is there already goes on as it is.
                self.want_again(listener);
                applied.note(Err(error), || Object::Listener(listener.name.clone()));
                continue;
            }
            for at in listener.addresses.iter().map(|address| &address.key) {
                let owner = *claims.owners.entry(*at).or_insert(i);
                if !claims.has(wanted, i, at) {
                    let owner = wanted.listeners[owner].name.clone();
                    let error = ProblemKind::Taken { address: ip(at.address), port: at.port, owner };
                    applied.problems.push(Problem { object: Object::Listener(listener.name.clone()), error });
                } else if listener.tls.is_some() && !listener.answered {
                    claims.spliced.insert(*at);
                }
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
        claims
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
        // Listeners that share a port are told apart by their names.
        let addresses = || listener.addresses.iter().map(|address| &address.key);
        let names = addresses().flat_map(|at| listener.tls.iter().flat_map(|tls| &tls.names).map(|name| name.key(at)));
        let of_names = names.filter_map(|key| self.names.get(&key)).map(|name| name.listener);
        let of_addresses = addresses().filter_map(|at| self.listeners.get(at)).map(|l| l.value.id);
        let adopted = of_names.chain(of_addresses).find(|id| ids.contains(id) && !bound.contains(id));
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

    pub(super) fn put_listeners(
        &mut self,
        wanted: &Wanted,
        claims: &Claims,
        places: &[Option<Place>],
        ports: &HashMap<ListenerKey, Port>,
        store: &mut dyn MapStore,
        applied: &mut Applied,
    ) {
        let mut places = places.iter();
        for (i, listener) in wanted.listeners.iter().enumerate() {
            for at in listener.addresses.iter().map(|address| &address.key) {
                let (kind, place) = match &listener.tls {
                    None => {
                        let kind = if listener.answered { listener_kind::L7 } else { listener_kind::L4 };
                        (kind, places.next().copied().flatten())
                    }
                    Some(tls) => {
                        places.by_ref().take(tls.names.len()).for_each(drop);
                        (if claims.is_spliced(at) { listener_kind::TLS } else { listener_kind::L7 }, None)
                    }
                };
                let Some(id) = claims.ids[i].filter(|_| claims.owners.get(at) == Some(&i)) else { continue };
                let backend_set = match place {
                    None => 0,
                    Some(Place::Present(id)) => id,
                    // The one before it goes on.
                    Some(_) => self.listeners.get(at).map_or(0, |l| l.value.backend_set),
                };
                if let Some(set) = self.sets.get_mut(&backend_set) {
                    set.wanted = self.round;
                }
                let Port { wildcards, mtu } = ports.get(at).copied().unwrap_or_default();
                let value = Listener { kind, id, backend_set, mtu, wildcards, ..Listener::default() };
                let put = self.put_listener(*at, value, store, applied);
                applied.note_unless_ok(put, || Object::Listener(listener.name.clone()));
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

    pub(super) fn put_addresses(&mut self, wanted: &Wanted, store: &mut dyn MapStore, applied: &mut Applied) {
        for GatewayAddress { address, exclusive } in &wanted.addresses {
            let key = ListenerKey { address: *address, ..ListenerKey::default() };
            let kind = if *exclusive { listener_kind::EXCLUSIVE } else { listener_kind::SHARED };
            let value = Listener { kind, ..Listener::default() };
            let put = self.put_listener(key, value, store, applied);
            applied.note_unless_ok(put, || Object::Address(*address));
        }
    }

    pub(super) fn remove_listeners(&mut self, store: &mut dyn MapStore, applied: &mut Applied) {
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
}
