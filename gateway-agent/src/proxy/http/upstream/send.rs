//! A request to an endpoint. Who waits for it may go: then the connection goes with it.

use std::rc::Rc;

use http::header::HOST;
use http::uri::{Authority, Scheme, Uri};
use http::{Method, Version};

use super::balance;
use super::connect::connect;
use super::pool::{Connection, Key, Lease};
use crate::ir::http::Cluster;
use crate::proxy::http::body::Body;
use crate::proxy::http::filters::{Request, Response};
use crate::proxy::http::forwarded;
use crate::proxy::http::retry::{self, Outcome};
use crate::proxy::http::worker::Local;

/// To any endpoint of a cluster, for filters that have requests of their own. Another one is tried while nothing was sent. `None`: there is none
/// that serves, or none that answers.
pub async fn to_any(local: &Rc<Local>, cluster: &Cluster, request: Request) -> Option<Response> {
    let method: Method = request.method().clone();
    let (mut request, mut tried) = (Some(request), Vec::new());
    loop {
        let address = balance::address(balance::endpoint(cluster, &local.loads, local.random(), &tried)?);
        match send(local, Key::new(cluster, address), &mut request).await {
            Ok(response) => return Some(response),
            Err(outcome) => {
                tried.push(address);
                if request.is_none() || !retry::again(None, outcome, &method, tried.len() as u32, false) {
                    return None;
                }
            }
        }
    }
}

/// Sends a request to an endpoint, and waits for the head of the response. Takes the request out when it sends it; what was not sent is put
/// back. The request is as [`forward::prepare`](crate::proxy::http::forward) leaves it: a path and query, a Host, no header of one hop.
pub async fn send(local: &Rc<Local>, key: Key, request: &mut Option<Request>) -> Result<Response, Outcome> {
    let (secure, ticket) = (key.tls.is_some(), local.loads.begin(key.address));
    let connection = match local.pool.take(&key) {
        Some(connection) => connection,
        None => connect(&key).await.map_err(|error| {
            tracing::debug!(%error, address = %key.address, "a backend took no connection");
            Outcome::Unsent
        })?,
    };
    let mut lease = Lease::new(Rc::clone(&local.pool), key, connection, ticket);
    let sending = request.take().ok_or(Outcome::Broken)?;
    let Some(connection) = lease.connection() else { return Err(Outcome::Broken) };
    let sent = match connection {
        Connection::Http1(sender) => match sender.try_send_request(sending).await {
            Ok(response) => Ok(response),
            Err(mut error) => {
                *request = error.take_message();
                Err(error.into_error())
            }
        },
        Connection::Http2(sender) => sender.send_request(as_http2(sending, secure)).await,
    };
    match sent {
        Ok(response) => {
            lease.answered();
            let (mut parts, body) = response.into_parts();
            forwarded::remove_hop_by_hop(&mut parts.headers);
            // What is left of the request's body may still be on its way: the pool sees that the connection is not ready.
            Ok(Response::from_parts(parts, Body::leased(body, lease)))
        }
        Err(error) => {
            tracing::debug!(%error, "a backend gave no answer");
            lease.forfeit();
            Err(if request.is_some() { Outcome::Unsent } else { Outcome::Broken })
        }
    }
}

/// With the pseudo-headers that HTTP/2 has for Host (RFC 9113 section 8.3.1).
fn as_http2(mut request: Request, secure: bool) -> Request {
    let host = request.headers_mut().remove(HOST);
    let authority = host.and_then(|host| Authority::from_maybe_shared(host).ok());
    let mut parts = std::mem::take(request.uri_mut()).into_parts();
    parts.authority = Some(authority.unwrap_or_else(|| Authority::from_static("localhost")));
    parts.scheme = Some(if secure { Scheme::HTTPS } else { Scheme::HTTP });
    // It fails for parts that do not go together only.
    *request.uri_mut() = Uri::from_parts(parts).unwrap_or_default();
    *request.version_mut() = Version::HTTP_2;
    request
}
