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
use super::metrics::Tally;
use super::upstream::pool::Lease;
use super::worker::Local;
use crate::proxy::copy::copy;

/// Of one connection of a client. What is left ends with this.
#[derive(Debug, Default)]
pub struct Tunnels(RefCell<JoinSet<()>>);

impl Tunnels {
    /// `idle`: silent both ways for so long, it ends. The lease is what the backend's load is counted by.
    pub fn begin(&self, client: OnUpgrade, backend: OnUpgrade, lease: Lease, local: Rc<Local>, idle: Duration) {
        let mut all = self.0.borrow_mut();
        while all.try_join_next().is_some() {}
        all.spawn_local(tunnel(client, backend, lease, local, idle));
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
async fn tunnel(client: OnUpgrade, backend: OnUpgrade, lease: Lease, local: Rc<Local>, idle: Duration) {
    let _open = Open::new(&local);
    let (client, backend) = match tokio::try_join!(client, backend) {
        Ok(both) => both,
        Err(error) => return tracing::debug!(%error, "a connection was broken off before it was upgraded"),
    };
    let moved = Cell::new(Instant::now());
    let count = |tally: &Tally, bytes| {
        tally.add(bytes);
        moved.set(Instant::now());
    };
    let (inwards, outwards) =
        (|bytes| count(&local.metrics.tunnel_bytes_in, bytes), |bytes| count(&local.metrics.tunnel_bytes_out, bytes));
    let (mut client, mut backend) = (TokioIo::new(client), TokioIo::new(backend));
    tokio::select! {
        copied = copy(&mut client, &mut backend, &local.buffers, &inwards, &outwards) => if let Err(error) = copied {
            tracing::debug!(%error, "an upgraded connection was broken off");
        },
        () = silence(&moved, idle) => local.metrics.answer(Reason::StreamIdle),
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
struct Open(Rc<Local>);

impl Open {
    fn new(local: &Rc<Local>) -> Open {
        local.metrics.tunnels.add(1);
        Open(Rc::clone(local))
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.metrics.tunnels_closed.add(1);
    }
}
