//! The requests of a client's connection, one after the other.

use std::future::poll_fn;
use std::io;
use std::pin::pin;
use std::rc::Rc;
use std::task::Poll;

use http::{Method, Version};
use tokio::io::{AsyncRead, AsyncWrite};

use super::answer::{Answering, To};
use super::head::Request;
use super::wire::{Next, Received, Wire};
use crate::proxy::http::body::Body;
use crate::proxy::http::forwarded;
use crate::proxy::http::guard::Guard;
use crate::proxy::http::server::{self, Connection};
use crate::proxy::rewound::Rewound;

/// Until the connection ends, or is asked for what is not done here: with that it goes on with hyper.
pub async fn serve<S>(guard: Box<Guard<S>>, connection: &Rc<Connection>) -> io::Result<Option<Rewound<Box<Guard<S>>>>>
where
    S: AsyncRead + AsyncWrite + Unpin + 'static,
{
    let scratch = Rc::clone(&connection.client.local.scratch);
    let wire = Rc::new(Wire::new(guard, Rc::clone(&scratch)));
    let _ends = Ends(&wire);
    loop {
        let next = poll_fn(|cx| match wire.poll_next(cx)? {
            Poll::Ready(next) => Poll::Ready(Ok::<_, io::Error>(next)),
            Poll::Pending if connection.is_leaving() => Poll::Ready(Ok(Next::End)),
            Poll::Pending => Poll::Pending,
        });
        let request = match next.await? {
            Next::Request(request) => *request,
            Next::Other => {
                return Ok(wire.take().map(|(read, guard)| Rewound::new(read.into(), guard)));
            }
            Next::End => break,
        };
        let takes_trailers = forwarded::takes_trailers(&request.headers);
        let (to, is_last) = (To { head: request.method == Method::HEAD, takes_trailers }, request.is_last);
        let body = if request.length > 0 { Body::received(Received::new(&wire)) } else { Body::empty() };
        let mut answer = pin!(server::respond(assembled(request, body), connection));
        // A client that goes is not answered: what was asked for it is given up.
        let response = poll_fn(|cx| match answer.as_mut().poll(cx) {
            Poll::Ready(response) => Poll::Ready(Some(response)),
            Poll::Pending => wire.poll_gone(cx).map(|()| None),
        });
        let Some(response) = response.await else { return Ok(None) };
        // A body that nobody reads is in the way of the next request; one that is read may still come to its end.
        let is_unread = !wire.is_read() && !wire.skip();
        let is_last = is_last || is_unread || connection.is_ending();
        let mut answering = Answering::new(response, to, is_last, &scratch);
        let whole = poll_fn(|cx| match answering.poll(cx, &wire)? {
            Poll::Ready(()) => Poll::Ready(Ok::<_, io::Error>(true)),
            Poll::Pending => wire.poll_gone(cx).map(|()| Ok(false)),
        });
        if !whole.await? {
            return Ok(None);
        }
        let is_last = answering.is_last();
        drop(answering);
        if is_last {
            break;
        }
        // The backend may have answered before it had read the whole request.
        poll_fn(|cx| wire.poll_unread(cx)).await;
        if !wire.skip() {
            break;
        }
    }
    poll_fn(|cx| wire.poll_shutdown(cx)).await?;
    Ok(None)
}

fn assembled(request: Request, body: Body) -> Box<http::Request<Body>> {
    let mut assembled = Box::new(http::Request::new(body));
    *assembled.method_mut() = request.method;
    *assembled.uri_mut() = request.uri;
    *assembled.version_mut() = Version::HTTP_11;
    *assembled.headers_mut() = request.headers;
    assembled
}

/// The connection ends with its task, whoever still reads a body.
struct Ends<'a, S: AsyncRead + AsyncWrite + Unpin>(&'a Wire<S>);

impl<S: AsyncRead + AsyncWrite + Unpin> Drop for Ends<'_, S> {
    fn drop(&mut self) {
        self.0.take();
    }
}
