//! What a worker has to itself, for all its connections.

use std::cell::{Cell, RefCell};
use std::fmt;
use std::ops::Deref;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use gateway_common::hash::mix;
use tokio::time::MissedTickBehavior;

use super::budget::Budget;
use super::direct::Scratch;
use super::filters::mirror::UnderWay;
use super::meter::{Course, Courses};
use super::metrics::{Labels, Metrics, Shared};
use super::places::Places;
use super::snapshot::{Listener, Snapshot};
use super::upstream::balance::Loads;
use super::upstream::pool::Pool;
use crate::ir::http::{Cluster, Route, Rule};
use crate::proxy::copy::Buffers;

/// How soon the connections of a listener that has gone learn of it, and lines of the access log are written.
const TEND: Duration = Duration::from_millis(100);

pub struct Local {
    published: Arc<ArcSwap<Snapshot>>,
    /// The last that was read, so that requests share a count of this worker and none of all.
    seen: RefCell<Rc<Seen>>,
    pub pool: Rc<Pool>,
    pub scratch: Rc<Scratch>,
    pub loads: Rc<Loads>,
    pub mirrored: UnderWay,
    pub places: Places,
    pub shared: Arc<Shared>,
    pub metrics: Arc<Metrics>,
    pub buffers: Buffers,
    pub budget: Rc<Budget>,
    /// Of the access log.
    pub lines: RefCell<Vec<u8>>,
    random: Cell<u64>,
    is_tended: Cell<bool>,
}

impl Local {
    /// `seed`: another for each worker. `memory`: bytes that its clients may make it keep.
    pub fn new(published: Arc<ArcSwap<Snapshot>>, seed: u64, memory: usize) -> Rc<Local> {
        let first = published.load_full();
        let shared = Arc::clone(&first.shared);
        let metrics = shared.join();
        let budget = Budget::new(memory);
        let scratch = Rc::new(Scratch::new(Rc::clone(&budget)));
        Rc::new(Local {
            published,
            seen: RefCell::new(Rc::new(Seen::new(first))),
            pool: Rc::new(Pool::new(Rc::clone(&scratch))),
            scratch,
            loads: Rc::default(),
            mirrored: UnderWay::default(),
            places: Places::default(),
            shared,
            metrics,
            buffers: Buffers::default(),
            budget,
            lines: RefCell::default(),
            random: Cell::new(mix(seed)),
            is_tended: Cell::new(false),
        })
    }

    /// Looks after what no request does. With the first connection of the worker it begins.
    pub fn tend(self: &Rc<Local>) {
        if self.is_tended.replace(true) {
            return;
        }
        let local = Rc::downgrade(self);
        tokio::task::spawn_local(async move {
            let mut ticks = tokio::time::interval(TEND);
            ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
            loop {
                ticks.tick().await;
                let Some(local) = local.upgrade() else { return };
                local.places.leave_gone(&local.snapshot());
                local.budget.tick();
                local.metrics.memory.set(local.budget.used() as u64);
                local.flush_log();
            }
        });
    }

    fn flush_log(&self) {
        if let Some(log) = self.shared.log.get() {
            self.metrics.lines_lost.add(log.hand_on(&mut self.lines.borrow_mut()));
        }
    }

    /// What a request that begins now goes by.
    pub fn snapshot(&self) -> Rc<Seen> {
        let mut seen = self.seen.borrow_mut();
        let now = self.published.load();
        if !Arc::ptr_eq(&now, &seen.snapshot) {
            *seen = Rc::new(Seen::new(Arc::clone(&now)));
        }
        Rc::clone(&seen)
    }

    #[cfg(test)]
    pub fn publish_for_test(&self, snapshot: Snapshot) {
        self.published.store(Arc::new(snapshot));
    }

    pub fn random(&self) -> u64 {
        // Weyl's sequence, mixed: SplitMix64.
        let next = self.random.get().wrapping_add(0x9e37_79b9_7f4a_7c15);
        self.random.set(next);
        mix(next)
    }
}

impl Drop for Local {
    /// Lines that are left are written.
    fn drop(&mut self) {
        self.flush_log();
    }
}

/// A snapshot as a worker counts it.
#[derive(Debug)]
pub struct Seen {
    snapshot: Arc<Snapshot>,
    courses: Courses,
}

impl Seen {
    fn new(snapshot: Arc<Snapshot>) -> Seen {
        Seen { snapshot, courses: Courses::default() }
    }

    /// How far a request has come: to a listener, a rule, a backend, all of this snapshot.
    pub fn course(
        &self,
        local: &Local,
        listener: &Listener,
        rule: Option<(&Route, &Rule)>,
        cluster: Option<&Cluster>,
    ) -> Rc<Course> {
        fn at<T>(place: Option<&T>) -> usize {
            place.map_or(0, |place| std::ptr::from_ref(place).addr())
        }
        let places = [at(Some(listener)), at(rule.map(|(_, rule)| rule)), at(cluster)];
        self.courses.get(places, || {
            let labels = Labels {
                listener: listener.name.clone(),
                route: rule.map(|(route, rule)| (route.name.clone(), Arc::clone(&rule.name))),
                backend: cluster.map(|cluster| Arc::clone(&cluster.service)),
            };
            Course { series: local.shared.series(&local.metrics, labels.clone()), labels }
        })
    }
}

impl Deref for Seen {
    type Target = Snapshot;

    fn deref(&self) -> &Snapshot {
        &self.snapshot
    }
}

impl fmt::Debug for Local {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Local").finish_non_exhaustive()
    }
}
