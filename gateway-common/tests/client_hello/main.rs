//! The server name that the kernel reads, against rustls' reading of the same bytes and against what was written.

mod hello;
#[path = "../../../fuzz/properties/client_hello.rs"]
mod property;

use std::sync::Arc;

use gateway_common::HELLO_BYTES;
use gateway_common::client_hello::Progress;
use proptest::prelude::*;
use rustls::pki_types::ServerName;
use rustls::version::{TLS12, TLS13};
use rustls::{ClientConfig, ClientConnection, RootCertStore, SupportedProtocolVersion};

use crate::hello::{Extension, Hello, SERVER_NAME, record, records, server_name, with_length};
use crate::property::{Ours, Theirs, holds, ours, theirs};

fn named(name: &str) -> Ours {
    Ours { progress: Progress::Named, name: Some(name.as_bytes().to_vec()) }
}

fn nothing(progress: Progress) -> Ours {
    Ours { progress, name: None }
}

fn name() -> impl Strategy<Value = String> {
    // rustls refuses what is no name, so these are.
    proptest::collection::vec("[a-zA-Z0-9]([a-zA-Z0-9_-]{0,20}[a-zA-Z0-9])?", 1..8)
        .prop_map(|labels| format!("x{}", labels.join(".x")))
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    /// Any extensions in any order, in TLS 1.0 to 1.3, in records cut anywhere.
    #[test]
    fn hellos_are_read_as_rustls_reads_them(
        (hello, name) in hello::arbitrary(proptest::option::weighted(0.9, name())),
        cuts in proptest::collection::vec(0..4_000_usize, 0..6),
        version in prop_oneof![Just(0x0301_u16), Just(0x0303)],
    ) {
        let bytes = records(&hello.message(), version, &cuts);
        prop_assume!(bytes.len() <= HELLO_BYTES);
        let (wanted, name) = match name {
            Some(name) => (named(&name), Theirs::Name(name.to_ascii_lowercase())),
            None => (nothing(Progress::Nameless), Theirs::Nameless),
        };
        prop_assert_eq!(theirs(&bytes), name, "the generator makes what rustls takes");
        prop_assert_eq!(ours(&bytes), wanted);
        holds(&bytes);
    }

    /// A record for each byte or two, which makes six bytes of one.
    #[test]
    fn hellos_in_the_smallest_records(name in name(), version in 0x0301_u16..0x0304, size in 1..4_usize) {
        let message = Hello::plain(version, Some(name.as_bytes())).message();
        let cuts: Vec<usize> = (0..message.len()).step_by(size).collect();
        let bytes = records(&message, version, &cuts);
        prop_assume!(bytes.len() <= HELLO_BYTES);
        prop_assert_eq!(ours(&bytes), named(&name));
        holds(&bytes);
    }

    /// Whatever a bit or a byte does to a good hello.
    #[test]
    fn damaged_hellos_are_read_as_rustls_reads_them_or_not_at_all(
        (hello, _) in hello::arbitrary(name().prop_map(Some)),
        cuts in proptest::collection::vec(0..2_000_usize, 0..3),
        damage in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
        end: prop::sample::Index,
    ) {
        let mut bytes = records(&hello.message(), 0x0301, &cuts);
        for (at, byte) in damage {
            // At the front, where lengths are, as often as anywhere.
            let at = if byte & 1 == 0 { at.index(bytes.len().min(80)) } else { at.index(bytes.len()) };
            bytes[at] = byte;
        }
        holds(&bytes);
        holds(&bytes[..end.index(bytes.len())]);
    }

    #[test]
    fn garbage_is_answered(bytes in proptest::collection::vec(any::<u8>(), 0..600), handshake: bool) {
        let mut bytes = bytes;
        // Half of it gets past the first look.
        if handshake && bytes.len() > 10 {
            let length = bytes[4].max(1);
            bytes[..6].copy_from_slice(&[22, 3, 1, 0, length, 1]);
        }
        holds(&bytes);
    }
}

/// What rustls' own client sends, in each version, with and without HTTP/2, split into records as small as it can.
#[test]
fn rustls_clients_are_understood() {
    let versions: [&[&'static SupportedProtocolVersion]; 3] = [&[&TLS12], &[&TLS13], &[&TLS13, &TLS12]];
    for versions in versions {
        for alpn in [vec![], vec![b"h2".to_vec(), b"http/1.1".to_vec()]] {
            for fragment in [None, Some(32), Some(100)] {
                let provider = Arc::new(rustls::crypto::ring::default_provider());
                let mut config = ClientConfig::builder_with_provider(provider)
                    .with_protocol_versions(versions)
                    .expect("versions of the provider")
                    .with_root_certificates(RootCertStore::empty())
                    .with_no_client_auth();
                config.alpn_protocols = alpn.clone();
                config.max_fragment_size = fragment;
                let config = Arc::new(config);
                let first_bytes = |name: &'static str| {
                    let name = ServerName::try_from(name).expect("a name");
                    let mut client = ClientConnection::new(config.clone(), name).expect("a client");
                    let mut bytes = Vec::new();
                    client.write_tls(&mut bytes).expect("a vector takes all");
                    bytes
                };
                let bytes = first_bytes("www.example.com");
                assert_eq!(ours(&bytes), named("www.example.com"), "{versions:?} {fragment:?}");
                holds(&bytes);
                let bytes = first_bytes("198.18.0.1");
                assert_eq!(ours(&bytes), nothing(Progress::Nameless), "an address is not sent");
                holds(&bytes);
            }
        }
    }
}

/// With a key share of X25519MLKEM768 before the name: two segments, and the name is in the second.
#[test]
fn hellos_of_two_segments_wait_for_the_second() {
    let mut hello = Hello::plain(0x0303, None);
    let extensions = hello.extensions.as_mut().expect("they are there");
    extensions.push((hello::KEY_SHARE, vec![7; 1_258]));
    extensions.push((21, vec![0; 200]));
    extensions.push(server_name(b"late.example.com"));
    let bytes = hello.record();
    assert!(bytes.len() > 1_460);
    assert_eq!(ours(&bytes[..1_460]), nothing(Progress::Short));
    assert_eq!(ours(&bytes), named("late.example.com"));
    // With the name in the first, it is not waited for the rest, whatever that is.
    extensions_mut(&mut hello).rotate_right(1);
    let bytes = hello.record();
    assert_eq!(ours(&bytes[..200]), named("late.example.com"));
    assert_eq!(theirs(&bytes[..200]), Theirs::Waits);
}

fn extensions_mut(hello: &mut Hello) -> &mut Vec<Extension> {
    hello.extensions.as_mut().expect("they are there")
}

/// TLS 1.0 and 1.1 have hellos that rustls refuses: without extensions, or without signature algorithms.
#[test]
fn hellos_older_than_rustls() {
    for version in [0x0300, 0x0301, 0x0302, 0x0303] {
        let mut hello = Hello::plain(version, Some(b"old.example.com"));
        extensions_mut(&mut hello).retain(|(kind, _)| *kind == SERVER_NAME);
        assert_eq!(ours(&hello.record()), named("old.example.com"), "{version:#x}");
        assert_eq!(theirs(&hello.record()), Theirs::Refuses);
        hello.extensions = Some(vec![]);
        assert_eq!(ours(&hello.record()), nothing(Progress::Nameless));
        hello.extensions = None;
        assert_eq!(ours(&hello.record()), nothing(Progress::Nameless));
        holds(&hello.record());
    }
}

#[test]
fn what_is_no_tls_is_known_by_its_first_bytes() {
    let sslv2 = [&[0x80, 0x2e, 1, 3, 1, 0, 21, 0, 0, 0, 16][..], &[0; 37]].concat();
    let alert = record(21, 0x0303, &[2, 40]);
    for bytes in
        [b"GET / HTTP/1.1\r\n".as_slice(), b"SSH-2.0-x\r\n", b"\r\n", b"PROXY TCP4 ", &sslv2, &alert, &[22, 2, 0]]
    {
        for length in 2..=bytes.len() {
            assert_eq!(ours(&bytes[..length]), nothing(Progress::NotTls), "{:?}", &bytes[..length]);
        }
    }
    // A handshake record with another message in it.
    let finished = record(22, 0x0303, &[20, 0, 0, 4, 1, 2, 3, 4]);
    assert_eq!(ours(&finished), nothing(Progress::NotTls));
    assert_eq!(ours(&[]), nothing(Progress::Short));
    assert_eq!(ours(&[22]), nothing(Progress::Short));
}

#[test]
fn lengths_that_contradict_each_other_are_refused_at_once() {
    let good = Hello::plain(0x0303, Some(b"a.example.com"));
    let with = |change: &dyn Fn(&mut Hello)| {
        let mut hello = good.clone();
        change(&mut hello);
        hello.record()
    };
    let mut long_name = server_name(b"a.example.com").1;
    long_name[4] += 1;
    let named_twice = with_length::<2>(&[&[0][..], &with_length::<2>(b"a"), &[0], &with_length::<2>(b"b")].concat());
    // The message says that there is one more byte, its extensions do not.
    let mut longer = [&good.message()[..], &[0]].concat();
    longer[3] += 1;
    let cases: Vec<(&str, Vec<u8>)> = vec![
        ("session id", with(&|hello| hello.session_id = vec![1; 33])),
        ("no cipher", with(&|hello| hello.ciphers.clear())),
        ("no compression", with(&|hello| hello.compressions.clear())),
        ("no list", with(&|hello| extensions_mut(hello)[2].1.clear())),
        ("empty list", with(&|hello| extensions_mut(hello)[2].1 = vec![0, 0])),
        ("no host name", with(&|hello| extensions_mut(hello)[2].1[2] = 1)),
        ("long name", with(&|hello| extensions_mut(hello)[2].1.clone_from(&long_name))),
        ("two names", with(&|hello| extensions_mut(hello)[2].1.clone_from(&named_twice))),
        ("short list", with(&|hello| extensions_mut(hello)[2].1[1] -= 1)),
        ("empty name", with(&|hello| extensions_mut(hello)[2].1.clone_from(&server_name(b"").1))),
        ("bytes behind the extensions", record(22, 0x0301, &longer)),
        ("short message", record(22, 0x0301, &[1, 0, 0, 34])),
        ("long message", record(22, 0x0301, &[1, 1, 0, 0])),
        ("empty record", [&record(22, 0x0301, &[1])[..], &record(22, 0x0301, &[]), &[0; 9]].concat()),
        ("long record", [&[22, 3, 1, 0x40, 1][..], &good.message()].concat()),
        (
            "other record",
            [&record(22, 0x0301, &good.message()[..60])[..], &record(23, 0x0303, &good.message()[60..])].concat(),
        ),
    ];
    for (what, bytes) in cases {
        assert_eq!(ours(&bytes), nothing(Progress::Malformed), "{what}");
        assert!(matches!(theirs(&bytes), Theirs::Refuses | Theirs::Waits), "{what}");
        holds(&bytes);
    }
}

/// The differences from rustls that are meant: see the property.
#[test]
fn differences_from_rustls() {
    // What follows the name is not read, so a second name is not seen. The backend has the last word.
    let mut twice = Hello::plain(0x0303, Some(b"a.example.com"));
    extensions_mut(&mut twice).push(server_name(b"b.example.com"));
    assert_eq!(ours(&twice.record()), named("a.example.com"));
    assert_eq!(theirs(&twice.record()), Theirs::Refuses);

    // A name is looked up as it is: nobody has routes for these.
    for odd in ["198.18.0.1", "a..example.com", "exa mple.com", "*.example.com", "a.example.com.", &"x".repeat(300)] {
        let hello = Hello::plain(0x0303, Some(odd.as_bytes())).record();
        assert_eq!(ours(&hello), named(odd));
        holds(&hello);
    }

    let mut other_type = Hello::plain(0x0303, None);
    let list = [&[0][..], &with_length::<2>(b"a.example.com"), &[1, 9, 9]].concat();
    extensions_mut(&mut other_type).push((SERVER_NAME, with_length::<2>(&list)));
    assert_eq!(ours(&other_type.record()), nothing(Progress::Malformed));
    assert_eq!(theirs(&other_type.record()), Theirs::Name("a.example.com".into()));
    holds(&other_type.record());
}

/// More than the kernel keeps or walks over: the agent reads it.
#[test]
fn the_agent_gets_what_is_too_large() {
    let mut large = Hello::plain(0x0303, None);
    extensions_mut(&mut large).extend([(21, vec![0; HELLO_BYTES]), server_name(b"far.example.com")]);
    for bytes in [large.record(), records(&large.message(), 0x0301, &[5_000])] {
        assert_eq!(ours(&bytes), nothing(Progress::Short));
        assert_eq!(theirs(&bytes), Theirs::Name("far.example.com".into()));
        holds(&bytes);
    }
    let mut many = Hello::plain(0x0303, None);
    extensions_mut(&mut many).extend((1_000..1_200).map(|kind| (kind, vec![])));
    extensions_mut(&mut many).push(server_name(b"many.example.com"));
    assert_eq!(ours(&many.record()), nothing(Progress::Going));
    assert_eq!(theirs(&many.record()), Theirs::Name("many.example.com".into()));
    holds(&many.record());
}
