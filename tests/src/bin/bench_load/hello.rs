//! ClientHellos as clients send them, without the cryptography: keys are bytes of a pattern that no server looks at here.

use anyhow::{Context, Result, ensure};
use clap::{Args, ValueEnum};

/// Digits of a number in a name.
const DIGITS: usize = 5;
/// Stands for the number in [`Names::name`].
const NUMBER: char = '#';

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Shape {
    /// X25519 alone, padded to 512 bytes as browsers did until 2024: one segment.
    Classic,
    /// X25519MLKEM768 beside X25519, as browsers, Go and OpenSSL 3.5 send it: 1,750 bytes, two segments.
    PostQuantum,
}

/// Which hellos are sent.
#[derive(Args)]
pub struct Names {
    /// The server name; a `#` in it stands for a number of five digits, from 0 on.
    #[arg(long, requires = "hello")]
    name: Option<String>,
    /// How many names there are; each connection takes the next.
    #[arg(long, default_value_t = 1)]
    names: u32,
    /// Send a ClientHello of this shape, and take a TLS handshake record for an answer.
    #[arg(long, value_enum, requires = "name")]
    hello: Option<Shape>,
}

impl Names {
    /// None if no TLS is wanted.
    pub fn hellos(&self) -> Result<Option<Hellos>> {
        match (&self.name, self.hello) {
            (Some(name), Some(shape)) => Hellos::new(name, self.names, shape).map(Some),
            _ => Ok(None),
        }
    }
}

/// A ClientHello for one name after the other. They differ in the digits only, so that many names need no more memory here
/// than one.
pub struct Hellos {
    bytes: Vec<u8>,
    /// Where the digits are, if the name has some.
    digits: Option<usize>,
    names: u32,
    next: u32,
}

impl Hellos {
    fn new(name: &str, names: u32, shape: Shape) -> Result<Hellos> {
        ensure!(names >= 1 && names <= 10_u32.pow(DIGITS as u32), "--names {names}: five digits have 100,000 at most");
        ensure!(name.len() <= 64, "--name {name}: longer than 64 bytes, which the padding leaves no room for");
        let number = name.find(NUMBER);
        ensure!(names == 1 || number.is_some(), "--name {name}: many names need a `{NUMBER}` where they differ");
        let name = name.replacen(NUMBER, &"0".repeat(DIGITS), 1);
        let bytes = client_hello(name.as_bytes(), shape);
        let at = bytes.windows(name.len()).position(|window| window == name.as_bytes()).context("the name got lost")?;
        Ok(Hellos { bytes, digits: number.map(|number| at + number), names, next: 0 })
    }

    /// The hello of the next name.
    pub fn next(&mut self) -> &[u8] {
        if let Some(at) = self.digits {
            let mut rest = self.next;
            for digit in self.bytes[at..at + DIGITS].iter_mut().rev() {
                *digit = b'0' + (rest % 10) as u8;
                rest /= 10;
            }
            self.next = (self.next + 1) % self.names;
        }
        &self.bytes
    }
}

/// One TLS record with a TLS 1.3 ClientHello (RFC 8446 section 4.1.2).
fn client_hello(name: &[u8], shape: Shape) -> Vec<u8> {
    let pattern = |length: usize| (0..length).map(|i| (i * 37 + 11) as u8).collect::<Vec<_>>();
    let groups: &[u16] = match shape {
        Shape::Classic => &[0x001d, 0x0017, 0x0018],
        Shape::PostQuantum => &[0x11ec, 0x001d, 0x0017, 0x0018],
    };
    // X25519MLKEM768: 1,184 bytes of ML-KEM and 32 of X25519.
    let x25519 = [&[0x00, 0x1d][..], &prefixed(2, &pattern(32))].concat();
    let shares = match shape {
        Shape::Classic => x25519,
        Shape::PostQuantum => [&[0x11, 0xec][..], &prefixed(2, &pattern(1216)), &x25519].concat(),
    };
    let mut extensions = [
        // As Chromium sends them: the order is shuffled on each connection, so that the name is anywhere.
        extension(23, &[]),
        extension(43, &prefixed(1, &words(&[0x0304, 0x0303]))),
        extension(10, &prefixed(2, &words(groups))),
        extension(45, &prefixed(1, &[1])),
        extension(13, &prefixed(2, &words(&[0x0403, 0x0804, 0x0401, 0x0503, 0x0805, 0x0501, 0x0806, 0x0601]))),
        extension(16, &prefixed(2, &[prefixed(1, b"h2"), prefixed(1, b"http/1.1")].concat())),
        extension(51, &prefixed(2, &shares)),
        extension(0, &prefixed(2, &[&[0][..], &prefixed(2, name)].concat())),
        extension(11, &prefixed(1, &[0])),
        extension(5, &[1, 0, 0, 0, 0]),
        extension(0xff01, &[0]),
    ]
    .concat();
    let before = [
        &[0x03, 0x03][..],
        &pattern(32),
        &prefixed(1, &pattern(32)),
        &prefixed(2, &words(&[0x1301, 0x1302, 0x1303, 0xc02b, 0xc02f, 0xc02c, 0xc030, 0xcca9, 0xcca8])),
        &prefixed(1, &[0]),
    ]
    .concat();
    // Headers of record, message, extensions and of this last extension (RFC 7685).
    let headers = 5 + 4 + 2 + 4;
    let whole = match shape {
        Shape::Classic => 512,
        // What GREASE, encrypted ClientHello and a session ticket take in the wild.
        Shape::PostQuantum => 1750,
    };
    let padding = whole - (headers + before.len() + extensions.len());
    extensions.extend(extension(21, &vec![0; padding]));
    let body = [before, prefixed(2, &extensions)].concat();
    let message = [&[1][..], &prefixed(3, &body)].concat();
    [&[22, 0x03, 0x01][..], &prefixed(2, &message)].concat()
}

fn extension(kind: u16, data: &[u8]) -> Vec<u8> {
    [&kind.to_be_bytes()[..], &prefixed(2, data)].concat()
}

/// With its length before it, in so many bytes.
fn prefixed(bytes: usize, data: &[u8]) -> Vec<u8> {
    [&(data.len() as u32).to_be_bytes()[4 - bytes..], data].concat()
}

fn words(words: &[u16]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_be_bytes()).collect()
}

#[cfg(test)]
mod tests {
    use gateway_common::HELLO_BYTES;
    use gateway_common::client_hello::{Progress, read};

    use super::*;

    fn name_in(hello: &[u8]) -> String {
        let mut message = [0; HELLO_BYTES];
        let read = read(hello, &mut message);
        assert_eq!(read.progress, Progress::Named);
        let name = &message[read.name as usize..][..read.name_length as usize];
        String::from_utf8_lossy(name).into_owned()
    }

    #[test]
    fn hellos_have_the_size_of_their_shape_and_the_name() {
        for (shape, size) in [(Shape::Classic, 512), (Shape::PostQuantum, 1750)] {
            let hello = client_hello(b"bulk.bench.example", shape);
            assert_eq!(hello.len(), size);
            assert_eq!(name_in(&hello), "bulk.bench.example");
            assert_eq!(usize::from(u16::from_be_bytes([hello[3], hello[4]])) + 5, size, "the record ends elsewhere");
        }
    }

    #[test]
    fn each_hello_has_the_next_name() {
        let mut hellos = Hellos::new("n#.example", 3, Shape::Classic).unwrap();
        let names: Vec<String> = (0..4).map(|_| name_in(hellos.next())).collect();
        assert_eq!(names, ["n00000.example", "n00001.example", "n00002.example", "n00000.example"]);
        let mut last = Hellos { next: 99_999, names: 100_000, ..hellos };
        assert_eq!(name_in(last.next()), "n99999.example");
    }

    #[test]
    fn many_names_must_differ() {
        assert!(Hellos::new("one.example", 2, Shape::Classic).is_err());
        assert!(Hellos::new("#.example", 100_001, Shape::Classic).is_err());
    }
}
