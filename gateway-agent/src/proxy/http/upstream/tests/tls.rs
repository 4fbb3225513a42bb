//! BackendTLSPolicy.

use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use tokio_rustls::TlsAcceptor;

use super::*;
use crate::ir::Certificate;
use crate::ir::http::Identity;
use crate::proxy::tests::authority::{Authority, dns, uri};

/// Answers server name, protocol and how many certificates the client has shown. `clients`: whose it wants.
async fn tls_server(own: &Certificate, clients: Option<&Authority>, protocols: &[&str]) -> Server {
    let builder = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap();
    let builder = match clients {
        Some(authority) => {
            let mut roots = RootCertStore::empty();
            roots.add(authority.der()).unwrap();
            let provider = Arc::new(rustls::crypto::ring::default_provider());
            builder.with_client_cert_verifier(
                WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build().unwrap(),
            )
        }
        None => builder.with_no_client_auth(),
    };
    let chain = own.chain.iter().map(|der| CertificateDer::from(der.clone())).collect();
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(own.key.clone()));
    let mut config = builder.with_single_cert(chain, key).unwrap();
    config.alpn_protocols = protocols.iter().map(|protocol| protocol.as_bytes().to_vec()).collect();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    accepting(move |stream| {
        let acceptor = acceptor.clone();
        async move {
            // Those who do not like the certificate go.
            let Ok(stream) = acceptor.accept(stream).await else { return };
            let (_, tls) = stream.get_ref();
            let certificates = tls.peer_certificates().map_or(0, <[_]>::len);
            let name = tls.server_name().unwrap_or("-").to_owned();
            let answer = service_fn(move |request: http::Request<Incoming>| {
                let answer = text(format!("{name} {:?} {certificates}", request.version()));
                async move { Ok::<_, Infallible>(answer) }
            });
            let builder = auto::Builder::new(Executor);
            // As above.
            let _ = builder.serve_connection(TokioIo::new(stream), answer).await;
        }
    })
    .await
}

fn by(tls: BackendTls, application: Application, server: &Server) -> Rule {
    let tls = Some(Arc::new(tls));
    rule(vec![to(Cluster { application, tls, ..cluster(vec![server.endpoint.clone()]) })])
}

#[test]
fn a_backend_must_be_who_the_policy_says() {
    run(async {
        let (own, other) = (Authority::new(), Authority::new());
        let spiffe = "spiffe://example.com/ns/default/sa/web";
        let server =
            tls_server(&own.server(vec![dns("web.example.com"), dns("*.wild.example.com"), uri(spiffe)]), None, &[])
                .await;
        let with =
            |name: &str, identities: &[Identity]| BackendTls { identities: identities.to_vec(), ..own.policy(name) };
        let named = |name: &str| Identity::Dns(name.into());
        let at = |uri: &str| Identity::Uri(uri.into());
        for (policy, status) in [
            (own.policy("web.example.com"), 200),
            (own.policy("a.wild.example.com"), 200),
            (own.policy("other.example.com"), 502),
            (other.policy("web.example.com"), 502),
            // Then the server name says nothing of who it is.
            (with("other.example.com", &[named("web.example.com")]), 200),
            (with("web.example.com", &[named("other.example.com")]), 502),
            (with("other.example.com", &[named("other.example.com"), at(spiffe)]), 200),
            (with("web.example.com", &[at("spiffe://example.com/ns/default/sa/other")]), 502),
            (BackendTls { identities: vec![at(spiffe)], ..other.policy("web.example.com") }, 502),
        ] {
            let name = policy.server_name.clone();
            let what = format!("{policy:?}");
            let (got, text) = Gateway::new(by(policy, Application::Http, &server)).get().await;
            assert_eq!(got, status, "{what}");
            assert!(status != 200 || text == format!("{name} HTTP/1.1 0"), "{text}");
        }
        // In the clear, a TLS backend has no answer.
        assert_eq!(Gateway::to(&server.endpoint).get().await.0, 502);
    });
}

#[test]
fn alpn_settles_the_version() {
    run(async {
        let own = Authority::new();
        let certificate = own.server(vec![dns("web.example.com")]);
        for (protocols, application, version) in [
            (&["h2", "http/1.1"][..], Application::Http, "HTTP/2.0"),
            (&["http/1.1"], Application::Http, "HTTP/1.1"),
            (&["h2", "http/1.1"], Application::WebSocket, "HTTP/1.1"),
            (&["h2", "http/1.1"], Application::H2c, "HTTP/2.0"),
            // Without ALPN a backend is what its port says.
            (&[], Application::H2c, "HTTP/2.0"),
        ] {
            let server = tls_server(&certificate, None, protocols).await;
            let gateway = Gateway::new(by(own.policy("web.example.com"), application, &server));
            for _ in 0..3 {
                assert_eq!(gateway.get().await, (200, format!("web.example.com {version} 0")), "{protocols:?}");
            }
            assert_eq!(server.connections.get(), 1);
        }
    });
}

#[test]
fn the_gateway_shows_its_own_certificate() {
    run(async {
        let (own, clients) = (Authority::new(), Authority::new());
        let server = tls_server(&own.server(vec![dns("web.example.com")]), Some(&clients), &["h2"]).await;
        assert_eq!(Gateway::new(by(own.policy("web.example.com"), Application::Http, &server)).get().await.0, 502);
        let client = Some(Arc::new(clients.client(Vec::new())));
        let policy = BackendTls { client, ..own.policy("web.example.com") };
        let got = Gateway::new(by(policy, Application::Http, &server)).get().await;
        assert_eq!(got, (200, "web.example.com HTTP/2.0 1".to_owned()));
    });
}

#[test]
fn another_policy_has_connections_of_its_own() {
    run(async {
        let (own, other) = (Authority::new(), Authority::new());
        let server = tls_server(&own.server(vec![dns("web.example.com")]), None, &["h2", "http/1.1"]).await;
        for application in [Application::Http, Application::WebSocket] {
            let before = server.connections.get();
            let gateway = Gateway::new(by(own.policy("web.example.com"), application, &server));
            assert_eq!(gateway.get().await.0, 200);
            // The same, said again.
            gateway.publish(by(own.policy("web.example.com"), application, &server));
            assert_eq!((gateway.get().await.0, server.connections.get()), (200, before + 1));
            gateway.publish(by(other.policy("web.example.com"), application, &server));
            assert_eq!(gateway.get().await.0, 502, "that connection was made by a policy that is no more");
            gateway.publish(by(own.policy("web.example.com"), application, &server));
            assert_eq!(gateway.get().await.0, 200);
        }
    });
}
