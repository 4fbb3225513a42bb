//! Where requests of HTTP/1 begin and end (RFC 9112), read before hyper does and more strictly. What two servers might read differently
//! is refused here: hyper takes a line that ends with LF alone, `Content-Length` beside `Transfer-Encoding`, codings before `chunked`, and
//! spaces after the size of a chunk. Whatever passes, hyper reads as it is read here: it takes more, never otherwise.

use memchr::memchr;

use super::answer::Reason;
use crate::ir::http::Limits;

/// Follows the bytes of a connection.
#[derive(Debug, Default)]
pub struct Framing {
    state: State,
    /// Requests whose heads are whole.
    heads: u64,
}

#[derive(Debug)]
enum State {
    /// In a head, of which this much has been looked at.
    Head(Head),
    /// So much of a body is to come. An upgrade may come after it.
    Length {
        left: u64,
        upgrade: bool,
    },
    Chunked {
        at: Chunk,
        fields: Fields,
        upgrade: bool,
    },
    /// After a request that may turn the connection into something else: nothing passes before it is answered.
    Upgrading,
}

impl Default for State {
    fn default() -> State {
        State::Head(Head::default())
    }
}

#[derive(Debug, Default)]
struct Head {
    /// Of the head, up to the end of its last whole line.
    lines: usize,
    /// Of the head, without an LF behind `lines`.
    scanned: usize,
    /// Once its line has been read.
    request: Option<Request>,
    fields: Fields,
}

#[derive(Clone, Copy, Debug)]
struct Request {
    http11: bool,
    /// Where its line ends.
    end: usize,
}

/// What lines of a head, or of trailers, have said so far.
#[derive(Debug, Default)]
struct Fields {
    count: usize,
    length: Option<u64>,
    chunked: bool,
    upgrade: bool,
}

/// Where in a chunked body.
#[derive(Clone, Copy, Debug)]
enum Chunk {
    /// In the line of its size, after so many digits.
    Size {
        size: u64,
        digits: u8,
    },
    /// Behind a `;`, so many bytes.
    Extension {
        size: u64,
        bytes: u16,
    },
    SizeLf {
        size: u64,
    },
    Data {
        left: u64,
    },
    DataCr,
    DataLf,
    /// In a line of the trailers.
    Trailer {
        bytes: usize,
        line: usize,
        colon: bool,
        cr: bool,
    },
}

/// Digits of the size of a chunk: 4 PiB are enough.
const DIGITS: u8 = 13;
/// Extensions mean nothing to anybody; they are not passed on.
const EXTENSION: u16 = 256;

/// What of the bytes that came may be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Passed {
    /// So many from the first.
    pub bytes: usize,
    /// What is wrong behind them: in a head, of which nothing has passed, or in a body.
    pub refused: Option<Refused>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    Head(Reason),
    Body,
}

impl Framing {
    /// `bytes`: those that have come behind the last that passed, and so all of a head that has begun.
    pub fn pass(&mut self, bytes: &[u8], limits: &Limits) -> Passed {
        let mut passed = 0;
        let refused = loop {
            let rest = &bytes[passed..];
            if rest.is_empty() {
                break None;
            }
            match self.step(rest, limits) {
                Ok(0) => break None,
                Ok(n) => passed += n,
                Err(refused) => break Some(refused),
            }
        };
        Passed { bytes: passed, refused }
    }

    /// How many bytes of those that are there belong to what is under way; 0: what is there is not enough.
    fn step(&mut self, bytes: &[u8], limits: &Limits) -> Result<usize, Refused> {
        match &mut self.state {
            State::Head(head) => {
                let Some(end) = head.read(bytes, limits).map_err(Refused::Head)? else { return Ok(0) };
                let Fields { length, chunked, upgrade, .. } = head.fields;
                self.heads += 1;
                self.state = if chunked {
                    State::Chunked { at: Chunk::FIRST, fields: Fields::default(), upgrade }
                } else {
                    after_body(length.unwrap_or(0), upgrade)
                };
                Ok(end)
            }
            State::Length { left, upgrade } => {
                let some = usize::try_from(*left).unwrap_or(usize::MAX).min(bytes.len());
                self.state = after_body(*left - some as u64, *upgrade);
                Ok(some)
            }
            State::Chunked { at, fields, upgrade } => {
                let mut read = 0;
                while read < bytes.len() {
                    let (n, next) = match at.read(&bytes[read..], fields, limits) {
                        Some(step) => step,
                        None if read > 0 => break,
                        None => return Err(Refused::Body),
                    };
                    read += n;
                    let Some(next) = next else {
                        self.state = after_body(0, *upgrade);
                        break;
                    };
                    *at = next;
                }
                Ok(read)
            }
            State::Upgrading => Ok(0),
        }
    }

    /// Requests whose heads are whole.
    pub fn heads(&self) -> u64 {
        self.heads
    }

    pub fn in_body(&self) -> bool {
        matches!(self.state, State::Length { .. } | State::Chunked { .. })
    }

    /// Nothing passes.
    pub fn is_upgrading(&self) -> bool {
        matches!(self.state, State::Upgrading)
    }

    /// The request has been answered, and the connection stays what it was.
    pub fn not_upgraded(&mut self) {
        self.state = State::default();
    }
}

fn after_body(left: u64, upgrade: bool) -> State {
    match (left, upgrade) {
        (0, false) => State::default(),
        (0, true) => State::Upgrading,
        (left, upgrade) => State::Length { left, upgrade },
    }
}

impl Head {
    /// `bytes`: the head from its first byte. Its length when it is whole.
    fn read(&mut self, bytes: &[u8], limits: &Limits) -> Result<Option<usize>, Reason> {
        // An empty line may be left over from the body before (RFC 9112 section 2.2).
        if self.lines == 0 && bytes.starts_with(b"\r\n") {
            (self.lines, self.scanned) = (2, 2);
        }
        while let Some(at) = memchr(b'\n', &bytes[self.scanned..]) {
            let end = self.scanned + at + 1;
            self.check_size(end, limits)?;
            let line = &bytes[self.lines..end];
            let line = line.strip_suffix(b"\r\n").ok_or(Reason::BadRequest)?;
            (self.lines, self.scanned) = (end, end);
            match self.request {
                None => self.request = Some(Request { http11: request_line(line, limits)?, end }),
                Some(request) if line.is_empty() => {
                    self.fields.check(request)?;
                    return Ok(Some(end));
                }
                Some(_) => self.fields.read(line, limits)?,
            }
        }
        self.scanned = bytes.len();
        let begun = &bytes[self.lines..];
        match (self.request, begun) {
            // TLS, say: there is no sense in waiting for the end of a line.
            (None, [first, ..]) if !is_token(*first) && begun != b"\r" => Err(Reason::BadRequest),
            _ => self.check_size(bytes.len(), limits).map(|()| None),
        }
    }

    fn check_size(&self, bytes: usize, limits: &Limits) -> Result<(), Reason> {
        /// For the method, the version, and an empty line before.
        const REST: usize = 64;
        match self.request {
            None if bytes > limits.uri_bytes + REST => Err(Reason::UriTooLong),
            Some(request) if bytes - request.end > limits.header_bytes => Err(Reason::HeadersTooLarge),
            _ => Ok(()),
        }
    }
}

/// Whether it is of HTTP/1.1.
fn request_line(line: &[u8], limits: &Limits) -> Result<bool, Reason> {
    let mut parts = line.split(|byte| *byte == b' ');
    let (Some(method), Some(target), Some(version), None) = (parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return Err(Reason::BadRequest);
    };
    // A gateway is no tunnel; an authority is no path.
    if method.is_empty() || !method.iter().all(|byte| is_token(*byte)) || method == b"CONNECT" {
        return Err(Reason::BadRequest);
    }
    if target.is_empty() || has(target, |byte| matches!(byte, 0..=b' ' | b'#' | 0x7f)) {
        return Err(Reason::BadRequest);
    }
    if target.len() > limits.uri_bytes {
        return Err(Reason::UriTooLong);
    }
    match version {
        b"HTTP/1.1" => Ok(true),
        b"HTTP/1.0" => Ok(false),
        [b'H', b'T', b'T', b'P', b'/', major, b'.', minor] if major.is_ascii_digit() && minor.is_ascii_digit() => {
            Err(Reason::UnsupportedVersion)
        }
        _ => Err(Reason::BadRequest),
    }
}

impl Fields {
    fn read(&mut self, line: &[u8], limits: &Limits) -> Result<(), Reason> {
        self.count += 1;
        if self.count > limits.headers {
            return Err(Reason::HeadersTooLarge);
        }
        // A line that goes on with the one before begins with a space, which is no token either.
        let colon = line.iter().position(|byte| !is_token(*byte)).filter(|at| *at > 0 && line[*at] == b':');
        let (name, value) = line.split_at(colon.ok_or(Reason::BadRequest)?);
        if has(value, |byte| matches!(byte, 0..=8 | 10..=31 | 0x7f)) {
            return Err(Reason::BadRequest);
        }
        let value = value[1..].trim_ascii();
        match name.len() {
            14 if name.eq_ignore_ascii_case(b"content-length") => {
                let length = digits(value).ok_or(Reason::BadRequest)?;
                if self.length.replace(length).is_some() {
                    return Err(Reason::BadRequest);
                }
            }
            17 if name.eq_ignore_ascii_case(b"transfer-encoding") => {
                if self.chunked {
                    return Err(Reason::BadRequest);
                }
                self.chunked = transfer_coding(value)?;
            }
            7 if name.eq_ignore_ascii_case(b"upgrade") => self.upgrade = true,
            _ => {}
        }
        Ok(())
    }

    fn check(&mut self, request: Request) -> Result<(), Reason> {
        // RFC 9112 section 6.1: the length beside it is to be treated as an attempt at smuggling, and HTTP/1.0 has no chunks.
        if self.chunked && (self.length.is_some() || !request.http11) {
            return Err(Reason::BadRequest);
        }
        self.upgrade &= request.http11;
        Ok(())
    }
}

/// `chunked`, and nothing else. Other codings are well formed as long as that is the last, and once (RFC 9112 section 6.1).
pub fn transfer_coding(value: &[u8]) -> Result<bool, Reason> {
    let mut codings = value.split(|byte| *byte == b',').map(<[u8]>::trim_ascii);
    let is_chunked = |coding: &[u8]| coding.eq_ignore_ascii_case(b"chunked");
    if !codings.next_back().is_some_and(is_chunked) {
        return Err(Reason::BadRequest);
    }
    let mut others = codings.peekable();
    if others.peek().is_none() {
        return Ok(true);
    }
    let well_formed = others.all(|coding| !coding.is_empty() && !is_chunked(coding));
    Err(if well_formed { Reason::UnsupportedCoding } else { Reason::BadRequest })
}

/// The value of a Content-Length.
pub fn digits(value: &[u8]) -> Option<u64> {
    if value.is_empty() || value.len() > 18 {
        return None;
    }
    value.iter().try_fold(0, |sum: u64, byte| byte.is_ascii_digit().then(|| sum * 10 + u64::from(byte - b'0')))
}

impl Chunk {
    const FIRST: Chunk = Chunk::Size { size: 0, digits: 0 };
    const TRAILER: Chunk = Chunk::Trailer { bytes: 0, line: 0, colon: false, cr: false };

    /// How many bytes it took, and what comes then: nothing, at the end of the body. `None`: it is malformed.
    fn read(self, bytes: &[u8], fields: &mut Fields, limits: &Limits) -> Option<(usize, Option<Chunk>)> {
        let byte = *bytes.first()?;
        let next = match (self, byte) {
            (Chunk::Data { left }, _) => {
                let some = usize::try_from(left).unwrap_or(usize::MAX).min(bytes.len());
                let next = match left - some as u64 {
                    0 => Chunk::DataCr,
                    left => Chunk::Data { left },
                };
                return Some((some, Some(next)));
            }
            (Chunk::Size { size, digits }, byte) if byte.is_ascii_hexdigit() => {
                let digit = char::from(byte).to_digit(16)?;
                let digits = digits + 1;
                (digits <= DIGITS).then_some(Chunk::Size { size: size << 4 | u64::from(digit), digits })?
            }
            (Chunk::Size { size, digits: 1.. }, b'\r') => Chunk::SizeLf { size },
            (Chunk::Size { size, digits: 1.. }, b';') => Chunk::Extension { size, bytes: 0 },
            (Chunk::Extension { size, .. }, b'\r') => Chunk::SizeLf { size },
            (Chunk::Extension { size, bytes }, b'\t' | b' '..=b'~') if bytes < EXTENSION => {
                Chunk::Extension { size, bytes: bytes + 1 }
            }
            (Chunk::SizeLf { size: 0 }, b'\n') => Chunk::TRAILER,
            (Chunk::SizeLf { size }, b'\n') => Chunk::Data { left: size },
            (Chunk::DataCr, b'\r') => Chunk::DataLf,
            (Chunk::DataLf, b'\n') => Chunk::FIRST,
            (Chunk::Trailer { bytes, line, colon, cr }, byte) => {
                return trailer(bytes, line, colon, cr, byte, fields, limits).map(|next| (1, next));
            }
            _ => return None,
        };
        Some((1, Some(next)))
    }
}

/// Follows a chunked body by itself, such as that of an answer.
#[derive(Debug, Default)]
pub struct Chunks {
    at: Option<Chunk>,
    fields: Fields,
    limits: Limits,
}

/// What the next bytes are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Piece {
    /// So many of the body's own.
    Data(usize),
    /// So many that only frame it.
    Between(usize),
    /// So many of the trailers.
    Trailers(usize),
    /// The last of them, with the empty line.
    End(usize),
}

impl Chunks {
    /// `bytes`: what follows the last piece, never nothing. `None`: it is malformed.
    pub fn read(&mut self, bytes: &[u8]) -> Option<Piece> {
        let (mut at, mut read) = (self.at.unwrap_or(Chunk::FIRST), 0);
        let begins_with = std::mem::discriminant(&at);
        while read < bytes.len() {
            // A piece is of one kind.
            let is_kind = |chunk: &Chunk| matches!(chunk, Chunk::Data { .. } | Chunk::Trailer { .. });
            if read > 0 && is_kind(&at) && std::mem::discriminant(&at) != begins_with {
                break;
            }
            let (n, next) = at.read(&bytes[read..], &mut self.fields, &self.limits)?;
            read += n;
            match next {
                None => return Some(Piece::End(read)),
                Some(next) if matches!(at, Chunk::Data { .. }) => {
                    self.at = Some(next);
                    return Some(Piece::Data(read));
                }
                Some(next) => at = next,
            }
        }
        self.at = Some(at);
        Some(if matches!(at, Chunk::Trailer { .. }) && begins_with == std::mem::discriminant(&at) {
            Piece::Trailers(read)
        } else {
            Piece::Between(read)
        })
    }
}

/// The byte of a line of the trailers, which hyper keeps until they are whole. Which of them go on, the way
/// out decides.
fn trailer(
    bytes: usize,
    line: usize,
    colon: bool,
    cr: bool,
    byte: u8,
    fields: &mut Fields,
    limits: &Limits,
) -> Option<Option<Chunk>> {
    if bytes >= limits.header_bytes {
        return None;
    }
    let go_on = |line, colon, cr| Some(Some(Chunk::Trailer { bytes: bytes + 1, line, colon, cr }));
    match byte {
        b'\n' if cr && line == 0 => Some(None),
        b'\n' if cr && colon => {
            fields.count += 1;
            if fields.count > limits.headers { None } else { go_on(0, false, false) }
        }
        _ if cr => None,
        b'\r' if line == 0 || colon => go_on(line, colon, true),
        b':' if !colon && line > 0 => go_on(line + 1, true, false),
        byte if !colon && is_token(byte) => go_on(line + 1, false, false),
        b'\t' | b' '..=b'~' | 0x80.. if colon => go_on(line + 1, true, false),
        _ => None,
    }
}

/// Whether one is like that. All are looked at, several at a time: nearly always none is.
fn has(bytes: &[u8], is: impl Fn(u8) -> bool) -> bool {
    bytes.iter().fold(false, |has, byte| has | is(*byte))
}

/// RFC 9110 section 5.6.2.
fn is_token(byte: u8) -> bool {
    const TOKENS: [bool; 256] = {
        let (mut tokens, mut byte, others) = ([false; 256], 0, b"!#$%&'*+-.^_`|~");
        while byte < 256 {
            tokens[byte] = (byte as u8).is_ascii_alphanumeric();
            byte += 1;
        }
        let mut other = 0;
        while other < others.len() {
            tokens[others[other] as usize] = true;
            other += 1;
        }
        tokens
    };
    TOKENS[usize::from(byte)]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limits() -> Limits {
        Limits { uri_bytes: 100, header_bytes: 200, headers: 5, ..Limits::default() }
    }

    /// Fed at once, and byte by byte.
    fn read(bytes: &[u8]) -> (usize, Option<Refused>, u64) {
        let mut at_once = Framing::default();
        let passed = at_once.pass(bytes, &limits());
        let (mut slowly, mut from) = (Framing::default(), 0);
        for to in 1..=bytes.len() {
            let some = slowly.pass(&bytes[from..to], &limits());
            from += some.bytes;
            if some.refused.is_some() {
                assert_eq!((from, some.refused), (passed.bytes, passed.refused), "{}", bytes.escape_ascii());
                return (from, some.refused, slowly.heads());
            }
        }
        assert_eq!((from, None), (passed.bytes, passed.refused), "{}", bytes.escape_ascii());
        assert_eq!(slowly.heads(), at_once.heads());
        (passed.bytes, passed.refused, at_once.heads())
    }

    #[test]
    fn whole_requests_pass_and_begun_heads_do_not() {
        let get = b"GET /a?b=%20 HTTP/1.1\r\nHost: a\r\nX-Empty:\r\nX-Utf8: \xc3\xa9\r\n\r\n";
        assert_eq!(read(get), (get.len(), None, 1));
        assert_eq!(read(&get[..get.len() - 1]), (0, None, 0));
        let two = [&get[..], b"POST / HTTP/1.0\r\nContent-Length: 3\r\n\r\nabc\r\n", get, b"PUT"].concat();
        assert_eq!(read(&two), (two.len() - 3, None, 3));
        let chunked = b"POST / HTTP/1.1\r\nTransfer-Encoding: Chunked\r\n\r\n5\r\nhello\r\n00a;x=\"y\"\r\n0123456789\r\n0\r\nX: y\r\n\r\nG";
        assert_eq!(read(chunked), (chunked.len() - 1, None, 1));
    }

    #[test]
    fn what_has_two_readings_is_refused() {
        for line in [
            "Content-Length: 1\r\nTransfer-Encoding: chunked",
            "Transfer-Encoding: chunked\r\nContent-Length: 1",
            "Content-Length: 1\r\nContent-Length: 1",
            "Content-Length: 1, 1",
            "Content-Length: +1",
            "Content-Length: -1",
            "Content-Length: 0x1",
            "Content-Length: 1 1",
            "Content-Length:",
            "Content-Length: 99999999999999999999",
            "Content-Length : 1",
            "Content-Length\t: 1",
            " Content-Length: 1",
            "A: b\r\n c",
            "A: b\r\n\tc",
            "A: b\nC: d",
            "A: b\rC: d",
            "A: b\r",
            "A: b\0",
            "A: b\x0b",
            "A",
            ": b",
            "A\x00: b",
            "A(: b",
            "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
            "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity",
            "Transfer-Encoding: identity",
            "Transfer-Encoding: chunked, identity",
            "Transfer-Encoding: chunked, chunked",
            "Transfer-Encoding: ,chunked",
            "Transfer-Encoding: xchunked",
            "Transfer-Encoding: \x0bchunked",
            "Transfer-Encoding: \"chunked\"",
            "Transfer-Encoding: chunked;a=b",
            "Transfer-Encoding : chunked",
        ] {
            let request = format!("POST / HTTP/1.1\r\nHost: a\r\n{line}\r\n\r\nGET /");
            assert_eq!(read(request.as_bytes()).1, Some(Refused::Head(Reason::BadRequest)), "{line:?}");
        }
        for line in [
            "GET  / HTTP/1.1",
            " GET / HTTP/1.1",
            "GET / HTTP/1.1 ",
            "GET /\tHTTP/1.1",
            "GET / HTTP/1.1\r",
            "GET /",
            "GET",
            "G(T / HTTP/1.1",
            "GET /a#b HTTP/1.1",
            "GET /\x01 HTTP/1.1",
            "GET / http/1.1",
            "GET / HTTP/1.1.1",
            "GET / HTTP/11",
            "CONNECT a:1 HTTP/1.1",
            "\x16\x03\x01",
            "\r\n\r\nGET / HTTP/1.1",
            "\nGET / HTTP/1.1",
        ] {
            let request = format!("{line}\r\nHost: a\r\n\r\n");
            assert_eq!(read(request.as_bytes()).1, Some(Refused::Head(Reason::BadRequest)), "{line:?}");
        }
        assert_eq!(read(b"GET / HTTP/1.1\nHost: a\n\n").1, Some(Refused::Head(Reason::BadRequest)));
        assert_eq!(read(b"\x16\x03").1, Some(Refused::Head(Reason::BadRequest)));
    }

    #[test]
    fn what_is_not_served_has_its_own_answer() {
        let request = |line: &str, rest: &str| read(format!("{line}\r\n{rest}\r\n\r\n").as_bytes()).1;
        let refused = |reason| Some(Refused::Head(reason));
        assert_eq!(request("GET / HTTP/2.0", "a: b"), refused(Reason::UnsupportedVersion));
        assert_eq!(request("GET / HTTP/1.2", "a: b"), refused(Reason::UnsupportedVersion));
        assert_eq!(request("POST / HTTP/1.1", "Transfer-Encoding: gzip, chunked"), refused(Reason::UnsupportedCoding));
        assert_eq!(request("POST / HTTP/1.0", "Transfer-Encoding: chunked"), refused(Reason::BadRequest));
        let long = "x".repeat(100);
        assert_eq!(request(&format!("GET /{long} HTTP/1.1"), "a: b"), refused(Reason::UriTooLong));
        assert_eq!(read(format!("GET /{long}{long}").as_bytes()).1, refused(Reason::UriTooLong));
        assert_eq!(request("GET / HTTP/1.1", &format!("a: {long}{long}")), refused(Reason::HeadersTooLarge));
        assert_eq!(request("GET / HTTP/1.1", &["a: b"; 6].join("\r\n")), refused(Reason::HeadersTooLarge));
        assert_eq!(request("GET / HTTP/1.1", &["a: b"; 5].join("\r\n")), None);
    }

    #[test]
    fn chunks_are_exact() {
        for body in [
            "5\nhello",
            "5 \r\n",
            " 5\r\n",
            "\r\n",
            ";\r\n",
            "0x5\r\n",
            "g\r\n",
            "5\rhello",
            "5\r\nhello5",
            "5\r\nhello\n",
            "5\r\nhello\r5",
            "+5\r\n",
            "-5\r\n",
            "5;a\nb",
            "5;a\rb",
            "0\rX",
            "5;\x01",
            "0\r\n\n",
            "0\r\nX\r\n",
            "0\r\n X: y\r\n",
            "0\r\nX : y\r\n",
            "0\r\nX: \x01",
            "0\r\nX: y\n",
            "0\r\n: y",
            "00000000000001\r\n",
            "ffffffffffffffff\r\n",
        ] {
            let request = format!("POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n{body}");
            assert_eq!(read(request.as_bytes()).1, Some(Refused::Body), "{body:?}");
        }
        let long = format!("POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n5;{}", "x".repeat(300));
        assert_eq!(read(long.as_bytes()).1, Some(Refused::Body));
        let trailers = "X: y\r\n".repeat(6);
        let many = format!("POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n{trailers}\r\n");
        assert_eq!(read(many.as_bytes()).1, Some(Refused::Body));
    }

    #[test]
    fn nothing_passes_behind_an_upgrade_before_its_answer() {
        let upgrade = b"GET / HTTP/1.1\r\nUpgrade: websocket\r\nConnection: upgrade\r\n\r\n";
        let both = [&upgrade[..], b"\x81\x00GET"].concat();
        let mut framing = Framing::default();
        assert_eq!(framing.pass(&both, &limits()), Passed { bytes: upgrade.len(), refused: None });
        assert!(framing.is_upgrading());
        framing.not_upgraded();
        assert_eq!(framing.pass(b"\x81\x00GET", &limits()).refused, Some(Refused::Head(Reason::BadRequest)));
        let old = b"GET / HTTP/1.0\r\nUpgrade: websocket\r\n\r\nGET";
        assert_eq!(Framing::default().pass(old, &limits()).bytes, old.len() - 3);
    }
}
