//! What `compile` makes of an index, and how it follows changes at the cost of what they touch: a route is attached anew with those whose
//! lot it decides, and the listeners it is at are patched. What was followed is what it would be from nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::mem;
use std::sync::Arc;

use super::board::{Board, Dirt, RouteKey};
use super::http::{Memo, Resolver};
use super::listener_ir;
use super::policies::{Policies, Users};
use super::routes::{self, Outcome};
use super::services::{self, Services};
use super::stage::{At, Stage};
use super::{ListenerReport, Report, RouteReport};
use crate::index::{Index, Name, ObjectId, Reach, Route, RouteType};
use crate::ir::{Ir, Shards};
use crate::source::Problem;

/// The IR and the report of an index.
#[derive(Default)]
pub struct Compiled {
    pub ir: Arc<Ir>,
    pub report: Report,
    stage: Stage,
    board: Board,
    routes: BTreeMap<RouteKey, Attached>,
    services: Services,
    policies: Policies,
    users_of_policies: Users,
    policy_problems: Vec<Problem>,
    slice_problems: Vec<Problem>,
    /// Problems are sorted.
    is_settled: bool,
    /// Of listeners: where they are in the IR.
    places: BTreeMap<At, usize>,
    memo: Memo,
}

/// A route and what became of it.
struct Attached {
    route: Arc<Route>,
    /// Apart: the map has room for more routes than it has.
    outcome: Box<Outcome>,
}

/// What is to be looked at again when all routes are attached.
#[derive(Default)]
struct Errands {
    dirt: Dirt,
    services: BTreeSet<Name>,
    policies: bool,
}

impl Compiled {
    /// From nothing.
    pub fn of(index: &Index) -> Compiled {
        let mut compiled = Compiled::default();
        compiled.again(index, Stage::new(index));
        compiled
    }

    /// Takes in changes of the index.
    pub fn follow(&mut self, index: &Index, reach: &Reach) {
        let board = &self.board;
        if reach.everything || board.http_and_grpc != has_http_and_grpc(index) {
            return self.again(index, Stage::new(index));
        }
        let mut errands = Errands { policies: reach.policies, ..Errands::default() };
        if reach.listeners {
            let stage = Stage::new(index);
            if !stage.is_like(&self.stage) {
                return self.again(index, stage);
            }
            self.set_stage(stage);
            self.make_reports();
            self.make_listeners();
        }
        let mut again: BTreeSet<RouteKey> = BTreeSet::new();
        if reach.policies {
            let policies = Policies::new(index);
            let before = mem::replace(&mut self.policies, policies);
            let services = self.policies.changed(&before);
            again.extend(services.iter().flat_map(|service| self.services.users(service)).cloned());
        }
        for service in &reach.services {
            again.extend(self.services.users(service).iter().cloned());
            errands.policies |= self.policies.are_for(service);
        }
        for service in &reach.endpoints {
            // HTTP routes name the list, and do not have it.
            let users = self.services.users(service).iter();
            again.extend(users.filter(|(_, of)| !of.is_http()).cloned());
        }
        let by_grants = reach.grants.iter().flat_map(|namespace| self.services.users_in(namespace));
        again.extend(by_grants.cloned());
        let mut before = BTreeMap::new();
        for (id, old) in &reach.routes {
            let now = index.route(id).map(|route| route.precedence());
            if let Some(key) = old.as_ref().map(|old| old.precedence()).filter(|key| now.as_ref() != Some(key)) {
                let detached = self.detach(&key, &mut errands, &mut again);
                // It may only be of another age.
                before.extend(now.clone().zip(detached));
            }
            again.extend(now);
        }
        self.attach(index, again, before, &mut errands);
        errands.services.extend(reach.services.union(&reach.endpoints).cloned());
        self.finish(index, &errands);
        if reach.unread_slices {
            self.tell_slices(index);
        }
    }

    /// All of it, with what is equal to what there was as the same `Arc`.
    fn again(&mut self, index: &Index, stage: Stage) {
        let before = mem::take(self);
        let http_and_grpc = has_http_and_grpc(index);
        *self = Compiled {
            board: Board::new(stage.plans.iter().map(|plan| plan.listeners.len()), http_and_grpc),
            policies: Policies::new(index),
            memo: before.memo,
            ir: before.ir,
            ..Compiled::default()
        };
        self.report = Report {
            classes: before.report.classes,
            gateways: before.report.gateways,
            listener_sets: before.report.listener_sets,
            policies: before.report.policies,
            ..Report::default()
        };
        self.set_stage(stage);
        let mut errands = Errands { policies: true, ..Errands::default() };
        let all = index.routes_by_precedence().map(|route| route.precedence()).collect();
        self.attach(index, all, before.routes, &mut errands);
        errands.dirt = Dirt::default();
        self.make_reports();
        self.make_listeners();
        // Those that no route sends to any more are not asked for.
        Arc::make_mut(&mut self.ir).endpoints = Shards::default();
        self.finish(index, &errands);
        self.tell_slices(index);
        self.report.problems.sort_unstable();
        self.is_settled = true;
    }

    fn set_stage(&mut self, stage: Stage) {
        let before = mem::replace(&mut self.stage, stage);
        replace(&mut self.report.problems, self.is_settled, &before.problems, &self.stage.problems);
        let old_classes = mem::replace(&mut self.report.classes, self.stage.classes.clone());
        share(&mut self.report.classes, &old_classes, |report| &report.subject.name);
    }

    /// The route is not there any more.
    fn detach(&mut self, key: &RouteKey, errands: &mut Errands, again: &mut BTreeSet<RouteKey>) -> Option<Attached> {
        let Attached { route, outcome } = self.routes.remove(key)?;
        self.board.replace(key, (&outcome.takings, &[]), &mut errands.dirt, again);
        self.forget(key, &route, &outcome, errands);
        replace(&mut self.report.problems, self.is_settled, &outcome.problems, &[]);
        if let Ok(at) = self.report.routes.binary_search_by(|report| report.id.cmp(&route.id())) {
            self.report.routes.remove(at);
        }
        Some(Attached { route, outcome })
    }

    fn forget(&mut self, key: &RouteKey, route: &Route, outcome: &Outcome, errands: &mut Errands) {
        if outcome.report.is_some() {
            self.services.remove(key, route, &outcome.uses);
            errands.policies |= self.users_of_policies.remove(&outcome.uses);
            errands.services.extend(route.services().cloned());
        }
    }

    /// Attaches routes, and those whose lot that decides. `before`: what they came to in another time, to go on with.
    fn attach(
        &mut self,
        index: &Index,
        mut again: BTreeSet<RouteKey>,
        mut before: BTreeMap<RouteKey, Attached>,
        errands: &mut Errands,
    ) {
        while let Some(key) = again.pop_first() {
            let id = ObjectId { kind: key.1.kind(), name: key.0.name.clone() };
            let Some(route) = index.route(&id).filter(|route| route.precedence() == key) else { continue };
            let old = self.routes.remove(&key);
            let memo = before.remove(&key);
            let known = old.as_ref().or(memo.as_ref()).map(|attached| &attached.outcome);
            let resolver = Resolver {
                index,
                policies: &self.policies,
                memo: &mut self.memo,
                before: known.map(|known| &known.made[..]).unwrap_or_default(),
                made: Vec::new(),
                uses: Default::default(),
            };
            let mut outcome = routes::attach(index, &self.stage, &self.board, (&key, route), resolver);
            if let (Some(known), Some(new)) = (known.and_then(|known| known.report.as_ref()), &mut outcome.report)
                && known == new
            {
                *new = Arc::clone(known);
            }
            let (takings, problems) =
                old.as_ref().map_or((&[][..], &[][..]), |old| (&old.outcome.takings, &old.outcome.problems));
            self.board.replace(&key, (takings, &outcome.takings), &mut errands.dirt, &mut again);
            replace(&mut self.report.problems, self.is_settled, problems, &outcome.problems);
            self.put_report(&id, outcome.report.as_ref());
            if let Some(old) = old {
                self.forget(&key, &old.route, &old.outcome, errands);
            }
            if outcome.report.is_some() {
                self.services.add(&key, route, &outcome.uses);
                errands.policies |= self.users_of_policies.add(&outcome.uses);
                errands.services.extend(route.services().cloned());
            }
            self.routes.insert(key, Attached { route: Arc::clone(route), outcome: Box::new(outcome) });
        }
        self.memo.tidy();
    }

    fn put_report(&mut self, id: &ObjectId, report: Option<&Arc<RouteReport>>) {
        let routes = &mut self.report.routes;
        match (routes.binary_search_by(|report| report.id.cmp(id)), report) {
            (Ok(at), Some(report)) => routes[at] = Arc::clone(report),
            (Ok(at), None) => drop(routes.remove(at)),
            (Err(at), Some(report)) => routes.insert(at, Arc::clone(report)),
            (Err(_), None) => {}
        }
    }

    fn finish(&mut self, index: &Index, errands: &Errands) {
        for (at, hosts) in &errands.dirt.seats {
            let Some(place) = self.places.get(at) else { continue };
            let listener = &mut Arc::make_mut(&mut self.ir).listeners[*place];
            listener_ir::follow(&self.stage, *at, self.board.seat(*at), hosts, listener);
        }
        for at in &errands.dirt.counts {
            self.count(*at);
        }
        let changes = self.services.endpoints(index, &errands.services, &self.ir.endpoints);
        if !changes.is_empty() {
            let lists = &mut Arc::make_mut(&mut self.ir).endpoints;
            changes.into_iter().for_each(|(name, list)| lists.set(&name, list));
        }
        let (problems, is_settled) = (&mut self.report.problems, self.is_settled);
        self.services.look_again(index, &errands.services, |old, new| replace(problems, is_settled, old, new));
        if errands.policies {
            let (policies, problems) = self.policies.report(index, &self.users_of_policies);
            let old_policies = mem::replace(&mut self.report.policies, policies);
            share(&mut self.report.policies, &old_policies, |report| &report.subject.name);
            replace(&mut self.report.problems, self.is_settled, &self.policy_problems, &problems);
            self.policy_problems = problems;
        }
    }

    fn tell_slices(&mut self, index: &Index) {
        let problems = services::unread_slices(index);
        replace(&mut self.report.problems, self.is_settled, &self.slice_problems, &problems);
        self.slice_problems = problems;
    }

    /// The listeners of the IR.
    fn make_listeners(&mut self) {
        let before = mem::take(&mut self.ir);
        let mut listeners = Vec::with_capacity(before.listeners.len());
        for at in self.stage.listeners() {
            let name = self.stage.name(at);
            let old = before.listeners.binary_search_by(|old| old.name.cmp(&name)).ok().map(|i| &before.listeners[i]);
            let made = listener_ir::listener(&self.stage, at, self.board.seat(at), old);
            listeners.extend(made.map(|listener| (at, listener)));
        }
        listeners.sort_unstable_by(|(_, a), (_, b)| a.name.cmp(&b.name));
        self.places = listeners.iter().enumerate().map(|(place, (at, _))| (*at, place)).collect();
        let mut exclusive_addresses: Vec<_> =
            self.stage.plans.iter().flat_map(|plan| plan.exclusive_addresses()).collect();
        exclusive_addresses.sort_unstable();
        exclusive_addresses.dedup();
        let listeners = listeners.into_iter().map(|(_, listener)| listener).collect();
        let gateways = self.stage.gateways(&before.gateways);
        let mut announced_addresses: Vec<_> = self.stage.plans.iter().flat_map(|plan| plan.pool_addresses()).collect();
        announced_addresses.sort_unstable();
        announced_addresses.dedup();
        let endpoints = before.endpoints.clone();
        self.ir = Ir { listeners, gateways, exclusive_addresses, announced_addresses, endpoints }.into();
    }

    /// The reports of Gateways and ListenerSets.
    fn make_reports(&mut self) {
        let (gateways, sets) = self.stage.reports();
        let old_gateways = mem::replace(&mut self.report.gateways, gateways.into_iter().map(Arc::new).collect());
        let old_sets = mem::replace(&mut self.report.listener_sets, sets.into_iter().map(Arc::new).collect());
        let all: Vec<At> = self.stage.listeners().collect();
        all.into_iter().for_each(|at| self.count(at));
        share(&mut self.report.gateways, &old_gateways, |report| &report.subject.name);
        share(&mut self.report.listener_sets, &old_sets, |report| &report.subject.name);
    }

    /// Says how many routes a listener has.
    fn count(&mut self, at: At) {
        let (plan, listener) = (self.stage.plan(at), self.stage.listener(at));
        let (attached, place) = (self.board.seat(at).attached, listener.place);
        let is_other = |listeners: &[ListenerReport]| listeners.get(place).is_some_and(|l| l.attached != attached);
        let Report { gateways, listener_sets, .. } = &mut self.report;
        match listener.set {
            None => {
                let found = gateways.binary_search_by(|report| report.subject.name.cmp(&plan.gateway.meta.name));
                if let Some(report) = found.ok().map(|i| &mut gateways[i]).filter(|report| is_other(&report.listeners))
                {
                    Arc::make_mut(report).listeners[place].attached = attached;
                }
            }
            Some(set) => {
                let name = &plan.sets[set].set.meta.name;
                let found = listener_sets.binary_search_by(|report| report.subject.name.cmp(name));
                if let Some(report) =
                    found.ok().map(|i| &mut listener_sets[i]).filter(|report| is_other(&report.listeners))
                {
                    Arc::make_mut(report).listeners[place].attached = attached;
                }
            }
        }
    }
}

fn has_http_and_grpc(index: &Index) -> bool {
    index.has_routes(RouteType::Http) && index.has_routes(RouteType::Grpc)
}

/// Puts problems in the place of others. Unless `all` is sorted nothing is taken away.
fn replace(all: &mut Vec<Problem>, is_sorted: bool, old: &[Problem], new: &[Problem]) {
    if old == new {
        return;
    }
    if !is_sorted {
        return all.extend_from_slice(new);
    }
    for problem in old {
        if let Ok(at) = all.binary_search(problem) {
            all.remove(at);
        }
    }
    for problem in new {
        let at = all.partition_point(|other| other < problem);
        all.insert(at, problem.clone());
    }
}

/// What is equal to what there was is the same.
fn share<T: PartialEq>(new: &mut [Arc<T>], old: &[Arc<T>], name: impl Fn(&T) -> &Name) {
    for report in new {
        if let Ok(at) = old.binary_search_by(|old| name(old).cmp(name(report)))
            && old[at] == *report
        {
            *report = Arc::clone(&old[at]);
        }
    }
}
