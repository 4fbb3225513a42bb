//! Reads the ClientHello of a connection, as far as its server name, by the same walk as the kernel: what a name is, is the
//! same on both ways. Reading takes time in proportion to what came, however it was cut.

use std::cell::Cell;
use std::io;

use gateway_common::client_hello::{Deframe, Deframed, Progress, Walk};
use gateway_common::server_name;
use tokio::net::TcpStream;

use super::Refusal;

/// Bytes of a ClientHello (RFC 8446 section 4.1.2 has no limit; TLS libraries take 64 KiB) and of the headers of its records.
const LARGEST: usize = 64 * 1024 + 5 * 1024;
/// Bytes that are made room for at once.
const STEP: usize = 4 * 1024;
/// Bytes of a hello that needs no share of the room.
const SMALL: usize = 16 * 1024;
/// Bytes that tell whether this is a ClientHello at all.
const BEGINNING: usize = 9;

/// What has come of a connection.
#[derive(Debug, Default)]
pub struct Hello {
    /// All bytes; those of the ClientHello, and what was sent behind them.
    pub bytes: Vec<u8>,
    /// In lower case.
    pub name: Option<Vec<u8>>,
}

/// Reads until the name is known or it is known that there is none.
pub async fn read(stream: &TcpStream, room: &Room) -> Result<Hello, Refusal> {
    let (mut bytes, mut reading, mut share) = (Vec::new(), Reading::default(), room.share());
    loop {
        // Who sends nothing has no buffer.
        stream.readable().await.map_err(|_| Refusal::HelloAbandoned)?;
        if bytes.len() == bytes.capacity() {
            share.grow(bytes.len())?;
            bytes.reserve_exact(STEP);
        }
        match stream.try_read_buf(&mut bytes) {
            Ok(0) => return Err(Refusal::HelloAbandoned),
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => continue,
            Err(_) => return Err(Refusal::HelloAbandoned),
        }
        if let Some(name) = reading.go_on(&bytes)? {
            return Ok(Hello { bytes, name });
        }
        if bytes.len() > LARGEST {
            return Err(Refusal::HelloTooLarge);
        }
    }
}

/// What large ClientHellos may take up together, so that many clients that never end theirs cost no more than this.
pub struct Room {
    most: usize,
    taken: Cell<usize>,
}

impl Room {
    /// Bytes; small hellos do not count.
    pub fn new(most: usize) -> Room {
        Room { most, taken: Cell::new(0) }
    }

    fn share(&self) -> Share<'_> {
        Share { room: self, bytes: 0 }
    }
}

/// What one of them has.
struct Share<'a> {
    room: &'a Room,
    bytes: usize,
}

impl Share<'_> {
    /// To a step more than `bytes`.
    fn grow(&mut self, bytes: usize) -> Result<(), Refusal> {
        if bytes < SMALL {
            return Ok(());
        }
        let taken = self.room.taken.get() + STEP;
        if taken > self.room.most {
            return Err(Refusal::TooManyHellos);
        }
        self.room.taken.set(taken);
        self.bytes += STEP;
        Ok(())
    }
}

impl Drop for Share<'_> {
    fn drop(&mut self) {
        self.room.taken.set(self.room.taken.get() - self.bytes);
    }
}

/// Where reading stands.
#[derive(Default)]
struct Reading {
    /// The first bytes were seen to be those of a ClientHello.
    begun: bool,
    deframe: Deframe,
    /// The handshake message without headers of records.
    message: Vec<u8>,
    walk: Walk,
    /// The walk has come to the extensions.
    inside: bool,
}

impl Reading {
    /// `bytes`: all that have come. `None`: it needs more; `Some(None)`: there is no name.
    fn go_on(&mut self, bytes: &[u8]) -> Result<Option<Option<Vec<u8>>>, Refusal> {
        if !self.begun {
            match Walk::default().record(bytes, bytes.len().min(BEGINNING) as u32) {
                Progress::Going | Progress::Records => self.begun = true,
                Progress::Short => return Ok(None),
                Progress::NotTls => return Err(Refusal::NotTls),
                Progress::Malformed | Progress::Named | Progress::Nameless => return Err(Refusal::MalformedHello),
            }
        }
        let broken = self.deframe(bytes);
        match self.walk() {
            // What is missing will not come any more.
            Progress::Short if broken => Err(Refusal::MalformedHello),
            Progress::Short | Progress::Going | Progress::Records => Ok(None),
            Progress::Nameless => Ok(Some(None)),
            Progress::Named => Ok(Some(Some(self.name().ok_or(Refusal::MalformedHello)?))),
            Progress::NotTls => Err(Refusal::NotTls),
            Progress::Malformed => Err(Refusal::MalformedHello),
        }
    }

    /// Moves what has come to the message; says whether something follows that is no part of one.
    fn deframe(&mut self, bytes: &[u8]) -> bool {
        loop {
            match self.deframe.step(bytes, bytes.len() as u32) {
                Deframed::Byte(byte) => self.message.push(byte),
                Deframed::Header => {}
                Deframed::End => return false,
                Deframed::Wrong => return true,
            }
        }
    }

    fn walk(&mut self) -> Progress {
        let message = self.message.as_slice();
        self.walk.available = message.len() as u32;
        if !self.inside {
            match self.walk.start(message) {
                Progress::Going => self.inside = true,
                other => return other,
            }
        }
        loop {
            match self.walk.step(message) {
                Progress::Going => {}
                other => return other,
            }
        }
    }

    /// `None`: it is none that a host can have.
    fn name(&self) -> Option<Vec<u8>> {
        let start = self.walk.name as usize;
        let name = self.message.get(start..start + self.walk.name_length as usize)?;
        server_name::is_name(name).then(|| name.iter().map(|byte| server_name::lower(*byte)).collect())
    }
}

#[cfg(test)]
mod tests {
    use gateway_common::{HELLO_BYTES, client_hello};
    use proptest::prelude::*;

    use super::*;
    use crate::proxy::tests::hello::{hello, in_records};

    /// What is known after the first `n` bytes, for the least `n` with which anything is.
    fn read_bytewise(bytes: &[u8]) -> (usize, Result<Option<Vec<u8>>, Refusal>) {
        let mut reading = Reading::default();
        for n in 1..=bytes.len() {
            match reading.go_on(&bytes[..n]) {
                Ok(None) => {}
                Ok(Some(name)) => return (n, Ok(name)),
                Err(refusal) => return (n, Err(refusal)),
            }
        }
        panic!("nothing is known after {} bytes", bytes.len());
    }

    fn name(bytes: &[u8]) -> Result<Option<Vec<u8>>, Refusal> {
        read_bytewise(bytes).1
    }

    #[test]
    fn the_name_is_found_whatever_the_size_and_the_records() {
        for size in [300, 1_600, 8_192, 9_000, 20_000, 60_000, 65_500] {
            for record in [16_384, 1_000, 100] {
                let bytes = in_records(&hello(Some("Shop.Example.com"), size), record);
                assert_eq!(name(&bytes), Ok(Some(b"shop.example.com".to_vec())), "{size} bytes in {record}");
            }
        }
    }

    #[test]
    fn a_hello_without_a_name_is_read_to_its_end() {
        let bytes = in_records(&hello(None, 2_000), 700);
        assert_eq!(read_bytewise(&bytes), (bytes.len(), Ok(None)));
    }

    #[test]
    fn what_is_no_hello_is_known_at_its_first_bytes() {
        assert_eq!(read_bytewise(b"GET / HTTP/1.1\r\n"), (1, Err(Refusal::NotTls)));
        // A record of application data, and one of a ServerHello.
        assert_eq!(name(&[23, 3, 3, 0, 5, 1, 0, 0, 1, 0]), Err(Refusal::NotTls));
        assert_eq!(name(&[22, 3, 3, 0, 5, 2, 0, 0, 1, 0]), Err(Refusal::NotTls));
    }

    #[test]
    fn names_that_no_host_has_are_refused() {
        for bad in [
            "a.example.com.",
            ".example.com",
            "a..com",
            ".",
            "",
            "nul\0.example.com",
            "*.example.com",
            &"a".repeat(64),
            &format!("a.{}.com", "a".repeat(64)),
            &["a".repeat(62).as_str(); 5].join(".")[..254],
        ] {
            assert_eq!(name(&in_records(&hello(Some(bad), 600), 16_384)), Err(Refusal::MalformedHello), "{bad:?}");
        }
        let longest = &["a".repeat(62).as_str(); 5].join(".")[..253];
        for good in [longest, &"a".repeat(63)] {
            assert!(name(&in_records(&hello(Some(good), 600), 16_384)).is_ok(), "{good:?}");
        }
    }

    #[test]
    fn an_alien_record_in_the_middle_ends_it() {
        let mut bytes = in_records(&hello(Some("a.example.com"), 600), 200);
        bytes[205] = 23;
        assert_eq!(name(&bytes), Err(Refusal::MalformedHello));
    }

    /// As the kernel reads it, of what fits there.
    fn of_kernel(bytes: &[u8]) -> Option<Result<Option<Vec<u8>>, Refusal>> {
        let mut message = [0; HELLO_BYTES];
        let read = client_hello::read(bytes, &mut message);
        match read.progress {
            Progress::Nameless => Some(Ok(None)),
            Progress::NotTls => Some(Err(Refusal::NotTls)),
            Progress::Malformed => Some(Err(Refusal::MalformedHello)),
            Progress::Named => {
                let start = read.name as usize;
                let name = message[start..start + read.name_length as usize].to_vec();
                Some(Ok(Some(name)))
            }
            Progress::Short | Progress::Going | Progress::Records => None,
        }
    }

    proptest! {
        /// Whatever comes: nothing breaks, the cuts do not matter, and the kernel finds the same.
        #[test]
        fn what_is_read_does_not_depend_on_the_cuts_and_is_what_the_kernel_reads(
            name in proptest::option::of("[a-z.-]{1,20}"),
            size in 100usize..3_000,
            record in 1usize..4_000,
            changes in proptest::collection::vec((0usize..3_000, any::<u8>()), 0..3),
        ) {
            let mut bytes = in_records(&hello(name.as_deref(), size), record);
            for (at, byte) in changes {
                let at = at % bytes.len();
                bytes[at] = byte;
            }
            bytes.truncate(HELLO_BYTES);
            let whole = Reading::default().go_on(&bytes);
            let mut reading = Reading::default();
            let bytewise = (1..=bytes.len()).map(|n| reading.go_on(&bytes[..n])).find(|read| *read != Ok(None));
            prop_assert_eq!(&whole, &bytewise.unwrap_or(Ok(None)));
            match (whole, of_kernel(&bytes)) {
                // What the kernel does with a name comes after it.
                (Err(Refusal::MalformedHello), Some(Ok(Some(name)))) => prop_assert!(!server_name::is_name(&name)),
                (Ok(Some(Some(name))), Some(Ok(Some(raw)))) => {
                    prop_assert_eq!(name, raw.to_ascii_lowercase());
                }
                (Ok(read), kernel) => prop_assert_eq!(read.map(Ok), kernel),
                (Err(refusal), kernel) => prop_assert_eq!(Some(Err(refusal)), kernel),
            }
        }
    }
}
