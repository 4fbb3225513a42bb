//! The sockets that connections come to: ports that the kernel splices them to, and those that `steer` gives them to.

use std::any::Any;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6, TcpListener};
use std::os::fd::AsFd;
use std::time::Duration;

use gateway_common::agent_backend::PORTS;
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, sockopt};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::net::TcpStream;

/// Connections that wait to be accepted, on each port (`net.core.somaxconn` is the most that the kernel allows).
const BACKLOG: i32 = 4_096;
/// Runs of ports that are tried.
const TRIES: usize = 64;
/// Descriptors of a connection: its two ends and a pipe each way.
const DESCRIPTORS: u64 = 6;
/// Descriptors that the agent needs for everything else.
const OTHERS: u64 = 512;

/// A connection that is silent for so long is asked whether it is still there. Less than the kernel side's idle time, so that a
/// silent connection that lives is not taken for an abandoned one.
const PROBE_AFTER: Duration = Duration::from_secs(600);
const PROBE_INTERVAL: Duration = Duration::from_secs(60);
const PROBES: u32 = 5;

/// Behind the ports that Linux gives out by default.
const BEYOND: u16 = 61_000;

/// Listens on [`PORTS`] ports in a row, of both families; answers the first.
pub fn bind() -> io::Result<(u16, Vec<TcpListener>)> {
    // A node that opens many connections has them in TIME_WAIT all over the kernel's range: then from beyond it.
    let given = std::iter::repeat_n(0, TRIES);
    for first in given.chain((BEYOND..u16::MAX - PORTS).step_by(usize::from(PORTS))) {
        if let Some(bound) = run(first)? {
            return Ok(bound);
        }
    }
    let message = format!("no {PORTS} TCP ports in a row are free; is net.ipv4.ip_local_port_range very small?");
    Err(io::Error::new(io::ErrorKind::AddrInUse, message))
}

/// `None`: one of those that follow the first port (0: one that the kernel gives) is taken.
fn run(first: u16) -> io::Result<Option<(u16, Vec<TcpListener>)>> {
    let first = match listen(first) {
        Ok(first) => first,
        Err(Errno::ADDRINUSE | Errno::ACCESS) => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    let base = first.local_addr()?.port();
    let Some(last) = base.checked_add(PORTS - 1) else { return Ok(None) };
    let mut listeners = vec![first];
    for port in base + 1..=last {
        match listen(port) {
            Ok(listener) => listeners.push(listener),
            Err(Errno::ADDRINUSE | Errno::ACCESS) => return Ok(None),
            Err(error) => return Err(error.into()),
        }
    }
    Ok(Some((base, listeners)))
}

/// A socket for `steer`, of both families: any port will do, for its own is nowhere told.
pub fn steered() -> io::Result<TcpListener> {
    Ok(listen(0)?)
}

/// Ports of connections in TIME_WAIT will do: a busy node has hardly eight others in a row.
fn listen(port: u16) -> Result<TcpListener, Errno> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = match rustix::net::socket_with(AddressFamily::INET6, SocketType::STREAM, flags, None) {
        Ok(socket) => {
            sockopt::set_ipv6_v6only(&socket, false)?;
            sockopt::set_socket_reuseaddr(&socket, true)?;
            rustix::net::bind(&socket, &SocketAddrV6::new(Ipv6Addr::UNSPECIFIED, port, 0, 0))?;
            socket
        }
        // A kernel without IPv6.
        Err(Errno::AFNOSUPPORT) => {
            let socket = rustix::net::socket_with(AddressFamily::INET, SocketType::STREAM, flags, None)?;
            sockopt::set_socket_reuseaddr(&socket, true)?;
            rustix::net::bind(&socket, &SocketAddr::from((Ipv4Addr::UNSPECIFIED, port)))?;
            socket
        }
        Err(error) => return Err(error),
    };
    rustix::net::listen(&socket, BACKLOG)?;
    Ok(TcpListener::from(socket))
}

/// Takes the descriptors that so many connections need; answers how many there is room for.
pub fn room_for(connections: usize) -> usize {
    let limit = getrlimit(Resource::Nofile);
    let wanted = (connections as u64).saturating_mul(DESCRIPTORS).saturating_add(OTHERS);
    let possible = limit.maximum.unwrap_or(u64::MAX).min(wanted);
    let mut present = limit.current.unwrap_or(u64::MAX);
    if present < possible
        && setrlimit(Resource::Nofile, Rlimit { current: Some(possible), maximum: limit.maximum }).is_ok()
    {
        present = possible;
    }
    let room = (present.saturating_sub(OTHERS) / DESCRIPTORS).max(1) as usize;
    if room < connections {
        tracing::info!(
            "the limit on open files leaves room for {room} connections to the agent, not {connections}; raise it (ulimit -n)"
        );
    }
    room.min(connections)
}

/// For either end of a connection: bytes go when they come, and an end that has gone is noticed.
pub fn tune(socket: impl AsFd) -> io::Result<()> {
    sockopt::set_tcp_nodelay(&socket, true)?;
    sockopt::set_socket_keepalive(&socket, true)?;
    sockopt::set_tcp_keepidle(&socket, PROBE_AFTER)?;
    sockopt::set_tcp_keepintvl(&socket, PROBE_INTERVAL)?;
    sockopt::set_tcp_keepcnt(&socket, PROBES)?;
    Ok(())
}

/// The socket that a stream is, if nothing is between it and the bytes.
pub fn bare<S: 'static>(stream: &S) -> Option<&TcpStream> {
    (stream as &dyn Any).downcast_ref()
}

/// Closing it sends RST: the other end is not to take what it got for all that there was.
pub fn reset_on_close(socket: impl AsFd) {
    // An end that has gone needs no RST.
    let _ = sockopt::set_socket_linger(socket, Some(Duration::ZERO));
}

/// The address of the other family that IPv4 has on a socket of both, as IPv4.
pub fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

#[cfg(test)]
mod tests {
    use std::net::TcpStream;

    use super::*;

    #[test]
    fn ports_in_time_wait_are_taken() {
        let before = listen(0).unwrap();
        let address = std::net::SocketAddr::from((Ipv4Addr::LOCALHOST, before.local_addr().unwrap().port()));
        let client = std::net::TcpStream::connect(address).unwrap();
        before.set_nonblocking(false).unwrap();
        // Who closes first waits.
        drop(before.accept().unwrap());
        drop(client);
        drop(before);
        listen(address.port()).unwrap();
    }

    #[test]
    fn ports_are_in_a_row_and_take_both_families() {
        let (base, listeners) = bind().unwrap();
        let ports: Vec<u16> = listeners.iter().map(|l| l.local_addr().unwrap().port()).collect();
        assert_eq!(ports, (base..base + PORTS).collect::<Vec<_>>());
        for address in [SocketAddr::from((Ipv4Addr::LOCALHOST, base)), (Ipv6Addr::LOCALHOST, base + PORTS - 1).into()] {
            TcpStream::connect(address).unwrap();
        }
    }
}
