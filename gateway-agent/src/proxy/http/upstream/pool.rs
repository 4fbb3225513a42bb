//! Connections to endpoints: those of HTTP/1.1 that wait for their next request, and those of HTTP/2 that have room for one. A worker has its
//! own.

use std::cell::{Cell, RefCell};
use std::fmt;
use std::hash::{Hash, Hasher};
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use hashbrown::HashMap;
use hyper::client::conn::{http1, http2};
use rustix::io::Errno;
use tokio::sync::Notify;

use super::balance::{self, Ticket};
use super::connect::{Connected, Peer, connect};
use crate::ir::Endpoint;
use crate::ir::http::{Application, BackendTls, Cluster};
use crate::proxy::backend_tls::Configs;
use crate::proxy::http::body::Body;
use crate::proxy::http::direct::{Direct, Scratch};

/// Of HTTP/1.1, of an endpoint; more are closed.
const IDLE: usize = 1_024;
/// How often connections are looked through that nobody asks for, such as those to endpoints that have gone.
const SWEEP: Duration = Duration::from_secs(5);
/// Sweeps that a connection is kept without a request: 50 s, which is shorter than what most servers wait.
const IDLE_SWEEPS: u32 = 10;

/// What a request wants of a connection.
#[derive(Clone, Copy, Debug)]
pub struct Wanted {
    /// It has had no request before.
    pub fresh: bool,
    /// The request goes past hyper, if the connection is not one of HTTP/2.
    pub direct: bool,
}

/// What connections must have in common to be one another's stead.
#[derive(Clone, Debug)]
pub struct Key {
    pub address: SocketAddr,
    pub application: Application,
    /// The endpoint wants a header of the PROXY protocol.
    pub proxy_protocol: bool,
    pub tls: Option<Arc<BackendTls>>,
}

impl Key {
    pub fn new(cluster: &Cluster, endpoint: &Endpoint) -> Key {
        Key {
            address: balance::address(endpoint),
            application: cluster.application,
            proxy_protocol: endpoint.proxy_protocol,
            tls: cluster.tls.clone(),
        }
    }

    fn hashed(&self) -> (SocketAddr, Application, bool, bool) {
        (self.address, self.application, self.proxy_protocol, self.tls.is_some())
    }
}

impl PartialEq for Key {
    fn eq(&self, other: &Key) -> bool {
        let tls = match (&self.tls, &other.tls) {
            // The same place is nearly always the case; a connection by a policy that was replaced by its equal is as good.
            (Some(own), Some(other)) => Arc::ptr_eq(own, other) || own == other,
            (None, None) => true,
            _ => false,
        };
        tls && self.hashed() == other.hashed()
    }
}

impl Eq for Key {}

impl Hash for Key {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.hashed().hash(state);
    }
}

#[derive(Debug)]
pub struct Pool {
    scratch: Rc<Scratch>,
    buckets: RefCell<HashMap<Key, Rc<Bucket>>>,
    configs: Configs,
    /// Whether a task of its own does it.
    sweeping: Cell<bool>,
    sweeps: Rc<Cell<u32>>,
}

impl Pool {
    pub fn new(scratch: Rc<Scratch>) -> Pool {
        Pool {
            scratch,
            buckets: RefCell::default(),
            configs: Configs::default(),
            sweeping: Cell::default(),
            sweeps: Rc::default(),
        }
    }

    /// A connection for a request: one that waits, or another.
    pub async fn lend(self: &Rc<Pool>, key: &Key, wanted: Wanted, ticket: Ticket) -> io::Result<Lease> {
        let bucket = self.bucket(key);
        while !wanted.fresh || bucket.multiplexes.get() {
            if let Some(connection) = bucket.take(wanted.direct) {
                return Ok(Lease::new(bucket, connection, true, ticket));
            }
            let Some(connecting) = bucket.awaited() else { break };
            connecting.ended().await?;
        }
        let connecting = Guard::new(&bucket);
        let direct = wanted.direct.then_some(&self.scratch);
        // In memory of its own, which few requests need: with TLS it is most of what each would have for as long as it is under way.
        let connection = match Box::pin(connect(key, &self.configs, direct)).await {
            Ok(Connected::Direct(direct)) => Connection::Direct(direct),
            Ok(Connected::Http1(sender)) => Connection::Http1(sender),
            Ok(Connected::Http2(multiplexed)) => {
                bucket.multiplexes.set(true);
                bucket.shared.borrow_mut().push(Rc::clone(&multiplexed));
                Connection::Http2(multiplexed)
            }
            Err(error) => {
                if !is_own_fault(&error) {
                    ticket.refused();
                }
                connecting.failed();
                return Err(error);
            }
        };
        ticket.accepted();
        let lease = Lease::new(Rc::clone(&bucket), connection, false, ticket);
        drop(connecting);
        Ok(lease)
    }

    fn bucket(self: &Rc<Pool>, key: &Key) -> Rc<Bucket> {
        let mut buckets = self.buckets.borrow_mut();
        if let Some(bucket) = buckets.get(key) {
            return Rc::clone(bucket);
        }
        let bucket = Rc::new(Bucket {
            sweeps: Rc::clone(&self.sweeps),
            multiplexes: Cell::new(key.application == Application::H2c),
            idle: RefCell::default(),
            direct: RefCell::default(),
            shared: RefCell::default(),
            connecting: RefCell::default(),
        });
        buckets.insert(key.clone(), Rc::clone(&bucket));
        if !self.sweeping.replace(true) {
            let pool = Rc::downgrade(self);
            tokio::task::spawn_local(async move {
                loop {
                    tokio::time::sleep(SWEEP).await;
                    let Some(pool) = pool.upgrade() else { return };
                    pool.sweep();
                    if pool.buckets.borrow().is_empty() {
                        pool.sweeping.set(false);
                        return;
                    }
                }
            });
        }
        bucket
    }

    pub(super) fn sweep(&self) {
        let now = self.sweeps.get().wrapping_add(1);
        self.sweeps.set(now);
        let is_recent = |since: u32| now.wrapping_sub(since) < IDLE_SWEEPS;
        self.buckets.borrow_mut().retain(|_, bucket| {
            bucket.idle.borrow_mut().retain(|idle| !idle.connection.is_closed() && is_recent(idle.since));
            bucket.direct.borrow_mut().retain_mut(|idle| is_recent(idle.since) && idle.connection.is_open());
            bucket
                .shared
                .borrow_mut()
                .retain(|shared| shared.is_open() && (shared.streams.get() > 0 || is_recent(shared.since.get())));
            let is_idle = bucket.idle.borrow().is_empty() && bucket.direct.borrow().is_empty();
            Rc::strong_count(bucket) > 1 || !is_idle || !bucket.shared.borrow().is_empty()
        });
    }
}

#[cfg(test)]
impl Pool {
    pub(super) fn is_empty(&self) -> bool {
        self.buckets.borrow().is_empty()
    }
}

/// Out of descriptors, ports or memory: another endpoint would be no better.
fn is_own_fault(error: &io::Error) -> bool {
    let own = [Errno::MFILE, Errno::NFILE, Errno::ADDRNOTAVAIL, Errno::NOBUFS, Errno::NOMEM];
    error.raw_os_error().is_some_and(|code| own.contains(&Errno::from_raw_os_error(code)))
}

/// The connections of a key.
struct Bucket {
    /// Of the pool, so far.
    sweeps: Rc<Cell<u32>>,
    /// The backend speaks HTTP/2, as far as is known.
    multiplexes: Cell<bool>,
    /// Of HTTP/1.1. The longest unused first.
    idle: RefCell<Vec<Idle<http1::SendRequest<Body>>>>,
    /// The same past hyper.
    direct: RefCell<Vec<Idle<Direct>>>,
    /// Of HTTP/2. The first that have room are taken, so that the last come to rest.
    shared: RefCell<Vec<Rc<Multiplexed>>>,
    /// What is on its way, for those who could share it.
    connecting: RefCell<Option<Rc<Connecting>>>,
}

struct Idle<C> {
    /// Sweeps then.
    since: u32,
    connection: C,
}

impl Bucket {
    fn take(&self, direct: bool) -> Option<Connection> {
        if self.multiplexes.get() {
            let mut shared = self.shared.borrow_mut();
            shared.retain(|connection| connection.is_open());
            if let Some(connection) = shared.iter().find(|connection| connection.has_room()) {
                return Some(Connection::Http2(Rc::clone(connection)));
            }
        }
        if direct {
            let mut idle = self.direct.borrow_mut();
            let mut open = std::iter::from_fn(|| idle.pop()).map(|idle| idle.connection);
            return open.find_map(|mut direct| direct.is_open().then_some(Connection::Direct(direct)));
        }
        let mut idle = self.idle.borrow_mut();
        // What has had its response before its request has gone whole.
        let mut busy = Vec::new();
        let mut found = None;
        while let Some(last) = idle.pop() {
            if last.connection.is_ready() {
                found = Some(Connection::Http1(last.connection));
                break;
            }
            if !last.connection.is_closed() {
                busy.push(last);
            }
        }
        idle.extend(busy);
        found
    }

    fn give_back(&self, sender: http1::SendRequest<Body>) {
        if !sender.is_closed() {
            self.keep(&self.idle, sender);
        }
    }

    fn keep<C>(&self, among: &RefCell<Vec<Idle<C>>>, connection: C) {
        let mut among = among.borrow_mut();
        if among.len() < IDLE {
            among.push(Idle { since: self.sweeps.get(), connection });
        }
    }

    /// A connection that is on its way, where it will have room for several requests.
    fn awaited(&self) -> Option<Rc<Connecting>> {
        self.connecting.borrow().clone().filter(|_| self.multiplexes.get())
    }
}

/// One that requests can be sent by.
pub enum Connection {
    Direct(Direct),
    Http1(http1::SendRequest<Body>),
    Http2(Rc<Multiplexed>),
}

/// A connection of HTTP/2.
pub struct Multiplexed {
    pub sender: RefCell<http2::SendRequest<Body>>,
    streams: Cell<usize>,
    peer: Rc<dyn Peer>,
    /// Sweeps when its last stream ended.
    since: Cell<u32>,
}

impl Multiplexed {
    pub fn new(sender: http2::SendRequest<Body>, peer: Rc<dyn Peer>) -> Rc<Multiplexed> {
        Rc::new(Multiplexed { sender: RefCell::new(sender), streams: Cell::new(0), peer, since: Cell::new(0) })
    }

    pub fn takes_extended_connect(&self) -> bool {
        self.peer.takes_extended_connect()
    }

    pub fn is_open(&self) -> bool {
        self.sender.borrow().is_ready()
    }

    pub fn has_room(&self) -> bool {
        self.streams.get() < self.peer.streams()
    }
}

/// A connection that one makes and others wait for.
#[derive(Default)]
struct Connecting {
    failed: Cell<bool>,
    notify: Notify,
}

impl Connecting {
    async fn ended(&self) -> io::Result<()> {
        self.notify.notified().await;
        let error = || io::Error::new(io::ErrorKind::ConnectionRefused, "the connection of another request failed");
        if self.failed.get() { Err(error()) } else { Ok(()) }
    }
}

/// Who makes it; whoever waits goes on when it is dropped, also because the request was given up.
struct Guard<'a>(&'a Bucket, Rc<Connecting>);

impl Guard<'_> {
    fn new(bucket: &Bucket) -> Guard<'_> {
        let connecting = Rc::new(Connecting::default());
        *bucket.connecting.borrow_mut() = Some(Rc::clone(&connecting));
        Guard(bucket, connecting)
    }

    fn failed(self) {
        self.1.failed.set(true);
    }
}

impl Drop for Guard<'_> {
    fn drop(&mut self) {
        self.0.connecting.borrow_mut().take_if(|connecting| Rc::ptr_eq(connecting, &self.1));
        self.1.notify.notify_waiters();
    }
}

/// A connection while a request has it. One of HTTP/1.1 goes back to the pool when it is dropped after the answer has come; before
/// that, the answer of a request that was given up would be that of the next.
pub struct Lease {
    bucket: Rc<Bucket>,
    connection: Option<Connection>,
    /// It has had requests before.
    pub reused: bool,
    answered: bool,
    _ticket: Ticket,
}

impl Lease {
    fn new(bucket: Rc<Bucket>, connection: Connection, reused: bool, ticket: Ticket) -> Lease {
        if let Connection::Http2(shared) = &connection {
            shared.streams.set(shared.streams.get() + 1);
        }
        Lease { bucket, connection: Some(connection), reused, answered: false, _ticket: ticket }
    }

    /// `None`: it was forfeited.
    pub fn connection(&mut self) -> Option<&mut Connection> {
        self.connection.as_mut()
    }

    pub fn is_http2(&self) -> bool {
        matches!(self.connection, Some(Connection::Http2(_)))
    }

    /// Out of the lease, into which it goes [back](Lease::give_back) when it is free for another request.
    pub fn take_direct(&mut self) -> Option<Direct> {
        match self.connection.take() {
            Some(Connection::Direct(direct)) => Some(direct),
            other => {
                self.connection = other;
                None
            }
        }
    }

    pub fn give_back(&mut self, direct: Direct) {
        self.bucket.keep(&self.bucket.direct, direct);
    }

    /// The head of the response is there.
    pub fn answered(&mut self) {
        self.answered = true;
    }

    /// It is in no state for another request.
    pub fn forfeit(&mut self) {
        self.answered = false;
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        match self.connection.take() {
            Some(Connection::Http1(sender)) if self.answered => self.bucket.give_back(sender),
            Some(Connection::Http2(shared)) => {
                shared.streams.set(shared.streams.get() - 1);
                shared.since.set(self.bucket.sweeps.get());
            }
            _ => {}
        }
    }
}

impl fmt::Debug for Lease {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lease").field("reused", &self.reused).field("answered", &self.answered).finish_non_exhaustive()
    }
}

impl fmt::Debug for Bucket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let idle = self.idle.borrow().len();
        f.debug_struct("Bucket")
            .field("idle", &idle)
            .field("shared", &self.shared.borrow().len())
            .finish_non_exhaustive()
    }
}
