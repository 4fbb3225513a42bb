//! The backend: takes plain HTTP/1.1 and nothing else, answers with what it understood, and remembers it.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, PoisonError};

use super::bytes::shown;

/// More than any case of the corpus needs, so that a proxy that lets things through is seen.
const LONGEST_LINE: u64 = 1 << 20;

pub struct Recorder {
    address: SocketAddr,
    events: Arc<Mutex<Vec<Event>>>,
}

/// What reached the backend.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    Request(Request),
    /// What is no HTTP/1.1 that every server reads in the same way.
    Violation(String),
}

/// A whole one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    pub method: Vec<u8>,
    pub target: Vec<u8>,
    /// Names in lower case.
    pub headers: Vec<(Vec<u8>, Vec<u8>)>,
    pub body: Vec<u8>,
}

impl Recorder {
    /// Serves connections of this socket, which may belong to any network namespace, until the process ends.
    pub fn start(socket: TcpListener) -> io::Result<Recorder> {
        let recorder = Recorder { address: socket.local_addr()?, events: Arc::default() };
        let events = Arc::clone(&recorder.events);
        std::thread::spawn(move || {
            for stream in socket.incoming().map_while(Result::ok) {
                let events = Arc::clone(&events);
                std::thread::spawn(move || serve(stream, &events));
            }
        });
        Ok(recorder)
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// What came since the last time.
    pub fn take(&self) -> Vec<Event> {
        std::mem::take(&mut *self.events.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

fn serve(stream: TcpStream, events: &Mutex<Vec<Event>>) {
    let note = |event| events.lock().unwrap_or_else(PoisonError::into_inner).push(event);
    let Ok(mut writer) = stream.try_clone() else { return };
    let mut reader = BufReader::new(stream);
    loop {
        match request(&mut reader, &mut writer) {
            Ok(Some(request)) => {
                let answer = answer(&request);
                note(Event::Request(request));
                if writer.write_all(&answer).is_err() {
                    return;
                }
            }
            // An end between requests, or in the middle of one: then it is no request.
            Ok(None) | Err(Wrong::Io) => return,
            Err(Wrong::Violation(what)) => {
                note(Event::Violation(what));
                return;
            }
        }
    }
}

fn answer(request: &Request) -> Vec<u8> {
    let said = [&request.method[..], b" ", &request.target].concat();
    let body = if request.method == b"HEAD" { Vec::new() } else { said.clone() };
    let head = format!("HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: {}\r\n\r\n", said.len());
    [head.into_bytes(), body].concat()
}

enum Wrong {
    Io,
    Violation(String),
}

impl From<io::Error> for Wrong {
    fn from(_: io::Error) -> Wrong {
        Wrong::Io
    }
}

fn violation<T>(what: &str, bytes: &[u8]) -> Result<T, Wrong> {
    Err(Wrong::Violation(format!("{what}: {}", shown(bytes))))
}

/// None: the connection has ended before it.
fn request(reader: &mut impl BufRead, writer: &mut impl Write) -> Result<Option<Request>, Wrong> {
    if reader.fill_buf()?.is_empty() {
        return Ok(None);
    }
    let first = line(reader)?;
    let words: Vec<&[u8]> = first.split(|byte| *byte == b' ').collect();
    let [method, target, b"HTTP/1.1" | b"HTTP/1.0"] = words[..] else {
        return violation("no request line", &first);
    };
    if method.is_empty() || !method.iter().all(|byte| is_token(*byte)) {
        return violation("no method", method);
    }
    if target.is_empty() || !target.iter().all(|byte| byte.is_ascii_graphic() || *byte >= 0x80) {
        return violation("no target", target);
    }
    let headers = headers(reader)?;
    if headers.iter().any(|(name, value)| name == b"expect" && value.eq_ignore_ascii_case(b"100-continue")) {
        writer.write_all(b"HTTP/1.1 100 Continue\r\n\r\n")?;
    }
    let (method, target) = (method.to_vec(), target.to_vec());
    let body = body(reader, &headers)?;
    Ok(Some(Request { method, target, headers, body }))
}

/// Up to CRLF; no CR, LF or NUL in it.
fn line(reader: &mut impl BufRead) -> Result<Vec<u8>, Wrong> {
    let mut line = Vec::new();
    reader.take(LONGEST_LINE).read_until(b'\n', &mut line)?;
    if line.len() as u64 == LONGEST_LINE {
        return violation("a line without end", &line);
    }
    let Some(whole) = line.strip_suffix(b"\r\n") else {
        return if line.ends_with(b"\n") { violation("LF alone", &line) } else { Err(Wrong::Io) };
    };
    if whole.iter().any(|byte| matches!(byte, 0 | b'\r')) {
        return violation("CR or NUL in a line", &line);
    }
    Ok(whole.to_vec())
}

/// Names and values, as they came.
type Fields = Vec<(Vec<u8>, Vec<u8>)>;

fn headers(reader: &mut impl BufRead) -> Result<Fields, Wrong> {
    let mut headers = Vec::new();
    loop {
        let line = line(reader)?;
        if line.is_empty() {
            return Ok(headers);
        }
        let Some(colon) = line.iter().position(|byte| *byte == b':') else {
            return violation("a header without a colon", &line);
        };
        let (name, value) = (&line[..colon], line[colon + 1..].trim_ascii());
        if name.is_empty() || !name.iter().all(|byte| is_token(*byte)) {
            return violation("no header name", &line);
        }
        if value.iter().any(|byte| byte.is_ascii_control() && *byte != b'\t') {
            return violation("a control character in a header", &line);
        }
        headers.push((name.to_ascii_lowercase(), value.to_vec()));
    }
}

fn body(reader: &mut impl BufRead, headers: &[(Vec<u8>, Vec<u8>)]) -> Result<Vec<u8>, Wrong> {
    let all = |wanted: &[u8]| -> Vec<&[u8]> {
        headers.iter().filter(|(name, _)| name == wanted).map(|(_, value)| &value[..]).collect()
    };
    if all(b"host").len() != 1 {
        return violation("not one host", &all(b"host").join(&b" | "[..]));
    }
    match (&all(b"content-length")[..], &all(b"transfer-encoding")[..]) {
        ([], []) => Ok(Vec::new()),
        ([length], []) => {
            let digits = std::str::from_utf8(length).ok().filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()));
            let Some(length) = digits.and_then(|digits| digits.parse::<u64>().ok()) else {
                return violation("no content-length", length);
            };
            let mut body = Vec::new();
            reader.take(length).read_to_end(&mut body)?;
            if body.len() as u64 == length { Ok(body) } else { Err(Wrong::Io) }
        }
        ([], [coding]) if coding.eq_ignore_ascii_case(b"chunked") => chunks(reader),
        (lengths, codings) => violation("no framing", &[lengths, codings].concat().join(&b" | "[..])),
    }
}

fn chunks(reader: &mut impl BufRead) -> Result<Vec<u8>, Wrong> {
    let mut body = Vec::new();
    loop {
        let size = line(reader)?;
        let digits = std::str::from_utf8(&size).ok().filter(|text| text.bytes().all(|byte| byte.is_ascii_hexdigit()));
        let Some(size) = digits.and_then(|digits| u64::from_str_radix(digits, 16).ok()) else {
            return violation("no chunk size", &size);
        };
        if size == 0 {
            let trailers = headers(reader)?;
            let framing = |name: &[u8]| matches!(name, b"content-length" | b"transfer-encoding" | b"host");
            return match trailers.iter().find(|(name, _)| framing(name)) {
                Some((name, _)) => violation("a trailer that frames or routes", name),
                None => Ok(body),
            };
        }
        let before = body.len() as u64;
        reader.take(size).read_to_end(&mut body)?;
        if body.len() as u64 - before != size {
            return Err(Wrong::Io);
        }
        let end = line(reader)?;
        if !end.is_empty() {
            return violation("a chunk that is longer than its size", &end);
        }
    }
}

fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(bytes: &[u8]) -> Result<Option<Request>, Wrong> {
        request(&mut &bytes[..], &mut io::sink())
    }

    #[test]
    fn plain_requests_are_taken() {
        for (text, body) in [
            ("GET / HTTP/1.1\r\nHost: a\r\n\r\n", ""),
            ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nab", "ab"),
            ("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n0\r\nX: y\r\n\r\n", "ab"),
        ] {
            let Ok(Some(request)) = read(text.as_bytes()) else { panic!("{text:?} was not taken") };
            assert_eq!(request.body, body.as_bytes());
        }
    }

    #[test]
    fn everything_else_is_a_violation() {
        for text in [
            "GET / HTTP/1.1\nHost: a\r\n\r\n",
            "GET  / HTTP/1.1\r\nHost: a\r\n\r\n",
            "GET / HTTP/1.1\r\nHost : a\r\n\r\n",
            "GET / HTTP/1.1\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: a\r\nX: a\rb\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: a\r\nX: b\r\n c\r\n\r\n",
            "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: +2\r\n\r\nab",
            "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\nContent-Length: 2\r\n\r\nab",
            "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n2;x\r\nab\r\n0\r\n\r\n",
            "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nabc\r\n0\r\n\r\n",
        ] {
            assert!(matches!(read(text.as_bytes()), Err(Wrong::Violation(_))), "{text:?}");
        }
    }

    #[test]
    fn what_ends_in_the_middle_is_no_request() {
        for text in ["GET / HT", "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nab"] {
            assert!(matches!(read(text.as_bytes()), Err(Wrong::Io)), "{text:?}");
        }
    }
}
