//! `envoy.service.auth.v3.Authorization/Check`.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::{BufMut, Bytes, BytesMut};
use http::header::{CONTENT_LENGTH, CONTENT_TYPE, COOKIE, HOST, TE};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Uri, Version};
use http_body_util::{BodyExt, Limited};
use prost::Message;

use super::change::{Change, How};
use super::messages::{
    Address, Attributes, AttributesRequest, CheckRequest, CheckResponse, Denied, HttpRequest, Passed, Peer,
    SocketAddress, Timestamp,
};
use super::{Exchange, Request, Response, Verdict};
use crate::ir::http::Cluster;
use crate::proxy::http::body::Body;
use crate::proxy::http::filters::aside;
use crate::proxy::http::filters::request_headers::may_change;
use crate::proxy::http::upstream::send;

const CHECK: &str = "/envoy.service.auth.v3.Authorization/Check";
const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");
/// Of an answer.
const LARGEST: usize = 256 << 10;

/// `None`: the service says nothing that makes sense.
pub async fn ask(
    cluster: &Arc<Cluster>,
    request_headers: &[HeaderName],
    timeout: Duration,
    body: Bytes,
    exchange: &Exchange,
    request: &mut Request,
) -> Option<Verdict> {
    let attributes = attributes(request_headers, body, exchange, request);
    let question = call(cluster, timeout, &CheckRequest { attributes: Some(attributes) })?;
    let said = answer(send::to_any(&exchange.local, &exchange.snapshot, cluster, question).await?).await?;
    if said.status.map_or(0, |status| status.code) != 0 {
        return Some(Verdict::Deny(said.denied.map(|denied| Box::new(refusal(denied)))));
    }
    if let Some(passed) = said.ok {
        pass(passed, exchange, request.headers_mut());
    }
    Some(Verdict::Pass)
}

fn call(cluster: &Cluster, timeout: Duration, message: &CheckRequest) -> Option<Request> {
    let length = message.encoded_len();
    let mut framed = BytesMut::with_capacity(5 + length);
    framed.put_u8(0);
    framed.put_u32(u32::try_from(length).ok()?);
    message.encode(&mut framed).ok()?;
    let mut call = Request::new(Body::of(framed.freeze()));
    *call.method_mut() = Method::POST;
    *call.uri_mut() = Uri::from_static(CHECK);
    let headers = call.headers_mut();
    // `namespace/name:port`
    let (namespace, name) = cluster.service.split_once('/').unwrap_or(("", &cluster.service));
    let name = name.split(':').next().unwrap_or(name);
    headers.insert(HOST, HeaderValue::try_from(format!("{name}.{namespace}")).ok()?);
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    headers.insert(TE, HeaderValue::from_static("trailers"));
    headers.insert("grpc-timeout", HeaderValue::try_from(format!("{}m", timeout.as_millis().min(99_999_999))).ok()?);
    Some(call)
}

fn attributes(request_headers: &[HeaderName], body: Bytes, exchange: &Exchange, request: &Request) -> Attributes {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let time = Timestamp { seconds: now.as_secs() as i64, nanos: now.subsec_nanos() as i32 };
    let text = |value: &HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
    let headers = request.headers();
    let length = headers.get(CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse().ok());
    let (body, raw_body) = match String::from_utf8(body.into()) {
        Ok(text) => (text, Vec::new()),
        Err(error) => (String::new(), error.into_bytes()),
    };
    let http = HttpRequest {
        id: headers.get(REQUEST_ID).map(text).unwrap_or_default(),
        method: request.method().to_string(),
        headers: shown(headers, request_headers),
        path: aside::path(request).to_string(),
        host: aside::host(exchange, request).as_ref().map(text).unwrap_or_default(),
        scheme: exchange.scheme.as_str().into(),
        size: length.unwrap_or(-1),
        protocol: protocol(request.version()).into(),
        body,
        raw_body,
    };
    Attributes {
        source: Some(peer(exchange.origin.client)),
        destination: Some(peer(exchange.origin.gateway)),
        request: Some(AttributesRequest { time: Some(time), http: Some(http) }),
    }
}

/// Several headers of a name are one (RFC 9110 section 5.3, RFC 6265 section 4.2.1).
fn shown(headers: &HeaderMap, wanted: &[HeaderName]) -> BTreeMap<String, String> {
    let mut shown: BTreeMap<String, String> = BTreeMap::new();
    for (name, value) in headers.iter().filter(|(name, _)| wanted.is_empty() || wanted.contains(name)) {
        let value = String::from_utf8_lossy(value.as_bytes());
        shown
            .entry(name.to_string())
            .and_modify(|before| {
                before.push_str(if *name == COOKIE { "; " } else { "," });
                before.push_str(&value);
            })
            .or_insert_with(|| value.to_string());
    }
    shown
}

fn protocol(version: Version) -> &'static str {
    match version {
        Version::HTTP_10 => "HTTP/1.0",
        Version::HTTP_2 => "HTTP/2",
        _ => "HTTP/1.1",
    }
}

fn peer(address: SocketAddr) -> Peer {
    let address = SocketAddress { address: address.ip().to_string(), port_value: address.port().into() };
    Peer { address: Some(Address { socket_address: Some(address) }) }
}

/// The message of a call that went well.
async fn answer(response: Response) -> Option<CheckResponse> {
    let (head, body) = response.into_parts();
    let body = Limited::new(body, LARGEST).collect().await.ok()?;
    let trailers = body.trailers().cloned().unwrap_or_default();
    let status = head.headers.get(GRPC_STATUS).or_else(|| trailers.get(GRPC_STATUS))?;
    if head.status != StatusCode::OK || status != "0" {
        return None;
    }
    let framed = body.to_bytes();
    // Compressed ones were not asked for.
    let (prefix, message) = framed.split_at_checked(5)?;
    let length = u32::from_be_bytes(prefix[1..].try_into().ok()?);
    (prefix[0] == 0 && length as usize == message.len()).then(|| CheckResponse::decode(message).ok())?
}

fn refusal(denied: Denied) -> Response {
    let status = denied.status.and_then(|status| StatusCode::from_u16(status.code.try_into().ok()?).ok());
    let mut response = Response::new(Body::of(denied.body.into()));
    // What is no refusal must not look like a yes.
    *response.status_mut() = status.filter(|status| status.as_u16() >= 300).unwrap_or(StatusCode::FORBIDDEN);
    for change in denied.headers.iter().filter_map(|option| Change::of(option, How::Set)) {
        change.apply(response.headers_mut());
    }
    response
}

fn pass(passed: Passed, exchange: &Exchange, headers: &mut HeaderMap) {
    for name in passed.headers_to_remove.iter().filter_map(|name| HeaderName::try_from(&**name).ok()) {
        if may_change(&name).is_ok() {
            headers.remove(name);
        }
    }
    for change in passed.headers.iter().filter_map(|option| Change::of(option, How::Set)) {
        change.apply(headers);
    }
    let answered = passed.response_headers_to_add.iter().filter_map(|option| Change::of(option, How::Append));
    exchange.told.by_auth.borrow_mut().extend(answered);
}
