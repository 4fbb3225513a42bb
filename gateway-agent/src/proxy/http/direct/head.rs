//! Heads of messages, read into what the rest of the agent knows, and written.

use std::mem::MaybeUninit;

use bytes::Bytes;
use http::header::{CONNECTION, CONTENT_LENGTH, EXPECT, TRAILER, TRANSFER_ENCODING, UPGRADE};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Uri};
use httparse::Status;

use super::super::framing;

/// Of one message; who allows more of them has hyper.
const HEADERS: usize = 128;
/// Of an answer.
const HEADERS_OF_ANSWER: usize = 256;

/// A request that is read here.
#[derive(Debug)]
pub struct Request {
    pub method: Method,
    pub uri: Uri,
    pub headers: HeaderMap,
    /// Of its body.
    pub length: u64,
    /// The client wants no other request on this connection.
    pub is_last: bool,
}

/// What the first bytes are.
#[derive(Debug)]
pub enum Read<T> {
    /// It, and how many bytes it has.
    Whole(T, usize),
    Partial,
    /// Nothing that is read here.
    Other,
}

/// `headers`: an empty map, for the request.
pub fn request(bytes: &Bytes, mut headers: HeaderMap) -> Read<Request> {
    let mut lines = [const { MaybeUninit::uninit() }; HEADERS];
    let mut read = httparse::Request::new(&mut []);
    let size = match read.parse_with_uninit_headers(bytes, &mut lines) {
        Ok(Status::Complete(size)) => size,
        Ok(Status::Partial) => return Read::Partial,
        Err(_) => return Read::Other,
    };
    let (Some(method), Some(target), Some(1)) = (read.method, read.path, read.version) else { return Read::Other };
    let (Ok(method), Ok(uri)) =
        (Method::from_bytes(method.as_bytes()), Uri::from_maybe_shared(bytes.slice_ref(target.as_bytes())))
    else {
        return Read::Other;
    };
    let (mut length, mut is_last) = (None, false);
    for line in read.headers.iter() {
        let Some((name, value)) = header(bytes, line) else { return Read::Other };
        match name {
            // What is rare, and has its own rules.
            UPGRADE | EXPECT | TRAILER | TRANSFER_ENCODING => return Read::Other,
            CONTENT_LENGTH => match (length, framing::digits(value.as_bytes())) {
                (None, Some(number)) => length = Some(number),
                _ => return Read::Other,
            },
            CONNECTION => is_last |= has_token(&value, b"close"),
            _ => {}
        }
        headers.append(name, value);
    }
    Read::Whole(Request { method, uri, headers, length: length.unwrap_or(0), is_last }, size)
}

/// An answer.
#[derive(Debug)]
pub struct Answer {
    pub status: StatusCode,
    /// Where it is another than that of the status.
    pub phrase: Option<Bytes>,
    pub headers: HeaderMap,
    pub framing: Framing,
    /// The connection may be used again.
    pub keeps: bool,
}

/// Where a body ends (RFC 9112 section 6.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    Length(u64),
    Chunked,
    /// Of an answer: with the connection.
    Close,
}

/// `to`: the method of the request. What has two readings is none.
pub fn answer(bytes: &Bytes, mut headers: HeaderMap, to: &Method) -> Read<Answer> {
    let mut lines = [const { MaybeUninit::uninit() }; HEADERS_OF_ANSWER];
    let mut read = httparse::Response::new(&mut []);
    let parsed = httparse::ParserConfig::default().parse_response_with_uninit_headers(&mut read, bytes, &mut lines);
    let size = match parsed {
        Ok(Status::Complete(size)) => size,
        Ok(Status::Partial) => return Read::Partial,
        Err(_) => return Read::Other,
    };
    let (Some(code), Some(version)) = (read.code, read.version) else { return Read::Other };
    let Ok(status) = StatusCode::from_u16(code) else { return Read::Other };
    let (mut length, mut chunked, mut keeps) = (None, false, version == 1);
    let mut closes = false;
    for line in read.headers.iter() {
        let Some((name, value)) = header(bytes, line) else { return Read::Other };
        match name {
            CONTENT_LENGTH => match (length, framing::digits(value.as_bytes())) {
                (None, Some(number)) => length = Some(number),
                _ => return Read::Other,
            },
            TRANSFER_ENCODING => {
                if chunked || version == 0 || framing::transfer_coding(value.as_bytes()) != Ok(true) {
                    return Read::Other;
                }
                chunked = true;
            }
            CONNECTION => {
                closes |= has_token(&value, b"close");
                keeps |= has_token(&value, b"keep-alive");
            }
            _ => {}
        }
        headers.append(name, value);
    }
    let framing = match (length, chunked) {
        _ if *to == Method::HEAD || status.is_informational() => Framing::Length(0),
        _ if matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED) => Framing::Length(0),
        (Some(_), true) => return Read::Other,
        (None, true) => Framing::Chunked,
        (Some(length), false) => Framing::Length(length),
        (None, false) => Framing::Close,
    };
    let phrase = read.reason.filter(|phrase| Some(*phrase) != status.canonical_reason());
    let phrase = phrase.map(|phrase| Bytes::copy_from_slice(phrase.as_bytes()));
    Read::Whole(Answer { status, phrase, headers, framing, keeps: keeps && !closes }, size)
}

/// Of trailers, with the empty line behind them. `None`: they are malformed.
pub fn trailers(bytes: &Bytes) -> Option<HeaderMap> {
    let mut lines = [httparse::EMPTY_HEADER; HEADERS_OF_ANSWER];
    let Ok(Status::Complete((_, lines))) = httparse::parse_headers(bytes, &mut lines) else { return None };
    let mut trailers = HeaderMap::new();
    for line in lines {
        let (name, value) = header(bytes, line)?;
        trailers.append(name, value);
    }
    Some(trailers)
}

fn header(bytes: &Bytes, line: &httparse::Header<'_>) -> Option<(HeaderName, HeaderValue)> {
    let name = HeaderName::from_bytes(line.name.as_bytes()).ok()?;
    let value = HeaderValue::from_maybe_shared(bytes.slice_ref(line.value)).ok()?;
    Some((name, value))
}

fn has_token(value: &HeaderValue, token: &[u8]) -> bool {
    value.as_bytes().split(|byte| *byte == b',').any(|element| element.trim_ascii().eq_ignore_ascii_case(token))
}

/// A request's, of which the URI is a path and query. `framing`: of its body, where no header says so.
pub fn write_request<B>(out: &mut Vec<u8>, head: &http::Request<B>, framing: Option<Framing>) {
    out.extend_from_slice(head.method().as_str().as_bytes());
    out.push(b' ');
    out.extend_from_slice(head.uri().path_and_query().map_or("/", |path| path.as_str()).as_bytes());
    out.extend_from_slice(b" HTTP/1.1\r\n");
    for (name, value) in head.headers() {
        write_header(out, name, value.as_bytes());
    }
    match framing {
        Some(Framing::Length(length)) => write_length(out, length),
        Some(Framing::Chunked) => write_header(out, &TRANSFER_ENCODING, b"chunked"),
        Some(Framing::Close) | None => {}
    }
    out.extend_from_slice(b"\r\n");
}

pub fn write_status(out: &mut Vec<u8>, status: StatusCode, phrase: Option<&[u8]>) {
    if status == StatusCode::OK && phrase.is_none() {
        return out.extend_from_slice(b"HTTP/1.1 200 OK\r\n");
    }
    out.extend_from_slice(b"HTTP/1.1 ");
    out.extend_from_slice(status.as_str().as_bytes());
    out.push(b' ');
    out.extend_from_slice(phrase.unwrap_or(status.canonical_reason().unwrap_or_default().as_bytes()));
    out.extend_from_slice(b"\r\n");
}

pub fn write_header(out: &mut Vec<u8>, name: &HeaderName, value: &[u8]) {
    out.extend_from_slice(name.as_str().as_bytes());
    out.extend_from_slice(b": ");
    out.extend_from_slice(value);
    out.extend_from_slice(b"\r\n");
}

pub fn write_length(out: &mut Vec<u8>, length: u64) {
    write_header(out, &CONTENT_LENGTH, HeaderValue::from(length).as_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer_to(method: Method, text: &str) -> Option<(u16, Framing, bool)> {
        match answer(&Bytes::copy_from_slice(text.as_bytes()), HeaderMap::new(), &method) {
            Read::Whole(answer, size) => {
                assert_eq!(size, text.len());
                Some((answer.status.as_u16(), answer.framing, answer.keeps))
            }
            Read::Partial => panic!("{text} is whole"),
            Read::Other => None,
        }
    }

    #[test]
    fn answers_say_where_they_end() {
        let get = |text: &str| answer_to(Method::GET, &format!("HTTP/1.1 {text}\r\n\r\n"));
        assert_eq!(get("200 OK\r\nContent-Length: 7"), Some((200, Framing::Length(7), true)));
        assert_eq!(get("200 OK\r\nTransfer-Encoding: chunked"), Some((200, Framing::Chunked, true)));
        assert_eq!(get("200 OK\r\nConnection: x, close"), Some((200, Framing::Close, false)));
        assert_eq!(get("204 No Content\r\nContent-Length: 7"), Some((204, Framing::Length(0), true)));
        assert_eq!(get("304 Not Modified"), Some((304, Framing::Length(0), true)));
        assert_eq!(get("100 Continue"), Some((100, Framing::Length(0), true)));
        let old = "HTTP/1.0 200 OK\r\nContent-Length: 7\r\nConnection: keep-alive\r\n\r\n";
        assert_eq!(answer_to(Method::GET, old), Some((200, Framing::Length(7), true)));
        assert_eq!(answer_to(Method::GET, &old.replace("Connection", "X")), Some((200, Framing::Length(7), false)));
        let head = "HTTP/1.1 200 OK\r\nContent-Length: 7\r\n\r\n";
        assert_eq!(answer_to(Method::HEAD, head), Some((200, Framing::Length(0), true)));
    }

    #[test]
    fn answers_with_two_readings_are_none() {
        for text in [
            "HTTP/1.1 200 OK\r\nContent-Length: 7\r\nTransfer-Encoding: chunked",
            "HTTP/1.1 200 OK\r\nContent-Length: 7\r\nContent-Length: 7",
            "HTTP/1.1 200 OK\r\nContent-Length: +7",
            "HTTP/1.1 200 OK\r\nContent-Length: 7, 7",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: identity",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
            "HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked",
            "HTTP/1.1 200 OK\r\nA: b\r\n c",
            "HTTP/1.1 200 OK\r\nA : b",
            "HTTP/1.1 20 OK",
            "220 mail ESMTP",
        ] {
            assert_eq!(answer_to(Method::GET, &format!("{text}\r\n\r\n")), None, "{text}");
        }
    }

    #[test]
    fn what_is_unusual_is_left_to_hyper() {
        let read = |line: &str| {
            let text = format!("POST /a HTTP/1.1\r\nHost: a\r\n{line}\r\n\r\n");
            match request(&Bytes::from(text), HeaderMap::new()) {
                Read::Whole(request, _) => Some((request.length, request.is_last)),
                Read::Partial | Read::Other => None,
            }
        };
        assert_eq!(read("Content-Length: 5"), Some((5, false)));
        assert_eq!(read("Connection: a, Close"), Some((0, true)));
        for line in [
            "Upgrade: websocket",
            "Expect: 100-continue",
            "Trailer: a",
            "Transfer-Encoding: chunked",
            "Content-Length: 5\r\nContent-Length: 5",
        ] {
            assert_eq!(read(line), None, "{line}");
        }
        assert!(matches!(request(&Bytes::from_static(b"GET / HTTP/1.0\r\n\r\n"), HeaderMap::new()), Read::Other));
    }
}
