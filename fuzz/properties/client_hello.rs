//! The server name that the kernel finds in the first bytes of a connection is the one that rustls finds. The fuzz target
//! `client_hello` and the tests of gateway-common ask it.
//!
//! Where the two differ on purpose:
//! - The kernel stops at the name. What is wrong behind it is the backend's business, so rustls may refuse what the kernel names.
//! - The kernel reads 8 KiB and 128 extensions; a client whose name comes later goes to the agent.
//! - The kernel passes on what it found; rustls refuses a name that is none, and forgets an IP address.
//! - Anything but one host name in the list is refused by the kernel, because another reader may take another entry. rustls takes a host name that
//!   something of another type follows.
//! - The kernel answers when the message is whole, rustls when the record around it is.
//! - The kernel expects the hello first. rustls passes over records that mean nothing.

use gateway_common::HELLO_BYTES;
use gateway_common::client_hello::{Progress, Read, read};
use rustls::server::Acceptor;

/// Prefixes of data up to here are all read, of longer data some.
const ALL_PREFIXES: usize = 512;

const LARGEST_RECORD: usize = 1 << 14;

/// What rustls makes of the first bytes of a connection.
#[derive(Debug, PartialEq, Eq)]
pub enum Theirs {
    Waits,
    Refuses,
    Nameless,
    Name(String),
}

/// What the kernel makes of them: how far it came, and the name.
#[derive(Debug, PartialEq, Eq)]
pub struct Ours {
    pub progress: Progress,
    pub name: Option<Vec<u8>>,
}

pub fn theirs(bytes: &[u8]) -> Theirs {
    let mut acceptor = Acceptor::default();
    let mut rest = bytes;
    while !rest.is_empty() {
        match acceptor.read_tls(&mut rest) {
            Ok(0) | Err(_) => return Theirs::Refuses,
            Ok(_) => {}
        }
        match acceptor.accept() {
            Ok(None) => {}
            Ok(Some(accepted)) => {
                let name = accepted.client_hello().server_name().map(str::to_owned);
                return name.map_or(Theirs::Nameless, Theirs::Name);
            }
            Err(_) => return Theirs::Refuses,
        }
    }
    Theirs::Waits
}

pub fn ours(bytes: &[u8]) -> Ours {
    let mut message = [0; HELLO_BYTES];
    let Read { progress, name, name_length } = read(bytes, &mut message);
    let name = (progress == Progress::Named).then(|| message[name as usize..][..name_length as usize].to_vec());
    Ours { progress, name }
}

pub fn holds(data: &[u8]) {
    let ours = ours(data);
    agrees(data, &ours);
    ends(data, &ours);
    for prefix in prefixes(data.len()) {
        let early = self::ours(&data[..prefix]);
        assert!(early.progress == Progress::Short || early == ours, "{prefix} bytes: {early:?}, all: {ours:?}");
    }
}

fn agrees(data: &[u8], ours: &Ours) {
    match theirs(data) {
        Theirs::Name(theirs) => match &ours.name {
            Some(name) => assert!(name.eq_ignore_ascii_case(theirs.as_bytes()), "{ours:?}, rustls: {theirs}"),
            None => assert!(leaves_to_others(data, ours), "{ours:?}, rustls: {theirs}"),
        },
        Theirs::Nameless => match &ours.name {
            Some(name) => assert!(is_address(name), "{ours:?}, rustls finds no name"),
            None => assert!(
                ours.progress == Progress::Nameless || leaves_to_others(data, ours),
                "{ours:?}, rustls finds no name"
            ),
        },
        // The rest of the record, whatever it holds, brings no name.
        Theirs::Waits if ours.progress == Progress::Nameless => {
            let longer = [data, &[0; LARGEST_RECORD]].concat();
            assert!(
                !matches!(theirs(&longer), Theirs::Name(_) | Theirs::Waits),
                "a hello that is not whole has no name"
            );
        }
        Theirs::Waits => {}
        Theirs::Refuses => {}
    }
}

/// The differences that a hello may have that rustls takes.
fn leaves_to_others(data: &[u8], ours: &Ours) -> bool {
    match ours.progress {
        Progress::Short => data.len() > HELLO_BYTES,
        Progress::Going => true,
        Progress::NotTls => data[0] != 22,
        // Type and length of an extension, length of its list, type and length of a name: the list is longer than that.
        Progress::Malformed => data.windows(9).any(|bytes| {
            let list = u16::from_be_bytes([bytes[4], bytes[5]]);
            let name = u16::from_be_bytes([bytes[7], bytes[8]]);
            bytes[..2] == [0, 0] && bytes[6] == 0 && list > name.saturating_add(3)
        }),
        _ => false,
    }
}

fn is_address(name: &[u8]) -> bool {
    std::str::from_utf8(name).is_ok_and(|name| name.parse::<std::net::IpAddr>().is_ok())
}

/// Nobody is left waiting: a record with a whole message in it has an answer.
fn ends(data: &[u8], ours: &Ours) {
    let [22, 3, _, high, low, _, message @ ..] = data else { return };
    let record = usize::from(u16::from_be_bytes([*high, *low]));
    if record < 4 || data.len() < 5 + record || data.len() > HELLO_BYTES {
        return;
    }
    let body = usize::from(message[0]) << 16 | usize::from(message[1]) << 8 | usize::from(message[2]);
    assert!(4 + body > record || ours.progress != Progress::Short, "waits for more than the message");
}

/// Lengths to cut at: all of them, or all at the beginning and then one of many.
fn prefixes(length: usize) -> impl Iterator<Item = usize> {
    let step = (length / ALL_PREFIXES).max(1);
    (0..length.min(64)).chain((64..length).step_by(step))
}
