//! In which order, and when, statuses are written. Namespaces take turns, so that one with thousands of routes holds up nobody else's;
//! objects that change with each of their routes (Gateways, ListenerSets) wait the longer the more often they change.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::index::{Kind, ObjectId};

/// A Gateway is written no sooner than this after it was touched: its routes come in bursts.
const GATHER: Duration = Duration::from_millis(20);
/// And after another write no sooner than this, doubled with each that follows.
const AGAIN: Duration = Duration::from_millis(250);
const LONGEST: Duration = Duration::from_secs(5);
/// After so long without a write it starts over.
const CALM: Duration = Duration::from_secs(20);

#[derive(Default)]
pub struct Queue {
    /// By namespace, the first first.
    lanes: BTreeMap<Arc<str>, VecDeque<ObjectId>>,
    /// The namespace whose turn was last.
    last: Option<Arc<str>>,
    waiting: BTreeSet<(Instant, ObjectId)>,
    /// Queued or waiting.
    known: BTreeMap<ObjectId, Option<Instant>>,
    paces: BTreeMap<ObjectId, Pace>,
}

/// Of an object that changes with others.
struct Pace {
    last: Instant,
    pause: Duration,
}

/// How much somebody wants to know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Urgency {
    /// A condition or an address.
    Soon,
    /// Only a number of routes.
    Counts,
}

impl Queue {
    /// Something of an object is to be written.
    pub fn push(&mut self, id: ObjectId, urgency: Urgency, now: Instant) {
        if !matches!(id.kind, Kind::Gateway | Kind::ListenerSet) {
            return self.ready(id);
        }
        let pace = self.paces.get(&id).filter(|pace| now < pace.last + CALM);
        let due = match (pace, urgency) {
            (Some(pace), Urgency::Counts) => (pace.last + pace.pause).max(now + GATHER),
            (Some(pace), Urgency::Soon) => (pace.last + AGAIN).max(now + GATHER),
            (None, _) => now + GATHER,
        };
        self.wait(id, due);
    }

    /// Not before then.
    pub fn wait(&mut self, id: ObjectId, due: Instant) {
        match self.known.get(&id) {
            Some(None) => return,
            Some(Some(known)) if *known <= due => return,
            Some(Some(known)) => drop(self.waiting.remove(&(*known, id.clone()))),
            None => {}
        }
        self.known.insert(id.clone(), Some(due));
        self.waiting.insert((due, id));
    }

    fn ready(&mut self, id: ObjectId) {
        match self.known.insert(id.clone(), None) {
            Some(None) => return,
            Some(Some(due)) => drop(self.waiting.remove(&(due, id.clone()))),
            None => {}
        }
        self.lanes.entry(Arc::clone(&id.name.namespace)).or_default().push_back(id);
    }

    /// The next one, if one is due.
    pub fn pop(&mut self, now: Instant) -> Option<ObjectId> {
        while let Some((due, _)) = self.waiting.first()
            && *due <= now
        {
            let Some((_, id)) = self.waiting.pop_first() else { break };
            self.known.remove(&id);
            self.ready(id);
        }
        let after = |last: &Arc<str>| {
            let above = (std::ops::Bound::Excluded(Arc::clone(last)), std::ops::Bound::Unbounded);
            self.lanes.range(above).next().map(|(namespace, _)| Arc::clone(namespace))
        };
        let next = self.last.as_ref().and_then(after).or_else(|| self.lanes.keys().next().cloned())?;
        let lane = self.lanes.get_mut(&next)?;
        let id = lane.pop_front()?;
        if lane.is_empty() {
            self.lanes.remove(&next);
        }
        self.last = Some(next);
        self.known.remove(&id);
        Some(id)
    }

    /// When something that waits is due.
    pub fn due(&self) -> Option<Instant> {
        self.waiting.first().map(|(due, _)| *due)
    }

    /// A status was written.
    pub fn written(&mut self, id: &ObjectId, now: Instant) {
        if !matches!(id.kind, Kind::Gateway | Kind::ListenerSet) {
            return;
        }
        self.paces.retain(|_, pace| now < pace.last + CALM);
        let pause = self.paces.get(id).map_or(AGAIN, |pace| (pace.pause * 2).min(LONGEST));
        self.paces.insert(id.clone(), Pace { last: now, pause });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::index::Name;

    fn id(kind: Kind, namespace: &str, name: &str) -> ObjectId {
        ObjectId { kind, name: Name { namespace: namespace.into(), name: name.into() } }
    }

    #[test]
    fn namespaces_take_turns() {
        let (mut queue, now) = (Queue::default(), Instant::now());
        for i in 0..3 {
            queue.push(id(Kind::HTTPRoute, "large", &format!("{i}")), Urgency::Soon, now);
        }
        queue.push(id(Kind::HTTPRoute, "small", "x"), Urgency::Soon, now);
        queue.push(id(Kind::HTTPRoute, "large", "0"), Urgency::Soon, now);
        let order: Vec<String> = std::iter::from_fn(|| queue.pop(now)).map(|id| id.name.to_string()).collect();
        assert_eq!(order, ["large/0", "small/x", "large/1", "large/2"]);
    }

    /// How often a Gateway is written whose routes come one by one.
    fn writes(routes: u32, every: Duration) -> u32 {
        let (mut queue, start) = (Queue::default(), Instant::now());
        let gateway = id(Kind::Gateway, "a", "gateway");
        let mut writes = 0;
        for i in 0..routes {
            let now = start + every * i;
            queue.push(gateway.clone(), Urgency::Counts, now);
            while let Some(id) = queue.pop(now) {
                writes += 1;
                queue.written(&id, now);
            }
        }
        writes + u32::from(queue.due().is_some())
    }

    #[test]
    fn a_thousand_routes_cost_a_gateway_at_most_fifty_writes() {
        for every in [1, 5, 20, 100, 200] {
            let writes = writes(1000, Duration::from_millis(every));
            assert!((1..=50).contains(&writes), "one every {every} ms: {writes} writes");
        }
    }

    #[test]
    fn a_condition_does_not_wait_as_long_as_a_number_of_routes() {
        let (mut queue, start) = (Queue::default(), Instant::now());
        let gateway = id(Kind::Gateway, "a", "gateway");
        for _ in 0..10 {
            queue.written(&gateway, start);
        }
        queue.push(gateway.clone(), Urgency::Counts, start);
        assert_eq!(queue.due(), Some(start + LONGEST));
        queue.push(gateway, Urgency::Soon, start);
        assert_eq!(queue.due(), Some(start + AGAIN));
    }
}
