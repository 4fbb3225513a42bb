//! What a connection becomes by an upgrade: bytes both ways that the agent does not read. It belongs to the connection of its client, by which
//! it is counted among those of the listener, drained, and ended.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Poll, ready};
use std::time::Duration;

use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};

use super::answer::Reason;
use super::meter::Upgraded;
use super::metrics::Tally;
use super::upstream::pool::Lease;
use super::worker::Local;
use crate::proxy::copy::copy;

/// Of one connection of a client. What is left ends with this.
#[derive(Debug, Default)]
pub struct Tunnels(RefCell<JoinSet<()>>);

impl Tunnels {
    /// `both`: the client and the backend. `idle`: silent both ways for so long, it ends. The lease is what the backend's load is counted by. `told`: is
    /// to know of the end.
    pub fn begin(
        &self,
        both: (OnUpgrade, OnUpgrade),
        lease: Lease,
        local: Rc<Local>,
        idle: Duration,
        told: Rc<Upgraded>,
    ) {
        let mut all = self.0.borrow_mut();
        while all.try_join_next().is_some() {}
        all.spawn_local(tunnel(both, lease, Open::new(local, told), idle));
    }

    pub fn are_open(&self) -> bool {
        let mut all = self.0.borrow_mut();
        while all.try_join_next().is_some() {}
        !all.is_empty()
    }

    /// Until none is left.
    pub async fn ended(&self) {
        poll_fn(|cx| {
            while ready!(self.0.borrow_mut().poll_join_next(cx)).is_some() {}
            Poll::Ready(())
        })
        .await;
    }

    pub fn cut(&self) {
        self.0.borrow_mut().abort_all();
    }
}

/// Until both have ended, or one has broken off.
async fn tunnel((client, backend): (OnUpgrade, OnUpgrade), lease: Lease, open: Open, idle: Duration) {
    let local = &open.local;
    let (client, backend) = match tokio::try_join!(client, backend) {
        Ok(both) => both,
        Err(error) => return tracing::debug!(%error, "a connection was broken off before it was upgraded"),
    };
    let moved = Cell::new(Instant::now());
    let count = |tally: &Tally, own: &Cell<u64>, bytes| {
        tally.add(bytes);
        own.set(own.get() + bytes);
        moved.set(Instant::now());
    };
    let inwards = |bytes| count(&local.metrics.tunnel_bytes_in, &open.inwards, bytes);
    let outwards = |bytes| count(&local.metrics.tunnel_bytes_out, &open.outwards, bytes);
    let (mut client, mut backend) = (TokioIo::new(client), TokioIo::new(backend));
    tokio::select! {
        copied = copy(&mut client, &mut backend, &local.buffers, &inwards, &outwards) => if let Err(error) = copied {
            tracing::debug!(%error, "an upgraded connection was broken off");
        },
        () = silence(&moved, idle) => {
            local.metrics.answer(Reason::StreamIdle);
            open.reason.set(Some(Reason::StreamIdle));
        }
    }
    drop(lease);
}

/// Until nothing has moved for so long.
async fn silence(moved: &Cell<Instant>, idle: Duration) {
    while moved.get() + idle > Instant::now() {
        sleep_until(moved.get() + idle).await;
    }
}

/// Counts an upgraded connection for as long as it lives.
struct Open {
    local: Rc<Local>,
    told: Rc<Upgraded>,
    inwards: Cell<u64>,
    outwards: Cell<u64>,
    /// Why the agent ended it.
    reason: Cell<Option<Reason>>,
}

impl Open {
    fn new(local: Rc<Local>, told: Rc<Upgraded>) -> Open {
        local.metrics.tunnels.add(1);
        let (inwards, outwards, reason) = (Cell::default(), Cell::default(), Cell::default());
        Open { local, told, inwards, outwards, reason }
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.local.metrics.tunnels_closed.add(1);
        self.told.is_over([self.inwards.get(), self.outwards.get()], self.reason.get());
    }
}
