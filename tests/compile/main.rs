//! Manifests in, IR, status and problems out: golden files, and properties that hold for all manifests.

mod bad_input;
mod beside;
mod check;
mod follow;
mod golden;
mod http;
mod isolation;
mod order;
mod render;
mod shape;
mod sharing;
mod watch;
