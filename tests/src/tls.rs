//! TLS for the lab: an authority that signs what servers show, in memory and as files for other programs, and clients.

use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    PublicKeyData,
};
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::crypto::ring::{Ticketer, default_provider};
use tokio_rustls::rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer, ServerName};
use tokio_rustls::rustls::{self, ClientConfig, RootCertStore, ServerConfig};

pub use tokio_rustls::rustls::version::{TLS12, TLS13};

use crate::client::{Answer, PATIENCE};

/// Signs certificates; its files go with it.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    certificate: rcgen::Certificate,
    directory: TempDir,
}

/// What a server shows.
pub struct Identity {
    certificate: rcgen::Certificate,
    key: KeyPair,
    /// PEM, for programs that read files.
    pub certificate_file: PathBuf,
    pub key_file: PathBuf,
}

impl Authority {
    pub fn new() -> Result<Authority> {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.distinguished_name.push(DnType::CommonName, "Sluice lab");
        let key = KeyPair::generate()?;
        let certificate = params.self_signed(&key)?;
        let directory = tempfile::Builder::new().prefix("sluice-tls-").tempdir()?;
        std::fs::write(directory.path().join("ca.pem"), certificate.pem())?;
        Ok(Authority { issuer: Issuer::new(params, key), certificate, directory })
    }

    /// Its own certificate as PEM.
    pub fn file(&self) -> PathBuf {
        self.directory.path().join("ca.pem")
    }

    /// Where its files are; there is room for more.
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// A certificate for these names and addresses, in files called after `file`.
    pub fn identity(&self, file: &str, names: &[&str]) -> Result<Identity> {
        self.identity_of(file, names, ExtendedKeyUsagePurpose::ServerAuth)
    }

    /// The same for a client to show.
    pub fn client_identity(&self, file: &str) -> Result<Identity> {
        self.identity_of(file, &[], ExtendedKeyUsagePurpose::ClientAuth)
    }

    fn identity_of(&self, file: &str, names: &[&str], purpose: ExtendedKeyUsagePurpose) -> Result<Identity> {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let mut params = CertificateParams::new(names).with_context(|| format!("names of certificate {file}"))?;
        params.distinguished_name.push(DnType::CommonName, file);
        params.extended_key_usages = vec![purpose];
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        let key = KeyPair::generate()?;
        let certificate = params.signed_by(&key, &self.issuer)?;
        let certificate_file = self.directory.path().join(format!("{file}.pem"));
        let key_file = self.directory.path().join(format!("{file}.key"));
        std::fs::write(&certificate_file, certificate.pem())?;
        std::fs::write(&key_file, key.serialize_pem())?;
        Ok(Identity { certificate, key, certificate_file, key_file })
    }

    /// Clients that trust it alone.
    pub fn client(&self) -> Result<ClientConfig> {
        self.client_of(&[&TLS12, &TLS13])
    }

    /// Clients of these versions.
    pub fn client_of(&self, versions: &[&'static rustls::SupportedProtocolVersion]) -> Result<ClientConfig> {
        let mut roots = RootCertStore::empty();
        roots.add(self.certificate.der().clone())?;
        let builder = ClientConfig::builder_with_provider(Arc::new(default_provider()));
        Ok(builder.with_protocol_versions(versions)?.with_root_certificates(roots).with_no_client_auth())
    }
}

impl Identity {
    /// The certificate, DER.
    pub fn der(&self) -> &[u8] {
        self.certificate.der()
    }

    /// The SHA-256 of the public key in base64, as browsers and HTTP pin it (RFC 7469 section 2.4).
    pub fn spki_hash(&self) -> String {
        use base64::Engine;
        let hash = ring::digest::digest(&ring::digest::SHA256, &self.key.subject_public_key_info());
        base64::prelude::BASE64_STANDARD.encode(hash)
    }

    /// A server that shows this to everybody.
    pub fn server(&self) -> Result<Arc<ServerConfig>> {
        let chain = vec![self.certificate.der().clone()];
        server(chain, PrivatePkcs8KeyDer::from(self.key.serialize_der()).into())
    }
}

/// A server that shows the certificates of a PEM file.
pub fn server_of(certificate: &Path, key: &Path) -> Result<Arc<ServerConfig>> {
    use rustls::pki_types::{CertificateDer, pem::PemObject};
    let chain = CertificateDer::pem_file_iter(certificate).and_then(Iterator::collect);
    let chain: Vec<_> = chain.with_context(|| format!("cannot read certificates from {}", certificate.display()))?;
    let key = PrivateKeyDer::from_pem_file(key).with_context(|| format!("cannot read a key from {}", key.display()))?;
    server(chain, key)
}

fn server(
    chain: Vec<rustls::pki_types::CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
) -> Result<Arc<ServerConfig>> {
    let builder = ServerConfig::builder_with_provider(Arc::new(default_provider()));
    let mut config =
        builder.with_safe_default_protocol_versions()?.with_no_client_auth().with_single_cert(chain, key)?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    // Without tickets TLS 1.2 resumes by session ids alone, which not every client has.
    config.ticketer = Ticketer::new()?;
    Ok(Arc::new(config))
}

/// The first bytes of a connection of such a client.
pub fn hello(name: &str, config: &Arc<ClientConfig>) -> Vec<u8> {
    let name = ServerName::try_from(name.to_owned()).expect("the name of a test");
    let mut client = rustls::ClientConnection::new(config.clone(), name).expect("a client that a test has made");
    let mut bytes = Vec::new();
    client.write_tls(&mut bytes).expect("a Vec takes everything");
    bytes
}

/// A client like this one, whose hello has at least so many bytes (below 64 KiB): it names protocols that nobody speaks.
pub fn with_long_hello(config: &ClientConfig, bytes: usize) -> Arc<ClientConfig> {
    let mut config = config.clone();
    while hello("pod-1.test", &Arc::new(config.clone())).len() < bytes {
        let filler = format!("{:x<200}", config.alpn_protocols.len());
        config.alpn_protocols.push(filler.into_bytes());
    }
    config.alpn_protocols.push(b"http/1.1".to_vec());
    Arc::new(config)
}

/// A connection over TLS that can be asked again and again.
pub struct Connection {
    stream: BufReader<TlsStream<TcpStream>>,
}

impl Connection {
    /// Asks for `name`, which the server's certificate must have; an IP address as name is not sent.
    pub async fn open(target: SocketAddr, name: &str, config: &Arc<ClientConfig>) -> io::Result<Connection> {
        let stream = timeout(PATIENCE, TcpStream::connect(target)).await??;
        Connection::over(stream, name, config).await
    }

    /// The same over a connection that is there.
    pub async fn over(stream: TcpStream, name: &str, config: &Arc<ClientConfig>) -> io::Result<Connection> {
        stream.set_nodelay(true)?;
        let name = ServerName::try_from(name.to_owned()).map_err(io::Error::other)?;
        let stream = timeout(PATIENCE, TlsConnector::from(config.clone()).connect(name, stream)).await??;
        Ok(Connection { stream: BufReader::new(stream) })
    }

    pub async fn who(&mut self) -> io::Result<Answer> {
        let client = self.stream.get_ref().get_ref().0.local_addr()?;
        let line = self.ask("who").await?;
        crate::client::answer(&line, client)
    }

    /// The server's certificate, DER.
    pub fn certificate(&self) -> Vec<u8> {
        let chain = self.stream.get_ref().get_ref().1.peer_certificates().unwrap_or_default();
        chain.first().map(|certificate| certificate.to_vec()).unwrap_or_default()
    }

    /// Sends a line and reads one.
    pub async fn ask(&mut self, question: &str) -> io::Result<String> {
        let mut line = String::new();
        let talk = async {
            self.stream.write_all(format!("{question}\n").as_bytes()).await?;
            self.stream.flush().await?;
            self.stream.read_line(&mut line).await
        };
        match timeout(PATIENCE, talk).await?? {
            0 => Err(ErrorKind::UnexpectedEof.into()),
            _ => Ok(line.trim_end().to_owned()),
        }
    }

    /// The stream, for talk of another kind.
    pub fn into_stream(self) -> BufReader<TlsStream<TcpStream>> {
        self.stream
    }
}

/// Asks once over a connection of its own.
pub async fn who(target: SocketAddr, name: &str, config: &Arc<ClientConfig>) -> io::Result<Answer> {
    Connection::open(target, name, config).await?.who().await
}

/// Which alert a handshake was refused with, if it was one.
pub fn alert(error: &io::Error) -> Option<rustls::AlertDescription> {
    match error.get_ref()?.downcast_ref()? {
        rustls::Error::AlertReceived(alert) => Some(*alert),
        _ => None,
    }
}
