use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::bed::*;
use super::hello::{hello, in_records};
use super::ir::{backends, endpoints, listener, named};
use crate::ir::{Certificate, Listener, TlsMode};
use crate::proxy::{Options, Refusal};

async fn listeners(certificate: &Certificate) -> Vec<Arc<Listener>> {
    let name = named("a.example.com", Some(backends("r", vec![(1, endpoints(&[tls_echo(certificate).await]))])));
    vec![listener("a", &["198.19.0.1"], TlsMode::Passthrough, vec![name])]
}

#[tokio::test]
async fn connections_over_the_limit_are_refused_and_those_below_go_on() {
    let certificate = certificate(&["a.example.com"]);
    let options = Options { connections: 2, ..Options::default() };
    let bed = Bed::with(options, listeners(&certificate).await);
    let mut first = bed.tls("a.example.com", trusting(&[&certificate])).await.unwrap();
    let second = bed.tls("a.example.com", trusting(&[&certificate])).await.unwrap();
    assert!(bed.resets("127.0.0.1").await);
    assert_eq!(bed.refused(Refusal::TooManyConnections), 1);
    echo(&mut first, b"still here").await;
    drop(second);
    while bed.proxy.handle().counters().live() > 1 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let mut third = bed.tls("a.example.com", trusting(&[&certificate])).await.unwrap();
    echo(&mut third, b"there is room again").await;
}

#[tokio::test]
async fn large_hellos_have_room_for_some_of_them() {
    let certificate = certificate(&["a.example.com"]);
    let options = Options { hello_bytes: 40_000, ..Options::default() };
    let bed = Bed::with(options, listeners(&certificate).await);
    let hello = in_records(&hello(Some("a.example.com"), 50_000), 16_384);
    let mut slow = bed.connect().await;
    slow.write_all(&hello[..40_000]).await.unwrap();
    let large = || async { bed.tls("a.example.com", padded(trusting(&[&certificate]), 40_000)).await };
    soon(async { while large().await.is_ok() {} }).await;
    assert_eq!(bed.refused(Refusal::TooManyHellos), 1);
    let mut small = bed.tls("a.example.com", trusting(&[&certificate])).await.unwrap();
    echo(&mut small, b"small ones go on").await;
    drop(slow);
    soon(async { while large().await.is_err() {} }).await;
}

#[tokio::test]
async fn draining_waits_for_connections_and_takes_no_new_ones() {
    let certificate = certificate(&["a.example.com"]);
    let bed = Bed::new(listeners(&certificate).await);
    let (handle, port) = (bed.proxy.handle(), bed.proxy.handle().port());
    let mut client = bed.tls("a.example.com", trusting(&[&certificate])).await.unwrap();
    let drained = tokio::spawn(bed.proxy.drain());
    while tokio::net::TcpStream::connect(("127.0.0.1", port)).await.is_ok() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    echo(&mut client, b"still here").await;
    assert!(!drained.is_finished());
    drop(client);
    let start = Instant::now();
    drained.await.unwrap();
    assert!(start.elapsed() < Duration::from_secs(2), "nobody is left to wait for");
    assert_eq!(handle.counters().live(), 0);
}

#[tokio::test]
async fn draining_has_an_end() {
    let certificate = certificate(&["a.example.com"]);
    let options = Options { drain: Duration::from_millis(200), ..Options::default() };
    let bed = Bed::with(options, listeners(&certificate).await);
    let mut client = bed.tls("a.example.com", trusting(&[&certificate])).await.unwrap();
    let start = Instant::now();
    bed.proxy.drain().await;
    assert!((Duration::from_millis(200)..Duration::from_secs(2)).contains(&start.elapsed()));
    assert!(client.read_u8().await.is_err());
}
