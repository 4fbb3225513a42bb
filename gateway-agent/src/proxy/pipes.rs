//! Pipes that bytes go through from socket to socket, by splice(2).

use std::cell::RefCell;
use std::fmt;
use std::io;
use std::os::fd::OwnedFd;
use std::task::{Context, Poll, ready};

use rustix::pipe::{PipeFlags, SpliceFlags, fcntl_setpipe_size, pipe_with, splice};
use tokio::io::Interest;
use tokio::net::TcpStream;

/// Bytes that a pipe has room for, if the kernel allows (`fs.pipe-max-size`).
pub const ROOM: usize = 128 * 1024;
/// Empty pipes that are kept for the next bytes.
const KEPT: usize = 64;

/// The empty pipes of a worker.
#[derive(Default)]
pub struct Pipes(RefCell<Vec<Pipe>>);

#[derive(Debug)]
pub struct Pipe {
    read: OwnedFd,
    write: OwnedFd,
}

impl Pipes {
    pub fn take(&self) -> io::Result<Pipe> {
        if let Some(pipe) = self.0.borrow_mut().pop() {
            return Ok(pipe);
        }
        let (read, write) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)?;
        // A smaller one does as well.
        let _ = fcntl_setpipe_size(&write, ROOM);
        Ok(Pipe { read, write })
    }

    /// Only an empty one.
    pub fn give_back(&self, pipe: Pipe) {
        let mut kept = self.0.borrow_mut();
        if kept.len() < KEPT {
            kept.push(pipe);
        }
    }
}

#[cfg(test)]
impl Pipes {
    pub fn kept(&self) -> usize {
        self.0.borrow().len()
    }
}

impl fmt::Debug for Pipes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pipes").field("kept", &self.0.borrow().len()).finish()
    }
}

impl Pipe {
    /// At most so many bytes. 0: the socket has ended.
    pub fn fill(&self, from: &TcpStream, most: usize) -> io::Result<usize> {
        Ok(splice(from, None, &self.write, None, most.min(ROOM), SpliceFlags::NONBLOCK | SpliceFlags::MOVE)?)
    }

    /// At most as many bytes as are in it.
    pub fn empty(&self, to: &TcpStream, bytes: usize) -> io::Result<usize> {
        Ok(splice(&self.read, None, to, None, bytes, SpliceFlags::NONBLOCK | SpliceFlags::MOVE)?)
    }

    /// The same, when there is something. The pipe is empty, so that what would block is the socket.
    pub fn poll_fill(&self, cx: &mut Context<'_>, from: &TcpStream, most: usize) -> Poll<io::Result<usize>> {
        loop {
            ready!(from.poll_read_ready(cx))?;
            match from.try_io(Interest::READABLE, || self.fill(from, most)) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                filled => return Poll::Ready(filled),
            }
        }
    }

    /// The same, when there is room.
    pub fn poll_empty(&self, cx: &mut Context<'_>, to: &TcpStream, bytes: usize) -> Poll<io::Result<usize>> {
        loop {
            ready!(to.poll_write_ready(cx))?;
            match to.try_io(Interest::WRITABLE, || self.empty(to, bytes)) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                emptied => return Poll::Ready(emptied),
            }
        }
    }
}
