//! Statuses to the API server, by the one agent that holds the Lease.
//!
//! What is to be written is seen by digests: that of the status that an object is to have, and that of what is ours in the one it has, which
//! the watches keep. Only then it is read whole, merged and written under the version that was read, so that what others write at
//! the same time is not lost. Lists of several controllers (`parents`, `ancestors`) are atomic to the API server, so server-side apply
//! would not do.

#![forbid(unsafe_code)]

mod board;
mod digest;
mod events;
mod gate;
mod lease;
mod made;
mod merge;
mod queue;

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::rc::Rc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{Method, StatusCode};
use jiff::Timestamp;
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::task::{JoinSet, spawn_local};

pub use board::{Board, Counts};
pub use digest::{Digest, digest};
use events::{Events, Turned, turned};
use gate::{Gate, Passage, Touched};
pub use lease::Lease;
use merge::merge;
use queue::{Queue, Urgency};

use crate::addresses::{Need, Nodes, Reached};
use crate::complaint::Complaint;
use crate::emit::status::ObjectStatus;
use crate::index::{Kind, Name, ObjectId};
use crate::source::kube::{Api, ApiError, Cluster, Format, JSON, node, path};

/// Written at the same time.
const AT_ONCE: usize = 4;
/// Others may write to the same object meanwhile.
const ATTEMPTS: u32 = 5;
const FIRST_RETRY: Duration = Duration::from_secs(1);
const LAST_RETRY: Duration = Duration::from_secs(60);

/// The statuses that there are to be.
pub trait Statuses {
    fn wanted(&self, id: &ObjectId) -> Option<ObjectStatus>;
    fn all(&self) -> Vec<ObjectId>;
    /// The Gateway that an object is or is for, and its addresses that one node of all answers for.
    fn served(&self, id: &ObjectId) -> Option<(Name, Vec<IpAddr>)>;
}

/// Writes for as long as `holding` says so, until nobody says anything any more.
pub async fn write<S: Statuses>(
    api: Api,
    cluster: Rc<Cluster>,
    statuses: Rc<RefCell<S>>,
    board: Rc<Board>,
    nodes: watch::Receiver<Nodes>,
    mut holding: watch::Receiver<bool>,
) {
    while holding.wait_for(|holding| *holding).await.is_ok() {
        board.listen(true);
        let writer = Writer {
            api: api.clone(),
            cluster: Rc::clone(&cluster),
            statuses: Rc::clone(&statuses),
            board: Rc::clone(&board),
            gate: Gate::new(nodes.clone()),
            queue: Queue::new(Instant::now()),
            running: BTreeSet::new(),
            odd: BTreeMap::new(),
            failing: BTreeMap::new(),
            events: Events::new(Instant::now()),
            made: BTreeMap::new(),
        };
        tokio::select! {
            () = writer.run() => {}
            // What is under way is dropped: it is another's now.
            _ = holding.wait_for(|holding| !*holding) => {}
        }
        board.listen(false);
    }
}

struct Writer<S> {
    api: Api,
    cluster: Rc<Cluster>,
    statuses: Rc<RefCell<S>>,
    board: Rc<Board>,
    gate: Gate,
    queue: Queue,
    running: BTreeSet<ObjectId>,
    /// What the API server made something else of than was written (a field that its CRD does not have): wanted, and what became of it.
    odd: BTreeMap<ObjectId, (Digest, Digest)>,
    failing: BTreeMap<ObjectId, Failing>,
    events: Events,
    /// What was made last of each Gateway.
    made: BTreeMap<ObjectId, u64>,
}

#[derive(Default)]
struct Failing {
    times: u32,
    complaint: Complaint,
}

/// A status to be written.
struct Task {
    id: ObjectId,
    /// `None`: what is ours is to go.
    status: Option<Value>,
    digest: Digest,
    /// Of the object, if it has no status at all: then it need not be read first.
    version: Option<Box<str>>,
}

/// What is to be done about an object.
enum Next {
    Nothing,
    Write(Task, Urgency),
    /// It is to be looked at again then.
    Wait(Instant),
}

impl<S: Statuses> Writer<S> {
    async fn run(mut self) {
        let mut tasks: JoinSet<(ObjectId, Digest, Result<Done, ApiError>)> = JoinSet::new();
        let all = self.statuses.borrow().all();
        all.into_iter().chain(self.cluster.with_status()).for_each(|id| self.touched(id));
        loop {
            let now = Instant::now();
            while tasks.len() < AT_ONCE
                && let Some(id) = self.queue.pop(now)
            {
                if self.running.contains(&id) {
                    // It is seen to when that has ended.
                    continue;
                }
                let task = match self.task(&id, now) {
                    Next::Write(task, _) => task,
                    Next::Wait(until) => {
                        self.queue.wait(id, until);
                        continue;
                    }
                    Next::Nothing => continue,
                };
                self.running.insert(id);
                let (api, cluster) = (self.api.clone(), Rc::clone(&self.cluster));
                tasks.spawn_local(async move {
                    let done = task.write(&api, &cluster).await;
                    (task.id, task.digest, done)
                });
            }
            let due = if tasks.len() < AT_ONCE { self.queue.due(now) } else { None };
            tokio::select! {
                touched = self.board.touched() => touched.into_iter().for_each(|id| self.touched(id)),
                touched = self.gate.news() => {
                    let touched = match touched {
                        Touched::Everything => self.statuses.borrow().all(),
                        Touched::These(ids) => ids,
                    };
                    touched.into_iter().filter(is_gated).for_each(|id| self.touched(id));
                }
                Some(done) = tasks.join_next(), if !tasks.is_empty() => match done {
                    Ok((id, digest, done)) => self.done(id, digest, done),
                    // A task panicked; that is a mistake of ours, and says so by itself.
                    Err(error) => tracing::error!("a status was not written: {error}"),
                },
                () = tokio::time::sleep_until(due.unwrap_or(now).into()), if due.is_some() => {}
            }
        }
    }

    fn touched(&mut self, id: ObjectId) {
        if self.cluster.seen(&id).is_none() {
            self.failing.remove(&id);
            self.odd.remove(&id);
            self.made.remove(&id);
            self.gate.forget(&id);
        }
        let now = Instant::now();
        match self.task(&id, now) {
            // Perhaps it has only not been compiled yet.
            Next::Write(Task { status: None, .. }, _) => self.queue.wait(id, now + FIRST_RETRY),
            Next::Write(_, urgency) => self.queue.push(id, urgency, now),
            Next::Wait(until) => self.queue.wait(id, until),
            Next::Nothing => {}
        }
    }

    /// What is to be written of an object, if anything is.
    fn task(&mut self, id: &ObjectId, now: Instant) -> Next {
        let Some(seen) = self.cluster.seen(id) else { return Next::Nothing };
        let statuses = Rc::clone(&self.statuses);
        let statuses = statuses.borrow();
        let mut long_due = false;
        let (status, digest) = match statuses.wanted(id) {
            Some(mut wanted) => {
                match self.pass(id, &wanted, &*statuses, now) {
                    Passage::Free { waited } => long_due = waited,
                    Passage::Wait(until) => return Next::Wait(until),
                    Passage::Behind(behind) => wanted.take_back(&behind),
                }
                let Some((status, digest)) = written(id.kind, &wanted) else { return Next::Nothing };
                (Some(status), digest)
            }
            // Whose these are is not said in them.
            None if matches!(id.kind, Kind::GatewayClass | Kind::Gateway | Kind::ListenerSet) => return Next::Nothing,
            None => (None, Digest::default()),
        };
        if seen.digest == digest || self.odd.get(id) == Some(&(digest, seen.digest)) {
            return Next::Nothing;
        }
        let urgency = match seen.digest.settled == digest.settled {
            true => Urgency::Counts,
            false if long_due => Urgency::Now,
            false => Urgency::Soon,
        };
        Next::Write(Task { id: id.clone(), status, digest, version: seen.blank }, urgency)
    }

    /// Whether what is in force here is so wherever it must be.
    fn pass(&mut self, id: &ObjectId, wanted: &ObjectStatus, statuses: &S, now: Instant) -> Passage {
        let Some((gateway, addresses)) = statuses.served(id).filter(|_| wanted.is_programmed()) else {
            self.gate.forget(id);
            return Passage::Free { waited: false };
        };
        let gateway = ObjectId { kind: Kind::Gateway, name: gateway };
        let mark = self.cluster.mark(&gateway);
        // Only from there do the others know of addresses of a pool.
        let gateways = if addresses.is_empty() { mark.spec } else { mark.spec.max(mark.addresses) };
        let listener_sets = if id.kind == Kind::ListenerSet { self.cluster.mark(id).spec } else { 0 };
        let is_new = *id == gateway && !self.cluster.shows(id, &addresses);
        let reached = Reached { gateways, listener_sets };
        let need = Need { reached, addresses, listeners: wanted.listeners_in_force() };
        self.gate.pass(id, &need, is_new, now)
    }

    fn done(&mut self, id: ObjectId, wanted: Digest, done: Result<Done, ApiError>) {
        self.running.remove(&id);
        let now = Instant::now();
        match done {
            Ok(done) => {
                self.failing.remove(&id);
                self.odd.remove(&id);
                if let Done::Written { became, object, turned } = done {
                    if id.kind == Kind::Gateway {
                        self.make(&id, &object);
                    }
                    self.say(&id, &object, turned, now);
                    self.board.written(id.kind);
                    self.queue.written(&id, now);
                    if became != wanted {
                        self.odd.insert(id.clone(), (wanted, became));
                    }
                    // The watch may not have told of it yet.
                    self.cluster.wrote(&id, became);
                }
                // What happened meanwhile.
                self.touched(id);
            }
            Err(error) => {
                self.board.failed();
                let failing = self.failing.entry(id.clone()).or_default();
                if error.code().is_some() && failing.complaint.is_new(&error) {
                    tracing::warn!("cannot write the status of {id}: {error}; it is tried again");
                }
                let pause = FIRST_RETRY.saturating_mul(1 << failing.times.min(6)).min(LAST_RETRY);
                failing.times += 1;
                self.queue.wait(id, now + pause);
            }
        }
    }
}

impl<S> Writer<S> {
    /// What goes with a Gateway follows its status: both change with its spec and its addresses.
    fn make(&mut self, id: &ObjectId, gateway: &Bytes) {
        let gateway: Value = serde_json::from_slice(gateway).unwrap_or(Value::Null);
        if !made::is_due(&gateway) {
            return;
        }
        let objects = made::made(&gateway);
        let hash = digest::text(&format!("{objects:?}"));
        if self.made.insert(id.clone(), hash) == Some(hash) {
            return;
        }
        let (api, id) = (self.api.clone(), id.clone());
        spawn_local(async move {
            match made::apply(&api, &objects).await {
                Ok(None) => {}
                Ok(Some(other)) => {
                    tracing::warn!("{id} has no Service: there is a {other} that is not Sluice's; rename it")
                }
                Err(error) => {
                    tracing::warn!("cannot make the Service of {id}: {error}; its next change will try again")
                }
            }
        });
    }

    fn say(&mut self, id: &ObjectId, object: &Bytes, turned: Vec<Turned>, now: Instant) {
        let chosen = self.events.choose(id, turned, now);
        if chosen.is_empty() {
            return;
        }
        let (api, id) = (self.api.clone(), id.clone());
        // It was read before.
        let object = serde_json::from_slice(object).unwrap_or(Value::Null);
        spawn_local(async move {
            for turned in &chosen {
                if let Err(error) = events::say(&api, &id, &object, turned).await {
                    tracing::debug!("no Event for {id}: {error}");
                }
            }
        });
    }
}

/// What became of a task.
enum Done {
    Written {
        /// What of it is ours, as the API server has it.
        became: Digest,
        /// As the API server has it.
        object: Bytes,
        turned: Vec<Turned>,
    },
    /// There was nothing to write.
    Nothing,
}

impl Task {
    async fn write(&self, api: &Api, cluster: &Cluster) -> Result<Done, ApiError> {
        let kind = self.id.kind;
        let Some(version) = cluster.served(kind) else { return Ok(Done::Nothing) };
        let namespace = Some(&*self.id.name.namespace).filter(|_| kind.namespaced());
        let path = format!("{}/{}", path(kind, version, namespace), self.id.name.name);
        if let Some(version) = &self.version
            && let Some(done) = self.patch(api, &path, version, &Value::Null).await?
        {
            return Ok(done);
        }
        for _ in 0..ATTEMPTS {
            let bytes = match api.get(&path, JSON).await {
                Err(ApiError::Refused { code: StatusCode::NOT_FOUND, .. }) => return Ok(Done::Nothing),
                answer => answer?,
            };
            if digest_of(kind, &bytes)? == self.digest {
                return Ok(Done::Nothing);
            }
            let object: Value = serde_json::from_slice(&bytes).map_err(ApiError::malformed)?;
            let version = object["metadata"]["resourceVersion"].as_str().unwrap_or_default();
            if let Some(done) = self.patch(api, &path, version, &object["status"]).await? {
                return Ok(done);
            }
        }
        let message = format!("others write to it all the time ({ATTEMPTS} attempts)");
        Err(ApiError::Refused { code: StatusCode::CONFLICT, message })
    }

    /// `None`: the object is not what it was.
    async fn patch(&self, api: &Api, path: &str, version: &str, present: &Value) -> Result<Option<Done>, ApiError> {
        let status = merge(self.id.kind, present, self.status.as_ref(), Timestamp::now());
        let patch = json!({ "metadata": { "resourceVersion": version }, "status": &status });
        let path = format!("{path}/status?fieldManager=sluice");
        match api.send(Method::PATCH, &path, Format::MergePatch, patch.to_string().into()).await {
            Ok(object) => {
                let became = digest_of(self.id.kind, &object)?;
                Ok(Some(Done::Written { became, object, turned: turned(present, &status) }))
            }
            Err(ApiError::Refused { code: StatusCode::CONFLICT, .. }) => Ok(None),
            Err(ApiError::Refused { code: StatusCode::NOT_FOUND, .. }) => Ok(Some(Done::Nothing)),
            Err(error) => Err(error),
        }
    }
}

/// Of these it is said whether they are programmed.
fn is_gated(id: &ObjectId) -> bool {
    matches!(id.kind, Kind::Gateway | Kind::ListenerSet)
}

/// A status as it is written.
fn written(kind: Kind, wanted: &ObjectStatus) -> Option<(Value, Digest)> {
    let text = serde_json::to_vec(&wanted.status).ok()?;
    let digest = digest(kind, Some(&node(&text).ok()?));
    Some((serde_json::from_slice(&text).ok()?, digest))
}

fn digest_of(kind: Kind, object: &Bytes) -> Result<Digest, ApiError> {
    let object = node(object).map_err(ApiError::malformed)?;
    Ok(digest(kind, object.get("status")))
}
