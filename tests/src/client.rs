//! Clients of [`crate::server`]: who answers, how the answers are distributed. The sockets belong to the network of the
//! calling thread; see `Node::enter` and `Node::block_on`.

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpStream, UdpSocket};
use tokio::time::timeout;
use tokio_rustls::rustls::ClientConfig;

use crate::lab::Node;

/// Longer than anything on a working network; silence is a failure.
pub const PATIENCE: Duration = Duration::from_secs(5);

/// What a server says to `who`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// Its name.
    pub name: String,
    /// The client, as the server sees it.
    pub seen: SocketAddr,
    /// The client, as it sees itself.
    pub client: SocketAddr,
}

/// A connection that can be asked again and again.
pub struct Connection {
    stream: BufReader<TcpStream>,
}

impl Connection {
    pub async fn open(target: SocketAddr) -> io::Result<Connection> {
        let stream = timeout(PATIENCE, TcpStream::connect(target)).await??;
        stream.set_nodelay(true)?;
        Ok(Connection { stream: BufReader::new(stream) })
    }

    pub async fn who(&mut self) -> io::Result<Answer> {
        let client = self.stream.get_ref().local_addr()?;
        self.stream.write_all(b"who\n").await?;
        let mut line = String::new();
        timeout(PATIENCE, self.stream.read_line(&mut line)).await??;
        answer(&line, client)
    }

    /// The stream, for talk of another kind.
    pub fn into_stream(self) -> BufReader<TcpStream> {
        self.stream
    }
}

pub(crate) fn answer(line: &str, client: SocketAddr) -> io::Result<Answer> {
    let parsed = line.trim_end().split_once(' ').and_then(|(name, seen)| Some((name, seen.parse().ok()?)));
    let Some((name, seen)) = parsed else {
        return Err(io::Error::new(io::ErrorKind::UnexpectedEof, format!("the server said {line:?}")));
    };
    Ok(Answer { name: name.to_owned(), seen, client })
}

/// Asks once over a TCP connection of its own.
pub async fn who_tcp(target: SocketAddr) -> io::Result<Answer> {
    Connection::open(target).await?.who().await
}

/// A UDP socket of its own port, connected, so that ICMP errors are seen.
pub async fn udp(target: SocketAddr) -> io::Result<UdpSocket> {
    let any: IpAddr = if target.is_ipv4() { [0, 0, 0, 0].into() } else { [0u16; 8].into() };
    let socket = UdpSocket::bind((any, 0)).await?;
    socket.connect(target).await?;
    Ok(socket)
}

/// Asks over a UDP socket.
pub async fn ask_udp(socket: &UdpSocket) -> io::Result<Answer> {
    socket.send(b"who").await?;
    let mut buffer = [0; 256];
    let length = timeout(PATIENCE, socket.recv(&mut buffer)).await??;
    answer(&String::from_utf8_lossy(&buffer[..length]), socket.local_addr()?)
}

/// Asks once over a UDP socket of its own.
pub async fn who_udp(target: SocketAddr) -> io::Result<Answer> {
    ask_udp(&udp(target).await?).await
}

/// Name of the server that answered → how many times; the kind of the error for those that failed.
pub type Split = BTreeMap<String, usize>;

/// Opens so many TCP connections one after the other, some at a time, and counts who answers.
pub fn split_tcp(node: &Node, target: SocketAddr, connections: usize) -> Split {
    split(node, connections, move || who_tcp(target))
}

/// The same over TLS, asking for `name`.
pub fn split_tls(
    node: &Node,
    target: SocketAddr,
    name: &'static str,
    config: &Arc<ClientConfig>,
    count: usize,
) -> Split {
    split(node, count, move || {
        let config = config.clone();
        async move { crate::tls::who(target, name, &config).await }
    })
}

/// The same with UDP sockets.
pub fn split_udp(node: &Node, target: SocketAddr, sockets: usize) -> Split {
    split(node, sockets, move || who_udp(target))
}

fn split<F>(node: &Node, count: usize, ask: impl Fn() -> F + Sync) -> Split
where
    F: Future<Output = io::Result<Answer>> + Send + 'static,
{
    const AT_A_TIME: usize = 32;
    node.block_on(|| async {
        let mut split = Split::new();
        let mut running = tokio::task::JoinSet::new();
        for begun in 0.. {
            if begun < count {
                running.spawn(ask());
            }
            if begun < count && running.len() < AT_A_TIME {
                continue;
            }
            let name = match running.join_next().await {
                Some(Ok(Ok(answer))) => answer.name,
                Some(Ok(Err(error))) => error.kind().to_string(),
                Some(Err(panic)) => panic.to_string(),
                None => break,
            };
            *split.entry(name).or_default() += 1;
        }
        split
    })
}

/// Runs a future to its end on the calling thread.
pub fn block_on<F: Future>(future: F) -> F::Output {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.expect("a runtime needs but memory and descriptors").block_on(future)
}
