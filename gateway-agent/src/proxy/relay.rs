//! forward, as it comes: bytes go from socket to socket by splice(2) and never come to user space. A pipe is held only while
//! there are bytes in it, so that a silent connection costs its two sockets and nothing else.

use std::io;

use rustix::io::Errno;
use rustix::net::Shutdown;
use tokio::io::Interest;
use tokio::net::TcpStream;

use super::counters::{Count, Counters};
use super::pipes::{Pipes, ROOM};
use super::sockets;

/// Both ways until both have ended. An end that breaks off is broken off towards the other too.
pub async fn relay(client: &TcpStream, backend: &TcpStream, pipes: &Pipes, counters: &Counters) -> io::Result<()> {
    let inwards = pump(client, backend, pipes, &counters.bytes_in);
    let outwards = pump(backend, client, pipes, &counters.bytes_out);
    let result = tokio::try_join!(inwards, outwards);
    if result.is_err() {
        sockets::reset_on_close(client);
        sockets::reset_on_close(backend);
    }
    result.map(|_| ())
}

/// One way, until its end.
async fn pump(from: &TcpStream, to: &TcpStream, pipes: &Pipes, count: &Count) -> io::Result<()> {
    loop {
        from.readable().await?;
        let pipe = pipes.take()?;
        // The pipe is empty, so what would block is the socket.
        let read = from.try_io(Interest::READABLE, || pipe.fill(from, ROOM));
        match read {
            Ok(0) => break,
            Ok(bytes) => {
                let mut left = bytes;
                while left > 0 {
                    left -= to.async_io(Interest::WRITABLE, || pipe.empty(to, left)).await?;
                }
                count.add(bytes as u64);
                pipes.give_back(pipe);
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => pipes.give_back(pipe),
            Err(error) => return Err(error),
        }
    }
    match rustix::net::shutdown(to, Shutdown::Write) {
        // It has ended both ways by itself.
        Ok(()) | Err(Errno::NOTCONN) => Ok(()),
        Err(error) => Err(error.into()),
    }
}
