//! Manifests to objects. `files` watches a directory; `manifest` reads one file.

#![forbid(unsafe_code)]

mod annotations;
mod authorities;
mod beside;
mod directory;
pub mod files;
mod gateway;
mod hostname;
mod http;
mod kinds;
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
