//! The certificateRefs of a listener that ends TLS.

use std::sync::Arc;

use rustls::client::verify_server_name;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::server::ParsedCertificate;

use super::Reason;
use super::gateways::Plan;
use crate::index::{CertificateRef, Gateway, Index, Kind, Name, ObjectId, TlsMode};
use crate::ir::{Certificate, HostName};
use crate::source::{Problem, Severity};

/// The certificates of a listener, or why it cannot be served: one that is missing would leave clients without an answer.
pub fn resolve(index: &Index, gateway: &Gateway, mode: &TlsMode) -> Result<Vec<Arc<Certificate>>, (Reason, String)> {
    let TlsMode::Terminate { certificates } = mode else { return Ok(Vec::new()) };
    if certificates.is_empty() {
        let message = "tls.certificateRefs: names no certificate, and mode Terminate needs one";
        return Err((Reason::InvalidCertificateRef, message.to_owned()));
    }
    let mut found = Vec::with_capacity(certificates.len());
    let mut reason = None;
    let mut messages = Vec::new();
    for (i, reference) in certificates.iter().enumerate() {
        match follow(index, gateway, reference) {
            Ok(certificate) => found.push(certificate),
            Err((why, message)) => {
                reason.get_or_insert(why);
                messages.push(format!("tls.certificateRefs[{i}]: {message}"));
            }
        }
    }
    match reason {
        Some(reason) => Err((reason, messages.join("; "))),
        None => Ok(found),
    }
}

/// Listeners with a hostname that none of their certificates is for: no client would go on.
pub fn for_others(plan: &Plan, problems: &mut Vec<Problem>) {
    for (i, listener) in plan.listeners.iter().enumerate() {
        let (HostName::Exact(host), Ok(certificates)) = (listener.hostname(), &listener.certificates) else { continue };
        if certificates.is_empty() || certificates.iter().any(|certificate| is_for(certificate, host)) {
            continue;
        }
        let meta = &plan.gateway.meta;
        let id = ObjectId { kind: Kind::Gateway, name: meta.name.clone() };
        let field = format!("spec.listeners[{i}].tls.certificateRefs");
        let message =
            format!("no certificate has {host} among its subjectAltNames, so clients refuse them; use another");
        problems.push(Problem::of_object(Severity::Warning, id, &meta.origin, &field, message));
    }
}

fn is_for(certificate: &Certificate, host: &str) -> bool {
    let Some(first) = certificate.chain.first() else { return false };
    let first = CertificateDer::from(first.as_slice());
    let (Ok(name), Ok(parsed)) = (ServerName::try_from(host), ParsedCertificate::try_from(&first)) else {
        return false;
    };
    verify_server_name(&parsed, &name).is_ok()
}

fn follow(index: &Index, gateway: &Gateway, reference: &CertificateRef) -> Result<Arc<Certificate>, (Reason, String)> {
    let CertificateRef { group, kind, namespace, name } = reference;
    if !group.is_empty() || &**kind != "Secret" {
        let slash = if group.is_empty() { "" } else { "/" };
        let message = format!("{group}{slash}{kind} is no certificate for Sluice; refer to a Secret");
        return Err((Reason::InvalidCertificateRef, message));
    }
    let own = &gateway.meta.name.namespace;
    let name = Name { namespace: namespace.as_ref().unwrap_or(own).clone(), name: name.clone() };
    if name.namespace != *own && !index.permits(Kind::Gateway, own, Kind::Secret, &name) {
        let message = format!(
            "Secret {name} is in another namespace, and no ReferenceGrant there lets a Gateway of {own} refer to it"
        );
        return Err((Reason::RefNotPermitted, message));
    }
    let Some(secret) = index.secret(&name) else {
        let message = format!("there is no Secret {name}; create it or correct the reference");
        return Err((Reason::InvalidCertificateRef, message));
    };
    let certificate = secret.certificate.as_ref().map(Arc::clone);
    certificate.map_err(|why| (Reason::InvalidCertificateRef, format!("Secret {name}: {why}")))
}
