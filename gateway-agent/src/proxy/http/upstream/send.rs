//! A request to an endpoint. Who waits for it may go: then the connection goes with it.

use std::rc::Rc;
use std::sync::Mutex;

use bytes::Bytes;
use http::header::{COOKIE, EXPECT, HOST, TRANSFER_ENCODING};
use http::uri::{Authority, Scheme, Uri};
use http::{HeaderMap, HeaderValue, Method, StatusCode, Version, response};
use hyper::body::{Body as _, Incoming};
use hyper::ext::on_informational;
use tokio::sync::oneshot;

use super::balance;
use super::pool::{Connection, Key, Lease, Wanted};
use crate::ir::http::Cluster;
use crate::proxy::http::body::Body;
use crate::proxy::http::direct::{self, Direct, Exchange, Failed};
use crate::proxy::http::filters::{Request, Response};
use crate::proxy::http::forwarded;
use crate::proxy::http::retry::{self, Outcome, Spare};
use crate::proxy::http::snapshot::Snapshot;
use crate::proxy::http::upgrade::Asked;
use crate::proxy::http::worker::Local;

/// To any endpoint of a cluster, for filters that have requests of their own. Another one is tried while nothing was sent. `None`: there is none
/// that serves, or none that answers.
pub async fn to_any(local: &Rc<Local>, snapshot: &Snapshot, cluster: &Cluster, request: Request) -> Option<Response> {
    let endpoints = snapshot.endpoints(cluster);
    let method: Method = request.method().clone();
    let (mut request, mut tried, mut fresh) = (Some(Box::new(request)), Vec::new(), false);
    for made in 1.. {
        let endpoint = balance::endpoint((cluster, endpoints), &local.loads, local.random(), &tried)?;
        match send(local, &Key::new(cluster, endpoint), fresh, None, &mut request).await {
            Ok(sent) => return Some(sent.response()),
            Err(outcome) => {
                if request.is_none() || !retry::again(None, outcome, &method, made) {
                    return None;
                }
                fresh = outcome == Outcome::Stale;
                if !matches!(outcome, Outcome::Stale | Outcome::Unprocessed) {
                    tried.push(balance::address(endpoint));
                }
            }
        }
    }
    None
}

/// The head of a response, and what the rest comes by.
#[derive(Debug)]
pub struct Sent {
    pub parts: response::Parts,
    pub by: By,
}

#[derive(Debug)]
pub enum By {
    Hyper(Incoming, Lease),
    Direct(Exchange),
}

impl Sent {
    pub fn response(self) -> Response {
        let body = match self.by {
            By::Hyper(body, lease) => Body::leased(body, lease),
            By::Direct(exchange) => Body::exchange(exchange),
        };
        Response::from_parts(self.parts, body)
    }
}

/// Sends a request to an endpoint, and waits for the head of the response. Takes the request out when it sends it; what can be sent again
/// is put back. The request is as [`forward::prepare`](crate::proxy::http::forward) leaves it: a path and query, a Host, no header of
/// one hop. `fresh`: not by a connection that has had requests before. `upgrade`: what the request asks for.
pub async fn send(
    local: &Rc<Local>,
    key: &Key,
    fresh: bool,
    upgrade: Option<&Asked>,
    request: &mut Option<Box<Request>>,
) -> Result<Sent, Outcome> {
    let ticket = local.loads.begin(key.address);
    let direct = upgrade.is_none() && request.as_deref().is_some_and(direct::takes);
    let mut lease = local.pool.lend(key, Wanted { fresh, direct }, ticket).await.map_err(|error| {
        tracing::debug!(%error, address = %key.address, "a backend took no connection");
        Outcome::Unconnected
    })?;
    let Some(mut sending) = request.take() else { return Err(Outcome::Broken) };
    if let Some(direct) = lease.take_direct() {
        return send_direct(direct, lease, sending, request).await;
    }
    let (reused, method) = (lease.reused, sending.method().clone());
    // Connections that wait may end at any time.
    let spare = if reused && sending.method().is_idempotent() { Spare::of_head(&sending) } else { None };
    let sent = match lease.connection() {
        Some(Connection::Http1(sender)) => {
            if let Some(asked) = upgrade {
                asked.by_http1(&mut sending);
            }
            sender.try_send_request(as_http1(*sending)).await
        }
        Some(Connection::Http2(connection)) => {
            let mut sending = as_http2(*sending, key.tls.is_some());
            if let Some(asked) = upgrade.filter(|_| connection.takes_extended_connect()) {
                asked.by_http2(&mut sending);
            }
            let response = connection.sender.borrow_mut().try_send_request(sending);
            response.await
        }
        Some(Connection::Direct(_)) | None => return Err(Outcome::Broken),
    };
    let mut error = match sent {
        Ok(response) => {
            let (mut parts, body) = response.into_parts();
            if parts.status != StatusCode::SWITCHING_PROTOCOLS {
                lease.answered();
                forwarded::remove_hop_by_hop(&mut parts.headers);
            }
            parts.version = Version::HTTP_11;
            // What is left of the request's body may still be on its way: the pool sees that the connection is not ready.
            return Ok(Sent { parts, by: By::Hyper(body, lease) });
        }
        Err(error) => error,
    };
    let unsent = error.take_message();
    let error = error.into_error();
    tracing::debug!(%error, address = %key.address, reused, "a backend gave no answer");
    let outcome = match unsent {
        Some(unsent) => {
            *request = Some(Box::new(as_it_was(unsent, method)));
            // The connection had ended, which nobody knew yet.
            return Err(Outcome::Unprocessed);
        }
        None => outcome(&error, reused),
    };
    *request = spare.as_ref().and_then(Spare::request).map(Box::new);
    Err(outcome)
}

/// The same past hyper.
async fn send_direct(
    direct: Direct,
    lease: Lease,
    mut sending: Box<Request>,
    request: &mut Option<Box<Request>>,
) -> Result<Sent, Outcome> {
    join_cookies(sending.headers_mut());
    if sending.body().is_empty() {
        sending.headers_mut().remove(EXPECT);
    }
    match Exchange::send(direct, lease, sending).await {
        Ok((mut parts, exchange)) => {
            forwarded::remove_hop_by_hop(&mut parts.headers);
            Ok(Sent { parts, by: By::Direct(exchange) })
        }
        Err(Failed { outcome, unsent }) => {
            tracing::debug!(?outcome, "a backend gave no answer");
            *request = unsent;
            Err(outcome)
        }
    }
}

fn outcome(error: &hyper::Error, reused: bool) -> Outcome {
    if error.is_parse() {
        return Outcome::Invalid;
    }
    if error.is_user() {
        return Outcome::Client;
    }
    let source = std::error::Error::source(error).and_then(|source| source.downcast_ref::<h2::Error>());
    if let Some(h2) = source {
        // A GOAWAY that is told to a stream is one of those that the backend has not seen.
        let refused = h2.reason() == Some(h2::Reason::REFUSED_STREAM) || h2.is_go_away();
        if h2.is_remote() && refused {
            return Outcome::Unprocessed;
        }
        // The connection goes on: it is this request that the backend did not like.
        if h2.is_reset() {
            return Outcome::Broken;
        }
    }
    if reused { Outcome::Stale } else { Outcome::Broken }
}

/// With what hyper cannot know, and an eye on `100 Continue`.
fn as_http1(mut request: Request) -> Request {
    join_cookies(request.headers_mut());
    if request.body().is_empty() {
        request.headers_mut().remove(EXPECT);
        return request;
    }
    // hyper sends no body of unknown length with these unless it is told so.
    let is_unusual = matches!(*request.method(), Method::GET | Method::HEAD);
    if is_unusual && request.body().size_hint().exact().is_none() {
        request.headers_mut().insert(TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
    }
    if request.headers().contains_key(EXPECT) {
        let (ask, asked) = oneshot::channel();
        let ask = Mutex::new(Some(ask));
        on_informational(&mut request, move |response| {
            let ask = ask.lock().ok().and_then(|mut ask| ask.take());
            if let Some(ask) = ask.filter(|_| response.status() == StatusCode::CONTINUE) {
                // The request may have been given up.
                let _ = ask.send(());
            }
        });
        return request.map(|body| body.held(asked));
    }
    request
}

/// HTTP/2 may bring each in a header of its own, of which HTTP/1.1 knows nothing (RFC 9113 section 8.2.3).
fn join_cookies(headers: &mut HeaderMap) {
    if headers.get_all(COOKIE).iter().nth(1).is_none() {
        return;
    }
    let joined = headers.get_all(COOKIE).iter().map(HeaderValue::as_bytes).collect::<Vec<_>>().join(&b"; "[..]);
    if let Ok(joined) = HeaderValue::from_maybe_shared(Bytes::from(joined)) {
        headers.insert(COOKIE, joined);
    }
}

/// With the pseudo-headers that HTTP/2 has for Host (RFC 9113 section 8.3.1). Its bodies wait for nothing: a backend that does not want
/// one resets its stream.
fn as_http2(mut request: Request, secure: bool) -> Request {
    let headers = request.headers_mut();
    headers.remove(EXPECT);
    let host = headers.remove(HOST);
    let authority = host.and_then(|host| Authority::from_maybe_shared(host).ok());
    let mut parts = std::mem::take(request.uri_mut()).into_parts();
    parts.authority = Some(authority.unwrap_or_else(|| Authority::from_static("localhost")));
    parts.scheme = Some(if secure { Scheme::HTTPS } else { Scheme::HTTP });
    // It fails for parts that do not go together only.
    *request.uri_mut() = Uri::from_parts(parts).unwrap_or_default();
    *request.version_mut() = Version::HTTP_2;
    request
}

/// As it was before [`as_http1`] or [`as_http2`].
fn as_it_was(mut request: Request, method: Method) -> Request {
    *request.method_mut() = method;
    let mut parts = std::mem::take(request.uri_mut()).into_parts();
    if let Some(authority) = parts.authority.take()
        && let Ok(host) = HeaderValue::from_maybe_shared(Bytes::copy_from_slice(authority.as_str().as_bytes()))
    {
        request.headers_mut().insert(HOST, host);
    }
    parts.scheme = None;
    *request.uri_mut() = Uri::from_parts(parts).unwrap_or_default();
    *request.version_mut() = Version::HTTP_11;
    request.headers_mut().remove(TRANSFER_ENCODING);
    request.extensions_mut().clear();
    request.map(Body::released)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cookies_are_one_header_in_http1() {
        let mut headers = HeaderMap::new();
        for (cookies, joined) in [("a=1", "a=1"), ("b=2; c=3", "a=1; b=2; c=3"), ("d=4", "a=1; b=2; c=3; d=4")] {
            headers.append(COOKIE, HeaderValue::from_static(cookies));
            join_cookies(&mut headers);
            assert_eq!(headers.get_all(COOKIE).iter().collect::<Vec<_>>(), [joined]);
        }
    }
}
