//! Which routes are attached to which listeners. What one route has there can be taken away and put in its place; the board says which
//! other routes are then to be looked at again: always such that come after it by precedence.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use hashbrown::HashMap;

use super::hostnames::Meetings;
use super::stage::At;
use crate::index::{Precedence, RouteType};
use crate::ir::http::{self, Attachment, Attachments};
use crate::ir::{BackendSet, HostName};

/// Sorts by who wins what several want.
pub type RouteKey = (Precedence, RouteType);

/// What a route wants of a listener, and gets as far as it is the first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Taking {
    pub at: At,
    /// Sorted, never empty.
    pub hosts: Arc<[HostName]>,
    pub content: Content,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Content {
    Forward(Arc<BackendSet>),
    Http(Arc<http::Route>),
    /// It is not attached: a route of another type has host names in common with it.
    Clash,
}

impl Taking {
    fn is_attached(&self) -> bool {
        self.content != Content::Clash
    }
}

#[derive(Default)]
pub struct Board {
    seats: Vec<Vec<Seat>>,
    /// There are routes of both types, which must not share host names of a listener.
    pub http_and_grpc: bool,
}

/// The routes at a listener.
#[derive(Default)]
pub struct Seat {
    /// Whether or not one of them wins.
    pub attached: u32,
    /// The host names that routes want of it, and to whom each leads: the first by precedence first. A listener that does not go by host
    /// names has one: [`HostName::Any`].
    pub hosts: BTreeMap<HostName, Vec<(RouteKey, Arc<BackendSet>)>>,
    /// Of an HTTP or HTTPS listener.
    pub http: Attachments,
    wishes: HashMap<RouteType, Meetings<RouteKey>>,
}

/// What is another on a board.
#[derive(Default)]
pub struct Dirt {
    /// Listeners, and of those that forward the host names.
    pub seats: BTreeMap<At, BTreeSet<HostName>>,
    /// Listeners with more routes or fewer.
    pub counts: BTreeSet<At>,
}

impl Board {
    /// `listeners`: of each Gateway.
    pub fn new(listeners: impl Iterator<Item = usize>, http_and_grpc: bool) -> Board {
        let seats = |count| (0..count).map(|_| Seat::default()).collect();
        Board { seats: listeners.map(seats).collect(), http_and_grpc }
    }

    pub fn seat(&self, at: At) -> &Seat {
        &self.seats[at.gateway][at.listener]
    }

    /// Puts what a route wants in the place of what it wanted. `again`: gets routes that may find something else now.
    pub fn replace(
        &mut self,
        key: &RouteKey,
        (old, new): (&[Taking], &[Taking]),
        dirt: &mut Dirt,
        again: &mut BTreeSet<RouteKey>,
    ) {
        // Nearly always they are at the same listeners, in the same order.
        for (i, before) in old.iter().enumerate() {
            let now =
                new.get(i).filter(|now| now.at == before.at).or_else(|| new.iter().find(|now| now.at == before.at));
            if now != Some(before) {
                self.change(key, Some(before), now, dirt, again);
            }
        }
        for now in new.iter().filter(|now| old.iter().all(|before| before.at != now.at)) {
            self.change(key, None, Some(now), dirt, again);
        }
    }

    fn change(
        &mut self,
        key: &RouteKey,
        old: Option<&Taking>,
        new: Option<&Taking>,
        dirt: &mut Dirt,
        again: &mut BTreeSet<RouteKey>,
    ) {
        let Some(at) = old.or(new).map(|taking| taking.at) else { return };
        let seat = &mut self.seats[at.gateway][at.listener];
        let [old_hosts, new_hosts] = [old, new].map(|taking| taking.map(|taking| &*taking.hosts).unwrap_or_default());
        let [was_attached, is_attached] = [old, new].map(|taking| taking.is_some_and(Taking::is_attached));
        if was_attached != is_attached {
            seat.attached = if is_attached { seat.attached + 1 } else { seat.attached - 1 };
            dirt.counts.insert(at);
        }
        let dirty = dirt.seats.entry(at).or_default();
        let same_hosts = old_hosts == new_hosts && was_attached == is_attached;
        if self.http_and_grpc && !same_hosts && key.1.is_http() {
            let wishes = seat.wishes.entry(key.1).or_default();
            old_hosts.iter().for_each(|host| wishes.remove(host, key));
            new_hosts.iter().for_each(|host| wishes.add(host, key, is_attached));
            let other = if key.1 == RouteType::Http { RouteType::Grpc } else { RouteType::Http };
            if let Some(others) = seat.wishes.get(&other) {
                for host in old_hosts.iter().chain(new_hosts) {
                    again.extend(others.after(host, key).cloned());
                }
            }
        }
        if let Some(Content::Http(route)) = old.map(|taking| &taking.content) {
            seat.http.remove(route);
        }
        if let Some(Taking { hosts, content: Content::Http(route), .. }) = new {
            seat.http.add(Attachment { hosts: Arc::clone(hosts), route: Arc::clone(route) });
        }
        if let Some(Taking { content: Content::Forward(_), .. }) = old {
            let is_gone = |host: &&HostName| new_hosts.binary_search(host).is_err();
            for host in old_hosts.iter().filter(is_gone) {
                seat.leave(host, key, again);
                dirty.insert(host.clone());
            }
        }
        if let Some(Taking { content: Content::Forward(backends), .. }) = new {
            for host in new_hosts {
                seat.want(host, key, backends, again);
                dirty.insert(host.clone());
            }
        }
    }
}

impl Seat {
    /// Who has the host name before this route.
    pub fn winner(&self, host: &HostName, key: &RouteKey) -> Option<&RouteKey> {
        let (first, _) = self.hosts.get(host)?.first()?;
        (first < key).then_some(first)
    }

    /// A route of this type that comes before and has names in common with the host.
    pub fn owner(&self, of: RouteType, host: &HostName, key: &RouteKey) -> Option<&RouteKey> {
        self.wishes.get(&of)?.owner(host, key)
    }

    fn want(&mut self, host: &HostName, key: &RouteKey, backends: &Arc<BackendSet>, again: &mut BTreeSet<RouteKey>) {
        if !self.hosts.contains_key(host) {
            self.hosts.insert(host.clone(), Vec::with_capacity(1));
        }
        let Some(wishes) = self.hosts.get_mut(host) else { return };
        match wishes.binary_search_by(|(other, _)| other.cmp(key)) {
            Ok(at) => wishes[at].1 = Arc::clone(backends),
            Err(at) => {
                // The others have to say who is the first.
                if at == 0 {
                    again.extend(wishes.iter().map(|(other, _)| other.clone()));
                }
                wishes.insert(at, (key.clone(), Arc::clone(backends)));
            }
        }
    }

    fn leave(&mut self, host: &HostName, key: &RouteKey, again: &mut BTreeSet<RouteKey>) {
        let Some(wishes) = self.hosts.get_mut(host) else { return };
        if let Ok(at) = wishes.binary_search_by(|(other, _)| other.cmp(key)) {
            wishes.remove(at);
            if at == 0 {
                again.extend(wishes.iter().map(|(other, _)| other.clone()));
            }
        }
        if wishes.is_empty() {
            self.hosts.remove(host);
        }
    }
}
