//! Where it is put down whose status may have to be written, by those who compile and by those who watch.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};

use tokio::sync::Notify;

use crate::index::{Kind, ObjectId};

#[derive(Default)]
pub struct Board {
    /// Only who holds the Lease cares.
    listening: Cell<bool>,
    touched: RefCell<BTreeSet<ObjectId>>,
    news: Notify,
    counts: RefCell<Counts>,
}

/// For the metrics.
#[derive(Clone, Debug, Default)]
pub struct Counts {
    /// Statuses written, by kind.
    pub writes: BTreeMap<Kind, u64>,
    /// Attempts that failed, conflicts included.
    pub failures: u64,
    pub leader: bool,
}

impl Board {
    /// The status of the object that there is, or the one that there is to be, may have changed.
    pub fn touch(&self, id: ObjectId) {
        if self.listening.get() {
            self.touched.borrow_mut().insert(id);
            self.news.notify_one();
        }
    }

    pub fn listen(&self, listening: bool) {
        self.listening.set(listening);
        self.touched.borrow_mut().clear();
        self.counts.borrow_mut().leader = listening;
    }

    /// Waits for something to be touched.
    pub async fn touched(&self) -> BTreeSet<ObjectId> {
        loop {
            let touched = std::mem::take(&mut *self.touched.borrow_mut());
            if !touched.is_empty() {
                return touched;
            }
            self.news.notified().await;
        }
    }

    pub fn written(&self, kind: Kind) {
        *self.counts.borrow_mut().writes.entry(kind).or_default() += 1;
    }

    pub fn failed(&self) {
        self.counts.borrow_mut().failures += 1;
    }

    pub fn counts(&self) -> Counts {
        self.counts.borrow().clone()
    }
}
