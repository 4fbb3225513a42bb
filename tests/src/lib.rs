//! What the tests of Sluice and the lab share: network namespaces, servers, and the agent as a real process.

#![forbid(unsafe_code)]

pub mod client;
pub mod cluster;
pub mod lab;
pub mod server;
pub mod smuggling;
pub mod soak;
pub mod tls;
pub mod traffic;
pub mod web;
