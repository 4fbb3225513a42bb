//! What filters need for requests of their own.

use http::header::{EXPECT, HOST};
use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderValue, Uri};

use super::{Exchange, Request};

/// Host as the backend of the request gets it.
pub fn host(exchange: &Exchange, request: &Request) -> Option<HeaderValue> {
    match (&exchange.host, request.uri().authority()) {
        (Some(host), _) => Some(host.clone()),
        (None, Some(authority)) => HeaderValue::from_str(authority.as_str()).ok(),
        (None, None) => request.headers().get(HOST).cloned(),
    }
}

/// The path and query of a request.
pub fn path(request: &Request) -> PathAndQuery {
    request.uri().path_and_query().cloned().unwrap_or_else(|| PathAndQuery::from_static("/"))
}

/// A copy of a request without its body, for another backend: what is the client's and the agent's word, and for no hop.
pub fn copy<B>(exchange: &Exchange, request: &Request, body: B) -> http::Request<B> {
    let mut copy = http::Request::new(body);
    *copy.method_mut() = request.method().clone();
    *copy.uri_mut() = Uri::from(path(request));
    let mut headers: HeaderMap = request.headers().clone();
    // Nobody waits for its 100.
    headers.remove(EXPECT);
    if let Some(host) = host(exchange, request) {
        headers.insert(HOST, host);
    }
    *copy.headers_mut() = headers;
    copy
}
