//! Manifests to objects. `files` watches a directory; `manifest` reads one file.

#![forbid(unsafe_code)]

mod directory;
pub mod files;
mod hostname;
mod kinds;
mod listener;
pub mod manifest;
mod problem;
mod read;
mod secret;
mod strings;
mod yaml;

pub use problem::{Problem, Severity};
pub use strings::Strings;
