//! The service gets the head of the request under a path of its own, and says yes with 200.

use std::sync::Arc;

use bytes::Bytes;
use http::header::{AUTHORIZATION, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, HOST};
use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, Uri};

use super::{Exchange, Request, Verdict};
use crate::ir::http::Cluster;
use crate::proxy::http::body::Body;
use crate::proxy::http::filters::aside;
use crate::proxy::http::filters::request_headers::may_change;
use crate::proxy::http::upstream::send;

/// `None`: the service says nothing.
pub async fn ask(
    cluster: &Arc<Cluster>,
    path: &str,
    request_headers: &[HeaderName],
    response_headers: &[HeaderName],
    body: Bytes,
    exchange: &Exchange,
    request: &mut Request,
) -> Option<Verdict> {
    let question = question(path, request_headers, body, exchange, request)?;
    let response = send::to_any(&exchange.local, &exchange.snapshot, cluster, question).await?;
    match response.status() {
        StatusCode::OK => {
            hand_on(response.headers(), response_headers, request.headers_mut());
            response.into_body().discard();
            Some(Verdict::Pass)
        }
        // The service itself is in trouble.
        status if status.is_server_error() => None,
        // Where to log in, or what is wrong.
        status if status.is_redirection() || status.is_client_error() => Some(Verdict::Deny(Some(Box::new(response)))),
        // It is no yes, and must not look like one.
        _ => Some(Verdict::Deny(None)),
    }
}

fn question(
    path: &str,
    request_headers: &[HeaderName],
    body: Bytes,
    exchange: &Exchange,
    request: &Request,
) -> Option<Request> {
    let target = format!("{}{}", path.trim_end_matches('/'), aside::path(request));
    let mut headers = HeaderMap::new();
    headers.insert(HOST, aside::host(exchange, request)?);
    headers.insert(CONTENT_LENGTH, HeaderValue::from(body.len()));
    let allowed = request_headers.iter().filter(|name| may_change(name).is_ok() && **name != AUTHORIZATION);
    for name in allowed.chain([&AUTHORIZATION]) {
        headers.extend(request.headers().get_all(name).iter().map(|value| (name.clone(), value.clone())));
    }
    let mut question = Request::new(Body::of(body));
    *question.method_mut() = request.method().clone();
    *question.uri_mut() = Uri::from(PathAndQuery::try_from(target).ok()?);
    *question.headers_mut() = headers;
    Some(question)
}

/// Gives the backend what the service said. What only the service may say, the client has not said.
fn hand_on(from: &HeaderMap, wanted: &[HeaderName], to: &mut HeaderMap) {
    // They tell of the body of the answer.
    let of_answer = [CONTENT_TYPE, CONTENT_ENCODING];
    let all: Vec<&HeaderName> = from.keys().filter(|name| !of_answer.contains(name)).collect();
    let names = if wanted.is_empty() { all } else { wanted.iter().collect() };
    for name in names.into_iter().filter(|name| may_change(name).is_ok()) {
        to.remove(name);
        to.extend(from.get_all(name).iter().map(|value| (name.clone(), value.clone())));
    }
}
