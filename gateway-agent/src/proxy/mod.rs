//! What the kernel hands to the agent: connections to HTTP listeners, those whose TLS ends here, and passthrough connections whose
//! ClientHello the kernel does not keep. The way of a connection is: accept → origin → (hello) → table → pick → connect → forward, or
//! `http` from the table on.
//!
//! A connection reads exactly one snapshot of the table, so that every change is whole for it and none closes it. Nothing on
//! its way takes a lock: workers have what they need to themselves, and share atomics only.

#![forbid(unsafe_code)]

mod backend;
mod backend_tls;
mod connection;
mod copy;
mod counters;
mod front;
mod hello;
pub mod http;
mod pipes;
mod preface;
mod relay;
mod rewound;
mod sockets;
mod table;
mod terminate;
mod through;
mod tls;
mod worker;

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use gateway_common::sizes;

pub use counters::{Counters, Refusal};
pub use table::{Found, Table, To};
pub use tls::{Inside, Terminator, Tls};

use http::session::Keys;
use http::snapshot::Snapshot;
use worker::{Listeners, Worker};

/// The two ends of a connection as the client has them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Origin {
    pub client: SocketAddr,
    /// The Gateway's address and port.
    pub gateway: SocketAddr,
}

/// Where the client of a connection wanted to go, for the local and the peer's address of a socket of the agent. `None`: the
/// kernel has spliced no such connection; somebody has found the port.
pub type Lookup = Box<dyn Fn(SocketAddr, SocketAddr) -> io::Result<Option<SocketAddr>> + Send + Sync>;

#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// From the first packet to the end of the TLS handshake.
    pub handshake: Duration,
    /// How long connections may go on when the agent stops.
    pub drain: Duration,
    /// At a time.
    pub connections: usize,
    /// Bytes that clients of HTTP may make all workers keep; each has its part.
    pub memory: usize,
    /// Of ClientHellos over 16 KiB that are under way, of a worker.
    pub hello_bytes: usize,
    /// Threads.
    pub workers: usize,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            handshake: Duration::from_secs(10),
            drain: Duration::from_secs(10),
            connections: 10_000,
            memory: 192 << 20,
            hello_bytes: 32 << 20,
            workers: 1,
        }
    }
}

/// What workers share.
struct Shared {
    options: Options,
    table: ArcSwap<Table>,
    http: Arc<ArcSwap<Snapshot>>,
    counters: Counters,
    gateway_of: Lookup,
}

/// The running proxy. Dropping it ends its connections.
pub struct Proxy {
    handle: Handle,
    workers: Vec<Worker>,
    steered: Vec<OwnedFd>,
}

/// What the rest of the agent has of it.
#[derive(Clone)]
pub struct Handle {
    shared: Arc<Shared>,
    port: u16,
}

impl Proxy {
    /// Listens, and serves by an empty table.
    pub fn start(mut options: Options, gateway_of: Lookup) -> io::Result<Proxy> {
        options.connections = sockets::room_for(options.connections);
        options.workers = options.workers.clamp(1, sizes::AGENT_SOCKETS);
        let (port, spliced) = sockets::bind()?;
        let shared = Arc::new(Shared {
            options,
            table: ArcSwap::default(),
            http: Arc::default(),
            counters: Counters::new(options.connections),
            gateway_of,
        });
        let mut proxy =
            Proxy { handle: Handle { shared: Arc::clone(&shared), port }, workers: Vec::new(), steered: Vec::new() };
        for number in 0..options.workers {
            let steered = sockets::steered()?;
            proxy.steered.push(steered.try_clone()?.into());
            // The kernel splices all to the first port that is free towards a client: each worker listens on all of them.
            let spliced = spliced.iter().map(TcpListener::try_clone).collect::<io::Result<Vec<_>>>()?;
            proxy.workers.push(Worker::start(number, Listeners { spliced, steered }, Arc::clone(&shared))?);
        }
        Ok(proxy)
    }

    /// For `steer`, one a worker. Whoever has them closes them: they would listen on when the workers have stopped.
    pub fn take_steered(&mut self) -> Vec<OwnedFd> {
        std::mem::take(&mut self.steered)
    }

    pub fn handle(&self) -> Handle {
        self.handle.clone()
    }

    /// Takes no more connections, and waits for those that there are to end, but not for ever.
    pub async fn drain(self) {
        for worker in &self.workers {
            worker.stop();
        }
        for worker in self.workers {
            worker.ended().await;
        }
    }
}

impl Handle {
    /// The first of the ports that the kernel splices connections to.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// What new connections go by.
    pub fn table(&self) -> Arc<Table> {
        self.shared.table.load_full()
    }

    /// What new requests go by.
    pub fn http(&self) -> Arc<Snapshot> {
        self.shared.http.load_full()
    }

    /// New connections and requests go by these.
    pub fn publish(&self, table: Table, http: Snapshot) {
        // A connection that the table sends to HTTP finds its listener there.
        self.shared.http.store(Arc::new(http));
        self.shared.table.store(Arc::new(table));
    }

    /// Sessions are signed with these from now on.
    pub fn sign_sessions(&self, keys: Keys) {
        self.shared.http.store(Arc::new(self.http().with_sessions(keys)));
    }

    pub fn workers(&self) -> usize {
        self.shared.options.workers
    }

    pub fn counters(&self) -> &Counters {
        &self.shared.counters
    }
}

#[cfg(test)]
pub(crate) mod tests;
