//! A connection of a client, from its first byte of HTTP to its end.

use std::cell::Cell;
use std::convert::Infallible;
use std::fmt::Display;
use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use http::header::{CONNECTION, USER_AGENT};
use http::{HeaderMap, HeaderValue, Response, StatusCode, Version};
use hyper::body::Incoming;
use hyper::rt::Executor as HyperExecutor;
use hyper::server::conn::{http1, http2};
use hyper::service::{Service, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until, timeout};

use super::access_log::{self, Which};
use super::answer::{self, Reason};
use super::body::Body;
use super::budget::{Budget, Open, cost};
use super::cork::Corked;
use super::direct;
use super::exchange::{Exchange, Scheme};
use super::faults::Faults;
use super::filters::{Request, Told};
use super::forwarded::Known;
use super::guard::{Guard, LOOK, Signal, Speaks};
use super::meter::{Logged, Meter, Metered, Takers};
use super::places::{Place, Present};
use super::rarely::Rarely;
use super::tunnel::Tunnels;
use super::upload::{CONNECTION_WINDOW, STREAM_WINDOW};
use super::worker::Local;
use super::{forward, forwarded};
use crate::ir::ListenerName;
use crate::ir::http::{Limits, Settings};
use crate::proxy::Origin;

/// What is known of a connection before its first request.
#[derive(Debug)]
pub struct Client {
    pub local: Rc<Local>,
    /// The client (of the PROXY protocol header, where there is one) and the address and port that it wanted.
    pub origin: Origin,
    pub security: Security,
}

#[derive(Clone, Debug)]
pub enum Security {
    Clear,
    /// TLS has ended.
    Tls {
        /// By the server name: requests for hosts of another get 421.
        listener: ListenerName,
        /// ALPN has settled on it.
        h2: bool,
        /// For the access log, where there is one.
        session: Option<Rc<Session>>,
    },
}

/// What was agreed on in TLS.
#[derive(Debug)]
pub struct Session {
    pub version: Option<&'static str>,
    pub server_name: Option<Box<str>>,
}

impl Security {
    /// Of memory, before there is HTTP.
    fn cost(&self) -> usize {
        match self {
            Security::Clear => cost::CONNECTION,
            Security::Tls { .. } => cost::CONNECTION + cost::TLS,
        }
    }

    /// While the client takes nothing.
    fn stuck_cost(&self) -> usize {
        match self {
            Security::Clear => cost::STUCK,
            Security::Tls { .. } => cost::STUCK + cost::STUCK_TLS,
        }
    }
}

impl Client {
    pub fn scheme(&self) -> Scheme {
        match self.security {
            Security::Clear => Scheme::Http,
            Security::Tls { .. } => Scheme::Https,
        }
    }

    fn place(&self) -> Place {
        let listener = match &self.security {
            Security::Clear => None,
            Security::Tls { listener, .. } => Some(listener.clone()),
        };
        Place { gateway: self.origin.gateway, listener }
    }
}

/// A client whose connection is to end may have sent a request already when it hears of that, or be about to: so long one is waited for, and
/// its answer says that it was the last.
const LAST_CALL: Duration = Duration::from_secs(1);

/// Until the connection ends. After `stop` was set, or its listener has gone, requests under way have the time that the listener gives them.
/// In the clear, HTTP/2 is what begins with its preface (RFC 9113 section 3.3).
pub async fn serve<S>(stream: S, client: Client, settings: &Settings, stop: watch::Receiver<bool>)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    client.local.tend();
    client.local.metrics.connections.add(1);
    let present = client.local.places.join(client.place(), &client.local.shared.lives);
    let refused = if present.number > settings.limits.connections {
        Some(Reason::TooManyConnections)
    } else {
        (!client.local.budget.has_room()).then_some(Reason::OutOfMemory)
    };
    let mut ends = Ends { stop, present };
    if refused.is_some() {
        ends.present.leave();
    }
    let mut charge = client.local.budget.charge(client.security.cost());
    let signal = Arc::new(Signal::default());
    let speaks = match client.security {
        Security::Clear => None,
        Security::Tls { h2: true, .. } => Some(Speaks::Http2),
        Security::Tls { h2: false, .. } => Some(Speaks::Http1),
    };
    let open = client.local.budget.open();
    let stuck = (Arc::clone(&open.account), client.security.stuck_cost());
    // By itself: every future that has it in its turn would have the room for it.
    let mut guard = Box::new(Guard::new(stream, speaks, settings.limits.clone(), Arc::clone(&signal), stuck));
    if let Some(reason) = refused {
        if speaks == Some(Speaks::Http2) {
            client.local.metrics.answer(reason);
            client.local.metrics.closed.add(1);
            return;
        }
        guard.refuse(reason);
    }
    let local = Rc::clone(&client.local);
    let begun = tokio::select! {
        begun = poll_fn(|cx| guard.poll_begun(cx)) => begun,
        () = async {
            ends.come().await;
            tokio::time::sleep(LAST_CALL.min(settings.drain.0)).await;
        } => Ok(Speaks::Nothing),
    };
    let connection = Rc::new(Connection {
        known: Rc::new(Known::of(&client.origin)),
        open,
        client,
        signal,
        trusted: settings.trusted_hops > 0,
        limits: settings.limits.clone(),
        requests: Cell::new(0),
        ends: Cell::new(false),
        leaves: Cell::new(false),
        idle_since: Cell::new(Instant::now()),
        takers: Rc::default(),
        unread: Cell::new(0),
        tunnels: Tunnels::default(),
    });
    match begun {
        Ok(Speaks::Http1) => {
            charge.add(cost::HTTP1);
            Box::pin(http1(guard, &connection, settings, &mut ends)).await;
        }
        Ok(Speaks::Http2) => {
            charge.add(cost::HTTP2);
            Box::pin(http2(guard, &connection, settings, &mut ends)).await;
        }
        Ok(Speaks::Nothing) | Err(_) => {}
    }
    tokio::select! {
        () = connection.tunnels.ended() => {}
        () = ends.come() => drop(timeout(settings.drain.0, connection.tunnels.ended()).await),
    }
    connection.tunnels.cut();
    if connection.signal.is_stalled() {
        local.metrics.answer(Reason::ClientStalled);
    }
    local.metrics.closed.add(1);
}

/// Why a connection is to end.
struct Ends {
    stop: watch::Receiver<bool>,
    present: Present,
}

impl Ends {
    async fn come(&mut self) {
        tokio::select! {
            _ = self.stop.wait_for(|stop| *stop) => {}
            _ = self.present.gone.wait_for(|gone| *gone) => {}
        }
    }
}

/// What the requests of a connection share.
#[derive(Debug)]
pub struct Connection {
    pub client: Client,
    known: Rc<Known>,
    signal: Arc<Signal>,
    open: Open,
    pub limits: Limits,
    /// A proxy in front may name requests.
    trusted: bool,
    /// That have come.
    requests: Cell<u64>,
    /// The request that is under way is the last.
    ends: Cell<bool>,
    /// Nor is a next one waited for.
    leaves: Cell<bool>,
    idle_since: Cell<Instant>,
    takers: Rc<Takers>,
    /// Bodies by streams of HTTP/2 that nobody asks for more.
    pub unread: Cell<usize>,
    pub tunnels: Tunnels,
}

/// hyper has those connections that ask for what is unusual, from then on.
async fn http1<S>(guard: Box<Guard<S>>, connection: &Rc<Connection>, settings: &Settings, ends: &mut Ends)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let serving = direct::serve(guard, connection);
    let ended = drive(pin!(serving), |_| connection.ends.set(true), connection, settings, ends).await;
    match ended {
        Some(Ok(Some(stream))) => Box::pin(http1_by_hyper(stream, connection, settings, ends)).await,
        Some(Ok(None)) | None => {}
        Some(Err(error)) => connection.broken_off(&error),
    }
}

async fn http1_by_hyper<S>(stream: S, connection: &Rc<Connection>, settings: &Settings, ends: &mut Ends)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let limits = &settings.limits;
    let mut builder = http1::Builder::new();
    builder
        .timer(TokioTimer::new())
        // The guard knows better when a request begins, and what to answer.
        .header_read_timeout(None)
        .max_headers(limits.headers)
        .max_buf_size((limits.header_bytes + limits.uri_bytes + 1024).max(128 << 10));
    let serving = builder.serve_connection(TokioIo::new(stream), service(connection, true)).with_upgrades();
    let shut = http1::UpgradeableConnection::graceful_shutdown;
    let ended = drive(pin!(serving), shut, connection, settings, ends).await;
    connection.ended_by_hyper(ended);
}

/// Of a response, what waits for the client beside the next piece: one that has begun to go goes whole. h2 knows as much of a single byte as of a
/// piece, so that more would be of no use to a client that reads, and much for one that does not.
const SEND_BUFFER: usize = 1;

/// As often as what is allowed, h2 reads of a head before it answers 431 by itself, which nobody counts.
const COUNTED: usize = 4;

async fn http2<S>(mut guard: Box<Guard<S>>, connection: &Rc<Connection>, settings: &Settings, ends: &mut Ends)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let limits = &settings.limits;
    let mut builder = http2::Builder::new(Executor);
    builder
        .timer(TokioTimer::new())
        .max_concurrent_streams(limits.streams)
        .max_pending_accept_reset_streams(limits.pending_resets)
        .max_header_list_size(u32::try_from(COUNTED * limits.header_bytes).unwrap_or(u32::MAX))
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_send_buf_size(SEND_BUFFER)
        .enable_connect_protocol();
    guard.watch(Faults::new(Arc::clone(&connection.client.local.metrics)));
    let corked = Corked::new(guard, Rc::clone(&connection.client.local.scratch));
    let serving = builder.serve_connection(TokioIo::new(corked), service(connection, false));
    let ended = drive(pin!(serving), http2::Connection::graceful_shutdown, connection, settings, ends).await;
    connection.ended_by_hyper(ended);
}

/// What answers its requests. `looks`: whether the client is still there is to be seen without reading.
fn service(
    connection: &Rc<Connection>,
    looks: bool,
) -> impl Service<
    http::Request<Incoming>,
    Response = Response<Metered>,
    Error = Infallible,
    Future = impl Future<Output = Result<Response<Metered>, Infallible>> + 'static,
> {
    let connection = Rc::clone(connection);
    service_fn(move |request| {
        let connection = Rc::clone(&connection);
        let request = Box::new(request.map(Body::incoming));
        async move {
            let response = respond(request, &connection);
            Ok(if looks { looking(response, &connection.signal).await } else { response.await })
        }
    })
}

/// While hyper has bytes of the next request it reads no more; but it flushes whenever it is woken, and the guard can see there what comes to an end.
async fn looking<T>(answer: impl Future<Output = T>, signal: &Signal) -> T {
    let mut answer = pin!(answer);
    loop {
        match timeout(LOOK, answer.as_mut()).await {
            Ok(answer) => return answer,
            Err(_) => signal.look(),
        }
    }
}

/// To its end: its own, or the one that it is brought to. `None`: it was cut off.
async fn drive<C: Future>(
    mut serving: Pin<&mut C>,
    shut: impl Fn(Pin<&mut C>),
    connection: &Connection,
    settings: &Settings,
    ends: &mut Ends,
) -> Option<C::Output> {
    let ends = pin!(ends.come());
    let mut ends = Rarely::new(ends);
    let late = pin!(late(connection, settings));
    let mut late = Rarely::new(late);
    let ended = tokio::select! {
        biased;
        ended = serving.as_mut() => return Some(ended),
        () = &mut ends => false,
        cut_off = &mut late => match cut_off {
            true => return None,
            false => true,
        },
    };
    tracing::trace!(idle = ended, "a connection is brought to its end");
    shut(serving.as_mut());
    let mut left = settings.drain.0;
    if !ended {
        let call = LAST_CALL.min(left);
        if let Ok(ended) = timeout(call, serving.as_mut()).await {
            return Some(ended);
        }
        left -= call;
    }
    connection.leaves.set(true);
    timeout(left, serving).await.ok()
}

/// Until nothing has been asked for too long, or a stream of HTTP/2 has been taken nothing of, or others need its memory: these are cut off.
async fn late(connection: &Connection, settings: &Settings) -> bool {
    let idle = settings.limits.idle;
    let patience = settings.limits.body_idle;
    let mut unused = pin!(sleep_until(connection.idle_since.get() + idle));
    let mut untaken = pin!(sleep_until(connection.idle_since.get() + patience));
    loop {
        tokio::select! {
            () = connection.open.account.cut_off() => {
                connection.signal.break_off(Reason::OutOfMemory);
                return true;
            }
            () = untaken.as_mut() => match connection.takers.slowest() {
                Some(since) if since + patience <= Instant::now() => {
                    connection.signal.stall();
                    return true;
                }
                since => untaken.as_mut().reset(since.unwrap_or_else(Instant::now) + patience),
            },
            // Pings keep no connection.
            () = unused.as_mut() => match connection.unused_until(idle) {
                until if until <= Instant::now() => return false,
                until => unused.as_mut().reset(until),
            }
        }
    }
}

impl Connection {
    /// No request is to come after the one that is under way.
    pub fn is_ending(&self) -> bool {
        self.ends.get()
    }

    /// Without a request it ends.
    pub fn is_leaving(&self) -> bool {
        self.leaves.get()
    }

    fn ended_by_hyper(&self, ended: Option<hyper::Result<()>>) {
        let Some(Err(error)) = ended else { return };
        // hyper has answered that.
        if error.is_parse() {
            self.client.local.metrics.answer(Reason::BadRequest);
        }
        self.broken_off(&error);
    }

    fn broken_off(&self, error: &dyn Display) {
        tracing::debug!(%error, client = %self.client.origin.client, "a connection was broken off");
    }

    /// When it will have been without a request for so long.
    fn unused_until(&self, idle: Duration) -> Instant {
        let is_used = self.signal.answered() < self.requests.get() || self.tunnels.are_open();
        let since = if is_used { Instant::now() } else { self.idle_since.get() };
        since + idle
    }
}

/// There is always an answer. The request is boxed, or every future on its way would have the room for it.
pub async fn respond(mut request: Box<Request>, connection: &Rc<Connection>) -> Response<Metered> {
    let client = &connection.client;
    let local = &client.local;
    let number = connection.requests.get();
    connection.requests.set(number + 1);
    local.metrics.requests.add(1);
    let random = local.random();
    let came = Instant::now();
    connection.idle_since.set(came);
    let is_busy = connection.signal.answered() < number;
    let refused = connection
        .signal
        .refused(number)
        .or_else(|| too_large(&request, &connection.limits))
        .or_else(|| too_much(&local.budget, is_busy));
    let snapshot = local.snapshot();
    let logged = snapshot.logged(client.origin.gateway);
    let logged = logged.map(|which| logged_with(which, &mut request, connection, random));
    let grpc = answer::is_grpc(request.headers());
    let shared = (Arc::clone(&connection.signal), Arc::clone(&connection.open.account));
    let mut exchange = Exchange {
        local: Rc::clone(local),
        snapshot,
        connection: Rc::clone(connection),
        origin: client.origin,
        known: Rc::clone(&connection.known),
        scheme: client.scheme(),
        came,
        requested_host: Box::default(),
        host: None,
        matched_prefix: 0,
        grpc,
        random,
        told: Told::default(),
        endpoint: None,
        attempts: 0,
        meter: Meter::new(Rc::clone(local), shared, came, grpc, logged),
    };
    if request.version() == Version::HTTP_2 {
        exchange.meter.watch(Rc::clone(&connection.takers), number);
    }
    let is_http1 = request.version() < Version::HTTP_2;
    let takes_trailers = request.version() == Version::HTTP_11 && forwarded::takes_trailers(request.headers());
    let mut response = match refused {
        Some(reason) => forward::refuse(reason, &exchange),
        None => forward::respond(request, client, &mut exchange).await,
    };
    if is_http1 && (refused.is_some() || exchange.meter.broken().is_some()) {
        response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    }
    if takes_trailers {
        forwarded::make_room_for_trailers(response.headers_mut());
    }
    if response.status() == StatusCode::SWITCHING_PROTOCOLS {
        connection.signal.tunnel();
    }
    Metered::response(response, exchange.meter)
}

/// HTTP/2 has limits of its own for some of it, not for all.
fn too_large(request: &Request, limits: &Limits) -> Option<Reason> {
    if request.uri().path_and_query().is_some_and(|path| path.as_str().len() > limits.uri_bytes) {
        return Some(Reason::UriTooLong);
    }
    let is_large = request.headers().len() > limits.headers
        || request.version() == Version::HTTP_2 && list_size(request.headers()) > limits.header_bytes;
    is_large.then_some(Reason::HeadersTooLarge)
}

/// `is_busy`: the client has a request under way.
fn too_much(budget: &Budget, is_busy: bool) -> Option<Reason> {
    (is_busy && budget.is_scarce() || !budget.has_room()).then_some(Reason::OutOfMemory)
}

/// As HTTP/2 has it (RFC 9113 section 6.5.2), but without what is in the first line of HTTP/1.
fn list_size(headers: &HeaderMap) -> usize {
    headers.iter().map(|(name, value)| name.as_str().len() + value.len() + 32).sum()
}

fn logged_with(which: Which, request: &mut Request, connection: &Connection, random: u64) -> Box<Logged> {
    let client = &connection.client;
    let identity = access_log::identify(request.headers_mut(), connection.trusted, || client.local.random());
    let authority = request.uri().authority().map(|authority| authority.as_str());
    let host = authority.or_else(|| request.headers().get(http::header::HOST)?.to_str().ok()).unwrap_or_default();
    Box::new(Logged {
        which,
        identity,
        origin: client.origin,
        scheme: client.scheme(),
        version: request.version(),
        method: request.method().clone(),
        host: host.into(),
        uri: request.uri().clone(),
        user_agent: request.headers().get(USER_AGENT).cloned(),
        session: match &client.security {
            Security::Clear => None,
            Security::Tls { session, .. } => session.clone(),
        },
        random,
    })
}

/// Tasks stay on the worker of their connection.
#[derive(Clone, Copy, Debug)]
pub struct Executor;

impl<F: Future<Output: 'static> + 'static> HyperExecutor<F> for Executor {
    fn execute(&self, task: F) {
        tokio::task::spawn_local(task);
    }
}
