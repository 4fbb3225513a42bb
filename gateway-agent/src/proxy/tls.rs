//! Certificates as rustls wants them, and which of them a client gets.

use std::fmt;
use std::sync::Arc;

use rustls::client::verify_server_name;
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::server::{ClientHello, NoServerSessionStorage, ParsedCertificate, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::{ServerConfig, SignatureScheme};

use crate::ir::Certificate;

/// What every terminator has in common, for as long as the agent runs: a ticket outlives a change of certificates.
pub struct Tls {
    /// But for the certificates.
    config: ServerConfig,
}

/// Ends TLS with the certificates of a listener.
#[derive(Debug)]
pub struct Terminator {
    certificates: Arc<Certificates>,
    pub config: Arc<ServerConfig>,
}

impl Tls {
    /// With random ticket keys.
    pub fn new() -> Result<Tls, rustls::Error> {
        let mut config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_cert_resolver(Arc::new(Certificates::default()));
        // Tickets hold the session, so that nothing is kept here and any worker takes them.
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.ticketer = ring::Ticketer::new()?;
        Ok(Tls { config })
    }

    /// `before`: of this listener, whose certificates need not be read again.
    pub fn terminator(&self, certificates: &[Arc<Certificate>], before: Option<&Arc<Terminator>>) -> Arc<Terminator> {
        if let Some(before) = before.filter(|b| b.certificates.are_made_of(certificates)) {
            return Arc::clone(before);
        }
        let key = |certificate: &Arc<Certificate>| {
            let known = before.and_then(|b| b.certificates.key(certificate));
            known.or_else(|| certified(self.config.crypto_provider(), certificate).ok())
        };
        let certificates = Arc::new(Certificates(certificates.iter().map(|c| (Arc::clone(c), key(c))).collect()));
        let mut config = self.config.clone();
        config.cert_resolver = Arc::clone(&certificates) as Arc<dyn ResolvesServerCert>;
        Arc::new(Terminator { certificates, config: Arc::new(config) })
    }
}

fn certified(provider: &CryptoProvider, certificate: &Certificate) -> Result<Arc<CertifiedKey>, rustls::Error> {
    let chain = certificate.chain.iter().map(|der| CertificateDer::from(der.clone())).collect();
    let key = PrivateKeyDer::try_from(certificate.key.clone()).map_err(|e| rustls::Error::General(e.to_owned()))?;
    CertifiedKey::from_der(chain, key, provider).map(Arc::new)
}

/// Those of a listener, in its order. One without a key here is left out: `compile` lets none through.
#[derive(Default)]
struct Certificates(Vec<(Arc<Certificate>, Option<Arc<CertifiedKey>>)>);

impl Certificates {
    fn are_made_of(&self, certificates: &[Arc<Certificate>]) -> bool {
        self.0.len() == certificates.len() && self.0.iter().zip(certificates).all(|((a, _), b)| is_same(a, b))
    }

    fn key(&self, certificate: &Arc<Certificate>) -> Option<Arc<CertifiedKey>> {
        self.0.iter().find(|(known, _)| is_same(known, certificate)).and_then(|(_, key)| key.clone())
    }
}

fn is_same(a: &Arc<Certificate>, b: &Arc<Certificate>) -> bool {
    Arc::ptr_eq(a, b) || a == b
}

impl fmt::Debug for Certificates {
    /// Without the keys.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.0.iter().map(|(certificate, _)| &certificate.secret)).finish()
    }
}

impl ResolvesServerCert for Certificates {
    /// The first that is for this name and that the client can check, or the first that it can check.
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let suits = |key: &&Arc<CertifiedKey>| can_sign(key, hello.signature_schemes());
        let mut suiting = self.0.iter().filter_map(|(_, key)| key.as_ref()).filter(suits);
        let Some(name) = hello.server_name().filter(|_| self.0.len() > 1) else { return suiting.next().cloned() };
        let by_name = suiting.clone().find(|key| is_for(key, name));
        by_name.or_else(|| suiting.next()).cloned()
    }
}

fn can_sign(key: &CertifiedKey, schemes: &[SignatureScheme]) -> bool {
    key.key.choose_scheme(schemes).is_some()
}

fn is_for(key: &CertifiedKey, name: &str) -> bool {
    let certificate = key.end_entity_cert().and_then(ParsedCertificate::try_from);
    let (Ok(certificate), Ok(name)) = (certificate, ServerName::try_from(name)) else { return false };
    verify_server_name(&certificate, &name).is_ok()
}
