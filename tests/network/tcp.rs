//! What TCP can do on a direct connection it can do through the gateway.

use std::io::{self, ErrorKind};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::sync::Barrier;
use std::time::Duration;

use gateway_tests::client::{Connection, PATIENCE};
use gateway_tests::lab::{Node, address};
use gateway_tests::server::pattern;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::bed::{Bed, WEB, on_gateway, ready};
use crate::talk::{
    closes_at_once, closes_first, goes_on, hears_what_is_urgent, is_reset, is_urgent, listen, patient, resets,
};

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
    let listener = listen(node, OWN);
    std::thread::scope(|scope| {
        scope.spawn(|| server(patient(listener.accept().unwrap().0)));
        client(patient(bed.world.client.enter(|| TcpStream::connect_timeout(&target, PATIENCE)).unwrap()));
    });
}

#[test]
fn either_end_may_close_its_direction_first() {
    everywhere(|bed, node, target| {
        talk(bed, node, target, closes_first, goes_on);
        talk(bed, node, target, goes_on, closes_first);
    });
}

#[test]
fn both_ends_may_close_at_once() {
    everywhere(|bed, node, target| {
        let now = Barrier::new(2);
        let close = |stream| closes_at_once(stream, &now);
        for _ in 0..10 {
            talk(bed, node, target, close, close);
        }
    });
}

#[test]
fn reset_reaches_the_other_end() {
    everywhere(|bed, node, target| {
        talk(bed, node, target, resets, is_reset);
        talk(bed, node, target, is_reset, resets);
    });
}

#[test]
fn urgent_data_stays_urgent() {
    everywhere(|bed, node, target| {
        talk(bed, node, target, hears_what_is_urgent, is_urgent);
        talk(bed, node, target, is_urgent, hears_what_is_urgent);
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
