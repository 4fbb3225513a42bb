//! The client: sends what a case has, byte for byte, and reads what comes.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use super::corpus::{Case, Piece, Sent, Wanted};
use super::h2;

/// For answers that are to come.
const PATIENCE: Duration = Duration::from_secs(3);
/// For answers that are not to come.
const QUIET: Duration = Duration::from_millis(60);
const PAUSE: Duration = Duration::from_millis(50);

pub type Connect<'a> = dyn Fn() -> io::Result<TcpStream> + 'a;

/// What came back.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Answers {
    /// Those of 1xx are not among them. Of HTTP/2, 0 is a stream that was reset or refused.
    pub statuses: Vec<u16>,
    pub closed: bool,
}

pub fn connect(target: SocketAddr) -> io::Result<TcpStream> {
    let stream = TcpStream::connect_timeout(&target, PATIENCE)?;
    stream.set_nodelay(true)?;
    stream.set_write_timeout(Some(PATIENCE))?;
    Ok(stream)
}

pub fn play(case: &Case, connect: &Connect) -> io::Result<Answers> {
    let wanted = case.wanted.iter().map(|sequence| answers(sequence)).max().unwrap_or_default();
    let mut stream = connect()?;
    match &case.sent {
        Sent::Bytes(pieces) => {
            let mut got = Vec::new();
            let mut closed = !send(&mut stream, pieces, &mut got);
            closed = receive(&mut stream, &mut got, closed, |got| statuses(got).len() >= wanted)?;
            Ok(Answers { statuses: statuses(&got), closed })
        }
        Sent::H2(streams) => {
            let mut got = Vec::new();
            let sent = stream.write_all(&h2::encode(streams)).is_ok();
            let closed =
                receive(&mut stream, &mut got, !sent, |got| h2::statuses(got, streams.len()).len() >= streams.len())?;
            Ok(Answers { statuses: h2::statuses(&got, streams.len()), closed })
        }
    }
}

/// How many answers such a sequence has.
fn answers(sequence: &[Wanted]) -> usize {
    sequence.iter().filter(|item| !matches!(item, Wanted::Closed)).count()
}

/// Somebody else's request, a moment later: what it is answered.
pub fn bystander(connect: &Connect) -> Result<(), String> {
    let ask = || -> io::Result<Vec<u8>> {
        let mut stream = connect()?;
        stream.write_all(b"GET /bystander HTTP/1.1\r\nHost: test\r\n\r\n")?;
        let mut got = Vec::new();
        receive(&mut stream, &mut got, false, |got| got.ends_with(b"\r\n\r\nGET /bystander"))?;
        Ok(got)
    };
    let got = ask().map_err(|error| error.to_string())?;
    let own = statuses(&got) == [200] && got.ends_with(b"\r\n\r\nGET /bystander");
    if own { Ok(()) } else { Err(super::bytes::shown(&got)) }
}

/// Whether everything went out; what comes meanwhile is kept, so that both sides go on.
fn send(stream: &mut TcpStream, pieces: &[Piece], got: &mut Vec<u8>) -> bool {
    // What stands together goes out together.
    let mut together = Vec::new();
    for (i, piece) in pieces.iter().enumerate() {
        if let Piece::Bytes(bytes) = piece {
            together.extend_from_slice(bytes);
            if matches!(pieces.get(i + 1), Some(Piece::Bytes(_))) {
                continue;
            }
        }
        if stream.write_all(&std::mem::take(&mut together)).is_err() {
            // Refused in the middle: the answer may be there all the same.
            let _ = stream.set_nonblocking(true);
            let _ = stream.read_to_end(got);
            return false;
        }
        match piece {
            Piece::Bytes(_) => {}
            Piece::Pause => std::thread::sleep(PAUSE),
            Piece::End => drop(stream.shutdown(Shutdown::Write)),
        }
    }
    true
}

/// Reads until enough is there, then a moment longer, then says that no more comes and reads to the end. Whether the other side had closed
/// before that.
fn receive(
    stream: &mut TcpStream,
    got: &mut Vec<u8>,
    closed: bool,
    enough: impl Fn(&[u8]) -> bool,
) -> io::Result<bool> {
    if closed {
        return Ok(true);
    }
    let begun = Instant::now();
    let mut since_enough: Option<Instant> = None;
    let mut some = [0; 16 << 10];
    loop {
        let left = match since_enough {
            Some(since) => QUIET.saturating_sub(since.elapsed()),
            None => PATIENCE.saturating_sub(begun.elapsed()),
        };
        if left.is_zero() {
            break;
        }
        stream.set_read_timeout(Some(left))?;
        match stream.read(&mut some) {
            Ok(0) => return Ok(true),
            Ok(count) => got.extend_from_slice(&some[..count]),
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            // A RST.
            Err(_) => return Ok(true),
        }
        if since_enough.is_none() && enough(got) {
            since_enough = Some(Instant::now());
        }
    }
    Ok(false)
}

/// Of all responses, by where they begin: their bodies have no line like that in this corpus.
fn statuses(got: &[u8]) -> Vec<u16> {
    let begin = |window: &[u8]| window.starts_with(b"HTTP/1.") && window[8] == b' ';
    let found = got.windows(12).filter(|window| begin(window));
    let status = |window: &[u8]| std::str::from_utf8(&window[9..12]).ok()?.parse().ok();
    found.filter_map(status).filter(|status| *status >= 200).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statuses_are_found_behind_each_other() {
        let got =
            b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nGET /aHTTP/1.0 400 Bad\r\n\r\n";
        assert_eq!(statuses(got), [200, 400]);
        assert!(statuses(b"HTTP/1.1 20").is_empty());
    }
}
