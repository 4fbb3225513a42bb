//! Gateways and ListenerSets.

use std::net::IpAddr;
use std::sync::Arc;

use super::config;
use super::listener::{allowed_namespaces, certificate_ref, listener};
use super::read::{self, Fields, Reader};
use super::route::parent_ref;
use super::yaml::Node;
use crate::index::*;
use crate::ir::Infrastructure;
use crate::ir::http::Unverified;

type Listeners = Box<[Arc<Listener>]>;

/// `spec` of a Gateway.
pub struct GatewaySpec {
    pub class: Arc<str>,
    pub listeners: Listeners,
    pub addresses: Box<[AddressRequest]>,
    pub parameters: Option<ParametersRef>,
    pub infrastructure: Infrastructure,
    pub listener_sets: AllowedNamespaces,
    pub tls: GatewayTls,
}

impl GatewaySpec {
    /// Of one that cannot be read.
    pub fn nothing(class: Arc<str>) -> GatewaySpec {
        GatewaySpec {
            class,
            listeners: Box::default(),
            addresses: Box::default(),
            parameters: None,
            infrastructure: Infrastructure::default(),
            listener_sets: AllowedNamespaces::None,
            tls: GatewayTls::default(),
        }
    }
}

pub fn spec(reader: &mut Reader, node: &Node) -> Option<GatewaySpec> {
    reader.fields(node, |f| {
        f.known(&["backendTLS", "defaultScope"]);
        let class = f.required("gatewayClassName", read::name);
        let listeners = listeners(f);
        let addresses = f.list("addresses", address);
        let infrastructure = f.within("infrastructure", |f| {
            let labels = f.optional("labels", read::strings).unwrap_or_default();
            let annotations = f.optional("annotations", read::strings).unwrap_or_default();
            let infrastructure = Infrastructure { labels, annotations };
            Some((f.within("parametersRef", |f| config::reference(f, false)), infrastructure))
        });
        let (parameters, infrastructure) = infrastructure.unwrap_or_default();
        let listener_sets = f
            .within("allowedListeners", |f| f.within("namespaces", |f| allowed_namespaces(f, AllowedNamespaces::None)));
        let listener_sets = listener_sets.unwrap_or(AllowedNamespaces::None);
        let tls = f.within("tls", tls).unwrap_or_default();
        Some(GatewaySpec {
            class: class?,
            listeners: listeners?,
            addresses,
            parameters,
            infrastructure,
            listener_sets,
            tls,
        })
    })
}

/// `spec` of a ListenerSet; its listeners are `None` if something is wrong with them.
pub fn listener_set(reader: &mut Reader, node: &Node) -> Option<(ParentRef, Option<Listeners>)> {
    reader.fields(node, |f| {
        let parent = f.required("parentRef", parent_ref);
        let listeners = listeners(f);
        Some((parent?, listeners))
    })
}

fn listeners(f: &mut Fields) -> Option<Listeners> {
    let listeners = f.required("listeners", |r, n| read::items(r, n, &mut listener))?;
    for (i, listener) in listeners.iter().enumerate() {
        if listeners[..i].iter().any(|other| other.name == listener.name) {
            f.error_at("listeners", format!("two listeners are named {}; give each its own name", listener.name));
        }
    }
    if listeners.is_empty() {
        f.error_at("listeners", "needs at least one listener");
    }
    Some(listeners.into_iter().map(Arc::new).collect())
}

fn tls(f: &mut Fields) -> Option<GatewayTls> {
    let client = f.within("backend", |f| f.optional("clientCertificateRef", certificate_ref));
    let (clients, clients_of) = f
        .within("frontend", |f| {
            let default = f.required("default", tls_config).flatten();
            let mut of_ports = f
                .list("perPort", |r, n| {
                    r.fields(n, |f| {
                        let port = f.required("port", read::port);
                        let clients = f.required("tls", tls_config);
                        Some((port?, clients?))
                    })
                })
                .into_vec();
            of_ports.sort_by_key(|(port, _)| *port);
            for pair in of_ports.windows(2).filter(|pair| pair[0].0 == pair[1].0) {
                f.error_at("perPort", format!("port {} is there twice; leave one", pair[0].0));
            }
            Some((default, of_ports.into_boxed_slice()))
        })
        .unwrap_or_default();
    Some(GatewayTls { clients, clients_of, client })
}

/// With or without `validation`.
fn tls_config(reader: &mut Reader, node: &Node) -> Option<Option<ClientValidation>> {
    reader.fields(node, |f| Some(f.optional("validation", validation)))
}

fn validation(reader: &mut Reader, node: &Node) -> Option<ClientValidation> {
    reader.fields(node, |f| {
        let authorities = f.required("caCertificateRefs", |r, n| {
            read::items(r, n, &mut |r: &mut Reader, n: &Node| r.fields(n, |f| authority_ref(f, true)))
        })?;
        if authorities.is_empty() {
            f.error_at("caCertificateRefs", "needs a ConfigMap with the certificates to check clients with");
        }
        let words = [("AllowValidOnly", Unverified::Refused), ("AllowInsecureFallback", Unverified::Allowed)];
        let unverified = f.optional("mode", |r, n| read::one_of(r, n, &words)).unwrap_or(Unverified::Refused);
        Some(ClientValidation { authorities, unverified })
    })
}

/// An entry of `caCertificateRefs`; that of a policy knows no namespace.
pub fn authority_ref(f: &mut Fields, with_namespace: bool) -> Option<AuthorityRef> {
    let group = f.required("group", read::text);
    let kind = f.required("kind", read::name);
    let namespace = if with_namespace { f.optional("namespace", read::name) } else { None };
    let name = f.required("name", read::name);
    Some(AuthorityRef { group: group?, kind: kind?, namespace, name: name? })
}

fn address(reader: &mut Reader, node: &Node) -> Option<AddressRequest> {
    reader.fields(node, |f| {
        let kind = f.optional("type", read::name);
        let value = f.optional("value", read::text).filter(|value| !value.is_empty());
        Some(match (kind.as_deref(), value) {
            (None | Some("IPAddress"), None) => AddressRequest::Any,
            (None | Some("IPAddress"), Some(value)) => match value.parse() {
                Ok(address) => AddressRequest::Address(address),
                Err(_) => AddressRequest::NotAnAddress(value),
            },
            (Some(other), value) => AddressRequest::Type(other.into(), value.unwrap_or_default()),
        })
    })
}

/// `status.addresses`. Whoever wrote the status, nothing in it is an error of the object's author.
pub fn had(status: &Node) -> Box<[IpAddr]> {
    let addresses = status.get("addresses").map_or(&[][..], Node::items);
    addresses.iter().filter_map(|address| address.get("value")?.text()?.parse().ok()).collect()
}
