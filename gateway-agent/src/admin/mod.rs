//! What the agent tells of itself: metrics and readiness over HTTP, and the state of everything to the command line over a
//! unix socket.

#![forbid(unsafe_code)]

mod dump;
mod events;
mod http;
mod metrics;
mod requests;
mod socket;
mod stream;
mod trace;
mod trace_http;
pub mod view;

use std::rc::Rc;
use std::sync::Arc;

use hashbrown::HashMap;

use crate::apply::status::Counts;
use crate::apply::{Capacity, Fill};
use crate::datapath::{Contents, Counters};
use crate::emit::shares::BackendKey;
use crate::ir::ListenerName;
use crate::proxy;

pub use dump::Routes;
pub use events::{Watchers, line as event_line};
pub use http::serve as serve_http;
pub use metrics::Durations;
pub use requests::status as http_status;
pub use socket::{Query, serve as serve_socket};
pub use trace::Question;
pub use trace_http::HttpQuestion;

/// What can be asked for. It is made at the time of the question, so that keeping it up to date costs nothing.
pub trait Subject {
    /// Whether the first compile is in the maps.
    fn is_ready(&self) -> bool;
    fn snapshot(&self) -> Snapshot;
    /// All but the server names.
    fn status(&self) -> view::Status;
    /// The routes behind server names.
    fn routes(&self) -> Routes;
    fn watchers(&self) -> Rc<Watchers>;
}

/// The state at one time, in a form that another thread can go through.
pub struct Snapshot {
    pub names: Names,
    pub fill: Fill,
    pub capacity: Capacity,
    /// Objects in the index, by kind.
    pub objects: Vec<(&'static str, usize)>,
    pub addresses: Vec<view::PoolAddress>,
    /// Interfaces with programs on them.
    pub interfaces: usize,
    /// Manifests and objects that something is wrong with.
    pub problems: usize,
    pub durations: Durations,
    pub statuses: Counts,
    pub counters: Counters,
    pub contents: Contents,
    pub proxy: proxy::Handle,
}

/// The names behind the ids.
#[derive(Default)]
pub struct Names {
    pub listeners: HashMap<u32, ListenerName>,
    pub backends: HashMap<u32, BackendName>,
}

#[derive(Debug)]
pub struct BackendName {
    pub key: BackendKey,
    /// Of the first route that has it; `None`: nothing has it any more.
    pub service: Option<Arc<str>>,
}

impl Names {
    pub fn listener(&self, id: u32) -> Option<String> {
        self.listeners.get(&id).map(ToString::to_string)
    }

    pub fn service(&self, backend: u32) -> Option<&str> {
        self.backends.get(&backend)?.service.as_deref()
    }
}
