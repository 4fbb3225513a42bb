//! A certificate authority of a test.

use std::sync::Arc;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, ExtendedKeyUsagePurpose, IsCa, KeyPair, SanType};
use rustls::pki_types::CertificateDer;

use crate::ir::Certificate;
use crate::ir::http::{Authorities, BackendTls, Roots};

/// Signs certificates of servers and of clients.
pub struct Authority(CertifiedIssuer<'static, KeyPair>);

impl Authority {
    pub fn new() -> Authority {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Authority(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    pub fn der(&self) -> CertificateDer<'static> {
        self.0.der().clone()
    }

    fn certificate(&self, names: Vec<SanType>, purpose: ExtendedKeyUsagePurpose) -> Certificate {
        let mut params = CertificateParams::default();
        params.subject_alt_names = names;
        params.extended_key_usages = vec![purpose];
        let key = KeyPair::generate().unwrap();
        let signed = params.signed_by(&key, &self.0).unwrap();
        Certificate { secret: "Secret default/a".into(), chain: vec![signed.der().to_vec()], key: key.serialize_der() }
    }

    pub fn server(&self, names: Vec<SanType>) -> Certificate {
        self.certificate(names, ExtendedKeyUsagePurpose::ServerAuth)
    }

    pub fn client(&self, names: Vec<SanType>) -> Certificate {
        self.certificate(names, ExtendedKeyUsagePurpose::ClientAuth)
    }

    pub fn roots(&self) -> Roots {
        let origin = "ConfigMap default/ca".into();
        Roots::These(Arc::new(Authorities { origin, certificates: vec![self.der().to_vec()] }))
    }

    pub fn policy(&self, name: &str) -> BackendTls {
        BackendTls { server_name: name.into(), identities: Vec::new(), roots: self.roots(), client: None }
    }
}

pub fn dns(name: &str) -> SanType {
    SanType::DnsName(name.try_into().unwrap())
}

pub fn uri(uri: &str) -> SanType {
    SanType::URI(uri.try_into().unwrap())
}
