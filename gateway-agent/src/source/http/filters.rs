//! The filters of rules and of backendRefs.

use std::sync::Arc;
use std::time::Duration;

use http::{HeaderName, HeaderValue, StatusCode};

use super::Owner;
use super::matches::{self, header_name, is_path_text};
use crate::index::{BackendRef, HttpFilter, Name, RouteType};
use crate::ir::HostName;
use crate::ir::http::Filter;
use crate::proxy::http::exchange::Scheme;
use crate::proxy::http::filters::cors::{Cors, Listed, Origins};
use crate::proxy::http::filters::external_auth::AuthProtocol;
use crate::proxy::http::filters::mirror::Share;
use crate::proxy::http::filters::redirect::Redirect;
use crate::proxy::http::filters::request_headers::{Changes, RequestHeaders};
use crate::proxy::http::filters::response_headers::ResponseHeaders;
use crate::proxy::http::filters::rewrite::{PathChange, Rewrite};
use crate::source::annotations::Auth;
use crate::source::hostname::hostname;
use crate::source::read::{self, Fields, Reader};
use crate::source::route::backend_ref;
use crate::source::yaml::Node;

/// The limits of the CRDs.
const MOST_FILTERS: usize = 16;
const MOST_CHANGES: usize = 16;

/// `type` of a filter, the field that goes with it, whether a GRPCRoute may have it, and whether there may be several.
const TYPES: [(&str, &str, bool, bool); 8] = [
    ("RequestHeaderModifier", "requestHeaderModifier", true, false),
    ("ResponseHeaderModifier", "responseHeaderModifier", true, false),
    ("RequestMirror", "requestMirror", true, true),
    ("RequestRedirect", "requestRedirect", false, false),
    ("URLRewrite", "urlRewrite", false, false),
    ("CORS", "cors", false, false),
    ("ExternalAuth", "externalAuth", false, true),
    ("ExtensionRef", "extensionRef", true, true),
];

/// `filters` of a rule or backendRef.
pub fn read(f: &mut Fields, owner: Owner) -> Box<[HttpFilter]> {
    let mut types: Vec<Arc<str>> = Vec::new();
    let filters = f.list("filters", |r, n| {
        let (of_filter, filter) = filter(r, n, owner)?;
        types.push(of_filter);
        Some(filter)
    });
    if filters.len() > MOST_FILTERS {
        f.error_at("filters", format!("has {} filters; give it at most {MOST_FILTERS}", filters.len()));
    }
    for (name, ..) in TYPES.iter().filter(|(.., several)| !several) {
        if types.iter().filter(|of| ***of == **name).count() > 1 {
            f.error_at("filters", format!("the filter {name} is there twice; leave one"));
        }
    }
    let has = |name: &str| types.iter().any(|of| **of == *name);
    if has("RequestRedirect") && has("URLRewrite") {
        f.error_at(
            "filters",
            "a request that RequestRedirect answers goes to no backend, so URLRewrite cannot be there; leave one",
        );
    }
    filters
}

fn filter(reader: &mut Reader, node: &Node, owner: Owner) -> Option<(Arc<str>, HttpFilter)> {
    let Owner { of, name: Name { namespace, .. }, auth } = owner;
    reader.fields(node, |f| {
        let name = f.required("type", read::name)?;
        let known = TYPES.iter().find(|(known, _, grpc, _)| **known == *name && (*grpc || of == RouteType::Http));
        let Some(&(name, field, ..)) = known else {
            let known: Vec<&str> =
                TYPES.iter().filter(|(_, _, grpc, _)| *grpc || of == RouteType::Http).map(|t| t.0).collect();
            f.error_at("type", format!("is \"{name}\"; use {}", known.join(", ")));
            return None;
        };
        for (_, other, ..) in TYPES.iter().filter(|(_, other, ..)| *other != field) {
            if f.has(other) {
                f.error_at(other, format!("does not go with type {name}; remove it, or change the type"));
            }
        }
        let ready = |filter: Filter| HttpFilter::Ready(filter);
        let filter = match name {
            "RequestHeaderModifier" => {
                f.required(field, |r, n| changes(r, n)).map(|c| ready(Filter::RequestHeaders(RequestHeaders(c))))
            }
            "ResponseHeaderModifier" => {
                f.required(field, |r, n| changes(r, n)).map(|c| ready(Filter::ResponseHeaders(ResponseHeaders(c))))
            }
            "RequestMirror" => f.required(field, |r, n| mirror(r, n, namespace)),
            "RequestRedirect" => f.required(field, redirect).map(|r| ready(Filter::Redirect(r))),
            "URLRewrite" => f.required(field, rewrite).map(|r| ready(Filter::Rewrite(r))),
            "CORS" => f.required(field, cors).map(|c| ready(Filter::Cors(c))),
            "ExternalAuth" => f.required(field, |r, n| external_auth(r, n, namespace, auth)),
            _ => f.required(field, extension),
        };
        Some((name.into(), filter?))
    })
}

fn extension(reader: &mut Reader, node: &Node) -> Option<HttpFilter> {
    reader.fields(node, |f| {
        let group = f.required("group", read::text);
        let kind = f.required("kind", read::name);
        let name = f.required("name", read::name);
        Some(HttpFilter::Unknown(format!("{}/{} {}", group?, kind?, name?).into()))
    })
}

fn changes(reader: &mut Reader, node: &Node) -> Option<Changes> {
    reader.fields(node, |f| {
        let set = f.list("set", header);
        let add = f.list("add", header);
        let remove = f.list("remove", header_name);
        for (key, names) in [
            ("set", set.iter().map(|(name, _)| name).collect::<Vec<_>>()),
            ("add", add.iter().map(|(name, _)| name).collect()),
            ("remove", remove.iter().collect()),
        ] {
            if names.len() > MOST_CHANGES {
                f.error_at(key, format!("has {} headers; give it at most {MOST_CHANGES}", names.len()));
            }
            for (i, name) in names.iter().enumerate() {
                if names[..i].contains(name) {
                    f.warn_at(key, format!("{name} is there twice, and only the first counts; remove the others"));
                }
            }
        }
        match Changes::new(set.into_vec(), add.into_vec(), remove.into_vec()) {
            Ok(changes) => Some(changes),
            Err(why) => {
                f.reader().refuse(&why.to_string());
                None
            }
        }
    })
}

fn header(reader: &mut Reader, node: &Node) -> Option<(HeaderName, HeaderValue)> {
    reader.fields(node, |f| {
        let name = f.required("name", header_name);
        let value = f.required("value", |r, n| {
            let text = read::name(r, n)?;
            let value = HeaderValue::from_str(&text).ok().filter(|_| text.len() <= 4096);
            if value.is_none() {
                r.error(
                    n.at,
                    "is no value of a header; use at most 4,096 characters, without line ends and control characters",
                );
            }
            value
        });
        Some((name?, value?))
    })
}

fn mirror(reader: &mut Reader, node: &Node, namespace: &Arc<str>) -> Option<HttpFilter> {
    reader.fields(node, |f| {
        let backend = f.required("backendRef", |r, n| object_ref(r, n, namespace));
        let percent =
            f.optional("percent", |r, n| read::number(r, n, 0, 100)).map(|of| Share { of: of as u32, out_of: 100 });
        let fraction = f.optional("fraction", fraction);
        if percent.is_some() && fraction.is_some() {
            f.error_at("fraction", "says the same as percent; leave one");
        }
        Some(HttpFilter::Mirror {
            backend: backend?,
            share: percent.or(fraction).unwrap_or(Share { of: 1, out_of: 1 }),
        })
    })
}

fn fraction(reader: &mut Reader, node: &Node) -> Option<Share> {
    reader.fields(node, |f| {
        let most = i64::from(i32::MAX);
        let of = f.required("numerator", |r, n| read::number(r, n, 0, most));
        let out_of = f.optional("denominator", |r, n| read::number(r, n, 1, most)).unwrap_or(100);
        let of = of?;
        if of > out_of {
            f.error_at(
                "numerator",
                format!("is {of}, more than the denominator {out_of}; a share is at most the whole"),
            );
        }
        Some(Share { of: of as u32, out_of: out_of as u32 })
    })
}

/// A backendRef without a weight.
fn object_ref(reader: &mut Reader, node: &Node, namespace: &Arc<str>) -> Option<BackendRef> {
    reader.fields(node, |f| backend_ref(f, namespace))
}

fn redirect(reader: &mut Reader, node: &Node) -> Option<Redirect> {
    reader.fields(node, |f| {
        let scheme =
            f.optional("scheme", |r, n| read::one_of(r, n, &[("http", Scheme::Http), ("https", Scheme::Https)]));
        let host = f.optional("hostname", precise_hostname);
        let port = f.optional("port", read::port);
        let path = f.optional("path", path_change);
        let status = f.optional("statusCode", |r, n| {
            let code = read::number(r, n, 301, 308)?;
            if !matches!(code, 301 | 302 | 303 | 307 | 308) {
                r.error(n.at, format!("is {code}; use 301, 302, 303, 307 or 308"));
            }
            StatusCode::from_u16(code as u16).ok()
        });
        Some(Redirect { scheme, host, port, path, status: status.unwrap_or(StatusCode::FOUND) })
    })
}

fn rewrite(reader: &mut Reader, node: &Node) -> Option<Rewrite> {
    reader.fields(node, |f| {
        let host = f.optional("hostname", precise_hostname).and_then(|host| HeaderValue::from_str(&host).ok());
        let path = f.optional("path", path_change);
        Some(Rewrite { host, path })
    })
}

/// Without a wildcard.
pub fn precise_hostname(reader: &mut Reader, node: &Node) -> Option<Arc<str>> {
    match hostname(reader, node)? {
        HostName::Exact(name) => Some(name),
        HostName::Wildcard(_) | HostName::Any => {
            reader.error(node.at, "has a wildcard, which cannot stand here; write the whole name");
            None
        }
    }
}

fn path_change(reader: &mut Reader, node: &Node) -> Option<PathChange> {
    reader.fields(node, |f| {
        let words = [("ReplaceFullPath", true), ("ReplacePrefixMatch", false)];
        let full = f.required("type", |r, n| read::one_of(r, n, &words))?;
        let (field, other) = match full {
            true => ("replaceFullPath", "replacePrefixMatch"),
            false => ("replacePrefixMatch", "replaceFullPath"),
        };
        if f.has(other) {
            f.error_at(other, "does not go with the type; remove it, or change the type");
        }
        let text = f.required(field, |r, n| {
            let text = read::text(r, n)?;
            if text.len() > 1024 {
                r.error(n.at, "is too long; a path has at most 1,024 characters here");
            } else if !(text.starts_with('/') || text.is_empty()) || !is_path_text(&text) {
                r.refuse(&format!("\"{text}\" is no path; begin it with a slash, and escape what no path has with % and two hexadecimal digits"));
            }
            Some(text)
        })?;
        Some(match full {
            // A request has a path.
            true if text.is_empty() => PathChange::Full("/".into()),
            true => PathChange::Full(text),
            false => PathChange::Prefix(text.trim_end_matches('/').into()),
        })
    })
}

fn cors(reader: &mut Reader, node: &Node) -> Option<Cors> {
    reader.fields(node, |f| {
        let origins = f.list("allowOrigins", origin);
        if origins.len() > 1 && origins.contains(&Origins::Any) {
            f.error_at("allowOrigins", "has * beside others, which it holds already; leave * alone, or the others");
        }
        let credentials = f.optional("allowCredentials", read::boolean).unwrap_or(false);
        let methods = listed(f, "allowMethods", matches::method);
        let headers = listed(f, "allowHeaders", header_name);
        let exposed = listed(f, "exposeHeaders", header_name);
        let max_age = f.optional("maxAge", |r, n| read::number(r, n, 1, i64::from(i32::MAX))).unwrap_or(5);
        Some(Cors {
            origins: origins.into_vec(),
            credentials,
            methods,
            headers,
            exposed,
            max_age: Duration::from_secs(max_age as u64),
        })
    })
}

/// A list, or `*` alone.
fn listed<T>(f: &mut Fields, key: &'static str, mut read: impl FnMut(&mut Reader, &Node) -> Option<T>) -> Listed<T> {
    let entries = f.list(key, |r, n| match read::string(r, n)? {
        "*" => Some(None),
        _ => read(r, n).map(Some),
    });
    let count = entries.len();
    let these: Vec<T> = entries.into_iter().flatten().collect();
    if these.len() == count {
        return Listed::These(these);
    }
    if count > 1 {
        f.error_at(key, "has * beside others, which it holds already; leave * alone, or the others");
    }
    Listed::Any
}

fn origin(reader: &mut Reader, node: &Node) -> Option<Origins> {
    let text = read::name(reader, node)?;
    let origin = Origins::new(&text).filter(|_| is_origin(&text));
    if origin.is_none() {
        let message = format!(
            "\"{text}\" is no origin; write it as https://www.example.com or https://*.example.com, with the port if it is not the usual one"
        );
        reader.error(node.at, message);
    }
    origin
}

/// The pattern of the CRD.
fn is_origin(text: &str) -> bool {
    let Some((_, authority)) = text.split_once("://") else { return text == "*" };
    let (host, port) = match authority.split_once(':') {
        Some((host, port)) => (host, Some(port)),
        None => (authority, None),
    };
    let is_label = |label: &str| !label.is_empty() && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
    let is_port = |port: &str| (1..=5).contains(&port.len()) && port.bytes().all(|b| b.is_ascii_digit());
    (host == "*" || host.strip_prefix("*.").unwrap_or(host).split('.').all(is_label)) && port.is_none_or(is_port)
}

fn external_auth(reader: &mut Reader, node: &Node, namespace: &Arc<str>, auth: Auth) -> Option<HttpFilter> {
    reader.fields(node, |f| {
        let http = f.required("protocol", |r, n| read::one_of(r, n, &[("HTTP", true), ("GRPC", false)]))?;
        let backend = f.required("backendRef", |r, n| object_ref(r, n, namespace));
        let (field, other) = if http { ("http", "grpc") } else { ("grpc", "http") };
        if f.has(other) {
            f.error_at(other, "does not go with the protocol; remove it, or change the protocol");
        }
        let protocol = f.required(field, |r, n| {
            r.fields(n, |f| {
                let request_headers = f.list("allowedHeaders", header_name).into_vec();
                if !http {
                    return Some(AuthProtocol::Grpc { request_headers });
                }
                let path = f.optional("path", auth_path).unwrap_or_default();
                let response_headers = f.list("allowedResponseHeaders", header_name).into_vec();
                Some(AuthProtocol::Http { path, request_headers, response_headers })
            })
        });
        let body =
            f.within("forwardBody", |f| f.optional("maxSize", |r, n| read::number(r, n, 0, i64::from(u16::MAX))));
        Some(HttpFilter::ExternalAuth {
            backend: backend?,
            protocol: protocol?,
            body: body.unwrap_or(0) as usize,
            timeout: auth.timeout,
            fails_open: auth.fails_open,
        })
    })
}

/// In front of the path of a request, which begins with a slash: without one at its end.
fn auth_path(reader: &mut Reader, node: &Node) -> Option<Arc<str>> {
    let text = read::text(reader, node)?;
    if text.len() > 1024 || !is_path_text(&text) {
        reader.error(node.at, format!("\"{text}\" is no path; use at most 1,024 characters of those that paths have"));
        return None;
    }
    let path = text.trim_end_matches('/');
    Some(if path.is_empty() || path.starts_with('/') { path.into() } else { format!("/{path}").into() })
}
