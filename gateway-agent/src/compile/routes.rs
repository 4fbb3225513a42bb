//! Which routes attach to which listeners, and which of them wins.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use super::gateways::{Fate, ListenerPlan, Plan};
use super::{Condition, ConditionType, ParentReport, Reason, RouteReport, backends};
use crate::index::{AllowedNamespaces, GATEWAY_GROUP, Index, Kind, Name, ObjectId, ParentRef, Route};
use crate::source::{Problem, Severity};

/// Attaches every route, the first by precedence first: it wins the listener (GEP-2644: all are accepted, the oldest
/// gets the traffic). Returns the reports by kind and name.
pub fn attach<'a>(index: &'a Index, plans: &mut [Plan<'a>], problems: &mut Vec<Problem>) -> Vec<RouteReport> {
    let gateways: HashMap<Name, Sections> =
        plans.iter().enumerate().map(|(i, plan)| (plan.gateway.meta.name.clone(), Sections::of(i, plan))).collect();
    let mut routes: Vec<&Arc<Route>> = index.routes().collect();
    routes.sort_by_cached_key(|route| (route.protocol, route.meta.precedence()));
    let mut reports = Vec::with_capacity(routes.len());
    let mut winners: HashMap<(usize, usize), &Name> = HashMap::new();
    let mut empty: BTreeSet<&Name> = BTreeSet::new();
    for route in routes {
        let mut attachment = Attachment { index, route, plans, winners: &mut winners, taken: BTreeSet::new() };
        let mut parents: Vec<(&ParentRef, Condition)> = Vec::with_capacity(route.parents.len());
        for (i, parent) in route.parents.iter().enumerate() {
            match find_gateway(parent, &route.meta.name, &gateways, index) {
                Ok(sections) => parents.push((parent, attachment.accept(parent, sections))),
                Err((severity, message)) => {
                    let field = format!("spec.parentRefs[{i}]");
                    problems.push(Problem::of_object(severity, id(route), &route.meta.origin, &field, message));
                }
            }
        }
        let taken = attachment.taken;
        if parents.is_empty() {
            if route.parents.is_empty() {
                let message = "names no Gateway, so it does nothing; add spec.parentRefs";
                problems.push(Problem::of_object(Severity::Warning, id(route), &route.meta.origin, "", message));
            }
            continue;
        }
        let (backends, resolved) = backends::resolve(index, route, &mut empty);
        let backends = Arc::new(backends);
        for &(gateway, listener) in &taken {
            let listener = &mut plans[gateway].listeners[listener];
            listener.backends.get_or_insert_with(|| backends.clone());
        }
        let parents = parents.into_iter().map(|(reference, accepted)| ParentReport {
            reference: reference.clone(),
            conditions: vec![accepted, resolved.clone()],
        });
        reports.push(RouteReport { id: id(route), subject: (&route.meta).into(), parents: parents.collect() });
    }
    backends::empty_services(index, &empty, problems);
    reports.sort_unstable_by(|a, b| a.id.cmp(&b.id));
    reports
}

fn id(route: &Route) -> ObjectId {
    ObjectId { kind: Kind::of_route(route.protocol), name: route.meta.name.clone() }
}

/// A Gateway's place among the plans, and its listeners by name.
struct Sections {
    gateway: usize,
    by_name: HashMap<Arc<str>, usize>,
}

impl Sections {
    fn of(gateway: usize, plan: &Plan) -> Sections {
        let by_name = plan.listeners.iter().enumerate().map(|(i, l)| (l.spec.name.clone(), i)).collect();
        Sections { gateway, by_name }
    }

    /// The listeners that `sectionName` and `port` leave.
    fn select(&self, parent: &ParentRef, listeners: &[ListenerPlan]) -> Vec<usize> {
        let fits = |i: &usize| parent.port.is_none_or(|port| listeners[*i].spec.port == port);
        match &parent.section {
            Some(section) => self.by_name.get(section).copied().filter(fits).into_iter().collect(),
            None => (0..listeners.len()).filter(fits).collect(),
        }
    }
}

/// The Gateway a parentRef means, or why Sluice leaves it aside.
fn find_gateway<'a>(
    parent: &ParentRef,
    route: &Name,
    gateways: &'a HashMap<Name, Sections>,
    index: &Index,
) -> Result<&'a Sections, (Severity, String)> {
    let group = parent.group.as_deref().unwrap_or(GATEWAY_GROUP);
    let kind = parent.kind.as_deref().unwrap_or("Gateway");
    if (group, kind) != (GATEWAY_GROUP, "Gateway") {
        return Err((Severity::Warning, format!("a {kind} is no parent for Sluice, only a Gateway is; ignored")));
    }
    let namespace = parent.namespace.clone().unwrap_or_else(|| route.namespace.clone());
    let name = Name { namespace, name: parent.name.clone() };
    gateways.get(&name).ok_or_else(|| match index.gateway(&name) {
        Some(_) => (Severity::Note, format!("Gateway {name} is not served by Sluice; ignored")),
        None => (Severity::Error, format!("there is no Gateway {name}; create it or correct the reference")),
    })
}

/// One route looking for listeners.
struct Attachment<'p, 'a> {
    index: &'a Index,
    route: &'a Route,
    plans: &'p mut [Plan<'a>],
    winners: &'p mut HashMap<(usize, usize), &'a Name>,
    /// (Gateway, listener) that the route is attached to.
    taken: BTreeSet<(usize, usize)>,
}

impl Attachment<'_, '_> {
    /// The condition `Accepted` for one parentRef.
    fn accept(&mut self, parent: &ParentRef, sections: &Sections) -> Condition {
        let refuse = |reason, message| Condition::no(ConditionType::Accepted, reason, message);
        if self.route.rules > 1 {
            let message = format!(
                "spec.rules: {} rules, and nothing in a packet could choose between them; leave one",
                self.route.rules
            );
            return refuse(Reason::UnsupportedValue, message);
        }
        let plan = &self.plans[sections.gateway];
        let selected = sections.select(parent, &plan.listeners);
        if selected.is_empty() {
            return refuse(Reason::NoMatchingParent, no_such_listener(parent, plan));
        }
        let mut refusals = Vec::new();
        let mut open = Vec::new();
        for i in selected {
            match self.why_not_allowed(plan, &plan.listeners[i]) {
                None => open.push(i),
                Some(why) => refusals.push(why),
            }
        }
        if open.is_empty() {
            return refuse(Reason::NotAllowedByListeners, refusals.join("; "));
        }
        let remarks: Vec<String> = open.iter().filter_map(|&i| self.take(sections.gateway, i)).collect();
        let message = if remarks.is_empty() { "The route is attached".into() } else { remarks.join("; ").into() };
        Condition { kind: ConditionType::Accepted, status: true, reason: Reason::Accepted, message }
    }

    /// `allowedRoutes` of a listener, for this route.
    fn why_not_allowed(&self, plan: &Plan, listener: &ListenerPlan) -> Option<String> {
        let section = &listener.spec.name;
        if listener.supported != Some(self.route.protocol) {
            let kind = Kind::of_route(self.route.protocol);
            return Some(format!("listener {section} ({}) takes no {kind}", listener.spec.protocol));
        }
        let namespace = &self.route.meta.name.namespace;
        let allowed = match &listener.spec.namespaces {
            AllowedNamespaces::All => true,
            AllowedNamespaces::Same => *namespace == plan.gateway.meta.name.namespace,
            AllowedNamespaces::Selector(selector) => self.index.selects(selector, namespace),
            AllowedNamespaces::None => false,
        };
        (!allowed).then(|| {
            format!("listener {section} takes no routes of namespace {namespace}; its allowedRoutes.namespaces decides")
        })
    }

    /// Attaches to a listener; says so where that brings no traffic.
    fn take(&mut self, gateway: usize, i: usize) -> Option<String> {
        let listener = &mut self.plans[gateway].listeners[i];
        if self.taken.insert((gateway, i)) {
            listener.attached += 1;
        }
        let name = &self.route.meta.name;
        let winner = *self.winners.entry((gateway, i)).or_insert(name);
        let section = &listener.spec.name;
        if winner != name {
            let kind = Kind::of_route(self.route.protocol);
            Some(format!("listener {section} forwards by {kind} {winner}, which comes first (the older, then by name)"))
        } else if matches!(listener.fate, Fate::Programmed) {
            None
        } else {
            Some(format!("listener {section} is not in the data plane; see its conditions"))
        }
    }
}

fn no_such_listener(parent: &ParentRef, plan: &Plan) -> String {
    let wanted = match (&parent.section, parent.port) {
        (Some(section), Some(port)) => format!("named {section} with port {port}"),
        (Some(section), None) => format!("named {section}"),
        (None, Some(port)) => format!("with port {port}"),
        (None, None) => "at all".to_owned(),
    };
    let some: Vec<String> =
        plan.listeners.iter().take(8).map(|l| format!("{} (port {})", l.spec.name, l.spec.port)).collect();
    let more = if plan.listeners.len() > 8 { " and more" } else { "" };
    format!("Gateway {} has no listener {wanted}; it has {}{more}", plan.gateway.meta.name, some.join(", "))
}
