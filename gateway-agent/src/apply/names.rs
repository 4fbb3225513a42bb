//! SNI: the server names of TLS listeners.

use gateway_common::{ListenerKey, SNI_NAME, SniKey, SniName, sni_mode};
use hashbrown::HashMap;

use super::listeners::Claims;
use super::round::Place;
use super::{Applied, Applier, MapStore, Object, PresentName, Problem, ProblemKind, StoreError};
use crate::emit::maps::{ServerName, Wanted, ip};
use crate::ir::HostName;

/// What LISTENERS says of an address and port that TLS listeners share.
#[derive(Clone, Copy, Default)]
pub(super) struct Port {
    pub wildcards: u32,
    /// The smallest on the ways to backends; 0: not known.
    pub mtu: u16,
}

/// What is left of the names of a listener that found no room: the first, how many more, and why.
type Failed = Option<(HostName, usize, StoreError)>;

impl Applier {
    pub(super) fn put_names(
        &mut self,
        wanted: &Wanted,
        claims: &Claims,
        places: &[Option<Place>],
        store: &mut dyn MapStore,
        applied: &mut Applied,
    ) -> HashMap<ListenerKey, Port> {
        let mut ports: HashMap<ListenerKey, Port> = HashMap::new();
        let mut places = places.iter();
        for (i, listener) in wanted.listeners.iter().enumerate() {
            let Some(tls) = &listener.tls else {
                places.by_ref().take(listener.addresses.len()).for_each(drop);
                continue;
            };
            let object = || Object::Listener(listener.name.clone());
            let mut failed: Failed = None;
            for at in listener.addresses.iter().map(|address| &address.key) {
                let places = places.by_ref().take(tls.names.len());
                if !claims.has(wanted, i, at) || !claims.is_spliced(at) {
                    places.for_each(drop);
                    continue;
                }
                let port = ports.entry(*at).or_default();
                // The set and mode of the name before.
                let mut marked = None;
                for (name, place) in tls.names.iter().zip(places) {
                    if !name.is_on(at) {
                        continue;
                    }
                    let key = name.key(at);
                    let present = self.names.get_mut(&key);
                    if present.as_ref().is_some_and(|present| present.wanted == self.round) {
                        let error = taken(wanted, i, name, at);
                        applied.problems.push(Problem { object: object(), error });
                        continue;
                    }
                    // What is there already goes on as it is.
                    let Some(id) = claims.ids[i] else {
                        self.keep_name(&key);
                        port.wildcards |= self.wildcard_bit(name, &key);
                        continue;
                    };
                    let backend_set = match place {
                        None => 0,
                        Some(Place::Present(id)) => *id,
                        Some(_) => present.as_ref().map_or(0, |n| n.backend_set),
                    };
                    let value =
                        PresentName { backend_set, listener: id, mode: tls.mode, readable: true, wanted: self.round };
                    // Nearly all are as they were.
                    if let Some(present) = present.filter(|present| **present == value) {
                        present.wanted = self.round;
                        port.wildcards |= name.wildcard_bit;
                    } else {
                        if let Err(error) = self.put_name(key, &name.host, value, store, applied) {
                            match &mut failed {
                                None => failed = Some((name.host.clone(), 0, error)),
                                Some((_, more, _)) => *more += 1,
                            }
                        }
                        port.wildcards |= self.wildcard_bit(name, &key);
                    }
                    if marked.replace((backend_set, tls.mode)) == Some((backend_set, tls.mode)) {
                        continue;
                    }
                    if let Some(set) = self.sets.get_mut(&backend_set) {
                        set.wanted = self.round;
                        if tls.mode == sni_mode::PASSTHROUGH && set.mtu != 0 {
                            port.mtu = if port.mtu == 0 { set.mtu } else { port.mtu.min(set.mtu) };
                        }
                    }
                }
            }
            if let Some((host, more, error)) = failed {
                let error = ProblemKind::Names { host, more, error };
                applied.problems.push(Problem { object: object(), error });
            }
        }
        ports
    }

    /// Of `Listener::wildcards`, if the name is there.
    fn wildcard_bit(&self, name: &ServerName, key: &SniKey) -> u32 {
        let bit = name.wildcard_bit;
        if bit != 0 && self.names.contains_key(key) { bit } else { 0 }
    }

    fn put_name(
        &mut self,
        key: SniKey,
        host: &HostName,
        value: PresentName,
        store: &mut dyn MapStore,
        applied: &mut Applied,
    ) -> Result<(), StoreError> {
        let mut hits = 0;
        if let Some(present) = self.names.get_mut(&key) {
            present.wanted = self.round;
            // What is counted between this and the write is lost.
            hits = store.name(key)?.map_or(0, |name| name.hits);
        }
        let PresentName { backend_set, listener, mode, .. } = value;
        let put = store.put_name(key, SniName { backend_set, listener, hits, mode, _pad: [0; 7], name: text(host) });
        match put {
            Ok(()) => {
                applied.writes += 1;
                self.names.insert(key, value);
            }
            Err(_) => self.keep_name(&key),
        }
        put
    }

    /// The name goes on as it is, if it is there.
    fn keep_name(&mut self, key: &SniKey) {
        let Some(present) = self.names.get_mut(key) else { return };
        present.wanted = self.round;
        if let Some(set) = self.sets.get_mut(&present.backend_set) {
            set.wanted = self.round;
        }
    }

    pub(super) fn remove_names(&mut self, store: &mut dyn MapStore, applied: &mut Applied) {
        let round = self.round;
        let unwanted: Vec<SniKey> = self.names.iter().filter(|(_, n)| n.wanted != round).map(|(key, _)| *key).collect();
        for key in unwanted {
            let removed = store.remove_name(key);
            if removed.is_ok() {
                self.names.remove(&key);
                applied.removals += 1;
            } else {
                self.keep_name(&key);
            }
            applied.note(removed, || Object::Datapath);
        }
    }
}

impl PresentName {
    pub(super) fn adopted(key: &SniKey, value: &SniName) -> PresentName {
        let SniName { backend_set, listener, mode, .. } = *value;
        PresentName { backend_set, listener, mode, readable: is_text_of(&value.name, key), wanted: 0 }
    }
}

/// The rounds do not count.
impl PartialEq for PresentName {
    fn eq(&self, other: &PresentName) -> bool {
        let parts = |n: &PresentName| (n.backend_set, n.listener, n.mode, n.readable);
        parts(self) == parts(other)
    }
}

/// As SNI has it, for people.
fn text(host: &HostName) -> [u8; SNI_NAME] {
    let mut text = [0; SNI_NAME];
    for (to, from) in text.iter_mut().take(SNI_NAME - 1).zip(host.to_string().bytes()) {
        *to = from;
    }
    text
}

fn is_text_of(text: &[u8], key: &SniKey) -> bool {
    let text = text.split(|byte| *byte == 0).next().unwrap_or_default();
    let (wildcard, name) = match text {
        b"*" => (true, &b""[..]),
        [b'*', b'.', suffix @ ..] => (true, suffix),
        name => (false, name),
    };
    *key == SniKey::new(key.address, key.port, wildcard, name)
}

/// Why a name is not put: the key is that of one before it.
fn taken(wanted: &Wanted, i: usize, name: &ServerName, at: &ListenerKey) -> ProblemKind {
    let (address, port, host) = (ip(at.address), at.port, name.host.clone());
    let key = name.key(at);
    let same =
        wanted.listeners[..=i].iter().filter(|l| l.addresses.iter().any(|a| a.key == *at)).find_map(|listener| {
            let mut names = listener.tls.iter().flat_map(|tls| &tls.names);
            names.find(|name| name.is_on(at) && name.key(at) == key).map(|name| (&listener.name, &name.host))
        });
    match same {
        Some((owner, other)) if *other != host => {
            ProblemKind::NamesCollide { host, address, port, other: other.clone(), owner: owner.clone() }
        }
        same => {
            let owner = same.map_or(&wanted.listeners[i].name, |(owner, _)| owner).clone();
            ProblemKind::NameTaken { host, address, port, owner }
        }
    }
}
