//! ConfigMaps, as far as they hold certificates to check others with: the key `ca.crt`, in PEM form; in the
//! manifest, or in a file beside it.

use std::sync::Arc;

use rustls::RootCertStore;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;

use super::annotations::Named;
use super::kinds::Metadata;
use super::read::{self, Fields};
use super::secret::{broken, given};
use crate::index::Name;
use crate::ir::http::Authorities;

const KEY: &str = "ca.crt";

/// The fields of a ConfigMap but for its metadata. Most ConfigMaps are for others: what is wrong with one is for those who refer to it.
pub fn content(f: &mut Fields, metadata: Option<&Metadata>) -> Option<Result<Arc<Authorities>, Box<str>>> {
    f.known(&["immutable", "binaryData"]);
    let data = f.optional("data", read::strings).unwrap_or_default();
    let text = data.iter().find(|(key, _)| **key == *KEY).map(|(_, text)| text);
    let Metadata { meta, annotations, .. } = metadata?;
    let file = &annotations.files.authorities;
    let value = text.map(|text| Some(text.as_bytes().to_vec()));
    if let (None, Named::No) = (&value, file) {
        return Some(Err(format!("has no key {KEY}; give it one with certificates in PEM form").into()));
    }
    let (known_as, pem) = given(f, KEY, value, file)?;
    let found = pem.and_then(|pem| authorities(&meta.name, known_as, &pem));
    if let (Err(why), Some(file)) = (&found, file.file()) {
        f.reader().unsound(file, why.as_str());
    }
    Some(found.map(Arc::new).map_err(Into::into))
}

fn authorities(name: &Name, known_as: &str, pem: &[u8]) -> Result<Authorities, String> {
    let certificates: Vec<CertificateDer> = CertificateDer::pem_slice_iter(pem)
        .collect::<Result<_, _>>()
        .map_err(|error| format!("{known_as} is broken: {}", broken(&error)))?;
    if certificates.is_empty() {
        return Err(format!("{known_as} holds no certificate in PEM form"));
    }
    let mut roots = RootCertStore::empty();
    for (i, certificate) in certificates.iter().enumerate() {
        let added = roots.add(certificate.clone());
        added.map_err(|error| format!("certificate {} in {known_as} cannot be used: {error}", i + 1))?;
    }
    Ok(Authorities {
        origin: format!("ConfigMap {name}").into(),
        certificates: certificates.iter().map(|der| der.to_vec()).collect(),
    })
}
