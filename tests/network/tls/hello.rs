//! ClientHellos as they are met: long ones, and in every kind of pieces.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::time::Duration;

use gateway_tests::client::PATIENCE;
use gateway_tests::tls;
use socket2::SockRef;
use tokio_rustls::rustls::ClientConfig;

use super::{Path, SERVER, Stepwise, TlsBed, everywhere};

/// Hands the hello to `send`, then goes on as any client; what the server says to `tls`.
fn in_pieces(bed: &TlsBed, path: Path, config: &Arc<ClientConfig>, send: impl Fn(&mut TcpStream, &[u8])) -> String {
    let mut client = Stepwise::connect(bed, path.target, &path.name(""), config).unwrap();
    send(&mut client.stream, &client.hello);
    client.finish().unwrap_or_else(|error| panic!("{path:?}: {error}"))
}

fn whole(stream: &mut TcpStream, hello: &[u8]) {
    stream.write_all(hello).unwrap();
}

/// Pieces of so many bytes, each in a segment of its own.
fn pieces(of: usize, pause: Duration) -> impl Fn(&mut TcpStream, &[u8]) {
    move |stream, hello| {
        for piece in hello.chunks(of) {
            stream.write_all(piece).unwrap();
            std::thread::sleep(pause);
        }
    }
}

#[test]
fn hello_of_one_segment_and_of_some() {
    everywhere(&TlsBed::new(), SERVER, |bed, path| {
        for size in [200, 1_400, 1_600, 3_000, 4_500, 6_000, 8_000] {
            let answer = in_pieces(bed, path, &tls::with_long_hello(&bed.client, size), whole);
            assert!(answer.contains(&format!("sni={}", path.name(""))), "{path:?}, {size} bytes: {answer}");
        }
    });
}

#[test]
fn hello_that_the_kernel_does_not_keep() {
    everywhere(&TlsBed::new(), SERVER, |bed, path| {
        for size in [9 << 10, 20 << 10, 60 << 10] {
            let answer = in_pieces(bed, path, &tls::with_long_hello(&bed.client, size), whole);
            assert!(answer.contains(&format!("sni={}", path.name(""))), "{path:?}, {size} bytes: {answer}");
        }
    });
}

#[test]
fn hello_in_single_bytes() {
    everywhere(&TlsBed::new(), SERVER, |bed, path| {
        let answer = in_pieces(bed, path, &bed.client, pieces(1, Duration::from_micros(200)));
        assert!(answer.contains(&format!("sni={}", path.name(""))), "{path:?}: {answer}");
    });
}

#[test]
fn hello_cut_at_awkward_places() {
    let bed = TlsBed::new();
    let hello = tls::hello("pod-1.test", &bed.client);
    let name = hello.windows(10).position(|window| window == b"pod-1.test").unwrap();
    // In the record header, in the message header, in the type of the extension, in its length, in the name, behind it.
    let cuts = [1, 3, 7, name - 9, name - 4, name + 3, name + 10, hello.len() - 1];
    everywhere(&bed, SERVER, |bed, path| {
        for cut in cuts {
            let answer = in_pieces(bed, path, &bed.client, |stream, hello| {
                stream.write_all(&hello[..cut]).unwrap();
                std::thread::sleep(Duration::from_millis(5));
                stream.write_all(&hello[cut..]).unwrap();
            });
            assert!(answer.contains(&format!("sni={}", path.name(""))), "{path:?}, cut at {cut}: {answer}");
        }
    });
}

#[test]
fn hello_in_several_records() {
    everywhere(&TlsBed::new(), SERVER, |bed, path| {
        for size in [37, 90, 64 << 10] {
            let answer =
                in_pieces(bed, path, &bed.client, |stream, hello| stream.write_all(&records(hello, size)).unwrap());
            assert!(answer.contains(&format!("sni={}", path.name(""))), "{path:?}, records of {size}: {answer}");
        }
    });
}

/// The same message in records of at most so many bytes.
fn records(hello: &[u8], size: usize) -> Vec<u8> {
    let (header, message) = hello.split_at(5);
    let mut records = Vec::new();
    for piece in message.chunks(size.min(1 << 14)) {
        records.extend(&header[..3]);
        records.extend((piece.len() as u16).to_be_bytes());
        records.extend(piece);
    }
    records
}

#[test]
fn client_that_takes_its_time() {
    everywhere(&TlsBed::new(), SERVER, |bed, path| {
        let answer = in_pieces(bed, path, &bed.client, |stream, hello| {
            std::thread::sleep(Duration::from_millis(700));
            stream.write_all(&hello[..100]).unwrap();
            std::thread::sleep(Duration::from_millis(1_500));
            stream.write_all(&hello[100..]).unwrap();
        });
        assert!(answer.contains(&format!("sni={}", path.name(""))), "{path:?}: {answer}");
    });
}

#[test]
fn client_that_ends_before_its_hello_is_whole_is_answered() {
    let bed = TlsBed::new();
    let agent = bed.agent();
    for target in super::on_gateway() {
        bed.world.client.enter(|| {
            let mut stream = TcpStream::connect_timeout(&target, PATIENCE).unwrap();
            stream.set_read_timeout(Some(PATIENCE)).unwrap();
            stream.write_all(&tls::hello("pod-1.test", &bed.client)[..50]).unwrap();
            stream.shutdown(std::net::Shutdown::Write).unwrap();
            // An end of some kind, and no silence.
            let end = stream.read(&mut [0; 16]);
            assert!(!matches!(&end, Err(error) if error.kind() == std::io::ErrorKind::WouldBlock), "{end:?}");
        });
    }
    assert_eq!(agent.metric("sluice_packets_refused_total", &["hello_abandoned"]).unwrap(), 2.0);
    // One that resets needs no answer, and one that says nothing is not kept in mind.
    for target in super::on_gateway() {
        bed.world.client.enter(|| {
            let mut stream = TcpStream::connect_timeout(&target, PATIENCE).unwrap();
            stream.write_all(&tls::hello("pod-1.test", &bed.client)[..50]).unwrap();
            SockRef::from(&stream).set_linger(Some(Duration::ZERO)).unwrap();
        });
        assert_eq!(bed.who(target, "pod-1.test").unwrap().name, "pod-1");
    }
}
