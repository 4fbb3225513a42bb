//! A line of JSON a request, for those who ask for it. A worker keeps its lines in a buffer of its own and hands full ones to a thread that
//! writes; while the log is off, no request does more than look whether it is.

use std::fmt::Write as _;
use std::io::{self, Write};
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;
use std::sync::mpsc::{SyncSender, TrySendError, sync_channel};
use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use jiff::Timestamp;
use serde::Serialize;

use super::grpc;

/// Whose requests are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Which {
    None,
    #[default]
    All,
    /// One in so many; never 0.
    OneIn(u32),
    /// With a status of this class (5 for 5xx) or a higher one; calls of gRPC by the class that theirs would be of.
    From(u8),
}

impl Which {
    pub fn takes(self, status: StatusCode, call: Option<grpc::Status>, random: u64) -> bool {
        match self {
            Which::None => false,
            Which::All => true,
            Which::OneIn(n) => random.is_multiple_of(u64::from(n)),
            Which::From(class) => {
                status.as_u16() / 100 >= u16::from(class) || call.is_some_and(|call| call.class() >= class)
            }
        }
    }
}

/// `none`, `all`, `1/100`, or `4xx` (and above).
impl FromStr for Which {
    type Err = String;

    fn from_str(text: &str) -> Result<Which, String> {
        let wrong = || "none, all, one in so many as 1/100, or from a class of status on as 4xx".to_owned();
        match text {
            "none" => return Ok(Which::None),
            "all" => return Ok(Which::All),
            _ => {}
        }
        if let Some(n) = text.strip_prefix("1/") {
            return n.parse().ok().filter(|n| *n > 0).map(Which::OneIn).ok_or_else(wrong);
        }
        match text.as_bytes() {
            [class @ b'1'..=b'5', b'x', b'x'] => Ok(Which::From(class - b'0')),
            _ => Err(wrong()),
        }
    }
}

/// What is written.
#[derive(Debug, Serialize)]
pub struct Line<'a> {
    /// Of the end of the answer.
    pub time: String,
    pub id: &'a str,
    pub trace: &'a str,
    pub client: IpAddr,
    pub gateway: SocketAddr,
    pub scheme: &'a str,
    pub protocol: &'a str,
    /// Version, and the server name that the client asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sni: Option<&'a str>,
    pub method: &'a str,
    pub host: &'a str,
    pub path: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user_agent: Option<&'a str>,
    pub status: u16,
    /// Of a call of gRPC.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub grpc_status: Option<u8>,
    /// Why the agent answered by itself, or broke off.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub listener: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub route: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rule: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub backend: Option<&'a str>,
    pub retries: u32,
    /// Of the request's body, that came from the client.
    pub request_bytes: u64,
    /// Of the answer's body, that went to the client.
    pub bytes: u64,
    pub first_byte_ms: f64,
    pub took_ms: f64,
    /// The answer did not come to its end.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub aborted: bool,
}

impl Line<'_> {
    pub fn now() -> String {
        format!("{:.6}", Timestamp::now())
    }

    pub fn milliseconds(time: Duration) -> f64 {
        // To the microsecond.
        time.as_micros() as f64 / 1000.0
    }
}

/// Where lines go.
#[derive(Debug)]
pub struct Log {
    /// Whose requests, where their listener has nothing to say on it.
    pub which: Which,
    full: SyncSender<Vec<u8>>,
}

/// Bytes of lines that a worker keeps before it hands them on.
const BUFFER: usize = 32 << 10;
/// Full buffers that wait for the thread that writes.
const WAITING: usize = 64;

impl Log {
    /// Starts the thread that writes. It ends with the log.
    pub fn start(which: Which, mut to: impl Write + Send + 'static) -> io::Result<Log> {
        let (full, buffers) = sync_channel::<Vec<u8>>(WAITING);
        std::thread::Builder::new().name("access-log".to_owned()).spawn(move || {
            let mut told = false;
            for buffer in buffers {
                let written = to.write_all(&buffer).and_then(|()| to.flush());
                if let Err(error) = &written
                    && !told
                {
                    tracing::error!(%error, "cannot write the access log of requests; trying on");
                }
                told = written.is_err();
            }
        })?;
        Ok(Log { which, full })
    }

    /// Lines into the buffer of a worker. How many lines were lost, because whoever writes is too slow.
    pub fn write(&self, line: &Line<'_>, buffer: &mut Vec<u8>) -> u64 {
        // Writing to memory does not fail, and a line has nothing that JSON has no words for.
        if serde_json::to_writer(&mut *buffer, line).is_ok() {
            buffer.push(b'\n');
        }
        if buffer.len() < BUFFER { 0 } else { self.hand_on(buffer) }
    }

    pub fn hand_on(&self, buffer: &mut Vec<u8>) -> u64 {
        if buffer.is_empty() {
            return 0;
        }
        match self.full.try_send(std::mem::take(buffer)) {
            Ok(()) => 0,
            Err(TrySendError::Full(lost) | TrySendError::Disconnected(lost)) => {
                lost.iter().filter(|byte| **byte == b'\n').count() as u64
            }
        }
    }
}

pub const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
const TRACESTATE: HeaderName = HeaderName::from_static("tracestate");

/// What a request is known by beyond the agent.
#[derive(Debug)]
pub struct Identity {
    pub id: HeaderValue,
    pub trace: HeaderValue,
}

/// Gives the backend what the request is known by, so that its logs and these can be put together. A trusted proxy in front may have named it;
/// a trace that a client has begun goes on, and is begun otherwise (Trace Context, sections 2 and 3.2).
pub fn identify(headers: &mut HeaderMap, trusted: bool, mut random: impl FnMut() -> u64) -> Identity {
    let known = headers.get(REQUEST_ID).filter(|id| trusted && (1..=128).contains(&id.len()));
    let id = match known {
        Some(id) => id.clone(),
        None => {
            let id = hex([random(), random()].map(|n| format!("{n:016x}")).concat());
            headers.insert(REQUEST_ID, id.clone());
            id
        }
    };
    let mut parents = headers.get_all(TRACEPARENT).iter();
    let parent = parents.next().filter(|parent| parents.next().is_none() && is_traceparent(parent.as_bytes()));
    let trace = match parent {
        Some(parent) => parent.clone(),
        None => {
            let mut text = String::with_capacity(55);
            // Writing to a String does not fail. Ids of all zeros are invalid; whether it is recorded is for others to decide.
            let _ = write!(text, "00-{:016x}{:016x}-{:016x}-00", random(), random() | 1, random() | 1);
            let trace = hex(text);
            headers.insert(TRACEPARENT, trace.clone());
            headers.remove(TRACESTATE);
            trace
        }
    };
    Identity { id, trace }
}

fn hex(text: String) -> HeaderValue {
    HeaderValue::try_from(text).unwrap_or_else(|_| HeaderValue::from_static("0"))
}

/// Of version 00, or what a later one begins with.
fn is_traceparent(value: &[u8]) -> bool {
    let is_hex = |part: &[u8]| part.iter().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    let is_zero = |part: &[u8]| part.iter().all(|byte| *byte == b'0');
    if value.len() < 55 || (value[2], value[35], value[52]) != (b'-', b'-', b'-') {
        return false;
    }
    let (version, trace, parent, flags) = (&value[..2], &value[3..35], &value[36..52], &value[53..55]);
    let length = match version {
        b"00" => value.len() == 55,
        b"ff" => false,
        _ => value.len() == 55 || value[55] == b'-',
    };
    length && [version, trace, parent, flags].into_iter().all(is_hex) && !is_zero(trace) && !is_zero(parent)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_chosen_by_status_or_chance() {
        assert!(Which::All.takes(StatusCode::OK, None, 7));
        assert!(Which::From(4).takes(StatusCode::BAD_GATEWAY, None, 1));
        assert!(!Which::From(4).takes(StatusCode::FOUND, None, 1));
        assert_eq!((0..100).filter(|random| Which::OneIn(10).takes(StatusCode::OK, None, *random)).count(), 10);
        for (call, taken) in [(grpc::Status::Unavailable, true), (grpc::Status::NotFound, false)] {
            assert_eq!(Which::From(5).takes(StatusCode::OK, Some(call), 1), taken, "{call:?}");
        }
        assert!(!Which::None.takes(StatusCode::BAD_GATEWAY, None, 0));
        assert_eq!("1/10".parse(), Ok(Which::OneIn(10)));
        assert_eq!("none".parse(), Ok(Which::None));
        assert_eq!("4xx".parse(), Ok(Which::From(4)));
        for wrong in ["1/0", "6xx", "2/10", "", "4x"] {
            assert!(wrong.parse::<Which>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_trace_goes_on_or_begins() {
        let mut next = 0;
        let mut random = || {
            next += 1;
            next
        };
        let good = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        let given = |value: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(TRACEPARENT, value.parse().unwrap());
            headers.insert(TRACESTATE, "a=b".parse().unwrap());
            headers.insert(REQUEST_ID, "mine".parse().unwrap());
            headers
        };
        let mut headers = given(good);
        let known = identify(&mut headers, true, &mut random);
        assert_eq!((known.trace, known.id), (good.parse().unwrap(), "mine".parse().unwrap()));
        assert!(headers.contains_key(TRACESTATE));
        for bad in [
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
            "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01",
            "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-more",
            "00-4bf92f35",
        ] {
            let mut headers = given(bad);
            let known = identify(&mut headers, false, &mut random);
            assert!(is_traceparent(known.trace.as_bytes()) && known.trace != bad, "{bad}: {known:?}");
            assert_eq!(headers[REQUEST_ID], known.id);
            assert_ne!(known.id, "mine", "of a client that nobody trusts");
            assert!(!headers.contains_key(TRACESTATE));
        }
    }
}
