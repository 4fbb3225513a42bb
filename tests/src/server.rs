//! The servers behind the gateway in tests and demo. They say who they are and whom they see, on TCP, TLS, UDP and as DNS.
//!
//! TCP and TLS, by the first line: `who` answers `NAME PEER` and reads on; `tls` answers with what the handshake agreed on
//! ([`Session`]) and reads on; `bytes N` sends N bytes of [`pattern`] and reads on; `echo` sends back all that follows until the end;
//! `reset` ends with RST; an HTTP GET of `/` answers like `who`, of `/tls` like `tls`, of `/file` with the file served, of
//! `/bytes/N` with N bytes; an HTTP PUT answers with the SHA-256 of its body. UDP: `who` answers `NAME PEER`; what begins with `size` is
//! answered by `NAME LENGTH`; everything else comes back as it is. DNS: a TXT query for any name answers the server's name,
//! an A query always 198.18.50.53.

use std::fs::File;
use std::io::{self, Read};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use simple_dns::rdata::{A, RData, TXT};
use simple_dns::{CLASS, Packet, PacketFlag, QTYPE, ResourceRecord, TYPE};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::{HandshakeKind, ServerConfig, ServerConnection};
use tokio_rustls::server::TlsStream;

/// What a server serves; ports that are 0 are not served.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// What it calls itself.
    pub name: String,
    pub tcp: u16,
    pub udp: u16,
    pub dns: u16,
    pub tls: Option<Tls>,
    /// What `GET /file` sends.
    pub file: Option<PathBuf>,
}

/// How a server serves TLS.
#[derive(Clone, Debug)]
pub struct Tls {
    pub port: u16,
    /// Here it speaks PROXY protocol v2 first, unless this is 0.
    pub proxied_port: u16,
    pub config: Arc<ServerConfig>,
}

/// Sockets that are bound: whoever connects from now on is heard.
pub struct Server {
    options: Options,
    tcp: Option<Socket>,
    tls: Option<Socket>,
    proxied: Option<Socket>,
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
            tls: bind(options.tls.as_ref().map_or(0, |tls| tls.port), Type::STREAM)?,
            proxied: bind(options.tls.as_ref().map_or(0, |tls| tls.proxied_port), Type::STREAM)?,
            udp: bind(options.udp, Type::DGRAM)?,
            dns: bind(options.dns, Type::DGRAM)?,
            options,
        })
    }

    /// Serves until it is dropped.
    pub async fn serve(self) -> io::Result<()> {
        let Server { options, tcp, tls, proxied, udp, dns } = self;
        let options = Arc::new(options);
        tokio::try_join!(
            accept(&options, tcp, plain),
            accept(&options, tls, |options, stream, peer| secure(options, stream, peer, String::new())),
            accept(&options, proxied, proxied_first),
            serve_udp(&options, udp),
            serve_dns(&options, dns)
        )
        .map(drop)
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

/// Gives each connection to a task of its own.
async fn accept<F>(
    options: &Arc<Options>,
    socket: Option<Socket>,
    talk: impl Fn(Arc<Options>, TcpStream, SocketAddr) -> F,
) -> io::Result<()>
where
    F: Future<Output = io::Result<()>> + Send + 'static,
{
    let Some(socket) = socket else { return Ok(()) };
    let listener = TcpListener::from_std(socket.into())?;
    loop {
        match listener.accept().await {
            Ok((stream, peer)) => {
                stream.set_nodelay(true)?;
                // A client that goes away is no news.
                tokio::spawn(talk(options.clone(), stream, canonical(peer)));
            }
            // Out of descriptors: some will be closed.
            Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
        }
    }
}

async fn plain(options: Arc<Options>, stream: TcpStream, peer: SocketAddr) -> io::Result<()> {
    talk(&options, stream, &Session { peer, tls: "no TLS".to_owned() }).await
}

/// Reads a PROXY protocol v2 header, then speaks TLS.
async fn proxied_first(options: Arc<Options>, mut stream: TcpStream, peer: SocketAddr) -> io::Result<()> {
    const FIXED: usize = 16;
    let mut header = vec![0; FIXED];
    stream.read_exact(&mut header).await?;
    let length = usize::from(u16::from_be_bytes([header[14], header[15]]));
    header.resize(FIXED + length, 0);
    stream.read_exact(&mut header[FIXED..]).await?;
    let invalid = |error| io::Error::new(io::ErrorKind::InvalidData, format!("{error:?}"));
    let header = ppp::v2::Header::try_from(header.as_slice()).map_err(invalid)?;
    let said = match header.addresses {
        ppp::v2::Addresses::IPv4(ends) => Some((
            SocketAddr::from((ends.source_address, ends.source_port)),
            SocketAddr::from((ends.destination_address, ends.destination_port)),
        )),
        ppp::v2::Addresses::IPv6(ends) => Some((
            SocketAddr::from((ends.source_address, ends.source_port)),
            SocketAddr::from((ends.destination_address, ends.destination_port)),
        )),
        _ => None,
    };
    let (from, to) = said.ok_or(io::ErrorKind::InvalidData)?;
    secure(options, stream, peer, format!(" proxied={from}>{to}")).await
}

/// Speaks TLS; `more` is added to what it says about the session.
async fn secure(options: Arc<Options>, stream: TcpStream, peer: SocketAddr, more: String) -> io::Result<()> {
    let Some(tls) = &options.tls else { return Ok(()) };
    let stream = TlsAcceptor::from(tls.config.clone()).accept(stream).await?;
    let session = Session { peer, tls: agreed(stream.get_ref().1) + &more };
    talk(&options, stream, &session).await
}

/// The answer to `tls`: `sni=NAME version=TLSv1_3 alpn=PROTOCOL resumed=no`, `-` for what there was none of, and behind a
/// PROXY protocol header ` proxied=CLIENT>DESTINATION`.
fn agreed(connection: &ServerConnection) -> String {
    let name = connection.server_name().unwrap_or("-");
    let version = connection.protocol_version().map_or("-".to_owned(), |version| format!("{version:?}"));
    let protocol = connection.alpn_protocol().map_or("-".into(), String::from_utf8_lossy);
    let resumed = if connection.handshake_kind() == Some(HandshakeKind::Resumed) { "yes" } else { "no" };
    format!("sni={name} version={version} alpn={protocol} resumed={resumed}")
}

/// What is known of a connection.
struct Session {
    peer: SocketAddr,
    tls: String,
}

impl Session {
    fn who(&self, options: &Options) -> String {
        format!("{} {}\n", options.name, self.peer)
    }

    fn tls(&self) -> String {
        format!("{}\n", self.tls)
    }
}

/// What one can talk over.
trait Stream: AsyncRead + AsyncWrite + Unpin {
    /// Makes the end a RST.
    fn reset(&self) -> io::Result<()>;
}

impl Stream for TcpStream {
    fn reset(&self) -> io::Result<()> {
        self.set_zero_linger()
    }
}

impl Stream for TlsStream<TcpStream> {
    fn reset(&self) -> io::Result<()> {
        self.get_ref().0.set_zero_linger()
    }
}

async fn talk(options: &Options, stream: impl Stream, session: &Session) -> io::Result<()> {
    let mut stream = BufReader::new(stream);
    let mut line = String::new();
    loop {
        line.clear();
        if stream.read_line(&mut line).await? == 0 {
            return Ok(());
        }
        let words: Vec<&str> = line.split_whitespace().collect();
        match words[..] {
            ["who"] => stream.write_all(session.who(options).as_bytes()).await?,
            ["tls"] => stream.write_all(session.tls().as_bytes()).await?,
            ["bytes", count] => send_pattern(&mut stream, number(count)?).await?,
            ["echo"] => return echo(stream).await,
            ["reset"] => return stream.get_ref().reset(),
            [method @ ("GET" | "PUT"), path, _] => {
                let request = (method.to_owned(), path.to_owned());
                return answer_http(options, stream, session, request).await;
            }
            _ => return Err(io::ErrorKind::InvalidInput.into()),
        }
        stream.flush().await?;
    }
}

fn number(text: &str) -> io::Result<u64> {
    text.parse().map_err(|_| io::ErrorKind::InvalidInput.into())
}

async fn echo(mut stream: BufReader<impl Stream>) -> io::Result<()> {
    let mut buffer = vec![0; 64 << 10];
    loop {
        let count = stream.read(&mut buffer).await?;
        if count == 0 {
            return stream.shutdown().await;
        }
        stream.write_all(&buffer[..count]).await?;
        stream.flush().await?;
    }
}

/// Fills a buffer with the bytes that follow the first `offset` of the endless pattern: its 8-byte words count up, so that
/// bytes that are lost, doubled or moved are seen.
pub fn pattern(offset: u64, buffer: &mut [u8]) {
    // Words at a time: tests run without optimisation.
    let behind = ((8 - offset % 8) % 8) as usize;
    let (head, words) = buffer.split_at_mut(behind.min(buffer.len()));
    let end = (offset / 8).to_be_bytes();
    let within = (offset % 8) as usize;
    head.copy_from_slice(&end[within..within + head.len()]);
    for (word, bytes) in (offset.div_ceil(8)..).zip(words.chunks_mut(8)) {
        bytes.copy_from_slice(&word.to_be_bytes()[..bytes.len()]);
    }
}

async fn send_pattern(stream: &mut BufReader<impl Stream>, count: u64) -> io::Result<()> {
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
    mut stream: BufReader<impl Stream>,
    session: &Session,
    (method, path): (String, String),
) -> io::Result<()> {
    let mut header = String::new();
    let mut length = 0;
    while stream.read_line(&mut header).await? > 2 {
        if let Some(value) = header.to_ascii_lowercase().strip_prefix("content-length:") {
            length = number(value.trim())?;
        }
        header.clear();
    }
    let head = |status: &str, length: u64| {
        format!(
            "HTTP/1.1 {status}\r\nConnection: close\r\nContent-Type: application/octet-stream\r\nContent-Length: {length}\r\n\r\n"
        )
    };
    let text = |body: String| (head("200 OK", body.len() as u64) + &body).into_bytes();
    match (method.as_str(), path.as_str(), path.strip_prefix("/bytes/"), &options.file) {
        ("PUT", ..) => {
            let hash = hash_body(&mut stream, length).await?;
            stream.write_all(&text(hash)).await?;
        }
        (_, "/", ..) => stream.write_all(&text(session.who(options))).await?,
        (_, "/tls", ..) => stream.write_all(&text(session.tls())).await?,
        (_, _, Some(count), _) => {
            let count = number(count)?;
            stream.write_all(head("200 OK", count).as_bytes()).await?;
            send_pattern(&mut stream, count).await?;
        }
        (_, "/file", _, Some(file)) => send_file(&mut stream, file, head).await?,
        _ => stream.write_all(head("404 Not Found", 0).as_bytes()).await?,
    }
    stream.shutdown().await
}

/// The SHA-256 of so many bytes, as a line of hexadecimal digits.
async fn hash_body(stream: &mut BufReader<impl Stream>, length: u64) -> io::Result<String> {
    let mut hash = ring::digest::Context::new(&ring::digest::SHA256);
    let mut buffer = vec![0; 256 << 10];
    let mut body = stream.take(length);
    loop {
        let count = body.read(&mut buffer).await?;
        if count == 0 {
            break;
        }
        hash.update(&buffer[..count]);
    }
    let digits: String = hash.finish().as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
    Ok(digits + "\n")
}

async fn send_file(
    stream: &mut BufReader<impl Stream>,
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
            b"who" => format!("{} {}\n", options.name, canonical(peer)).into_bytes(),
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
