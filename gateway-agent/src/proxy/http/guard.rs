//! What stands between a client's bytes and hyper: the framing of HTTP/1 is read here first ([`framing`](super::framing)), heads reach hyper
//! whole or not at all, and nobody is waited for longer than the limits say. A client that has sent half a head costs its half, no more.
//!
//! What is refused here is answered where everything is: in place of the bad request hyper gets a plain one, and [`Signal`] tells
//! `server.rs`, by the number of the request on its connection, that it is to be refused. Thus the answer comes after those of the requests before.

use std::any::Any;
use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use bytes::{Buf, BytesMut};
use futures_util::task::AtomicWaker;
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Instant, Sleep, sleep_until};
use tokio_rustls::server::TlsStream;

use super::answer::Reason;
use super::budget::{Account, Unread};
use super::faults::Faults;
use super::framing::{Framing, Refused};
use crate::ir::http::Limits;
use crate::proxy::pipes::Pipe;
use crate::proxy::rewound::Rewound;
use crate::proxy::sockets;

/// How soon it is noticed that a client has left, where bytes that nobody reads are before its end.
pub const LOOK: Duration = Duration::from_secs(1);

pub struct Guard<S> {
    stream: S,
    has_left: fn(&S) -> bool,
    look_at: Option<Instant>,
    look_timer: Timer,
    limits: Limits,
    signal: Arc<Signal>,
    mode: Mode,
    framing: Framing,
    /// Read, and not passed on.
    held: BytesMut,
    /// Of these, so many may be read.
    ready: usize,
    /// When the head began that is held.
    head_since: Option<Instant>,
    last_read: Instant,
    last_write: Instant,
    /// When the client was first asked in vain for more of a body. While a backend takes nothing, nobody asks.
    asked_since: Option<Instant>,
    read_timer: Timer,
    /// When the client last took something, while it takes nothing.
    stalled_since: Option<Instant>,
    write_timer: Timer,
    /// What that costs meanwhile.
    stuck: (Arc<Account>, usize),
    unread: Option<Unread>,
    /// Of HTTP/2.
    faults: Option<Box<Faults>>,
    farewell: Option<Farewell>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    /// HTTP/2 with prior knowledge begins with its preface; anything else is HTTP/1.
    Unknown,
    Http1,
    /// HTTP/2, or what a connection of HTTP/1 was upgraded to.
    Raw,
    /// hyper has the request in place of the refused one, and nothing comes after that.
    Refused,
    /// In the middle of a body.
    Broken,
    Ended,
}

/// What the connection speaks, once there is a request to read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Speaks {
    Http1,
    Http2,
    /// There is none, and there will be none.
    Nothing,
}

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// In place of one that is refused.
const STAND_IN: &[u8] = b"GET / HTTP/1.1\r\nhost: refused\r\nconnection: close\r\n\r\n";
/// Read at a time while a head is not whole.
const PIECE: usize = 2048;

impl<S: AsyncRead + AsyncWrite + Unpin> Guard<S> {
    /// `speaks`: as ALPN says. `None`: it is to be found out. `stuck`: who is charged while the client takes nothing, and how much.
    pub fn new(
        stream: S,
        speaks: Option<Speaks>,
        limits: Limits,
        signal: Arc<Signal>,
        stuck: (Arc<Account>, usize),
    ) -> Guard<S>
    where
        S: 'static,
    {
        let now = Instant::now();
        Guard {
            stream,
            has_left: has_left::<S>,
            look_at: None,
            look_timer: Timer::default(),
            limits,
            signal,
            mode: match speaks {
                None => Mode::Unknown,
                Some(Speaks::Http1) => Mode::Http1,
                Some(Speaks::Http2) => Mode::Raw,
                Some(Speaks::Nothing) => Mode::Ended,
            },
            framing: Framing::default(),
            held: BytesMut::new(),
            ready: 0,
            head_since: None,
            last_read: now,
            last_write: now,
            asked_since: None,
            read_timer: Timer::default(),
            stalled_since: None,
            write_timer: Timer::default(),
            stuck,
            unread: None,
            faults: None,
            farewell: None,
        }
    }

    /// It is HTTP/2: what the agent says to the client's faults is counted.
    pub fn watch(&mut self, faults: Faults) {
        self.faults = Some(Box::new(faults));
    }

    /// The next request, whatever it is, is refused.
    pub fn refuse(&mut self, reason: Reason) {
        self.signal.refuse(self.framing.heads(), reason);
        self.held.truncate(self.ready);
        self.held.extend_from_slice(STAND_IN);
        self.ready = self.held.len();
        self.head_since = None;
        self.mode = Mode::Refused;
    }

    /// Until there is something for hyper to read. What it needs for a connection is made after that.
    pub fn poll_begun(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Speaks>> {
        loop {
            match self.mode {
                Mode::Raw => return Poll::Ready(Ok(Speaks::Http2)),
                Mode::Ended => return Poll::Ready(Ok(Speaks::Nothing)),
                _ if self.ready > 0 => return Poll::Ready(Ok(Speaks::Http1)),
                _ => ready!(self.poll_held(cx))?,
            }
        }
    }

    /// Until the client has ended its side, whatever is before that. A second is soon enough for those who have asked for more meanwhile.
    pub fn poll_left(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            let at = *self.look_at.get_or_insert_with(|| Instant::now() + LOOK);
            ready!(self.look_timer.poll(cx, at));
            self.look_at = None;
            if (self.has_left)(&self.stream) {
                return Poll::Ready(());
            }
        }
    }

    /// More is held, or has become ready, or the mode is another.
    fn poll_held(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut space = [MaybeUninit::uninit(); PIECE];
        let mut piece = ReadBuf::uninit(&mut space);
        if ready!(self.poll_stream(cx, &mut piece))? {
            self.held.extend_from_slice(piece.filled());
            self.look();
        }
        Poll::Ready(Ok(()))
    }

    /// At what is held and not ready.
    fn look(&mut self) {
        if self.mode == Mode::Unknown {
            let length = self.held.len().min(PREFACE.len());
            if self.held[..length] != PREFACE[..length] {
                self.mode = Mode::Http1;
            } else if length == PREFACE.len() {
                self.mode = Mode::Raw;
                return;
            }
        }
        match self.mode {
            Mode::Http1 => {
                let passed = self.framing.pass(&self.held, &self.limits);
                self.ready = passed.bytes;
                self.after(passed.bytes, passed.refused);
            }
            _ => drop(self.head_since.get_or_insert(self.last_read)),
        }
    }

    /// So many bytes have passed; what is held beyond those that are ready is the begin of a head.
    fn after(&mut self, passed: usize, refused: Option<Refused>) {
        match refused {
            None if self.held.len() == self.ready => self.head_since = None,
            None if passed > 0 => self.head_since = Some(self.last_read),
            None => drop(self.head_since.get_or_insert(self.last_read)),
            Some(Refused::Head(reason)) => self.refuse(reason),
            Some(Refused::Body) => self.break_off(Reason::BadRequest),
        }
    }

    /// In the middle of a body: who reads it gets an error, and the signal tells why.
    fn break_off(&mut self, reason: Reason) {
        self.signal.break_off(reason);
        self.held.truncate(self.ready);
        self.mode = Mode::Broken;
    }

    /// What the stream has, or, in time, what follows from its silence. `false`: nothing was read, and the mode is another.
    fn poll_stream(&mut self, cx: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<bool>> {
        let before = into.filled().len();
        match Pin::new(&mut self.stream).poll_read(cx, into) {
            Poll::Ready(read) => {
                read?;
                self.last_read = Instant::now();
                self.asked_since = None;
                if into.filled().len() == before {
                    match self.framing.in_body() {
                        true => {
                            self.signal.leave();
                            self.break_off(Reason::BadRequest);
                        }
                        false => self.mode = Mode::Ended,
                    }
                    return Poll::Ready(Ok(false));
                }
                Poll::Ready(Ok(true))
            }
            Poll::Pending => {
                let Some(deadline) = self.deadline() else { return Poll::Pending };
                ready!(self.read_timer.poll(cx, deadline));
                if self.framing.in_body() {
                    self.break_off(Reason::RequestTimeout);
                } else if self.head_since.is_some() {
                    self.refuse(Reason::RequestTimeout);
                } else {
                    self.mode = Mode::Ended;
                }
                Poll::Ready(Ok(false))
            }
        }
    }

    /// Of the client's silence that has been found right now.
    fn deadline(&mut self) -> Option<Instant> {
        if self.framing.in_body() {
            return Some(*self.asked_since.get_or_insert_with(Instant::now) + self.limits.body_idle);
        }
        if self.framing.is_upgrading() {
            return None;
        }
        match self.head_since {
            Some(since) => Some(since + self.limits.header_time),
            // The client waits for the agent.
            None if self.signal.answered() < self.framing.heads() => None,
            None => Some(self.last_read.max(self.last_write) + self.limits.idle),
        }
    }

    /// As HTTP/1, which is in place; `into` has room.
    fn poll_http1(&mut self, cx: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.framing.is_upgrading() {
            self.signal.wake_when_done(cx);
            if self.signal.is_tunnel() {
                self.mode = Mode::Raw;
                self.ready = self.held.len();
            } else if self.signal.answered() >= self.framing.heads() {
                self.framing.not_upgraded();
                self.look();
            } else if self.held.len() < PIECE {
                // So that its end is seen.
                return self.poll_held(cx);
            } else {
                return Poll::Pending;
            }
            return Poll::Ready(Ok(()));
        }
        if !self.held.is_empty() {
            return self.poll_held(cx);
        }
        // Most come whole, and need not be held.
        let before = into.filled().len();
        if ready!(self.poll_stream(cx, into))? {
            let passed = self.framing.pass(&into.filled()[before..], &self.limits);
            self.held.extend_from_slice(&into.filled()[before + passed.bytes..]);
            into.set_filled(before + passed.bytes);
            self.after(passed.bytes, passed.refused);
        }
        Poll::Ready(Ok(()))
    }

    fn poll_stall(&mut self, cx: &mut Context<'_>) -> Poll<io::Error> {
        let since = *self.stalled_since.get_or_insert_with(|| {
            let (account, cost) = &self.stuck;
            self.unread = Some(account.charge(*cost));
            Instant::now()
        });
        ready!(self.write_timer.poll(cx, since + self.limits.body_idle));
        self.signal.stall();
        Poll::Ready(io::Error::new(io::ErrorKind::TimedOut, "the client takes nothing"))
    }

    /// As many of these bytes as were taken.
    fn wrote<'a>(&mut self, taken: usize, parts: impl IntoIterator<Item = &'a [u8]>) {
        (self.stalled_since, self.unread) = (None, None);
        self.last_write = Instant::now();
        if let Some(faults) = &mut self.faults {
            let mut left = taken;
            for part in parts {
                let some = left.min(part.len());
                faults.went(&part[..some]);
                left -= some;
            }
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for Guard<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let before = into.filled().len();
        loop {
            if this.ready > 0 {
                let some = this.ready.min(into.remaining());
                into.put_slice(&this.held[..some]);
                this.held.advance(some);
                this.ready -= some;
                if this.held.is_empty() {
                    // Small as it is, there are many connections.
                    this.held = BytesMut::new();
                }
                return Poll::Ready(Ok(()));
            }
            match this.mode {
                Mode::Raw if this.held.is_empty() => return Pin::new(&mut this.stream).poll_read(cx, into),
                Mode::Raw => this.ready = this.held.len(),
                Mode::Ended => return Poll::Ready(Ok(())),
                // There is nothing to come, and no end to be seen before the answer.
                Mode::Refused => return Poll::Pending,
                Mode::Broken => return Poll::Ready(Err(io::ErrorKind::InvalidData.into())),
                Mode::Unknown => ready!(this.poll_held(cx))?,
                Mode::Http1 => ready!(this.poll_http1(cx, into))?,
            }
            if into.filled().len() > before {
                return Poll::Ready(Ok(()));
            }
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Guard<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let Poll::Ready(written) = Pin::new(&mut self.stream).poll_write(cx, bytes) else {
            return self.poll_stall(cx).map(Err);
        };
        if let Ok(taken) = written {
            self.wrote(taken, [bytes]);
        }
        Poll::Ready(written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let Poll::Ready(written) = Pin::new(&mut self.stream).poll_write_vectored(cx, bytes) else {
            return self.poll_stall(cx).map(Err);
        };
        if let Ok(taken) = written {
            self.wrote(taken, bytes.iter().map(|part| &**part));
        }
        Poll::Ready(written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.signal.is_to_look() && (self.has_left)(&self.stream) {
            return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
        }
        match Pin::new(&mut self.stream).poll_flush(cx) {
            Poll::Pending => self.poll_stall(cx).map(Err),
            flushed => {
                (self.stalled_since, self.unread) = (None, None);
                flushed
            }
        }
    }

    /// To the end that the client can see. What it has sent and nobody has read would make a reset of that end, which may overtake the
    /// answer (RFC 9112 section 9.6): so it is read, for a while.
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if this.farewell.is_none() {
            match Pin::new(&mut this.stream).poll_shutdown(cx) {
                Poll::Pending => return this.poll_stall(cx).map(Err),
                Poll::Ready(ended) => ended?,
            }
            let unread = this.framing.in_body() || !this.held.is_empty();
            if !unread && !matches!(this.mode, Mode::Refused | Mode::Broken) {
                return Poll::Ready(Ok(()));
            }
        }
        let farewell = this.farewell.get_or_insert_with(Farewell::new);
        farewell.poll(cx, &mut this.stream)
    }
}

/// Whether who is at the other end has ended its side, or broken off. Of what is no socket nobody knows before its end is read.
fn has_left<S: 'static>(stream: &S) -> bool {
    let tls = || (stream as &dyn Any).downcast_ref::<Box<TlsStream<Rewound<TcpStream>>>>();
    let in_tls = || Some(tls()?.get_ref().0.get_ref());
    let Some(socket) = sockets::bare(stream).or_else(in_tls) else { return false };
    // That is ready for urgent data, which nobody has registered for, or at the end of what can be read.
    pin!(socket.ready(Interest::PRIORITY)).poll(&mut Context::from_waker(Waker::noop())).is_ready()
}

impl<S: AsyncRead + AsyncWrite + Unpin + 'static> Guard<S> {
    /// The client's socket, if nothing is between it and the bytes of HTTP.
    pub fn socket(&self) -> Option<&TcpStream> {
        sockets::bare(&self.stream)
    }

    /// Writes what is in a pipe, so many bytes, as [`AsyncWrite::poll_write`] would write them; to a [socket](Guard::socket).
    pub fn poll_empty(&mut self, cx: &mut Context<'_>, pipe: &Pipe, bytes: usize) -> Poll<io::Result<usize>> {
        let Some(socket) = self.socket() else { return Poll::Ready(Err(io::ErrorKind::Unsupported.into())) };
        let Poll::Ready(written) = pipe.poll_empty(cx, socket, bytes) else {
            return self.poll_stall(cx).map(Err);
        };
        if let Ok(taken) = written {
            self.wrote(taken, []);
        }
        Poll::Ready(written)
    }
}

struct Farewell {
    until: Instant,
    left: usize,
    timer: Timer,
}

impl Farewell {
    const TIME: Duration = Duration::from_secs(1);
    const BYTES: usize = 256 << 10;

    fn new() -> Farewell {
        Farewell { until: Instant::now() + Farewell::TIME, left: Farewell::BYTES, timer: Timer::default() }
    }

    fn poll<S: AsyncRead + Unpin>(&mut self, cx: &mut Context<'_>, stream: &mut S) -> Poll<io::Result<()>> {
        while self.left > 0 {
            let mut space = [MaybeUninit::uninit(); PIECE];
            let mut piece = ReadBuf::uninit(&mut space);
            match Pin::new(&mut *stream).poll_read(cx, &mut piece) {
                Poll::Ready(Ok(())) if !piece.filled().is_empty() => {
                    self.left = self.left.saturating_sub(piece.filled().len());
                }
                // Its end, too.
                Poll::Ready(_) => break,
                Poll::Pending => {
                    ready!(self.timer.poll(cx, self.until));
                    break;
                }
            }
        }
        Poll::Ready(Ok(()))
    }
}

/// Made when it is first needed. Deadlines mostly move away: it is set again when it has gone off too early, not each time that they move.
#[derive(Default)]
pub struct Timer(Option<Pin<Box<Sleep>>>);

impl Timer {
    pub fn poll(&mut self, cx: &mut Context<'_>, deadline: Instant) -> Poll<()> {
        let sleep = self.0.get_or_insert_with(|| Box::pin(sleep_until(deadline)));
        if sleep.deadline() > deadline {
            sleep.as_mut().reset(deadline);
        }
        ready!(sleep.as_mut().poll(cx));
        while sleep.deadline() < deadline {
            sleep.as_mut().reset(deadline);
            ready!(sleep.as_mut().poll(cx));
        }
        // It is of no use any more.
        self.0 = None;
        Poll::Ready(())
    }
}

/// What the guard and the requests of a connection tell each other. They are on one thread; an upgraded connection may leave it.
#[derive(Debug)]
pub struct Signal {
    refused_at: AtomicU64,
    refused: AtomicUsize,
    /// 1 more than the reason.
    broken: AtomicUsize,
    /// Requests with which the agent is done, to the last byte of the answer.
    answered: AtomicU64,
    tunnel: AtomicBool,
    stalled: AtomicBool,
    look: AtomicBool,
    left: AtomicBool,
    /// Of the guard, where it waits for an answer.
    waker: AtomicWaker,
}

impl Default for Signal {
    fn default() -> Signal {
        Signal {
            refused_at: AtomicU64::new(u64::MAX),
            refused: AtomicUsize::new(0),
            broken: AtomicUsize::new(0),
            answered: AtomicU64::new(0),
            tunnel: AtomicBool::new(false),
            stalled: AtomicBool::new(false),
            look: AtomicBool::new(false),
            left: AtomicBool::new(false),
            waker: AtomicWaker::new(),
        }
    }
}

impl Signal {
    fn refuse(&self, request: u64, reason: Reason) {
        self.refused.store(reason as usize, Relaxed);
        self.refused_at.store(request, Relaxed);
    }

    /// Nor are other requests of the connection answered.
    pub fn break_off(&self, reason: Reason) {
        self.broken.store(reason as usize + 1, Relaxed);
    }

    /// The client takes nothing.
    pub fn stall(&self) {
        self.stalled.store(true, Relaxed);
    }

    /// The client has ended in the middle of a body.
    fn leave(&self) {
        self.left.store(true, Relaxed);
    }

    pub fn has_left(&self) -> bool {
        self.left.load(Relaxed)
    }

    /// The guard is to look whether the client has left, when it is next asked to flush.
    pub fn look(&self) {
        self.look.store(true, Relaxed);
    }

    fn is_to_look(&self) -> bool {
        self.look.load(Relaxed) && self.look.swap(false, Relaxed)
    }

    /// Why the request with this number, from 0, is refused.
    pub fn refused(&self, request: u64) -> Option<Reason> {
        (self.refused_at.load(Relaxed) == request).then(|| Reason::ALL[self.refused.load(Relaxed)])
    }

    /// Why the body of the request that is under way was broken off here.
    pub fn broken(&self) -> Option<Reason> {
        self.broken.load(Relaxed).checked_sub(1).map(|reason| Reason::ALL[reason])
    }

    pub fn is_stalled(&self) -> bool {
        self.stalled.load(Relaxed)
    }

    pub fn done(&self) {
        self.answered.fetch_add(1, Relaxed);
        self.waker.wake();
    }

    fn wake_when_done(&self, cx: &Context<'_>) {
        self.waker.register(cx.waker());
    }

    pub fn answered(&self) -> u64 {
        self.answered.load(Relaxed)
    }

    /// From here on the bytes are of another protocol.
    pub fn tunnel(&self) {
        self.tunnel.store(true, Relaxed);
        self.waker.wake();
    }

    fn is_tunnel(&self) -> bool {
        self.tunnel.load(Relaxed)
    }
}
