//! One function a kind: from a located tree to the object, with every field the API has known by name.

use std::net::IpAddr;
use std::sync::Arc;

use super::read::{self, Fields, Reader};
use super::yaml::{Node, Value};
use crate::index::*;
use crate::ir::Protocol;

/// Fields Sluice has no use for, by where they may stand.
const METADATA: &[&str] = &[
    "annotations",
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
        Kind::EndpointSlice => &["v1", "v1beta1"],
        Kind::Service | Kind::Namespace => &["v1"],
    }
}

pub fn kind_named(group: &str, kind: &str) -> Option<Kind> {
    use Kind::{EndpointSlice, Gateway, GatewayClass, Namespace, ReferenceGrant, Service, TCPRoute, UDPRoute};
    [GatewayClass, Gateway, TCPRoute, UDPRoute, ReferenceGrant, Service, EndpointSlice, Namespace]
        .into_iter()
        .find(|k| k.group() == group && k.to_string() == kind)
}

/// What `metadata` says, kind-independent.
struct Metadata {
    meta: Meta,
    labels: Labels,
}

/// Reads a whole object; `None` if anything in it is wrong.
pub fn object(reader: &mut Reader, kind: Kind, node: &Node) -> Option<Object> {
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
                let (meta, (class, listeners, addresses, parameters)) = (metadata?.meta, spec?);
                Some(Object::Gateway(Gateway { meta, class, listeners, addresses, parameters }.into()))
            }
            Kind::TCPRoute | Kind::UDPRoute => {
                let protocol = if kind == Kind::TCPRoute { Protocol::Tcp } else { Protocol::Udp };
                let spec = f.required("spec", |r, n| route_spec(r, n, &namespace));
                let (meta, (parents, rules, backends)) = (metadata?.meta, spec?);
                Some(Object::Route(Route { meta, protocol, parents, rules, backends }.into()))
            }
            Kind::ReferenceGrant => {
                let spec = f.required("spec", grant_spec);
                let (meta, (from, to)) = (metadata?.meta, spec?);
                Some(Object::ReferenceGrant(ReferenceGrant { meta, from, to }.into()))
            }
            Kind::Service => {
                let spec = f.required("spec", service_spec);
                let (meta, (external, ports)) = (metadata?.meta, spec?);
                Some(Object::Service(Service { meta, external, ports }.into()))
            }
            Kind::EndpointSlice => {
                let content = slice(f);
                let (Metadata { meta, labels }, (ports, endpoints)) = (metadata?, content?);
                let service = labels.iter().find(|(key, _)| &**key == "kubernetes.io/service-name");
                let service = service.map(|(_, name)| Name { namespace: namespace.clone(), name: f.intern(name) });
                Some(Object::EndpointSlice(EndpointSlice { meta, service, ports, endpoints }.into()))
            }
            Kind::Namespace => {
                f.known(&["spec"]);
                let Metadata { meta, mut labels } = metadata?;
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
        let name = Name { namespace, name: name? };
        Some(Metadata { meta: Meta { name, generation, created, origin }, labels })
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

fn gateway_class_spec(reader: &mut Reader, node: &Node) -> Option<(Arc<str>, bool)> {
    reader.fields(node, |f| {
        f.known(&["description"]);
        let controller = f.required("controllerName", read::name);
        let parameters = f.optional("parametersRef", |_, _| Some(())).is_some();
        Some((controller?, parameters))
    })
}

type GatewaySpec = (Arc<str>, Box<[Listener]>, Box<[AddressRequest]>, bool);

fn gateway_spec(reader: &mut Reader, node: &Node) -> Option<GatewaySpec> {
    reader.fields(node, |f| {
        f.known(&["allowedListeners", "backendTLS", "defaultScope", "tls"]);
        let class = f.required("gatewayClassName", read::name);
        let listeners = f.required("listeners", |r, n| read::items(r, n, &mut listener));
        let addresses = f.list("addresses", address);
        let parameters = f.within("infrastructure", |f| {
            f.known(&["annotations", "labels"]);
            f.optional("parametersRef", |_, _| Some(()))
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
        Some((class?, listeners, addresses, parameters.is_some()))
    })
}

fn listener(reader: &mut Reader, node: &Node) -> Option<Listener> {
    reader.fields(node, |f| {
        let name = f.required("name", read::name);
        let port = f.required("port", read::port);
        let protocol = f.required("protocol", read::name);
        let hostname = f.optional("hostname", read::text).is_some_and(|name| !name.is_empty());
        let tls = f.optional("tls", |_, _| Some(())).is_some();
        let routes = f.within("allowedRoutes", |f| {
            let namespaces = f.within("namespaces", allowed_namespaces).unwrap_or(AllowedNamespaces::Same);
            Some((namespaces, f.list("kinds", route_kind)))
        });
        let (namespaces, kinds) = routes.unwrap_or((AllowedNamespaces::Same, Box::default()));
        let protocol = match &*protocol? {
            "TCP" => ListenerProtocol::Forwarded(Protocol::Tcp),
            "UDP" => ListenerProtocol::Forwarded(Protocol::Udp),
            "HTTP" => ListenerProtocol::Http,
            "HTTPS" => ListenerProtocol::Https,
            "TLS" => ListenerProtocol::Tls,
            other => ListenerProtocol::Other(other.into()),
        };
        // Rules of the CRD: such an object would never get into a cluster.
        if let ListenerProtocol::Forwarded(protocol) = protocol {
            for (key, _) in [("hostname", hostname), ("tls", tls)].into_iter().filter(|(_, given)| *given) {
                f.error_at(key, format!("means nothing to a {protocol} listener; remove it"));
            }
        }
        Some(Listener { name: name?, port: port?, protocol, kinds, namespaces })
    })
}

fn allowed_namespaces(f: &mut Fields) -> Option<AllowedNamespaces> {
    let from = f.optional("from", read::text);
    let selector = f.optional("selector", selector);
    match from.as_deref() {
        None | Some("Same") => Some(AllowedNamespaces::Same),
        Some("All") => Some(AllowedNamespaces::All),
        Some("None") => Some(AllowedNamespaces::None),
        Some("Selector") => Some(selector.map_or(AllowedNamespaces::None, AllowedNamespaces::Selector)),
        Some(other) => {
            f.error_at("from", format!("is \"{other}\"; use All, Same, Selector or None"));
            None
        }
    }
}

fn selector(reader: &mut Reader, node: &Node) -> Option<Selector> {
    reader.fields(node, |f| {
        let labels = f.optional("matchLabels", read::strings).unwrap_or_default().into_iter();
        let expressions = f.list("matchExpressions", requirement);
        let labels = labels.map(|(key, value)| Requirement { key, test: LabelTest::In([value].into()) });
        Some(Selector(labels.chain(expressions).collect()))
    })
}

fn requirement(reader: &mut Reader, node: &Node) -> Option<Requirement> {
    reader.fields(node, |f| {
        let key = f.required("key", read::name);
        let operator = f.required("operator", read::name);
        let values = f.list("values", |r, n| read::string(r, n).map(Box::from));
        let test = match (&*operator?, values.is_empty()) {
            ("In", false) => LabelTest::In(values),
            ("NotIn", false) => LabelTest::NotIn(values),
            ("Exists", true) => LabelTest::Exists,
            ("DoesNotExist", true) => LabelTest::DoesNotExist,
            (operator @ ("In" | "NotIn"), true) => {
                f.error_at("values", format!("operator {operator} needs at least one value"));
                return None;
            }
            (operator @ ("Exists" | "DoesNotExist"), false) => {
                f.error_at("values", format!("operator {operator} takes no values; remove them"));
                return None;
            }
            (other, _) => {
                f.error_at("operator", format!("is \"{other}\"; use In, NotIn, Exists or DoesNotExist"));
                return None;
            }
        };
        Some(Requirement { key: (&*key?).into(), test })
    })
}

fn route_kind(reader: &mut Reader, node: &Node) -> Option<RouteKind> {
    reader.fields(node, |f| {
        let group = f.optional("group", read::text).unwrap_or_else(|| f.intern(GATEWAY_GROUP));
        Some(RouteKind { group, kind: f.required("kind", read::name)? })
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

type RouteSpec = (Box<[ParentRef]>, u16, Box<[BackendRef]>);

fn route_spec(reader: &mut Reader, node: &Node, namespace: &Arc<str>) -> Option<RouteSpec> {
    reader.fields(node, |f| {
        f.known(&["useDefaultGateways"]);
        let parents = f.list("parentRefs", parent_ref);
        let rules = f.required("rules", |r, n| {
            read::items(r, n, &mut |r: &mut Reader, n: &Node| {
                r.fields(n, |f| {
                    f.known(&["name"]);
                    Some(f.list("backendRefs", |r, n| backend_ref(r, n, namespace)))
                })
            })
        });
        let rules = rules?;
        if rules.is_empty() {
            f.error_at("rules", "needs a rule");
        }
        let count = u16::try_from(rules.len()).unwrap_or(u16::MAX);
        Some((parents, count, rules.into_iter().next().unwrap_or_default()))
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
