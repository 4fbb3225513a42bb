//! One request and its answer on a connection that is kept, with sockets that block: for what has to be timed.

use std::io::{self, BufRead, BufReader, Read, Write};

#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub body: Vec<u8>,
}

/// `request`: as it goes over the wire.
pub fn exchange<S: Read + Write>(stream: &mut BufReader<S>, request: &[u8]) -> io::Result<Answer> {
    stream.get_mut().write_all(request)?;
    stream.get_mut().flush()?;
    let first = line(stream)?;
    let status = first.split(' ').nth(1).and_then(|code| code.parse().ok());
    let status = status.ok_or_else(|| wrong(format!("{first:?} begins no answer")))?;
    let (mut length, mut chunked) = (0, false);
    loop {
        let header = line(stream)?;
        let Some((name, value)) = header.split_once(':') else { break };
        match name.to_ascii_lowercase().as_str() {
            "content-length" => length = value.trim().parse().map_err(|_| wrong(format!("{header:?}")))?,
            "transfer-encoding" => chunked = value.trim().eq_ignore_ascii_case("chunked"),
            _ => {}
        }
    }
    let mut body = Vec::new();
    if !chunked {
        take(stream, length, &mut body)?;
        return Ok(Answer { status, body });
    }
    loop {
        let size = line(stream)?;
        let size = usize::from_str_radix(size.split(';').next().unwrap_or_default().trim(), 16);
        let size = size.map_err(|_| wrong("a chunk without its size".to_owned()))?;
        take(stream, size, &mut body)?;
        line(stream)?;
        if size == 0 {
            return Ok(Answer { status, body });
        }
    }
}

/// Without its end.
fn line(stream: &mut impl BufRead) -> io::Result<String> {
    let mut line = String::new();
    if stream.read_line(&mut line)? == 0 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(line.trim_end().to_owned())
}

fn take(stream: &mut impl Read, length: usize, into: &mut Vec<u8>) -> io::Result<()> {
    let before = into.len();
    into.resize(before + length, 0);
    stream.read_exact(&mut into[before..])
}

fn wrong(what: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Wire(io::Cursor<&'static str>);

    impl Read for Wire {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            self.0.read(buffer)
        }
    }

    impl Write for Wire {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn answers_are_read_to_their_end_and_no_further() {
        let text = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhiHTTP/1.1 404 Not Found\r\ntransfer-encoding: chunked\r\n\r\n\
                    3\r\nabc\r\n1;x\r\nd\r\n0\r\n\r\nHTTP/1.1 204 No Content\r\n\r\n";
        let mut stream = BufReader::new(Wire(io::Cursor::new(text)));
        for (status, body) in [(200, "hi"), (404, "abcd"), (204, "")] {
            let answer = exchange(&mut stream, b"").unwrap();
            assert_eq!((answer.status, &*answer.body), (status, body.as_bytes()));
        }
        assert!(exchange(&mut stream, b"").is_err());
    }
}
