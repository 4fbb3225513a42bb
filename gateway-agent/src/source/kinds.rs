//! One function a kind: from a located tree to the object, with every field the API has known by name.

use std::net::IpAddr;
use std::sync::Arc;

use super::hostname::hostnames;
use super::listener::listener;
use super::read::{self, Fields, Reader};
use super::secret;
use super::yaml::{Node, Value};
use crate::index::*;
use crate::ir::{HostName, Protocol};

/// Fields Sluice has no use for, by where they may stand.
const METADATA: &[&str] = &[
    "clusterName",
    "deletionGracePeriodSeconds",
    "deletionTimestamp",
    "finalizers",
    "generateName",
    "managedFields",
    "ownerReferences",
    "resourceVersion",
    "selfLink",
    "uid",
];
const SERVICE_SPEC: &[&str] = &[
    "allocateLoadBalancerNodePorts",
    "clusterIP",
    "clusterIPs",
    "externalIPs",
    "externalName",
    "externalTrafficPolicy",
    "healthCheckNodePort",
    "internalTrafficPolicy",
    "ipFamilies",
    "ipFamilyPolicy",
    "ipFamily",
    "loadBalancerClass",
    "loadBalancerIP",
    "loadBalancerSourceRanges",
    "publishNotReadyAddresses",
    "selector",
    "sessionAffinity",
    "sessionAffinityConfig",
    "topologyKeys",
    "trafficDistribution",
];

/// The versions each kind is or was served in, newest first.
pub fn versions(kind: Kind) -> &'static [&'static str] {
    match kind {
        Kind::GatewayClass | Kind::Gateway | Kind::ReferenceGrant => &["v1", "v1beta1", "v1alpha2"],
        Kind::TCPRoute | Kind::UDPRoute => &["v1", "v1alpha2"],
        Kind::TLSRoute => &["v1", "v1alpha3", "v1alpha2"],
        Kind::EndpointSlice => &["v1", "v1beta1"],
        Kind::Service | Kind::Secret | Kind::Namespace => &["v1"],
    }
}

pub fn kind_named(group: &str, kind: &str) -> Option<Kind> {
    use Kind::*;
    [GatewayClass, Gateway, TCPRoute, TLSRoute, UDPRoute, ReferenceGrant, Service, EndpointSlice, Secret, Namespace]
        .into_iter()
        .find(|k| k.group() == group && k.to_string() == kind)
}

/// Of a rule, as the CRDs have it.
const MOST_BACKENDS: usize = 16;

/// What `metadata` says, kind-independent.
struct Metadata {
    meta: Meta,
    labels: Labels,
    /// The annotation `sluice.dev/proxy-protocol`.
    proxy_protocol: bool,
}

/// Reads a whole object; `None` if anything in it is wrong.
pub fn object(reader: &mut Reader, kind: Kind, version: &str, node: &Node) -> Option<Object> {
    let object = reader.fields(node, |f| {
        f.known(&["apiVersion", "kind", "status"]);
        let metadata = f.required("metadata", |r, n| metadata(r, kind, n));
        let namespace = metadata.as_ref().map(|m| m.meta.name.namespace.clone()).unwrap_or_default();
        match kind {
            Kind::GatewayClass => {
                let spec = f.required("spec", gateway_class_spec);
                let (meta, (controller, parameters)) = (metadata?.meta, spec?);
                Some(Object::GatewayClass(GatewayClass { meta, controller, parameters }.into()))
            }
            Kind::Gateway => {
                let spec = f.required("spec", gateway_spec);
                let (meta, (class, listeners, addresses, parameters, client_certificates)) = (metadata?.meta, spec?);
                let gateway = Gateway { meta, class, listeners, addresses, parameters, client_certificates };
                Some(Object::Gateway(gateway.into()))
            }
            Kind::TCPRoute => route(f, RouteType::Tcp, version, &namespace, metadata),
            Kind::TLSRoute => route(f, RouteType::Tls, version, &namespace, metadata),
            Kind::UDPRoute => route(f, RouteType::Udp, version, &namespace, metadata),
            Kind::ReferenceGrant => {
                let spec = f.required("spec", grant_spec);
                let (meta, (from, to)) = (metadata?.meta, spec?);
                Some(Object::ReferenceGrant(ReferenceGrant { meta, from, to }.into()))
            }
            Kind::Service => {
                let spec = f.required("spec", service_spec);
                let (Metadata { meta, proxy_protocol, .. }, (external, ports)) = (metadata?, spec?);
                Some(Object::Service(Service { meta, external, proxy_protocol, ports }.into()))
            }
            Kind::EndpointSlice => {
                let content = slice(f);
                let (Metadata { meta, labels, .. }, (ports, endpoints)) = (metadata?, content?);
                let service = labels.iter().find(|(key, _)| &**key == "kubernetes.io/service-name");
                let service = service.map(|(_, name)| Name { namespace: namespace.clone(), name: f.intern(name) });
                Some(Object::EndpointSlice(EndpointSlice { meta, service, ports, endpoints }.into()))
            }
            Kind::Secret => {
                let content = secret::content(f, metadata.as_ref().map(|m| &m.meta.name));
                let (meta, certificate) = (metadata?.meta, content?);
                Some(Object::Secret(Secret { meta, certificate }.into()))
            }
            Kind::Namespace => {
                f.known(&["spec"]);
                let Metadata { meta, mut labels, .. } = metadata?;
                labels.sort_unstable();
                Some(Object::Namespace(Namespace { meta, labels }.into()))
            }
        }
    });
    object.filter(|_| reader.is_fine())
}

fn metadata(reader: &mut Reader, kind: Kind, node: &Node) -> Option<Metadata> {
    let origin = reader.origin();
    reader.fields(node, |f| {
        f.known(METADATA);
        let name = f.required("name", read::name);
        let namespace = f.optional("namespace", read::name);
        if !kind.namespaced() && namespace.is_some() {
            f.error_at("namespace", format!("a {kind} belongs to no namespace; remove it"));
        }
        let namespace = match namespace.filter(|_| kind.namespaced()) {
            Some(namespace) => namespace,
            None => f.intern(if kind.namespaced() { "default" } else { "" }),
        };
        let generation = f.optional("generation", |r, n| read::number(r, n, 0, i64::MAX)).unwrap_or(0);
        let created = f.optional("creationTimestamp", timestamp).map_or(Created::Unknown, Created::At);
        let labels = f.optional("labels", read::strings).unwrap_or_default();
        if labels.iter().any(|(key, _)| **key == *PROXY_PROTOCOL) {
            f.warn_at(
                "labels",
                format!("{PROXY_PROTOCOL} is no label but an annotation; move it to metadata.annotations"),
            );
        }
        let proxy_protocol = f.optional("annotations", |r, n| proxy_protocol(r, kind, n)).unwrap_or(false);
        let name = Name { namespace, name: name? };
        Some(Metadata { meta: Meta { name, generation, created, origin }, labels, proxy_protocol })
    })
}

/// The one annotation that means something, on Services.
const PROXY_PROTOCOL: &str = "sluice.dev/proxy-protocol";

fn proxy_protocol(reader: &mut Reader, kind: Kind, node: &Node) -> Option<bool> {
    const KEY: &str = PROXY_PROTOCOL;
    let Value::Mapping(entries) = &node.value else { return None };
    for entry in entries.iter().filter(|entry| entry.key.starts_with("sluice.dev/")) {
        if entry.key != KEY {
            let message = format!("is no annotation that Sluice knows; ignored (for Services there is {KEY})");
            reader.warn_in(&entry.key, entry.value.at, message);
        } else if kind != Kind::Service {
            reader.warn_in(KEY, entry.value.at, format!("means nothing to a {kind}, only to a Service; ignored"));
        }
    }
    let entry = entries.iter().filter(|_| kind == Kind::Service).find(|entry| entry.key == KEY)?;
    match &entry.value.value {
        Value::Scalar { text, .. } if text == "v2" => Some(true),
        Value::Scalar { text, .. } => {
            reader.error_in(KEY, entry.value.at, format!("is \"{text}\"; use v2, or remove the annotation"));
            None
        }
        _ => {
            reader.error_in(KEY, entry.value.at, "must be a string; use v2, or remove the annotation");
            None
        }
    }
}

fn timestamp(reader: &mut Reader, node: &Node) -> Option<jiff::Timestamp> {
    let text = read::string(reader, node)?;
    let time = text.parse().ok();
    if time.is_none() {
        reader.error(node.at, format!("\"{text}\" is no time; write it as 2026-01-31T12:00:00Z"));
    }
    time
}

fn gateway_class_spec(reader: &mut Reader, node: &Node) -> Option<(Arc<str>, bool)> {
    reader.fields(node, |f| {
        f.known(&["description"]);
        let controller = f.required("controllerName", read::name);
        let parameters = f.optional("parametersRef", |_, _| Some(())).is_some();
        Some((controller?, parameters))
    })
}

type GatewaySpec = (Arc<str>, Box<[Listener]>, Box<[AddressRequest]>, bool, bool);

fn gateway_spec(reader: &mut Reader, node: &Node) -> Option<GatewaySpec> {
    reader.fields(node, |f| {
        f.known(&["allowedListeners", "backendTLS", "defaultScope"]);
        let class = f.required("gatewayClassName", read::name);
        let listeners = f.required("listeners", |r, n| read::items(r, n, &mut listener));
        let addresses = f.list("addresses", address);
        let parameters = f.within("infrastructure", |f| {
            f.known(&["annotations", "labels"]);
            f.optional("parametersRef", |_, _| Some(()))
        });
        let client_certificates = f.within("tls", |f| {
            f.known(&["backend"]);
            f.optional("frontend", |_, _| Some(()))
        });
        let listeners = listeners?;
        for (i, listener) in listeners.iter().enumerate() {
            if listeners[..i].iter().any(|other| other.name == listener.name) {
                f.error_at("listeners", format!("two listeners are named {}; give each its own name", listener.name));
            }
        }
        if listeners.is_empty() {
            f.error_at("listeners", "needs at least one listener");
        }
        Some((class?, listeners, addresses, parameters.is_some(), client_certificates.is_some()))
    })
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

fn route(
    f: &mut Fields,
    of: RouteType,
    version: &str,
    namespace: &Arc<str>,
    metadata: Option<Metadata>,
) -> Option<Object> {
    let spec = f.required("spec", |r, n| route_spec(r, n, of, version, namespace));
    let (meta, (parents, hostnames, rules, backends)) = (metadata?.meta, spec?);
    Some(Object::Route(Route { meta, of, hostnames, parents, rules, backends }.into()))
}

type RouteSpec = (Box<[ParentRef]>, Box<[HostName]>, u16, Box<[BackendRef]>);

fn route_spec(
    reader: &mut Reader,
    node: &Node,
    of: RouteType,
    version: &str,
    namespace: &Arc<str>,
) -> Option<RouteSpec> {
    reader.fields(node, |f| {
        f.known(&["useDefaultGateways"]);
        let parents = f.list("parentRefs", parent_ref);
        let hostnames = if of == RouteType::Tls { hostnames(f, version == "v1alpha2") } else { Some(Box::default()) };
        let rules = f.required("rules", |r, n| {
            read::items(r, n, &mut |r: &mut Reader, n: &Node| rule(r, n, version == "v1alpha2", namespace))
        });
        let rules = rules?;
        if rules.is_empty() {
            f.error_at("rules", "needs a rule");
        }
        let count = u16::try_from(rules.len()).unwrap_or(u16::MAX);
        Some((parents, hostnames?, count, rules.into_iter().next().unwrap_or_default()))
    })
}

/// The backends of a rule.
fn rule(reader: &mut Reader, node: &Node, optional: bool, namespace: &Arc<str>) -> Option<Box<[BackendRef]>> {
    reader.fields(node, |f| {
        f.known(&["name"]);
        let mut given = false;
        let read = |r: &mut Reader, n: &Node| {
            given = true;
            read::items(r, n, &mut |r, n| backend_ref(r, n, namespace))
        };
        let backends = if optional { f.optional("backendRefs", read) } else { f.required("backendRefs", read) };
        if let Some(backends) = backends.as_ref().filter(|backends| !(1..=MOST_BACKENDS).contains(&backends.len())) {
            f.error_at("backendRefs", format!("has {} backends; give it 1 to {MOST_BACKENDS}", backends.len()));
        }
        if optional && !given {
            f.warn_at("backendRefs", "is missing, so every connection is refused; name a Service");
        }
        Some(backends.unwrap_or_default())
    })
}

fn parent_ref(reader: &mut Reader, node: &Node) -> Option<ParentRef> {
    reader.fields(node, |f| {
        let group = f.optional("group", read::text);
        let kind = f.optional("kind", read::name);
        let namespace = f.optional("namespace", read::name);
        let name = f.required("name", read::name);
        let section = f.optional("sectionName", read::text).filter(|section| !section.is_empty());
        let port = f.optional("port", read::port);
        Some(ParentRef { group, kind, namespace, name: name?, section, port })
    })
}

fn backend_ref(reader: &mut Reader, node: &Node, namespace: &Arc<str>) -> Option<BackendRef> {
    reader.fields(node, |f| {
        let group = f.optional("group", read::text).unwrap_or_else(|| f.intern(""));
        let kind = f.optional("kind", read::name).unwrap_or_else(|| f.intern("Service"));
        let namespace = f.optional("namespace", read::name).unwrap_or_else(|| namespace.clone());
        let name = f.required("name", read::name);
        let port = f.optional("port", read::port);
        let weight = f.optional("weight", |r, n| read::number(r, n, 0, 1_000_000)).unwrap_or(1);
        Some(BackendRef { group, kind, name: Name { namespace, name: name? }, port, weight: weight as u32 })
    })
}

type GrantSpec = (Box<[GrantFrom]>, Box<[GrantTo]>);

fn grant_spec(reader: &mut Reader, node: &Node) -> Option<GrantSpec> {
    reader.fields(node, |f| {
        let from = f.required("from", |r, n| {
            read::items(r, n, &mut |r: &mut Reader, n: &Node| {
                r.fields(n, |f| {
                    let group = f.required("group", read::text);
                    let kind = f.required("kind", read::name);
                    let namespace = f.required("namespace", read::name);
                    Some(GrantFrom { group: group?, kind: kind?, namespace: namespace? })
                })
            })
        });
        let to = f.required("to", |r, n| {
            read::items(r, n, &mut |r: &mut Reader, n: &Node| {
                r.fields(n, |f| {
                    let group = f.required("group", read::text);
                    let kind = f.required("kind", read::name);
                    let name = f.optional("name", read::text).filter(|name| !name.is_empty());
                    Some(GrantTo { group: group?, kind: kind?, name })
                })
            })
        });
        Some((from?, to?))
    })
}

fn service_spec(reader: &mut Reader, node: &Node) -> Option<(bool, Box<[ServicePort]>)> {
    reader.fields(node, |f| {
        f.known(SERVICE_SPEC);
        let kind = f.optional("type", read::text);
        let ports = f.list("ports", |r, n| {
            r.fields(n, |f| {
                f.known(&["appProtocol", "nodePort"]);
                let name = f.optional("name", read::text).unwrap_or_else(|| f.intern(""));
                let port = f.required("port", read::port);
                let protocol = port_protocol(f);
                let target = f.optional("targetPort", target_port).flatten();
                Some(ServicePort { name, port: port?, protocol: protocol?, target })
            })
        });
        match kind.as_deref() {
            None | Some("ClusterIP" | "NodePort" | "LoadBalancer") => Some((false, ports)),
            Some("ExternalName") => Some((true, ports)),
            Some(other) => {
                f.error_at("type", format!("is \"{other}\"; use ClusterIP, NodePort, LoadBalancer or ExternalName"));
                None
            }
        }
    })
}

fn port_protocol(f: &mut Fields) -> Option<PortProtocol> {
    match f.optional("protocol", read::text).as_deref() {
        None | Some("TCP") => Some(PortProtocol::Forwarded(Protocol::Tcp)),
        Some("UDP") => Some(PortProtocol::Forwarded(Protocol::Udp)),
        Some("SCTP") => Some(PortProtocol::Sctp),
        Some(other) => {
            f.error_at("protocol", format!("is \"{other}\"; use TCP, UDP or SCTP"));
            None
        }
    }
}

/// A number or a name; the names are resolved by those who write EndpointSlices.
fn target_port(reader: &mut Reader, node: &Node) -> Option<Option<u16>> {
    match &node.value {
        Value::Scalar { plain: true, text } if text.starts_with(|c: char| c.is_ascii_digit()) => {
            read::port(reader, node).map(Some)
        }
        _ => read::name(reader, node).map(|_| None),
    }
}

type SliceContent = (Box<[SlicePort]>, Box<[SliceEndpoint]>);

fn slice(f: &mut Fields) -> Option<SliceContent> {
    f.known(&["ports", "endpoints"]);
    let v4 = match f.required("addressType", read::name).as_deref() {
        Some("IPv4") => true,
        Some("IPv6") => false,
        Some("FQDN") => {
            f.error_at("addressType", "host names are not supported; use IPv4 or IPv6");
            return None;
        }
        Some(other) => {
            f.error_at("addressType", format!("is \"{other}\"; use IPv4 or IPv6"));
            return None;
        }
        None => return None,
    };
    let ports = f.list("ports", |r, n| {
        r.fields(n, |f| {
            f.known(&["appProtocol"]);
            let name = f.optional("name", read::text).unwrap_or_else(|| f.intern(""));
            let protocol = port_protocol(f);
            let port = f.optional("port", read::port);
            Some(SlicePort { name, protocol: protocol?, port })
        })
    });
    let endpoints = f.list("endpoints", |r, n| endpoint(r, n, v4));
    Some((ports, endpoints))
}

fn endpoint(reader: &mut Reader, node: &Node, v4: bool) -> Option<SliceEndpoint> {
    reader.fields(node, |f| {
        f.known(&["deprecatedTopology", "hints", "hostname", "targetRef", "zone"]);
        let addresses = f.required("addresses", |r, n| {
            read::items(r, n, &mut |r: &mut Reader, n: &Node| endpoint_address(r, n, v4))
        });
        let health = f.within("conditions", |f| Some(health(f))).unwrap_or(Health::Ready);
        // v1beta1 had the node among the topology labels.
        let topology = f.optional("topology", read::strings).unwrap_or_default();
        let host = topology.iter().find(|(key, _)| &**key == "kubernetes.io/hostname").map(|(_, v)| Arc::from(&**v));
        let node = f.optional("nodeName", read::text).or(host);
        match addresses?.first() {
            Some(&address) => Some(SliceEndpoint { address, node, health }),
            None => {
                f.error_at("addresses", "needs an address");
                None
            }
        }
    })
}

fn endpoint_address(reader: &mut Reader, node: &Node, v4: bool) -> Option<IpAddr> {
    let text = read::string(reader, node)?;
    let address = text.parse::<IpAddr>().ok().filter(|a| a.is_ipv4() == v4);
    let unusable = address.is_some_and(|a| a.is_unspecified() || a.is_loopback() || a.is_multicast());
    if address.is_none() || unusable {
        let family = if v4 { "IPv4" } else { "IPv6" };
        reader.error(node.at, format!("\"{text}\" is no {family} address of an endpoint; see addressType"));
        return None;
    }
    address
}

/// What is not said of an endpoint speaks for it: no `ready` means ready, no `serving` means the same as ready.
fn health(f: &mut Fields) -> Health {
    let ready = f.optional("ready", read::boolean).unwrap_or(true);
    let serving = f.optional("serving", read::boolean).unwrap_or(ready);
    let terminating = f.optional("terminating", read::boolean).unwrap_or(false);
    match (ready, serving && terminating) {
        (true, _) => Health::Ready,
        (false, true) => Health::LastResort,
        (false, false) => Health::NotReady,
    }
}
