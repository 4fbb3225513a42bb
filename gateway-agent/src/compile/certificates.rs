//! The certificateRefs of a listener that ends TLS.

use std::sync::Arc;

use rustls::client::verify_server_name;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::server::ParsedCertificate;

use super::Reason;
use super::gateways::Plan;
use super::grants::permit;
use crate::index::{CertificateRef, Index, Kind, ListenerProtocol, Name, TlsListener, TlsMode};
use crate::ir::{Certificate, HostName};
use crate::source::{Problem, Severity};

/// Who refers to a certificate.
#[derive(Clone, Copy)]
pub struct Owner<'a> {
    pub kind: Kind,
    pub name: &'a Name,
}

/// The certificates of a listener, or why it cannot be served: one that is missing would leave clients without an answer.
pub fn resolve(
    index: &Index,
    owner: Owner,
    protocol: &ListenerProtocol,
) -> Result<Vec<Arc<Certificate>>, (Reason, String)> {
    let (ListenerProtocol::Https { certificates, .. }
    | ListenerProtocol::Tls(TlsListener { mode: TlsMode::Terminate { certificates }, .. })) = protocol
    else {
        return Ok(Vec::new());
    };
    if certificates.is_empty() {
        let message = "tls.certificateRefs: names no certificate, and to end TLS there must be one; name a Secret of type kubernetes.io/tls";
        return Err((Reason::InvalidCertificateRef, message.to_owned()));
    }
    let mut found = Vec::with_capacity(certificates.len());
    let mut reason = None;
    let mut messages = Vec::new();
    for (i, reference) in certificates.iter().enumerate() {
        match follow(index, owner, reference) {
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
    for listener in &plan.listeners {
        let (HostName::Exact(host), Ok(certificates)) = (listener.hostname(), &listener.certificates) else { continue };
        if certificates.is_empty() || certificates.iter().any(|certificate| is_for(certificate, host)) {
            continue;
        }
        let (id, origin) = plan.owner(listener);
        let field = format!("spec.listeners[{}].tls.certificateRefs", listener.place);
        let message =
            format!("no certificate has {host} among its subjectAltNames, so clients refuse them; use another");
        problems.push(Problem::of_object(Severity::Warning, id, origin, &field, message));
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

/// The certificate that is meant, or why there is none.
pub fn follow(index: &Index, owner: Owner, reference: &CertificateRef) -> Result<Arc<Certificate>, (Reason, String)> {
    let CertificateRef { group, kind, namespace, name } = reference;
    if !group.is_empty() || &**kind != "Secret" {
        let slash = if group.is_empty() { "" } else { "/" };
        let message = format!("{group}{slash}{kind} is no certificate for Sluice; refer to a Secret");
        return Err((Reason::InvalidCertificateRef, message));
    }
    let own = &owner.name.namespace;
    let name = Name { namespace: namespace.as_ref().unwrap_or(own).clone(), name: name.clone() };
    permit(index, (owner.kind, own), (Kind::Secret, &name))?;
    let Some(secret) = index.secret(&name) else {
        let message = format!("there is no Secret {name}; create it or correct the reference");
        return Err((Reason::InvalidCertificateRef, message));
    };
    let certificate = secret.certificate.as_ref().map(Arc::clone);
    certificate.map_err(|why| (Reason::InvalidCertificateRef, format!("Secret {name}: {why}")))
}
