//! Sluice in a real Kubernetes: `cargo xtask test cluster` makes it, with the agent as a DaemonSet.

#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking, also in its helpers")]

mod addresses;
mod away;
mod bed;
mod broken;
mod certificates;
mod chart;
mod config;
mod deployed;
mod example;
mod families;
mod others;
mod programmed;
mod rights;
mod rollout;
mod statuses;
mod texts;
mod traffic;
