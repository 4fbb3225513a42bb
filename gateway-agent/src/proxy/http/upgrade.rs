//! Upgrade and WebSocket: by HTTP/1.1 (RFC 9110 section 7.8) or HTTP/2 (RFC 8441) on either side. Inside the agent such a request is one of
//! HTTP/1.1 without the headers of the hop.

use std::rc::Rc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::header::{CONNECTION, CONTENT_LENGTH, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, TRANSFER_ENCODING, UPGRADE};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Version, response};
use hyper::ext::Protocol;
use hyper::upgrade::{OnUpgrade, on};
use ring::digest;

use super::answer::Reason;
use super::body::Body;
use super::exchange::Exchange;
use super::filters::{Request, Response};
use super::upstream::pool::Lease;
use super::upstream::send::{By, Sent};

/// What a client wants to speak instead of HTTP.
#[derive(Debug)]
pub struct Asked {
    client: OnUpgrade,
    protocol: HeaderValue,
    /// By extended CONNECT.
    extended: bool,
    /// Of the WebSocket handshake of HTTP/1.1; the agent's own if the client speaks HTTP/2.
    key: Option<HeaderValue>,
}

/// Takes it out of the request. A CONNECT for anything else is refused: the agent is nobody's way to other hosts.
pub fn asked(request: &mut Request, random: u64) -> Result<Option<Asked>, Reason> {
    if request.method() == Method::CONNECT {
        let protocol = request.extensions_mut().remove::<Protocol>().ok_or(Reason::BadRequest)?;
        let protocol = HeaderValue::from_str(protocol.as_str()).map_err(|_| Reason::BadRequest)?;
        *request.method_mut() = Method::GET;
        let key = is_websocket(&protocol).then(|| new_key(random)).transpose()?;
        return Ok(Some(Asked { client: on(request), protocol, extended: true, key }));
    }
    let headers = request.headers();
    if !headers.contains_key(UPGRADE)
        || request.version() != Version::HTTP_11
        || !has_token(headers, CONNECTION, "upgrade")
    {
        return Ok(None);
    }
    // To other versions of HTTP or to TLS the agent would not see what it forwards.
    let foreign = ["h2c", "h2", "http/2.0", "tls/1.0"];
    let mut protocols = headers.get_all(UPGRADE).iter();
    let (Some(protocol), None) = (protocols.next(), protocols.next()) else { return Err(Reason::BadRequest) };
    if foreign.iter().any(|token| has_token(headers, UPGRADE, token)) {
        return Ok(None);
    }
    let (protocol, key) = (protocol.clone(), headers.get(SEC_WEBSOCKET_KEY).cloned());
    Ok(Some(Asked { client: on(request), protocol, extended: false, key }))
}

impl Asked {
    /// As the backend gets it by HTTP/1.1.
    pub fn by_http1(&self, request: &mut Request) {
        let headers = request.headers_mut();
        headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
        headers.insert(UPGRADE, self.protocol.clone());
        if let Some(key) = &self.key {
            headers.insert(SEC_WEBSOCKET_KEY, key.clone());
        }
    }

    /// As the backend gets it by HTTP/2. Only a WebSocket is known to be the same there.
    pub fn by_http2(&self, request: &mut Request) {
        if !is_websocket(&self.protocol) {
            return;
        }
        let headers = request.headers_mut();
        headers.remove(SEC_WEBSOCKET_KEY);
        headers.remove(CONTENT_LENGTH);
        *request.method_mut() = Method::CONNECT;
        request.extensions_mut().insert(Protocol::from_static("websocket"));
        *request.body_mut() = Body::empty();
    }

    /// The client's answer. Where the backend agrees, what both say from now on goes between them.
    pub fn answered(self, sent: Sent, exchange: &mut Exchange) -> Result<Response, Reason> {
        let (mut parts, lease) = match sent {
            Sent { parts, by: By::Hyper(_, lease) } if is_agreed(&parts, &lease) => (parts, lease),
            sent => {
                // What is success to the backend would be agreement to the client.
                let is_success = self.extended && sent.parts.status.is_success();
                return if is_success { Err(Reason::BadResponse) } else { refused(sent) };
            }
        };
        let accept = self.key.as_ref().filter(|_| is_websocket(&self.protocol)).map(accept).transpose()?;
        if !lease.is_http2() && self.extended && parts.headers.get(SEC_WEBSOCKET_ACCEPT) != accept.as_ref() {
            return Err(Reason::BadResponse);
        }
        let protocol = parts.headers.remove(UPGRADE).unwrap_or(self.protocol);
        for name in [CONNECTION, CONTENT_LENGTH, TRANSFER_ENCODING, SEC_WEBSOCKET_ACCEPT] {
            parts.headers.remove(name);
        }
        let mut response = http::Response::from_parts(parts, ());
        let backend = on(&mut response);
        let (mut parts, ()) = response.into_parts();
        if self.extended {
            parts.status = StatusCode::OK;
        } else {
            parts.status = StatusCode::SWITCHING_PROTOCOLS;
            parts.headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
            parts.headers.insert(UPGRADE, protocol);
            if let Some(accept) = accept {
                parts.headers.insert(SEC_WEBSOCKET_ACCEPT, accept);
            }
        }
        let of = &exchange.connection;
        let told = exchange.meter.upgrade();
        of.tunnels.begin((self.client, backend), lease, Rc::clone(&exchange.local), of.limits.stream_idle, told);
        Ok(Response::from_parts(parts, Body::empty()))
    }
}

fn is_agreed(answer: &response::Parts, lease: &Lease) -> bool {
    match lease.is_http2() {
        // Of a request that was no CONNECT there is no upgrade.
        true => answer.status == StatusCode::OK && answer.extensions.get::<OnUpgrade>().is_some(),
        false => answer.status == StatusCode::SWITCHING_PROTOCOLS,
    }
}

/// What is no agreement is an answer like others; but an agreement that nobody asked for is none.
pub fn refused(sent: Sent) -> Result<Response, Reason> {
    if sent.parts.status == StatusCode::SWITCHING_PROTOCOLS {
        return Err(Reason::BadResponse);
    }
    Ok(sent.response())
}

fn is_websocket(protocol: &HeaderValue) -> bool {
    protocol.as_bytes().eq_ignore_ascii_case(b"websocket")
}

/// Whether a list has an element; a version after a slash is part of it.
fn has_token(headers: &HeaderMap, name: HeaderName, token: &str) -> bool {
    let mut elements = headers.get_all(name).iter().flat_map(|value| value.as_bytes().split(|byte| *byte == b','));
    elements.any(|element| element.trim_ascii().eq_ignore_ascii_case(token.as_bytes()))
}

/// 16 bytes that nobody has used before (RFC 6455 section 4.1); no secret.
fn new_key(random: u64) -> Result<HeaderValue, Reason> {
    let bytes = [random.to_be_bytes(), gateway_common::hash::mix(random).to_be_bytes()].concat();
    HeaderValue::try_from(STANDARD.encode(bytes)).map_err(|_| Reason::BadRequest)
}

/// What proves that a server has read the key (RFC 6455 section 4.2.2).
pub(super) fn accept(key: &HeaderValue) -> Result<HeaderValue, Reason> {
    let mut hash = digest::Context::new(&digest::SHA1_FOR_LEGACY_USE_ONLY);
    hash.update(key.as_bytes());
    hash.update(b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11");
    HeaderValue::try_from(STANDARD.encode(hash.finish())).map_err(|_| Reason::BadRequest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_answered_as_its_specification_has_it() {
        let key = HeaderValue::from_static("dGhlIHNhbXBsZSBub25jZQ==");
        assert_eq!(accept(&key).unwrap(), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
    }

    #[test]
    fn elements_of_lists_are_told_apart() {
        let mut headers = HeaderMap::new();
        headers.append(CONNECTION, HeaderValue::from_static("keep-alive, Upgrade"));
        assert!(has_token(&headers, CONNECTION, "upgrade"));
        assert!(!has_token(&headers, CONNECTION, "up"));
        assert!(!has_token(&headers, UPGRADE, "upgrade"));
    }
}
