//! `sessionPersistence`: requests of a session go to one endpoint while it serves, also if its backend has the weight 0 by now.
//!
//! What a client is given is signed, so that it cannot choose an endpoint: base64 of
//! version, begun, seen (both seconds since 1970, 4 bytes), port, IPv6 or mapped IPv4 address, and 16 bytes of HMAC-SHA-256.

use std::net::{Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::header::{COOKIE, SET_COOKIE};
use http::{HeaderMap, HeaderName, HeaderValue};
use ring::hmac;
use rustix::rand::{GetRandomFlags, getrandom};

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Persistence {
    /// Of the cookie or header.
    pub name: Arc<str>,
    pub place: Place,
    /// Since the session began.
    pub absolute: Option<Duration>,
    /// Since its last request.
    pub idle: Option<Duration>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    Cookie(Lifetime),
    Header,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lifetime {
    /// Until the client ends.
    Session,
    /// As long as [`Persistence::absolute`].
    Permanent,
}

/// What a key of sessions is made of: at least [`Secret::LEAST`] bytes that nobody can guess.
#[derive(Clone)]
pub struct Secret(Vec<u8>);

impl Secret {
    pub const LEAST: usize = 32;
    pub const MOST: usize = 4_096;

    /// Of the content of a file, where a line end at its end does not count: people and tools add such.
    pub fn read(content: &[u8]) -> Result<Secret, NoSecret> {
        let line_end = content.iter().rev().take_while(|byte| matches!(byte, b'\r' | b'\n')).count();
        let bytes = &content[..content.len() - line_end];
        match bytes.first() {
            _ if content.len() > Secret::MOST => Err(NoSecret::Long),
            _ if bytes.len() < Secret::LEAST => Err(NoSecret::Short(bytes.len())),
            Some(first) if bytes.iter().all(|byte| byte == first) => Err(NoSecret::Uniform),
            _ => Ok(Secret(bytes.to_vec())),
        }
    }
}

/// Why something is no key.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoSecret {
    #[error("it has {0} bytes, and a session key needs at least {least} random ones", least = Secret::LEAST)]
    Short(usize),
    #[error("it is longer than {most} bytes, which no session key is", most = Secret::MOST)]
    Long,
    #[error("all of its bytes are the same, so that anybody could guess them")]
    Uniform,
}

/// What sessions are signed with. Agents that have the same take one another's.
#[derive(Clone, Debug)]
pub struct Keys {
    /// New ones are signed with it.
    signs: hmac::Key,
    /// Sessions that one of these has signed hold as well.
    accepted: Arc<[hmac::Key]>,
}

impl Keys {
    pub fn new(signs: &Secret, accepted: &[Secret]) -> Keys {
        let key = |secret: &Secret| hmac::Key::new(hmac::HMAC_SHA256, &secret.0);
        Keys { signs: key(signs), accepted: accepted.iter().map(key).collect() }
    }
}

impl Default for Keys {
    /// Of this process alone.
    fn default() -> Keys {
        let mut bytes = [0; Secret::LEAST];
        // As many bytes come whole (getrandom(2)); a kernel without is older than what eBPF needs.
        let got = getrandom(&mut bytes, GetRandomFlags::empty());
        assert_eq!(got, Ok(Secret::LEAST), "the kernel has no random bytes: sessions could be forged");
        Keys { signs: hmac::Key::new(hmac::HMAC_SHA256, &bytes), accepted: Arc::new([]) }
    }
}

/// As a client shows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Session {
    pub endpoint: SocketAddr,
    begun: u32,
    seen: u32,
    /// By a key that signs no more: the client is to have it anew.
    is_of_before: bool,
}

const VERSION: u8 = 1;
const SIGNED: usize = 1 + 4 + 4 + 2 + 16;
const SIGNATURE: usize = 16;

/// Seconds since 1970.
pub fn now() -> u32 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u32::try_from(since.as_secs()).unwrap_or(u32::MAX)
}

impl Persistence {
    /// That the request belongs to, unless it is over.
    pub fn session(&self, keys: &Keys, headers: &HeaderMap, now: u32) -> Option<Session> {
        let read = |token: &[u8]| read(token, &self.name, keys);
        let session = match self.place {
            Place::Header => headers.get(&*self.name).and_then(|value| read(value.as_bytes())),
            Place::Cookie(_) => cookies(headers, &self.name).find_map(read),
        };
        session.filter(|session| {
            let over = |since: u32, time: Option<Duration>| {
                time.is_some_and(|time| u64::from(now.saturating_sub(since)) >= time.as_secs())
            };
            !over(session.begun, self.absolute) && !over(session.seen, self.idle)
        })
    }

    /// What the client is told, if there is news: another endpoint than it showed, or that the session goes on. `path`: of the cookie.
    pub fn tell(
        &self,
        keys: &Keys,
        shown: Option<Session>,
        endpoint: SocketAddr,
        (path, secure): (&str, bool),
        now: u32,
    ) -> Option<(HeaderName, HeaderValue)> {
        let kept = shown.filter(|shown| shown.endpoint == endpoint);
        if kept.is_some_and(|kept| !kept.is_of_before && (self.idle.is_none() || kept.seen == now)) {
            return None;
        }
        let begun = kept.map_or(now, |kept| kept.begun);
        let token = write(&Session { endpoint, begun, seen: now, is_of_before: false }, &self.name, keys);
        let lifetime = match self.place {
            Place::Header => {
                return Some((HeaderName::try_from(&*self.name).ok()?, HeaderValue::try_from(token).ok()?));
            }
            Place::Cookie(lifetime) => lifetime,
        };
        let mut cookie = format!("{}={token}; Path={path}; HttpOnly", self.name);
        if secure {
            cookie.push_str("; Secure");
        }
        if let (Lifetime::Permanent, Some(absolute)) = (lifetime, self.absolute) {
            let left = absolute.as_secs().saturating_sub(u64::from(now.saturating_sub(begun)));
            cookie.push_str(&format!("; Max-Age={left}"));
        }
        Some((SET_COOKIE, HeaderValue::try_from(cookie).ok()?))
    }
}

fn cookies<'a>(headers: &'a HeaderMap, name: &'a str) -> impl Iterator<Item = &'a [u8]> {
    let pairs = headers.get_all(COOKIE).iter().flat_map(|value| value.as_bytes().split(|byte| *byte == b';'));
    pairs.filter_map(|pair| pair.trim_ascii().strip_prefix(name.as_bytes())?.strip_prefix(b"="))
}

/// For this name: that of another rule is another session.
fn signature(signed: &[u8], name: &str, key: &hmac::Key) -> [u8; SIGNATURE] {
    let mut context = hmac::Context::with_key(key);
    context.update(signed);
    context.update(name.as_bytes());
    let mut signature = [0; SIGNATURE];
    signature.copy_from_slice(&context.sign().as_ref()[..SIGNATURE]);
    signature
}

fn write(session: &Session, name: &str, keys: &Keys) -> String {
    let ip = match session.endpoint.ip() {
        std::net::IpAddr::V4(ip) => ip.to_ipv6_mapped(),
        std::net::IpAddr::V6(ip) => ip,
    };
    let mut token = Vec::with_capacity(SIGNED + SIGNATURE);
    token.push(VERSION);
    token.extend(session.begun.to_be_bytes());
    token.extend(session.seen.to_be_bytes());
    token.extend(session.endpoint.port().to_be_bytes());
    token.extend(ip.octets());
    let signature = signature(&token, name, &keys.signs);
    token.extend(signature);
    URL_SAFE_NO_PAD.encode(token)
}

/// `None`: it is none of ours.
fn read(token: &[u8], name: &str, keys: &Keys) -> Option<Session> {
    let token = URL_SAFE_NO_PAD.decode(token).ok()?;
    let (signed, shown) = token.split_first_chunk::<SIGNED>()?;
    let shown = <[u8; SIGNATURE]>::try_from(shown).ok()?;
    let is_by = |key: &hmac::Key| is_same(&signature(signed, name, key), &shown);
    let is_of_before = !is_by(&keys.signs);
    if is_of_before && !keys.accepted.iter().any(is_by) {
        return None;
    }
    let [VERSION, b0, b1, b2, b3, s0, s1, s2, s3, p0, p1, ip @ ..] = *signed else { return None };
    let ip = Ipv6Addr::from(ip).to_canonical();
    let (begun, seen) = (u32::from_be_bytes([b0, b1, b2, b3]), u32::from_be_bytes([s0, s1, s2, s3]));
    Some(Session { endpoint: SocketAddr::new(ip, u16::from_be_bytes([p0, p1])), begun, seen, is_of_before })
}

/// In a time that does not say where they differ.
fn is_same(a: &[u8; SIGNATURE], b: &[u8; SIGNATURE]) -> bool {
    a.iter().zip(b).fold(0, |differs, (a, b)| differs | (a ^ b)) == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn persistence(place: Place) -> Persistence {
        let (absolute, idle) = (Some(Duration::from_secs(100)), Some(Duration::from_secs(10)));
        Persistence { name: "sid".into(), place, absolute, idle }
    }

    fn shown(name: HeaderName, value: &str) -> HeaderMap {
        HeaderMap::from_iter([(name, HeaderValue::try_from(value).unwrap())])
    }

    #[test]
    fn a_session_is_what_was_given_and_nothing_else() {
        let key = Keys::default();
        for endpoint in ["198.18.0.1:80", "[2001:db8::1]:8080"] {
            let endpoint: SocketAddr = endpoint.parse().unwrap();
            let of = persistence(Place::Header);
            let (name, value) = of.tell(&key, None, endpoint, ("/", false), 1_000).unwrap();
            let headers = HeaderMap::from_iter([(name.clone(), value.clone())]);
            assert_eq!(of.session(&key, &headers, 1_000).unwrap().endpoint, endpoint);
            assert_eq!(of.session(&Keys::default(), &headers, 1_000), None, "of another agent");
            let other = Persistence { name: "SID".into(), ..of.clone() };
            assert_eq!(other.session(&key, &headers, 1_000), None, "of another rule");
            let token = value.to_str().unwrap();
            for i in 0..token.len() {
                let mut forged = token.as_bytes().to_vec();
                forged[i] = if forged[i] == b'A' { b'B' } else { b'A' };
                let headers = shown(name.clone(), std::str::from_utf8(&forged).unwrap());
                assert_eq!(of.session(&key, &headers, 1_000), None, "byte {i}");
                assert_eq!(of.session(&key, &shown(name.clone(), &token[..i]), 1_000), None, "cut at {i}");
            }
        }
    }

    #[test]
    fn a_session_ends_after_its_times() {
        let (key, of) = (Keys::default(), persistence(Place::Header));
        let endpoint = "198.18.0.1:80".parse().unwrap();
        let told = |shown, now| {
            let (name, value) = of.tell(&key, shown, endpoint, ("/", false), now)?;
            Some(HeaderMap::from_iter([(name, value)]))
        };
        let mut headers = told(None, 1_000).unwrap();
        assert!(of.session(&key, &headers, 1_009).is_some());
        assert!(of.session(&key, &headers, 1_010).is_none(), "idle");
        for now in (1_009..1_100).step_by(9) {
            let session = of.session(&key, &headers, now);
            assert!(session.is_some(), "at {now}");
            assert!(told(session, now - 9).is_none(), "no news");
            headers = told(session, now).unwrap();
        }
        assert!(of.session(&key, &headers, 1_100).is_none(), "absolute");
    }

    fn secret(text: &str) -> Secret {
        Secret::read(text.as_bytes()).unwrap()
    }

    #[test]
    fn a_key_that_is_accepted_takes_sessions_and_signs_none() {
        let (old, new) = (secret("the old one, of thirty-two bytes"), secret("the new one, of thirty-two bytes"));
        let (of, endpoint) = (persistence(Place::Header), "198.18.0.1:80".parse().unwrap());
        let told = |keys: &Keys, shown| {
            let (name, value) = of.tell(keys, shown, endpoint, ("/", false), 1_000)?;
            Some(HeaderMap::from_iter([(name, value)]))
        };
        let (before, after) = (Keys::new(&old, &[]), Keys::new(&new, std::slice::from_ref(&old)));
        let headers = told(&before, None).unwrap();
        assert!(of.session(&Keys::new(&new, &[]), &headers, 1_000).is_none());
        let session = of.session(&after, &headers, 1_000).unwrap();
        // It is told at once what will hold when the old key is gone.
        let anew = told(&after, Some(session)).unwrap();
        assert!(of.session(&Keys::new(&new, &[]), &anew, 1_000).is_some());
        assert!(of.session(&before, &anew, 1_000).is_none());
        assert!(told(&after, of.session(&after, &anew, 1_000)).is_none());
    }

    #[test]
    fn what_can_be_guessed_is_no_key() {
        let why = |content: &[u8]| Secret::read(content).err();
        assert_eq!(why(b""), Some(NoSecret::Short(0)));
        assert_eq!(why(b"0123456789012345678901234567890\r\n"), Some(NoSecret::Short(31)));
        assert_eq!(why(&[0; 64]), Some(NoSecret::Uniform));
        assert_eq!(why(&[7; Secret::MOST + 1]), Some(NoSecret::Long));
        assert_eq!(why(b"01234567890123456789012345678901\n"), None);
        assert_eq!(secret("01234567890123456789012345678901\n").0, secret("01234567890123456789012345678901").0);
    }

    #[test]
    fn cookies_say_how_long_they_are_kept() {
        let (key, endpoint) = (Keys::default(), "198.18.0.1:80".parse().unwrap());
        for (lifetime, secure, rest) in [
            (Lifetime::Session, false, "; Path=/a; HttpOnly"),
            (Lifetime::Permanent, true, "; Path=/a; HttpOnly; Secure; Max-Age=100"),
        ] {
            let of = persistence(Place::Cookie(lifetime));
            let (name, value) = of.tell(&key, None, endpoint, ("/a", secure), 1_000).unwrap();
            let value = value.to_str().unwrap();
            let (pair, attributes) = value.split_at(value.find(';').unwrap());
            assert_eq!((name, attributes), (SET_COOKIE, rest));
            let headers = shown(COOKIE, &format!("a=1; sid=forged;{pair}; b=2"));
            assert_eq!(of.session(&key, &headers, 1_000).unwrap().endpoint, endpoint);
            assert_eq!(of.session(&key, &shown(COOKIE, &format!("x{pair}")), 1_000), None);
        }
    }
}
