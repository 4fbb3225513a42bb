//! Report → which listeners are in the maps and tables of this node, for the other nodes of a cluster.

#![forbid(unsafe_code)]

use std::collections::BTreeSet;
use std::hash::{DefaultHasher, Hash, Hasher};

use crate::compile::{ConditionType, ListenerReport, Report, Subject};
use crate::index::{Kind, Name};

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct InForce {
    /// Another one when something else is in force than before.
    pub digest: u64,
    /// By [`listener`].
    pub lacking: BTreeSet<Box<str>>,
}

/// `report`: with what `apply` has to say.
pub fn in_force(report: &Report) -> InForce {
    let mut found = InForce::default();
    let mut hasher = DefaultHasher::new();
    let mut take = |kind: Kind, subject: &Subject, listeners: &[ListenerReport]| {
        for report in listeners {
            if report.conditions.iter().any(|c| c.kind == ConditionType::Programmed && c.status) {
                (kind, &subject.name, subject.generation, &report.name).hash(&mut hasher);
            } else {
                found.lacking.insert(listener(kind, &subject.name, &report.name));
            }
        }
    };
    for gateway in &report.gateways {
        take(Kind::Gateway, &gateway.subject, &gateway.listeners);
    }
    for set in &report.listener_sets {
        take(Kind::ListenerSet, &set.subject, &set.listeners);
    }
    for address in report.gateways.iter().flat_map(|gateway| &gateway.addresses) {
        address.hash(&mut hasher);
    }
    found.digest = hasher.finish();
    found
}

/// How a listener is named to the other nodes: `Gateway namespace/name listener`.
pub fn listener(kind: Kind, object: &Name, listener: &str) -> Box<str> {
    format!("{kind} {object} {listener}").into()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::compile::{Condition, GatewayReport, Reason};
    use crate::index::Origin;

    fn report(generation: i64, listeners: &[(&str, bool)]) -> Report {
        let listener = |(name, programmed): &(&str, bool)| {
            let condition = match programmed {
                true => Condition::yes(ConditionType::Programmed, Reason::Programmed, ""),
                false => Condition::no(ConditionType::Programmed, Reason::NoResources, ""),
            };
            ListenerReport {
                name: Arc::from(*name),
                port: 80,
                supported: Vec::new(),
                attached: 0,
                conditions: vec![Condition::yes(ConditionType::Accepted, Reason::Accepted, ""), condition],
            }
        };
        let name = Name { namespace: "x".into(), name: "edge".into() };
        let gateway = GatewayReport {
            subject: Subject { name, generation, origin: Origin { file: "".into(), line: 0 } },
            conditions: Vec::new(),
            addresses: Vec::new(),
            of_pool: Vec::new(),
            listeners: listeners.iter().map(listener).collect(),
            attached_sets: None,
        };
        Report { gateways: vec![gateway.into()], ..Report::default() }
    }

    #[test]
    fn listeners_that_are_not_programmed_are_named_and_only_the_others_count() {
        let nothing = in_force(&report(1, &[("a", false)]));
        assert_eq!(nothing.lacking, BTreeSet::from(["Gateway x/edge a".into()]));
        assert_eq!(nothing.digest, in_force(&Report::default()).digest, "there is no news in that");
        let one = in_force(&report(1, &[("a", true), ("b", false)]));
        assert_eq!(one.lacking, BTreeSet::from(["Gateway x/edge b".into()]));
        let others = [report(1, &[("a", true), ("b", true)]), report(2, &[("a", true), ("b", false)])];
        assert!(others.iter().all(|other| in_force(other).digest != one.digest) && one.digest != nothing.digest);
    }
}
