//! Endpoints come and go all the time, and weights shift; both decide nothing but where connections go: what is attached to what
//! does not depend on them. So what `compile` made follows them at the cost of the objects concerned, and is then what it would
//! be from scratch.

use std::collections::BTreeSet;
use std::sync::Arc;

use hashbrown::HashMap;

use super::backends::resolve;
use super::http::Memo;
use super::{Report, decide};
use crate::index::{Index, Kind, Name, ObjectId, Reach, Route, ServiceEndpoints, Touched};
use crate::ir::{BackendSet, Ir, Listener, Protocol, Target, Traffic};
use crate::source::{Problem, Severity};

/// The IR and the report of an index.
#[derive(Debug, Default)]
pub struct Compiled {
    pub ir: Arc<Ir>,
    pub report: Report,
    followed: Followed,
    /// Made when there is something to follow.
    places: Option<Places>,
    /// What compiling again may go on with.
    memo: Memo,
}

impl Compiled {
    /// From scratch.
    pub fn of(index: &Index) -> Compiled {
        Compiled::again(index, &Memo::default())
    }

    fn again(index: &Index, before: &Memo) -> Compiled {
        let (ir, report, followed, memo) = decide(index, before);
        Compiled { ir: ir.into(), report, followed, places: None, memo }
    }

    /// Takes in a change of the index.
    pub fn follow(&mut self, index: &Index, reach: &Reach) {
        match reach {
            // Where requests go is compiled again: what did not change is kept by the memo.
            Reach::Backends(touched)
                if !touched.routes.values().any(|before| is_told_apart(index, before))
                    && !self.memo.leads_to(&touched.services) =>
            {
                self.follow_backends(index, touched);
            }
            _ => *self = Compiled::again(index, &self.memo),
        }
    }

    fn follow_backends(&mut self, index: &Index, touched: &Touched) {
        let places = self.places.get_or_insert_with(|| Places::of(&self.ir));
        for (id, before) in &touched.routes {
            let Some(route) = index.route(id) else { continue };
            // One without a Gateway of ours has no report, and none of its backends counts.
            let Ok(i) = self.report.routes.binary_search_by(|report| report.id.cmp(id)) else { continue };
            self.followed.forget(index, before);
            let (set, resolved) = resolve(index, route, route.rules.backends(), &mut self.followed);
            let report = &mut self.report.routes[i];
            report.subject = (&route.meta).into();
            for condition in report.parents.iter_mut().flat_map(|parent| &mut parent.conditions) {
                if condition.kind == resolved.kind {
                    condition.clone_from(&resolved);
                }
            }
            places.lead(&mut self.ir, &Arc::new(set));
            let all = before.rules.backends().iter().chain(route.rules.backends()).map(|backend| &backend.name);
            all.for_each(|service| self.followed.look_again(index, service));
        }
        let services = &touched.services;
        let known = services.iter().filter_map(|name| index.endpoints(name));
        let changed: Changed = known.map(|endpoints| (&**endpoints.service(), endpoints)).collect();
        let mut followed = FollowedSets::new();
        for place in changed.keys().filter_map(|service| places.of_service.get(*service)).flatten() {
            place.follow(&mut self.ir, &changed, &mut followed);
        }
        services.iter().for_each(|service| self.followed.look_again(index, service));
        self.followed.tell(index, &mut self.report.problems);
    }
}

/// Whether more depends on a changed route than where it leads: some Service is told that its PROXY protocol has no effect, or a
/// policy wants TLS to it, of which its status tells.
fn is_told_apart(index: &Index, before: &Route) -> bool {
    let after = index.route(&before.id()).into_iter().flat_map(|route| route.rules.backends());
    let mut services = before.rules.backends().iter().chain(after).map(|backend| &backend.name);
    services.any(|name| {
        let proxied = index.service(name).is_some_and(|service| service.proxy_protocol);
        proxied || index.policies().any(|policy| policy.targets(name))
    })
}

/// Of a Service.
type Port = (u16, Protocol);

/// The Services that routes send to.
#[derive(Debug, Default)]
pub struct Followed {
    /// And their ports, with the number of backendRefs to each.
    ports: HashMap<Name, Vec<(Port, u32)>>,
    /// Those of them of which a port has no endpoints.
    empty: BTreeSet<Name>,
    /// Problems that are none of endpoints, sorted.
    lasting: Vec<Problem>,
}

impl Followed {
    pub fn note(&mut self, service: &Name, port: Port, is_empty: bool) {
        let ports = self.ports.entry_ref(service).or_default();
        match ports.iter_mut().find(|(known, _)| *known == port) {
            Some((_, count)) => *count += 1,
            None => ports.push((port, 1)),
        }
        if is_empty {
            self.empty.insert(service.clone());
        }
    }

    /// The route is not what it was.
    fn forget(&mut self, index: &Index, before: &Route) {
        let mut of_route = Followed::default();
        resolve(index, before, before.rules.backends(), &mut of_route);
        for (service, gone) in &of_route.ports {
            let Some(ports) = self.ports.get_mut(service) else { continue };
            for (port, count) in ports.iter_mut() {
                *count -= gone.iter().find(|(gone, _)| gone == port).map_or(0, |(_, count)| *count);
            }
            ports.retain(|(_, count)| *count > 0);
            if ports.is_empty() {
                self.ports.remove(service);
            }
        }
    }

    /// All that routes send to is noted, and all other problems are known.
    pub fn complete(&mut self, index: &Index, problems: &mut Vec<Problem>) {
        self.lasting.clone_from(problems);
        self.tell(index, problems);
    }

    /// The ports of the Service that routes send to, or their endpoints, have changed.
    fn look_again(&mut self, index: &Index, service: &Name) {
        match self.ports.get(service).is_some_and(|ports| has_empty(index, service, ports)) {
            true => drop(self.empty.insert(service.clone())),
            false => drop(self.empty.remove(service)),
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

fn has_empty(index: &Index, service: &Name, ports: &[(Port, u32)]) -> bool {
    let of_port = |((port, protocol), _): &(Port, u32)| index.endpoints(service)?.port(*port, *protocol);
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

/// Where in an IR what is.
#[derive(Debug, Default)]
struct Places {
    /// The endpoints of a Service, by its name as the targets have it. Sorted; some may have been there in former times.
    of_service: HashMap<Arc<str>, Vec<Place>>,
    /// The backends of a route, by its name as the sets have it.
    of_route: HashMap<Arc<str>, Vec<Place>>,
}

/// A listener, or one of its server names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Place {
    listener: usize,
    name: Option<usize>,
}

impl Places {
    fn of(ir: &Ir) -> Places {
        let mut places = Places::default();
        for (listener, of_listener) in ir.listeners.iter().enumerate() {
            match &of_listener.traffic {
                Traffic::Forward { backends, .. } => {
                    backends.iter().for_each(|set| places.add(Place { listener, name: None }, set));
                }
                Traffic::Tls { names, .. } => {
                    for (i, name) in names.iter().enumerate() {
                        name.backends.iter().for_each(|set| places.add(Place { listener, name: Some(i) }, set));
                    }
                }
                Traffic::Http(_) => {}
            }
        }
        places
    }

    fn add(&mut self, place: Place, set: &BackendSet) {
        self.of_route.entry_ref(&set.route).or_default().push(place);
        self.add_services(place, set);
    }

    fn add_services(&mut self, place: Place, set: &BackendSet) {
        for service in set.refs.iter().filter_map(|reference| reference.target.service()) {
            let places = self.of_service.entry_ref(service).or_default();
            if let Err(at) = places.binary_search(&place) {
                places.insert(at, place);
            }
        }
    }

    /// The route leads to these backends now.
    fn lead(&mut self, ir: &mut Arc<Ir>, set: &Arc<BackendSet>) {
        let places = self.of_route.get(&set.route).cloned().unwrap_or_default();
        for place in places {
            place.put(ir, Arc::clone(set));
            self.add_services(place, set);
        }
    }
}

/// By name, as the targets have it.
type Changed<'a> = HashMap<&'a str, &'a ServiceEndpoints>;

/// Sets of before, by where they are (so they are kept), and what has become of them: names that share one go on doing so.
type FollowedSets = HashMap<*const BackendSet, (Arc<BackendSet>, Arc<BackendSet>)>;

impl Place {
    fn follow(self, ir: &mut Arc<Ir>, changed: &Changed, followed: &mut FollowedSets) {
        let listener = &ir.listeners[self.listener];
        let Some(old) = self.set(listener) else { return };
        let new = match followed.get(&Arc::as_ptr(old)) {
            Some((_, new)) => Arc::clone(new),
            None => {
                let Some(new) = follow_set(old, listener.protocol(), changed).map(Arc::new) else { return };
                followed.insert(Arc::as_ptr(old), (Arc::clone(old), Arc::clone(&new)));
                new
            }
        };
        self.put(ir, new);
    }

    fn put(self, ir: &mut Arc<Ir>, new: Arc<BackendSet>) {
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
        let Target::Endpoints { service, port, endpoints, tls } = &reference.target else { continue };
        let now = changed.get(&**service).and_then(|of_service| of_service.port(*port, protocol));
        let Some(now) = now.filter(|now| !Arc::ptr_eq(now, endpoints)) else { continue };
        let (service, endpoints, tls) = (Arc::clone(service), Arc::clone(now), tls.clone());
        let target = Target::Endpoints { service, port: *port, endpoints, tls };
        new.get_or_insert_with(|| set.clone()).refs[i].target = target;
    }
    new
}
