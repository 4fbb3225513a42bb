//! What TCP can do on a direct connection it can do on a spliced one. The splice reads no more than the ClientHello: behind it the ends
//! may say what they like.

use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Barrier;
use std::time::{Duration, Instant};

use gateway_tests::client::PATIENCE;
use gateway_tests::lab::{Agent, Fate, Way, Wired};
use gateway_tests::tls;
use socket2::{Domain, Protocol, SockRef, Socket, Type};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::faults::exchange;
use super::{OWN, Path, TlsBed, everywhere, on_gateway};
use crate::talk::{
    closes_at_once, closes_first, goes_on, hears_what_is_urgent, is_reset, is_urgent, listen, patient, resets,
};

fn connect(bed: &TlsBed, target: SocketAddr) -> TcpStream {
    patient(bed.world.client.enter(|| TcpStream::connect_timeout(&target, PATIENCE)).unwrap())
}

/// Takes a connection and its hello.
fn accept(listener: &TcpListener, hello: &[u8]) -> TcpStream {
    let mut stream = patient(listener.accept().unwrap().0);
    let mut got = vec![0; hello.len()];
    stream.read_exact(&mut got).unwrap();
    assert!(got == hello, "the backend got another hello than the client sent");
    stream
}

/// Runs both ends of one connection behind its hello.
fn talk(bed: &TlsBed, path: Path, server: impl FnOnce(TcpStream) + Send, client: impl FnOnce(TcpStream) + Send) {
    let hello = tls::hello(&path.name("own-"), &bed.client);
    let listener = listen(bed.node(path.site), OWN);
    std::thread::scope(|scope| {
        scope.spawn(|| server(accept(&listener, &hello)));
        let mut stream = connect(bed, path.target);
        stream.write_all(&hello).unwrap();
        client(stream);
    });
}

#[test]
fn either_end_may_close_its_direction_first() {
    everywhere(&TlsBed::new(), OWN, |bed, path| {
        talk(bed, path, closes_first, goes_on);
        talk(bed, path, goes_on, closes_first);
    });
}

#[test]
fn both_ends_may_close_at_once() {
    everywhere(&TlsBed::new(), OWN, |bed, path| {
        let now = Barrier::new(2);
        let close = |stream| closes_at_once(stream, &now);
        for _ in 0..10 {
            talk(bed, path, close, close);
        }
    });
}

#[test]
fn client_may_close_right_behind_its_hello() {
    everywhere(&TlsBed::new(), OWN, |bed, path| {
        let answer = |mut stream: TcpStream| {
            assert_eq!(stream.read(&mut [0; 8]).unwrap(), 0);
            stream.write_all(b"all the same").unwrap();
        };
        let close = |mut stream: TcpStream| {
            stream.shutdown(Shutdown::Write).unwrap();
            let mut all = String::new();
            stream.read_to_string(&mut all).unwrap();
            assert_eq!(all, "all the same");
        };
        talk(bed, path, answer, close);
    });
}

#[test]
fn reset_reaches_the_other_end() {
    everywhere(&TlsBed::new(), OWN, |bed, path| {
        talk(bed, path, resets, is_reset);
        talk(bed, path, is_reset, resets);
    });
}

#[test]
fn urgent_data_stays_urgent() {
    everywhere(&TlsBed::new(), OWN, |bed, path| {
        talk(bed, path, hears_what_is_urgent, is_urgent);
        talk(bed, path, is_urgent, hears_what_is_urgent);
    });
}

/// A client with a receive buffer of its own, set before the SYN so that it shows in the options.
fn small_client(bed: &TlsBed, target: SocketAddr, buffer: usize) -> TcpStream {
    let socket = bed.world.client.enter(|| {
        let socket = Socket::new(Domain::for_address(target), Type::STREAM, Some(Protocol::TCP)).unwrap();
        socket.set_recv_buffer_size(buffer).unwrap();
        socket.connect_timeout(&target.into(), PATIENCE).unwrap();
        socket
    });
    patient(socket.into())
}

#[test]
fn small_windows_are_kept_to() {
    const BYTES: u64 = 1_000_000;
    everywhere(&TlsBed::new(), OWN, |bed, path| {
        let hello = tls::hello(&path.name("own-"), &bed.client);
        let listener = listen(bed.node(path.site), OWN);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let mut stream = accept(&listener, &hello);
                let mut bytes = vec![0; BYTES as usize];
                gateway_tests::server::pattern(0, &mut bytes);
                stream.write_all(&bytes).unwrap();
            });
            let mut stream = small_client(bed, path.target, 4096);
            stream.write_all(&hello).unwrap();
            // The window goes to zero and opens again.
            std::thread::sleep(Duration::from_millis(300));
            read_pattern(&mut stream, BYTES);
        });
    });
}

/// Reads so many bytes of the pattern and compares every one.
fn read_pattern(stream: &mut TcpStream, count: u64) {
    let (mut got, mut wanted) = (vec![0; 16 << 10], vec![0; 16 << 10]);
    let mut offset = 0;
    while offset < count {
        let length = stream.read(&mut got).unwrap();
        assert!(length > 0, "the end came after {offset} bytes");
        gateway_tests::server::pattern(offset, &mut wanted[..length]);
        assert!(got[..length] == wanted[..length], "wrong bytes after {offset}");
        offset += length as u64;
    }
}

#[test]
fn backend_may_keep_its_window_shut_for_seconds() {
    everywhere(&TlsBed::new(), OWN, |bed, path| {
        const BYTES: u64 = 8_000_000;
        let server = |mut stream: TcpStream| {
            std::thread::sleep(Duration::from_millis(2_500));
            read_pattern(&mut stream, BYTES);
        };
        let client = |mut stream: TcpStream| {
            let mut bytes = vec![0; BYTES as usize];
            gateway_tests::server::pattern(0, &mut bytes);
            stream.write_all(&bytes).unwrap();
        };
        talk(bed, path, server, client);
    });
}

#[test]
fn backend_that_is_slow_to_accept_and_to_answer() {
    everywhere(&TlsBed::new(), OWN, |bed, path| {
        let hello = tls::with_long_hello(&bed.client, 6_000);
        let hello = tls::hello(&path.name("own-"), &hello);
        let listener = listen(bed.node(path.site), OWN);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                std::thread::sleep(Duration::from_millis(800));
                let mut stream = accept(&listener, &hello);
                std::thread::sleep(Duration::from_millis(800));
                stream.write_all(b"at last").unwrap();
            });
            let mut stream = connect(bed, path.target);
            stream.write_all(&hello).unwrap();
            let mut all = String::new();
            stream.read_to_string(&mut all).unwrap();
            assert_eq!(all, "at last");
        });
    });
}

#[test]
fn backend_that_refuses_is_told_to_the_client() {
    let bed = TlsBed::new();
    let _agent = bed.agent();
    // Nobody listens on that port: the backend answers the SYN with RST.
    for site in ["pod-1", "remote"] {
        for target in on_gateway() {
            let begun = Instant::now();
            let error = bed.who(target, &format!("own-{site}.test")).unwrap_err();
            let took = begun.elapsed();
            let said = tls::alert(&error).is_some() || error.kind() == ErrorKind::ConnectionReset;
            assert!(said && took < PATIENCE, "{site}: {error:?} after {took:?}");
        }
    }
}

#[test]
fn another_backend_is_tried_when_one_refuses() {
    use gateway_tests::lab::tls_route;
    let bed = TlsBed::new();
    // Of ten connections that are dealt evenly five meet a port where nobody listens first.
    let backends = [("own-pod-1", OWN, 1), ("pod-2", super::SERVER, 1)];
    let route = tls_route("half", ("edge", "tls"), &["half.wild.test"], &backends);
    bed.manifests.write("half.yaml", &[route]).unwrap();
    let _agent = bed.agent();
    for target in on_gateway() {
        for _ in 0..10 {
            assert_eq!(bed.who(target, "half.wild.test").unwrap().name, "pod-2");
        }
    }
}

#[test]
fn silent_backend_is_told_to_the_client() {
    let bed = TlsBed::wired(Wired { client: false, remote: true });
    let agent = bed.agent();
    let wire = bed.world.remote_wire();
    wire.script(|_, _| Fate::Drop);
    // Some SYNs by the client's own clock: 0.2 + 0.4 + 0.8 … seconds.
    let hello = tls::hello("remote.test", &bed.client);
    let ask = async |target: SocketAddr| {
        let mut stream = tokio::net::TcpStream::connect(target).await?;
        stream.write_all(&hello).await?;
        let mut answer = Vec::new();
        let end = tokio::time::timeout(Duration::from_secs(40), stream.read_to_end(&mut answer));
        end.await.unwrap_or(Err(ErrorKind::TimedOut.into())).map(|_| answer)
    };
    let [v4, v6] = on_gateway();
    let answers = bed.world.client.enter(|| gateway_tests::client::block_on(async { tokio::join!(ask(v4), ask(v6)) }));
    for answer in [answers.0, answers.1] {
        let answer = answer.unwrap_or_else(|error: std::io::Error| panic!("{error}\n{}", wire.story()));
        assert!(matches!(answer[..], [21, 3, _, 0, 2, 2, _]), "no alert, but {answer:02x?}");
    }
    assert!(agent.metric("sluice_packets_refused_total", &["backend_silent"]).unwrap() >= 2.0);
    // It is there again.
    wire.heal();
    assert_eq!(bed.who(on_gateway()[0], "remote.test").unwrap().name, "remote");
}

#[test]
fn backend_that_comes_back_in_time_is_waited_for() {
    let bed = TlsBed::wired(Wired { client: false, remote: true });
    let _agent = bed.agent();
    let wire = bed.world.remote_wire();
    for target in on_gateway() {
        wire.script(|way, segment| if way == Way::Forth && segment.nth < 1 { Fate::Drop } else { Fate::Pass });
        assert_eq!(bed.who(target, "remote.test").unwrap().name, "remote", "\n{}", wire.story());
    }
}

#[test]
fn narrow_path_on_one_side() {
    const NARROW: u16 = 1_280;
    // Which ends of links are narrow, by node and interface.
    let client = [("client", "c0")];
    let backends = [("pod-1", "eth0"), ("remote", "eth0")];
    let node_outside = [("gateway", "eth-client")];
    let node_inside = [("gateway", "pod-1"), ("gateway", "eth-remote")];
    for narrow in [&client[..], &backends, &node_outside, &node_inside] {
        let bed = TlsBed::new();
        for (name, interface) in narrow {
            let nodes = bed.world.nodes();
            let node = nodes.iter().find(|node| node.name() == *name).unwrap();
            node.run(&format!("ip link set {interface} mtu {NARROW}")).unwrap();
        }
        let _agent = bed.agent();
        for path in super::through_gateway() {
            let config = tls::with_long_hello(&bed.client, 5_000);
            let name = path.name("");
            let done = bed.world.client.block_on(|| exchange(path.target, &name, &config, 1_000_000));
            assert!(done.is_ok(), "{narrow:?}, {path:?}: {done:?}");
        }
    }
}

#[test]
fn ports_in_time_wait_are_used_again() {
    everywhere(&TlsBed::new(), OWN, |bed, path| {
        let hello = tls::hello(&path.name("own-"), &bed.client);
        let listener = listen(bed.node(path.site), OWN);
        let any: IpAddr = if path.target.is_ipv4() { [0, 0, 0, 0].into() } else { [0u16; 8].into() };
        // The server closes first, so that the 4-tuple waits there; the client comes again from the same port.
        for round in 0..3 {
            std::thread::scope(|scope| {
                scope.spawn(|| drop(accept(&listener, &hello)));
                let socket = bed.world.client.enter(|| {
                    let socket =
                        Socket::new(Domain::for_address(path.target), Type::STREAM, Some(Protocol::TCP)).unwrap();
                    socket.set_reuse_address(true).unwrap();
                    socket.bind(&SocketAddr::new(any, 40_000).into()).unwrap();
                    let started = Instant::now();
                    loop {
                        match socket.connect_timeout(&path.target.into(), PATIENCE) {
                            Ok(()) => break socket,
                            // The client's own end of the connection before is still on its last ACK.
                            Err(error)
                                if error.kind() == ErrorKind::AddrNotAvailable && started.elapsed() < PATIENCE =>
                            {
                                std::thread::sleep(Duration::from_millis(10));
                            }
                            Err(error) => panic!("{path:?}, round {round}: {error}"),
                        }
                    }
                });
                let mut stream = patient(socket.into());
                stream.write_all(&hello).unwrap();
                assert_eq!(stream.read(&mut [0; 8]).unwrap(), 0, "{path:?}, round {round}");
            });
        }
    });
}

/// Idle connections end after two seconds here.
const IDLE: [&str; 4] = ["--idle-tcp-established", "2", "--sweep-interval", "1"];

#[test]
fn keepalive_keeps_idle_connections() {
    let bed = TlsBed::new();
    let _agent = Agent::start_with(&bed.world.gateway, bed.manifests.path(), &IDLE).unwrap();
    for path in super::through_gateway() {
        bed.world.client.block_on(|| async {
            let stream = tokio::net::TcpStream::connect(path.target).await.unwrap();
            let often =
                socket2::TcpKeepalive::new().with_time(Duration::from_secs(1)).with_interval(Duration::from_secs(1));
            SockRef::from(&stream).set_tcp_keepalive(&often).unwrap();
            let mut connection = tls::Connection::over(stream, &path.name(""), &bed.client).await.unwrap();
            tokio::time::sleep(Duration::from_millis(4_500)).await;
            connection.who().await.unwrap_or_else(|error| panic!("{path:?}: {error}"));
        });
    }
}

#[test]
fn idle_connection_that_was_forgotten_is_reset_not_dropped() {
    // While its cookie is young, one of 256 acknowledgements of forgotten connections looks like one that overtook a ClientHello, and
    // gets no answer. So some connections, and more than 64 KiB of data: the acknowledgement then is not near the cookie.
    const CONNECTIONS: usize = 4;
    let bed = TlsBed::new();
    let _agent = Agent::start_with(&bed.world.gateway, bed.manifests.path(), &IDLE).unwrap();
    for path in super::through_gateway() {
        let name = path.name("");
        let reset = bed.world.client.block_on(|| async {
            let mut connections = Vec::new();
            for _ in 0..CONNECTIONS {
                let mut stream = tls::Connection::open(path.target, &name, &bed.client).await.unwrap().into_stream();
                stream.write_all(b"bytes 200000\n").await.unwrap();
                stream.flush().await.unwrap();
                crate::tcp::read_pattern(&mut stream, 0, 200_000).await.unwrap();
                connections.push(stream);
            }
            tokio::time::sleep(Duration::from_millis(4_500)).await;
            let mut reset = 0;
            for mut stream in connections {
                // The first write is answered with RST, which the read finds.
                let sent = stream.write_all(b"who\n").await.and(stream.flush().await);
                let read = tokio::time::timeout(Duration::from_secs(1), stream.read(&mut [0; 8])).await;
                let end = sent.err().or(read.ok().and_then(Result::err));
                reset += usize::from(end.is_some_and(|end| end.kind() == ErrorKind::ConnectionReset));
            }
            reset
        });
        assert!(reset + 1 >= CONNECTIONS, "{path:?}: {reset} of {CONNECTIONS} were reset");
    }
}
