//! The server of `gateway_tests::server` as a process of its own.

#![forbid(unsafe_code)]

use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::Parser;
use gateway_tests::server::{Options, Server};

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
    /// What `GET /file` sends.
    #[arg(long)]
    file: Option<PathBuf>,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let Arguments { name, tcp, udp, dns, file } = Arguments::parse();
    gateway_tests::lab::raise_open_files()?;
    let server = Server::bind(Options { name, tcp, udp, dns, file }).context("cannot bind")?;
    println!("ready");
    server.serve().await.context("cannot serve")
}
