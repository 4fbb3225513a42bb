//! The listeners of a Gateway.

use super::hostname::hostname;
use super::read::{self, Fields, Reader};
use super::yaml::Node;
use crate::index::*;
use crate::ir::{HostName, Protocol};

pub fn listener(reader: &mut Reader, node: &Node) -> Option<Listener> {
    reader.fields(node, |f| {
        let name = f.required("name", read::name);
        let port = f.required("port", read::port);
        let protocol = f.required("protocol", read::name).and_then(|name| protocol(f, &name));
        let routes = f.within("allowedRoutes", |f| {
            let namespaces = f.within("namespaces", |f| allowed_namespaces(f, AllowedNamespaces::Same));
            let namespaces = namespaces.unwrap_or(AllowedNamespaces::Same);
            Some((namespaces, f.list("kinds", route_kind)))
        });
        let (namespaces, kinds) = routes.unwrap_or((AllowedNamespaces::Same, Box::default()));
        Some(Listener { name: name?, port: port?, protocol: protocol?, kinds, namespaces })
    })
}

/// The protocol, with what `hostname` and `tls` say for it.
fn protocol(f: &mut Fields, name: &str) -> Option<ListenerProtocol> {
    match name {
        "TCP" => forwarded(f, Protocol::Tcp),
        "UDP" => forwarded(f, Protocol::Udp),
        "TLS" => {
            let hostname = f.optional("hostname", hostname).unwrap_or(HostName::Any);
            // The CRD has no default here, lest somebody terminates who did not mean to (GEP-2643).
            let mut given = false;
            let mode = f.optional("tls", |r, n| {
                given = true;
                tls(r, n)
            });
            if !given {
                f.error_at("tls", "is missing, and a TLS listener needs it; say mode: Passthrough, or Terminate");
            }
            let mode = mode?;
            Some(ListenerProtocol::Tls(TlsListener { hostname, mode }))
        }
        "HTTP" => {
            let hostname = f.optional("hostname", hostname).unwrap_or(HostName::Any);
            // A rule of the CRD.
            if f.has("tls") {
                f.error_at("tls", "means nothing to an HTTP listener; remove it, or use protocol HTTPS");
            }
            Some(ListenerProtocol::Http { hostname })
        }
        "HTTPS" => {
            let hostname = f.optional("hostname", hostname).unwrap_or(HostName::Any);
            let certificates = match f.has("tls").then(|| f.optional("tls", tls)) {
                // For the status of the listener: the API lets it through.
                None => Box::default(),
                Some(None) => return None,
                Some(Some(TlsMode::Terminate { certificates })) => certificates,
                Some(Some(TlsMode::Passthrough)) => {
                    f.error_at(
                        "tls",
                        "mode Passthrough is not for HTTPS listeners; use protocol TLS, or mode Terminate",
                    );
                    return None;
                }
            };
            Some(ListenerProtocol::Https { hostname, certificates })
        }
        other => {
            f.known(&["hostname", "tls"]);
            Some(ListenerProtocol::Other(other.into()))
        }
    }
}

fn forwarded(f: &mut Fields, protocol: Protocol) -> Option<ListenerProtocol> {
    let hostname = f.optional("hostname", read::text).is_some_and(|name| !name.is_empty());
    let tls = f.optional("tls", |_, _| Some(())).is_some();
    // Rules of the CRD: such an object would never get into a cluster.
    for (key, _) in [("hostname", hostname), ("tls", tls)].into_iter().filter(|(_, given)| *given) {
        f.error_at(key, format!("means nothing to a {protocol} listener; remove it"));
    }
    Some(ListenerProtocol::Forwarded(protocol))
}

fn tls(reader: &mut Reader, node: &Node) -> Option<TlsMode> {
    reader.fields(node, |f| {
        let mode = f.optional("mode", read::text);
        let mut some = false;
        let certificates = f.list("certificateRefs", |r, n| {
            some = true;
            certificate_ref(r, n)
        });
        let options = f.optional("options", read::strings).unwrap_or_default();
        for (key, _) in &options {
            f.warn_at("options", format!("Sluice has no option {key}; ignored"));
        }
        match mode.as_deref() {
            None | Some("Terminate") => {
                if !some && options.is_empty() {
                    let message =
                        "names no certificate, and mode Terminate needs one; name a Secret of type kubernetes.io/tls";
                    f.error_at("certificateRefs", message);
                }
                Some(TlsMode::Terminate { certificates })
            }
            Some("Passthrough") => {
                if !certificates.is_empty() {
                    let message =
                        "does nothing in mode Passthrough, where the backends have the certificates; remove it";
                    f.warn_at("certificateRefs", message);
                }
                Some(TlsMode::Passthrough)
            }
            Some(other) => {
                f.error_at("mode", format!("is \"{other}\"; use Passthrough or Terminate"));
                None
            }
        }
    })
}

pub fn certificate_ref(reader: &mut Reader, node: &Node) -> Option<CertificateRef> {
    reader.fields(node, |f| {
        let group = f.optional("group", read::text).unwrap_or_else(|| f.intern(""));
        let kind = f.optional("kind", read::name).unwrap_or_else(|| f.intern("Secret"));
        let namespace = f.optional("namespace", read::name);
        Some(CertificateRef { group, kind, namespace, name: f.required("name", read::name)? })
    })
}

/// `default`: what it means to say nothing.
pub fn allowed_namespaces(f: &mut Fields, default: AllowedNamespaces) -> Option<AllowedNamespaces> {
    let from = f.optional("from", read::text);
    let selector = f.optional("selector", selector);
    match from.as_deref() {
        None => Some(default),
        Some("Same") => Some(AllowedNamespaces::Same),
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
