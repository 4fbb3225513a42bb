//! Endpoints come and go all the time, and decide nothing but where connections go: no condition of any object depends on them.
//! So what `compile` made follows them at the cost of the Services concerned, and is then what it would be from scratch.

use std::collections::BTreeSet;
use std::sync::Arc;

use hashbrown::HashMap;

use super::{Report, decide};
use crate::index::{Index, Kind, Name, ObjectId, ServiceEndpoints};
use crate::ir::{BackendSet, Ir, Listener, Protocol, Target, Traffic};
use crate::source::{Problem, Severity};

/// The IR and the report of an index.
#[derive(Debug, Default)]
pub struct Compiled {
    pub ir: Arc<Ir>,
    pub report: Report,
    followed: Followed,
    /// Made when endpoints change.
    places: Option<Places>,
}

impl Compiled {
    /// From scratch.
    pub fn of(index: &Index) -> Compiled {
        let (ir, report, followed) = decide(index);
        Compiled { ir: ir.into(), report, followed, places: None }
    }

    /// Takes in a change of the index that concerns nothing but the endpoints of these Services, and EndpointSlices of none.
    pub fn follow(&mut self, index: &Index, services: &BTreeSet<Name>) {
        let places = self.places.get_or_insert_with(|| Places::of(&self.ir));
        let known = services.iter().filter_map(|name| index.endpoints(name));
        let changed: Changed = known.map(|endpoints| (&**endpoints.service(), endpoints)).collect();
        let mut followed = Vec::new();
        for place in changed.keys().filter_map(|service| places.0.get(*service)).flatten() {
            place.follow(&mut self.ir, &changed, &mut followed);
        }
        self.followed.look_again(index, services);
        self.followed.tell(index, &mut self.report.problems);
    }
}

/// The Services that routes send to.
#[derive(Debug, Default)]
pub struct Followed {
    /// And their ports.
    ports: HashMap<Name, Vec<(u16, Protocol)>>,
    /// Those of them of which a port has no endpoints.
    empty: BTreeSet<Name>,
    /// Problems that are none of endpoints, sorted.
    lasting: Vec<Problem>,
}

impl Followed {
    pub fn note(&mut self, service: &Name, port: (u16, Protocol)) {
        let ports = self.ports.entry_ref(service).or_default();
        if !ports.contains(&port) {
            ports.push(port);
        }
    }

    /// All that routes send to is noted, and all other problems are known.
    pub fn complete(&mut self, index: &Index, problems: &mut Vec<Problem>) {
        self.lasting.clone_from(problems);
        let is_empty = |(name, ports): &(&Name, &Vec<_>)| has_empty(index, name, ports);
        self.empty = self.ports.iter().filter(is_empty).map(|(name, _)| name.clone()).collect();
        self.tell(index, problems);
    }

    fn look_again(&mut self, index: &Index, services: &BTreeSet<Name>) {
        for name in services {
            match self.ports.get(name).is_some_and(|ports| has_empty(index, name, ports)) {
                true => drop(self.empty.insert(name.clone())),
                false => drop(self.empty.remove(name)),
            }
        }
    }

    /// All problems, sorted.
    fn tell(&self, index: &Index, problems: &mut Vec<Problem>) {
        problems.clone_from(&self.lasting);
        empty_services(index, &self.empty, problems);
        unread_slices(index, problems);
        problems.sort_unstable();
    }
}

fn has_empty(index: &Index, service: &Name, ports: &[(u16, Protocol)]) -> bool {
    let of_port = |(port, protocol): &(u16, Protocol)| index.endpoints(service)?.port(*port, *protocol);
    ports.iter().filter_map(of_port).any(|endpoints| endpoints.is_empty())
}

/// Services that routes send to, and that lead nowhere.
fn empty_services(index: &Index, empty: &BTreeSet<Name>, problems: &mut Vec<Problem>) {
    for service in empty.iter().filter_map(|name| index.service(name)) {
        let id = ObjectId { kind: Kind::Service, name: service.meta.name.clone() };
        let message = "no EndpointSlice gives it endpoints (by the label kubernetes.io/service-name, and ports of the same \
                       name and protocol), so its share of connections is refused";
        problems.push(Problem::of_object(Severity::Warning, id, &service.meta.origin, "", message));
    }
}

/// EndpointSlices that hang in the air: most often a label forgotten in a manifest.
fn unread_slices(index: &Index, problems: &mut Vec<Problem>) {
    for slice in index.unread_slices() {
        let id = ObjectId { kind: Kind::EndpointSlice, name: slice.meta.name.clone() };
        let message = "belongs to no Service, so it does nothing; add the label kubernetes.io/service-name";
        problems.push(Problem::of_object(Severity::Warning, id, &slice.meta.origin, "metadata.labels", message));
    }
}

/// Where in an IR the endpoints of a Service are, by its name as the targets have it.
#[derive(Debug)]
struct Places(HashMap<Arc<str>, Vec<Place>>);

/// A listener, or one of its server names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Place {
    listener: usize,
    name: Option<usize>,
}

impl Places {
    fn of(ir: &Ir) -> Places {
        let mut places: HashMap<Arc<str>, Vec<Place>> = HashMap::new();
        let mut add = |place: Place, set: &BackendSet| {
            for service in set.refs.iter().filter_map(|reference| reference.target.service()) {
                let places = places.entry_ref(service).or_default();
                if places.last() != Some(&place) {
                    places.push(place);
                }
            }
        };
        for (listener, of_listener) in ir.listeners.iter().enumerate() {
            match &of_listener.traffic {
                Traffic::Forward { backends, .. } => {
                    backends.iter().for_each(|set| add(Place { listener, name: None }, set));
                }
                Traffic::Tls { names, .. } => {
                    for (i, name) in names.iter().enumerate() {
                        name.backends.iter().for_each(|set| add(Place { listener, name: Some(i) }, set));
                    }
                }
            }
        }
        Places(places)
    }
}

/// By name, as the targets have it.
type Changed<'a> = HashMap<&'a str, &'a ServiceEndpoints>;

/// Sets of before, and what has become of them: names that share one go on doing so.
type FollowedSets = Vec<(Arc<BackendSet>, Arc<BackendSet>)>;

impl Place {
    fn follow(self, ir: &mut Arc<Ir>, changed: &Changed, followed: &mut FollowedSets) {
        let listener = &ir.listeners[self.listener];
        let Some(old) = self.set(listener) else { return };
        let new = match followed.iter().find(|(before, _)| Arc::ptr_eq(before, old)) {
            Some((_, after)) => Arc::clone(after),
            None => {
                let Some(new) = follow_set(old, listener.protocol(), changed).map(Arc::new) else { return };
                followed.push((Arc::clone(old), Arc::clone(&new)));
                new
            }
        };
        let listener = Arc::make_mut(&mut Arc::make_mut(ir).listeners[self.listener]);
        match (&mut listener.traffic, self.name) {
            (Traffic::Tls { names, .. }, Some(i)) => Arc::make_mut(&mut names[i]).backends = Some(new),
            (Traffic::Forward { backends, .. }, None) => *backends = Some(new),
            _ => {}
        }
    }

    fn set(self, listener: &Listener) -> Option<&Arc<BackendSet>> {
        match (&listener.traffic, self.name) {
            (Traffic::Tls { names, .. }, Some(i)) => names[i].backends.as_ref(),
            (Traffic::Forward { backends, .. }, None) => backends.as_ref(),
            _ => None,
        }
    }
}

/// `None`: nothing in it is another.
fn follow_set(set: &BackendSet, protocol: Protocol, changed: &Changed) -> Option<BackendSet> {
    let mut new: Option<BackendSet> = None;
    for (i, reference) in set.refs.iter().enumerate() {
        let Target::Endpoints { service, port, endpoints } = &reference.target else { continue };
        let now = changed.get(&**service).and_then(|of_service| of_service.port(*port, protocol));
        let Some(now) = now.filter(|now| !Arc::ptr_eq(now, endpoints)) else { continue };
        let target = Target::Endpoints { service: Arc::clone(service), port: *port, endpoints: Arc::clone(now) };
        new.get_or_insert_with(|| set.clone()).refs[i].target = target;
    }
    new
}
