//! A request to a backend and its answer, by a connection that has nothing else.

use std::fmt;
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker, ready};

use bytes::Bytes;
use http::header::{CONTENT_LENGTH, EXPECT, TRANSFER_ENCODING};
use http::{HeaderMap, Method, StatusCode, Version, response};
use hyper::body::{Body as HttpBody, Frame, SizeHint};
use hyper::ext::ReasonPhrase;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use super::head::{self, Answer, Framing, Read};
use super::out::{self, Out};
use super::scratch::Scratch;
use crate::proxy::http::body::{Body, BodyError};
use crate::proxy::http::filters::Request;
use crate::proxy::http::framing::{Chunks, Piece, digits};
use crate::proxy::http::retry::Outcome;
use crate::proxy::http::upstream::pool::Lease;
use crate::proxy::pipes::Pipe;
use crate::proxy::sockets;

/// Of the head of an answer, as with hyper.
const HEAD: usize = 64 << 10;

/// Less of a body is copied: that costs less than a pipe does.
const PIPED: u64 = 32 << 10;

/// A stream to a backend.
pub trait Stream: AsyncRead + AsyncWrite + Unpin {
    /// The socket that it is, if nothing is between it and the bytes of HTTP.
    fn socket(&self) -> Option<&TcpStream>;
}

impl<S: AsyncRead + AsyncWrite + Unpin + 'static> Stream for S {
    fn socket(&self) -> Option<&TcpStream> {
        sockets::bare(self)
    }
}

/// A connection to a backend.
pub struct Direct {
    stream: Box<dyn Stream>,
    scratch: Rc<Scratch>,
}

impl Direct {
    pub fn new(stream: impl Stream + 'static, scratch: Rc<Scratch>) -> Direct {
        Direct { stream: Box::new(stream), scratch }
    }

    /// Of the stream in the box, which would be one itself.
    fn socket(&self) -> Option<&TcpStream> {
        (*self.stream).socket()
    }

    /// While it waits for a request: nothing may come, and an end neither. Nobody is woken when that changes.
    pub fn is_open(&mut self) -> bool {
        let mut byte = [0];
        let mut into = ReadBuf::new(&mut byte);
        Pin::new(&mut self.stream).poll_read(&mut Context::from_waker(Waker::noop()), &mut into).is_pending()
    }
}

impl fmt::Debug for Direct {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Direct")
    }
}

/// Whether a request goes this way: one without a body, or with one whose length is known and said once, or never. One of length zero may
/// still turn out to have bytes (HTTP/2), and then nobody is to have seen it.
pub fn takes(request: &Request) -> bool {
    let headers = request.headers();
    let mut lengths = headers.get_all(CONTENT_LENGTH).iter();
    let announced = lengths.next().map(|length| digits(length.as_bytes()));
    let fits = match (request.body().size_hint().exact(), announced) {
        (Some(0), _) if !request.body().is_end_stream() => false,
        (Some(_), None) => true,
        (Some(exact), Some(announced)) => announced == Some(exact) && lengths.next().is_none(),
        (None, announced) => announced.is_none(),
    };
    fits && !headers.contains_key(TRANSFER_ENCODING)
        && (request.body().is_empty() || !headers.contains_key(EXPECT))
        && request.method() != Method::CONNECT
}

/// A request that is under way, then what is left of its answer.
pub struct Exchange {
    direct: Direct,
    /// Takes the connection back.
    lease: Lease,
    out: Out,
    sending: Sending,
    rest: Bytes,
    body: Left,
    /// The answer lets the connection be used again.
    keeps: bool,
    /// Why the answer broke off, which is told a turn later.
    broken: Option<BodyError>,
}

/// What is left of the request.
enum Sending {
    Body {
        body: Box<Body>,
        framing: out::Framing,
    },
    /// What is in `out`.
    Bytes,
    Done,
    /// The backend takes no more of it. It may have said why.
    Refused,
}

/// What is left of the answer's body.
enum Left {
    Length(u64),
    Chunked(Box<Chunked>),
    Close,
}

#[derive(Default)]
struct Chunked {
    chunks: Chunks,
    trailers: Vec<u8>,
}

/// A request that had no answer.
#[derive(Debug)]
pub struct Failed {
    pub outcome: Outcome,
    /// It had no body, or nothing may be left of that.
    pub unsent: Option<Box<Request>>,
}

impl Exchange {
    /// Sends a request that [this way takes](takes), and waits for the head of its answer.
    pub async fn send(
        direct: Direct,
        lease: Lease,
        mut request: Box<Request>,
    ) -> Result<(response::Parts, Exchange), Failed> {
        let body = std::mem::take(request.body_mut());
        let length = body.size_hint().exact();
        let mut out = direct.scratch.out();
        let is_silent = length == Some(0) || request.headers().contains_key(CONTENT_LENGTH);
        let framing = length.map_or(Framing::Chunked, Framing::Length);
        head::write_request(&mut out, &request, (!is_silent).then_some(framing));
        let sending = match length {
            Some(0) => Sending::Bytes,
            Some(left) => Sending::Body { body: Box::new(body), framing: out::Framing::Length(left) },
            None => Sending::Body { body: Box::new(body), framing: out::Framing::Chunked { open: false } },
        };
        let (rest, body) = (Bytes::new(), Left::Close);
        let mut exchange =
            Exchange { direct, lease, out: Out::new(out), sending, rest, body, keeps: false, broken: None };
        match poll_fn(|cx| exchange.poll_head(cx, request.method())).await {
            Ok(answer) => {
                exchange.direct.scratch.give_map_back(std::mem::take(request.headers_mut()));
                Ok((exchange.begin(answer), exchange))
            }
            Err(outcome) => Err(Failed { outcome, unsent: (length == Some(0)).then_some(request) }),
        }
    }

    fn poll_head(&mut self, cx: &mut Context<'_>, method: &Method) -> Poll<Result<Answer, Outcome>> {
        loop {
            if let Poll::Ready(Err(_)) = self.poll_send(cx) {
                return Poll::Ready(Err(Outcome::Client));
            }
            while !self.rest.is_empty() {
                match head::answer(&self.rest, self.direct.scratch.map(), method) {
                    Read::Whole(answer, size) => {
                        self.rest = self.rest.slice(size..);
                        if answer.status == StatusCode::SWITCHING_PROTOCOLS {
                            // Nobody asked for it.
                            return Poll::Ready(Err(Outcome::Invalid));
                        }
                        if !answer.status.is_informational() {
                            return Poll::Ready(Ok(answer));
                        }
                        self.direct.scratch.give_map_back(answer.headers);
                    }
                    Read::Partial if self.rest.len() < HEAD => break,
                    Read::Partial | Read::Other => return Poll::Ready(Err(Outcome::Invalid)),
                }
            }
            let more =
                ready!(self.direct.scratch.poll_answer(cx, Pin::new(&mut self.direct.stream))).unwrap_or_default();
            if more.is_empty() {
                let is_silent = self.rest.is_empty();
                return Poll::Ready(Err(if self.lease.reused && is_silent { Outcome::Stale } else { Outcome::Broken }));
            }
            self.rest = if self.rest.is_empty() { more } else { [&self.rest[..], &more].concat().into() };
        }
    }

    /// What the answer says of itself.
    fn begin(&mut self, answer: Answer) -> response::Parts {
        self.keeps = answer.keeps && answer.framing != Framing::Close;
        self.body = match answer.framing {
            Framing::Length(length) => Left::Length(length),
            Framing::Chunked => Left::Chunked(Box::default()),
            Framing::Close => Left::Close,
        };
        let (mut parts, ()) = http::Response::new(()).into_parts();
        parts.status = answer.status;
        parts.version = Version::HTTP_11;
        parts.headers = answer.headers;
        if let Some(phrase) = answer.phrase.and_then(|phrase| ReasonPhrase::try_from(phrase).ok()) {
            parts.extensions.insert(phrase);
        }
        parts
    }

    /// What is left of the request. An error is that of its body.
    fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BodyError>> {
        loop {
            let mut waits = false;
            while self.out.has_room()
                && let Sending::Body { body, framing } = &mut self.sending
            {
                match self.out.poll_piece(cx, Pin::new(&mut **body), framing, true) {
                    Poll::Pending => {
                        waits = true;
                        break;
                    }
                    Poll::Ready(last) => {
                        if last? {
                            self.sending = Sending::Bytes;
                        }
                    }
                }
            }
            if let Sending::Done | Sending::Refused = self.sending {
                return Poll::Ready(Ok(()));
            }
            match ready!(self.out.poll(cx, Pin::new(&mut self.direct.stream))) {
                Err(_) => self.sending = Sending::Refused,
                Ok(()) if matches!(self.sending, Sending::Bytes) => self.sending = Sending::Done,
                Ok(()) if waits => return Poll::Pending,
                Ok(()) => {}
            }
        }
    }

    fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Bytes>> {
        self.direct.scratch.poll_body(cx, Pin::new(&mut self.direct.stream))
    }

    /// What is left of the answer is so much, of a known length, and comes by a bare socket, that it [may go past](Exchange::poll_fill) the agent.
    pub fn is_piped(&self) -> bool {
        let is_large = matches!(self.body, Left::Length(PIPED..)) && self.rest.is_empty();
        is_large && matches!(self.sending, Sending::Done) && self.direct.socket().is_some()
    }

    /// The next of the answer into an empty pipe. Says how much.
    pub fn poll_fill(&mut self, cx: &mut Context<'_>, pipe: &Pipe) -> Poll<io::Result<usize>> {
        let (Left::Length(left), Some(socket)) = (&mut self.body, self.direct.socket()) else {
            return Poll::Ready(Err(io::ErrorKind::Unsupported.into()));
        };
        let filled = ready!(pipe.poll_fill(cx, socket, usize::try_from(*left).unwrap_or(usize::MAX)))?;
        *left -= filled as u64;
        Poll::Ready(if filled == 0 { Err(io::ErrorKind::UnexpectedEof.into()) } else { Ok(filled) })
    }

    /// Whether all of the answer has been read.
    pub fn has_ended(&self) -> bool {
        matches!(self.body, Left::Length(0))
    }

    pub fn size_hint(&self) -> SizeHint {
        match self.body {
            Left::Length(left) => SizeHint::with_exact(left),
            Left::Chunked(_) | Left::Close => SizeHint::default(),
        }
    }

    /// The next piece of the answer. After the last, [`Exchange::finish`] is for it. What has come before it broke off is to go out first: a stream of
    /// HTTP/2 that is reset loses what waits.
    pub fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        if let Some(broken) = self.broken.take() {
            return Poll::Ready(Some(Err(broken)));
        }
        match self.poll_piece(cx) {
            Poll::Ready(Some(Err(broken))) => {
                self.broken = Some(broken);
                cx.waker().wake_by_ref();
                Poll::Pending
            }
            other => other,
        }
    }

    fn poll_piece(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        // The backend would wait for the rest of its request, and the client for the rest of the answer.
        if let Poll::Ready(Err(error)) = self.poll_send(cx) {
            return Poll::Ready(Some(Err(error)));
        }
        loop {
            if self.has_ended() {
                return Poll::Ready(None);
            }
            if self.rest.is_empty() {
                self.rest = ready!(self.poll_read(cx))?;
                if self.rest.is_empty() {
                    if !matches!(self.body, Left::Close) {
                        return Poll::Ready(Some(Err(io::Error::from(io::ErrorKind::UnexpectedEof).into())));
                    }
                    self.body = Left::Length(0);
                    return Poll::Ready(None);
                }
            }
            match &mut self.body {
                Left::Close => return Poll::Ready(Some(Ok(Frame::data(std::mem::take(&mut self.rest))))),
                Left::Length(left) => {
                    let some = self.rest.len().min(usize::try_from(*left).unwrap_or(usize::MAX));
                    *left -= some as u64;
                    return Poll::Ready(Some(Ok(Frame::data(self.rest.split_to(some)))));
                }
                Left::Chunked(chunked) => match chunked.chunks.read(&self.rest) {
                    Some(Piece::Data(some)) => return Poll::Ready(Some(Ok(Frame::data(self.rest.split_to(some))))),
                    Some(Piece::Between(some)) => drop(self.rest.split_to(some)),
                    Some(Piece::Trailers(some)) => chunked.trailers.extend_from_slice(&self.rest.split_to(some)),
                    Some(Piece::End(some)) => {
                        chunked.trailers.extend_from_slice(&self.rest.split_to(some));
                        let trailers = head::trailers(&std::mem::take(&mut chunked.trailers).into());
                        self.body = Left::Length(0);
                        let trailers = trailers.ok_or_else(|| malformed("trailers"))?;
                        return Poll::Ready(some_trailers(trailers));
                    }
                    None => return Poll::Ready(Some(Err(malformed("chunks")))),
                },
            }
        }
    }

    /// All of the answer has come: the connection goes back, as soon as the request has gone whole.
    pub fn finish(mut self) {
        if !self.keeps || !self.rest.is_empty() {
            return;
        }
        match self.sending {
            Sending::Done => {
                let Exchange { direct, mut lease, out, .. } = self;
                direct.scratch.give_out_back(out.bytes);
                lease.give_back(direct);
            }
            Sending::Refused => {}
            Sending::Body { .. } | Sending::Bytes => drop(tokio::task::spawn_local(async move {
                if poll_fn(|cx| self.poll_send(cx)).await.is_ok() {
                    self.finish();
                }
            })),
        }
    }
}

fn malformed(what: &str) -> BodyError {
    format!("the answer's {what} are malformed").into()
}

fn some_trailers(trailers: HeaderMap) -> Option<Result<Frame<Bytes>, BodyError>> {
    (!trailers.is_empty()).then(|| Ok(Frame::trailers(trailers)))
}

impl fmt::Debug for Exchange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Exchange").field("lease", &self.lease).finish_non_exhaustive()
    }
}
