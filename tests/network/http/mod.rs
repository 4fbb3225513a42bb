//! HTTP, HTTPS and gRPC through the agent.

mod aside;
mod browser;
mod change;
mod checked;
mod clients;
mod files;
mod h2;
mod h2spec;
mod keys;
mod kinds;
mod rpc;
mod sessions;
mod slow;
mod smuggling;
mod take_over;

use std::net::SocketAddr;
use std::path::PathBuf;

use gateway_tests::web::{PORT, TLS_PORT, Web};

use crate::bed::on_gateway;
use crate::tls::{go_program, run};

/// Runs curl on the client; every name leads to the target.
fn curl(web: &Web, target: SocketAddr, url: &str, more: &[&str]) -> Result<String, String> {
    let (ca, connect) = (web.ca(), format!("::{target}"));
    let mut arguments = vec!["-sS", "--max-time", "15", "--cacert", &ca, "--connect-to", &connect];
    arguments.extend(more);
    arguments.push(url);
    run(&web.world.client, "curl", &arguments, "")
}

/// Runs the program of tests/clients/go on the client.
fn go(web: &Web, arguments: &[&str]) -> Result<String, String> {
    run(&web.world.client, go_program(), arguments, "")
}

/// The Gateway's listeners, once for each IP version.
fn http() -> [SocketAddr; 2] {
    on_gateway(PORT)
}

fn https() -> [SocketAddr; 2] {
    on_gateway(TLS_PORT)
}

/// A file that goes with the bed.
fn file(web: &Web, name: &str) -> PathBuf {
    web.authority.directory().join(name)
}
