//! One request: match → filters → pick → pool → forward.

use std::net::SocketAddr;

use http::header::HOST;
use http::uri::PathAndQuery;
use http::{HeaderValue, Uri, Version};
use hyper::body::Incoming;
use tokio::time::{Instant, timeout_at};

use super::answer::{self, Reason};
use super::body::Body;
use super::exchange::Exchange;
use super::filters::{self, Request, Response, Step};
use super::retry;
use super::server::{Client, Security};
use super::snapshot::Listener;
use super::table::{Found, canonical};
use super::upstream::pool::Key;
use super::upstream::{balance, send};
use super::worker::Seen;
use super::{forwarded, path};
use crate::ir::http::{Backend, Cluster, Route, Rule, Target};

/// There is always an answer.
pub async fn respond(request: http::Request<Incoming>, client: &Client, exchange: &mut Exchange) -> Response {
    match route(request.map(Body::incoming), client, exchange).await {
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
async fn route(mut request: Request, client: &Client, exchange: &mut Exchange) -> Result<Response, Reason> {
    exchange.requested_host = host(&request)?.into();
    let normal = path::normalize(request.uri().path()).ok_or(Reason::BadRequest)?.into_owned();
    if normal != request.uri().path() {
        replace_path(&mut request, &normal)?;
    }
    let snapshot = client.local.snapshot();
    let port = snapshot.port(client.origin.gateway).ok_or(Reason::NoRoute)?;
    let listener = port.listener(&exchange.requested_host).ok_or(Reason::NoRoute)?;
    exchange.meter.follow(snapshot.course(&client.local, listener, None, None));
    if let Security::Tls { listener: of_connection, .. } = &client.security
        && listener.name != *of_connection
    {
        return Err(Reason::Misdirected);
    }
    let (parts, body) = request.into_parts();
    let Found { route, rule, matched_prefix } =
        listener.table.find(&exchange.requested_host, &normal, &parts).ok_or(Reason::NoRoute)?;
    exchange.meter.follow(snapshot.course(&client.local, listener, Some((route, rule)), None));
    exchange.matched_prefix = matched_prefix;
    let mut request = Request::from_parts(parts, body);
    let (seen, step) = filters::on_request(&rule.filters, exchange, &mut request).await;
    let response = match step {
        Step::Continue => to_backend(request, &snapshot, listener, route, rule, exchange).await,
        Step::Answer(response) => Ok(*response),
        Step::Refuse(reason) => Err(reason),
    };
    let response = response.unwrap_or_else(|reason| refuse(reason, exchange));
    Ok(on_response(response, &rule.filters[..seen], exchange))
}

fn on_response(response: Response, filters: &[filters::Filter], exchange: &Exchange) -> Response {
    let (mut parts, body) = response.into_parts();
    filters::on_response(filters, exchange, &mut parts);
    Response::from_parts(parts, body)
}

/// Of `:authority`, an absolute URI, or the one Host header; HTTP/1.0 may do without.
fn host(request: &Request) -> Result<String, Reason> {
    let mut headers = request.headers().get_all(HOST).iter();
    let header = headers.next();
    if headers.next().is_some() {
        return Err(Reason::BadRequest);
    }
    let authority = match (request.uri().authority(), header) {
        (Some(authority), _) => authority.as_str(),
        (None, Some(header)) => header.to_str().map_err(|_| Reason::BadRequest)?,
        (None, None) if request.version() == Version::HTTP_10 => return Ok(String::new()),
        (None, None) => return Err(Reason::BadRequest),
    };
    canonical(authority).map(String::from).ok_or(Reason::BadRequest)
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
    mut request: Request,
    snapshot: &Seen,
    listener: &Listener,
    route: &Route,
    rule: &Rule,
    exchange: &mut Exchange,
) -> Result<Response, Reason> {
    let picked = balance::backend(&rule.backends, exchange.random).ok_or(Reason::InvalidBackend)?;
    let Backend { filters: own, target, .. } = picked;
    let (seen, step) = filters::on_request(own, exchange, &mut request).await;
    let response = match (step, target) {
        (Step::Answer(response), _) => Ok(*response),
        (Step::Refuse(reason), _) => Err(reason),
        (Step::Continue, Target::Invalid) => Err(Reason::InvalidBackend),
        (Step::Continue, Target::Cluster(cluster)) => {
            let course = snapshot.course(&exchange.local, listener, Some((route, rule)), Some(cluster));
            exchange.meter.follow(course);
            prepare(&mut request, listener, exchange)?;
            attempts(request, cluster, rule, exchange).await
        }
    };
    let response = response.unwrap_or_else(|reason| refuse(reason, exchange));
    Ok(on_response(response, &own[..seen], exchange))
}

/// As a backend gets it.
fn prepare(request: &mut Request, listener: &Listener, exchange: &Exchange) -> Result<(), Reason> {
    forwarded::remove_hop_by_hop(request.headers_mut());
    forwarded::announce(request.headers_mut(), exchange, listener.ir.settings.trusted_hops);
    let host = match (&exchange.host, request.uri().authority()) {
        (Some(host), _) => Some(host.clone()),
        (None, Some(authority)) => Some(HeaderValue::from_str(authority.as_str()).map_err(|_| Reason::BadRequest)?),
        // The client's Host goes as it is.
        (None, None) => None,
    };
    if let Some(host) = host {
        request.headers_mut().insert(HOST, host);
    }
    let path = request.uri_mut().path_and_query().cloned().unwrap_or_else(|| PathAndQuery::from_static("/"));
    *request.uri_mut() = Uri::from(path);
    *request.version_mut() = Version::HTTP_11;
    Ok(())
}

/// Until an endpoint answers, or there is no sense in another.
async fn attempts(request: Request, cluster: &Cluster, rule: &Rule, exchange: &Exchange) -> Result<Response, Reason> {
    let method = request.method().clone();
    let mut tried: Vec<SocketAddr> = Vec::new();
    let mut request = Some(request);
    for made in 1.. {
        let random = exchange.random.rotate_left(made);
        let Some(endpoint) = balance::endpoint(cluster, &exchange.local.loads, random, &tried) else {
            return Err(if tried.is_empty() { Reason::NoEndpoint } else { Reason::Unreachable });
        };
        let address = balance::address(endpoint);
        let attempt = send::send(&exchange.local, Key::new(cluster, address), &mut request);
        let answered = match rule.timeouts.deadline(exchange.came, Instant::now()) {
            Some(deadline) => timeout_at(deadline, attempt).await.map_err(|_| Reason::BackendTimeout)?,
            None => attempt.await,
        };
        let outcome = match answered {
            Ok(response) => return Ok(response),
            Err(outcome) => outcome,
        };
        // A body that has begun to go is not kept.
        if request.is_none() || !retry::again(rule.retry.as_ref(), outcome, &method, made, false) {
            break;
        }
        exchange.meter.retried();
        tried.push(address);
    }
    Err(Reason::Unreachable)
}
