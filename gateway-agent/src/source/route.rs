//! Routes of every kind.

use std::sync::Arc;

use super::hostname::{HTTP_HOSTNAMES, OLD_TLS_HOSTNAMES, TLS_HOSTNAMES, hostnames};
use super::http;
use super::kinds::Metadata;
use super::read::{self, Fields, Reader};
use super::yaml::Node;
use crate::index::{BackendRef, Name, Object, ParentRef, Route, RouteType, Rules};

/// Of a rule, as the CRDs have it.
pub const MOST_BACKENDS: usize = 16;

/// A route of any kind, but for `apiVersion` and `metadata`.
pub fn route(f: &mut Fields, of: RouteType, version: &str, metadata: Option<Metadata>) -> Option<Object> {
    // An object without a name is wrong whatever its rules say; they are read all the same, for what is wrong with them.
    let name = metadata.as_ref().map(|metadata| metadata.meta.name.clone());
    let auth = metadata.as_ref().map(|metadata| metadata.annotations.auth).unwrap_or_default();
    let name = name.unwrap_or_else(|| Name { namespace: f.intern(""), name: f.intern("") });
    let spec = f.required("spec", |r, n| {
        r.fields(n, |f| {
            f.known(&["useDefaultGateways"]);
            let parents = f.list("parentRefs", parent_ref);
            let hostnames = match of {
                RouteType::Http | RouteType::Grpc => hostnames(f, HTTP_HOSTNAMES),
                RouteType::Tls if version == "v1alpha2" => hostnames(f, OLD_TLS_HOSTNAMES),
                RouteType::Tls => hostnames(f, TLS_HOSTNAMES),
                RouteType::Tcp | RouteType::Udp => Some(Box::default()),
            };
            let rules = match of {
                RouteType::Http | RouteType::Grpc => http::rules(f, http::Owner { of, name: &name, auth }),
                RouteType::Tcp | RouteType::Tls | RouteType::Udp => forward(f, version, &name.namespace),
            };
            Some((parents, hostnames, rules))
        })
    });
    let (meta, (parents, hostnames, rules)) = (metadata?.meta, spec?);
    let (hostnames, rules) = match f.reader().take_refused() {
        Some(why) => (Box::default(), Rules::Refused(why)),
        None => (hostnames?, rules?),
    };
    Some(Object::Route(Route { meta, of, hostnames, parents, rules }.into()))
}

fn forward(f: &mut Fields, version: &str, namespace: &Arc<str>) -> Option<Rules> {
    let rules = f.required("rules", |r, n| {
        read::items(r, n, &mut |r: &mut Reader, n: &Node| rule(r, n, version == "v1alpha2", namespace))
    })?;
    if rules.is_empty() {
        f.error_at("rules", "needs a rule");
    }
    let count = u16::try_from(rules.len()).unwrap_or(u16::MAX);
    Some(Rules::Forward { count, backends: rules.into_iter().next().unwrap_or_default() })
}

/// The backends of a rule.
fn rule(reader: &mut Reader, node: &Node, optional: bool, namespace: &Arc<str>) -> Option<Box<[BackendRef]>> {
    reader.fields(node, |f| {
        f.known(&["name"]);
        let mut given = false;
        let read = |r: &mut Reader, n: &Node| {
            given = true;
            read::items(r, n, &mut |r: &mut Reader, n: &Node| r.fields(n, |f| backend_ref(f, namespace)))
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

pub fn parent_ref(reader: &mut Reader, node: &Node) -> Option<ParentRef> {
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

pub fn backend_ref(f: &mut Fields, namespace: &Arc<str>) -> Option<BackendRef> {
    let group = f.optional("group", read::text).unwrap_or_else(|| f.intern(""));
    let kind = f.optional("kind", read::name).unwrap_or_else(|| f.intern("Service"));
    let namespace = f.optional("namespace", read::name).unwrap_or_else(|| namespace.clone());
    let name = f.required("name", read::name);
    let port = f.optional("port", read::port);
    let weight = f.optional("weight", |r, n| read::number(r, n, 0, 1_000_000)).unwrap_or(1);
    Some(BackendRef { group, kind, name: Name { namespace, name: name? }, port, weight: weight as u32 })
}
