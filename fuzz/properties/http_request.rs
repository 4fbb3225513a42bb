//! A request that is read past hyper is the one that hyper reads from the same bytes, and so are those behind it.

use std::cell::RefCell;
use std::convert::Infallible;
use std::pin::pin;
use std::task::{Context, Waker};

use bytes::Bytes;
use gateway_agent::ir::http::Limits;
use gateway_agent::proxy::http::direct::head::{self, Read};
use gateway_agent::proxy::http::framing::Framing;
use http_body_util::{BodyExt, Empty};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;

#[derive(Debug, PartialEq)]
struct Seen {
    method: String,
    uri: String,
    headers: Vec<(String, Vec<u8>)>,
    body: Vec<u8>,
}

impl Seen {
    fn new(method: &http::Method, uri: &http::Uri, headers: &http::HeaderMap, body: &[u8]) -> Seen {
        let headers = headers.iter().map(|(name, value)| (name.to_string(), value.as_bytes().to_vec())).collect();
        Seen { method: method.to_string(), uri: uri.to_string(), headers, body: body.to_vec() }
    }
}

pub fn holds(data: &[u8]) {
    // Nothing else gets so far.
    let passed = Framing::default().pass(data, &Limits::default()).bytes;
    let ours = by_us(&data[..passed]);
    let theirs = by_hyper(&data[..passed]);
    assert!(theirs.len() >= ours.len(), "{}: ours {ours:?}, theirs {theirs:?}", data.escape_ascii());
    for (ours, theirs) in ours.iter().zip(&theirs) {
        assert_eq!(ours, theirs, "{}", data.escape_ascii());
    }
}

/// Until something is left to hyper, or is not whole.
fn by_us(data: &[u8]) -> Vec<Seen> {
    let (mut rest, mut seen) = (Bytes::copy_from_slice(data), Vec::new());
    while let Read::Whole(request, size) = head::request(&rest, http::HeaderMap::new()) {
        let end = usize::try_from(request.length).ok().and_then(|length| size.checked_add(length));
        let Some(end) = end.filter(|end| *end <= rest.len()) else { break };
        seen.push(Seen::new(&request.method, &request.uri, &request.headers, &rest[size..end]));
        if request.is_last {
            break;
        }
        rest = rest.slice(end..);
    }
    seen
}

fn by_hyper(data: &[u8]) -> Vec<Seen> {
    let seen = RefCell::new(Vec::new());
    let service = service_fn(|request: http::Request<Incoming>| async {
        let (parts, body) = request.into_parts();
        if let Ok(body) = body.collect().await {
            seen.borrow_mut().push(Seen::new(&parts.method, &parts.uri, &parts.headers, &body.to_bytes()));
        }
        Ok::<_, Infallible>(http::Response::new(Empty::<Bytes>::new()))
    });
    let stream = TokioIo::new(tokio::io::join(data, tokio::io::sink()));
    let mut builder = http1::Builder::new();
    builder.half_close(true).max_headers(128);
    {
        let mut serving = pin!(builder.serve_connection(stream, service));
        // Everything is there: it is Pending only to let others go first.
        let polls = data.len() + 16;
        let _ = (0..polls).find(|_| serving.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_ready());
    }
    seen.into_inner()
}
