//! Secrets of type `kubernetes.io/tls`: a certificate chain and its key, in PEM form; in the manifest, or in files beside it.

use std::sync::Arc;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use rustls::crypto::ring::sign::any_supported_type;
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;
use rustls::{Error, InconsistentKeys};

use super::annotations::{FileName, Named};
use super::kinds::Metadata;
use super::read::{self, Fields, Reader};
use super::yaml::{Node, Value};
use crate::index::Name;
use crate::ir::Certificate;

const TYPE: &str = "kubernetes.io/tls";
const CHAIN: &str = "tls.crt";
const KEY: &str = "tls.key";

/// The fields of a Secret but for its metadata. What the API server would refuse is an error; as it looks at no certificate, a bad
/// one is a warning, and trouble for those who refer to it.
pub fn content(f: &mut Fields, metadata: Option<&Metadata>) -> Option<Result<Arc<Certificate>, Box<str>>> {
    f.known(&["immutable"]);
    let kind = f.optional("type", read::text);
    let data = f.optional("data", encoded);
    let plain = f.optional("stringData", read::strings).unwrap_or_default();
    if kind.as_deref() != Some(TYPE) {
        let kind = kind.as_deref().unwrap_or("Opaque");
        return Some(Err(format!("is of type {kind}; refer to a Secret of type {TYPE}").into()));
    }
    let mut data = data.unwrap_or_default();
    let mut take = |key: &str| {
        let plain = plain.iter().find(|(k, _)| **k == *key).map(|(_, text)| Some(text.as_bytes().to_vec()));
        plain.or_else(|| data.iter_mut().find(|(k, _)| *k == key).map(|(_, bytes)| bytes.take()))
    };
    let (chain, key) = (take(CHAIN), take(KEY));
    let metadata = metadata?;
    let files = &metadata.annotations.files;
    let chain = given(f, CHAIN, chain, &files.chain);
    let key = given(f, KEY, key, &files.key);
    let ((chain_name, chain), (key_name, key)) = (chain?, key?);
    let certificate = match (chain, key) {
        (Ok(chain), Ok(key)) => certificate(&metadata.meta.name, (chain_name, &chain), (key_name, &key)),
        (Err(why), _) | (_, Err(why)) => Err(why),
    };
    if let Err(why) = &certificate {
        match files.key.file().or(files.chain.file()) {
            Some(file) => f.reader().unsound(file, why.as_str()),
            None => f.warn_at("data", why.as_str()),
        }
    }
    Some(certificate.map(Arc::new).map_err(Into::into))
}

/// A value as it is in the object, or in the file that stands for it; with what people know it by.
type Given<'a> = (&'a str, Result<Vec<u8>, String>);

/// `None`: there is none, which is recorded. `value`: `Some(None)` could not be decoded.
pub fn given<'a>(
    f: &mut Fields,
    key: &'static str,
    value: Option<Option<Vec<u8>>>,
    file: &'a Named,
) -> Option<Given<'a>> {
    match (value, file) {
        (_, Named::Wrong) => None,
        (Some(value), Named::No) => Some((key, Ok(value?))),
        (None, Named::File(named)) => Some((&named.file, f.reader().file(named))),
        (Some(_), Named::File(FileName { annotation, .. })) => {
            f.error_at("data", format!("{key} is here, and {annotation} names a file for it; remove one"));
            None
        }
        (None, Named::No) => {
            f.error_at("data", format!("{key} is missing, and type {TYPE} needs it"));
            None
        }
    }
}

/// `None`: it could not be decoded.
type Decoded = (&'static str, Option<Vec<u8>>);

/// `data`: values in base64. Only the two of interest are decoded.
fn encoded(reader: &mut Reader, node: &Node) -> Option<Vec<Decoded>> {
    let Value::Mapping(entries) = &node.value else {
        reader.error(node.at, "must be a mapping of strings in base64");
        return None;
    };
    let mut values = Vec::new();
    for entry in entries {
        let Some(key) = [CHAIN, KEY].into_iter().find(|key| entry.key == *key) else { continue };
        // As Kubernetes does, which ignores line ends.
        let text = match &entry.value.value {
            Value::Scalar { text, .. } => text.replace(['\r', '\n'], ""),
            _ => String::from("-"),
        };
        let bytes = BASE64_STANDARD.decode(text).ok();
        if bytes.is_none() {
            reader.error_in(key, entry.value.at, "is not in base64; encode it, or use stringData");
        }
        values.push((key, bytes));
    }
    Some(values)
}

/// The certificate of the Secret of this name, if chain and key are sound and belong together; else what is wrong with them.
fn certificate(
    name: &Name,
    (chain_name, chain): (&str, &[u8]),
    (key_name, key): (&str, &[u8]),
) -> Result<Certificate, String> {
    let chain: Vec<CertificateDer> = CertificateDer::pem_slice_iter(chain)
        .collect::<Result<_, _>>()
        .map_err(|error| format!("{chain_name} is broken: {}", broken(&error)))?;
    if chain.is_empty() {
        return Err(format!("{chain_name} holds no certificate in PEM form"));
    }
    let key = PrivateKeyDer::from_pem_slice(key).map_err(|error| match error {
        pem::Error::NoItemsFound => format!("{key_name} holds no private key in PEM form, or one with a password"),
        error => format!("{key_name} is broken: {}", broken(&error)),
    })?;
    let signing = any_supported_type(&key)
        .map_err(|_| format!("{key_name} is no RSA, ECDSA (P-256, P-384) or Ed25519 key that can be used"))?;
    match CertifiedKey::new(chain.clone(), signing).keys_match() {
        Ok(()) => {}
        Err(Error::InconsistentKeys(InconsistentKeys::KeyMismatch)) => {
            return Err(format!("{key_name} does not belong to the first certificate in {chain_name}"));
        }
        Err(error) => return Err(format!("the first certificate in {chain_name} cannot be used: {error}")),
    }
    Ok(Certificate {
        secret: format!("Secret {name}").into(),
        chain: chain.iter().map(|der| der.to_vec()).collect(),
        key: key.secret_der().to_vec(),
    })
}

/// Without the bytes, which may be those of a key.
pub fn broken(error: &pem::Error) -> &'static str {
    match error {
        pem::Error::MissingSectionEnd { .. } => "a line with END is missing",
        pem::Error::IllegalSectionStart { .. } => "a line with BEGIN is malformed",
        pem::Error::Base64Decode(_) => "what is between BEGIN and END is not in base64",
        _ => "it is no PEM",
    }
}
