//! ListenerSets: which Gateway they are for, whether it lets them, and what their status says.

use std::collections::HashMap;
use std::sync::Arc;

use super::gateways::{Plan, still_accepted};
use super::{Condition, ConditionType, Reason, SetReport};
use crate::index::{AllowedNamespaces, GATEWAY_GROUP, Gateway, Index, Kind, ListenerSet, Name, ObjectId};
use crate::source::{Problem, Severity};

/// A ListenerSet on its way to the IR.
pub struct SetPlan {
    pub set: Arc<ListenerSet>,
    /// By `allowedListeners` of the Gateway.
    pub allowed: bool,
}

impl SetPlan {
    pub fn new(set: &Arc<ListenerSet>, gateway: &Gateway, index: &Index) -> SetPlan {
        let namespace = &set.meta.name.namespace;
        let allowed = match &gateway.listener_sets {
            AllowedNamespaces::All => true,
            AllowedNamespaces::Same => *namespace == gateway.meta.name.namespace,
            AllowedNamespaces::Selector(selector) => index.selects(selector, namespace),
            AllowedNamespaces::None => false,
        };
        SetPlan { set: Arc::clone(set), allowed }
    }
}

/// The Gateway that a ListenerSet is for; `None`: it is for something else.
fn parent(set: &ListenerSet) -> Option<Name> {
    let group = set.parent.group.as_deref().unwrap_or(GATEWAY_GROUP);
    let kind = set.parent.kind.as_deref().unwrap_or("Gateway");
    let namespace = set.parent.namespace.as_ref().unwrap_or(&set.meta.name.namespace);
    ((group, kind) == (GATEWAY_GROUP, "Gateway"))
        .then(|| Name { namespace: namespace.clone(), name: set.parent.name.clone() })
}

/// The first by precedence first.
pub fn by_gateway(index: &Index) -> HashMap<Name, Vec<&Arc<ListenerSet>>> {
    let mut sets: Vec<&Arc<ListenerSet>> = index.listener_sets().collect();
    sets.sort_by_cached_key(|set| set.meta.precedence());
    let mut by_gateway: HashMap<Name, Vec<&Arc<ListenerSet>>> = HashMap::new();
    for set in sets {
        if let Some(gateway) = parent(set) {
            by_gateway.entry(gateway).or_default().push(set);
        }
    }
    by_gateway
}

/// Those that no Gateway of ours is named by have no status.
pub fn without_gateway(index: &Index, plans: &[Plan], problems: &mut Vec<Problem>) {
    for set in index.listener_sets() {
        let (severity, message) = match parent(set) {
            None => (Severity::Warning, "only a Gateway is a parent for Sluice; ignored".to_owned()),
            Some(name) if plans.iter().any(|plan| plan.gateway.meta.name == name) => continue,
            Some(name) if index.gateway(&name).is_some() => {
                (Severity::Note, format!("Gateway {name} is not served by Sluice; ignored"))
            }
            Some(name) => (Severity::Error, format!("there is no Gateway {name}; create it or correct the reference")),
        };
        let id = ObjectId { kind: Kind::ListenerSet, name: set.meta.name.clone() };
        problems.push(Problem::of_object(severity, id, &set.meta.origin, "spec.parentRef", message));
    }
}

/// The report of a ListenerSet of a plan, but for its listeners.
pub fn report(plan: &Plan, number: usize) -> SetReport {
    let SetPlan { set, allowed } = &plan.sets[number];
    let own = || plan.listeners.iter().filter(|listener| listener.set == Some(number));
    let named = |invalid: bool| {
        let named: Vec<&str> = own().filter(|l| l.is_invalid() == invalid).map(|l| &*l.spec.name).collect();
        named.join(", ")
    };
    let gateway = &plan.gateway.meta.name;
    let no = |accepted: Reason, programmed: Reason, message: String| {
        vec![
            Condition::no(ConditionType::Accepted, accepted, message.clone()),
            Condition::no(ConditionType::Programmed, programmed, message),
        ]
    };
    let conditions = if !allowed {
        let message = format!(
            "Gateway {gateway} takes no ListenerSets of namespace {}; allow it in its spec.allowedListeners",
            set.meta.name.namespace
        );
        no(Reason::NotAllowed, Reason::NotAllowed, message)
    } else if plan.is_refused() {
        let message = format!("Gateway {gateway} is not accepted; see its conditions");
        no(Reason::ParentNotAccepted, Reason::ParentNotAccepted, message)
    } else if let Some(why) = set.refused.as_deref().filter(|_| set.listeners.is_empty()) {
        no(Reason::Invalid, Reason::Invalid, why.to_owned())
    } else if own().all(|listener| listener.is_invalid()) {
        let message = format!("No listener is valid; see the conditions of {}", named(true));
        no(Reason::ListenersNotValid, Reason::ListenersNotValid, message)
    } else {
        let accepted = if own().any(|listener| listener.is_invalid()) {
            let message = format!("Served: {}; not valid, see their conditions: {}", named(false), named(true));
            Condition::yes(ConditionType::Accepted, Reason::ListenersNotValid, message)
        } else {
            Condition::yes(
                ConditionType::Accepted,
                Reason::Accepted,
                "The listeners are served with those of the Gateway",
            )
        };
        // A Gateway whose own listeners are not valid has addresses all the same.
        let programmed = if !plan.addresses.is_empty() {
            Condition::yes(ConditionType::Programmed, Reason::Programmed, "The listeners are in the data plane")
        } else {
            let message = format!("Gateway {gateway} is not programmed; see its conditions");
            Condition::no(ConditionType::Programmed, Reason::ParentNotProgrammed, message)
        };
        vec![still_accepted(accepted, set.refused.as_deref()), programmed]
    };
    SetReport { subject: (&set.meta).into(), gateway: gateway.clone(), conditions, listeners: Vec::new() }
}
