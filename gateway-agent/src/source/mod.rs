//! Manifests, or the objects of a cluster, to objects. `files` watches a directory, `kube` an API server; both give the same batches, by
//! the same readers.

#![forbid(unsafe_code)]

mod annotations;
mod authorities;
mod beside;
mod config;
pub(crate) mod directory;
pub mod files;
mod gateway;
mod hostname;
mod http;
mod kinds;
pub mod kube;
mod listener;
pub mod manifest;
mod policy;
mod problem;
mod read;
mod route;
mod secret;
mod strings;
mod yaml;

pub use problem::{Problem, Severity};
pub use strings::Strings;
pub use yaml::{Node, Value};
