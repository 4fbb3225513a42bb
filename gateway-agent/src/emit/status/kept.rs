//! The statuses of all objects. What is kept is since when each condition says what it says: the rest is made of the report when somebody asks.

use std::cmp::Ordering;
use std::sync::Arc;

use jiff::Timestamp;

use super::{ConditionStatus, ObjectStatus, Place, Reported};
use crate::compile::Report;
use crate::index::ObjectId;

/// Sorted by kind and name.
#[derive(Default)]
pub struct Kept(Vec<Entry>);

struct Entry {
    report: Arc<dyn Reported>,
    /// Seconds since 1970, of the conditions in their order: Kubernetes knows whole ones.
    since: Box<[i64]>,
}

/// Of whom there may be another status.
struct Walk<'k> {
    entries: &'k mut Vec<Entry>,
    at: usize,
    now: i64,
    changed: Vec<ObjectId>,
}

impl Kept {
    /// Takes in a report. Says whose statuses are not what they were, or who has one no more. Each condition gets the time of its last
    /// transition: the earlier one while it says the same as before, else `now`.
    pub fn follow(&mut self, report: &Report, now: Timestamp) -> Vec<ObjectId> {
        let mut walk = Walk { entries: &mut self.0, at: 0, now: now.as_second(), changed: Vec::new() };
        walk.go(&report.classes);
        walk.go(&report.gateways);
        walk.go(&report.listener_sets);
        walk.go(&report.routes);
        walk.go(&report.policies);
        let Walk { entries, at, mut changed, .. } = walk;
        changed.extend(entries.drain(at..).map(|gone| gone.id()));
        changed
    }

    pub fn find(&self, id: &ObjectId) -> Option<ObjectStatus> {
        let found = self.0.binary_search_by(|entry| entry.report.key().cmp(&(id.kind, &id.name)));
        found.ok().map(|at| self.0[at].status())
    }

    pub fn ids(&self) -> impl Iterator<Item = ObjectId> {
        self.0.iter().map(Entry::id)
    }

    pub fn iter(&self) -> impl Iterator<Item = ObjectStatus> {
        self.0.iter().map(Entry::status)
    }
}

impl Entry {
    fn id(&self) -> ObjectId {
        let (kind, name) = self.report.key();
        ObjectId { kind, name: name.clone() }
    }

    fn status(&self) -> ObjectStatus {
        let mut status = self.report.status();
        for ((_, condition), second) in status.status.conditions_mut().into_iter().zip(&self.since) {
            condition.last_transition_time = Timestamp::from_second(*second).ok();
        }
        status
    }
}

impl Walk<'_> {
    fn go<R: Reported + 'static>(&mut self, reports: &[Arc<R>]) {
        for report in reports {
            // Nearly always it is the same.
            let is_same = |entry: &Entry| Arc::as_ptr(&entry.report).cast::<()>() == Arc::as_ptr(report).cast::<()>();
            if self.entries.get(self.at).is_none_or(|entry| !is_same(entry)) {
                self.put(Arc::clone(report) as Arc<dyn Reported>);
            }
            self.at += 1;
        }
    }

    fn put(&mut self, report: Arc<dyn Reported>) {
        let order = |entry: &Entry| entry.report.key().cmp(&report.key());
        let count = self.entries[self.at..].iter().take_while(|entry| order(entry) == Ordering::Less).count();
        self.changed.extend(self.entries.drain(self.at..self.at + count).map(|gone| gone.id()));
        let status = report.status();
        match self.entries.get_mut(self.at).filter(|entry| order(entry) == Ordering::Equal) {
            Some(entry) => {
                let before = entry.status();
                *entry = Entry { report, since: times(&status, &before, self.now) };
                if entry.status() != before {
                    self.changed.push(entry.id());
                }
            }
            None => {
                let since = status.status.conditions().iter().map(|_| self.now).collect();
                let entry = Entry { report, since };
                self.changed.push(entry.id());
                self.entries.insert(self.at, entry);
            }
        }
    }
}

/// Since when each condition says what it says.
fn times(status: &ObjectStatus, before: &ObjectStatus, now: i64) -> Box<[i64]> {
    let old = before.status.conditions();
    let since = |(i, (place, condition)): (usize, (Place<'_>, &ConditionStatus))| {
        let is_it =
            |(old_place, old): &&(Place<'_>, &ConditionStatus)| *old_place == place && old.kind == condition.kind;
        let same = old.get(i).filter(is_it).or_else(|| old.iter().find(is_it)).map(|(_, old)| *old);
        let same = same.filter(|old| old.status == condition.status);
        same.and_then(|old| old.last_transition_time).map_or(now, Timestamp::as_second)
    };
    status.status.conditions().into_iter().enumerate().map(since).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compile::{ClassReport, Condition, ConditionType, Reason, Subject};
    use crate::index::{Name, Origin};

    fn class(name: &str, accepted: bool) -> Arc<ClassReport> {
        let condition = |kind, status| match status {
            true => Condition::yes(kind, Reason::Accepted, ""),
            false => Condition::no(kind, Reason::Accepted, ""),
        };
        let name = Name { namespace: "".into(), name: name.into() };
        let subject = Subject { name, generation: 0, origin: Origin { file: "a.yaml".into(), line: 1 } };
        let conditions =
            vec![condition(ConditionType::Accepted, accepted), condition(ConditionType::SupportedVersion, true)];
        Arc::new(ClassReport { subject, conditions })
    }

    fn report(classes: &[&Arc<ClassReport>]) -> Report {
        Report { classes: classes.iter().map(|class| Arc::clone(class)).collect(), ..Report::default() }
    }

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    /// Of each object, when its first and its second condition changed.
    fn seconds(kept: &Kept) -> Vec<Vec<i64>> {
        let time = |(_, c): (Place<'_>, &ConditionStatus)| c.last_transition_time.unwrap().as_second();
        kept.iter().map(|s| s.status.conditions().into_iter().map(time).collect()).collect()
    }

    #[test]
    fn what_changed_is_told_and_conditions_keep_their_times_while_objects_come_and_go() {
        let (b, e) = (class("b", true), class("e", true));
        let mut kept = Kept::default();
        let first = kept.follow(&report(&[&class("a", true), &b, &class("c", false), &e]), at(1));
        assert_eq!(first.len(), 4);
        // `b` is made again as it was.
        let second = report(&[&class("b", true), &class("c", true), &class("d", true), &e]);
        let changed = kept.follow(&second, at(2));
        let names: Vec<&str> = changed.iter().map(|id| &*id.name.name).collect();
        assert_eq!(names, ["a", "c", "d"]);
        assert_eq!(seconds(&kept), [[1, 1], [2, 1], [2, 2], [1, 1]]);
        assert_eq!(kept.find(&changed[1]).map(|status| status.id()), Some(changed[1].clone()));
        assert_eq!(kept.find(&changed[0]), None);
        let rest = kept.follow(&report(&[&b]), at(3));
        assert_eq!((rest.len(), seconds(&kept)), (3, vec![vec![1, 1]]));
    }

    #[test]
    fn a_condition_keeps_its_time_in_another_place_of_its_list() {
        let mut kept = Kept::default();
        kept.follow(&report(&[&class("a", true)]), at(1));
        let mut turned = ClassReport::clone(&class("a", false));
        turned.conditions.reverse();
        kept.follow(&report(&[&turned.into()]), at(2));
        assert_eq!(seconds(&kept), [[1, 2]]);
    }
}
