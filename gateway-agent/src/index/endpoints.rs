//! The endpoints behind each port of a Service, gathered from its EndpointSlices.

use std::net::IpAddr;
use std::sync::Arc;

use super::{EndpointSlice, Health, PortProtocol, Service, ServicePort};
use crate::ir::{Duty, Endpoint, Protocol};

/// One list a port of the Service, in the order of its ports.
#[derive(Clone, Debug, Default)]
pub struct ServiceEndpoints {
    /// `namespace/name`, shared by every use.
    service: Arc<str>,
    ports: Box<[PortEndpoints]>,
}

#[derive(Clone, Debug)]
struct PortEndpoints {
    port: u16,
    protocol: PortProtocol,
    list: Arc<[Endpoint]>,
}

impl ServiceEndpoints {
    /// A list that did not change stays the same `Arc` as in `before`.
    pub(super) fn gather<'a>(
        service: &Service,
        slices: impl Iterator<Item = &'a Arc<EndpointSlice>> + Clone,
        node: &str,
        before: Option<&ServiceEndpoints>,
    ) -> ServiceEndpoints {
        let ports = service.ports.iter().map(|port| {
            let list = gather_port(port, slices.clone(), node, service.proxy_protocol);
            let same = before.and_then(|b| b.list(port.port, port.protocol)).filter(|old| ***old == *list);
            let list = same.cloned().unwrap_or_else(|| list.into());
            PortEndpoints { port: port.port, protocol: port.protocol, list }
        });
        ServiceEndpoints {
            service: before.map_or_else(|| service.meta.name.to_string().into(), |b| b.service.clone()),
            ports: ports.collect(),
        }
    }

    /// `namespace/name` of the Service.
    pub fn service(&self) -> &Arc<str> {
        &self.service
    }

    /// The endpoints behind a port; `None`: the Service has no such port.
    pub fn port(&self, port: u16, protocol: Protocol) -> Option<&Arc<[Endpoint]>> {
        self.list(port, PortProtocol::Forwarded(protocol))
    }

    fn list(&self, port: u16, protocol: PortProtocol) -> Option<&Arc<[Endpoint]>> {
        self.ports.iter().find(|p| p.port == port && p.protocol == protocol).map(|p| &p.list)
    }
}

/// An endpoint before it is known whether those of last resort serve.
type Candidate = (IpAddr, u16, Health, bool);

fn gather_port<'a>(
    port: &ServicePort,
    slices: impl Iterator<Item = &'a Arc<EndpointSlice>>,
    node: &str,
    proxy_protocol: bool,
) -> Vec<Endpoint> {
    let mut candidates: Vec<Candidate> = Vec::new();
    for slice in slices {
        // The names tie a Service port to its EndpointSlice ports; that the number differs between slices is how a
        // named targetPort shows.
        let Some(slice_port) = slice.ports.iter().find(|p| p.name == port.name && p.protocol == port.protocol) else {
            continue;
        };
        let number = slice_port.port.or(port.target).unwrap_or(port.port);
        candidates.extend(slice.endpoints.iter().map(|endpoint| {
            let local = endpoint.node.as_ref().is_some_and(|n| **n == *node);
            (endpoint.address, number, endpoint.health, local)
        }));
    }
    // While an endpoint moves from one slice to another it may be in both: the healthier entry counts.
    candidates.sort_unstable_by_key(|&(address, port, health, local)| (address, port, health as u8, !local));
    candidates.dedup_by_key(|&mut (address, port, ..)| (address, port));
    let ready = |v4: bool| candidates.iter().any(|c| c.0.is_ipv4() == v4 && c.2 == Health::Ready);
    let (ready_v4, ready_v6) = (ready(true), ready(false));
    let endpoint = |&(address, port, health, local): &Candidate| {
        let others_ready = if address.is_ipv4() { ready_v4 } else { ready_v6 };
        let duty = match health {
            Health::Ready => Duty::Serving,
            Health::LastResort if !others_ready => Duty::Serving,
            Health::LastResort | Health::NotReady => Duty::Draining,
        };
        Endpoint { address, port, local, proxy_protocol, duty }
    };
    candidates.iter().map(endpoint).collect()
}
