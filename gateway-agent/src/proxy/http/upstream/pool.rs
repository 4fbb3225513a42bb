//! Connections to endpoints that wait for their next request. A worker has its own.

use std::cell::RefCell;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use hashbrown::HashMap;
use hyper::client::conn::{http1, http2};
use tokio::time::Instant;

use super::balance::Ticket;
use crate::ir::http::{Application, BackendTls, Cluster};
use crate::proxy::http::body::Body;

/// Of an endpoint; more are closed.
const IDLE: usize = 64;
/// Shorter than what most servers wait for a request.
const IDLE_TIME: Duration = Duration::from_secs(50);

/// What connections must have in common to be one another's stead.
#[derive(Clone, Debug)]
pub struct Key {
    pub address: SocketAddr,
    pub application: Application,
    /// Compared by its place: the key holds it, so that no other comes there.
    pub tls: Option<Arc<BackendTls>>,
}

impl Key {
    pub fn new(cluster: &Cluster, address: SocketAddr) -> Key {
        Key { address, application: cluster.application, tls: cluster.tls.clone() }
    }

    fn parts(&self) -> (SocketAddr, Application, Option<*const BackendTls>) {
        (self.address, self.application, self.tls.as_ref().map(Arc::as_ptr))
    }
}

impl PartialEq for Key {
    fn eq(&self, other: &Key) -> bool {
        self.parts() == other.parts()
    }
}

impl Eq for Key {}

impl Hash for Key {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.parts().hash(state);
    }
}

/// One that requests can be sent by.
#[derive(Debug)]
pub enum Connection {
    Http1(http1::SendRequest<Body>),
    /// Many at a time.
    Http2(http2::SendRequest<Body>),
}

impl Connection {
    fn is_ready(&self) -> bool {
        match self {
            Connection::Http1(sender) => sender.is_ready(),
            Connection::Http2(sender) => sender.is_ready(),
        }
    }

    fn is_closed(&self) -> bool {
        match self {
            Connection::Http1(sender) => sender.is_closed(),
            Connection::Http2(sender) => sender.is_closed(),
        }
    }
}

#[derive(Debug, Default)]
pub struct Pool {
    /// The longest unused first.
    idle: RefCell<HashMap<Key, Vec<(Instant, Connection)>>>,
}

impl Pool {
    /// One that waits, if there is one.
    pub fn take(&self, key: &Key) -> Option<Connection> {
        let mut idle = self.idle.borrow_mut();
        let connections = idle.get_mut(key)?;
        let now = Instant::now();
        connections.retain(|(since, connection)| !connection.is_closed() && now - *since < IDLE_TIME);
        // The last response of one may be read to its end before hyper is done with it.
        let at = connections.iter().rposition(|(_, connection)| connection.is_ready())?;
        match &connections[at].1 {
            Connection::Http2(sender) => Some(Connection::Http2(sender.clone())),
            Connection::Http1(_) => Some(connections.remove(at).1),
        }
    }

    /// For other requests at once. Connections of HTTP/2 are several only where they were made at the same time.
    fn share(&self, key: &Key, sender: &http2::SendRequest<Body>) {
        let mut idle = self.idle.borrow_mut();
        let connections = idle.entry(key.clone()).or_default();
        let is_open = |(_, connection): &(Instant, Connection)| connection.is_ready();
        if !connections.iter().any(is_open) {
            connections.push((Instant::now(), Connection::Http2(sender.clone())));
        }
    }

    /// For the next request.
    pub fn give_back(&self, key: Key, connection: Connection) {
        if connection.is_closed() {
            return;
        }
        let mut idle = self.idle.borrow_mut();
        let connections = idle.entry(key).or_default();
        if connections.len() < IDLE {
            connections.push((Instant::now(), connection));
        }
    }
}

/// A connection while a request has it. It goes back to the pool when it is dropped after the answer has come; before that, the answer of
/// a request that was given up would be that of the next.
pub struct Lease {
    pool: Rc<Pool>,
    lent: Option<(Key, Connection)>,
    answered: bool,
    _ticket: Ticket,
}

impl Lease {
    pub fn new(pool: Rc<Pool>, key: Key, connection: Connection, ticket: Ticket) -> Lease {
        if let Connection::Http2(sender) = &connection {
            pool.share(&key, sender);
        }
        Lease { pool, lent: Some((key, connection)), answered: false, _ticket: ticket }
    }

    /// `None`: it was forfeited.
    pub fn connection(&mut self) -> Option<&mut Connection> {
        self.lent.as_mut().map(|(_, connection)| connection)
    }

    /// The head of the response is there.
    pub fn answered(&mut self) {
        self.answered = true;
    }

    /// It is in no state for another request.
    pub fn forfeit(mut self) {
        self.lent = None;
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if let Some((key, connection @ Connection::Http1(_))) = self.lent.take_if(|_| self.answered) {
            self.pool.give_back(key, connection);
        }
    }
}

impl fmt::Debug for Lease {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Lease").field(&self.lent).finish()
    }
}
