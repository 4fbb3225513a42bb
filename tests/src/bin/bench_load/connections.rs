//! New TCP connections as fast as they go: connect, 64 bytes there, 64 bytes back, close; or a ClientHello there and the first
//! record back. The client closes first and in the ordinary way, so what lingers in TIME_WAIT lingers here and in proxies,
//! not at the servers.

use std::io::{ErrorKind, Read};
use std::net::{Ipv4Addr, SocketAddrV4};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::sys::socket::{setsockopt, sockopt::IpBindAddressNoPort};
use socket2::{Domain, Protocol, SockAddr, Socket, Type};

use crate::cpu::Sample;
use crate::events::{Events, READ_OR_WRITE_ONCE};
use crate::hello::Hellos;
use crate::server::RECORD;
use crate::{Outcome, Run};

const MESSAGE: [u8; 64] = [b'q'; 64];
/// No connection takes longer on a network without losses; one that does has failed.
const PATIENCE: Duration = Duration::from_secs(5);

/// One connection after the other.
struct Lane {
    socket: Socket,
    begun: Instant,
    /// When its handshake was done.
    connected: Option<Instant>,
}

pub fn run(run: &Run, concurrency: usize, sources: &[Ipv4Addr], mut hellos: Option<Hellos>) -> Result<Outcome> {
    let mut events = Events::new()?;
    let mut ways = ways(sources, &run.targets);
    let mut open = |events: &Events, lane: usize| -> Result<Lane> {
        let (source, target) = ways.next().context("there is no address to connect from or to")?;
        begin(events, lane, source, target).with_context(|| format!("cannot connect from {source} to {target}"))
    };
    let mut lanes = (0..concurrency).map(|lane| open(&events, lane)).collect::<Result<Vec<_>>>()?;

    let (mut units, mut failed) = (0, 0);
    let (mut connect, mut exchange) = (Vec::with_capacity(1 << 20), Vec::with_capacity(1 << 20));
    let mut phase_ends = Instant::now() + run.warm_up();
    let mut sample: Option<Sample> = None;
    let mut failure = None;
    let mut ready = Vec::new();
    loop {
        events.wait(&mut ready, Duration::from_millis(10))?;
        for &lane in &ready {
            let Lane { begun, .. } = lanes[lane];
            match lanes[lane].progress(&mut hellos) {
                Ok(None) => continue,
                Ok(Some(connected)) => {
                    units += 1;
                    connect.push(nanoseconds(connected - begun));
                    exchange.push(nanoseconds(begun.elapsed()));
                }
                Err(error) => {
                    failed += 1;
                    let phase = if lanes[lane].connected.is_some() { "after" } else { "in" };
                    failure.get_or_insert_with(|| format!("{error} {phase} the handshake, {:?}", begun.elapsed()));
                }
            }
            lanes[lane] = open(&events, lane)?;
        }
        if Instant::now() < phase_ends {
            continue;
        }
        if let Some(late) = lanes.iter().position(|lane| lane.begun.elapsed() > PATIENCE) {
            failed += 1;
            failure.get_or_insert_with(|| format!("no answer in {PATIENCE:?}"));
            lanes[late] = open(&events, late)?;
        }
        let Some(begun) = &sample else {
            (units, failed, failure) = (0, 0, None);
            connect.clear();
            exchange.clear();
            sample = Some(Sample::begin()?);
            phase_ends = Instant::now() + run.measure();
            continue;
        };
        if units == 0 {
            bail!("no connection to {:?} was made; {failed} failed", run.targets);
        }
        let latencies = vec![("connect", connect), ("exchange", exchange)];
        return Ok(Outcome { units, failed, failure, usage: begun.end()?, latencies });
    }
}

/// Every pair of source and target, again and again.
pub fn ways(sources: &[Ipv4Addr], targets: &[SocketAddrV4]) -> impl Iterator<Item = (Ipv4Addr, SocketAddrV4)> {
    let targets = targets.iter().copied();
    let pairs: Vec<_> = targets.flat_map(|target| sources.iter().map(move |source| (*source, target))).collect();
    pairs.into_iter().cycle()
}

/// A socket that will connect from there.
pub fn bound(source: Ipv4Addr) -> std::io::Result<Socket> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP))?;
    // The port is chosen when the target is known: ports are scarce by target only.
    setsockopt(&socket, IpBindAddressNoPort, &true)?;
    socket.bind(&SockAddr::from(SocketAddrV4::new(source, 0)))?;
    Ok(socket)
}

fn begin(events: &Events, lane: usize, source: Ipv4Addr, target: SocketAddrV4) -> Result<Lane> {
    let socket = bound(source)?;
    socket.set_nonblocking(true)?;
    let begun = Instant::now();
    match socket.connect(&SockAddr::from(target)) {
        Err(error) if error.raw_os_error() != Some(nix::errno::Errno::EINPROGRESS as i32) => return Err(error.into()),
        _ => {}
    }
    events.watch(&socket, lane, READ_OR_WRITE_ONCE)?;
    Ok(Lane { socket, begun, connected: None })
}

impl Lane {
    /// Goes on after an event; when the exchange is done, says when the handshake was.
    fn progress(&mut self, hellos: &mut Option<Hellos>) -> std::io::Result<Option<Instant>> {
        let Some(connected) = self.connected else {
            let now = Instant::now();
            let message = hellos.as_mut().map_or(&MESSAGE[..], Hellos::next);
            // A new socket has room for it.
            if self.socket.send(message)? < message.len() {
                return Err(ErrorKind::WriteZero.into());
            }
            self.connected = Some(now);
            return Ok(None);
        };
        let mut answer = [0; RECORD.len()];
        match (&self.socket).read(&mut answer) {
            Ok(0) => Err(ErrorKind::UnexpectedEof.into()),
            Ok(_) if hellos.is_some() && answer[0] != RECORD[0] => Err(refused(&answer)),
            Ok(_) => Ok(Some(connected)),
            Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(None),
            Err(error) => Err(error),
        }
    }
}

/// Something came that is no handshake record, as from a gateway that knows no way.
pub fn refused(answer: &[u8]) -> std::io::Error {
    std::io::Error::other(format!(
        "the answer begins with {:?}, which is no handshake record",
        &answer[..answer.len().min(7)]
    ))
}

pub fn nanoseconds(duration: Duration) -> u32 {
    u32::try_from(duration.as_nanos()).unwrap_or(u32::MAX)
}
