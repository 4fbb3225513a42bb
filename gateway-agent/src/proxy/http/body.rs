//! A body under way, of a request or a response: never whole in memory unless it is ours.

use std::cell::RefCell;
use std::error::Error;
use std::fmt;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http::HeaderMap;
use http_body_util::BodyExt;
use hyper::body::{Body as HttpBody, Frame, Incoming, SizeHint};
use tokio::sync::oneshot;
use tokio::time::{Sleep, sleep, timeout};

use super::direct::{Exchange, Received};
use super::upstream::pool::Lease;
use crate::proxy::pipes::Pipe;

pub type BodyError = Box<dyn Error + Send + Sync>;

pub struct Body(Kind);

enum Kind {
    /// Of the agent; `None`: none, or it has gone.
    Own(Option<Bytes>),
    /// As it comes from the other side. With the lease of the connection that it comes by, which goes back to the pool at its end.
    Incoming(Incoming, Option<Lease>),
    /// Of a client's request, past hyper.
    Received(Received),
    /// Of a backend's response, past hyper. `None`: it has ended.
    Exchange(Option<Box<Exchange>>),
    /// Whatever else a filter makes of it.
    Boxed(Pin<Box<dyn HttpBody<Data = Bytes, Error = BodyError>>>),
    /// Of an attempt: another may follow.
    Attempt(Attempt),
    /// Not before the other side asks for it.
    Held(Box<Held>),
}

impl Default for Body {
    fn default() -> Body {
        Body::empty()
    }
}

impl Body {
    pub fn empty() -> Body {
        Body(Kind::Own(None))
    }

    pub fn of(bytes: Bytes) -> Body {
        Body(Kind::Own(Some(bytes).filter(|bytes| !bytes.is_empty())))
    }

    /// Of a client's request.
    pub fn incoming(body: Incoming) -> Body {
        Body(Kind::Incoming(body, None))
    }

    /// Of a backend's response.
    pub fn leased(body: Incoming, lease: Lease) -> Body {
        if body.is_end_stream() {
            drop(lease);
            return Body::empty();
        }
        Body(Kind::Incoming(body, Some(lease)))
    }

    pub fn received(body: Received) -> Body {
        Body(Kind::Received(body))
    }

    pub fn exchange(exchange: Exchange) -> Body {
        if exchange.has_ended() {
            exchange.finish();
            return Body::empty();
        }
        Body(Kind::Exchange(Some(Box::new(exchange))))
    }

    pub fn boxed(body: impl HttpBody<Data = Bytes, Error = BodyError> + 'static) -> Body {
        Body(Kind::Boxed(Box::pin(body)))
    }

    /// Goes when `asked` says so, or after a second: not everybody who should ask does (RFC 9110 section 10.1.1).
    pub fn held(self, asked: oneshot::Receiver<()>) -> Body {
        const PATIENCE: Duration = Duration::from_secs(1);
        let (asked, patience) = (Some(asked), Some(Box::pin(sleep(PATIENCE))));
        Body(Kind::Held(Box::new(Held { asked, patience, body: self })))
    }

    /// As it was before it was held.
    pub fn released(mut self) -> Body {
        match &mut self.0 {
            Kind::Held(held) => std::mem::take(&mut held.body),
            _ => self,
        }
    }

    /// Whether it has ended before it began.
    pub fn is_empty(&self) -> bool {
        self.is_end_stream()
    }

    /// What is left may go by a pipe. See [`Exchange::is_piped`].
    pub fn is_piped(&self) -> bool {
        matches!(&self.0, Kind::Exchange(Some(exchange)) if exchange.is_piped())
    }

    /// Of a backend's answer, hyper has what has come and was not read.
    pub fn is_ahead(&self) -> bool {
        matches!(self.0, Kind::Incoming(_, Some(_)))
    }

    /// The next of it into an empty pipe, instead of a frame. Says how much.
    pub fn poll_fill(&mut self, cx: &mut Context<'_>, pipe: &Pipe) -> Poll<Result<usize, BodyError>> {
        let Kind::Exchange(slot) = &mut self.0 else { return Poll::Ready(Err("no body of a backend".into())) };
        let Some(exchange) = slot else { return Poll::Ready(Ok(0)) };
        let filled = ready!(exchange.poll_fill(cx, pipe));
        after_piece(slot, filled.is_err());
        Poll::Ready(filled.map_err(BodyError::from))
    }

    /// Of an answer that nobody wants: what is left is read if it is little and comes soon, so that its connection can be used again.
    pub fn discard(mut self) {
        const LITTLE: usize = 64 << 10;
        const SOON: Duration = Duration::from_secs(1);
        if self.is_empty() {
            return;
        }
        tokio::task::spawn_local(async move {
            let read = async {
                let mut read = 0;
                while let Some(Ok(frame)) = self.frame().await
                    && read < LITTLE
                {
                    read += frame.data_ref().map_or(0, Bytes::len);
                }
            };
            // Whatever comes of it, the connection goes where it belongs with the body.
            let _ = timeout(SOON, read).await;
        });
    }
}

/// The connection of an answer whose end was read goes back. That of a broken one is in no state for another request.
fn after_piece(slot: &mut Option<Box<Exchange>>, is_broken: bool) {
    if is_broken {
        *slot = None;
    } else if let Some(ended) = slot.take_if(|exchange| exchange.has_ended()) {
        ended.finish();
    }
}

/// The beginning of a request's body, until it is more than what there is room for.
pub struct Kept(Rc<RefCell<Keeping>>);

struct Keeping {
    source: Body,
    /// Whole frames, as far as they were read.
    frames: Vec<Bytes>,
    trailers: Option<HeaderMap>,
    ended: bool,
    /// Bytes that are left for more of them.
    room: usize,
    /// More has been read than is kept, or nobody wants it any more.
    over: bool,
    /// The one that may read; those before it have been given up.
    attempt: u32,
    size: SizeHint,
}

impl Kept {
    pub fn new(source: Body, room: usize) -> Kept {
        let size = source.size_hint();
        let over = size.lower() > room as u64;
        let (frames, trailers) = (Vec::new(), None);
        Kept(Rc::new(RefCell::new(Keeping { source, frames, trailers, ended: false, room, over, attempt: 0, size })))
    }

    /// The whole body. Who has it from before gets an error. `None`: it is not there any more.
    pub fn again(&self) -> Option<Body> {
        let mut keeping = self.0.borrow_mut();
        if keeping.over && keeping.attempt > 0 {
            return None;
        }
        keeping.attempt += 1;
        Some(Body(Kind::Attempt(Attempt { keeping: Rc::clone(&self.0), number: keeping.attempt, next: 0 })))
    }
}

impl fmt::Debug for Kept {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Kept")
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        self.0.borrow_mut().over = true;
    }
}

struct Attempt {
    keeping: Rc<RefCell<Keeping>>,
    number: u32,
    next: usize,
}

impl Attempt {
    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let mut keeping = self.keeping.borrow_mut();
        if keeping.attempt != self.number {
            return Poll::Ready(Some(Err("the attempt was given up".into())));
        }
        if let Some(frame) = keeping.frames.get(self.next) {
            self.next += 1;
            return Poll::Ready(Some(Ok(Frame::data(frame.clone()))));
        }
        if keeping.ended {
            self.next += 1;
            let trailers = keeping.trailers.clone().filter(|_| self.next == keeping.frames.len() + 1);
            return Poll::Ready(trailers.map(|trailers| Ok(Frame::trailers(trailers))));
        }
        let frame = ready!(Pin::new(&mut keeping.source).poll_frame(cx));
        match &frame {
            Some(Ok(frame)) => {
                if let Some(data) = frame.data_ref() {
                    keeping.over |= data.len() > keeping.room;
                    if keeping.over {
                        (keeping.frames, self.next) = (Vec::new(), 0);
                    } else {
                        keeping.room -= data.len();
                        keeping.frames.push(data.clone());
                        self.next += 1;
                    }
                } else if let Some(trailers) = frame.trailers_ref() {
                    keeping.trailers = Some(trailers.clone());
                    keeping.ended = true;
                    self.next += 1;
                }
            }
            // Another attempt would get no more of it.
            Some(Err(_)) => keeping.over = true,
            None => {
                keeping.ended = true;
                self.next += 1;
            }
        }
        Poll::Ready(frame)
    }
}

struct Held {
    asked: Option<oneshot::Receiver<()>>,
    /// `None`: it goes.
    patience: Option<Pin<Box<Sleep>>>,
    body: Body,
}

impl Held {
    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        if let Some(asked) = &mut self.asked
            && let Poll::Ready(asked) = Pin::new(asked).poll(cx)
        {
            self.asked = None;
            // A backend that has gone, or has answered before, asks no more; the connection ends by itself then.
            if asked.is_ok() {
                self.patience = None;
            }
        }
        if let Some(patience) = &mut self.patience {
            ready!(patience.as_mut().poll(cx));
            (self.asked, self.patience) = (None, None);
        }
        Pin::new(&mut self.body).poll_frame(cx)
    }
}

impl HttpBody for Body {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match &mut self.0 {
            Kind::Own(bytes) => Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes)))),
            Kind::Incoming(body, lease) => {
                let frame = ready!(Pin::new(body).poll_frame(cx));
                match &frame {
                    // Its connection is in no state for another request.
                    Some(Err(_)) => {
                        if let Some(mut lease) = lease.take() {
                            lease.forfeit();
                        }
                    }
                    None => drop(lease.take()),
                    Some(Ok(_)) => {}
                }
                Poll::Ready(frame.map(|frame| frame.map_err(BodyError::from)))
            }
            Kind::Received(body) => body.poll(cx).map(|piece| piece.map(|piece| piece.map(Frame::data))),
            Kind::Exchange(slot) => {
                let Some(exchange) = slot else { return Poll::Ready(None) };
                let frame = ready!(exchange.poll_frame(cx));
                after_piece(slot, matches!(frame, Some(Err(_))));
                Poll::Ready(frame)
            }
            Kind::Boxed(body) => body.as_mut().poll_frame(cx),
            Kind::Attempt(attempt) => attempt.poll_frame(cx),
            Kind::Held(held) => held.poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.0 {
            Kind::Own(bytes) => bytes.is_none(),
            // Not before the end was seen here, which is when the lease goes.
            Kind::Incoming(body, lease) => lease.is_none() && body.is_end_stream(),
            Kind::Received(body) => body.left() == 0,
            Kind::Exchange(exchange) => exchange.is_none(),
            Kind::Boxed(body) => body.is_end_stream(),
            Kind::Attempt(_) => false,
            Kind::Held(held) => held.body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.0 {
            Kind::Own(bytes) => SizeHint::with_exact(bytes.as_ref().map_or(0, |bytes| bytes.len() as u64)),
            Kind::Incoming(body, _) => body.size_hint(),
            Kind::Received(body) => SizeHint::with_exact(body.left()),
            Kind::Exchange(Some(exchange)) => exchange.size_hint(),
            Kind::Exchange(None) => SizeHint::with_exact(0),
            Kind::Boxed(body) => body.size_hint(),
            // Asked before the first frame.
            Kind::Attempt(attempt) => attempt.keeping.borrow().size,
            Kind::Held(held) => held.body.size_hint(),
        }
    }
}

impl Drop for Body {
    /// A response that nobody reads to its end leaves its connection in the middle of it.
    fn drop(&mut self) {
        if let Kind::Incoming(body, lease) = &mut self.0
            && let Some(mut lease) = lease.take_if(|_| !body.is_end_stream())
        {
            lease.forfeit();
        }
    }
}

impl fmt::Debug for Body {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.0 {
            Kind::Own(_) => "Own",
            Kind::Incoming(..) => "Incoming",
            Kind::Received(_) => "Received",
            Kind::Exchange(_) => "Exchange",
            Kind::Boxed(_) => "Boxed",
            Kind::Attempt(_) => "Attempt",
            Kind::Held(_) => "Held",
        })
    }
}
