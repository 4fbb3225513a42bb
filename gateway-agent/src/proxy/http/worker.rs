//! What a worker has to itself, for all its connections.

use std::cell::{Cell, RefCell};
use std::fmt;
use std::ops::Deref;
use std::rc::Rc;
use std::sync::Arc;

use arc_swap::ArcSwap;
use gateway_common::hash::mix;

use super::filters::mirror::UnderWay;
use super::metrics::Metrics;
use super::snapshot::Snapshot;
use super::upstream::balance::Loads;
use super::upstream::pool::Pool;

pub struct Local {
    published: Arc<ArcSwap<Snapshot>>,
    /// The last that was read, so that requests share a count of this worker and none of all.
    seen: RefCell<Rc<Seen>>,
    pub pool: Rc<Pool>,
    pub loads: Rc<Loads>,
    pub metrics: Metrics,
    pub mirrored: UnderWay,
    random: Cell<u64>,
}

impl Local {
    /// `seed`: another for each worker.
    pub fn new(published: Arc<ArcSwap<Snapshot>>, seed: u64) -> Rc<Local> {
        let seen = RefCell::new(Rc::new(Seen(published.load_full())));
        let (pool, loads) = (Rc::default(), Rc::default());
        Rc::new(Local {
            published,
            seen,
            pool,
            loads,
            metrics: Metrics::default(),
            mirrored: UnderWay::default(),
            random: Cell::new(mix(seed)),
        })
    }

    /// What a request that begins now goes by.
    pub fn snapshot(&self) -> Rc<Seen> {
        let mut seen = self.seen.borrow_mut();
        let now = self.published.load();
        if !Arc::ptr_eq(&now, &seen.0) {
            *seen = Rc::new(Seen(Arc::clone(&now)));
        }
        Rc::clone(&seen)
    }

    pub fn random(&self) -> u64 {
        // Weyl's sequence, mixed: SplitMix64.
        let next = self.random.get().wrapping_add(0x9e37_79b9_7f4a_7c15);
        self.random.set(next);
        mix(next)
    }
}

/// A snapshot as a worker counts it.
pub struct Seen(Arc<Snapshot>);

impl Deref for Seen {
    type Target = Snapshot;

    fn deref(&self) -> &Snapshot {
        &self.0
    }
}

impl fmt::Debug for Local {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Local").finish_non_exhaustive()
    }
}
