//! Of what passes the reader of HTTP/1's framing, hyper makes the requests that the reader has seen, and ends each where the reader does: all of them
//! on one connection are what each is alone.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};

use gateway_agent::ir::http::Limits;
use gateway_agent::proxy::http::framing::{Framing, Passed};
use http::{Request, Response, Uri, Version, header};
use http_body_util::{BodyExt, Empty};
use hyper::body::{Bytes, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

pub fn holds(data: &[u8]) {
    let limits = Limits { header_bytes: 4096, uri_bytes: 1024, headers: 16, ..Limits::default() };
    let pieces = pieces(data, &limits);
    let passed: usize = pieces.iter().map(|piece| piece.bytes.len()).sum();
    assert_eq!(at_once(data, &limits), passed, "at once as byte by byte");
    let together = read_by_hyper(&data[..passed], &limits);
    let mut alone = Vec::new();
    let mut last = false;
    for piece in pieces {
        let requests = read_by_hyper(piece.bytes, &limits);
        if !last {
            last = is_last(&piece, &requests);
            alone.extend(requests);
        }
    }
    assert_eq!(together, alone, "{}", data.escape_ascii());
}

/// A request as the reader sees it.
struct Piece<'a> {
    bytes: &'a [u8],
    /// Up to the last byte of its body.
    is_whole: bool,
}

/// The requests of what passes. The bytes come one by one.
fn pieces<'a>(data: &'a [u8], limits: &Limits) -> Vec<Piece<'a>> {
    let mut framing = Framing::default();
    let (mut pieces, mut begun, mut passed) = (Vec::new(), 0, 0);
    for end in 1..=data.len() {
        let heads = framing.heads();
        let Passed { bytes, refused } = framing.pass(&data[passed..end], limits);
        passed += bytes;
        if bytes > 0 && !framing.in_body() {
            assert!(framing.heads() > 0, "{} bytes are of no request", passed - begun);
            pieces.push(Piece { bytes: &data[begun..passed], is_whole: true });
            begun = passed;
        }
        assert!(framing.heads() - heads <= 1, "one byte ends one head");
        if framing.is_upgrading() {
            framing.not_upgraded();
        }
        if refused.is_some() {
            break;
        }
    }
    if begun < passed {
        pieces.push(Piece { bytes: &data[begun..passed], is_whole: false });
    }
    pieces
}

fn at_once(data: &[u8], limits: &Limits) -> usize {
    let mut framing = Framing::default();
    let mut passed = 0;
    loop {
        let some = framing.pass(&data[passed..], limits);
        passed += some.bytes;
        if some.refused.is_some() || !framing.is_upgrading() {
            return passed;
        }
        framing.not_upgraded();
    }
}

/// As a service of hyper's gets it.
#[derive(Debug, PartialEq, Eq)]
struct Seen {
    method: String,
    target: String,
    version: Version,
    headers: Vec<(String, Vec<u8>)>,
    /// Whole, or why it is not.
    body: Result<Vec<u8>, String>,
}

/// Whether hyper reads nothing behind it. What it does not understand it refuses; of what passes, that is a target that is none.
fn is_last(piece: &Piece<'_>, requests: &[Seen]) -> bool {
    let text = piece.bytes.strip_prefix(b"\r\n").unwrap_or(piece.bytes);
    let target = text.split(|byte| *byte == b' ').nth(1).unwrap_or_default();
    let [request] = requests else {
        assert!(
            requests.is_empty() && Uri::try_from(target).is_err(),
            "{requests:?} of {}",
            piece.bytes.escape_ascii()
        );
        return true;
    };
    assert_eq!(request.body.is_ok(), piece.is_whole, "{}", piece.bytes.escape_ascii());
    // In an absolute target the path may be missing.
    let target = Uri::try_from(target).map(|target| target.to_string());
    assert_eq!(target.ok().as_ref(), Some(&request.target), "{}", piece.bytes.escape_ascii());
    let mut words = request
        .headers
        .iter()
        .filter(|(name, _)| name == header::CONNECTION.as_str())
        .flat_map(|(_, value)| value.split(|byte| *byte == b',').map(<[u8]>::trim_ascii));
    let kept = words.clone().any(|word| word.eq_ignore_ascii_case(b"keep-alive"));
    words.any(|word| word.eq_ignore_ascii_case(b"close")) || (request.version == Version::HTTP_10 && !kept)
}

fn read_by_hyper(bytes: &[u8], limits: &Limits) -> Vec<Seen> {
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime without drivers");
    let seen = Arc::new(Mutex::new(Vec::new()));
    let service = service_fn(|request: Request<Incoming>| {
        let seen = Arc::clone(&seen);
        async move {
            let (head, body) = request.into_parts();
            let body = body.collect().await.map(|body| body.to_bytes().to_vec()).map_err(|error| error.to_string());
            let headers =
                head.headers.iter().map(|(name, value)| (name.to_string(), value.as_bytes().to_vec())).collect();
            let method = head.method.to_string();
            let target = head.uri.to_string();
            seen.lock().expect("nobody panics").push(Seen { method, target, version: head.version, headers, body });
            Ok::<_, Infallible>(Response::new(Empty::<Bytes>::new()))
        }
    });
    let mut builder = http1::Builder::new();
    builder.header_read_timeout(None).max_headers(limits.headers).half_close(true);
    let serving = builder.serve_connection(TokioIo::new(Client(bytes)), service);
    // It ends with an error where a message is cut off or refused.
    runtime.block_on(serving).ok();
    std::mem::take(&mut *seen.lock().expect("nobody panics"))
}

/// Says this, then no more, and does not listen.
struct Client<'a>(&'a [u8]);

impl AsyncRead for Client<'_> {
    fn poll_read(mut self: Pin<&mut Self>, _: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<std::io::Result<()>> {
        let (now, later) = self.0.split_at(self.0.len().min(buffer.remaining()));
        buffer.put_slice(now);
        self.0 = later;
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Client<'_> {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<std::io::Result<usize>> {
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
