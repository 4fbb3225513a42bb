//! Headers that belong to a proxy: those of one hop, which do not go on, and X-Forwarded-*.

use http::header::{
    self, CONNECTION, CONTENT_LENGTH, FORWARDED, HOST, PROXY_AUTHENTICATE, PROXY_AUTHORIZATION, TE, TRAILER,
    TRANSFER_ENCODING, UPGRADE,
};
use http::{HeaderMap, HeaderName, HeaderValue};

use super::access_log::REQUEST_ID;
use super::exchange::Exchange;
use crate::proxy::Origin;

const FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const PORT: HeaderName = HeaderName::from_static("x-forwarded-port");
const FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");

/// Whether a field is for one hop, whatever `Connection` names beside them (RFC 9110 section 7.6.1).
pub fn is_of_one_hop(name: &HeaderName) -> bool {
    match *name {
        CONNECTION | PROXY_AUTHENTICATE | PROXY_AUTHORIZATION | TE | TRANSFER_ENCODING | UPGRADE => true,
        _ => matches!(name.as_str(), "keep-alive" | "proxy-connection"),
    }
}

/// Takes out what is for this hop, both ways. `te: trailers` stays: gRPC asks for it.
pub fn remove_hop_by_hop(headers: &mut HeaderMap) {
    // Most requests have none of them, and a look at each is cheaper than one search for each.
    if !headers.keys().any(is_of_one_hop) {
        return;
    }
    let named = headers.get_all(CONNECTION).iter().flat_map(|value| value.as_bytes().split(|byte| *byte == b','));
    let named = named.filter_map(|name| HeaderName::from_bytes(name.trim_ascii()).ok());
    let own = headers.keys().filter(|name| is_of_one_hop(name)).cloned();
    let gone: Vec<HeaderName> = named.chain(own).filter(|name| *name != HOST && *name != TE).collect();
    for name in gone {
        headers.remove(name);
    }
    if let Some(value) = headers.get(TE)
        && !value.as_bytes().eq_ignore_ascii_case(b"trailers")
    {
        if takes_trailers(headers) {
            headers.insert(TE, HeaderValue::from_static("trailers"));
        } else {
            headers.remove(TE);
        }
    }
}

/// Whether the sender of these wants trailers (RFC 9110 section 10.1.4).
pub fn takes_trailers(headers: &HeaderMap) -> bool {
    let mut codings = headers.get_all(TE).iter().flat_map(|value| value.as_bytes().split(|byte| *byte == b','));
    codings.any(|coding| coding.trim_ascii().eq_ignore_ascii_case(b"trailers"))
}

/// Whether a field may come behind a body. Those may not that say how a message is framed, led or read, who asks, and what caches make of it
/// (RFC 9110 section 6.5.1): some would take them for headers, which nobody here has looked at as such.
pub fn may_trail(name: &HeaderName) -> bool {
    let is_forbidden = [
        CONTENT_LENGTH,
        FORWARDED,
        HOST,
        TRAILER,
        FOR,
        PROTO,
        PORT,
        FORWARDED_HOST,
        header::AGE,
        header::AUTHORIZATION,
        header::CACHE_CONTROL,
        header::CONTENT_ENCODING,
        header::CONTENT_RANGE,
        header::CONTENT_TYPE,
        header::COOKIE,
        header::DATE,
        header::EXPECT,
        header::EXPIRES,
        header::IF_MATCH,
        header::IF_MODIFIED_SINCE,
        header::IF_NONE_MATCH,
        header::IF_RANGE,
        header::IF_UNMODIFIED_SINCE,
        header::LOCATION,
        header::MAX_FORWARDS,
        header::PRAGMA,
        header::RANGE,
        header::RETRY_AFTER,
        header::SET_COOKIE,
        header::VARY,
        header::WARNING,
        header::WWW_AUTHENTICATE,
    ]
    .contains(name);
    !is_forbidden && !is_of_one_hop(name)
}

/// Of an answer to a client of HTTP/1.1 that takes trailers. A backend of HTTP/2 may tell the length beside them: here only chunks have
/// room for trailers behind them (RFC 9112 section 7.1.2).
pub fn make_room_for_trailers(headers: &mut HeaderMap) {
    if headers.contains_key(TRAILER) {
        headers.remove(CONTENT_LENGTH);
        headers.insert(TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
    }
}

/// Says who asked for what. `trusted`: so many proxies are in front of the agent. What they have said stays: as many entries of X-Forwarded-For from the
/// right, and the other headers. What a client says of itself goes. There is no Via: as with other gateways, backends are not to change what they
/// send because of one (some then send nothing compressed).
pub fn announce(headers: &mut HeaderMap, exchange: &Exchange, trusted: u8) {
    let before = (trusted > 0).then(|| entries(headers)).map(|all| {
        let first = all.len().saturating_sub(usize::from(trusted));
        all[first..].join(", ")
    });
    // Nobody here adds to it, so that it would say less than the others.
    headers.remove(FORWARDED);
    // Of a request that is written down it is the agent's own by now, or that of a trusted proxy.
    if trusted == 0 && !exchange.meter.is_logged() {
        headers.remove(REQUEST_ID);
    }
    let Known { client, port } = &*exchange.known;
    let host = &*exchange.requested_host;
    let as_sent = headers.get(HOST).filter(|sent| sent.as_bytes() == host.as_bytes()).cloned();
    // A host has nothing that a header may not have.
    let host = as_sent.unwrap_or_else(|| HeaderValue::try_from(host).unwrap_or_else(|_| HeaderValue::from_static("")));
    let all = match before {
        Some(before) if !before.is_empty() => {
            HeaderValue::try_from(format!("{before}, {}", exchange.origin.client.ip()))
        }
        _ => Ok(client.clone()),
    };
    if let Ok(all) = all {
        headers.insert(FOR, all);
    }
    let mut say = |name, value| {
        // What a client says of itself is replaced.
        if trusted == 0 || !headers.contains_key(&name) {
            headers.insert(name, value);
        }
    };
    say(PROTO, HeaderValue::from_static(exchange.scheme.as_str()));
    say(PORT, port.clone());
    say(FORWARDED_HOST, host);
}

/// What is the same for all requests of a connection.
#[derive(Debug)]
pub struct Known {
    client: HeaderValue,
    port: HeaderValue,
}

impl Known {
    pub fn of(origin: &Origin) -> Known {
        let client = HeaderValue::try_from(origin.client.ip().to_string());
        // An address has nothing that a header may not have.
        Known { client: client.unwrap_or_else(|_| HeaderValue::from_static("")), port: origin.gateway.port().into() }
    }
}

/// Of all X-Forwarded-For headers, in their order; what is no text is nobody's address.
fn entries(headers: &HeaderMap) -> Vec<&str> {
    let values = headers.get_all(FOR).iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).map(str::trim).filter(|entry| !entry.is_empty()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_te_trailers_alone_go_on() {
        for (value, left) in
            [("trailers, gzip;q=0.5", Some("trailers")), ("gzip", None), ("Trailers", Some("Trailers"))]
        {
            let mut headers = HeaderMap::from_iter([(TE, HeaderValue::from_static(value))]);
            remove_hop_by_hop(&mut headers);
            assert_eq!(headers.get(TE).map(|value| value.to_str().unwrap()), left, "{value}");
        }
    }

    #[test]
    fn what_is_for_one_hop_does_not_go_on() {
        let mut headers = HeaderMap::new();
        for (name, value) in [
            ("connection", "keep-alive, X-Own"),
            ("connection", "host"),
            ("keep-alive", "5"),
            ("x-own", "1"),
            ("host", "a"),
            ("te", "trailers"),
            ("transfer-encoding", "chunked"),
        ] {
            headers.append(name, HeaderValue::from_static(value));
        }
        remove_hop_by_hop(&mut headers);
        let left: Vec<&str> = headers.keys().map(HeaderName::as_str).collect();
        assert_eq!(left, ["host", "te"]);
    }
}
