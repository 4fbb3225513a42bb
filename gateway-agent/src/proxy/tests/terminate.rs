use std::io::ErrorKind;
use std::sync::Arc;

use rcgen::{PKCS_ECDSA_P256_SHA256, PKCS_ED25519};
use rustls::crypto::ring::default_provider;
use rustls::pki_types::PrivateKeyDer;
use rustls::server::WebPkiClientVerifier;
use rustls::version::{TLS12, TLS13};
use rustls::{ClientConfig, HandshakeKind, ServerConfig};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::client::TlsStream;

use super::authority::{Authority, dns, uri};
use super::bed::*;
use super::ir::{backends, endpoints, listener, named, secure};
use crate::ir::http::{BackendTls, Identity};
use crate::ir::{Certificate, Endpoint, Listener, Target, TlsMode};
use crate::proxy::Refusal;

/// A listener that ends TLS for `*.example.com`.
fn ending(certificates: &[&Arc<Certificate>], endpoint: Endpoint) -> Arc<Listener> {
    ending_for(certificates, endpoints(&[endpoint]))
}

fn ending_for(certificates: &[&Arc<Certificate>], target: Target) -> Arc<Listener> {
    let mode = TlsMode::Terminate { certificates: certificates.iter().map(|c| Arc::clone(c)).collect() };
    let backends = backends("TLSRoute default/r", vec![(1, target)]);
    listener("a", &["198.19.0.1"], mode, vec![named("*.example.com", Some(backends))])
}

fn shown(client: &TlsStream<TcpStream>) -> &[u8] {
    &client.get_ref().1.peer_certificates().unwrap()[0]
}

/// A client that can check signatures of this kind only.
fn checking(algorithm: rustls::SignatureScheme, certificates: &[&Certificate]) -> ClientConfig {
    let mut provider = default_provider();
    let mapping = provider.signature_verification_algorithms.mapping;
    let only: Vec<_> = mapping.iter().filter(|(scheme, _)| *scheme == algorithm).copied().collect();
    provider.signature_verification_algorithms.mapping = Vec::leak(only);
    let mut roots = rustls::RootCertStore::empty();
    for certificate in certificates {
        roots.add(certificate.chain[0].clone().into()).unwrap();
    }
    ClientConfig::builder_with_provider(Arc::new(provider))
        .with_protocol_versions(&[&TLS13])
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth()
}

#[tokio::test]
async fn the_backend_gets_what_is_inside_in_both_versions_of_tls() {
    let certificate = certificate(&["a.example.com"]);
    let bed = Bed::new(vec![ending(&[&certificate], tcp_echo().await)]);
    for version in [&TLS12, &TLS13] {
        for size in [0, 20_000, 60_000] {
            let config = padded(speaking(&[&certificate], &[version]), size);
            let mut client = bed.tls("a.example.com", config).await.unwrap();
            echo(&mut client, &noise(100_000)).await;
        }
    }
    let handle = bed.proxy.handle();
    let counters = handle.counters();
    assert_eq!(counters.terminated.get(), 6);
    // What has been passed on is counted then.
    let counted = || [counters.bytes_in.get(), counters.bytes_out.get()];
    soon(async {
        while counted() != [600_000; 2] {
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
    })
    .await;
}

#[tokio::test]
async fn a_hello_may_come_byte_by_byte() {
    let certificate = certificate(&["a.example.com"]);
    let bed = Bed::new(vec![ending(&[&certificate], tcp_echo().await)]);
    let stream = Bytewise(bed.connect().await);
    let mut client = handshake(stream, "a.example.com", trusting(&[&certificate])).await.unwrap();
    echo(&mut client, b"still here").await;
}

#[tokio::test]
async fn of_several_certificates_a_client_gets_that_of_its_name_which_it_can_check() {
    let a = certificate(&["a.example.com"]);
    let b = certificate(&["b.example.com"]);
    let modern = certificate_of(&["a.example.com", "b.example.com"], &PKCS_ED25519);
    let bed = Bed::new(vec![ending(&[&a, &b, &modern], tcp_echo().await)]);
    let trusted: [&Certificate; 3] = [&a, &b, &modern];
    for (name, certificate) in [("a.example.com", &a), ("b.example.com", &b)] {
        let client = bed.tls(name, trusting(&trusted)).await.unwrap();
        assert!(shown(&client) == certificate.chain[0], "{name}");
        let client = bed.tls(name, checking(rustls::SignatureScheme::ED25519, &trusted)).await.unwrap();
        assert!(shown(&client) == modern.chain[0], "{name} with Ed25519 only");
    }
    // Nobody has one for it: the client decides.
    let error = bed.tls("c.example.com", trusting(&trusted)).await.unwrap_err();
    assert!(error.to_string().contains("not valid for name"), "{error}");
}

#[tokio::test]
async fn a_session_is_resumed_also_after_the_certificate_has_changed() {
    for version in [&TLS12, &TLS13] {
        let certificates = [certificate(&["a.example.com"]), certificate(&["a.example.com"])];
        let endpoint = tcp_echo().await;
        let bed = Bed::new(vec![ending(&[&certificates[0]], endpoint.clone())]);
        let config = speaking(&[&certificates[0], &certificates[1]], &[version]);
        let mut kinds = Vec::new();
        for _ in 0..2 {
            let mut client = bed.tls("a.example.com", config.clone()).await.unwrap();
            // With the answer comes the ticket.
            echo(&mut client, b"x").await;
            kinds.push(client.get_ref().1.handshake_kind());
            bed.publish(vec![ending(&[&certificates[1]], endpoint.clone())]);
        }
        assert_eq!(kinds, [Some(HandshakeKind::Full), Some(HandshakeKind::Resumed)], "{version:?}");
    }
}

#[tokio::test]
async fn a_new_certificate_is_for_new_connections_and_closes_none() {
    let old = certificate_of(&["a.example.com"], &PKCS_ECDSA_P256_SHA256);
    let new = certificate(&["a.example.com"]);
    let endpoint = tcp_echo().await;
    let bed = Bed::new(vec![ending(&[&old], endpoint.clone())]);
    let mut before = bed.tls("a.example.com", trusting(&[&old, &new])).await.unwrap();
    bed.publish(vec![ending(&[&new], endpoint)]);
    let mut after = bed.tls("a.example.com", trusting(&[&old, &new])).await.unwrap();
    assert!(shown(&before) == old.chain[0] && shown(&after) == new.chain[0]);
    echo(&mut before, b"still here").await;
    echo(&mut after, b"here too").await;
}

#[tokio::test]
async fn close_notify_and_fin_stand_for_each_other() {
    let certificate = certificate(&["a.example.com"]);
    let (endpoint, listening) = backend().await;
    let bed = Bed::new(vec![ending(&[&certificate], endpoint)]);
    for client_first in [true, false] {
        let mut client = bed.tls("a.example.com", trusting(&[&certificate])).await.unwrap();
        let mut server = listening.accept().await.unwrap().0;
        if client_first {
            client.write_all(b"all I have").await.unwrap();
            client.shutdown().await.unwrap();
            assert_eq!(rest(&mut server).await, "all I have");
            server.write_all(b"and all I have").await.unwrap();
            drop(server);
            // An end without close_notify would be an error.
            assert_eq!(rest(&mut client).await, "and all I have");
        } else {
            server.write_all(b"all I have").await.unwrap();
            server.shutdown().await.unwrap();
            assert_eq!(rest(&mut client).await, "all I have");
            client.write_all(b"and all I have").await.unwrap();
            client.shutdown().await.unwrap();
            assert_eq!(rest(&mut server).await, "and all I have");
        }
    }
}

#[tokio::test]
async fn an_end_that_breaks_off_is_broken_off_towards_the_other() {
    let certificate = certificate(&["a.example.com"]);
    let (endpoint, listening) = backend().await;
    let bed = Bed::new(vec![ending(&[&certificate], endpoint)]);

    // FIN without close_notify: it may be somebody else's.
    let client = bed.tls("a.example.com", trusting(&[&certificate])).await.unwrap();
    let mut server = listening.accept().await.unwrap().0;
    drop(client.into_inner().0);
    assert_eq!(soon(server.read_u8()).await.unwrap_err().kind(), ErrorKind::ConnectionReset);

    let mut client = bed.tls("a.example.com", trusting(&[&certificate])).await.unwrap();
    let server = listening.accept().await.unwrap().0;
    crate::proxy::sockets::reset_on_close(&server);
    drop(server);
    assert_eq!(soon(client.read_u8()).await.unwrap_err().kind(), ErrorKind::ConnectionReset);
}

#[tokio::test]
async fn a_listener_may_pass_one_name_and_another_end_the_next_on_the_same_port() {
    let certificates = [certificate(&["pass.example.com"]), certificate(&["end.example.com"])];
    let route = backends("pass", vec![(1, endpoints(&[tls_echo(&certificates[0]).await]))]);
    let names = vec![named("pass.example.com", Some(route))];
    let pass = listener("b", &["198.19.0.1"], TlsMode::Passthrough, names);
    let bed = Bed::new(vec![ending(&[&certificates[1]], tcp_echo().await), pass]);
    for (name, certificate) in ["pass.example.com", "end.example.com"].into_iter().zip(&certificates) {
        let mut client = bed.tls(name, trusting(&[certificate])).await.unwrap();
        echo(&mut client, name.as_bytes()).await;
    }
    let handle = bed.proxy.handle();
    assert_eq!([handle.counters().relayed.get(), handle.counters().terminated.get()], [1, 1]);
}

#[tokio::test]
async fn tables_that_change_all_the_time_fail_no_connection() {
    let certificates = [certificate(&["a.example.com"]), certificate(&["a.example.com"])];
    let list = [tcp_echo().await, tcp_echo().await];
    let bed = Arc::new(Bed::new(vec![ending(&[&certificates[0]], list[0].clone())]));
    let config = trusting(&[&certificates[0], &certificates[1]]);
    let clients = (0..50).map(|_| {
        let (bed, config) = (Arc::clone(&bed), config.clone());
        tokio::spawn(async move {
            for _ in 0..4 {
                let mut client = bed.tls("a.example.com", config.clone()).await.unwrap();
                echo(&mut client, &noise(20_000)).await;
            }
        })
    });
    let clients: Vec<_> = clients.collect();
    let mut changes = 0;
    while clients.iter().any(|client| !client.is_finished()) {
        changes += 1;
        bed.publish(vec![ending(&[&certificates[changes % 2]], list[changes / 2 % 2].clone())]);
        tokio::time::sleep(std::time::Duration::from_millis(1)).await;
    }
    for client in clients {
        client.await.unwrap();
    }
    assert!(changes > 10, "{changes}");
    assert_eq!(bed.proxy.handle().counters().terminated.get(), 200);
}

/// A backend that speaks TLS and says everything again, after its first line: how many certificates the client has shown, and the
/// server name. `clients`: whose certificates it wants.
async fn secure_echo(own: &Certificate, clients: Option<&Authority>) -> Endpoint {
    let builder = ServerConfig::builder_with_provider(Arc::new(default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap();
    let builder = match clients {
        Some(authority) => {
            let mut roots = rustls::RootCertStore::empty();
            roots.add(authority.der()).unwrap();
            let provider = Arc::new(default_provider());
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build().unwrap();
            builder.with_client_cert_verifier(verifier)
        }
        None => builder.with_no_client_auth(),
    };
    let chain = own.chain.iter().map(|der| der.clone().into()).collect();
    let config = builder.with_single_cert(chain, PrivateKeyDer::try_from(own.key.clone()).unwrap()).unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let (endpoint, listening) = backend().await;
    tokio::spawn(async move {
        while let Ok((stream, _)) = listening.accept().await {
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                // Those who do not like the certificate go.
                let Ok(mut stream) = acceptor.accept(stream).await else { return };
                let tls = stream.get_ref().1;
                let shown = tls.peer_certificates().map_or(0, <[_]>::len);
                let first = format!("{shown} {}\n", tls.server_name().unwrap_or("-"));
                if stream.write_all(first.as_bytes()).await.is_err() {
                    return;
                }
                let (mut read, mut write) = tokio::io::split(stream);
                // The client may have gone.
                let _ = tokio::io::copy(&mut read, &mut write).await;
                let _ = write.shutdown().await;
            });
        }
    });
    endpoint
}

/// What the first line of the backend is, or that the connection broke off.
async fn first_line(bed: &Bed, certificate: &Certificate) -> Option<String> {
    let mut client = bed.tls("a.example.com", trusting(&[certificate])).await.unwrap();
    let mut line = Vec::new();
    loop {
        match soon(client.read_u8()).await {
            Ok(b'\n') => break,
            Ok(byte) => line.push(byte),
            Err(_) => return None,
        }
    }
    echo(&mut client, &noise(100_000)).await;
    client.shutdown().await.unwrap();
    assert_eq!(rest(&mut client).await, "");
    Some(String::from_utf8(line).unwrap())
}

#[tokio::test]
async fn a_backend_with_a_policy_gets_tls_and_must_be_who_the_policy_says() {
    let (own, other) = (Authority::new(), Authority::new());
    let shown = certificate(&["a.example.com"]);
    let spiffe = "spiffe://example.com/ns/default/sa/db";
    let endpoint = secure_echo(&own.server(vec![dns("db.example.com"), uri(spiffe)]), None).await;
    let with = |name: &str, identity| BackendTls { identities: vec![identity], ..own.policy(name) };
    let bed = Bed::new(vec![]);
    let mut refused = 0;
    for (policy, heard) in [
        (own.policy("db.example.com"), Some("0 db.example.com")),
        (with("sni.example.com", Identity::Uri(spiffe.into())), Some("0 sni.example.com")),
        (with("sni.example.com", Identity::Dns("db.example.com".into())), Some("0 sni.example.com")),
        (own.policy("web.example.com"), None),
        (other.policy("db.example.com"), None),
        (with("db.example.com", Identity::Uri("spiffe://example.com/other".into())), None),
    ] {
        bed.publish(vec![ending_for(&[&shown], secure(std::slice::from_ref(&endpoint), policy.clone()))]);
        assert_eq!(first_line(&bed, &shown).await.as_deref(), heard, "{policy:?}");
        refused += u64::from(heard.is_none());
        assert_eq!(bed.refused(Refusal::BackendSilent), refused);
    }
}

#[tokio::test]
async fn a_backend_that_wants_a_certificate_of_the_gateway_gets_it() {
    let own = Authority::new();
    let shown = certificate(&["a.example.com"]);
    let server = own.server(vec![dns("db.example.com")]);
    let mine = Arc::new(own.client(vec![dns("gateway.example.com")]));
    let endpoint = secure_echo(&server, Some(&own)).await;
    let bed = Bed::new(vec![]);
    for (client, heard) in [(Some(mine), Some("1 db.example.com")), (None, None)] {
        let policy = BackendTls { client, ..own.policy("db.example.com") };
        bed.publish(vec![ending_for(&[&shown], secure(std::slice::from_ref(&endpoint), policy))]);
        assert_eq!(first_line(&bed, &shown).await.as_deref(), heard);
    }
}

#[tokio::test]
async fn a_backend_in_the_clear_is_no_backend_for_a_policy() {
    let own = Authority::new();
    let shown = certificate(&["a.example.com"]);
    let policy = own.policy("db.example.com");
    let bed = Bed::new(vec![ending_for(&[&shown], secure(&[tcp_echo().await], policy))]);
    assert_eq!(first_line(&bed, &shown).await, None);
}
