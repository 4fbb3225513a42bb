//! In which order, and when, statuses are written. GatewayClasses and Gateways come first, of which there are few. Of the others only so many
//! are written a second, and namespaces take turns, so that one with thousands of routes holds up neither the API server nor anybody else's;
//! objects that change with each of their routes (Gateways, ListenerSets) wait the longer the more often they change.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::apply::bucket::Bucket;
use crate::index::{Kind, ObjectId};

/// A Gateway is written no sooner than this after it was touched: its routes come in bursts.
const GATHER: Duration = Duration::from_millis(20);
/// And after another write no sooner than this, doubled with each that follows.
const AGAIN: Duration = Duration::from_millis(250);
const LONGEST: Duration = Duration::from_secs(5);
/// After so long without a write it starts over.
const CALM: Duration = Duration::from_secs(20);

/// Of what does not come first so many at once, and then one for each such time: some more than controllers that write this much make of
/// their client's limit.
const BURST: u32 = 200;
const EACH: Duration = Duration::from_millis(10);

pub struct Queue {
    first: VecDeque<ObjectId>,
    bucket: Bucket,
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
    /// Other nodes were waited for, long enough for whatever else there is.
    Now,
}

impl Queue {
    pub fn new(now: Instant) -> Queue {
        Queue {
            first: VecDeque::new(),
            bucket: Bucket::new(BURST, EACH, now),
            lanes: BTreeMap::new(),
            last: None,
            waiting: BTreeSet::new(),
            known: BTreeMap::new(),
            paces: BTreeMap::new(),
        }
    }

    /// Something of an object is to be written.
    pub fn push(&mut self, id: ObjectId, urgency: Urgency, now: Instant) {
        if !matches!(id.kind, Kind::Gateway | Kind::ListenerSet) {
            return self.ready(id);
        }
        let pace = self.paces.get(&id).filter(|pace| now < pace.last + CALM);
        let due = match (pace, urgency) {
            (_, Urgency::Now) => now,
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
        if matches!(id.kind, Kind::GatewayClass | Kind::Gateway) {
            return self.first.push_back(id);
        }
        self.lanes.entry(Arc::clone(&id.name.namespace)).or_default().push_back(id);
    }

    /// The next one, if one is due and may be written.
    pub fn pop(&mut self, now: Instant) -> Option<ObjectId> {
        while let Some((due, _)) = self.waiting.first()
            && *due <= now
        {
            let Some((_, id)) = self.waiting.pop_first() else { break };
            self.known.remove(&id);
            self.ready(id);
        }
        if let Some(id) = self.first.pop_front() {
            self.known.remove(&id);
            return Some(id);
        }
        if self.lanes.is_empty() || !self.bucket.take(now) {
            return None;
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

    /// When there is something to pop, after there was nothing.
    pub fn due(&mut self, now: Instant) -> Option<Instant> {
        let next = (!self.lanes.is_empty()).then(|| self.bucket.next(now));
        self.waiting.first().map(|(due, _)| *due).into_iter().chain(next).min()
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
        let now = Instant::now();
        let mut queue = Queue::new(now);
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
        let start = Instant::now();
        let mut queue = Queue::new(start);
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
        writes + u32::from(queue.due(start + every * routes).is_some())
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
        let start = Instant::now();
        let mut queue = Queue::new(start);
        let gateway = id(Kind::Gateway, "a", "gateway");
        for _ in 0..10 {
            queue.written(&gateway, start);
        }
        queue.push(gateway.clone(), Urgency::Counts, start);
        assert_eq!(queue.due(start), Some(start + LONGEST));
        queue.push(gateway.clone(), Urgency::Soon, start);
        assert_eq!(queue.due(start), Some(start + AGAIN));
        queue.push(gateway, Urgency::Now, start);
        assert_eq!(queue.due(start), Some(start));
    }

    #[test]
    fn of_thousands_so_many_are_written_a_second_and_gateways_do_not_wait_for_them() {
        let start = Instant::now();
        let mut queue = Queue::new(start);
        for i in 0..1000 {
            queue.push(id(Kind::HTTPRoute, "a", &format!("{i}")), Urgency::Soon, start);
        }
        let popped = |queue: &mut Queue, now| std::iter::from_fn(|| queue.pop(now)).collect::<Vec<ObjectId>>();
        assert_eq!(popped(&mut queue, start).len(), BURST as usize);
        assert_eq!(queue.due(start), Some(start + EACH));
        let gateway = id(Kind::Gateway, "a", "gateway");
        queue.push(gateway.clone(), Urgency::Soon, start);
        let later = start + Duration::from_secs(1);
        let second = popped(&mut queue, later);
        assert_eq!((second[0].clone(), second.len()), (gateway, 101));
        let single = id(Kind::HTTPRoute, "b", "single");
        queue.push(single.clone(), Urgency::Soon, later);
        assert_eq!(popped(&mut queue, later + EACH), [single], "its namespace has its turn");
    }
}
