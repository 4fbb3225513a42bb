//! forward, as it comes: bytes go from socket to socket by splice(2) and never come to user space. A pipe is held only while
//! there are bytes in it, so that a silent connection costs its two sockets and nothing else.

use std::cell::RefCell;
use std::io;
use std::os::fd::OwnedFd;

use rustix::io::Errno;
use rustix::net::Shutdown;
use rustix::pipe::{PipeFlags, SpliceFlags, fcntl_setpipe_size, pipe_with, splice};
use tokio::io::Interest;
use tokio::net::TcpStream;

use super::counters::{Count, Counters};
use super::sockets;

/// Bytes that a pipe has room for, if the kernel allows (`fs.pipe-max-size`).
const ROOM: usize = 128 * 1024;
/// Empty pipes that are kept for the next bytes.
const KEPT: usize = 64;

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
        let read = from.try_io(Interest::READABLE, || pipe.fill(from));
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

/// The empty pipes of a worker.
#[derive(Default)]
pub struct Pipes(RefCell<Vec<Pipe>>);

struct Pipe {
    read: OwnedFd,
    write: OwnedFd,
}

impl Pipes {
    fn take(&self) -> io::Result<Pipe> {
        if let Some(pipe) = self.0.borrow_mut().pop() {
            return Ok(pipe);
        }
        let (read, write) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)?;
        // A smaller one does as well.
        let _ = fcntl_setpipe_size(&write, ROOM);
        Ok(Pipe { read, write })
    }

    /// Only an empty one.
    fn give_back(&self, pipe: Pipe) {
        let mut kept = self.0.borrow_mut();
        if kept.len() < KEPT {
            kept.push(pipe);
        }
    }
}

impl Pipe {
    fn fill(&self, from: &TcpStream) -> io::Result<usize> {
        Ok(splice(from, None, &self.write, None, ROOM, SpliceFlags::NONBLOCK | SpliceFlags::MOVE)?)
    }

    fn empty(&self, to: &TcpStream, bytes: usize) -> io::Result<usize> {
        Ok(splice(&self.read, None, to, None, bytes, SpliceFlags::NONBLOCK | SpliceFlags::MOVE)?)
    }
}
