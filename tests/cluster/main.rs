//! Sluice in a real Kubernetes: `cargo xtask test cluster` makes it, with the agent as a DaemonSet.

#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking, also in its helpers")]

mod addresses;
mod bed;
mod certificates;
mod chart;
mod config;
mod deployed;
mod example;
mod rights;
mod statuses;
mod texts;
