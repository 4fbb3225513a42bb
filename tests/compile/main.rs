//! Manifests in, IR, status and problems out: golden files, and properties that hold for all manifests.

mod golden;
mod render;
