//! A running proxy, clients and backends.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use rcgen::{CertificateParams, KeyPair, PKCS_ECDSA_P256_SHA256, SignatureAlgorithm};
use rustls::crypto::ring::default_provider;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore, ServerConfig, SupportedProtocolVersion};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio_rustls::client::TlsStream;
use tokio_rustls::{TlsAcceptor, TlsConnector};

use super::ir;
use crate::emit::proxy::table;
use crate::ir::{Certificate, Endpoint, Ir, Listener};
use crate::proxy::http::snapshot::Snapshot;
use crate::proxy::{Options, Proxy, Refusal, Tls};

/// Where every connection was going, but those from [`STRANGER`].
pub const GATEWAY: &str = "198.19.0.1:443";
/// Its connections are not the kernel's.
pub const STRANGER: &str = "127.0.0.2";

pub struct Bed {
    pub proxy: Proxy,
    tls: Tls,
}

impl Bed {
    pub fn new(listeners: Vec<Arc<Listener>>) -> Bed {
        Bed::with(Options::default(), listeners)
    }

    pub fn with(options: Options, listeners: Vec<Arc<Listener>>) -> Bed {
        let gateway_of = |_, client: SocketAddr| {
            let explained = client.ip().to_string() != STRANGER;
            Ok(explained.then(|| GATEWAY.parse().unwrap()))
        };
        let bed = Bed { proxy: Proxy::start(options, Box::new(gateway_of)).unwrap(), tls: Tls::new().unwrap() };
        bed.publish(listeners);
        bed
    }

    pub fn publish(&self, listeners: Vec<Arc<Listener>>) {
        let handle = self.proxy.handle();
        let ir = Arc::new(Ir { listeners, ..Ir::default() });
        handle.publish(table(&ir, &handle.table(), &self.tls), Snapshot::build(&ir, &handle.http()));
    }

    pub async fn connect(&self) -> TcpStream {
        self.connect_from("127.0.0.1").await.unwrap()
    }

    async fn connect_from(&self, address: &str) -> io::Result<TcpStream> {
        let socket = TcpSocket::new_v4()?;
        socket.bind(SocketAddr::new(address.parse().unwrap(), 0))?;
        let stream = socket.connect(([127, 0, 0, 1], self.proxy.handle().port()).into()).await?;
        stream.set_nodelay(true)?;
        Ok(stream)
    }

    pub async fn resets(&self, address: &str) -> bool {
        resets(self.connect_from(address)).await
    }

    pub async fn tls(&self, name: &str, config: ClientConfig) -> io::Result<TlsStream<TcpStream>> {
        handshake(self.connect().await, name, config).await
    }

    pub fn refused(&self, reason: Refusal) -> u64 {
        self.proxy.handle().counters().refused(reason)
    }
}

pub async fn handshake<S: AsyncRead + AsyncWrite + Unpin>(
    stream: S,
    name: &str,
    config: ClientConfig,
) -> io::Result<TlsStream<S>> {
    let name = ServerName::try_from(name.to_owned()).unwrap();
    TlsConnector::from(Arc::new(config)).connect(name, stream).await
}

/// Whether a client that says nothing gets RST, which may come before it is told that it is connected.
pub async fn resets(client: impl Future<Output = io::Result<TcpStream>>) -> bool {
    let read = async { client.await?.read_u8().await };
    read.await.is_err_and(|error| error.kind() == io::ErrorKind::ConnectionReset)
}

/// Fails where something never comes.
pub async fn soon<T>(what: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(60), what).await.expect("it takes over a minute")
}

/// All that comes until the end.
pub async fn rest(stream: &mut (impl AsyncRead + Unpin)) -> String {
    let mut all = Vec::new();
    soon(stream.read_to_end(&mut all)).await.unwrap();
    String::from_utf8(all).unwrap()
}

/// Says something and hears it again.
pub async fn echo(stream: &mut (impl AsyncRead + AsyncWrite + Unpin), said: &[u8]) {
    stream.write_all(said).await.unwrap();
    stream.flush().await.unwrap();
    let mut heard = vec![0; said.len()];
    soon(stream.read_exact(&mut heard)).await.unwrap();
    assert_eq!(heard, said);
}

pub fn certificate(names: &[&str]) -> Arc<Certificate> {
    certificate_of(names, &PKCS_ECDSA_P256_SHA256)
}

pub fn certificate_of(names: &[&str], algorithm: &'static SignatureAlgorithm) -> Arc<Certificate> {
    let key = KeyPair::generate_for(algorithm).unwrap();
    let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
    let certificate = CertificateParams::new(names).unwrap().self_signed(&key).unwrap();
    Arc::new(Certificate {
        secret: "Secret default/tls".into(),
        chain: vec![certificate.der().to_vec()],
        key: key.serialize_der(),
    })
}

/// Of a client that trusts these alone.
pub fn trusting(certificates: &[&Certificate]) -> ClientConfig {
    speaking(certificates, rustls::DEFAULT_VERSIONS)
}

pub fn speaking(certificates: &[&Certificate], versions: &[&'static SupportedProtocolVersion]) -> ClientConfig {
    let mut roots = RootCertStore::empty();
    for certificate in certificates {
        roots.add(CertificateDer::from(certificate.chain[0].clone())).unwrap();
    }
    ClientConfig::builder_with_provider(Arc::new(default_provider()))
        .with_protocol_versions(versions)
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth()
}

/// Makes its ClientHello about so much larger, by protocols that nobody knows.
pub fn padded(mut config: ClientConfig, bytes: usize) -> ClientConfig {
    config.alpn_protocols = (0..bytes / 256).map(|_| vec![b'x'; 255]).collect();
    config
}

/// A backend that ends TLS itself and says what it hears.
pub async fn tls_echo(certificate: &Certificate) -> Endpoint {
    let chain = certificate.chain.iter().map(|der| CertificateDer::from(der.clone())).collect();
    let key = PrivateKeyDer::try_from(certificate.key.clone()).unwrap();
    let config = ServerConfig::builder_with_provider(Arc::new(default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let (endpoint, listener) = backend().await;
    tokio::spawn(async move {
        loop {
            let (stream, acceptor) = (listener.accept().await.unwrap().0, acceptor.clone());
            tokio::spawn(async move {
                if let Ok(stream) = acceptor.accept(stream).await {
                    repeat(stream).await;
                }
            });
        }
    });
    endpoint
}

/// A backend that says what it hears.
pub async fn tcp_echo() -> Endpoint {
    let (endpoint, listener) = backend().await;
    tokio::spawn(async move {
        loop {
            tokio::spawn(repeat(listener.accept().await.unwrap().0));
        }
    });
    endpoint
}

async fn repeat(stream: impl AsyncRead + AsyncWrite) {
    let (mut read, mut write) = tokio::io::split(stream);
    // A client that breaks off ends it too.
    let _ = tokio::io::copy(&mut read, &mut write).await;
    let _ = write.shutdown().await;
}

/// A backend that the test plays itself.
pub async fn backend() -> (Endpoint, TcpListener) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    (ir::endpoint(&listener.local_addr().unwrap().to_string()), listener)
}

/// An endpoint where nobody listens, nor anybody will while the tests run.
pub async fn nobody() -> Endpoint {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind(([127, 0, 0, 1], 0).into()).unwrap();
    let endpoint = ir::endpoint(&socket.local_addr().unwrap().to_string());
    // It keeps the port.
    std::mem::forget(socket);
    endpoint
}

/// Writes byte by byte.
pub struct Bytewise(pub TcpStream);

impl AsyncRead for Bytewise {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, to: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, to)
    }
}

impl AsyncWrite for Bytewise {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, &bytes[..1.min(bytes.len())])
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

/// Bytes that repeat nowhere near.
pub fn noise(bytes: usize) -> Vec<u8> {
    let mut word = 0u64;
    std::iter::from_fn(|| {
        word += 1;
        Some(gateway_common::hash::mix(word).to_ne_bytes())
    })
    .flatten()
    .take(bytes)
    .collect()
}
