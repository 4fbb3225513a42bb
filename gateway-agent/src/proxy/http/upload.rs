//! The body of a client's request: its bytes are counted, and of a stream of HTTP/2 the client is not waited for longer than the limits say
//! (of HTTP/1 the guard sees as much).

use std::cell::Cell;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use hyper::body::{Body as HttpBody, Frame, SizeHint};
use tokio::time::Instant;

use super::body::{Body, BodyError};
use super::budget::Charge;
use super::guard::Timer;
use super::server::Connection;

/// What the agent offers: of a stream, and of a connection, what clients may send before a backend takes it. Envoy's advice for proxies at the edge.
pub const STREAM_WINDOW: u32 = 64 << 10;
pub const CONNECTION_WINDOW: u32 = 1 << 20;
/// So many streams that nobody reads fill the window of their connection: then clients cannot send by any other either.
const FULL: usize = (CONNECTION_WINDOW / STREAM_WINDOW) as usize;

/// What a body and those who answer its request tell each other.
#[derive(Debug, Default)]
pub struct Progress {
    /// Both ways are open: the answer has begun, or the request is a gRPC call.
    pub both_ways: Cell<bool>,
    /// The client was too slow.
    pub is_late: Cell<bool>,
    pub bytes: Cell<u64>,
}

pub struct Upload {
    body: Body,
    progress: Rc<Progress>,
    connection: Rc<Connection>,
    is_stream: bool,
    is_unread: bool,
    /// When the client was first asked in vain.
    asked_since: Option<Instant>,
    timer: Timer,
    /// For the last piece, while nobody asks for the next.
    charge: Charge,
}

impl Upload {
    /// `is_stream`: of HTTP/2.
    pub fn new(body: Body, is_stream: bool, progress: Rc<Progress>, connection: Rc<Connection>) -> Upload {
        let (is_unread, asked_since, timer) = (false, None, Timer::default());
        let charge = connection.client.local.budget.charge(0);
        let mut upload = Upload { body, progress, connection, is_stream, is_unread, asked_since, timer, charge };
        upload.count(true);
        upload
    }

    fn count(&mut self, is_unread: bool) {
        let unread = &self.connection.unread;
        unread.set(unread.get() + usize::from(is_unread) - usize::from(self.is_unread));
        self.is_unread = is_unread;
    }

    /// Ready when the client has been silent for too long.
    fn poll_late(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            let since = *self.asked_since.get_or_insert_with(Instant::now);
            let limits = &self.connection.limits;
            let patience = if self.progress.both_ways.get() { limits.stream_idle } else { limits.body_idle };
            ready!(self.timer.poll(cx, since + patience));
            if self.connection.unread.get() < FULL {
                return Poll::Ready(());
            }
            self.asked_since = None;
        }
    }
}

impl HttpBody for Upload {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        if self.progress.is_late.get() {
            return Poll::Ready(None);
        }
        self.count(false);
        self.charge.set(0);
        if let Poll::Ready(frame) = Pin::new(&mut self.body).poll_frame(cx) {
            self.asked_since = None;
            self.count(matches!(frame, Some(Ok(_))));
            if let Some(Ok(frame)) = &frame
                && let Some(data) = frame.data_ref()
            {
                self.progress.bytes.set(self.progress.bytes.get() + data.len() as u64);
                self.charge.set(data.len());
            }
            return Poll::Ready(frame);
        }
        if !self.is_stream {
            return Poll::Pending;
        }
        ready!(self.poll_late(cx));
        self.progress.is_late.set(true);
        Poll::Ready(Some(Err("the client sends nothing".into())))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Drop for Upload {
    fn drop(&mut self) {
        self.count(false);
    }
}
