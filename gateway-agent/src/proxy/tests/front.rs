//! HTTP and HTTPS listeners at the front: which of them a connection finds, and what its client must show.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls::ClientConfig;
use rustls::client::WebPkiServerVerifier;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;

use super::bed::{self, Bed, GATEWAY, certificate, handshake, rest, soon, trusting};
use super::ir::{backends, listener, named};
use crate::ir::http::{Authorities, Clients, Security, Settings, Unverified};
use crate::ir::{Certificate, HostName, Listener, TlsMode, Traffic, http};
use crate::proxy::Refusal;

/// An HTTP listener without routes at the address and port.
fn front(section: &str, at: SocketAddr, hostname: HostName, security: Security, settings: Settings) -> Arc<Listener> {
    let http = http::Listener { hostname, security, routes: Default::default(), settings: Arc::new(settings) };
    let listener = listener(section, &[&at.ip().to_string()], TlsMode::Passthrough, Vec::new());
    let traffic = Traffic::Http(Arc::new(http));
    Arc::new(Listener { port: at.port(), traffic, ..Arc::unwrap_or_clone(listener) })
}

fn https(section: &str, at: SocketAddr, host: &str, certificate: &Arc<Certificate>, clients: Clients) -> Arc<Listener> {
    let security = Security::Https { certificates: vec![Arc::clone(certificate)], clients };
    let host = match host.strip_prefix("*.") {
        Some(suffix) => HostName::Wildcard(suffix.into()),
        None => HostName::Exact(host.into()),
    };
    front(section, at, host, security, Settings::default())
}

/// A proxy without listeners, and where `steer` would give connections to.
fn steered() -> (Bed, SocketAddr) {
    let mut bed = Bed::new(Vec::new());
    let [socket] = &bed.proxy.take_steered()[..] else { panic!("one worker has one socket") };
    let port = rustix::net::getsockname(socket).unwrap();
    let port = SocketAddr::try_from(port).unwrap().port();
    (bed, ([127, 0, 0, 1], port).into())
}

async fn ask(stream: &mut (impl AsyncRead + AsyncWrite + Unpin)) -> String {
    stream.write_all(b"GET / HTTP/1.1\r\nHost: a.test\r\nConnection: close\r\n\r\n").await.unwrap();
    rest(stream).await
}

async fn secure(at: SocketAddr, name: &str, config: ClientConfig) -> io::Result<TlsStream<TcpStream>> {
    let mut stream = handshake(TcpStream::connect(at).await?, name, config).await?;
    // In TLS 1.3 the client is done before it is checked.
    stream.write_all(b"GET / HTTP/1.1\r\nHost: a.test\r\nConnection: close\r\n\r\n").await?;
    let mut first = [0];
    soon(stream.read_exact(&mut first)).await?;
    Ok(stream)
}

#[tokio::test]
async fn http_is_served_and_a_port_of_nobody_is_not() {
    let (bed, at) = steered();
    assert!(soon(bed::resets(TcpStream::connect(at))).await);
    assert_eq!(bed.refused(Refusal::Unexplained), 1);
    bed.publish(vec![front("http", at, HostName::Any, Security::Http, Settings::default())]);
    let mut stream = TcpStream::connect(at).await.unwrap();
    assert!(ask(&mut stream).await.starts_with("HTTP/1.1 404"));
}

#[tokio::test]
async fn where_proxies_are_in_front_a_connection_begins_with_their_header() {
    let (bed, at) = steered();
    let settings = Settings { proxy_protocol: true, ..Settings::default() };
    bed.publish(vec![front("http", at, HostName::Any, Security::Http, settings)]);
    let mut stream = TcpStream::connect(at).await.unwrap();
    stream.write_all(b"PROXY TCP4 198.18.7.7 198.19.0.1 4711 80\r\n").await.unwrap();
    assert!(ask(&mut stream).await.starts_with("HTTP/1.1 404"));
    let mut stream = TcpStream::connect(at).await.unwrap();
    stream.write_all(b"GET / HTTP/1.1\r\nHost: a.test\r\n\r\n").await.unwrap();
    assert!(soon(stream.read_u8()).await.is_err());
    assert_eq!(bed.refused(Refusal::NotProxied), 1);
}

#[tokio::test]
async fn most_specific_listener_shows_its_certificate_and_offers_http() {
    let (bed, at) = steered();
    let (a, wild) = (certificate(&["a.x.test"]), certificate(&["*.x.test"]));
    bed.publish(vec![
        https("a", at, "a.x.test", &a, Clients::Anonymous),
        https("wild", at, "*.x.test", &wild, Clients::Anonymous),
    ]);
    for (name, shown) in [("a.x.test", &a), ("b.x.test", &wild)] {
        for (offer, agreed) in
            [(&[&b"h2"[..], b"http/1.1"][..], Some(&b"h2"[..])), (&[b"http/1.1"], Some(b"http/1.1")), (&[], None)]
        {
            let mut config = trusting(&[shown]);
            config.alpn_protocols = offer.iter().map(|protocol| protocol.to_vec()).collect();
            let stream = handshake(TcpStream::connect(at).await.unwrap(), name, config).await.unwrap();
            assert_eq!(stream.get_ref().1.alpn_protocol(), agreed, "{name}");
        }
    }
    let stream = TcpStream::connect(at).await.unwrap();
    assert!(handshake(stream, "a.example", trusting(&[&a])).await.is_err());
    assert_eq!(bed.refused(Refusal::UnrecognizedName), 1);
}

#[tokio::test]
async fn https_hostnames_beside_passthrough_come_by_the_splice() {
    let bed = Bed::new(Vec::new());
    let a = certificate(&["a.test"]);
    let at = GATEWAY.parse().unwrap();
    let names = vec![named("*.test", Some(backends("pass", vec![])))];
    let pass = listener("pass", &["198.19.0.1"], TlsMode::Passthrough, names);
    bed.publish(vec![https("a", at, "a.test", &a, Clients::Anonymous), pass]);
    let mut stream = bed.tls("a.test", trusting(&[&a])).await.unwrap();
    assert!(ask(&mut stream).await.starts_with("HTTP/1.1 404"));
    assert!(bed.tls("b.test", trusting(&[&a])).await.is_err());
    assert_eq!(bed.refused(Refusal::NoBackend), 1);
}

/// An authority, and a client's certificate of it.
struct Id {
    authority: Vec<u8>,
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
}

impl Id {
    fn new() -> Id {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let authority = params.self_signed(&key).unwrap();
        let issuer = Issuer::new(params, key);
        let key = KeyPair::generate().unwrap();
        let client = CertificateParams::new(vec!["client.test".to_owned()]).unwrap().signed_by(&key, &issuer).unwrap();
        let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
        Id { authority: authority.der().to_vec(), chain: vec![client.der().clone()], key }
    }

    fn checked(&self, unverified: Unverified) -> Clients {
        let origin = "ConfigMap default/ca".into();
        let authorities = Arc::new(Authorities { origin, certificates: vec![self.authority.clone()] });
        Clients::Checked { authorities, unverified }
    }

    /// The client shows it.
    fn shown(&self, trusted: &Certificate) -> ClientConfig {
        let mut config = trusting(&[trusted]);
        let key = CertifiedKey::from_der(self.chain.clone(), self.key.clone_key(), config.crypto_provider()).unwrap();
        config.client_auth_cert_resolver = Arc::new(SingleCertAndKey::from(key));
        config
    }
}

#[tokio::test]
async fn clients_show_a_certificate_where_the_listener_wants_one() {
    let (bed, at) = steered();
    let a = certificate(&["a.test"]);
    let (known, unknown) = (Id::new(), Id::new());
    for (clients, [none, valid, other]) in [
        (Clients::Anonymous, [true, true, true]),
        (known.checked(Unverified::Refused), [false, true, false]),
        (known.checked(Unverified::Allowed), [true, true, true]),
        (Clients::Refused, [false, false, false]),
    ] {
        let what = format!("{clients:?}");
        bed.publish(vec![https("a", at, "a.test", &a, clients)]);
        assert_eq!(secure(at, "a.test", trusting(&[&a])).await.is_ok(), none, "none: {what}");
        assert_eq!(secure(at, "a.test", known.shown(&a)).await.is_ok(), valid, "valid: {what}");
        assert_eq!(secure(at, "a.test", unknown.shown(&a)).await.is_ok(), other, "other: {what}");
    }
}

#[tokio::test]
async fn ticket_of_a_listener_that_checks_nobody_opens_no_other() {
    let (bed, at) = steered();
    let (a, known) = (certificate(&["a.test"]), Id::new());
    // Tickets are kept in the configuration.
    let config = trusting(&[&a]);
    bed.publish(vec![https("a", at, "a.test", &a, Clients::Anonymous)]);
    secure(at, "a.test", config.clone()).await.unwrap();
    let again = secure(at, "a.test", config.clone()).await.unwrap();
    assert_eq!(again.get_ref().1.handshake_kind(), Some(rustls::HandshakeKind::Resumed));
    bed.publish(vec![https("a", at, "a.test", &a, known.checked(Unverified::Refused))]);
    assert!(secure(at, "a.test", config).await.is_err());
}

#[tokio::test]
async fn ticket_of_a_client_is_worth_something_only_while_the_same_authority_is_trusted() {
    let (bed, at) = steered();
    let (a, b) = (certificate(&["a.test"]), certificate(&["a.test"]));
    let (known, other) = (Id::new(), Id::new());
    // Tickets are kept in the configuration; it trusts both certificates of the server.
    let mut config = known.shown(&a);
    config.dangerous().set_certificate_verifier(trusting_verifier(&[&a, &b]));
    let checked = |certificate, by: &Id| vec![https("a", at, "a.test", certificate, by.checked(Unverified::Refused))];
    bed.publish(checked(&a, &known));
    secure(at, "a.test", config.clone()).await.unwrap();
    // Another certificate of the server is no reason to ask the client again.
    bed.publish(checked(&b, &known));
    let again = secure(at, "a.test", config.clone()).await.unwrap();
    assert_eq!(again.get_ref().1.handshake_kind(), Some(rustls::HandshakeKind::Resumed));
    bed.publish(checked(&b, &other));
    assert!(secure(at, "a.test", config).await.is_err());
}

fn trusting_verifier(certificates: &[&Certificate]) -> Arc<WebPkiServerVerifier> {
    let mut roots = rustls::RootCertStore::empty();
    for certificate in certificates {
        roots.add(certificate.chain[0].clone().into()).unwrap();
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    WebPkiServerVerifier::builder_with_provider(roots.into(), provider).build().unwrap()
}

#[tokio::test]
async fn certificates_change_under_connections() {
    let (bed, at) = steered();
    let (old, new) = (certificate(&["a.test"]), certificate(&["a.test"]));
    bed.publish(vec![https("a", at, "a.test", &old, Clients::Anonymous)]);
    let mut stream = handshake(TcpStream::connect(at).await.unwrap(), "a.test", trusting(&[&old])).await.unwrap();
    bed.publish(vec![https("a", at, "a.test", &new, Clients::Anonymous)]);
    assert!(secure(at, "a.test", trusting(&[&new])).await.is_ok());
    assert!(ask(&mut stream).await.starts_with("HTTP/1.1 404"));
}
