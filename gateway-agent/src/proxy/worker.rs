//! A thread with an event loop of its own: accepts, and has a task for each connection.

use std::future::poll_fn;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::io;
use std::net::TcpListener as StdListener;
use std::rc::Rc;
use std::sync::{Arc, mpsc};
use std::task::Poll;
use std::time::Duration;

use futures_util::FutureExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::{Builder, LocalOptions, LocalRuntime};
use tokio::sync::{oneshot, watch};
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::backend_tls::Configs;
use super::connection::By;
use super::hello::Room;
use super::http::worker::Local;
use super::{Refusal, Shared, connection, sockets};
use crate::panics;

/// What a worker accepts from.
pub struct Listeners<T = StdListener> {
    /// Shared with the other workers.
    pub spliced: Vec<T>,
    pub steered: T,
}

pub struct Worker {
    stop: watch::Sender<bool>,
    ended: oneshot::Receiver<()>,
}

impl Worker {
    /// With listeners that are ready, or with what is wrong with them.
    pub fn start(number: usize, listeners: Listeners, shared: Arc<Shared>) -> io::Result<Worker> {
        let (stop, stopped) = watch::channel(false);
        let (begin, begun) = mpsc::sync_channel(1);
        let (end, ended) = oneshot::channel();
        std::thread::Builder::new().name(format!("{}{number}", panics::THREAD_OF_CONNECTIONS)).spawn(move || {
            let made = runtime(listeners);
            let (begins, ready) = match made {
                Ok(ready) => (Ok(()), Some(ready)),
                Err(error) => (Err(error), None),
            };
            // Who started it waits for it.
            let _ = begin.send(begins);
            // Without it nobody would take its part of the connections.
            let _needed = panics::Needed;
            if let Some((runtime, listeners)) = ready {
                runtime.block_on(run(listeners, shared, stopped));
            }
            // Whoever waited may have gone.
            let _ = end.send(());
        })?;
        begun.recv().map_err(io::Error::other)??;
        Ok(Worker { stop, ended })
    }

    pub fn stop(&self) {
        self.stop.send_replace(true);
    }

    pub async fn ended(self) {
        // An error says that the thread has ended too.
        let _ = self.ended.await;
    }
}

/// What a worker has for all its connections.
pub struct Kept {
    pub room: Room,
    /// Of TLS to the backends of what comes out of TLS.
    pub backend_tls: Configs,
    pub http: Rc<Local>,
    /// Becomes true when no more requests are to be taken.
    pub stopped: watch::Receiver<bool>,
}

/// Of the thread that it is made on, which it does not leave. It asks a future for news only if that was woken; with a `LocalSet` in it, each
/// event of a connection would ask all that [`run`] waits for.
fn runtime(listeners: Listeners) -> io::Result<(LocalRuntime, Listeners<TcpListener>)> {
    let runtime = Builder::new_current_thread().enable_all().build_local(LocalOptions::default())?;
    let listeners = {
        let _entered = runtime.enter();
        Listeners {
            spliced: listeners.spliced.into_iter().map(TcpListener::from_std).collect::<io::Result<Vec<_>>>()?,
            steered: TcpListener::from_std(listeners.steered)?,
        }
    };
    Ok((runtime, listeners))
}

async fn run(listeners: Listeners<TcpListener>, shared: Arc<Shared>, mut stopped: watch::Receiver<bool>) {
    let kept = Rc::new(Kept {
        room: Room::new(shared.options.hello_bytes),
        backend_tls: Configs::default(),
        http: Local::new(Arc::clone(&shared.http), seed(), shared.options.memory / shared.options.workers),
        stopped: stopped.clone(),
    });
    let mut connections = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            accepted = accept(&listeners) => accepted,
            _ = connections.join_next(), if !connections.is_empty() => continue,
            // An error says that the proxy was dropped.
            stop = stopped.wait_for(|stop| *stop) => match stop {
                Ok(_) => break,
                Err(_) => return,
            },
        };
        while connections.try_join_next().is_some() {}
        match accepted {
            Ok((client, by)) => take(client, by, &shared, &kept, &mut connections),
            Err(error) => {
                // Out of descriptors, say: the next one may go better.
                tracing::warn!(%error, "the agent took no connection from the kernel");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
    // The kernel has said to their clients that they are connected.
    while let Some(Ok((client, by))) = accept(&listeners).now_or_never() {
        take(client, by, &shared, &kept, &mut connections);
    }
    drop(listeners);
    if !connections.is_empty() {
        tracing::info!(connections = connections.len(), "waiting for the connections that go through the agent");
    }
    let all = async { while connections.join_next().await.is_some() {} };
    if timeout(shared.options.drain, all).await.is_err() {
        tracing::warn!(connections = connections.len(), "connections that go through the agent are cut off");
    }
}

fn take(client: TcpStream, by: By, shared: &Arc<Shared>, kept: &Rc<Kept>, connections: &mut JoinSet<()>) {
    let live = Live::new(shared);
    if shared.counters.live() > shared.options.connections as u64 {
        shared.counters.refuse(Refusal::TooManyConnections);
        return sockets::reset_on_close(&client);
    }
    let kept = Rc::clone(kept);
    connections.spawn_local(async move { connection::serve(client, by, &live.0, &kept).await });
}

/// Of ids of requests, and of the choice of backends: another for each worker, start and node.
fn seed() -> u64 {
    RandomState::new().build_hasher().finish()
}

/// From whichever has one first.
async fn accept(listeners: &Listeners<TcpListener>) -> io::Result<(TcpStream, By)> {
    let all =
        || [(By::Steering, &listeners.steered)].into_iter().chain(listeners.spliced.iter().map(|l| (By::Splice, l)));
    poll_fn(|cx| {
        let ready = all().find_map(|(by, listener)| match listener.poll_accept(cx) {
            Poll::Ready(accepted) => Some(accepted.map(|(stream, _)| (stream, by))),
            Poll::Pending => None,
        });
        ready.map_or(Poll::Pending, Poll::Ready)
    })
    .await
}

/// Counts a connection for as long as it lives.
struct Live(Arc<Shared>);

impl Live {
    fn new(shared: &Arc<Shared>) -> Live {
        shared.counters.accepted.add(1);
        Live(Arc::clone(shared))
    }
}

impl Drop for Live {
    fn drop(&mut self) {
        self.0.counters.closed.add(1);
    }
}
