//! Which routes attach to which listeners, and which of them wins which host name.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use super::claims::Claims;
use super::gateways::Plan;
use super::hostnames::intersection;
use super::http::Resolver;
use super::listeners::{ListenerPlan, Winner, described};
use super::{Condition, ConditionType, ParentReport, Reason, RouteReport, backends, some};
use crate::index::{
    AllowedNamespaces, GATEWAY_GROUP, Gateway, Index, Kind, ListenerProtocol, Name, ParentRef, Route, RouteType, Rules,
};
use crate::ir::{BackendSet, HostName, http};
use crate::source::{Problem, Severity};

/// Attaches every route, the first by precedence first: it wins the listener, or its host names there (GEP-2644: all are
/// accepted, the oldest gets the traffic). Returns the reports by kind and name.
pub fn attach<'a>(
    index: &'a Index,
    plans: &mut [Plan<'a>],
    claims: &Claims<'a>,
    resolver: &mut Resolver<'a, '_>,
    problems: &mut Vec<Problem>,
) -> Vec<RouteReport> {
    let sections = sections(plans);
    let has = |of| index.routes().any(|route| route.of == of);
    let http_and_grpc = has(RouteType::Http) && has(RouteType::Grpc);
    let mut reports = Vec::with_capacity(index.routes().len());
    let mut plain: BTreeSet<&Name> = BTreeSet::new();
    for route in index.routes_by_precedence() {
        let mut parents: Vec<(&ParentRef, &Sections)> = Vec::with_capacity(route.parents.len());
        for (i, parent) in route.parents.iter().enumerate() {
            match find_parent(parent, &route.meta.name, &sections, index) {
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
        let forward = match &route.rules {
            Rules::Forward { backends, .. } => Some(backends::resolve(index, route, backends, resolver.followed)),
            Rules::Http(_) => None,
        };
        let taken = BTreeSet::new();
        let mut attachment = Attachment { index, claims, route, plans, http_and_grpc, taken };
        let mut of_parents = Vec::with_capacity(parents.len());
        let forward = forward.map(|(backends, resolved)| (Arc::new(backends), resolved));
        for (reference, sections) in parents {
            let (content, resolved) = match (&forward, &route.rules) {
                (Some((plain, resolved)), _) => {
                    let plan = &attachment.plans[sections.gateway];
                    let ends_tls = |i: usize| plan.listeners[i].spec.protocol.ends_tls();
                    let inside = match sections.select(reference, &plan.listeners).into_iter().any(ends_tls) {
                        true => resolver.inside(plain, route, route.rules.backends(), plan.gateway, &plan.client),
                        false => Arc::clone(plain),
                    };
                    (Content::Forward { plain: Arc::clone(plain), inside }, resolved.clone())
                }
                (None, Rules::Http(Ok(rules))) => {
                    let plan = &attachment.plans[sections.gateway];
                    let made = resolver.route(route, rules, &plan.gateway.meta.name, &plan.client);
                    (Content::Http(made.route), made.condition)
                }
                (None, _) => (Content::Nothing, backends::resolved()),
            };
            let accepted = attachment.accept(reference, sections, &content);
            of_parents.push(ParentReport { reference: reference.clone(), conditions: vec![accepted, resolved] });
        }
        reports.push(RouteReport { id: route.id(), subject: (&route.meta).into(), parents: of_parents });
        if attachment.has_plain_listener() {
            plain.extend(route.rules.backends().iter().map(|backend| &backend.name));
        }
    }
    backends::without_proxy_protocol(index, &plain, problems);
    reports.sort_unstable_by(|a, b| a.id.cmp(&b.id));
    reports
}

/// What a parentRef can mean: a Gateway's own listeners, or those of a ListenerSet.
struct Sections {
    /// The Gateway's place among the plans.
    gateway: usize,
    /// `None`: the Gateway itself.
    set: Option<usize>,
    by_name: HashMap<Arc<str>, usize>,
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
    fn select(&self, parent: &ParentRef, listeners: &[ListenerPlan]) -> Vec<usize> {
        let fits = |i: &usize| parent.port.is_none_or(|port| listeners[*i].spec.port == port);
        match &parent.section {
            Some(section) => self.by_name.get(section).copied().filter(fits).into_iter().collect(),
            None => (0..listeners.len()).filter(|i| listeners[*i].set == self.set).filter(fits).collect(),
        }
    }

    /// `Gateway namespace/name`
    fn title(&self, plan: &Plan) -> String {
        match self.set {
            Some(set) => format!("ListenerSet {}", plan.sets[set].set.meta.name),
            None => format!("Gateway {}", plan.gateway.meta.name),
        }
    }
}

/// What a parentRef means, or why Sluice leaves it aside.
fn find_parent<'a>(
    parent: &ParentRef,
    route: &Name,
    sections: &'a HashMap<(Kind, Name), Sections>,
    index: &Index,
) -> Result<&'a Sections, (Severity, String)> {
    let group = parent.group.as_deref().unwrap_or(GATEWAY_GROUP);
    let kind = parent.kind.as_deref().unwrap_or("Gateway");
    let namespace = parent.namespace.clone().unwrap_or_else(|| route.namespace.clone());
    let name = Name { namespace, name: parent.name.clone() };
    let (kind, is_there) = match (group, kind) {
        (GATEWAY_GROUP, "Gateway") => (Kind::Gateway, index.gateway(&name).is_some()),
        (GATEWAY_GROUP, "ListenerSet") => (Kind::ListenerSet, index.listener_set(&name).is_some()),
        _ => {
            let message = format!("a {kind} is no parent for Sluice, only a Gateway or ListenerSet is; ignored");
            return Err((Severity::Warning, message));
        }
    };
    sections.get(&(kind, name.clone())).ok_or_else(|| match is_there {
        true => (Severity::Note, format!("{kind} {name} is not served by Sluice; ignored")),
        false => (Severity::Error, format!("there is no {kind} {name}; create it or correct the reference")),
    })
}

/// What a route brings to a listener.
enum Content {
    Forward {
        plain: Arc<BackendSet>,
        /// For what the agent takes out of TLS.
        inside: Arc<BackendSet>,
    },
    Http(Arc<http::Route>),
    /// It is not accepted anyway.
    Nothing,
}

/// One route looking for listeners.
struct Attachment<'p, 'a> {
    index: &'a Index,
    claims: &'p Claims<'a>,
    route: &'a Route,
    plans: &'p mut [Plan<'a>],
    /// There are routes of both types, which must not share host names of a listener.
    http_and_grpc: bool,
    /// (Gateway, listener) that the route is attached to.
    taken: BTreeSet<(usize, usize)>,
}

impl Attachment<'_, '_> {
    /// The condition `Accepted` for one parentRef.
    fn accept(&mut self, parent: &ParentRef, sections: &Sections, content: &Content) -> Condition {
        let refuse = |reason, message| Condition::no(ConditionType::Accepted, reason, message);
        match &self.route.rules {
            Rules::Forward { count: 0 | 1, .. } | Rules::Http(Ok(_)) => {}
            Rules::Forward { count, .. } => {
                let message =
                    format!("spec.rules: {count} rules, and nothing in a packet could choose between them; leave one");
                return refuse(Reason::UnsupportedValue, message);
            }
            Rules::Http(Err(why)) => return refuse(Reason::UnsupportedValue, why.to_string()),
        }
        let plan = &self.plans[sections.gateway];
        let title = sections.title(plan);
        if sections.set.is_some_and(|set| !plan.sets[set].allowed) {
            let message = format!("{title} is not allowed by its Gateway; see its conditions");
            return refuse(Reason::NoMatchingParent, message);
        }
        let selected = sections.select(parent, &plan.listeners);
        if selected.is_empty() {
            return refuse(Reason::NoMatchingParent, no_such_listener(parent, sections, plan));
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
            let message = no_such_host(&open, &title, plan) + &others.collect::<String>();
            return refuse(Reason::NoMatchingListenerHostname, message);
        }
        let wanted = wanted.into_iter().filter(|(_, hosts)| !hosts.is_empty());
        let (wanted, clashes) = self.without_other_type(plan, wanted);
        if wanted.is_empty() {
            return refuse(Reason::HostnameConflict, clashes.join("; "));
        }
        let nowhere = self.hosts_of_nobody(open.iter().map(|&i| plan.listeners[i].hostname()));
        let mut remarks = clashes;
        for (i, hosts) in wanted {
            remarks.extend(self.take(sections.gateway, i, hosts, content));
        }
        remarks.extend(nowhere);
        let yes = |message| Condition::yes(ConditionType::Accepted, Reason::Accepted, message);
        match remarks.is_empty() {
            true => yes("The route is attached".into()),
            false => Condition { remark: true, ..yes(Cow::from(remarks.join("; "))) },
        }
    }

    /// Leaves out listeners where a route of the other of both types has a host name in common, and says so: exactly one of two such
    /// routes is accepted (GRPCRoute, "hostnames").
    fn without_other_type(
        &self,
        plan: &Plan,
        wanted: impl Iterator<Item = (usize, Vec<HostName>)>,
    ) -> (Vec<(usize, Vec<HostName>)>, Vec<String>) {
        let other = match self.route.of {
            RouteType::Http => RouteType::Grpc,
            RouteType::Grpc => RouteType::Http,
            _ => return (wanted.collect(), Vec::new()),
        };
        let mut free = Vec::new();
        let mut clashes = Vec::new();
        for (i, hosts) in wanted {
            let listener = &plan.listeners[i];
            let taken = listener.taken.get(&other);
            let clash = hosts.iter().find_map(|host| Some((host, taken?.owner(host)?)));
            match clash {
                None => free.push((i, hosts)),
                Some((host, owner)) => clashes.push(format!(
                    "spec.hostnames: on listener {} {host} has names in common with {other} {owner}, which comes first (the older, then by \
                     name), and a host cannot have both types; give one of them another host name",
                    listener.spec.name
                )),
            }
        }
        (free, clashes)
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
            AllowedNamespaces::Same => *namespace == plan.owner(listener).0.name.namespace,
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
    fn take(&mut self, gateway: usize, i: usize, hosts: Vec<HostName>, content: &Content) -> Vec<String> {
        let (route, claims) = (self.route, self.claims);
        let Plan { gateway: own, addresses, listeners, .. } = &mut self.plans[gateway];
        let listener = &mut listeners[i];
        let is_new = self.taken.insert((gateway, i));
        if is_new {
            listener.attached += 1;
            if self.http_and_grpc {
                let taken = listener.taken.entry(route.of).or_default();
                hosts.iter().for_each(|host| taken.take(host, &route.meta.name));
            }
        }
        let (spec, section) = (listener.spec, &listener.spec.name);
        let goes_by_names = spec.protocol.hostname().is_some();
        let addresses = if goes_by_names && listener.holds_its_place() { &addresses[..] } else { &[] };
        let mut lost: BTreeMap<String, Vec<String>> = BTreeMap::new();
        let mut of_http = Vec::new();
        for host in hosts {
            let taken_away = |address| claims.taken_away(address, spec, &host);
            let away = addresses.iter().find_map(|address| Some((address, taken_away(*address)?)));
            let mut by_another = None;
            if let Content::Forward { plain, inside } = content {
                let backends = if spec.protocol.ends_tls() { inside } else { plain };
                let not_on = || addresses.iter().copied().filter(|address| taken_away(*address).is_some()).collect();
                let winner = listener.hosts.entry(host.clone()).or_insert_with(|| Winner {
                    of: route.of,
                    name: &route.meta.name,
                    backends: Arc::clone(backends),
                    not_on: not_on(),
                });
                if (winner.of, winner.name) != (route.of, &route.meta.name) {
                    let by = format!("by {} {}, which comes first (the older, then by name)", winner.of, winner.name);
                    by_another = Some(by);
                }
            }
            if let Some((address, owner)) = away {
                let section = &owner.listener.name;
                let to = match std::ptr::eq::<Gateway>(owner.gateway, own.as_ref()) && owner.set.is_none() {
                    true => format!("to listener {section}"),
                    false => format!("on {address} to {owner}"),
                };
                lost.entry(format!("{to}, whose hostname is more specific")).or_default().push(host.to_string());
            } else if let Some(by) = by_another {
                lost.entry(by).or_default().push(host.to_string());
            }
            of_http.push(host);
        }
        if let (Content::Http(route), true) = (content, is_new) {
            listener.http.push(http::Attachment { hosts: of_http, route: Arc::clone(route) });
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

fn no_such_host(open: &[usize], title: &str, plan: &Plan) -> String {
    let of_listener = |i: &usize| {
        let listener = &plan.listeners[*i];
        format!("{} ({})", listener.spec.name, listener.hostname())
    };
    let open: Vec<String> = open.iter().map(of_listener).collect();
    format!("spec.hostnames: none is within the hostname of {} of {title}", some(&open))
}

fn no_such_listener(parent: &ParentRef, sections: &Sections, plan: &Plan) -> String {
    let wanted = match (&parent.section, parent.port) {
        (Some(section), Some(port)) => format!("named {section} with port {port}"),
        (Some(section), None) => format!("named {section}"),
        (None, Some(port)) => format!("with port {port}"),
        (None, None) => "at all".to_owned(),
    };
    let own = plan.listeners.iter().filter(|listener| listener.set == sections.set);
    let listeners: Vec<String> = own.map(|l| format!("{} (port {})", l.spec.name, l.spec.port)).collect();
    format!("{} has no listener {wanted}; it has {}", sections.title(plan), some(&listeners))
}
