//! Real clients in network namespaces, the agent as a real process. Needs root: `cargo xtask test network`.

#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking, also in its helpers")]

mod addresses;
mod bed;
mod configuration;
mod endpoints;
mod floods;
mod forwarding;
mod fragments;
mod generator;
mod http;
mod http_sockets;
mod icmp;
mod lifecycle;
mod refusals;
mod talk;
mod tcp;
mod tls;
mod weights;
mod xdp;
