//! The server of `gateway_tests::server` as a process of its own.

#![forbid(unsafe_code)]

use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::Parser;
use gateway_tests::server::{Options, Server, Tls};
use gateway_tests::tls;

#[derive(Parser)]
#[command(about = "Says who it is and whom it sees, on TCP, UDP and as DNS.")]
struct Arguments {
    /// What it calls itself.
    name: String,
    #[arg(long, default_value_t = 0)]
    tcp: u16,
    #[arg(long, default_value_t = 0)]
    udp: u16,
    #[arg(long, default_value_t = 0)]
    dns: u16,
    #[arg(long, default_value_t = 0, requires_all = ["certificate", "key"])]
    tls: u16,
    /// TLS behind a PROXY protocol v2 header.
    #[arg(long, default_value_t = 0, requires_all = ["certificate", "key"])]
    proxied_tls: u16,
    /// PEM: the server's own first.
    #[arg(long, value_name = "FILE")]
    certificate: Option<PathBuf>,
    /// PEM.
    #[arg(long, value_name = "FILE")]
    key: Option<PathBuf>,
    /// What `GET /file` sends.
    #[arg(long)]
    file: Option<PathBuf>,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let Arguments { name, tcp, udp, dns, tls, proxied_tls, certificate, key, file } = Arguments::parse();
    gateway_tests::lab::raise_open_files()?;
    let tls = match (certificate, key) {
        (Some(certificate), Some(key)) => {
            Some(Tls { port: tls, proxied_port: proxied_tls, config: tls::server_of(&certificate, &key)? })
        }
        _ => None,
    };
    let server = Server::bind(Options { name, tcp, udp, dns, tls, file }).context("cannot bind")?;
    println!("ready");
    server.serve().await.context("cannot serve")
}
