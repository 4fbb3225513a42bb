//! What keeps the frames of HTTP/2 together. h2 flushes after each DATA frame that is worth a piece of its own in `writev`, so that every answer
//! would have a TLS record, a system call and a packet of its own, however many of them there are to send.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::direct::Scratch;

/// Together they go when they are as much as a TLS record.
const TOGETHER: usize = 16 << 10;
/// What is as large by itself is not copied.
const LARGE: usize = 8 << 10;

/// A stream whose small writes are kept until a flush finds nothing new since the last. With each flush that found something the task is woken
/// once more: by then the others that are ready have had their turn, and added what they have.
pub struct Corked<S> {
    stream: S,
    /// Not written yet. It is given back when it is empty.
    kept: Vec<u8>,
    /// Of these, so many have been written.
    written: usize,
    /// Something was added since the last flush.
    is_fresh: bool,
    /// The peer has sent something. Before that, h2 waits for its preface, and asks for no second flush.
    has_begun: bool,
    scratch: Rc<Scratch>,
}

impl<S: AsyncWrite + Unpin> Corked<S> {
    pub fn new(stream: S, scratch: Rc<Scratch>) -> Corked<S> {
        Corked { stream, kept: Vec::new(), written: 0, is_fresh: false, has_begun: false, scratch }
    }

    fn poll_empty(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.written < self.kept.len() {
            let some = ready!(Pin::new(&mut self.stream).poll_write(cx, &self.kept[self.written..]))?;
            if some == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.written += some;
        }
        if self.written > 0 {
            self.scratch.give_out_back(std::mem::take(&mut self.kept));
            self.written = 0;
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Corked<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[IoSlice::new(bytes)])
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = &mut *self;
        let size = bytes.iter().map(|part| part.len()).sum::<usize>();
        // What has begun to go, goes whole.
        if size >= LARGE || this.kept.len() + size > TOGETHER || this.written > 0 {
            ready!(this.poll_empty(cx))?;
        }
        this.is_fresh = true;
        if size >= LARGE {
            return Pin::new(&mut this.stream).poll_write_vectored(cx, bytes);
        }
        if this.kept.capacity() == 0 {
            this.kept = this.scratch.out();
        }
        bytes.iter().for_each(|part| this.kept.extend_from_slice(part));
        Poll::Ready(Ok(size))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if std::mem::take(&mut self.is_fresh) && self.has_begun && !self.kept.is_empty() {
            cx.waker().wake_by_ref();
            return Poll::Ready(Ok(()));
        }
        ready!(self.poll_empty(cx))?;
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_empty(cx))?;
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Corked<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let read = Pin::new(&mut self.stream).poll_read(cx, into);
        self.has_begun |= read.is_ready();
        read
    }
}

#[cfg(test)]
mod tests {
    use std::task::Waker;

    use super::*;
    use crate::proxy::http::budget::Budget;

    /// The writes that come to it. As a socket, it takes only so much at a time.
    struct Writes(Vec<Vec<u8>>, usize);

    impl AsyncWrite for Writes {
        fn poll_write(mut self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
            let some = bytes.len().min(self.1);
            self.0.push(bytes[..some].to_vec());
            Poll::Ready(Ok(some))
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    enum Do {
        Write(usize),
        Flush,
        Shut,
    }

    /// The sizes of the writes that become of these.
    fn writes(has_begun: bool, what: &[Do], takes: usize) -> Vec<usize> {
        let cx = &mut Context::from_waker(Waker::noop());
        let mut corked = Corked::new(Writes(Vec::new(), takes), Rc::new(Scratch::new(Budget::new(100))));
        corked.has_begun = has_begun;
        let (mut corked, mut wanted, mut next) = (Pin::new(&mut corked), Vec::new(), 0);
        for one in what {
            match one {
                Do::Write(size) => {
                    let mut bytes: Vec<u8> = (next..next + size).map(|i| (i / 3) as u8).collect();
                    next += size;
                    wanted.extend_from_slice(&bytes);
                    while !bytes.is_empty() {
                        let Poll::Ready(Ok(some)) = corked.as_mut().poll_write(cx, &bytes) else {
                            panic!("it takes all")
                        };
                        bytes.drain(..some);
                    }
                }
                Do::Flush => assert!(matches!(corked.as_mut().poll_flush(cx), Poll::Ready(Ok(())))),
                Do::Shut => assert!(matches!(corked.as_mut().poll_shutdown(cx), Poll::Ready(Ok(())))),
            }
        }
        let got = &corked.stream.0;
        assert!(wanted.starts_with(&got.concat()), "the bytes are others");
        got.iter().map(Vec::len).collect()
    }

    #[test]
    fn a_preface_does_not_wait_for_the_other_one() {
        assert_eq!(writes(false, &[Do::Write(10), Do::Flush], usize::MAX), [10]);
    }

    #[test]
    fn what_comes_between_flushes_goes_together() {
        use Do::{Flush, Shut, Write};
        let most = usize::MAX;
        assert_eq!(writes(true, &[Write(10), Flush, Write(1000), Flush, Write(10), Flush], most), [0; 0]);
        assert_eq!(writes(true, &[Write(10), Flush, Write(1000), Flush, Write(10), Flush, Flush], most), [1020]);
        assert_eq!(writes(true, &[Write(10), Flush, Flush, Write(20), Shut], most), [10, 20]);
        assert_eq!(writes(true, &[Write(7000), Write(7000), Write(7000), Flush, Flush], most), [14_000, 7000]);
        assert_eq!(writes(true, &[Write(10), Write(9000), Flush], most), [10, 9000]);
        assert_eq!(writes(true, &[Write(10), Write(900), Flush, Flush, Write(10), Flush, Flush], 500), [500, 410, 10]);
    }
}
