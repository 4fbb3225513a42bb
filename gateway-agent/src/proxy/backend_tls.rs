//! TLS towards backends (BackendTLSPolicy): of HTTP, and of what comes out of TLS and is forwarded.

use std::cell::RefCell;
use std::fmt;
use std::io;
use std::sync::{Arc, OnceLock};

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{verify_server_cert_signed_by_trust_anchor, verify_server_name};
use rustls::crypto::{WebPkiSupportedAlgorithms, ring, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::ir::http::{BackendTls, Identity, Roots};

/// Protocols to offer (ALPN, RFC 7301), the better one first.
pub type Protocols = &'static [&'static [u8]];

/// What was made of policies, so that connections of a policy resume one another's sessions. Each worker has its own.
#[derive(Debug, Default)]
pub struct Configs(RefCell<Vec<Config>>);

#[derive(Debug)]
struct Config {
    of: Arc<BackendTls>,
    protocols: Protocols,
    made: Arc<ClientConfig>,
}

impl Configs {
    fn of(&self, tls: &Arc<BackendTls>, protocols: Protocols) -> Result<Arc<ClientConfig>, Error> {
        let mut configs = self.0.borrow_mut();
        // A policy that nobody else knows of has been replaced: its sessions are not resumed.
        configs.retain(|config| Arc::strong_count(&config.of) > 1);
        let mut known = configs.iter();
        if let Some(config) = known.find(|known| Arc::ptr_eq(&known.of, tls) && known.protocols == protocols) {
            return Ok(Arc::clone(&config.made));
        }
        let made = Arc::new(config(tls, protocols)?);
        configs.push(Config { of: Arc::clone(tls), protocols, made: Arc::clone(&made) });
        Ok(made)
    }

    /// Shakes hands and checks who the backend is: chain to the roots, then one of the identities.
    pub async fn connect(
        &self,
        stream: TcpStream,
        tls: &Arc<BackendTls>,
        protocols: Protocols,
    ) -> io::Result<TlsStream<TcpStream>> {
        let name = ServerName::try_from(tls.server_name.to_string()).map_err(io::Error::other)?;
        let config = self.of(tls, protocols).map_err(io::Error::other)?;
        TlsConnector::from(config).connect(name, stream).await
    }
}

fn config(tls: &BackendTls, protocols: Protocols) -> Result<ClientConfig, Error> {
    let provider = Arc::new(ring::default_provider());
    let verifier = Verifier {
        roots: roots(&tls.roots)?,
        identities: tls.identities.clone(),
        algorithms: provider.signature_verification_algorithms,
    };
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier));
    let mut config = match &tls.client {
        Some(own) => {
            let chain = own.chain.iter().map(|der| CertificateDer::from(der.clone())).collect();
            let key = PrivateKeyDer::try_from(own.key.clone()).map_err(|e| Error::General(e.to_owned()))?;
            builder.with_client_auth_cert(chain, key)?
        }
        None => builder.with_no_client_auth(),
    };
    config.alpn_protocols = protocols.iter().map(|protocol| protocol.to_vec()).collect();
    Ok(config)
}

fn roots(roots: &Roots) -> Result<Arc<RootCertStore>, Error> {
    let authorities = match roots {
        Roots::System => return system(),
        Roots::These(authorities) => authorities,
    };
    let mut store = RootCertStore::empty();
    for der in &authorities.certificates {
        store.add(CertificateDer::from(der.clone()))?;
    }
    Ok(Arc::new(store))
}

/// Of the machine or the image, read once.
fn system() -> Result<Arc<RootCertStore>, Error> {
    static SYSTEM: OnceLock<Arc<RootCertStore>> = OnceLock::new();
    let store = SYSTEM.get_or_init(|| {
        let found = rustls_native_certs::load_native_certs();
        for error in found.errors {
            tracing::warn!(%error, "a certificate authority of the system cannot be read");
        }
        let mut store = RootCertStore::empty();
        store.add_parsable_certificates(found.certs);
        Arc::new(store)
    });
    if store.is_empty() {
        let what = "the system has no certificate authorities; install its package of them (ca-certificates)";
        return Err(Error::General(what.to_owned()));
    }
    Ok(Arc::clone(store))
}

/// As webpki does, but for who the backend must be.
struct Verifier {
    roots: Arc<RootCertStore>,
    /// Empty: the server name.
    identities: Vec<Identity>,
    algorithms: WebPkiSupportedAlgorithms,
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let certificate = ParsedCertificate::try_from(end_entity)?;
        let algorithms = self.algorithms.all;
        verify_server_cert_signed_by_trust_anchor(&certificate, &self.roots, intermediates, now, algorithms)?;
        if self.identities.is_empty() {
            verify_server_name(&certificate, server_name)?;
        } else if !self.identities.iter().any(|identity| is(identity, &certificate, end_entity)) {
            return Err(CertificateError::NotValidForName.into());
        }
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, certificate, signed, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signed, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

/// Whether a certificate has this name. URIs are the same byte for byte (RFC 5280 section 7.4 would let scheme and host differ in case;
/// SPIFFE IDs, which they are in practice, do not).
fn is(identity: &Identity, certificate: &ParsedCertificate<'_>, der: &CertificateDer<'_>) -> bool {
    match identity {
        Identity::Dns(name) => {
            ServerName::try_from(&**name).is_ok_and(|name| verify_server_name(certificate, &name).is_ok())
        }
        Identity::Uri(uri) => webpki::EndEntityCert::try_from(der)
            .is_ok_and(|certificate| certificate.valid_uri_names().any(|name| name == &**uri)),
    }
}

impl fmt::Debug for Verifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Verifier").field("identities", &self.identities).finish_non_exhaustive()
    }
}
