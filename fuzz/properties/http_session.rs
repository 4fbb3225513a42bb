//! A session is what the agent has given out, whatever cookies stand beside it, and nothing else is one.

use std::net::SocketAddr;

use gateway_agent::proxy::http::session::{Keys, Lifetime, Persistence, Place, Secret};
use http::header::COOKIE;
use http::{HeaderMap, HeaderValue};

pub fn holds(data: &[u8]) {
    let secret = |text: &[u8]| Secret::read(text).ok();
    let (signs, former) = (secret(b"32 bytes that sign, and no more."), secret(b"32 bytes that signed, some time."));
    let (Some(signs), Some(former)) = (signs, former) else { panic!("keys of 32 bytes") };
    let keys = Keys::new(&signs, &[former]);
    let place = Place::Cookie(Lifetime::Session);
    let of = Persistence { name: "sid".into(), place, absolute: None, idle: None };
    let endpoint: SocketAddr = ([198, 18, 0, 1], 80).into();
    let session = |cookies: &[u8]| {
        let cookies = HeaderValue::from_bytes(cookies).ok()?;
        of.session(&keys, &HeaderMap::from_iter([(COOKIE, cookies)]), 0)
    };
    assert_eq!(session(data), None, "nobody has given that out");
    let Some((_, given)) = of.tell(&keys, None, endpoint, ("/", true), 0) else { return };
    let given = given.as_bytes().split(|byte| *byte == b';').next().unwrap_or_default();
    if HeaderValue::from_bytes(data).is_ok() {
        for cookies in [[data, b"; ", given].concat(), [given, b"; ", data].concat()] {
            assert_eq!(session(&cookies).map(|session| session.endpoint), Some(endpoint));
        }
    }
    // One byte of it is another.
    if let Some((at, flip)) = data.first().zip(data.get(1)).filter(|(_, flip)| **flip & 0x3f != 0) {
        let mut other = given.to_vec();
        let at = b"sid=".len() + usize::from(*at) % (given.len() - b"sid=".len());
        other[at] ^= flip & 0x3f;
        assert_eq!(session(&other), None, "{}", String::from_utf8_lossy(&other));
    }
}
