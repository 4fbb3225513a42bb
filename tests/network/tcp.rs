//! What TCP can do on a direct connection it can do through the gateway.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv6Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Barrier;
use std::time::Duration;

use gateway_tests::client::{Connection, PATIENCE};
use gateway_tests::lab::{Node, address, wait_for};
use gateway_tests::server::pattern;
use socket2::{SockRef, Socket};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::bed::{Bed, WEB, on_gateway, ready};

/// A port of its own for servers that a test writes itself.
const OWN: u16 = 9000;

/// Fetches so many bytes and compares every one.
pub async fn download(target: SocketAddr, count: u64) -> io::Result<()> {
    let mut stream = Connection::open(target).await?.into_stream();
    stream.write_all(format!("bytes {count}\n").as_bytes()).await?;
    read_pattern(&mut stream, 0, count).await
}

/// Reads the bytes from `offset` up to `end` of the pattern and compares every one.
pub async fn read_pattern(stream: &mut (impl AsyncReadExt + Unpin), mut offset: u64, end: u64) -> io::Result<()> {
    let (mut got, mut wanted) = (vec![0; 64 << 10], vec![0; 64 << 10]);
    while offset < end {
        let most = got.len().min(usize::try_from(end - offset).unwrap_or(usize::MAX));
        let length = tokio::time::timeout(PATIENCE, stream.read(&mut got[..most])).await??;
        if length == 0 {
            return Err(ErrorKind::UnexpectedEof.into());
        }
        pattern(offset, &mut wanted[..length]);
        if got[..length] != wanted[..length] {
            return Err(io::Error::new(ErrorKind::InvalidData, format!("wrong bytes after {offset}")));
        }
        offset += length as u64;
    }
    Ok(())
}

/// Sends so many bytes, ends its own direction, and compares what comes back until the server ends the other.
pub async fn echo(target: SocketAddr, count: usize) -> io::Result<()> {
    let stream = Connection::open(target).await?.into_stream().into_inner();
    let (mut reader, mut writer) = stream.into_split();
    let send = async {
        let mut bytes = vec![0; count];
        pattern(0, &mut bytes);
        writer.write_all(b"echo\n").await?;
        writer.write_all(&bytes).await?;
        writer.shutdown().await
    };
    let receive = async {
        read_pattern(&mut reader, 0, count as u64).await?;
        match tokio::time::timeout(PATIENCE, reader.read(&mut [0])).await?? {
            0 => Ok(()),
            _ => Err(io::Error::new(ErrorKind::InvalidData, "more came back than was sent")),
        }
    };
    tokio::try_join!(send, receive).map(drop)
}

/// Both versions, first on a direct connection as the measure, then through the gateway to a pod and to a remote host. The test gets
/// where the server runs and where to connect.
fn everywhere(test: impl Fn(&Bed, &Node, SocketAddr)) {
    let direct = Bed::new();
    for address in address::POD_1 {
        test(&direct, direct.pod(0), (address, OWN).into());
    }
    for (index, backend) in [address::POD_1, address::REMOTE].into_iter().enumerate() {
        let bed = Bed::web(&[backend]);
        own_port(&bed, backend);
        let _agent = bed.agent();
        for target in on_gateway(WEB) {
            let node = if index == 0 { bed.pod(0) } else { &bed.world.remote };
            test(&bed, node, target);
        }
    }
}

/// Sends the web listener to port [`OWN`] of the backend.
fn own_port(bed: &Bed, backend: [IpAddr; 2]) {
    use gateway_tests::lab::{gateway, route, service, slice};
    let [v4, v6] = address::GATEWAY.map(|address| address.to_string());
    bed.manifests
        .write(
            "web.yaml",
            &[
                gateway("edge", &[&v4, &v6], &[("web", "TCP", WEB)]),
                route("TCPRoute", "web", ("edge", "web"), &[("own", OWN, 1)]),
                service("own", "TCP", OWN),
                slice("own", "TCP", OWN, &ready(&[backend])),
            ],
        )
        .unwrap();
}

/// Runs both ends of one connection, each on its own node.
fn talk(
    bed: &Bed,
    node: &Node,
    target: SocketAddr,
    server: impl FnOnce(TcpStream) + Send,
    client: impl FnOnce(TcpStream) + Send,
) {
    // The listener before may live on for a moment in a process that another test starts, until that has closed what it inherits.
    let bind = || Ok(node.enter(|| TcpListener::bind((Ipv6Addr::UNSPECIFIED, OWN)))?);
    let listener = wait_for("the server's port", PATIENCE, bind).unwrap();
    // Holds for accept() too.
    SockRef::from(&listener).set_read_timeout(Some(PATIENCE)).unwrap();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let (stream, _) = listener.accept().unwrap();
            be_patient(&stream);
            server(stream);
        });
        let stream = bed.world.client.enter(|| TcpStream::connect_timeout(&target, PATIENCE)).unwrap();
        be_patient(&stream);
        client(stream);
    });
}

/// Fails reads and writes that take too long.
fn be_patient(stream: &TcpStream) {
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.set_write_timeout(Some(PATIENCE)).unwrap();
}

#[test]
fn either_end_may_close_its_direction_first() {
    everywhere(|bed, node, target| {
        let server_first = |mut stream: TcpStream| {
            stream.shutdown(Shutdown::Write).unwrap();
            let mut all = Vec::new();
            stream.read_to_end(&mut all).unwrap();
            assert_eq!(all.len(), 300_000, "the client may go on after the server's FIN");
        };
        let client_last = |mut stream: TcpStream| {
            assert_eq!(stream.read(&mut [0; 8]).unwrap(), 0);
            stream.write_all(&vec![7; 300_000]).unwrap();
        };
        talk(bed, node, target, server_first, client_last);

        let server_last = |mut stream: TcpStream| {
            assert_eq!(stream.read(&mut [0; 8]).unwrap(), 0);
            std::thread::sleep(Duration::from_millis(200));
            stream.write_all(&vec![7; 300_000]).unwrap();
        };
        let client_first = |mut stream: TcpStream| {
            stream.shutdown(Shutdown::Write).unwrap();
            let mut all = Vec::new();
            stream.read_to_end(&mut all).unwrap();
            assert_eq!(all.len(), 300_000, "the server may go on after the client's FIN");
        };
        talk(bed, node, target, server_last, client_first);
    });
}

#[test]
fn both_ends_may_close_at_once() {
    everywhere(|bed, node, target| {
        let now = Barrier::new(2);
        let close = |mut stream: TcpStream| {
            now.wait();
            stream.shutdown(Shutdown::Write).unwrap();
            assert_eq!(stream.read(&mut [0; 8]).unwrap(), 0);
        };
        for _ in 0..10 {
            talk(bed, node, target, close, close);
        }
    });
}

#[test]
fn reset_reaches_the_other_end() {
    everywhere(|bed, node, target| {
        let reset = |stream: TcpStream| {
            let mut stream = stream;
            stream.read_exact(&mut [0; 2]).unwrap();
            SockRef::from(&stream).set_linger(Some(Duration::ZERO)).unwrap();
        };
        let wait = |mut stream: TcpStream| {
            stream.write_all(b"hi").unwrap();
            let error = stream.read(&mut [0; 8]).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::ConnectionReset);
        };
        talk(bed, node, target, reset, wait);
        talk(bed, node, target, wait, reset);
    });
}

#[test]
fn urgent_data_stays_urgent() {
    everywhere(|bed, node, target| {
        let send = |stream: TcpStream| {
            let socket = Socket::from(stream);
            socket.send(b"before").unwrap();
            socket.send_out_of_band(b"!").unwrap();
            socket.send(b"after").unwrap();
        };
        let receive = |mut stream: TcpStream| {
            let mut all = Vec::new();
            stream.read_to_end(&mut all).unwrap();
            // The urgent byte is not in the stream: the urgent pointer came through.
            assert_eq!(String::from_utf8(all).unwrap(), "beforeafter");
        };
        talk(bed, node, target, receive, send);
        talk(bed, node, target, send, receive);
    });
}

#[test]
fn keepalive_and_idle_connections_stay() {
    let bed = Bed::web(&[address::POD_1, address::REMOTE]);
    let _agent = bed.agent();
    for target in on_gateway(WEB) {
        bed.world.client.block_on(|| async move {
            let mut connections = Vec::new();
            for _ in 0..8 {
                connections.push(Connection::open(target).await.unwrap());
            }
            tokio::time::sleep(Duration::from_secs(2)).await;
            for connection in &mut connections {
                connection.who().await.unwrap();
            }
        });
    }
}
