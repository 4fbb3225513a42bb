//! HTTP/2 as no library would send it: frames with header fields as literals (RFC 7541 section 6.2.2), unchecked.

/// A request on a stream of its own.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stream {
    pub fields: Vec<(Vec<u8>, Vec<u8>)>,
    pub data: Vec<Vec<u8>>,
    pub trailers: Vec<(Vec<u8>, Vec<u8>)>,
    /// Whole frames, sent before the stream's own.
    pub raw: Vec<u8>,
}

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const GOAWAY: u8 = 7;
const CONTINUATION: u8 = 9;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;
const PADDED: u8 = 8;
const PRIORITY: u8 = 0x20;
/// The smallest that a peer may have for its limit (RFC 9113 section 4.2).
const LARGEST_FRAME: usize = 16_384;

pub fn encode(streams: &[Stream]) -> Vec<u8> {
    let mut bytes = PREFACE.to_vec();
    frame(&mut bytes, SETTINGS, 0, 0, &[]);
    for (i, stream) in streams.iter().enumerate() {
        let id = 1 + 2 * i as u32;
        bytes.extend(&stream.raw);
        if stream.fields.is_empty() {
            continue;
        }
        let last = if stream.data.is_empty() && stream.trailers.is_empty() { END_STREAM } else { 0 };
        block(&mut bytes, id, last, &stream.fields);
        for (i, data) in stream.data.iter().enumerate() {
            let last = i + 1 == stream.data.len() && stream.trailers.is_empty();
            frame(&mut bytes, DATA, if last { END_STREAM } else { 0 }, id, data);
        }
        if !stream.trailers.is_empty() {
            block(&mut bytes, id, END_STREAM, &stream.trailers);
        }
    }
    bytes
}

fn block(bytes: &mut Vec<u8>, id: u32, flags: u8, fields: &[(Vec<u8>, Vec<u8>)]) {
    let mut block = Vec::new();
    for (name, value) in fields {
        block.push(0);
        for text in [name, value] {
            integer(&mut block, text.len());
            block.extend(text);
        }
    }
    let mut parts = block.chunks(LARGEST_FRAME).peekable();
    let mut kind = HEADERS;
    while let Some(part) = parts.next() {
        let end = if parts.peek().is_none() { END_HEADERS } else { 0 };
        frame(bytes, kind, end | if kind == HEADERS { flags } else { 0 }, id, part);
        kind = CONTINUATION;
    }
}

/// A length with a prefix of 7 bits (RFC 7541 section 5.1), not Huffman-coded.
fn integer(block: &mut Vec<u8>, value: usize) {
    if value < 127 {
        block.push(value as u8);
        return;
    }
    block.push(127);
    let mut rest = value - 127;
    while rest >= 128 {
        block.push((rest % 128) as u8 | 128);
        rest /= 128;
    }
    block.push(rest as u8);
}

fn frame(bytes: &mut Vec<u8>, kind: u8, flags: u8, id: u32, payload: &[u8]) {
    bytes.extend(&(payload.len() as u32).to_be_bytes()[1..]);
    bytes.extend([kind, flags]);
    bytes.extend(id.to_be_bytes());
    bytes.extend(payload);
}

/// The answer of each stream that has one, by the order of the streams; 0: reset, or the connection refused with GOAWAY.
pub fn statuses(got: &[u8], streams: usize) -> Vec<u16> {
    let mut answers: Vec<Option<u16>> = vec![None; streams];
    let mut rest = got;
    while let Some((head, after)) = rest.split_at_checked(9) {
        let length = (usize::from(head[0]) << 16) | (usize::from(head[1]) << 8) | usize::from(head[2]);
        let Some((payload, after)) = after.split_at_checked(length) else { break };
        rest = after;
        let id = u32::from_be_bytes([head[5], head[6], head[7], head[8]]) as usize;
        match head[3] {
            // GOAWAY without an error is the beginning of an ordinary end.
            GOAWAY if payload.get(4..8).is_some_and(|error| error != [0; 4]) => {
                answers.iter_mut().filter(|answer| answer.is_none()).for_each(|answer| *answer = Some(0));
            }
            kind @ (HEADERS | RST_STREAM) if id % 2 == 1 => {
                let Some(answer) = answers.get_mut(id / 2) else { continue };
                let status = if kind == HEADERS { status(payload, head[4]) } else { Some(0) };
                // A reset after the answer says that the rest of the request is not wanted.
                *answer = answer.filter(|status| *status >= 200).or(status);
            }
            _ => {}
        }
    }
    answers.into_iter().flatten().filter(|status| *status == 0 || *status >= 200).collect()
}

/// `:status` is the first field of a response; of trailers, which have none, nothing is made.
fn status(payload: &[u8], flags: u8) -> Option<u16> {
    let mut block = payload;
    if flags & PADDED != 0 {
        block = block.get(1..)?;
    }
    if flags & PRIORITY != 0 {
        block = block.get(5..)?;
    }
    // Updates of the table's size.
    while block.first()? & 0xe0 == 0x20 {
        block = block.get(1..)?;
    }
    // RFC 7541 Appendix A: 8 to 14 are `:status` with these values, 8 is its name.
    match block.first()? {
        index @ 0x88..=0x8e => Some([200, 204, 206, 304, 400, 404, 500][usize::from(index - 0x88)]),
        0x08 | 0x18 | 0x48 => digits(block.get(2..)?.get(..usize::from(block.get(1)? & 0x7f))?, block[1] & 0x80 != 0),
        _ => None,
    }
}

fn digits(text: &[u8], huffman: bool) -> Option<u16> {
    if !huffman {
        return std::str::from_utf8(text).ok()?.parse().ok();
    }
    // RFC 7541 Appendix B: 0, 1 and 2 have five bits (0 to 2), 3 to 9 have six (25 to 31).
    let bits: Vec<u16> =
        text.iter().flat_map(|byte| (0..8).rev().map(move |bit| u16::from((byte >> bit) & 1))).collect();
    let value = |bits: &[u16]| bits.iter().fold(0, |value, bit| (value << 1) | bit);
    let (mut rest, mut number) = (&bits[..], 0);
    for _ in 0..3 {
        let (digit, length) = match (value(rest.get(..5)?), rest.get(..6).map(value)) {
            (digit @ 0..=2, _) => (digit, 5),
            (_, Some(code @ 25..=31)) => (code - 22, 6),
            _ => return None,
        };
        number = number * 10 + digit;
        rest = &rest[length..];
    }
    Some(number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_have_as_many_bytes_as_they_need() {
        let encoded = |value| {
            let mut block = Vec::new();
            integer(&mut block, value);
            block
        };
        // The second: RFC 7541 section C.1.2, with another prefix.
        assert_eq!([encoded(126), encoded(1337), encoded(127)], [vec![126], vec![127, 0xba, 0x09], vec![127, 0]]);
    }

    #[test]
    fn a_status_is_read_in_each_of_its_forms() {
        assert_eq!(status(&[0x88], 0), Some(200));
        assert_eq!(status(&[0x20, 0x8c], 0), Some(400));
        assert_eq!(status(b"\x08\x03431", 0), Some(431));
        // RFC 7541 section C.6.1: 302.
        assert_eq!(status(&[0x48, 0x82, 0x64, 0x02], 0), Some(302));
        assert_eq!(status(b"\x40\x01a\x01b", 0), None);
    }

    #[test]
    fn answers_stand_in_the_order_of_their_streams() {
        let mut got = Vec::new();
        frame(&mut got, HEADERS, END_HEADERS, 3, &[0x8d]);
        frame(&mut got, RST_STREAM, 0, 1, &[0, 0, 0, 1]);
        assert_eq!(statuses(&got, 3), [0, 404]);
        frame(&mut got, GOAWAY, 0, 0, &[0, 0, 0, 5, 0, 0, 0, 0]);
        assert_eq!(statuses(&got, 3), [0, 404]);
        frame(&mut got, GOAWAY, 0, 0, &[0, 0, 0, 3, 0, 0, 0, 1]);
        assert_eq!(statuses(&got, 3), [0, 404, 0]);
    }
}
