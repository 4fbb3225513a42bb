//! Connections by where they wanted to go: how many there are, and that it has gone.

use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};

use hashbrown::HashMap;
use tokio::sync::watch;

use super::snapshot::Snapshot;
use crate::ir::ListenerName;

/// In the clear all listeners of an address and port are one place: which of them a connection belongs to only its requests say.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Place {
    pub gateway: SocketAddr,
    /// By whose certificates TLS ended.
    pub listener: Option<ListenerName>,
}

/// How many connections there are at each place, on all workers. Its lock is taken when a worker has the first.
#[derive(Debug, Default)]
pub struct Lives(Mutex<HashMap<Place, Arc<AtomicUsize>>>);

impl Lives {
    fn of(&self, place: &Place) -> Arc<AtomicUsize> {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // Nobody else has those that are only here.
        all.retain(|_, live| Arc::strong_count(live) > 1);
        Arc::clone(all.entry(place.clone()).or_default())
    }

    pub fn read(&self) -> Vec<(Place, usize)> {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.iter().map(|(place, live)| (place.clone(), live.load(Relaxed))).collect()
    }
}

/// Of a worker.
#[derive(Debug, Default)]
pub struct Places(RefCell<HashMap<Place, Rc<Group>>>);

#[derive(Debug)]
struct Group {
    live: Arc<AtomicUsize>,
    /// Of this worker.
    here: Cell<usize>,
    gone: watch::Sender<bool>,
}

/// A connection that is at its place until this is dropped.
#[derive(Debug)]
pub struct Present {
    group: Rc<Group>,
    /// With it there are so many.
    pub number: usize,
    counts: bool,
    /// The place has gone.
    pub gone: watch::Receiver<bool>,
}

impl Places {
    pub fn join(&self, place: Place, lives: &Lives) -> Present {
        let mut groups = self.0.borrow_mut();
        let group = groups.entry(place).or_insert_with_key(|place| {
            let (live, here, gone) = (lives.of(place), Cell::new(0), watch::channel(false).0);
            Rc::new(Group { live, here, gone })
        });
        group.here.set(group.here.get() + 1);
        let number = group.live.fetch_add(1, Relaxed) + 1;
        Present { group: Rc::clone(group), number, counts: true, gone: group.gone.subscribe() }
    }

    /// Tells the connections of places that a snapshot does not have. Should such a place come back, it is another.
    pub fn leave_gone(&self, snapshot: &Snapshot) {
        self.0.borrow_mut().retain(|place, group| {
            let stays = snapshot.serves(place);
            if !stays {
                group.gone.send_replace(true);
            }
            stays && group.here.get() > 0
        });
    }
}

impl Present {
    /// It is only refused: it takes no other's place.
    pub fn leave(&mut self) {
        if std::mem::take(&mut self.counts) {
            self.group.here.set(self.group.here.get() - 1);
            self.group.live.fetch_sub(1, Relaxed);
        }
    }
}

impl Drop for Present {
    fn drop(&mut self) {
        self.leave();
    }
}
