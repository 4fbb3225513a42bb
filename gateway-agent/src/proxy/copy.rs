//! forward, through memory: for bytes that are others on each side. A buffer is held only while there are bytes in it, so that
//! a silent connection has none.

use std::cell::RefCell;
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Bytes of a buffer: two TLS records.
const ROOM: usize = 32 * 1024;
/// Empty buffers that are kept for the next bytes.
const KEPT: usize = 64;

/// Both ways until both have ended; the end of one is told to the other side. What has gone inwards and outwards is counted as it goes.
pub async fn copy(
    client: &mut (impl AsyncRead + AsyncWrite + Unpin),
    backend: &mut (impl AsyncRead + AsyncWrite + Unpin),
    buffers: &Buffers,
    count_in: impl Fn(u64),
    count_out: impl Fn(u64),
) -> io::Result<()> {
    let (mut inwards, mut outwards) = (Way::new(count_in), Way::new(count_out));
    poll_fn(|cx| {
        let is_done = [
            inwards.go_on(cx, client, backend, buffers)?.is_ready(),
            outwards.go_on(cx, backend, client, buffers)?.is_ready(),
        ];
        if is_done == [true, true] { Poll::Ready(Ok(())) } else { Poll::Pending }
    })
    .await
}

/// One way.
struct Way<C> {
    state: State,
    count: C,
}

enum State {
    /// What was written may not have gone yet.
    Reading {
        flushed: bool,
    },
    /// What is left of a buffer: from the first index to the second.
    Writing {
        buffer: Box<[u8]>,
        from: usize,
        to: usize,
    },
    Ending,
    Ended,
}

impl<C: Fn(u64)> Way<C> {
    fn new(count: C) -> Way<C> {
        Way { state: State::Reading { flushed: true }, count }
    }

    /// Ready when it has ended.
    fn go_on(
        &mut self,
        cx: &mut Context<'_>,
        reader: &mut (impl AsyncRead + Unpin),
        writer: &mut (impl AsyncWrite + Unpin),
        buffers: &Buffers,
    ) -> Poll<io::Result<()>> {
        loop {
            match &mut self.state {
                State::Reading { flushed } => {
                    let mut buffer = buffers.take();
                    let mut read = ReadBuf::new(&mut buffer);
                    let polled = Pin::new(&mut *reader).poll_read(cx, &mut read)?;
                    let to = read.filled().len();
                    if polled.is_ready() && to > 0 {
                        self.state = State::Writing { buffer, from: 0, to };
                        continue;
                    }
                    buffers.give_back(buffer);
                    if polled.is_ready() {
                        self.state = State::Ending;
                        continue;
                    }
                    if !*flushed {
                        ready!(Pin::new(&mut *writer).poll_flush(cx))?;
                        *flushed = true;
                    }
                    return Poll::Pending;
                }
                State::Writing { buffer, from, to } => {
                    let written = ready!(Pin::new(&mut *writer).poll_write(cx, &buffer[*from..*to]))?;
                    if written == 0 {
                        return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
                    }
                    (self.count)(written as u64);
                    *from += written;
                    if from == to {
                        buffers.give_back(std::mem::take(buffer));
                        self.state = State::Reading { flushed: false };
                    }
                }
                State::Ending => {
                    ready!(Pin::new(&mut *writer).poll_shutdown(cx))?;
                    self.state = State::Ended;
                }
                State::Ended => return Poll::Ready(Ok(())),
            }
        }
    }
}

/// The empty buffers of a worker.
#[derive(Default)]
pub struct Buffers(RefCell<Vec<Box<[u8]>>>);

impl Buffers {
    fn take(&self) -> Box<[u8]> {
        self.0.borrow_mut().pop().unwrap_or_else(|| vec![0; ROOM].into())
    }

    fn give_back(&self, buffer: Box<[u8]>) {
        let mut kept = self.0.borrow_mut();
        if kept.len() < KEPT {
            kept.push(buffer);
        }
    }
}
