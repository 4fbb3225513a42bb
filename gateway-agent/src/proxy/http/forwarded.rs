//! Headers that belong to a proxy: those of one hop, which do not go on, and X-Forwarded-*.

use http::header::{
    CONNECTION, FORWARDED, HOST, PROXY_AUTHENTICATE, PROXY_AUTHORIZATION, TE, TRANSFER_ENCODING, UPGRADE,
};
use http::{HeaderMap, HeaderName, HeaderValue};

use super::exchange::Exchange;

const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");
const FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const PORT: HeaderName = HeaderName::from_static("x-forwarded-port");
const FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");

/// Takes out what is for this hop (RFC 9110 section 7.6.1), both ways. `te: trailers` stays: gRPC asks for it.
pub fn remove_hop_by_hop(headers: &mut HeaderMap) {
    // Most requests have none of them.
    if headers.contains_key(CONNECTION) {
        let named: Vec<HeaderName> = headers
            .get_all(CONNECTION)
            .iter()
            .flat_map(|value| value.as_bytes().split(|byte| *byte == b','))
            .filter_map(|name| HeaderName::from_bytes(name.trim_ascii()).ok())
            .filter(|name| *name != HOST && *name != TE)
            .collect();
        named.iter().for_each(|name| drop(headers.remove(name)));
        headers.remove(CONNECTION);
    }
    for name in [KEEP_ALIVE, PROXY_CONNECTION, PROXY_AUTHENTICATE, PROXY_AUTHORIZATION, TRANSFER_ENCODING, UPGRADE] {
        headers.remove(name);
    }
    if headers.get(TE).is_some_and(|value| !value.as_bytes().eq_ignore_ascii_case(b"trailers")) {
        headers.remove(TE);
    }
}

/// Says who asked for what. `trusted`: proxies in front of the agent; without such, what the client says of itself goes.
pub fn announce(headers: &mut HeaderMap, exchange: &Exchange, trusted: u8) {
    if trusted == 0 {
        for name in [FOR, PROTO, PORT, FORWARDED_HOST, FORWARDED] {
            headers.remove(name);
        }
    }
    let origin = &exchange.origin;
    if let Ok(client) = HeaderValue::try_from(origin.client.ip().to_string()) {
        headers.append(FOR, client);
    }
    let proto = || HeaderValue::from_static(exchange.scheme.as_str());
    headers.entry(PROTO).or_insert_with(proto);
    headers.entry(PORT).or_insert_with(|| HeaderValue::from(origin.gateway.port()));
    if let Ok(host) = HeaderValue::try_from(&*exchange.requested_host) {
        headers.entry(FORWARDED_HOST).or_insert(host);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
