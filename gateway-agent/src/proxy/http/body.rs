//! A body under way, of a request or a response: never whole in memory unless it is ours.

use std::error::Error;
use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use hyper::body::{Body as HttpBody, Frame, Incoming, SizeHint};

use super::upstream::pool::Lease;

pub type BodyError = Box<dyn Error + Send + Sync>;

pub struct Body(Kind);

enum Kind {
    /// Of the agent; `None`: none, or it has gone.
    Own(Option<Bytes>),
    /// As it comes from the other side. With the lease of the connection that it comes by, which goes back to the pool at its end.
    Incoming(Incoming, Option<Lease>),
    /// Whatever else a filter makes of it.
    Boxed(Pin<Box<dyn HttpBody<Data = Bytes, Error = BodyError>>>),
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

    pub fn boxed(body: impl HttpBody<Data = Bytes, Error = BodyError> + 'static) -> Body {
        Body(Kind::Boxed(Box::pin(body)))
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
                        if let Some(lease) = lease.take() {
                            lease.forfeit();
                        }
                    }
                    None => drop(lease.take()),
                    Some(Ok(_)) => {}
                }
                Poll::Ready(frame.map(|frame| frame.map_err(BodyError::from)))
            }
            Kind::Boxed(body) => body.as_mut().poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.0 {
            Kind::Own(bytes) => bytes.is_none(),
            // Not before the end was seen here, which is when the lease goes.
            Kind::Incoming(body, lease) => lease.is_none() && body.is_end_stream(),
            Kind::Boxed(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.0 {
            Kind::Own(bytes) => SizeHint::with_exact(bytes.as_ref().map_or(0, |bytes| bytes.len() as u64)),
            Kind::Incoming(body, _) => body.size_hint(),
            Kind::Boxed(body) => body.size_hint(),
        }
    }
}

impl Drop for Body {
    /// A response that nobody reads to its end leaves its connection in the middle of it.
    fn drop(&mut self) {
        if let Kind::Incoming(body, lease) = &mut self.0
            && let Some(lease) = lease.take_if(|_| !body.is_end_stream())
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
            Kind::Boxed(_) => "Boxed",
        })
    }
}
