//! HTTP in the agent. The way of a request is: accept → listener → match → filters → pick → pool → forward. README.md in this folder
//! has who calls whom.
//!
//! A request reads exactly one [`snapshot::Snapshot`]. Everything else that it touches belongs to its worker ([`worker::Local`]): no lock,
//! and no word that another core writes.

#![forbid(unsafe_code)]

pub mod access_log;
pub mod answer;
pub mod body;
pub mod budget;
mod cork;
pub mod direct;
pub mod exchange;
mod faults;
pub mod filters;
pub mod forward;
pub mod forwarded;
pub mod framing;
pub mod grpc;
pub mod guard;
pub mod matches;
pub mod meter;
pub mod metrics;
pub mod path;
pub mod places;
mod rarely;
pub mod retry;
pub mod server;
pub mod session;
pub mod snapshot;
pub mod table;
pub mod timeout;
pub mod tunnel;
pub mod upgrade;
pub mod upload;
pub mod upstream;
pub mod worker;

#[cfg(test)]
pub(crate) mod tests;
