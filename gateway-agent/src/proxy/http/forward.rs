//! One request: match → filters → pick → pool → forward.

use std::borrow::Cow;
use std::net::SocketAddr;
use std::rc::Rc;

use http::header::HOST;
use http::uri::PathAndQuery;
use http::{HeaderValue, Uri, Version};
use tokio::time::{Instant, timeout_at};

use super::answer::{self, Reason};
use super::exchange::{Exchange, Scheme};
use super::filters::{self, Request, Response, Step};
use super::retry::{self, Outcome, Spare};
use super::server::{Client, Security};
use super::session::{self, Session};
use super::snapshot::Listener;
use super::table::{Found, canonical};
use super::upgrade::{self, Asked};
use super::upstream::pool::Key;
use super::upstream::{balance, send};
use super::worker::Seen;
use super::{forwarded, path, timeout};
use crate::ir::http::{Application, Backend, Cluster, Persistence, Route, Rule, Target};

/// There is always an answer.
pub async fn respond(request: Box<Request>, client: &Client, exchange: &mut Exchange) -> Response {
    match route(request, client, exchange).await {
        Ok(response) => response,
        Err(reason) => refuse(reason, exchange),
    }
}

pub fn refuse(reason: Reason, exchange: &Exchange) -> Response {
    // Where the client's body was broken off, it is not the backend's fault that there is no answer.
    let reason = exchange.meter.broken().unwrap_or(reason);
    exchange.meter.refused(reason);
    tracing::debug!(reason = reason.name(), client = %exchange.origin.client, "the agent answered");
    answer::answer(reason, exchange.grpc)
}

/// To its rule.
async fn route(mut request: Box<Request>, client: &Client, exchange: &mut Exchange) -> Result<Response, Reason> {
    let upgrade = upgrade::asked(&mut request, exchange.random)?;
    let version = request.version();
    let body = std::mem::take(request.body_mut());
    *request.body_mut() = exchange.receive(body, version);
    exchange.requested_host = host(&request)?;
    if let Cow::Owned(normal) = path::normalize(request.uri().path()).ok_or(Reason::BadRequest)? {
        replace_path(&mut request, &normal)?;
    }
    let snapshot = Rc::clone(&exchange.snapshot);
    let port = snapshot.port(client.origin.gateway).ok_or(Reason::NoRoute)?;
    let listener = port.listener(&exchange.requested_host).ok_or(Reason::NoRoute)?;
    exchange.meter.found(listener);
    let (parts, body) = std::mem::take(&mut *request).into_parts();
    let found = match &client.security {
        Security::Tls { listener: of_connection, .. } if listener.name != *of_connection => Err(Reason::Misdirected),
        _ => listener.table.find(&exchange.requested_host, parts.uri.path(), &parts).ok_or(Reason::NoRoute),
    };
    let Found { route, rule, matched_prefix } = found.inspect_err(|_| {
        exchange.meter.follow(snapshot.course(&client.local, listener, None, None));
    })?;
    // Where nothing waits before a backend is picked, it need not be said that it came so far.
    if !rule.filters.is_empty() {
        exchange.meter.follow(snapshot.course(&client.local, listener, Some((route, rule)), None));
    }
    exchange.matched_prefix = matched_prefix;
    *request = Request::from_parts(parts, body);
    // Before the filters, which may say otherwise who asked for what.
    forwarded::remove_hop_by_hop(request.headers_mut());
    forwarded::announce(request.headers_mut(), exchange, listener.ir.settings.trusted_hops);
    let session = rule.persistence.as_deref().map(|of| Shown::new(of, &snapshot.sessions, &request, exchange));
    let (seen, step) = filters::on_request(&rule.filters, exchange, &mut request).await;
    let response = match step {
        Step::Continue => {
            let ready = Ready { request, upgrade, session, snapshot: &snapshot, route };
            to_backend(ready, listener, rule, exchange).await
        }
        Step::Answer(response) => Ok(*response),
        Step::Refuse(reason) => Err(reason),
    };
    let response = response.unwrap_or_else(|reason| refuse(reason, exchange));
    Ok(on_response(response, &rule.filters[..seen], exchange))
}

/// What goes to a backend.
struct Ready<'a> {
    request: Box<Request>,
    upgrade: Option<Asked>,
    session: Option<Shown<'a>>,
    snapshot: &'a Seen,
    route: &'a Route,
}

/// What the client shows of its session, and what it takes to tell it of another.
struct Shown<'a> {
    of: &'a Persistence,
    keys: &'a session::Keys,
    shown: Option<Session>,
    /// Of the cookie: as the client sees it, before any filter.
    path: String,
    now: u32,
}

impl<'a> Shown<'a> {
    fn new(of: &'a Persistence, keys: &'a session::Keys, request: &Request, exchange: &Exchange) -> Shown<'a> {
        let now = session::now();
        let path = request.uri().path().get(..exchange.matched_prefix);
        // What a cookie has no way to say is left to all paths.
        let path = path.filter(|path| !path.is_empty() && !path.contains(';')).unwrap_or("/");
        Shown { of, keys, shown: of.session(keys, request.headers(), now), path: path.to_owned(), now }
    }

    fn tell(&self, endpoint: SocketAddr, secure: bool, response: &mut Response) {
        if let Some((name, value)) = self.of.tell(self.keys, self.shown, endpoint, (&self.path, secure), self.now) {
            response.headers_mut().append(name, value);
        }
    }
}

fn on_response(response: Response, filters: &[filters::Filter], exchange: &Exchange) -> Response {
    let (mut parts, body) = response.into_parts();
    filters::on_response(filters, exchange, &mut parts);
    Response::from_parts(parts, body)
}

/// Of `:authority`, an absolute URI, or the one Host header; HTTP/1.0 may do without.
fn host(request: &Request) -> Result<Box<str>, Reason> {
    let mut headers = request.headers().get_all(HOST).iter();
    let header = headers.next();
    if headers.next().is_some() {
        return Err(Reason::BadRequest);
    }
    let authority = match (request.uri().authority(), header) {
        (Some(authority), _) => authority.as_str(),
        (None, Some(header)) => header.to_str().map_err(|_| Reason::BadRequest)?,
        (None, None) if request.version() == Version::HTTP_10 => return Ok(Box::default()),
        (None, None) => return Err(Reason::BadRequest),
    };
    canonical(authority).map(Box::from).ok_or(Reason::BadRequest)
}

fn replace_path(request: &mut Request, path: &str) -> Result<(), Reason> {
    let whole = match request.uri().query() {
        Some(query) => format!("{path}?{query}"),
        None => path.to_owned(),
    };
    let mut parts = std::mem::take(request.uri_mut()).into_parts();
    parts.path_and_query = Some(PathAndQuery::try_from(whole).map_err(|_| Reason::BadRequest)?);
    *request.uri_mut() = Uri::from_parts(parts).map_err(|_| Reason::BadRequest)?;
    Ok(())
}

async fn to_backend(
    mut ready: Ready<'_>,
    listener: &Listener,
    rule: &Rule,
    exchange: &mut Exchange,
) -> Result<Response, Reason> {
    // A session stays with its endpoint, whatever the weights are.
    let shown = ready.session.as_ref().and_then(|session| session.shown);
    let of_session = shown.and_then(|shown| {
        rule.backends.iter().find(|backend| match &backend.target {
            Target::Cluster(cluster) => balance::at(ready.snapshot.endpoints(cluster), shown.endpoint).is_some(),
            Target::Invalid => false,
        })
    });
    let picked = of_session.or_else(|| balance::backend(&rule.backends, exchange.random));
    let (snapshot, route) = (ready.snapshot, ready.route);
    let course =
        |exchange: &Exchange, cluster| snapshot.course(&exchange.local, listener, Some((route, rule)), cluster);
    if picked.is_none_or(|backend| !backend.filters.is_empty() || matches!(backend.target, Target::Invalid)) {
        exchange.meter.follow(course(exchange, None));
    }
    let Backend { filters: own, target, .. } = picked.ok_or(Reason::InvalidBackend)?;
    let (seen, step) = filters::on_request(own, exchange, &mut ready.request).await;
    let response = match (step, target) {
        (Step::Answer(response), _) => Ok(*response),
        (Step::Refuse(reason), _) => Err(reason),
        (Step::Continue, Target::Invalid) => Err(Reason::InvalidBackend),
        (Step::Continue, Target::Cluster(cluster)) => {
            let course = course(exchange, Some(cluster));
            exchange.meter.follow(course);
            prepare(&mut ready.request, exchange)?;
            attempts(ready, cluster, rule, exchange).await
        }
    };
    let response = response.unwrap_or_else(|reason| refuse(reason, exchange));
    Ok(on_response(response, &own[..seen], exchange))
}

/// As a backend gets it.
fn prepare(request: &mut Request, exchange: &Exchange) -> Result<(), Reason> {
    let host = match (&exchange.host, request.uri().authority()) {
        (Some(host), _) => Some(host.clone()),
        (None, Some(authority)) => Some(HeaderValue::from_str(authority.as_str()).map_err(|_| Reason::BadRequest)?),
        // HTTP/1.0 may do without, HTTP/1.1 may not (RFC 9112 section 3.2).
        (None, None) if !request.headers().contains_key(HOST) => Some(HeaderValue::from_static("")),
        // The client's goes as it is.
        (None, None) => None,
    };
    if let Some(host) = host {
        request.headers_mut().insert(HOST, host);
    }
    let path = request.uri_mut().path_and_query().cloned().unwrap_or_else(|| PathAndQuery::from_static("/"));
    *request.uri_mut() = Uri::from(path);
    *request.version_mut() = Version::HTTP_11;
    request.extensions_mut().clear();
    Ok(())
}

/// Until an endpoint answers, or there is no sense in another.
async fn attempts(
    ready: Ready<'_>,
    cluster: &Cluster,
    rule: &Rule,
    exchange: &mut Exchange,
) -> Result<Response, Reason> {
    let Ready { mut request, upgrade, session, snapshot, .. } = ready;
    let endpoints = snapshot.endpoints(cluster);
    let method = request.method().clone();
    let retry = rule.retry.as_ref().filter(|retry| retry.attempts > 0 && upgrade.is_none());
    // Kept only where another attempt may want it.
    let spare = retry.filter(|_| method.is_idempotent()).map(|_| Spare::of(&mut request));
    let whole = rule.timeouts.whole(exchange.came);
    let of_call = if exchange.grpc { timeout::of_call(request.headers()) } else { None };
    let mut request = Some(request);
    let mut tried: Vec<SocketAddr> = Vec::new();
    let mut fresh = false;
    let mut wanted = session.as_ref().and_then(|session| balance::at(endpoints, session.shown?.endpoint));
    for made in 1.. {
        let random = exchange.random.rotate_left(made);
        let pick = |tried| balance::endpoint((cluster, endpoints), &exchange.local.loads, random, tried);
        // Who wants more attempts than there are endpoints begins with them again.
        let Some(endpoint) = wanted.take().or_else(|| pick(&tried)).or_else(|| retry.and_then(|_| pick(&[]))) else {
            return Err(if tried.is_empty() { Reason::NoEndpoint } else { Reason::Unreachable });
        };
        let mut key = Key::new(cluster, endpoint);
        if upgrade.is_some() && key.application == Application::Http {
            // By ALPN it could be HTTP/2, which few backends upgrade.
            key.application = Application::WebSocket;
        }
        exchange.attempts = made;
        exchange.endpoint = Some(key.address);
        let attempt = send::send(&exchange.local, &key, fresh, upgrade.as_ref(), &mut request);
        let deadline = rule.timeouts.deadline(whole, Instant::now);
        let answered = match deadline {
            Some(deadline) => timeout_at(deadline, attempt).await.unwrap_or(Err(Outcome::TimedOut)),
            None => attempt.await,
        };
        let outcome = match &answered {
            Ok(sent) => Outcome::Answered(sent.parts.status),
            Err(outcome) => *outcome,
        };
        let pause = retry::pause(retry, outcome, made, random);
        let in_time = || whole.is_none_or(|whole| Instant::now() + pause < whole);
        if retry::again(retry, outcome, &method, made) && in_time() {
            request = request.or_else(|| spare.as_ref().and_then(Spare::request).map(Box::new));
            if request.is_some() {
                if let Ok(sent) = answered {
                    sent.response().into_body().discard();
                }
                exchange.meter.retried();
                fresh = outcome == Outcome::Stale;
                // By a new connection the same endpoint may do.
                if !matches!(outcome, Outcome::Stale | Outcome::Unprocessed) {
                    tried.push(key.address);
                }
                if !pause.is_zero() {
                    tokio::time::sleep(pause).await;
                }
                continue;
            }
        }
        // A backend that gives up a call in time is not to blame.
        let is_over = || of_call.is_some_and(|time| exchange.came.elapsed() >= time);
        let sent = answered.map_err(|outcome| if is_over() { Reason::BackendTimeout } else { reason(outcome) })?;
        let mut response = match upgrade {
            Some(upgrade) => upgrade.answered(sent, exchange)?,
            None => upgrade::refused(sent)?,
        };
        if let Some(session) = session {
            session.tell(key.address, exchange.scheme == Scheme::Https, &mut response);
        }
        return Ok(response);
    }
    Err(Reason::Unreachable)
}

fn reason(outcome: Outcome) -> Reason {
    match outcome {
        Outcome::TimedOut => Reason::BackendTimeout,
        Outcome::Invalid => Reason::BadResponse,
        Outcome::Client => Reason::BadRequest,
        _ => Reason::Unreachable,
    }
}
