//! An answer on its way to the client.

use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use http::header::{CONNECTION, CONTENT_LENGTH, DATE, TRANSFER_ENCODING};
use http::{HeaderValue, Response, StatusCode, response};
use hyper::body::Body as _;
use hyper::ext::ReasonPhrase;
use tokio::io::{AsyncRead, AsyncWrite};

use super::super::framing::digits;
use super::head;
use super::out::{Framing, Out};
use super::scratch::Scratch;
use super::wire::Wire;
use crate::proxy::http::body::BodyError;
use crate::proxy::http::budget::Unread;
use crate::proxy::http::meter::Metered;
use crate::proxy::pipes::Pipe;

pub struct Answering {
    out: Out,
    /// `None`: all of it is in `out`, or has gone.
    body: Option<Metered>,
    framing: Framing,
    /// The client wants them.
    trailers: bool,
    /// Where a large body goes from socket to socket, with so many bytes of it.
    pipe: Option<(Pipe, usize, Option<Unread>)>,
    /// Why it breaks off behind what is in `out`.
    broken: Option<BodyError>,
    is_last: bool,
    scratch: Rc<Scratch>,
}

/// What was asked.
#[derive(Clone, Copy, Debug)]
pub struct To {
    /// A HEAD.
    pub head: bool,
    pub takes_trailers: bool,
}

impl Answering {
    /// `is_last`: the connection ends behind it; it may also end because the answer says so.
    pub fn new(response: Response<Metered>, to: To, is_last: bool, scratch: &Rc<Scratch>) -> Answering {
        let (mut parts, body) = response.into_parts();
        let is_last = is_last || parts.headers.contains_key(CONNECTION);
        let mut out = scratch.out();
        let framing = write_head(&mut out, &parts, body.size_hint().exact(), to.head, is_last, scratch);
        scratch.give_map_back(std::mem::take(&mut parts.headers));
        let body = Some(body).filter(|_| framing != Framing::Length(0));
        let (out, trailers) = (Out::new(out), to.takes_trailers);
        Answering { out, body, framing, trailers, pipe: None, broken: None, is_last, scratch: Rc::clone(scratch) }
    }

    pub fn is_last(&self) -> bool {
        self.is_last
    }

    /// Until all has gone.
    pub fn poll<S>(&mut self, cx: &mut Context<'_>, wire: &Wire<S>) -> Poll<io::Result<()>>
    where
        S: AsyncRead + AsyncWrite + Unpin + 'static,
    {
        loop {
            let waits = self.gather(cx, wire);
            ready!(wire.poll_write(cx, &mut self.out))?;
            if let Some((pipe, bytes, unread)) = self.pipe.take() {
                ready!(self.poll_pipe(cx, wire, pipe, bytes, unread))?;
                continue;
            }
            if let Some(error) = self.broken.take() {
                return Poll::Ready(Err(io::Error::other(error)));
            }
            if self.body.is_none() && self.out.is_empty() {
                return Poll::Ready(Ok(()));
            }
            if waits {
                return Poll::Pending;
            }
        }
    }

    /// As much as is there and there is room for. Says whether there will be more. What may go by a pipe does.
    fn gather<S>(&mut self, cx: &mut Context<'_>, wire: &Wire<S>) -> bool
    where
        S: AsyncRead + AsyncWrite + Unpin + 'static,
    {
        while self.pipe.is_none()
            && self.out.has_room()
            && let Some(body) = &mut self.body
        {
            if body.size_hint().exact() == self.framing.left()
                && body.is_piped()
                && wire.is_plain()
                && let Ok(pipe) = self.scratch.pipes.take()
            {
                self.pipe = Some((pipe, 0, None));
                break;
            }
            match self.out.poll_piece(cx, Pin::new(body), &mut self.framing, self.trailers) {
                Poll::Pending => return true,
                Poll::Ready(Ok(false)) => {}
                Poll::Ready(Ok(true)) => self.body = None,
                Poll::Ready(Err(error)) => self.break_off(error),
            }
        }
        false
    }

    /// What is in the pipe, then what comes next. A pipe without bytes is not kept for what may come.
    fn poll_pipe<S>(
        &mut self,
        cx: &mut Context<'_>,
        wire: &Wire<S>,
        pipe: Pipe,
        mut bytes: usize,
        unread: Option<Unread>,
    ) -> Poll<io::Result<()>>
    where
        S: AsyncRead + AsyncWrite + Unpin + 'static,
    {
        while bytes > 0 {
            match wire.poll_empty(cx, &pipe, bytes) {
                Poll::Ready(Ok(0)) => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                Poll::Ready(emptied) => bytes -= emptied?,
                Poll::Pending => {
                    self.pipe = Some((pipe, bytes, unread));
                    return Poll::Pending;
                }
            }
        }
        drop(unread);
        let (Some(body), Framing::Length(left)) = (&mut self.body, &mut self.framing) else {
            self.scratch.pipes.give_back(pipe);
            return Poll::Ready(Ok(()));
        };
        match body.poll_fill(cx, &pipe) {
            Poll::Ready(Ok((filled, unread))) => {
                *left = left.saturating_sub(filled as u64);
                if *left == 0 {
                    self.body = None;
                }
                self.pipe = Some((pipe, filled, Some(unread)));
            }
            Poll::Ready(Err(error)) => {
                self.scratch.pipes.give_back(pipe);
                self.break_off(error);
            }
            Poll::Pending => {
                self.scratch.pipes.give_back(pipe);
                return Poll::Pending;
            }
        }
        Poll::Ready(Ok(()))
    }

    fn break_off(&mut self, error: BodyError) {
        (self.body, self.broken) = (None, Some(error));
    }
}

impl Drop for Answering {
    fn drop(&mut self) {
        self.scratch.give_out_back(std::mem::take(&mut self.out.bytes));
    }
}

/// `exact`: the length of the body, if it is known.
fn write_head(
    out: &mut Vec<u8>,
    parts: &response::Parts,
    exact: Option<u64>,
    to_head: bool,
    is_last: bool,
    scratch: &Scratch,
) -> Framing {
    head::write_status(out, parts.status, parts.extensions.get::<ReasonPhrase>().map(ReasonPhrase::as_bytes));
    // RFC 9110 sections 15.3.5 and 15.4.5.
    let is_bare = matches!(parts.status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
    let mut has_date = false;
    for (name, value) in &parts.headers {
        match *name {
            CONTENT_LENGTH | CONNECTION | TRANSFER_ENCODING => continue,
            DATE => has_date = true,
            _ => {}
        }
        head::write_header(out, name, value.as_bytes());
    }
    let announced = parts.headers.get(CONTENT_LENGTH).map(HeaderValue::as_bytes).and_then(digits);
    // There is room for trailers then.
    let in_chunks = parts.headers.contains_key(TRANSFER_ENCODING);
    let framing = match announced.or(exact).filter(|_| !in_chunks) {
        _ if is_bare => Framing::Length(0),
        // What it would be is known only if it was said.
        Some(0) if to_head && announced.is_none() => Framing::Length(0),
        Some(length) => {
            head::write_length(out, length);
            Framing::Length(if to_head { 0 } else { length })
        }
        None if to_head => Framing::Length(0),
        None => {
            out.extend_from_slice(b"transfer-encoding: chunked\r\n");
            Framing::Chunked { open: false }
        }
    };
    if is_last {
        out.extend_from_slice(b"connection: close\r\n");
    }
    if !has_date {
        out.extend_from_slice(b"date: ");
        scratch.write_date(out);
        out.extend_from_slice(b"\r\n");
    }
    out.extend_from_slice(b"\r\n");
    framing
}
