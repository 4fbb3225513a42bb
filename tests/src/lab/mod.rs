//! Networks made of namespaces: nodes, the links between them, processes in them. Everything is undone when the value that
//! stands for it is dropped, also in a panic; and when our own process is killed, the kernel undoes it.

mod agent;
mod go;
mod limits;
mod manifests;
mod node;
mod process;
mod serving;
mod wait;
mod wire;
mod world;

pub use agent::{Agent, binary, sluice};
pub use go::{go_program, h2spec};
pub use limits::raise_open_files;
pub use manifests::{
    Endpoint, Manifests, TlsListener, config_map, gateway, namespace, proxied, route, service, slice, tls_gateway,
    tls_route, tls_secret,
};
pub use node::{Keep, Node, veth};
pub use process::Process;
pub use serving::Serving;
pub use wait::{eventually, wait_for};
pub use wire::{Fate, Segment, Way, Wire, lossy, nth};
pub use world::{Wired, World, address};
