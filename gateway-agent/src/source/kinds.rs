//! One function a kind: from a located tree to the object, with every field the API has known by name.

use std::net::IpAddr;
use std::sync::Arc;

use super::annotations::{self, Annotations};
use super::gateway::{self, GatewaySpec};
use super::read::{self, Fields, Reader};
use super::yaml::{Node, Value};
use super::{authorities, config, policy, route, secret};
use crate::index::*;
use crate::ir::Protocol;
use crate::ir::http::Application;

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
        Kind::GatewayClass | Kind::Gateway | Kind::HTTPRoute | Kind::ReferenceGrant => &["v1", "v1beta1", "v1alpha2"],
        Kind::GRPCRoute => &["v1", "v1alpha2"],
        Kind::BackendTLSPolicy => &["v1", "v1alpha3"],
        Kind::TCPRoute | Kind::UDPRoute => &["v1", "v1alpha2"],
        Kind::TLSRoute => &["v1", "v1alpha3", "v1alpha2"],
        Kind::EndpointSlice => &["v1", "v1beta1"],
        Kind::SluiceConfig => &["v1alpha1"],
        Kind::ListenerSet | Kind::Service | Kind::ConfigMap | Kind::Secret | Kind::Namespace => &["v1"],
    }
}

pub fn kind_named(group: &str, kind: &str) -> Option<Kind> {
    use Kind::*;
    const KINDS: [Kind; 16] = [
        GatewayClass,
        Gateway,
        ListenerSet,
        HTTPRoute,
        GRPCRoute,
        TCPRoute,
        TLSRoute,
        UDPRoute,
        BackendTLSPolicy,
        ReferenceGrant,
        SluiceConfig,
        Service,
        EndpointSlice,
        ConfigMap,
        Secret,
        Namespace,
    ];
    KINDS.into_iter().find(|k| k.group() == group && k.to_string() == kind)
}

/// What `metadata` says, kind-independent.
pub struct Metadata {
    pub meta: Meta,
    labels: Labels,
    pub annotations: Annotations,
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
                let spec = f.required("spec", gateway::spec);
                let had = f.optional("status", |_, status| Some(gateway::had(status))).unwrap_or_default();
                let meta = metadata?.meta;
                let refused = f.reader().take_refused();
                let spec = match &refused {
                    Some(_) => GatewaySpec::nothing(f.intern(node.text_at(&["spec", "gatewayClassName"])?)),
                    None => spec?,
                };
                let GatewaySpec { class, listeners, addresses, parameters, infrastructure, listener_sets, tls } = spec;
                let gateway = Gateway {
                    meta,
                    class,
                    listeners,
                    addresses,
                    had,
                    parameters,
                    infrastructure,
                    listener_sets,
                    tls,
                    refused,
                };
                Some(Object::Gateway(gateway.into()))
            }
            Kind::ListenerSet => {
                let spec = f.required("spec", gateway::listener_set);
                let (meta, (parent, listeners)) = (metadata?.meta, spec?);
                let refused = f.reader().take_refused();
                let listeners = if refused.is_some() { Box::default() } else { listeners? };
                Some(Object::ListenerSet(ListenerSet { meta, parent, listeners, refused }.into()))
            }
            Kind::HTTPRoute => route::route(f, RouteType::Http, version, metadata),
            Kind::GRPCRoute => route::route(f, RouteType::Grpc, version, metadata),
            Kind::TCPRoute => route::route(f, RouteType::Tcp, version, metadata),
            Kind::TLSRoute => route::route(f, RouteType::Tls, version, metadata),
            Kind::UDPRoute => route::route(f, RouteType::Udp, version, metadata),
            Kind::BackendTLSPolicy => {
                let spec = f.required("spec", policy::spec);
                let (meta, (targets, validation)) = (metadata?.meta, spec?);
                let (server_name, identities, trust) = match f.reader().take_refused() {
                    Some(why) => (f.intern(""), Box::default(), Trust::Refused(why)),
                    None => validation?,
                };
                Some(Object::BackendTlsPolicy(
                    BackendTlsPolicy { meta, targets, server_name, identities, trust }.into(),
                ))
            }
            Kind::ReferenceGrant => {
                let spec = f.required("spec", grant_spec);
                let (meta, (from, to)) = (metadata?.meta, spec?);
                Some(Object::ReferenceGrant(ReferenceGrant { meta, from, to }.into()))
            }
            Kind::SluiceConfig => {
                let parameters = f.optional("spec", config::spec).unwrap_or_default();
                let meta = metadata?.meta;
                let parameters = f.reader().take_errors().map_or(Ok(parameters), Err);
                Some(Object::SluiceConfig(SluiceConfig { meta, parameters }.into()))
            }
            Kind::Service => {
                let spec = f.required("spec", service_spec);
                let (Metadata { meta, annotations, .. }, (external, ports)) = (metadata?, spec?);
                let Annotations { proxy_protocol, balance, .. } = annotations;
                Some(Object::Service(Service { meta, external, proxy_protocol, balance, ports }.into()))
            }
            Kind::EndpointSlice => {
                let content = slice(f);
                let (Metadata { meta, labels, .. }, (ports, endpoints)) = (metadata?, content?);
                let service = labels.iter().find(|(key, _)| &**key == "kubernetes.io/service-name");
                let service = service.map(|(_, name)| Name { namespace: namespace.clone(), name: f.intern(name) });
                Some(Object::EndpointSlice(EndpointSlice { meta, service, ports, endpoints }.into()))
            }
            Kind::ConfigMap => {
                let authorities = authorities::content(f, metadata.as_ref());
                let (meta, authorities) = (metadata?.meta, authorities?);
                Some(Object::ConfigMap(ConfigMap { meta, authorities }.into()))
            }
            Kind::Secret => {
                let content = secret::content(f, metadata.as_ref());
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
        annotations::as_labels(f, &labels);
        let annotations = f.optional("annotations", |r, n| annotations::read(r, kind, n)).unwrap_or_default();
        let name = Name { namespace, name: name? };
        Some(Metadata { meta: Meta { name, generation, created, origin }, labels, annotations })
    })
}

fn timestamp(reader: &mut Reader, node: &Node) -> Option<jiff::Timestamp> {
    let text = read::string(reader, node)?;
    let time = text.parse().ok();
    if time.is_none() {
        reader.error(node.at, format!("\"{text}\" is no time; write it as 2026-01-31T12:00:00Z"));
    }
    time
}

fn gateway_class_spec(reader: &mut Reader, node: &Node) -> Option<(Arc<str>, Option<ParametersRef>)> {
    reader.fields(node, |f| {
        f.known(&["description"]);
        let controller = f.required("controllerName", read::name);
        let parameters = f.within("parametersRef", |f| config::reference(f, true));
        Some((controller?, parameters))
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
                f.known(&["nodePort"]);
                let name = f.optional("name", read::text).unwrap_or_else(|| f.intern(""));
                let application = f.optional("appProtocol", read::text).map_or(AppProtocol::Unset, app_protocol);
                let port = f.required("port", read::port);
                let protocol = port_protocol(f);
                let target = f.optional("targetPort", target_port).flatten();
                Some(ServicePort { name, port: port?, protocol: protocol?, target, application })
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

/// GEP-1911.
fn app_protocol(name: Arc<str>) -> AppProtocol {
    let known = |application, needs_tls| AppProtocol::Known { application, needs_tls };
    match &*name {
        "kubernetes.io/h2c" => known(Application::H2c, false),
        "kubernetes.io/ws" => known(Application::WebSocket, false),
        "kubernetes.io/wss" => known(Application::WebSocket, true),
        other if other.starts_with("kubernetes.io/") || other.starts_with("gateway.networking.k8s.io/") => {
            AppProtocol::Unknown(name)
        }
        // What is not of Kubernetes is by IANA or of others, and says nothing that must be heeded.
        _ => AppProtocol::Unset,
    }
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
