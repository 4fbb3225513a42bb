use std::sync::Arc;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::bed::*;
use super::hello::{hello, in_records};
use super::ir::{backends, endpoints, listener, named};
use crate::ir::{Endpoint, Listener, TlsMode};

/// A listener with one name, on one endpoint.
fn passing(name: &str, endpoint: Endpoint) -> Arc<Listener> {
    passing_to(name, &[endpoint])
}

fn passing_to(name: &str, list: &[Endpoint]) -> Arc<Listener> {
    let backends = backends("TLSRoute default/r", vec![(1, endpoints(list))]);
    listener("a", &["198.19.0.1"], TlsMode::Passthrough, vec![named(name, Some(backends))])
}

/// A client and a backend that are connected, after a ClientHello of this size.
async fn through(bed: &Bed, backend: &tokio::net::TcpListener, size: usize) -> (TcpStream, TcpStream) {
    let mut client = bed.connect().await;
    let hello = in_records(&hello(Some("a.example.com"), size), 16_384);
    client.write_all(&hello).await.unwrap();
    let mut server = backend.accept().await.unwrap().0;
    let mut got = vec![0; hello.len()];
    server.read_exact(&mut got).await.unwrap();
    assert!(got == hello, "the backend gets the ClientHello as it was");
    (client, server)
}

#[tokio::test]
async fn clients_meet_the_backend_of_their_name_whatever_the_size_of_their_hello() {
    let certificates = [certificate(&["a.example.com"]), certificate(&["b.example.com"])];
    let mut names = Vec::new();
    for (name, certificate) in ["a.example.com", "b.example.com"].into_iter().zip(&certificates) {
        let route = backends(name, vec![(1, endpoints(&[tls_echo(certificate).await]))]);
        names.push(named(name, Some(route)));
    }
    let bed = Bed::new(vec![listener("a", &["198.19.0.1"], TlsMode::Passthrough, names)]);
    for size in [0, 1_000, 8_192, 16_384, 30_000, 60_000] {
        for (name, certificate) in ["a.example.com", "b.example.com"].into_iter().zip(&certificates) {
            let mut client = bed.tls(name, padded(trusting(&[certificate]), size)).await.unwrap();
            echo(&mut client, format!("{name} {size}").as_bytes()).await;
        }
    }
}

#[tokio::test]
async fn a_hello_may_come_byte_by_byte() {
    let certificate = certificate(&["a.example.com"]);
    let bed = Bed::new(vec![passing("a.example.com", tls_echo(&certificate).await)]);
    let stream = Bytewise(bed.connect().await);
    let mut client = handshake(stream, "a.example.com", padded(trusting(&[&certificate]), 2_000)).await.unwrap();
    echo(&mut client, b"still here").await;
}

#[tokio::test]
async fn a_backend_that_wants_it_is_told_the_clients_address() {
    let (mut endpoint, listening) = backend().await;
    endpoint.proxy_protocol = true;
    let bed = Bed::new(vec![passing("a.example.com", endpoint)]);
    let mut client = bed.connect().await;
    client.write_all(&in_records(&hello(Some("a.example.com"), 300), 16_384)).await.unwrap();
    let mut server = listening.accept().await.unwrap().0;
    let mut header = [0; 28];
    server.read_exact(&mut header).await.unwrap();
    let header = ppp::v2::Header::try_from(&header[..]).unwrap();
    let client = client.local_addr().unwrap();
    let expected = ppp::v2::IPv4::new([127, 0, 0, 1], [198, 19, 0, 1], client.port(), 443);
    assert_eq!(header.addresses, ppp::v2::Addresses::IPv4(expected));
    let mut first = [0; 1];
    server.read_exact(&mut first).await.unwrap();
    assert_eq!(first, [22], "the ClientHello follows");
}

#[tokio::test]
async fn either_end_may_end_first_and_the_other_goes_on() {
    let (endpoint, listening) = backend().await;
    let bed = Bed::new(vec![passing("a.example.com", endpoint)]);
    for client_first in [true, false] {
        let (client, server) = through(&bed, &listening, 300).await;
        let (mut first, mut second) = if client_first { (client, server) } else { (server, client) };
        first.write_all(b"all I have").await.unwrap();
        first.shutdown().await.unwrap();
        assert_eq!(rest(&mut second).await, "all I have");
        second.write_all(b"and all I have").await.unwrap();
        drop(second);
        assert_eq!(rest(&mut first).await, "and all I have");
    }
}

#[tokio::test]
async fn an_end_that_breaks_off_is_broken_off_towards_the_other() {
    let (endpoint, listening) = backend().await;
    let bed = Bed::new(vec![passing("a.example.com", endpoint)]);
    for client_first in [true, false] {
        let (client, server) = through(&bed, &listening, 300).await;
        let (first, mut second) = if client_first { (client, server) } else { (server, client) };
        crate::proxy::sockets::reset_on_close(&first);
        drop(first);
        let error = soon(second.read_u8()).await.unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
    }
}

#[tokio::test]
async fn a_hundred_megabytes_arrive_as_they_were_sent_both_ways_at_once() {
    const BYTES: usize = 100_000_000;
    let (endpoint, listening) = backend().await;
    let bed = Bed::new(vec![passing("a.example.com", endpoint)]);
    let (client, server) = through(&bed, &listening, 20_000).await;
    let noise = std::sync::Arc::new(noise(BYTES));
    let mut tasks = Vec::new();
    for end in [client, server] {
        let (mut read, mut write) = end.into_split();
        let (sent, expected) = (noise.clone(), noise.clone());
        tasks.push(tokio::spawn(async move {
            write.write_all(&sent).await.unwrap();
            write.shutdown().await.unwrap();
        }));
        tasks.push(tokio::spawn(async move {
            let (mut part, mut got) = (vec![0; 1 << 20], 0);
            loop {
                let bytes = read.read(&mut part).await.unwrap();
                if bytes == 0 {
                    break;
                }
                assert!(part[..bytes] == expected[got..got + bytes], "bytes after {got} are others");
                got += bytes;
            }
            assert_eq!(got, BYTES);
        }));
    }
    for task in tasks {
        soon(task).await.unwrap();
    }
    let counters = bed.proxy.handle();
    assert!(counters.counters().bytes_in.get() >= BYTES as u64 && counters.counters().bytes_out.get() == BYTES as u64);
}

#[tokio::test]
async fn another_endpoint_is_tried_when_one_takes_no_connection() {
    let certificate = certificate(&["a.example.com"]);
    let list = [nobody().await, nobody().await, tls_echo(&certificate).await];
    let bed = Bed::new(vec![passing_to("a.example.com", &list)]);
    for _ in 0..10 {
        let mut client = bed.tls("a.example.com", trusting(&[&certificate])).await.unwrap();
        echo(&mut client, b"found one").await;
    }
    assert!(bed.proxy.handle().counters().connects_failed.get() > 0);
}

#[tokio::test]
async fn connections_outlive_the_route_that_they_came_by() {
    let certificate = certificate(&["a.example.com"]);
    let bed = Bed::new(vec![passing("a.example.com", tls_echo(&certificate).await)]);
    let mut client = bed.tls("a.example.com", trusting(&[&certificate])).await.unwrap();
    bed.publish(vec![]);
    echo(&mut client, b"still here").await;
    assert!(bed.tls("a.example.com", trusting(&[&certificate])).await.is_err());
}
