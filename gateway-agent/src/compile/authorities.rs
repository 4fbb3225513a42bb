//! `caCertificateRefs`: certificates to check clients or backends with.

use std::sync::Arc;

use super::Reason;
use super::grants::permit;
use crate::index::{AuthorityRef, Index, Kind, Name};
use crate::ir::http::Authorities;

/// Who refers to them.
pub struct Referrer<'a> {
    pub kind: Kind,
    pub namespace: &'a Arc<str>,
    /// The reason for a kind of object that holds none.
    pub bad_kind: Reason,
}

/// What references lead to.
pub struct Resolved {
    /// `None`: none of them holds.
    pub authorities: Option<Arc<Authorities>>,
    /// Why some do not.
    pub wrong: Option<(Reason, String)>,
}

/// Those that do not hold are left out: what is checked is checked by the others.
pub fn resolve(index: &Index, referrer: &Referrer, field: &str, refs: &[AuthorityRef]) -> Resolved {
    let mut found: Vec<&Arc<Authorities>> = Vec::with_capacity(refs.len());
    let mut reason = None;
    let mut messages = Vec::new();
    for (i, reference) in refs.iter().enumerate() {
        match follow(index, referrer, reference) {
            Ok(authorities) => found.push(authorities),
            Err((why, message)) => {
                reason.get_or_insert(why);
                messages.push(format!("{field}[{i}]: {message}"));
            }
        }
    }
    let authorities = match found[..] {
        [] => None,
        [one] => Some(Arc::clone(one)),
        _ => {
            let origins: Vec<&str> = found.iter().map(|authorities| &*authorities.origin).collect();
            let certificates = found.iter().flat_map(|authorities| authorities.certificates.iter().cloned()).collect();
            Some(Authorities { origin: origins.join(", ").into(), certificates }.into())
        }
    };
    Resolved { authorities, wrong: reason.map(|reason| (reason, messages.join("; "))) }
}

fn follow<'i>(
    index: &'i Index,
    referrer: &Referrer,
    reference: &AuthorityRef,
) -> Result<&'i Arc<Authorities>, (Reason, String)> {
    let AuthorityRef { group, kind, namespace, name } = reference;
    if !group.is_empty() || &**kind != "ConfigMap" {
        let slash = if group.is_empty() { "" } else { "/" };
        let message = format!("{group}{slash}{kind} holds no certificates for Sluice; refer to a ConfigMap");
        return Err((referrer.bad_kind, message));
    }
    let own = referrer.namespace;
    let name = Name { namespace: namespace.as_ref().unwrap_or(own).clone(), name: name.clone() };
    permit(index, (referrer.kind, own), (Kind::ConfigMap, &name))?;
    let Some(map) = index.config_map(&name) else {
        let message = format!("there is no ConfigMap {name}; create it or correct the reference");
        return Err((Reason::InvalidCACertificateRef, message));
    };
    let authorities = map.authorities.as_ref();
    authorities.map_err(|why| (Reason::InvalidCACertificateRef, format!("ConfigMap {name} {why}")))
}
