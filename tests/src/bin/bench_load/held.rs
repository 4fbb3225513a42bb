//! Connections that are held: what do they take up in a gateway?

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddrV4};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use clap::Args;
use gateway_tests::lab::raise_open_files;

use crate::connections::{bound, refused, ways};
use crate::hello::Names;
use crate::server::RECORD;

const PATIENCE: Duration = Duration::from_secs(5);

#[derive(Args)]
pub struct Options {
    #[arg(long, default_value_t = 5_000)]
    connections: usize,
    /// Where to, in turn.
    #[arg(long, value_delimiter = ',', required = true)]
    targets: Vec<SocketAddrV4>,
    #[arg(long, value_delimiter = ',', required = true)]
    sources: Vec<Ipv4Addr>,
    #[command(flatten)]
    names: Names,
}

pub fn hold(options: &Options) -> Result<()> {
    raise_open_files()?;
    let mut hellos = options.names.hellos()?.context("--name and --hello are missing")?;
    let mut held = Vec::with_capacity(options.connections);
    for (source, target) in ways(&options.sources, &options.targets).take(options.connections) {
        let mut open = || {
            let mut socket = bound(source)?;
            socket.set_read_timeout(Some(PATIENCE))?;
            socket.connect_timeout(&target.into(), PATIENCE)?;
            socket.write_all(hellos.next())?;
            exchange(&mut socket)?;
            Ok::<_, std::io::Error>(socket)
        };
        let number = held.len() + 1;
        held.push(open().with_context(|| format!("connection {number}, from {source} to {target}"))?);
    }
    ensure!(held.len() == options.connections, "there is no address to connect from or to");
    // That they are open says nothing yet: each must still carry data.
    for (i, socket) in held.iter_mut().enumerate() {
        socket.write_all(b"?").and_then(|()| exchange(socket)).with_context(|| format!("held connection {}", i + 1))?;
    }
    println!("held");
    loop {
        std::thread::park();
    }
}

/// Takes one answer.
fn exchange(mut socket: impl Read) -> std::io::Result<()> {
    let mut record = [0; RECORD.len()];
    socket.read_exact(&mut record)?;
    if record[0] == RECORD[0] { Ok(()) } else { Err(refused(&record)) }
}
