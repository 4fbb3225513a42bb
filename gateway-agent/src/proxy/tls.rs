//! Certificates as rustls wants them, and which of them a client gets.

use std::fmt;
use std::sync::Arc;

use rustls::client::danger::HandshakeSignatureValid;
use rustls::client::verify_server_name;
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{
    ClientHello, NoServerSessionStorage, ParsedCertificate, ProducesTickets, ResolvesServerCert, WebPkiClientVerifier,
};
use rustls::sign::CertifiedKey;
use rustls::{
    ConfigBuilder, DigitallySignedStruct, DistinguishedName, RootCertStore, ServerConfig, SignatureScheme,
    WantsVerifier,
};

use crate::ir::Certificate;
use crate::ir::http::{Clients, Unverified};

/// The protocols that HTTPS listeners offer (RFC 7301), the better one first.
pub const H2: &[u8] = b"h2";
const HTTP_1_1: &[u8] = b"http/1.1";

/// What every terminator has in common, for as long as the agent runs: a ticket outlives a change of certificates.
pub struct Tls {
    builder: ConfigBuilder<ServerConfig, WantsVerifier>,
    /// Keys of session tickets, which change every few hours.
    ticketer: Arc<dyn ProducesTickets>,
}

/// What is spoken inside TLS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Inside {
    Http,
    Anything,
}

/// Ends TLS with the certificates of a listener.
#[derive(Debug)]
pub struct Terminator {
    certificates: Arc<Certificates>,
    clients: Clients,
    inside: Inside,
    pub config: Arc<ServerConfig>,
}

impl Tls {
    /// With random ticket keys.
    pub fn new() -> Result<Tls, rustls::Error> {
        let builder = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()?;
        Ok(Tls { builder, ticketer: ring::Ticketer::new()? })
    }

    /// `before`: of this listener, whose certificates need not be read again.
    pub fn terminator(
        &self,
        certificates: &[Arc<Certificate>],
        clients: &Clients,
        inside: Inside,
        before: Option<&Arc<Terminator>>,
    ) -> Arc<Terminator> {
        let is_same = |b: &&Arc<Terminator>| b.clients == *clients && b.inside == inside;
        if let Some(before) = before.filter(is_same).filter(|b| b.certificates.are_made_of(certificates)) {
            return Arc::clone(before);
        }
        let key = |certificate: &Arc<Certificate>| {
            let known = before.and_then(|b| b.certificates.key(certificate));
            known.or_else(|| certified(self.builder.crypto_provider(), certificate).ok())
        };
        let checked = Checked::new(clients, self.builder.crypto_provider());
        // Without a certificate every handshake is refused.
        let shown = if checked.is_some() { certificates } else { &[] };
        let shown = Arc::new(Certificates(shown.iter().map(|c| (Arc::clone(c), key(c))).collect()));
        let checked = checked.unwrap_or(Checked::Anonymous);
        // Whoever resumes a session shows no certificate again: tickets of others are not taken where clients are checked.
        let ticketer = match (&checked, before.filter(|b| b.clients == *clients)) {
            (Checked::Anonymous, _) => Some(Arc::clone(&self.ticketer)),
            (Checked::By(_), Some(before)) => Some(Arc::clone(&before.config.ticketer)),
            (Checked::By(_), None) => ring::Ticketer::new().ok(),
        };
        let builder = match checked {
            Checked::Anonymous => self.builder.clone().with_no_client_auth(),
            Checked::By(verifier) => self.builder.clone().with_client_cert_verifier(verifier),
        };
        let mut config = builder.with_cert_resolver(Arc::clone(&shown) as Arc<dyn ResolvesServerCert>);
        // Tickets hold the session, so that nothing is kept here and any worker takes them.
        config.session_storage = Arc::new(NoServerSessionStorage {});
        if let Some(ticketer) = ticketer {
            config.ticketer = ticketer;
        }
        if inside == Inside::Http {
            config.alpn_protocols = vec![H2.to_vec(), HTTP_1_1.to_vec()];
        }
        Arc::new(Terminator { certificates: shown, clients: clients.clone(), inside, config: Arc::new(config) })
    }
}

/// How clients are checked.
enum Checked {
    Anonymous,
    By(Arc<dyn ClientCertVerifier>),
}

impl Checked {
    /// `None`: there is nothing to check them by.
    fn new(clients: &Clients, provider: &Arc<CryptoProvider>) -> Option<Checked> {
        let (authorities, unverified) = match clients {
            Clients::Anonymous => return Some(Checked::Anonymous),
            Clients::Refused => return None,
            Clients::Checked { authorities, unverified } => (authorities, unverified),
        };
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(authorities.certificates.iter().map(|der| CertificateDer::from(&der[..])));
        let verifier =
            WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(provider)).build().ok()?;
        Some(Checked::By(match unverified {
            Unverified::Refused => verifier,
            Unverified::Allowed => Arc::new(Lenient(verifier)),
        }))
    }
}

/// Asks for a certificate and takes what comes, none too (`AllowInsecureFallback`). A client must still have the key of the certificate that
/// it shows.
#[derive(Debug)]
struct Lenient(Arc<dyn ClientCertVerifier>);

impl ClientCertVerifier for Lenient {
    fn client_auth_mandatory(&self) -> bool {
        false
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.0.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        let verified = self.0.verify_client_cert(end_entity, intermediates, now);
        Ok(verified.unwrap_or_else(|error| {
            tracing::debug!(%error, "a client's certificate does not hold; it is let in all the same");
            ClientCertVerified::assertion()
        }))
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.0.verify_tls12_signature(message, certificate, signed)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.0.verify_tls13_signature(message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_verify_schemes()
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
