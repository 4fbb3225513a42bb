//! New TLS connections with one request each: full handshakes, or resumed ones.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddrV4, TcpStream};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use clap::Args;
use tokio_rustls::rustls::client::Resumption;
use tokio_rustls::rustls::crypto::ring::default_provider;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName, pem::PemObject};
use tokio_rustls::rustls::{ClientConfig, ClientConnection, HandshakeKind, RootCertStore, StreamOwned};

use crate::cpu::Sample;
use crate::{Outcome, Run};

/// Longer is a failure.
const PATIENCE: Duration = Duration::from_secs(5);

#[derive(Args)]
pub struct Options {
    #[command(flatten)]
    run: Run,
    /// PEM: the authority that signed the server's certificate.
    #[arg(long)]
    ca: PathBuf,
    #[arg(long)]
    name: String,
    #[arg(long)]
    path: String,
    /// Connections at a time.
    #[arg(long, default_value_t = 8)]
    concurrency: usize,
    /// With the tickets of the connections before.
    #[arg(long)]
    resume: bool,
}

/// What one thread has done.
#[derive(Default)]
struct Done {
    units: u64,
    failed: u64,
    failure: Option<String>,
}

/// Its threads share the core that the process runs on.
pub fn run(options: &Options) -> Result<Outcome> {
    let target = *options.run.targets.first().context("no target")?;
    let warm = Instant::now() + options.run.warm_up();
    let end = warm + options.run.measure();
    let (done, usage) = std::thread::scope(|scope| -> Result<_> {
        let threads: Vec<_> = (0..options.concurrency.max(1))
            .map(|_| scope.spawn(move || again_and_again(options, target, warm, end)))
            .collect();
        std::thread::sleep(warm.saturating_duration_since(Instant::now()));
        let sample = Sample::begin()?;
        std::thread::sleep(end.saturating_duration_since(Instant::now()));
        let usage = sample.end()?;
        let mut all = Done::default();
        for thread in threads {
            let done = thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
            all.units += done.units;
            all.failed += done.failed;
            all.failure = all.failure.or(done.failure);
        }
        Ok((all, usage))
    })?;
    let Done { units, failed, failure } = done;
    ensure!(units > 0, "no request to {target} was answered; {failed} failed: {failure:?}");
    Ok(Outcome { units, failed, failure, usage, latencies: Vec::new() })
}

fn again_and_again(options: &Options, target: SocketAddrV4, warm: Instant, end: Instant) -> Result<Done> {
    let config = config(options)?;
    let mut done = Done::default();
    let mut first = true;
    loop {
        let outcome = once(options, target, &config, first);
        first = false;
        let now = Instant::now();
        if now >= end {
            return Ok(done);
        }
        if now < warm {
            continue;
        }
        match outcome {
            Ok(()) => done.units += 1,
            Err(error) => {
                done.failed += 1;
                done.failure.get_or_insert_with(|| format!("{error:#}"));
            }
        }
    }
}

fn config(options: &Options) -> Result<Arc<ClientConfig>> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(&options.ca).context("cannot read --ca")?)?;
    let builder = ClientConfig::builder_with_provider(Arc::new(default_provider()));
    let mut config = builder.with_safe_default_protocol_versions()?.with_root_certificates(roots).with_no_client_auth();
    if !options.resume {
        config.resumption = Resumption::disabled();
    }
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

fn once(options: &Options, target: SocketAddrV4, config: &Arc<ClientConfig>, first: bool) -> Result<()> {
    let socket = TcpStream::connect_timeout(&target.into(), PATIENCE)?;
    socket.set_nodelay(true)?;
    socket.set_read_timeout(Some(PATIENCE))?;
    let name = ServerName::try_from(options.name.clone())?;
    let mut stream = StreamOwned::new(ClientConnection::new(Arc::clone(config), name)?, socket);
    write!(stream, "GET {} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\r\n", options.path, options.name)?;
    let mut answer = Vec::new();
    match stream.read_to_end(&mut answer) {
        // Some servers leave out close_notify.
        Err(error) if error.kind() != ErrorKind::UnexpectedEof => return Err(error.into()),
        _ => {}
    }
    ensure!(
        answer.starts_with(b"HTTP/1.1 200"),
        "the answer was {:?}",
        String::from_utf8_lossy(&answer[..answer.len().min(60)])
    );
    match stream.conn.handshake_kind() {
        Some(HandshakeKind::Resumed) if !options.resume => bail!("it was resumed"),
        Some(HandshakeKind::Resumed) => Ok(()),
        _ if options.resume && !first => bail!("it was not resumed"),
        _ => Ok(()),
    }
}
