//! The objects of a cluster: every kind that Sluice reads is watched, and what changes goes to the index as the changes of files do.
//!
//! The first batch comes once everything has been listed, so that an agent that starts does not take apart what an earlier one left in
//! the kernel; until then it has the objects that the earlier one kept in a file. Secrets, ConfigMaps and SluiceConfigs are watched one by
//! one, as they are referred to; what refers to a new one waits for it, or
//! an HTTPS listener would be without its certificate for a moment.

mod api;
mod definitions;
mod json;
mod kept;
mod link;
mod objects;
mod reached;
mod references;
mod refused;
mod store;
#[cfg(test)]
mod tests;
mod watch;

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

use tokio::sync::{Notify, mpsc};
use tokio::task::{AbortHandle, spawn_local};
use tokio::time::timeout;

pub use api::{Api, ApiError, ConfigError, Format, JSON, micro_time};
use definitions::{Definitions, Known};
pub use json::node;
use link::Link;
use objects::Objects;
pub use objects::path;
use reached::Mark;
pub use store::Seen;
use store::Store;
pub use watch::{Place, Subject};

use super::files::Batch;
use crate::addresses::Reached;
use crate::apply::status::{Board, Digest};
use crate::index::{Kind, ObjectId};

/// Every object of these.
const KINDS: [Kind; 13] = [
    Kind::GatewayClass,
    Kind::Gateway,
    Kind::ListenerSet,
    Kind::HTTPRoute,
    Kind::GRPCRoute,
    Kind::TCPRoute,
    Kind::TLSRoute,
    Kind::UDPRoute,
    Kind::BackendTLSPolicy,
    Kind::ReferenceGrant,
    Kind::Service,
    Kind::EndpointSlice,
    Kind::Namespace,
];
/// How long changes wait for what is watched one by one and they refer to.
const PATIENCE: Duration = Duration::from_secs(1);
/// Watches of single objects on a connection.
const STREAMS: usize = 100;

/// What is known of a cluster, and who wants to know.
pub struct Cluster {
    link: Link,
    store: RefCell<Store>,
    definitions: RefCell<Known>,
    /// The version that each kind is watched in.
    served: RefCell<BTreeMap<Kind, &'static str>>,
    /// Watches that have said nothing yet.
    silent: Cell<usize>,
    news: Notify,
    board: Rc<Board>,
}

/// A cluster that is watched.
pub struct Following {
    pub cluster: Rc<Cluster>,
    /// What an earlier agent has kept. Statuses are not to be written by it.
    pub kept: Option<Batch>,
    /// What is different. The first comes when everything has been listed.
    pub batches: mpsc::Receiver<Batch>,
}

/// Watches everything, in tasks of their own on this thread, until the receiver is dropped.
/// `board`: who wants to know of statuses. `keep`: the file that objects are kept in.
pub fn start(api: Api, board: Rc<Board>, keep: Option<&Path>) -> Following {
    let (sender, batches) = mpsc::channel(1);
    let mut store = Store::default();
    if let Some(path) = keep
        && let Err(error) = store.keep(path, &api.url())
    {
        tracing::warn!(path = %path.display(), %error, "cannot keep the objects of the cluster: an agent that starts while the API \
                       server is away will not serve HTTP; name a file that it may write with --objects-file");
    }
    let kept = store.take();
    let cluster = Rc::new(Cluster {
        link: Link::new(),
        store: RefCell::new(store),
        definitions: RefCell::default(),
        served: RefCell::default(),
        silent: Cell::new(0),
        news: Notify::new(),
        board,
    });
    let source = Source { api, cluster: Rc::clone(&cluster), singles: BTreeMap::new(), others: Vec::new() };
    spawn_local(source.run(sender));
    Following { cluster, kept, batches }
}

impl Cluster {
    /// The version of a kind that the API server has; `None`: it has none.
    pub fn served(&self, kind: Kind) -> Option<&'static str> {
        self.served.borrow().get(&kind).copied()
    }

    /// The status of an object that is there.
    pub fn seen(&self, id: &ObjectId) -> Option<Seen> {
        self.store.borrow().seen(id).cloned()
    }

    /// Objects with something of ours in their status.
    pub fn with_status(&self) -> Vec<ObjectId> {
        self.store.borrow().with_status()
    }

    /// The status was written.
    pub fn wrote(&self, id: &ObjectId, digest: Digest) {
        self.store.borrow_mut().wrote(id, digest);
    }

    /// A batch was applied.
    pub fn applied(&self) {
        self.store.borrow_mut().progress.applied();
    }

    /// Up to where everything is applied that the API server has said; `None`: nothing is.
    pub fn place(&self) -> Option<Reached> {
        self.store.borrow().applied()
    }

    /// Which versions of an object matter.
    pub fn mark(&self, id: &ObjectId) -> Mark {
        self.store.borrow().progress.mark(id)
    }

    /// Whether the status of a Gateway shows these addresses, so that other agents know of them.
    pub fn shows(&self, gateway: &ObjectId, addresses: &[IpAddr]) -> bool {
        self.store.borrow().shows(gateway, addresses)
    }

    /// The file of objects is another agent's from now on.
    pub fn leave_kept(&self) {
        self.store.borrow_mut().leave_kept();
    }

    /// Watches something that is no object of ours.
    pub async fn follow(&self, api: &Api, subject: impl Subject) {
        watch::follow(api, &self.link, subject).await;
    }

    /// Somebody has begun to ask for something; until the answer, changes wait.
    fn ask(self: &Rc<Self>) -> Asked {
        self.silent.set(self.silent.get() + 1);
        Asked { cluster: Rc::clone(self) }
    }

    /// Everything that was asked for has been answered.
    async fn answered(&self) {
        while self.silent.get() > 0 {
            self.news.notified().await;
        }
    }
}

/// Until it is dropped the answer is awaited.
struct Asked {
    cluster: Rc<Cluster>,
}

impl Drop for Asked {
    fn drop(&mut self) {
        self.cluster.silent.set(self.cluster.silent.get() - 1);
        self.cluster.news.notify_one();
    }
}

struct Source {
    api: Api,
    cluster: Rc<Cluster>,
    /// What is watched one by one.
    singles: BTreeMap<ObjectId, AbortHandle>,
    /// More connections for these.
    others: Vec<Api>,
}

impl Source {
    async fn run(mut self, sender: mpsc::Sender<Batch>) {
        let mut watches: Vec<AbortHandle> =
            KINDS.into_iter().map(|kind| self.watch(self.api.clone(), Objects::of(&self.cluster, kind))).collect();
        watches.push(self.watch(self.api.clone(), Definitions::new(&self.cluster)));
        tokio::select! {
            () = sender.closed() => {}
            () = self.deliver(&sender) => {}
        }
        watches.iter().chain(self.singles.values()).for_each(AbortHandle::abort);
    }

    /// Gives on what is news, all that has come together at once.
    async fn deliver(&mut self, sender: &mpsc::Sender<Batch>) {
        self.cluster.answered().await;
        self.follow_references();
        self.cluster.answered().await;
        self.cluster.definitions.borrow().say_missing();
        self.cluster.store.borrow_mut().speak();
        loop {
            // Before there is something to take, or what comes while somebody else is slow would be many batches.
            let Ok(permit) = sender.reserve().await else { return };
            let batch = loop {
                if self.follow_references() {
                    // Too long: whoever refers to it is told that it is not there.
                    let _ = timeout(PATIENCE, self.cluster.answered()).await;
                }
                if let Some(batch) = self.cluster.store.borrow_mut().take() {
                    break batch;
                }
                self.cluster.news.notified().await;
            };
            permit.send(batch);
        }
    }

    /// Starts and ends watches of single objects; says whether one was started.
    fn follow_references(&mut self) -> bool {
        let Some(wanted) = self.cluster.store.borrow_mut().referenced() else { return false };
        self.singles.retain(|id, watch| {
            let keep = wanted.contains(id);
            if !keep {
                watch.abort();
            }
            keep
        });
        let mut started = false;
        for id in wanted {
            if !self.singles.contains_key(&id) {
                let api = self.connection();
                let watch = self.watch(api, Objects::one(&self.cluster, id.clone()));
                self.singles.insert(id, watch);
                started = true;
            }
        }
        started
    }

    /// One with room for another stream.
    fn connection(&mut self) -> Api {
        let i = self.singles.len() / STREAMS;
        while self.others.len() <= i {
            match self.api.another() {
                Ok(api) => self.others.push(api),
                Err(error) => {
                    tracing::warn!("{error}; one connection less");
                    return self.api.clone();
                }
            }
        }
        self.others[i].clone()
    }

    fn watch(&self, api: Api, subject: impl watch::Subject + 'static) -> AbortHandle {
        let cluster = Rc::clone(&self.cluster);
        spawn_local(async move { watch::follow(&api, &cluster.link, subject).await }).abort_handle()
    }
}
