//! ClientHellos as they are met, and others that the rules allow, written byte by byte.

use proptest::prelude::*;

pub const SERVER_NAME: u16 = 0;
pub const KEY_SHARE: u16 = 51;
const PADDING: u16 = 21;
const PRE_SHARED_KEY: u16 = 41;
const ENCRYPTED_CLIENT_HELLO: u16 = 0xfe0d;
const X25519MLKEM768: u16 = 0x11ec;
/// Bytes of a client's share: an ML-KEM-768 key and an X25519 key.
const X25519MLKEM768_SHARE: usize = 1_184 + 32;
/// RFC 8701 section 2.
const GREASE: [u16; 4] = [0x0a0a, 0x3a3a, 0x8a8a, 0xfafa];

/// Its type and its data.
pub type Extension = (u16, Vec<u8>);

/// The handshake message, in pieces.
#[derive(Clone, Debug)]
pub struct Hello {
    pub version: u16,
    pub session_id: Vec<u8>,
    pub ciphers: Vec<u16>,
    pub compressions: Vec<u8>,
    /// None: left out as a whole, as clients before TLS 1.2 could.
    pub extensions: Option<Vec<Extension>>,
}

impl Hello {
    pub fn message(&self) -> Vec<u8> {
        let mut body = self.version.to_be_bytes().to_vec();
        body.extend([0x5a; 32]);
        body.extend(with_length::<1>(&self.session_id));
        body.extend(with_length::<2>(&self.ciphers.iter().flat_map(|cipher| cipher.to_be_bytes()).collect::<Vec<_>>()));
        body.extend(with_length::<1>(&self.compressions));
        if let Some(extensions) = &self.extensions {
            let all: Vec<u8> = extensions.iter().flat_map(|(kind, data)| extension(*kind, data)).collect();
            body.extend(with_length::<2>(&all));
        }
        [&[1][..], &with_length::<3>(&body)].concat()
    }

    /// In one record.
    pub fn record(&self) -> Vec<u8> {
        records(&self.message(), 0x0301, &[])
    }

    /// What a client that only knows this sends. A list of supported groups is among the least.
    pub fn plain(version: u16, name: Option<&[u8]>) -> Hello {
        let mut extensions = vec![signature_algorithms(), (10, vec![0, 2, 0, 29])];
        extensions.extend(name.map(server_name));
        Hello {
            version,
            session_id: Vec::new(),
            ciphers: vec![0xc02b, 0xc02f],
            compressions: vec![0],
            extensions: Some(extensions),
        }
    }
}

/// The message in records that end at the cuts, and at its end.
pub fn records(message: &[u8], version: u16, cuts: &[usize]) -> Vec<u8> {
    let mut cuts: Vec<usize> = cuts.iter().copied().filter(|cut| (1..message.len()).contains(cut)).collect();
    cuts.extend([0, message.len()]);
    cuts.sort_unstable();
    cuts.dedup();
    cuts.windows(2).flat_map(|cut| record(22, version, &message[cut[0]..cut[1]])).collect()
}

pub fn record(kind: u8, version: u16, payload: &[u8]) -> Vec<u8> {
    [&[kind][..], &version.to_be_bytes(), &with_length::<2>(payload)].concat()
}

pub fn server_name(name: &[u8]) -> Extension {
    (SERVER_NAME, with_length::<2>(&[&[0][..], &with_length::<2>(name)].concat()))
}

/// rustls refuses a client that has none.
pub fn signature_algorithms() -> Extension {
    (13, vec![0, 6, 4, 3, 8, 4, 4, 1])
}

fn extension(kind: u16, data: &[u8]) -> Vec<u8> {
    [&kind.to_be_bytes()[..], &with_length::<2>(data)].concat()
}

/// The bytes behind their number, which has `N` bytes.
pub fn with_length<const N: usize>(bytes: &[u8]) -> Vec<u8> {
    [&bytes.len().to_be_bytes()[size_of::<usize>() - N..], bytes].concat()
}

/// Any hello that a client may send, in TLS 1.0 to 1.3, with a name or without; its message is below 8 KiB.
pub fn arbitrary(name: impl Strategy<Value = Option<String>>) -> impl Strategy<Value = (Hello, Option<String>)> {
    let version = prop_oneof![Just(0x0301_u16), Just(0x0302), Just(0x0303)];
    let session_id = prop_oneof![Just(0), Just(32), 0..=32_usize].prop_map(|length| vec![0xc5; length]);
    let ciphers = proptest::collection::vec(prop_oneof![proptest::sample::select(&GREASE), any::<u16>()], 1..60);
    let compressions = prop_oneof![Just(vec![0]), Just(vec![1, 0])];
    (version, session_id, ciphers, compressions, extensions(), name).prop_flat_map(
        |(version, session_id, ciphers, compressions, (mut extensions, last), name)| {
            extensions.extend(name.as_ref().map(|name| server_name(name.as_bytes())));
            Just(extensions).prop_shuffle().prop_map(move |mut extensions| {
                extensions.extend(last.clone());
                let (session_id, ciphers, compressions) = (session_id.clone(), ciphers.clone(), compressions.clone());
                (Hello { version, session_id, ciphers, compressions, extensions: Some(extensions) }, name.clone())
            })
        },
    )
}

/// Each kind once at the most, and what must be the last of all.
fn extensions() -> impl Strategy<Value = (Vec<Extension>, Option<Extension>)> {
    let known = vec![
        (GREASE[0], vec![]),
        (GREASE[2], vec![0]),
        (5, vec![1, 0, 0, 0, 0]),
        (10, vec![0, 6, 0x8a, 0x8a, 0x11, 0xec, 0, 29]),
        (11, vec![1, 0]),
        (16, [&[0, 12][..], &with_length::<1>(b"h2"), &with_length::<1>(b"http/1.1")].concat()),
        (18, vec![]),
        (23, vec![]),
        (27, vec![2, 0, 2]),
        (28, vec![0x40, 1]),
        (34, vec![0, 2, 4, 3]),
        (35, vec![0x7e; 180]),
        (42, vec![]),
        (43, vec![6, 0x3a, 0x3a, 3, 4, 3, 3]),
        (45, vec![1, 1]),
        (17_613, vec![0, 3, 2, b'h', b'2']),
        (ENCRYPTED_CLIENT_HELLO, encrypted_client_hello()),
        (0xff01, vec![0]),
    ];
    let count = known.len();
    let shares = prop_oneof![Just(vec![]), Just(vec![key_share(&[])]), Just(vec![key_share(&[X25519MLKEM768_SHARE])])];
    // Of no known kind; rustls keeps the kinds that it has seen, to refuse the second.
    let unknown = proptest::collection::btree_map(1_000_u16..2_000, 0..64_usize, 0..20)
        .prop_map(|kinds| kinds.into_iter().map(|(kind, length)| (kind, vec![0xe7; length])).collect::<Vec<_>>());
    let padding = proptest::option::of((0..600_usize).prop_map(|length| (PADDING, vec![0; length])));
    let last = proptest::option::of(Just((PRE_SHARED_KEY, pre_shared_key())));
    (proptest::sample::subsequence(known, 0..=count), shares, unknown, padding, last).prop_map(
        |(known, shares, unknown, padding, last)| {
            let mut all = [known, shares, unknown].concat();
            all.push(signature_algorithms());
            all.extend(padding);
            if last.is_some() && all.iter().all(|(kind, _)| *kind != 45) {
                all.push((45, vec![1, 1]));
            }
            (all, last)
        },
    )
}

/// A share of X25519, behind others of these lengths.
fn key_share(before: &[usize]) -> Extension {
    let mut shares = Vec::new();
    for length in before {
        shares.extend(X25519MLKEM768.to_be_bytes());
        shares.extend(with_length::<2>(&vec![0x33; *length]));
    }
    shares.extend(29_u16.to_be_bytes());
    shares.extend(with_length::<2>(&[0x44; 32]));
    (KEY_SHARE, with_length::<2>(&shares))
}

/// The outer hello's: type, cipher suite, configuration, encapsulated key, the sealed inner hello.
fn encrypted_client_hello() -> Vec<u8> {
    [&[0, 0, 1, 0, 1, 9][..], &with_length::<2>(&[0x55; 32]), &with_length::<2>(&[0x66; 208])].concat()
}

/// One ticket and its binder.
fn pre_shared_key() -> Vec<u8> {
    let identity = [&with_length::<2>(&[0x77; 192])[..], &[0, 0, 0, 1]].concat();
    [with_length::<2>(&identity), with_length::<2>(&with_length::<1>(&[0x88; 32]))].concat()
}
