//! A client's connection, which the connection's task and the body of a request read from in turn.

use std::cell::{Cell, RefCell};
use std::fmt;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker, ready};

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite};

use super::head::{self, Read, Request};
use super::out::Out;
use super::scratch::Scratch;
use crate::proxy::http::body::BodyError;
use crate::proxy::http::guard::Guard;
use crate::proxy::pipes::Pipe;

pub struct Wire<S> {
    /// `None`: it has ended for whoever still reads a body.
    guard: RefCell<Option<Box<Guard<S>>>>,
    /// Read, and not taken.
    rest: RefCell<Bytes>,
    /// Of the body that is under way.
    left: Cell<u64>,
    /// Who waits until nobody else reads it.
    waiting: Cell<Option<Waker>>,
    scratch: Rc<Scratch>,
}

/// What comes next.
pub enum Next {
    Request(Box<Request>),
    /// Something that is not read here.
    Other,
    End,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Wire<S> {
    pub fn new(guard: Box<Guard<S>>, scratch: Rc<Scratch>) -> Wire<S> {
        let (guard, rest) = (RefCell::new(Some(guard)), RefCell::default());
        Wire { guard, rest, left: Cell::new(0), waiting: Cell::default(), scratch }
    }

    /// The next head. The guard passes whole ones, but there may not have been room for all of it.
    pub fn poll_next(&self, cx: &mut Context<'_>) -> Poll<io::Result<Next>> {
        let mut rest = self.rest.borrow_mut();
        loop {
            if !rest.is_empty() {
                match head::request(&rest, self.scratch.map()) {
                    Read::Whole(request, size) => {
                        *rest = rest.slice(size..);
                        self.left.set(request.length);
                        return Poll::Ready(Ok(Next::Request(Box::new(request))));
                    }
                    Read::Other => return Poll::Ready(Ok(Next::Other)),
                    Read::Partial => {}
                }
            }
            let more = ready!(self.poll_guard(cx, |guard, cx| self.scratch.poll_head(cx, guard)))?;
            if more.is_empty() {
                return Poll::Ready(Ok(Next::End));
            }
            *rest = if rest.is_empty() { more } else { [&rest[..], &more].concat().into() };
        }
    }

    /// Whether the client has ended, while nothing else is wanted of it. What it sends instead is kept; its end behind that is not read, but seen.
    pub fn poll_gone(&self, cx: &mut Context<'_>) -> Poll<()> {
        let mut rest = self.rest.borrow_mut();
        if self.left.get() == 0 && rest.is_empty() {
            match ready!(self.poll_guard(cx, |guard, cx| self.scratch.poll_head(cx, guard))) {
                Ok(more) if !more.is_empty() => *rest = more,
                _ => return Poll::Ready(()),
            }
        }
        self.poll_guard(cx, |guard, cx| guard.get_mut().poll_left(cx).map(Ok)).map(drop)
    }

    pub fn poll_write(&self, cx: &mut Context<'_>, out: &mut Out) -> Poll<io::Result<()>> {
        self.poll_guard(cx, |guard, cx| out.poll(cx, guard))
    }

    /// The client has a socket with nothing between.
    pub fn is_plain(&self) -> bool
    where
        S: 'static,
    {
        self.guard.borrow().as_ref().is_some_and(|guard| guard.socket().is_some())
    }

    /// Of so many bytes in a pipe, those that the client takes.
    pub fn poll_empty(&self, cx: &mut Context<'_>, pipe: &Pipe, bytes: usize) -> Poll<io::Result<usize>>
    where
        S: 'static,
    {
        self.poll_guard(cx, |guard, cx| guard.get_mut().poll_empty(cx, pipe, bytes))
    }

    pub fn poll_shutdown(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_guard(cx, |guard, cx| guard.poll_shutdown(cx))
    }

    /// What is left of a body that nobody reads is taken out of the way, if it is there. `false`: it is not.
    pub fn skip(&self) -> bool {
        let mut rest = self.rest.borrow_mut();
        let there = rest.len().min(usize::try_from(self.left.get()).unwrap_or(usize::MAX));
        *rest = rest.slice(there..);
        self.left.set(self.left.get() - there as u64);
        self.left.get() == 0
    }

    /// Until nobody reads the body any more.
    pub fn poll_unread(self: &Rc<Wire<S>>, cx: &mut Context<'_>) -> Poll<()> {
        if self.left.get() == 0 || !self.is_read() {
            return Poll::Ready(());
        }
        self.waiting.set(Some(cx.waker().clone()));
        Poll::Pending
    }

    /// Whether somebody else still may read of the body that is under way.
    pub fn is_read(self: &Rc<Wire<S>>) -> bool {
        Rc::strong_count(self) > 1
    }

    /// With what has been read of it. Bodies under way break off.
    pub fn take(&self) -> Option<(Bytes, Box<Guard<S>>)> {
        let guard = self.guard.borrow_mut().take()?;
        Some((self.rest.take(), guard))
    }

    fn poll_guard<T>(
        &self,
        cx: &mut Context<'_>,
        poll: impl FnOnce(Pin<&mut Guard<S>>, &mut Context<'_>) -> Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        match self.guard.borrow_mut().as_mut() {
            Some(guard) => poll(Pin::new(&mut **guard), cx),
            None => Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into())),
        }
    }
}

/// Whose body it is, whatever its stream.
trait Source {
    fn poll(&self, cx: &mut Context<'_>) -> Poll<Result<Bytes, BodyError>>;
    fn left(&self) -> u64;
    /// It is not read any more, or soon will not be.
    fn leave(&self);
}

impl<S: AsyncRead + AsyncWrite + Unpin> Source for Wire<S> {
    fn poll(&self, cx: &mut Context<'_>) -> Poll<Result<Bytes, BodyError>> {
        let mut rest = self.rest.borrow_mut();
        if rest.is_empty() {
            *rest = ready!(self.poll_guard(cx, |guard, cx| self.scratch.poll_body(cx, guard)))?;
            if rest.is_empty() {
                return Poll::Ready(Err("the client ended in the middle of its request".into()));
            }
        }
        let there = rest.len().min(usize::try_from(self.left.get()).unwrap_or(usize::MAX));
        let piece = rest.split_to(there);
        self.left.set(self.left.get() - there as u64);
        Poll::Ready(Ok(piece))
    }

    fn left(&self) -> u64 {
        self.left.get()
    }

    fn leave(&self) {
        if let Some(waiting) = self.waiting.take() {
            waiting.wake();
        }
    }
}

/// The body of a request, of a known length.
pub struct Received {
    source: Rc<dyn Source>,
    /// Nothing more comes: all of it has come, or it broke off.
    ended: bool,
}

impl Received {
    /// Of the request that is under way, which has one.
    pub fn new<S: AsyncRead + AsyncWrite + Unpin + 'static>(wire: &Rc<Wire<S>>) -> Received {
        Received { source: Rc::clone(wire) as Rc<dyn Source>, ended: false }
    }

    pub fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, BodyError>>> {
        if self.ended {
            return Poll::Ready(None);
        }
        let piece = ready!(self.source.poll(cx));
        self.ended = piece.is_err() || self.source.left() == 0;
        Poll::Ready(Some(piece))
    }

    pub fn left(&self) -> u64 {
        if self.ended { 0 } else { self.source.left() }
    }
}

impl Drop for Received {
    fn drop(&mut self) {
        // Whoever is woken looks when this has gone.
        self.source.leave();
    }
}

impl fmt::Debug for Received {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Received").field("left", &self.left()).finish_non_exhaustive()
    }
}
