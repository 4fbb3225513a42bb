//! TLS towards backends: what BackendTLSPolicies and the certificate that a Gateway shows make of connections to a port of a Service.

use std::sync::Arc;

use super::backends::port_of;
use super::http::Resolver;
use super::{Reason, certificates};
use crate::index::{BackendRef, Gateway, Index, Kind, Name, Route, ServicePort};
use crate::ir::http::BackendTls;
use crate::ir::{self, BackendSet, Certificate, Target};

/// What a Gateway shows of itself to backends that speak TLS.
#[derive(Clone, Debug)]
pub enum Client {
    Nothing,
    Certificate(Arc<Certificate>),
    /// It is to show a certificate, and there is none: backends that speak TLS get nothing.
    Broken,
}

/// Routes differ by Gateway where these show different certificates to backends; by the address of the one in use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ClientKey {
    Nothing,
    Certificate(usize),
    Broken,
}

impl Client {
    pub fn key(&self) -> ClientKey {
        match self {
            Client::Nothing => ClientKey::Nothing,
            Client::Certificate(certificate) => ClientKey::Certificate(Arc::as_ptr(certificate) as usize),
            Client::Broken => ClientKey::Broken,
        }
    }
}

/// A Service, its port, and who speaks to it.
pub type TlsKey = (Name, u16, ClientKey);

/// The policy, or the certificate that the Gateway is to show, does not hold: nothing may be sent.
#[derive(Debug, PartialEq, Eq)]
pub struct Broken;

impl Resolver<'_> {
    /// What a policy wants of connections that routes of a Gateway make to a port. While it does not change, every compile has the same
    /// `Arc`: connections resume the sessions of others by it.
    pub fn tls(
        &mut self,
        service: &Name,
        port: &ServicePort,
        gateway: &Name,
        client: &Client,
    ) -> Result<Option<Arc<BackendTls>>, Broken> {
        let Resolver { policies, memo, uses, .. } = self;
        if policies.are_for(service) {
            uses.note_policy(service, &port.name, gateway);
        }
        let Some(wanted) = policies.of(service, port) else { return Ok(None) };
        let (policy, roots) = wanted.map_err(|_| Broken)?;
        let key = (service.clone(), port.port, client.key());
        let client = match client {
            Client::Nothing => None,
            Client::Certificate(certificate) => Some(Arc::clone(certificate)),
            Client::Broken => return Err(Broken),
        };
        let new = BackendTls {
            server_name: policy.server_name.clone(),
            identities: policy.identities.to_vec(),
            roots: roots.clone(),
            client,
        };
        let old = memo.tls.get(&key).filter(|old| ***old == new);
        let tls = old.map_or_else(|| Arc::new(new), Arc::clone);
        memo.tls.insert(key, Arc::clone(&tls));
        Ok(Some(tls))
    }

    /// The backends of a TLSRoute or TCPRoute for what the agent takes out of TLS. `plain`: what they are where nothing is taken out.
    pub fn inside(
        &mut self,
        plain: &Arc<BackendSet>,
        route: &Route,
        backends: &[BackendRef],
        gateway: &Gateway,
        client: &Client,
    ) -> Arc<BackendSet> {
        let mut changed = false;
        let mut target = |backend: &BackendRef, plain: &Target| {
            let Target::Endpoints { service, port, endpoints, .. } = plain else { return Target::Invalid };
            let of_service = self.index.service(&backend.name);
            let found = of_service.and_then(|service| port_of(service, *port, route.of.protocol()));
            let tls = found.map_or(Ok(None), |port| self.tls(&backend.name, port, &gateway.meta.name, client));
            changed |= tls != Ok(None);
            let (service, endpoints) = (Arc::clone(service), Arc::clone(endpoints));
            match tls {
                Ok(tls) => Target::Endpoints { service, port: *port, endpoints, tls },
                Err(Broken) => Target::Invalid,
            }
        };
        let refs = backends.iter().zip(&plain.refs);
        let refs = refs
            .map(|(backend, plain)| ir::BackendRef { weight: plain.weight, target: target(backend, &plain.target) });
        let refs = refs.collect();
        match changed {
            true => Arc::new(BackendSet { route: Arc::clone(&plain.route), refs }),
            false => Arc::clone(plain),
        }
    }
}

/// `tls.backend.clientCertificateRef` of a Gateway, or why it does not hold.
pub fn client(index: &Index, gateway: &Gateway) -> Result<Client, (Reason, String)> {
    let Some(reference) = &gateway.tls.client else { return Ok(Client::Nothing) };
    let owner = certificates::Owner { kind: Kind::Gateway, name: &gateway.meta.name };
    let found = certificates::follow(index, owner, reference);
    found.map(Client::Certificate).map_err(|(reason, message)| {
        let reason = if reason == Reason::RefNotPermitted { reason } else { Reason::InvalidClientCertificateRef };
        (reason, format!("spec.tls.backend.clientCertificateRef: {message}"))
    })
}
