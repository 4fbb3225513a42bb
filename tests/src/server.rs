//! The servers behind the gateway in tests and demo. They say who they are and whom they see, on TCP, UDP and as DNS.
//!
//! TCP, by the first line: `who` answers `NAME PEER` and reads on; `bytes N` sends N bytes of [`pattern`] and reads on;
//! `echo` sends back all that follows until the end; `reset` ends with RST; an HTTP GET of `/` answers like `who`, of `/file` with the
//! file served, of `/bytes/N` with N bytes. UDP: `who` answers `NAME PEER`; what begins with `size` is answered by
//! `NAME LENGTH`; everything else comes back as it is. DNS: a TXT query for
//! any name answers the server's name, an A query always 198.18.50.53.

use std::fs::File;
use std::io::{self, Read};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use simple_dns::rdata::{A, RData, TXT};
use simple_dns::{CLASS, Packet, PacketFlag, QTYPE, ResourceRecord, TYPE};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream, UdpSocket};

/// What a server serves; ports that are 0 are not served.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// What it calls itself.
    pub name: String,
    pub tcp: u16,
    pub udp: u16,
    pub dns: u16,
    /// What `GET /file` sends.
    pub file: Option<PathBuf>,
}

/// Sockets that are bound: whoever connects from now on is heard.
pub struct Server {
    options: Options,
    tcp: Option<Socket>,
    udp: Option<Socket>,
    dns: Option<Socket>,
}

impl Server {
    /// Binds, in the network namespace of the calling thread, to all addresses of both IP versions.
    pub fn bind(options: Options) -> io::Result<Server> {
        let bind = |port, kind| match port {
            0 => Ok(None),
            port => bound(port, kind).map(Some),
        };
        Ok(Server {
            tcp: bind(options.tcp, Type::STREAM)?,
            udp: bind(options.udp, Type::DGRAM)?,
            dns: bind(options.dns, Type::DGRAM)?,
            options,
        })
    }

    /// Serves until it is dropped.
    pub async fn serve(self) -> io::Result<()> {
        let Server { options, tcp, udp, dns } = self;
        tokio::try_join!(serve_tcp(&options, tcp), serve_udp(&options, udp), serve_dns(&options, dns)).map(drop)
    }
}

fn bound(port: u16, kind: Type) -> io::Result<Socket> {
    let protocol = if kind == Type::STREAM { Protocol::TCP } else { Protocol::UDP };
    let socket = Socket::new(Domain::IPV6, kind, Some(protocol))?;
    socket.set_only_v6(false)?;
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&SocketAddr::from((Ipv6Addr::UNSPECIFIED, port)).into())?;
    if kind == Type::STREAM {
        socket.listen(4096)?;
    } else {
        socket.set_recv_buffer_size(4 << 20)?;
    }
    Ok(socket)
}

async fn serve_tcp(options: &Options, socket: Option<Socket>) -> io::Result<()> {
    let Some(socket) = socket else { return Ok(()) };
    let listener = TcpListener::from_std(socket.into())?;
    loop {
        match listener.accept().await {
            Ok((stream, peer)) => {
                let options = options.clone();
                // A client that goes away is no news.
                tokio::spawn(async move { talk(&options, stream, canonical(peer)).await.ok() });
            }
            // Out of descriptors: some will be closed.
            Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
        }
    }
}

async fn talk(options: &Options, stream: TcpStream, peer: SocketAddr) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut stream = BufReader::new(stream);
    let mut line = String::new();
    loop {
        line.clear();
        if stream.read_line(&mut line).await? == 0 {
            return Ok(());
        }
        let words: Vec<&str> = line.split_whitespace().collect();
        match words[..] {
            ["who"] => stream.write_all(whom(options, peer).as_bytes()).await?,
            ["bytes", count] => send_pattern(&mut stream, number(count)?).await?,
            ["echo"] => return echo(stream).await,
            ["reset"] => return stream.into_inner().set_zero_linger(),
            ["GET", path, _] => {
                let path = path.to_owned();
                return answer_http(options, stream, &path, peer).await;
            }
            _ => return Err(io::ErrorKind::InvalidInput.into()),
        }
    }
}

fn whom(options: &Options, peer: SocketAddr) -> String {
    format!("{} {peer}\n", options.name)
}

fn number(text: &str) -> io::Result<u64> {
    text.parse().map_err(|_| io::ErrorKind::InvalidInput.into())
}

async fn echo(mut stream: BufReader<TcpStream>) -> io::Result<()> {
    let mut buffer = vec![0; 64 << 10];
    loop {
        let count = stream.read(&mut buffer).await?;
        if count == 0 {
            return stream.shutdown().await;
        }
        stream.write_all(&buffer[..count]).await?;
    }
}

/// Fills a buffer with the bytes that follow the first `offset` of the endless pattern: its 8-byte words count up, so that
/// bytes that are lost, doubled or moved are seen.
pub fn pattern(offset: u64, buffer: &mut [u8]) {
    for (position, byte) in (offset..).zip(buffer) {
        *byte = (position / 8).to_be_bytes()[(position % 8) as usize];
    }
}

async fn send_pattern(stream: &mut BufReader<TcpStream>, count: u64) -> io::Result<()> {
    let mut buffer = vec![0; 64 << 10];
    let mut offset = 0;
    while offset < count {
        let length = buffer.len().min(usize::try_from(count - offset).unwrap_or(usize::MAX));
        pattern(offset, &mut buffer[..length]);
        stream.write_all(&buffer[..length]).await?;
        offset += length as u64;
    }
    Ok(())
}

async fn answer_http(
    options: &Options,
    mut stream: BufReader<TcpStream>,
    path: &str,
    peer: SocketAddr,
) -> io::Result<()> {
    let mut header = String::new();
    while stream.read_line(&mut header).await? > 2 {
        header.clear();
    }
    let head = |status: &str, length: u64| {
        format!(
            "HTTP/1.1 {status}\r\nConnection: close\r\nContent-Type: application/octet-stream\r\nContent-Length: {length}\r\n\r\n"
        )
    };
    match (path, path.strip_prefix("/bytes/"), &options.file) {
        ("/", _, _) => {
            let body = whom(options, peer);
            stream.write_all((head("200 OK", body.len() as u64) + &body).as_bytes()).await?;
        }
        (_, Some(count), _) => {
            let count = number(count)?;
            stream.write_all(head("200 OK", count).as_bytes()).await?;
            send_pattern(&mut stream, count).await?;
        }
        ("/file", _, Some(file)) => send_file(&mut stream, file, head).await?,
        _ => stream.write_all(head("404 Not Found", 0).as_bytes()).await?,
    }
    stream.shutdown().await
}

async fn send_file(
    stream: &mut BufReader<TcpStream>,
    path: &Path,
    head: impl Fn(&str, u64) -> String,
) -> io::Result<()> {
    let mut file = File::open(path)?;
    stream.write_all(head("200 OK", file.metadata()?.len()).as_bytes()).await?;
    let mut buffer = vec![0; 256 << 10];
    loop {
        let count = file.read(&mut buffer)?;
        if count == 0 {
            return Ok(());
        }
        stream.write_all(&buffer[..count]).await?;
    }
}

async fn serve_udp(options: &Options, socket: Option<Socket>) -> io::Result<()> {
    let Some(socket) = socket else { return Ok(()) };
    let socket = UdpSocket::from_std(socket.into())?;
    let mut buffer = vec![0; 64 << 10];
    loop {
        // Errors tell of answers that did not get through.
        let Ok((length, peer)) = socket.recv_from(&mut buffer).await else { continue };
        let answer = match &buffer[..length] {
            b"who" => whom(options, canonical(peer)).into_bytes(),
            size if size.starts_with(b"size") => format!("{} {length}", options.name).into_bytes(),
            other => other.to_vec(),
        };
        socket.send_to(&answer, peer).await.ok();
    }
}

async fn serve_dns(options: &Options, socket: Option<Socket>) -> io::Result<()> {
    let Some(socket) = socket else { return Ok(()) };
    let socket = UdpSocket::from_std(socket.into())?;
    let mut buffer = vec![0; 4096];
    loop {
        let Ok((length, peer)) = socket.recv_from(&mut buffer).await else { continue };
        if let Some(answer) = answer_dns(&options.name, &buffer[..length]) {
            socket.send_to(&answer, peer).await.ok();
        }
    }
}

fn answer_dns(name: &str, query: &[u8]) -> Option<Vec<u8>> {
    let query = Packet::parse(query).ok()?;
    let question = query.questions.first()?;
    let mut answer = Packet::new_reply(query.id());
    answer.set_flags(PacketFlag::AUTHORITATIVE_ANSWER);
    answer.questions.push(question.clone());
    let data = match question.qtype {
        QTYPE::TYPE(TYPE::TXT) => Some(RData::TXT(TXT::new().with_string(name).ok()?)),
        QTYPE::TYPE(TYPE::A) => Some(RData::A(A { address: Ipv4Addr::new(198, 18, 50, 53).into() })),
        _ => None,
    };
    if let Some(data) = data {
        answer.answers.push(ResourceRecord::new(question.qname.clone(), CLASS::IN, 5, data));
    }
    answer.build_bytes_vec_compressed().ok()
}

/// A peer of a socket for both IP versions, as the one that it is.
fn canonical(peer: SocketAddr) -> SocketAddr {
    let address: IpAddr = peer.ip().to_canonical();
    SocketAddr::new(address, peer.port())
}
