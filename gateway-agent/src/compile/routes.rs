//! Which routes attach to which listeners, and which of them wins which host name.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use super::claims::Claims;
use super::follow::Followed;
use super::gateways::Plan;
use super::hostnames::intersection;
use super::listeners::{ListenerPlan, Winner, described};
use super::{Condition, ConditionType, ParentReport, Reason, RouteReport, backends};
use crate::index::{AllowedNamespaces, GATEWAY_GROUP, Gateway, Index, ListenerProtocol, Name, ParentRef, Route};
use crate::ir::{BackendSet, HostName};
use crate::source::{Problem, Severity};

/// Attaches every route, the first by precedence first: it wins the listener, or its host names there (GEP-2644: all are
/// accepted, the oldest gets the traffic). Returns the reports by kind and name.
pub fn attach<'a>(
    index: &'a Index,
    plans: &mut [Plan<'a>],
    claims: &Claims<'a>,
    followed: &mut Followed,
    problems: &mut Vec<Problem>,
) -> Vec<RouteReport> {
    let gateways: HashMap<Name, Sections> =
        plans.iter().enumerate().map(|(i, plan)| (plan.gateway.meta.name.clone(), Sections::of(i, plan))).collect();
    let mut reports = Vec::with_capacity(index.routes().len());
    let mut plain: BTreeSet<&Name> = BTreeSet::new();
    for route in index.routes_by_precedence() {
        let mut parents: Vec<(&ParentRef, &Sections)> = Vec::with_capacity(route.parents.len());
        for (i, parent) in route.parents.iter().enumerate() {
            match find_gateway(parent, &route.meta.name, &gateways, index) {
                Ok(sections) => parents.push((parent, sections)),
                Err((severity, message)) => {
                    let field = format!("spec.parentRefs[{i}]");
                    problems.push(Problem::of_object(severity, route.id(), &route.meta.origin, &field, message));
                }
            }
        }
        if parents.is_empty() {
            if route.parents.is_empty() {
                let message = "names no Gateway, so it does nothing; add spec.parentRefs";
                problems.push(Problem::of_object(Severity::Warning, route.id(), &route.meta.origin, "", message));
            }
            continue;
        }
        let (backends, resolved) = backends::resolve(index, route, followed);
        let taken = BTreeSet::new();
        let mut attachment = Attachment { index, claims, route, plans, backends: backends.into(), taken };
        let parents = parents.into_iter().map(|(reference, sections)| ParentReport {
            reference: reference.clone(),
            conditions: vec![attachment.accept(reference, sections), resolved.clone()],
        });
        reports.push(RouteReport { id: route.id(), subject: (&route.meta).into(), parents: parents.collect() });
        if attachment.has_plain_listener() {
            plain.extend(route.backends.iter().map(|backend| &backend.name));
        }
    }
    backends::without_proxy_protocol(index, &plain, problems);
    reports.sort_unstable_by(|a, b| a.id.cmp(&b.id));
    reports
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
    claims: &'p Claims<'a>,
    route: &'a Route,
    plans: &'p mut [Plan<'a>],
    backends: Arc<BackendSet>,
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
        let wanted: Vec<_> = open.iter().map(|&i| (i, self.hosts(&plan.listeners[i]))).collect();
        if wanted.iter().all(|(_, hosts)| hosts.is_empty()) {
            let others = refusals.into_iter().map(|why| format!("; {why}"));
            let message = no_such_host(&open, plan) + &others.collect::<String>();
            return refuse(Reason::NoMatchingListenerHostname, message);
        }
        let nowhere = self.hosts_of_nobody(open.iter().map(|&i| plan.listeners[i].hostname()));
        let wanted = wanted.into_iter().filter(|(_, hosts)| !hosts.is_empty());
        let mut remarks: Vec<String> = wanted.flat_map(|(i, hosts)| self.take(sections.gateway, i, hosts)).collect();
        remarks.extend(nowhere);
        let yes = |message| Condition::yes(ConditionType::Accepted, Reason::Accepted, message);
        match remarks.is_empty() {
            true => yes("The route is attached".into()),
            false => Condition { remark: true, ..yes(Cow::from(remarks.join("; "))) },
        }
    }

    /// `allowedRoutes` of a listener, for this route.
    fn why_not_allowed(&self, plan: &Plan, listener: &ListenerPlan) -> Option<String> {
        let section = &listener.spec.name;
        if !listener.takes.contains(&self.route.of) {
            let protocol = described(&listener.spec.protocol);
            return Some(format!("listener {section} ({protocol}) takes no {}", self.route.of));
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

    /// The host names that the route wants of a listener. A route without any wants all that the listener has.
    fn hosts(&self, listener: &ListenerPlan) -> Vec<HostName> {
        let of_listener = listener.hostname();
        if self.route.hostnames.is_empty() {
            return vec![of_listener.clone()];
        }
        let mut hosts: Vec<_> =
            self.route.hostnames.iter().filter_map(|host| intersection(host, of_listener)).collect();
        hosts.sort_unstable();
        hosts.dedup();
        hosts
    }

    /// Says which of its host names are within the hostname of no listener.
    fn hosts_of_nobody<'l>(&self, listeners: impl Iterator<Item = &'l HostName> + Clone) -> Option<String> {
        let is_nobodys = |host: &&HostName| listeners.clone().all(|listener| intersection(host, listener).is_none());
        let hosts: Vec<String> = self.route.hostnames.iter().filter(is_nobodys).map(ToString::to_string).collect();
        (!hosts.is_empty()).then(|| format!("spec.hostnames: no listener here takes {}", some(&hosts)))
    }

    /// Attaches to a listener; says so where that brings no traffic.
    fn take(&mut self, gateway: usize, i: usize, hosts: Vec<HostName>) -> Vec<String> {
        let (route, claims) = (self.route, self.claims);
        let Plan { gateway: own, addresses, listeners, .. } = &mut self.plans[gateway];
        let listener = &mut listeners[i];
        if self.taken.insert((gateway, i)) {
            listener.attached += 1;
        }
        let (spec, section) = (listener.spec, &listener.spec.name);
        let goes_by_names = matches!(spec.protocol, ListenerProtocol::Tls(_));
        let addresses = if goes_by_names && listener.holds_its_place() { &addresses[..] } else { &[] };
        let mut lost: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for host in hosts {
            let taken_away = |address| claims.taken_away(address, spec, &host);
            let not_on = || addresses.iter().copied().filter(|address| taken_away(*address).is_some()).collect();
            let winner = listener.hosts.entry(host.clone()).or_insert_with(|| Winner {
                of: route.of,
                name: &route.meta.name,
                backends: self.backends.clone(),
                not_on: not_on(),
            });
            let away = winner.not_on.first().and_then(|address| Some((address, taken_away(*address)?)));
            if let Some((address, owner)) = away {
                let section = &owner.listener.name;
                let to = match std::ptr::eq::<Gateway>(owner.gateway, own.as_ref()) {
                    true => format!("to listener {section}"),
                    false => format!("on {address} to listener {section} of Gateway {}", owner.gateway.meta.name),
                };
                lost.entry(format!("{to}, whose hostname is more specific")).or_default().push(host.to_string());
            } else if (winner.of, winner.name) != (route.of, &route.meta.name) {
                let by = format!("by {} {}, which comes first (the older, then by name)", winner.of, winner.name);
                lost.entry(by).or_default().push(host.to_string());
            }
        }
        let mut remarks: Vec<String> = lost
            .into_iter()
            .map(|(why, hosts)| match goes_by_names {
                true => format!(
                    "on listener {section} {} {} {why}",
                    some(&hosts),
                    if hosts.len() == 1 { "goes" } else { "go" }
                ),
                false => format!("listener {section} forwards {why}"),
            })
            .collect();
        if !listener.serves() && (goes_by_names || remarks.is_empty()) {
            let why = if listener.holds_its_place() { "refuses connections" } else { "is not in the data plane" };
            remarks.push(format!("listener {section} {why}; see its conditions"));
        }
        remarks
    }

    /// It is attached to a listener that forwards without looking inside.
    fn has_plain_listener(&self) -> bool {
        let listeners = self.taken.iter().map(|&(gateway, i)| &self.plans[gateway].listeners[i]);
        listeners.into_iter().any(|listener| matches!(listener.spec.protocol, ListenerProtocol::Forwarded(_)))
    }
}

/// Enough of them for a message.
fn some(names: &[String]) -> String {
    let more = if names.len() > 8 { " and more" } else { "" };
    names[..names.len().min(8)].join(", ") + more
}

fn no_such_host(open: &[usize], plan: &Plan) -> String {
    let of_listener = |i: &usize| {
        let listener = &plan.listeners[*i];
        format!("{} ({})", listener.spec.name, listener.hostname())
    };
    let open: Vec<String> = open.iter().map(of_listener).collect();
    format!("spec.hostnames: none is within the hostname of {} of Gateway {}", some(&open), plan.gateway.meta.name)
}

fn no_such_listener(parent: &ParentRef, plan: &Plan) -> String {
    let wanted = match (&parent.section, parent.port) {
        (Some(section), Some(port)) => format!("named {section} with port {port}"),
        (Some(section), None) => format!("named {section}"),
        (None, Some(port)) => format!("with port {port}"),
        (None, None) => "at all".to_owned(),
    };
    let listeners: Vec<String> =
        plan.listeners.iter().map(|l| format!("{} (port {})", l.spec.name, l.spec.port)).collect();
    format!("Gateway {} has no listener {wanted}; it has {}", plan.gateway.meta.name, some(&listeners))
}
