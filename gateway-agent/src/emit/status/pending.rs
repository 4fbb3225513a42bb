//! What is programmed here, and is not yet wherever it must be.

use std::sync::Arc;

use super::{ConditionStatus, ListenerStatus, ObjectStatus, Place, Status};
use crate::addresses::Behind;
use crate::compile::{ConditionType, Reason};
use crate::emit::in_force;

impl ObjectStatus {
    /// Whether anything of it counts as programmed on this node.
    pub fn is_programmed(&self) -> bool {
        matches!(self.status, Status::Gateway(_) | Status::ListenerSet(_))
            && self.status.conditions().iter().any(|(_, condition)| is_programmed(condition))
    }

    /// Its listeners that are programmed, as other nodes name those that they lack.
    pub fn listeners_in_force(&self) -> Vec<Box<str>> {
        let id = self.id();
        self.in_force().map(|listener| in_force::listener(id.kind, &id.name, &listener.name)).collect()
    }

    /// Takes `Programmed` back where other nodes are behind. Listeners are those of [`ObjectStatus::listeners_in_force`].
    pub fn take_back(&mut self, behind: &Behind) {
        let programmed: Vec<Arc<str>> = self.in_force().map(|listener| listener.name.clone()).collect();
        let message = |place: &Place| match (behind, place) {
            (Behind::Whole(message), _) => Some(message.clone()),
            (Behind::Listeners(messages), Place::Own) => messages.values().next().cloned(),
            (Behind::Listeners(messages), Place::Listener(name)) => {
                let at = programmed.iter().position(|listener| **listener == **name)?;
                messages.get(&at).cloned()
            }
            (_, Place::Parent(_)) => None,
        };
        for (place, condition) in self.status.conditions_mut() {
            if let Some(message) = message(&place).filter(|_| is_programmed(condition)) {
                condition.status = false;
                condition.reason = Reason::Pending;
                condition.message = message.into();
            }
        }
    }

    fn in_force(&self) -> impl Iterator<Item = &ListenerStatus> {
        let listeners = match &self.status {
            Status::Gateway(status) => &status.listeners[..],
            Status::ListenerSet(status) => &status.listeners,
            _ => &[],
        };
        listeners.iter().filter(|listener| listener.conditions.iter().any(is_programmed))
    }
}

fn is_programmed(condition: &ConditionStatus) -> bool {
    condition.kind == ConditionType::Programmed && condition.status
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::emit::status::{Metadata, SetStatus};
    use crate::index::Kind;

    fn conditions(programmed: bool) -> Vec<ConditionStatus> {
        let condition = |kind, status| ConditionStatus {
            kind,
            status,
            reason: Reason::Accepted,
            message: "".into(),
            observed_generation: 1,
            last_transition_time: None,
        };
        vec![condition(ConditionType::Accepted, true), condition(ConditionType::Programmed, programmed)]
    }

    /// Its second listener is not programmed here either.
    fn set() -> ObjectStatus {
        let listener = |(name, programmed): (&str, bool)| ListenerStatus {
            name: name.into(),
            supported_kinds: Vec::new(),
            attached_routes: 0,
            conditions: conditions(programmed),
        };
        let listeners = [("a", true), ("b", false), ("c", true)].map(listener).into();
        ObjectStatus {
            api_version: "gateway.networking.k8s.io/v1",
            kind: Kind::ListenerSet,
            metadata: Metadata { name: "set".into(), namespace: Some("x".into()) },
            status: Status::ListenerSet(SetStatus { conditions: conditions(true), listeners }),
        }
    }

    fn programmed(status: &ObjectStatus) -> Vec<(bool, Reason, &str)> {
        let conditions = status.status.conditions().into_iter().map(|(_, condition)| condition);
        let programmed = conditions.filter(|condition| condition.kind == ConditionType::Programmed);
        programmed.map(|condition| (condition.status, condition.reason, &*condition.message)).collect()
    }

    #[test]
    fn what_is_behind_is_pending_and_what_was_not_programmed_says_why_as_before() {
        let (yes, no) = ((true, Reason::Accepted, ""), (false, Reason::Accepted, ""));
        let pending = (false, Reason::Pending, "late");
        assert_eq!(set().listeners_in_force(), ["ListenerSet x/set a".into(), "ListenerSet x/set c".into()]);

        let mut whole = set();
        whole.take_back(&Behind::Whole("late".to_owned()));
        assert_eq!(programmed(&whole), [pending, pending, no, pending]);
        assert!(!whole.is_programmed());

        let mut second = set();
        second.take_back(&Behind::Listeners([(1, "late".to_owned())].into()));
        assert_eq!(programmed(&second), [pending, yes, no, pending]);
    }
}
