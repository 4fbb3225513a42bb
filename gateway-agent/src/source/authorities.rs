//! ConfigMaps, as far as they hold certificates to check others with: the key `ca.crt`, in PEM form.

use std::sync::Arc;

use rustls::RootCertStore;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;

use super::read::{self, Fields};
use super::secret::broken;
use crate::index::Name;
use crate::ir::http::Authorities;

const KEY: &str = "ca.crt";

/// The fields of a ConfigMap but for its metadata. Most ConfigMaps are for others: what is wrong with one is for those who refer to it.
pub fn content(f: &mut Fields, name: Option<&Name>) -> Option<Result<Arc<Authorities>, Box<str>>> {
    f.known(&["immutable", "binaryData"]);
    let data = f.optional("data", read::strings).unwrap_or_default();
    let text = data.iter().find(|(key, _)| **key == *KEY).map(|(_, text)| text);
    Some(match text {
        Some(text) => authorities(name?, text.as_bytes()).map(Arc::new).map_err(Into::into),
        None => Err(format!("has no key {KEY}; give it one with certificates in PEM form").into()),
    })
}

fn authorities(name: &Name, pem: &[u8]) -> Result<Authorities, String> {
    let certificates: Vec<CertificateDer> = CertificateDer::pem_slice_iter(pem)
        .collect::<Result<_, _>>()
        .map_err(|error| format!("{KEY} is broken: {}", broken(&error)))?;
    if certificates.is_empty() {
        return Err(format!("{KEY} holds no certificate in PEM form"));
    }
    let mut roots = RootCertStore::empty();
    for (i, certificate) in certificates.iter().enumerate() {
        let added = roots.add(certificate.clone());
        added.map_err(|error| format!("certificate {} in {KEY} cannot be used: {error}", i + 1))?;
    }
    Ok(Authorities {
        origin: format!("ConfigMap {name}").into(),
        certificates: certificates.iter().map(|der| der.to_vec()).collect(),
    })
}
