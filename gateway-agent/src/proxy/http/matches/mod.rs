//! What a request must be like for a rule to apply. A file a kind of match.

mod grpc_method;
mod headers;
mod method;
mod path;
mod query;
mod text;

use http::Method;
use http::request::Parts;

pub use grpc_method::GrpcMethodMatch;
pub use headers::HeaderMatch;
pub use path::{PathMatch, prefixes};
pub use query::QueryMatch;
pub use text::{Pattern, PatternError, Text};

/// All of it must hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Match {
    pub path: PathMatch,
    pub method: Option<Method>,
    /// No name twice (the first of the API's list counts).
    pub headers: Vec<HeaderMatch>,
    /// No name twice.
    pub query: Vec<QueryMatch>,
}

impl Match {
    /// Everything with this path.
    pub fn path(path: PathMatch) -> Match {
        Match { path, method: None, headers: Vec::new(), query: Vec::new() }
    }

    /// `path`: as [`normalize`](super::path::normalize) has it.
    pub fn holds(&self, path: &str, request: &Parts) -> bool {
        self.path.holds(path) && self.holds_beside_path(request)
    }

    /// For who has found it by the path.
    pub fn holds_beside_path(&self, request: &Parts) -> bool {
        method::holds(self.method.as_ref(), &request.method)
            && self.headers.iter().all(|header| header.holds(&request.headers))
            && query::all_hold(&self.query, request.uri.query())
    }
}
