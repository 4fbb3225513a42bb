//! Real clients in network namespaces, the agent as a real process. Needs root: `cargo xtask test network`.

#![forbid(unsafe_code)]

mod bed;
mod configuration;
mod endpoints;
mod floods;
mod forwarding;
mod fragments;
mod icmp;
mod lifecycle;
mod refusals;
mod tcp;
mod weights;
