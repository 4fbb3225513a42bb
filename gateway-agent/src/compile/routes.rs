//! Which listeners a route attaches to, and what its status says. It is looked at alone: what it finds of other routes is on the board,
//! and only those that come before it count.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use super::board::{Board, Content, RouteKey, Taking};
use super::gateways::Plan;
use super::hostnames::intersection;
use super::http::{Made, Resolver};
use super::listeners::{ListenerPlan, described};
use super::services::Uses;
use super::stage::{At, Sections, Stage};
use super::{Condition, ConditionType, ParentReport, Reason, RouteReport, backends, some};
use crate::index::{
    AllowedNamespaces, GATEWAY_GROUP, Index, Kind, ListenerProtocol, Name, ParentRef, Route, RouteType, Rules,
};
use crate::ir::{BackendSet, HostName, http};
use crate::source::{Problem, Severity};

/// What became of a route.
#[derive(Default)]
pub struct Outcome {
    /// `None`: it has no parent among Gateways of ours, and nothing of it counts.
    pub report: Option<Arc<RouteReport>>,
    pub problems: Vec<Problem>,
    pub takings: Vec<Taking>,
    pub uses: Uses,
    pub made: Vec<Made>,
}

/// Attaches a route to its listeners: what it wants of them. The first by precedence gets it (GEP-2644: all are accepted, the oldest
/// gets the traffic).
pub fn attach<'a>(
    index: &'a Index,
    stage: &Stage,
    board: &Board,
    (key, route): (&RouteKey, &'a Arc<Route>),
    mut resolver: Resolver<'a>,
) -> Outcome {
    let mut problems = Vec::new();
    let mut parents: Vec<(&ParentRef, &Sections)> = Vec::with_capacity(route.parents.len());
    for (i, parent) in route.parents.iter().enumerate() {
        match find_parent(parent, &route.meta.name, &stage.sections, index) {
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
        return Outcome { problems, ..Outcome::default() };
    }
    let forward = match &route.rules {
        Rules::Forward { backends, .. } => Some(backends::resolve(index, route, backends, &mut resolver.uses)),
        Rules::Http(_) | Rules::Refused(_) => None,
    };
    let mut attachment = Attachment { index, stage, board, key, route, takings: Vec::new() };
    let mut of_parents = Vec::with_capacity(parents.len());
    let forward = forward.map(|(backends, resolved)| (Arc::new(backends), resolved));
    for (reference, sections) in parents {
        let (content, resolved) = match (&forward, &route.rules) {
            (Some((plain, resolved)), _) => {
                let plan = &stage.plans[sections.gateway];
                let ends_tls = |i: usize| plan.listeners[i].spec.protocol.ends_tls();
                let inside = match sections.select(reference, &plan.listeners).into_iter().any(ends_tls) {
                    true => resolver.inside(plain, route, route.rules.backends(), &plan.gateway, &plan.client),
                    false => Arc::clone(plain),
                };
                (Offer::Forward { plain: Arc::clone(plain), inside }, resolved.clone())
            }
            (None, Rules::Http(rules)) => {
                let plan = &stage.plans[sections.gateway];
                let made = resolver.route(route, rules, &plan.gateway.meta.name, &plan.client);
                (Offer::Http(made.route), made.condition)
            }
            (None, _) => (Offer::Nothing, backends::resolved()),
        };
        let accepted = attachment.accept(reference, sections, &content);
        of_parents.push(ParentReport { reference: reference.clone(), conditions: vec![accepted, resolved] });
    }
    let report = Arc::new(RouteReport { id: route.id(), subject: (&route.meta).into(), parents: of_parents });
    resolver.uses.is_plain = attachment.has_plain_listener();
    let Resolver { mut uses, mut made, .. } = resolver;
    // They stay as long as the route does, and there are thousands.
    uses.shrink();
    made.shrink_to_fit();
    attachment.takings.shrink_to_fit();
    Outcome { report: Some(report), problems, takings: attachment.takings, uses, made }
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
enum Offer {
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
struct Attachment<'p> {
    index: &'p Index,
    stage: &'p Stage,
    board: &'p Board,
    key: &'p RouteKey,
    route: &'p Route,
    /// Of each listener one.
    takings: Vec<Taking>,
}

impl Attachment<'_> {
    /// The condition `Accepted` for one parentRef.
    fn accept(&mut self, parent: &ParentRef, sections: &Sections, content: &Offer) -> Condition {
        let refuse = |reason, message| Condition::no(ConditionType::Accepted, reason, message);
        match &self.route.rules {
            Rules::Forward { count: 0 | 1, .. } | Rules::Http(_) => {}
            Rules::Forward { count, .. } => {
                let message =
                    format!("spec.rules: {count} rules, and nothing in a packet could choose between them; leave one");
                return refuse(Reason::UnsupportedValue, message);
            }
            Rules::Refused(why) => return refuse(Reason::UnsupportedValue, why.to_string()),
        }
        let plan = &self.stage.plans[sections.gateway];
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
        let (wanted, clashes) = self.without_other_type(sections.gateway, wanted);
        if wanted.is_empty() {
            return refuse(Reason::HostnameConflict, clashes.join("; "));
        }
        let nowhere = self.hosts_of_nobody(open.iter().map(|&i| plan.listeners[i].hostname()));
        let mut remarks = clashes;
        for (i, hosts) in wanted {
            remarks.extend(self.take(At { gateway: sections.gateway, listener: i }, hosts, content));
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
        &mut self,
        gateway: usize,
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
            let at = At { gateway, listener: i };
            let seat = self.board.seat(at);
            let clash = hosts.iter().find_map(|host| Some((host, seat.owner(other, host, self.key)?)));
            let Some((host, (owner, _))) = clash else {
                free.push((i, hosts));
                continue;
            };
            clashes.push(format!(
                "spec.hostnames: on listener {} {host} has names in common with {other} {}, which comes first (the older, then by \
                 name), and a host cannot have both types; give one of them another host name",
                self.stage.listener(at).spec.name,
                owner.name
            ));
            self.want(at, hosts, Content::Clash);
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
            format!(
                "listener {section} takes no routes of namespace {namespace}; allow it in its allowedRoutes.namespaces"
            )
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

    /// Of several parentRefs that mean one listener the first counts.
    fn want(&mut self, at: At, hosts: Vec<HostName>, content: Content) {
        if self.takings.iter().all(|taking| taking.at != at) {
            self.takings.push(Taking { at, hosts: hosts.into(), content });
        }
    }

    /// Attaches to a listener; says so where that brings no traffic.
    fn take(&mut self, at: At, hosts: Vec<HostName>, content: &Offer) -> Vec<String> {
        let (plan, listener, claims) = (self.stage.plan(at), self.stage.listener(at), &self.stage.claims);
        let seat = self.board.seat(at);
        let (spec, section) = (&listener.spec, &listener.spec.name);
        let goes_by_names = spec.protocol.hostname().is_some();
        let addresses = if goes_by_names && listener.holds_its_place() { &plan.addresses[..] } else { &[] };
        let mut lost: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for host in &hosts {
            let away = addresses.iter().find_map(|address| Some((address, claims.taken_away(*address, spec, host)?)));
            let by_another = match content {
                Offer::Forward { .. } => seat.winner(host, self.key),
                Offer::Http(_) | Offer::Nothing => None,
            };
            if let Some((address, owner)) = away {
                let section = &owner.listener.name;
                let to = match Arc::ptr_eq(&owner.gateway, &plan.gateway) && owner.set.is_none() {
                    true => format!("to listener {section}"),
                    false => format!("on {address} to {owner}"),
                };
                lost.entry(format!("{to}, whose hostname is more specific")).or_default().push(host.to_string());
            } else if let Some((first, of)) = by_another {
                let by = format!("by {of} {}, which comes first (the older, then by name)", first.name);
                lost.entry(by).or_default().push(host.to_string());
            }
        }
        match content {
            Offer::Forward { plain, inside } => {
                let backends = if spec.protocol.ends_tls() { inside } else { plain };
                self.want(at, hosts, Content::Forward(Arc::clone(backends)));
            }
            Offer::Http(route) => self.want(at, hosts, Content::Http(Arc::clone(route))),
            Offer::Nothing => {}
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
        let mut listeners = self.takings.iter().map(|taking| self.stage.listener(taking.at));
        listeners.any(|listener| matches!(listener.spec.protocol, ListenerProtocol::Forwarded(_)))
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
