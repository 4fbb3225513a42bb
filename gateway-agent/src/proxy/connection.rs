//! One connection, from accept to its end.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use gateway_common::{FlowKey, hash, protocol};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout, timeout_at};

use super::backend::Picked;
use super::front::{self, Front};
use super::table::Port;
use super::worker::Kept;
use super::{Origin, Refusal, Shared, Terminator, To, backend, hello, preface, relay, sockets, terminate};
use crate::emit::maps::address;
use crate::ir::BackendSet;

/// How long a client that was refused may take to read why.
const FAREWELL: Duration = Duration::from_secs(1);
/// What it may have sent by then.
const UNREAD: usize = 256 * 1024;

/// How the kernel hands a connection over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum By {
    /// The client's connection to the Gateway is spliced to one to a port of the agent.
    Splice,
    /// `steer` gives the client's connection to a socket of the agent.
    Steering,
}

pub async fn serve(mut client: TcpStream, by: By, shared: &Shared, kept: &Kept) {
    let deadline = Instant::now() + shared.options.handshake;
    let (refused, client) = match find(&mut client, by, deadline, shared, kept).await {
        // Boxed, so that connections that are forwarded need not have the room for it.
        Ok(Found::Clear(front, origin)) => return Box::pin(front::clear(client, front, origin, kept)).await,
        Ok(Found::Secure(front, origin, read)) => {
            match Box::pin(front::secure(client, read, deadline, front, origin, shared, kept)).await {
                Ok(()) => return,
                Err(refused) => refused,
            }
        }
        Ok(Found::Tcp(way, terminator, read)) => {
            match forward(&mut client, read, deadline, terminator, way, shared, kept).await {
                Ok(()) => return,
                Err(refused) => (refused, Some(client)),
            }
        }
        Err(refused) => (refused, Some(client)),
    };
    let Refused { reason, answer } = refused;
    shared.counters.refuse(reason);
    tracing::debug!(reason = reason.name(), "a connection to the agent was refused");
    if let Some(client) = client {
        answer.give(client).await;
    }
}

/// Where a connection leads, and what has been read of it.
enum Found {
    Clear(Front, Origin),
    Secure((Front, Arc<Terminator>), Origin, Vec<u8>),
    /// `None`: TLS passes.
    Tcp(Way, Option<Arc<Terminator>>, Vec<u8>),
}

async fn find(
    client: &mut TcpStream,
    by: By,
    deadline: Instant,
    shared: &Shared,
    kept: &Kept,
) -> Result<Found, Refused> {
    let mut origin = origin(client, by, shared)?;
    let (clear, is_proxied) = {
        let table = shared.table.load();
        let port = table.port(origin.gateway);
        if port.is_none() && by == By::Steering {
            return Err(Refusal::Unexplained.into());
        }
        (port.and_then(Port::clear), port.is_some_and(Port::is_proxied) && by == By::Steering)
    };
    if is_proxied {
        let from = timeout_at(deadline, preface::client(client)).await.map_err(|_| Refusal::HelloTimeout)??;
        origin.client = from.map_or(origin.client, sockets::canonical);
    }
    if let Some(front) = clear {
        return Ok(Found::Clear(front, origin));
    }
    let hello = timeout_at(deadline, hello::read(client, &kept.room)).await.map_err(|_| Refusal::HelloTimeout)??;
    // The one look at the table, which does not live on with the connection.
    let nobody = || Refused::unrecognized(by);
    let found = shared.table.load().find(origin.gateway, hello.name.as_deref()).ok_or_else(nobody)?;
    Ok(match found.to {
        To::Backends(backends) => {
            Found::Tcp(Way { backends, random: random(&origin), origin }, found.terminator, hello.bytes)
        }
        To::Http(front) => {
            let terminator = found.terminator.ok_or_else(nobody)?;
            Found::Secure((front, terminator), origin, hello.bytes)
        }
    })
}

async fn forward(
    client: &mut TcpStream,
    read: Vec<u8>,
    deadline: Instant,
    terminator: Option<Arc<Terminator>>,
    way: Way,
    shared: &Shared,
    kept: &Kept,
) -> Result<(), Refused> {
    let origin = way.origin;
    let ended = match terminator {
        None => pass(client, read, way, shared, kept).await?,
        Some(terminator) => {
            // Boxed, so that connections that are passed need not have the room for it.
            Box::pin(terminate(client, read, deadline, terminator, way, shared, kept)).await?
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, client = %origin.client, "a connection was broken off");
    }
    Ok(())
}

/// As it comes.
async fn pass(
    client: &TcpStream,
    read: Vec<u8>,
    way: Way,
    shared: &Shared,
    kept: &Kept,
) -> Result<io::Result<()>, Refused> {
    let (mut backend, mut first) =
        way.connect(way.pick()?, shared, async |picked| backend::tcp(picked.endpoint, &way.origin).await).await?;
    drop(way);
    first.extend(read);
    // A ClientHello may be more than a backend takes that does not read.
    match timeout(shared.options.handshake, backend.write_all(&first)).await {
        Ok(Ok(())) => {}
        Ok(Err(_)) | Err(_) => return Err(Refusal::BackendSilent.into()),
    }
    shared.counters.relayed.add(1);
    shared.counters.bytes_in.add(first.len() as u64);
    drop(first);
    Ok(relay::relay(client, &backend, &kept.http.scratch.pipes, &shared.counters).await)
}

async fn terminate(
    client: &mut TcpStream,
    read: Vec<u8>,
    deadline: Instant,
    terminator: Arc<Terminator>,
    way: Way,
    shared: &Shared,
    kept: &Kept,
) -> Result<io::Result<()>, Refused> {
    // Before TLS, so that a share that is refused is refused as by the kernel.
    let picked = way.pick()?;
    let client = timeout_at(deadline, terminate::accept(client, read, &terminator))
        .await
        .map_err(|_| Refused { reason: Refusal::HandshakeTimeout, answer: Answer::Reset })?
        .map_err(|error| {
            tracing::debug!(%error, "a TLS handshake failed");
            Refused { reason: Refusal::HandshakeFailed, answer: Answer::End }
        })?;
    drop(terminator);
    // The client speaks TLS by now: an alert in the clear would be noise.
    let reset = |reason| Refused { reason, answer: Answer::Reset };
    let attempt = async |picked| backend::inside(picked, &way.origin, &kept.backend_tls).await;
    let backend = way.connect(picked, shared, attempt).await.map_err(reset)?;
    drop(way);
    shared.counters.terminated.add(1);
    Ok(terminate::forward(client, backend, &kept.http.buffers, &shared.counters).await)
}

/// Where a connection is to go.
struct Way {
    backends: Arc<BackendSet>,
    origin: Origin,
    random: u64,
}

impl Way {
    fn pick(&self) -> Result<Picked<'_>, Refusal> {
        backend::pick(&self.backends, self.origin.gateway.is_ipv4(), self.random, &[])
    }

    async fn connect<'a, T>(
        &'a self,
        first: Picked<'a>,
        shared: &Shared,
        attempt: impl AsyncFn(Picked<'a>) -> io::Result<T>,
    ) -> Result<T, Refusal> {
        backend::connect(&self.backends, first, self.random, &shared.counters, attempt).await
    }
}

fn origin(client: &TcpStream, by: By, shared: &Shared) -> Result<Origin, Refusal> {
    let addresses = sockets::tune(client).and_then(|()| Ok((client.local_addr()?, client.peer_addr()?)));
    // It has gone before it was accepted.
    let Ok((local, peer)) = addresses else { return Err(Refusal::HelloAbandoned) };
    let (local, client) = (sockets::canonical(local), sockets::canonical(peer));
    if by == By::Steering {
        return Ok(Origin { client, gateway: local });
    }
    match (shared.gateway_of)(local, client) {
        Ok(Some(gateway)) => Ok(Origin { client, gateway }),
        Ok(None) => Err(Refusal::Unexplained),
        Err(error) => {
            tracing::warn!(%error, "cannot read where a connection came from");
            Err(Refusal::Unexplained)
        }
    }
}

/// What decides on a pick: of the connection, as on the kernel's way.
fn random(origin: &Origin) -> u64 {
    hash::flow(&FlowKey {
        source: address(origin.client.ip()),
        destination: address(origin.gateway.ip()),
        source_port: origin.client.port(),
        destination_port: origin.gateway.port(),
        protocol: protocol::TCP,
        _pad: [0; 3],
    })
}

/// A connection that was not forwarded.
pub struct Refused {
    pub reason: Refusal,
    pub answer: Answer,
}

impl Refused {
    /// Where names are the kernel's business it answers with RST, and the length of a hello must not show.
    fn unrecognized(by: By) -> Refused {
        let reason = Refusal::UnrecognizedName;
        match by {
            By::Splice => Refused { reason, answer: Answer::Reset },
            By::Steering => reason.into(),
        }
    }
}

impl From<Refusal> for Refused {
    fn from(reason: Refusal) -> Refused {
        Refused { reason, answer: Answer::to(reason) }
    }
}

/// What the client gets.
pub enum Answer {
    /// RST.
    Reset,
    /// A fatal TLS alert (RFC 8446 section 6.2), then the end.
    Alert(u8),
    /// The end: it has had its alert.
    End,
}

impl Answer {
    fn to(reason: Refusal) -> Answer {
        match reason {
            Refusal::NotTls => Answer::Alert(UNEXPECTED_MESSAGE),
            Refusal::MalformedHello | Refusal::HelloTooLarge => Answer::Alert(DECODE_ERROR),
            Refusal::UnrecognizedName => Answer::Alert(UNRECOGNIZED_NAME),
            Refusal::BackendSilent => Answer::Alert(INTERNAL_ERROR),
            Refusal::Unexplained
            | Refusal::TooManyConnections
            | Refusal::TooManyHellos
            | Refusal::HelloAbandoned
            | Refusal::HelloTimeout
            | Refusal::InvalidBackend
            | Refusal::NoBackend
            | Refusal::HandshakeFailed
            | Refusal::HandshakeTimeout
            | Refusal::NotProxied => Answer::Reset,
        }
    }

    async fn give(self, client: TcpStream) {
        let alert = match self {
            Answer::Reset => return sockets::reset_on_close(&client),
            Answer::Alert(alert) => Some([ALERT, 3, 3, 0, 2, FATAL, alert]),
            Answer::End => None,
        };
        // Whoever does not listen does not learn it.
        let _ = timeout(FAREWELL, farewell(client, alert)).await;
    }
}

/// A socket that is closed with bytes unread sends RST, which may overtake what was written.
async fn farewell(mut client: TcpStream, last: Option<[u8; 7]>) -> io::Result<()> {
    if let Some(last) = last {
        client.write_all(&last).await?;
    }
    client.shutdown().await?;
    let (mut buffer, mut read) = (vec![0; 4096], 0);
    while read < UNREAD {
        client.readable().await?;
        match client.try_read(&mut buffer) {
            Ok(0) => break,
            Ok(bytes) => read += bytes,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

const ALERT: u8 = 21;
const FATAL: u8 = 2;
const UNEXPECTED_MESSAGE: u8 = 10;
const DECODE_ERROR: u8 = 50;
const INTERNAL_ERROR: u8 = 80;
const UNRECOGNIZED_NAME: u8 = 112;
