use std::io::ErrorKind;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::bed::*;
use super::hello::{hello, in_records};
use super::ir::{backends, endpoints, listener, named};
use crate::ir::{Listener, Target, TlsMode};
use crate::proxy::{Options, Refusal};

fn names(list: Vec<(&str, Vec<(u32, Target)>)>) -> Vec<Arc<Listener>> {
    let mut names: Vec<_> = list.into_iter().map(|(name, refs)| named(name, Some(backends(name, refs)))).collect();
    names.sort_unstable_by(|a, b| a.host.cmp(&b.host));
    vec![listener("a", &["198.19.0.1"], TlsMode::Passthrough, names)]
}

/// What a client hears that says this; an error is one of its kind.
async fn heard(bed: &Bed, said: &[u8]) -> Result<Vec<u8>, ErrorKind> {
    let mut client = bed.connect().await;
    client.write_all(said).await.unwrap();
    let mut heard = Vec::new();
    soon(client.read_to_end(&mut heard)).await.map(|_| heard).map_err(|error| error.kind())
}

fn alert(description: u8) -> Result<Vec<u8>, ErrorKind> {
    Ok(vec![21, 3, 3, 0, 2, 2, description])
}

#[tokio::test]
async fn what_names_nobody_here_is_reset() {
    let bed = Bed::new(names(vec![("a.example.com", vec![])]));
    for hello in [hello(Some("b.example.com"), 20_000), hello(None, 20_000)] {
        assert_eq!(heard(&bed, &in_records(&hello, 16_384)).await, Err(ErrorKind::ConnectionReset));
    }
    assert_eq!(bed.refused(Refusal::UnrecognizedName), 2);
}

#[tokio::test]
async fn a_hello_without_a_name_is_for_the_listener_of_all_names() {
    let (endpoint, listening) = backend().await;
    let bed = Bed::new(names(vec![("*", vec![(1, endpoints(&[endpoint]))])]));
    let mut client = bed.connect().await;
    client.write_all(&in_records(&hello(None, 20_000), 16_384)).await.unwrap();
    assert_eq!(listening.accept().await.unwrap().0.read_u8().await.unwrap(), 22);
}

#[tokio::test]
async fn what_is_no_tls_or_broken_gets_an_alert_without_being_waited_for() {
    let bed = Bed::new(names(vec![("a.example.com", vec![])]));
    assert_eq!(heard(&bed, b"GET / HTTP/1.1\r\nHost: a.example.com\r\n\r\n").await, alert(10));
    let mut broken = in_records(&hello(Some("a.example.com"), 600), 16_384);
    broken[9 + 34] = 33;
    assert_eq!(heard(&bed, &broken).await, alert(50));
    assert_eq!([Refusal::NotTls, Refusal::MalformedHello].map(|r| bed.refused(r)), [1, 1]);
}

#[tokio::test]
async fn a_hello_has_an_end() {
    let bed = Bed::new(names(vec![("a.example.com", vec![])]));
    let endless = in_records(&hello(Some("a.example.com"), 65_000), 1);
    assert_eq!(heard(&bed, &endless).await, alert(50));
    assert_eq!(bed.refused(Refusal::HelloTooLarge), 1);
}

#[tokio::test]
async fn shares_without_a_backend_are_refused_with_rst() {
    let bed = Bed::new(names(vec![
        ("invalid.example.com", vec![(1, Target::Invalid)]),
        ("empty.example.com", vec![(1, endpoints(&[]))]),
    ]));
    for name in ["invalid.example.com", "empty.example.com"] {
        let hello = in_records(&hello(Some(name), 300), 16_384);
        assert_eq!(heard(&bed, &hello).await, Err(ErrorKind::ConnectionReset));
    }
    assert_eq!([Refusal::InvalidBackend, Refusal::NoBackend].map(|r| bed.refused(r)), [1, 1]);
}

#[tokio::test]
async fn the_client_is_told_when_no_backend_answers() {
    let list = [nobody().await, nobody().await, nobody().await, nobody().await];
    let bed = Bed::new(names(vec![("a.example.com", vec![(1, endpoints(&list))])]));
    let hello = in_records(&hello(Some("a.example.com"), 300), 16_384);
    assert_eq!(heard(&bed, &hello).await, alert(80));
    let handle = bed.proxy.handle();
    assert_eq!([handle.counters().connects_failed.get(), bed.refused(Refusal::BackendSilent)], [3, 1]);
}

#[tokio::test]
async fn a_connection_that_the_kernel_did_not_make_is_closed_at_once() {
    let bed = Bed::new(names(vec![("a.example.com", vec![])]));
    assert!(bed.resets(STRANGER).await);
    assert_eq!(bed.refused(Refusal::Unexplained), 1);
}

#[tokio::test]
async fn a_client_that_ends_before_its_hello_is_whole_is_counted() {
    let bed = Bed::new(names(vec![("a.example.com", vec![])]));
    let mut client = bed.connect().await;
    let hello = in_records(&hello(Some("a.example.com"), 300), 16_384);
    client.write_all(&hello[..200]).await.unwrap();
    client.shutdown().await.unwrap();
    assert_eq!(soon(client.read_u8()).await.unwrap_err().kind(), ErrorKind::ConnectionReset);
    assert_eq!(bed.refused(Refusal::HelloAbandoned), 1);
}

#[tokio::test]
async fn a_client_that_says_nothing_or_never_ends_is_forgotten() {
    let options = Options { handshake: Duration::from_millis(300), ..Options::default() };
    let bed = Bed::with(options, names(vec![("a.example.com", vec![])]));
    let mut silent = bed.connect().await;
    let mut slow = bed.connect().await;
    slow.write_all(&in_records(&hello(Some("a.example.com"), 300), 16_384)[..100]).await.unwrap();
    for client in [&mut silent, &mut slow] {
        assert_eq!(soon(client.read_u8()).await.unwrap_err().kind(), ErrorKind::ConnectionReset);
    }
    assert_eq!(bed.refused(Refusal::HelloTimeout), 2);
}

#[tokio::test]
async fn a_tls_handshake_that_fails_or_never_ends_is_counted() {
    let options = Options { handshake: Duration::from_millis(300), ..Options::default() };
    let certificates = vec![certificate(&["a.example.com"])];
    let name = named("a.example.com", Some(backends("r", vec![(1, endpoints(&[nobody().await]))])));
    let ending = listener("a", &["198.19.0.1"], TlsMode::Terminate { certificates }, vec![name]);
    let bed = Bed::with(options, vec![ending]);

    let stranger = certificate(&["a.example.com"]);
    assert!(bed.tls("a.example.com", trusting(&[&stranger])).await.is_err());
    // The server has nothing in common with it and says so.
    let hello = in_records(&hello(Some("a.example.com"), 300), 16_384);
    let heard = heard(&bed, &hello).await.unwrap();
    assert_eq!(heard[..6], [21, 3, 3, 0, 2, 2]);

    let mut slow = bed.connect().await;
    let mut whole = Vec::new();
    let config = std::sync::Arc::new(trusting(&[&stranger]));
    let mut client = rustls::ClientConnection::new(config, "a.example.com".try_into().unwrap()).unwrap();
    client.write_tls(&mut whole).unwrap();
    slow.write_all(&whole).await.unwrap();
    let mut answer = Vec::new();
    assert_eq!(soon(slow.read_to_end(&mut answer)).await.unwrap_err().kind(), ErrorKind::ConnectionReset);
    assert_eq!([Refusal::HandshakeFailed, Refusal::HandshakeTimeout].map(|r| bed.refused(r)), [2, 1]);
}

#[tokio::test]
async fn where_tls_ends_a_client_without_a_backend_gets_rst_and_no_alert_in_the_clear() {
    let certificate = certificate(&["silent.example.com", "invalid.example.com"]);
    let silent = backends("r", vec![(1, endpoints(&[nobody().await]))]);
    let names = vec![
        named("invalid.example.com", Some(backends("r", vec![(1, Target::Invalid)]))),
        named("silent.example.com", Some(silent)),
    ];
    let mode = TlsMode::Terminate { certificates: vec![certificate.clone()] };
    let bed = Bed::new(vec![listener("a", &["198.19.0.1"], mode, names)]);

    let mut client = bed.tls("silent.example.com", trusting(&[&certificate])).await.unwrap();
    assert_eq!(soon(client.read_u8()).await.unwrap_err().kind(), ErrorKind::ConnectionReset);
    let error = bed.tls("invalid.example.com", trusting(&[&certificate])).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
    assert_eq!([Refusal::BackendSilent, Refusal::InvalidBackend].map(|r| bed.refused(r)), [1, 1]);
}
