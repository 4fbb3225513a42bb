//! What does not depend on routes: the Gateways with their listeners, and who has which address, port and hostname.

use std::collections::HashMap;
use std::sync::Arc;

use super::claims::{self, Claims};
use super::gateways::{self, Plan};
use super::listeners::ListenerPlan;
use super::{ClassReport, GatewayReport, SetReport, overlaps};
use crate::index::{Index, Kind, Name, ParentRef};
use crate::ir::{self, ListenerName};
use crate::source::Problem;

#[derive(Default)]
pub struct Stage {
    /// The first by precedence first.
    pub plans: Vec<Plan>,
    pub claims: Claims,
    /// By what parentRefs name.
    pub sections: HashMap<(Kind, Name), Sections>,
    pub classes: Vec<Arc<ClassReport>>,
    pub problems: Vec<Problem>,
}

/// A listener: its Gateway's place among the plans, and its own there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct At {
    pub gateway: usize,
    pub listener: usize,
}

/// What a parentRef can mean: a Gateway's own listeners, or those of a ListenerSet.
pub struct Sections {
    /// The Gateway's place among the plans.
    pub gateway: usize,
    /// `None`: the Gateway itself.
    pub set: Option<usize>,
    by_name: HashMap<Arc<str>, usize>,
}

impl Stage {
    pub fn new(index: &Index) -> Stage {
        let mut problems = Vec::new();
        let classes = gateways::classes(index, &mut problems);
        let mut plans = gateways::plan(index, &classes, &mut problems);
        let classes = classes.into_iter().map(|class| class.report).collect();
        let claims = claims::settle(&mut plans);
        overlaps::mark(&mut plans);
        let sections = sections(&plans);
        Stage { plans, claims, sections, classes, problems }
    }

    /// Whether routes find the same here as there.
    pub fn is_like(&self, other: &Stage) -> bool {
        self.plans.len() == other.plans.len() && self.plans.iter().zip(&other.plans).all(|(a, b)| is_like(a, b))
    }

    pub fn plan(&self, at: At) -> &Plan {
        &self.plans[at.gateway]
    }

    pub fn listener(&self, at: At) -> &ListenerPlan {
        &self.plans[at.gateway].listeners[at.listener]
    }

    pub fn listeners(&self) -> impl Iterator<Item = At> {
        let of_plan = |(gateway, plan): (usize, &Plan)| {
            let count = plan.listeners.len();
            (0..count).map(move |listener| At { gateway, listener })
        };
        self.plans.iter().enumerate().flat_map(of_plan)
    }

    /// Names of listeners are unique within their object only, and have no slash: one of a ListenerSet is `namespace/name/listener`.
    pub fn name(&self, at: At) -> ListenerName {
        let (plan, listener) = (self.plan(at), self.listener(at));
        let section = &listener.spec.name;
        let Name { namespace, name: gateway } = plan.gateway.meta.name.clone();
        let section = match listener.set {
            Some(set) => format!("{}/{section}", plan.sets[set].set.meta.name).into(),
            None => section.clone(),
        };
        ListenerName { namespace, gateway, section }
    }

    /// Those that are accepted, by name; what is the same in `before` stays the same `Arc`.
    pub fn gateways(&self, before: &[Arc<ir::Gateway>]) -> Vec<Arc<ir::Gateway>> {
        let made = self.plans.iter().filter(|plan| !plan.is_refused()).map(|plan| {
            let Name { namespace, name } = plan.gateway.meta.name.clone();
            let new = ir::Gateway { namespace, name, infrastructure: plan.gateway.infrastructure.clone() };
            before.iter().find(|old| ***old == new).map_or_else(|| Arc::new(new), Arc::clone)
        });
        let mut gateways: Vec<_> = made.collect();
        gateways.sort_unstable_by(|a, b| (&a.namespace, &a.name).cmp(&(&b.namespace, &b.name)));
        gateways
    }

    /// By name, but for the routes that are attached.
    pub fn reports(&self) -> (Vec<GatewayReport>, Vec<SetReport>) {
        let mut gateways = Vec::with_capacity(self.plans.len());
        let mut all_sets = Vec::new();
        for (gateway, sets) in self.plans.iter().map(Plan::report) {
            gateways.push(gateway);
            all_sets.extend(sets);
        }
        gateways.sort_unstable_by(|a, b| a.subject.name.cmp(&b.subject.name));
        all_sets.sort_unstable_by(|a, b| a.subject.name.cmp(&b.subject.name));
        (gateways, all_sets)
    }
}

/// What certificates there are, and what is said of them, is no business of routes.
fn is_like(a: &Plan, b: &Plan) -> bool {
    let of_set = |(a, b): (&super::listener_sets::SetPlan, &super::listener_sets::SetPlan)| {
        a.allowed == b.allowed && a.set.meta.name == b.set.meta.name
    };
    let of_listener = |(a, b): (&ListenerPlan, &ListenerPlan)| {
        a.spec == b.spec
            && a.set == b.set
            && a.takes == b.takes
            && a.serves() == b.serves()
            && a.holds_its_place() == b.holds_its_place()
    };
    a.gateway.meta.name == b.gateway.meta.name
        && a.addresses == b.addresses
        && a.client.key() == b.client.key()
        && a.sets.len() == b.sets.len()
        && a.sets.iter().zip(&b.sets).all(of_set)
        && a.listeners.len() == b.listeners.len()
        && a.listeners.iter().zip(&b.listeners).all(of_listener)
}

fn sections(plans: &[Plan]) -> HashMap<(Kind, Name), Sections> {
    let mut sections = HashMap::new();
    for (gateway, plan) in plans.iter().enumerate() {
        let of = |set: Option<usize>| {
            let own = plan.listeners.iter().enumerate().filter(move |(_, listener)| listener.set == set);
            Sections { gateway, set, by_name: own.map(|(i, l)| (l.spec.name.clone(), i)).collect() }
        };
        sections.insert((Kind::Gateway, plan.gateway.meta.name.clone()), of(None));
        for (i, set) in plan.sets.iter().enumerate() {
            sections.insert((Kind::ListenerSet, set.set.meta.name.clone()), of(Some(i)));
        }
    }
    sections
}

impl Sections {
    /// The listeners that `sectionName` and `port` leave.
    pub fn select(&self, parent: &ParentRef, listeners: &[ListenerPlan]) -> Vec<usize> {
        let fits = |i: &usize| parent.port.is_none_or(|port| listeners[*i].spec.port == port);
        match &parent.section {
            Some(section) => self.by_name.get(section).copied().filter(fits).into_iter().collect(),
            None => (0..listeners.len()).filter(|i| listeners[*i].set == self.set).filter(fits).collect(),
        }
    }

    /// `Gateway namespace/name`
    pub fn title(&self, plan: &Plan) -> String {
        match self.set {
            Some(set) => format!("ListenerSet {}", plan.sets[set].set.meta.name),
            None => format!("Gateway {}", plan.gateway.meta.name),
        }
    }
}
