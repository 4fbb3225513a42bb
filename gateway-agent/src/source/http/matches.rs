//! What requests a rule is for.

use http::{HeaderName, Method};

use crate::index::RouteType;
use crate::ir::http::{GrpcMethodMatch, HeaderMatch, Match, PathMatch, QueryMatch, Text};
use crate::proxy::http::matches::Pattern;
use crate::proxy::http::path::normalize;
use crate::source::read::{self, Fields, Reader};
use crate::source::yaml::Node;

const METHODS: [(&str, Method); 9] = [
    ("GET", Method::GET),
    ("HEAD", Method::HEAD),
    ("POST", Method::POST),
    ("PUT", Method::PUT),
    ("DELETE", Method::DELETE),
    ("CONNECT", Method::CONNECT),
    ("OPTIONS", Method::OPTIONS),
    ("TRACE", Method::TRACE),
    ("PATCH", Method::PATCH),
];

/// A rule without matches.
pub fn any(of: RouteType) -> Match {
    Match::path(match of {
        RouteType::Grpc => PathMatch::Grpc(GrpcMethodMatch { service: None, method: None }),
        _ => PathMatch::Prefix("".into()),
    })
}

pub fn read(reader: &mut Reader, node: &Node, of: RouteType) -> Option<Match> {
    reader.fields(node, |f| {
        let any = any(of);
        let headers = f.list("headers", |r, n| named(r, n, HEADER_VALUE, header_name));
        let headers = first_of_each(f, "headers", headers);
        let headers = headers.into_iter().map(|(name, value)| HeaderMatch { name, value }).collect();
        if of == RouteType::Grpc {
            let path = f.optional("method", grpc_method).unwrap_or(any.path);
            return Some(Match { path, headers, ..any });
        }
        let path = f.optional("path", path).unwrap_or(any.path);
        let query = f.list("queryParams", |r, n| named(r, n, QUERY_VALUE, read::name));
        let query = first_of_each(f, "queryParams", query);
        let query = query.into_iter().map(|(name, value)| QueryMatch { name, value }).collect();
        let method = f.optional("method", method);
        Some(Match { path, method, headers, query })
    })
}

pub fn method(reader: &mut Reader, node: &Node) -> Option<Method> {
    let words: Vec<(&str, usize)> = METHODS.iter().enumerate().map(|(i, (word, _))| (*word, i)).collect();
    read::one_of(reader, node, &words).map(|i| METHODS[i].1.clone())
}

#[derive(Clone, Copy, PartialEq)]
enum PathType {
    Exact,
    Prefix,
    Regex,
}

fn path(reader: &mut Reader, node: &Node) -> Option<PathMatch> {
    reader.fields(node, |f| {
        let words =
            [("Exact", PathType::Exact), ("PathPrefix", PathType::Prefix), ("RegularExpression", PathType::Regex)];
        let mut wrong = false;
        let of = f.optional("type", |r, n| {
            let of = read::one_of(r, n, &words);
            wrong = of.is_none();
            of
        });
        let of = if wrong { None } else { Some(of.unwrap_or(PathType::Prefix)) };
        let mut given = false;
        let value = f.optional("value", |r, n| {
            given = true;
            path_value(r, n, of?)
        });
        // The default of the CRD.
        if given { value } else { path_match(f.reader(), "/", of?) }
    })
}

fn path_match(reader: &mut Reader, text: &str, of: PathType) -> Option<PathMatch> {
    match of {
        PathType::Exact => Some(PathMatch::Exact(text.into())),
        PathType::Prefix => Some(PathMatch::Prefix(text.trim_end_matches('/').into())),
        PathType::Regex => regex(reader, text).map(PathMatch::Regex),
    }
}

fn path_value(reader: &mut Reader, node: &Node, of: PathType) -> Option<PathMatch> {
    let text = read::string(reader, node)?;
    if text.len() > 1024 {
        reader.error(node.at, "is too long; a path has at most 1,024 characters here");
        return None;
    }
    if of == PathType::Regex {
        return path_match(reader, text, of);
    }
    if let Some(why) = why_no_path(text) {
        reader.error(node.at, format!("\"{text}\" {why}"));
        return None;
    }
    let Some(normal) = normalize(text) else {
        let why = "is a path that no request can have: NUL and backslashes are refused; use another";
        reader.error(node.at, format!("\"{text}\" {why}"));
        return None;
    };
    path_match(reader, &normal, of)
}

/// The rules of the CRD.
fn why_no_path(text: &str) -> Option<&'static str> {
    if !text.starts_with('/') {
        Some("does not begin with a slash; add it")
    } else if text.contains("//") {
        Some("has two slashes in a row, which requests never have here; leave one")
    } else if text.contains("/./") || text.contains("/../") || text.ends_with("/.") || text.ends_with("/..") {
        Some("has . or .. as an element, which requests never have here; write the path they lead to")
    } else if text.contains("%2f") || text.contains("%2F") {
        Some("has an escaped slash, which the API does not allow; use a RegularExpression")
    } else if text.contains('#') {
        Some("has a fragment, which no request has; remove it")
    } else if !is_path_text(text) {
        Some("has characters that no path has; escape them with % and two hexadecimal digits")
    } else {
        None
    }
}

/// Characters of a path (RFC 3986 section 3.3), and whole escapes.
pub fn is_path_text(text: &str) -> bool {
    let mut rest = text.as_bytes();
    while let [byte, after @ ..] = rest {
        rest = match (byte, after) {
            (b'%', [high, low, after @ ..]) if high.is_ascii_hexdigit() && low.is_ascii_hexdigit() => after,
            (b'%', _) => return false,
            (byte, after) if byte.is_ascii_alphanumeric() || b"-/._~!$&'()*+,;=:@".contains(byte) => after,
            _ => return false,
        };
    }
    true
}

/// Compiled; one that is none, or too large, is for the status.
fn regex(reader: &mut Reader, source: &str) -> Option<Pattern> {
    match Pattern::new(source) {
        Ok(pattern) => Some(pattern),
        Err(why) => {
            // Of several lines, the first is a title, the last says it, and those between draw the place.
            let why = why.to_string();
            let (title, last) = (why.lines().next().unwrap_or_default(), why.lines().last().unwrap_or_default());
            let why = match last.strip_prefix("error: ") {
                Some(last) => title.replace("regex parse error:", last),
                None => title.to_owned(),
            };
            reader.refuse(&format!("\"{}\" {why}", source.chars().take(80).collect::<String>()));
            None
        }
    }
}

fn grpc_method(reader: &mut Reader, node: &Node) -> Option<PathMatch> {
    reader.fields(node, |f| {
        let regular = f
            .optional("type", |r, n| read::one_of(r, n, &[("Exact", false), ("RegularExpression", true)]))
            .unwrap_or(false);
        let part = |r: &mut Reader, n: &Node, separator: bool| {
            let text = read::text(r, n).filter(|text| !text.is_empty())?;
            if regular {
                return regex(r, &text).map(Text::Regex);
            }
            let is_identifier = |name: &str| {
                let mut characters = name.chars();
                characters.next().is_some_and(|c| c.is_ascii_alphabetic() || c == '_')
                    && characters.all(|c| c.is_ascii_alphanumeric() || c == '_')
            };
            let fine = match separator {
                true => text.strip_prefix('.').unwrap_or(&text).split('.').all(is_identifier),
                false => is_identifier(&text),
            };
            if !fine {
                let what = if separator {
                    "service; write it with its package, as in shop.v1.Cart"
                } else {
                    "method; write its name alone, as in Add"
                };
                r.error(n.at, format!("\"{text}\" is no gRPC {what}"));
                return None;
            }
            Some(Text::Exact(text))
        };
        let given = f.has("service") || f.has("method");
        let service = f.optional("service", |r, n| part(r, n, true));
        let method = f.optional("method", |r, n| part(r, n, false));
        if !given {
            f.error_at("service", "is missing, as is method; give one of them, or leave the match of the method out");
        }
        Some(PathMatch::Grpc(GrpcMethodMatch { service, method }))
    })
}

const HEADER_VALUE: usize = 4096;
const QUERY_VALUE: usize = 1024;

/// `type`, `name` and `value` of a header or query parameter.
fn named<N>(
    reader: &mut Reader,
    node: &Node,
    longest: usize,
    name: impl FnOnce(&mut Reader, &Node) -> Option<N>,
) -> Option<(N, Text)> {
    reader.fields(node, |f| {
        let regular = f
            .optional("type", |r, n| read::one_of(r, n, &[("Exact", false), ("RegularExpression", true)]))
            .unwrap_or(false);
        let name = f.required("name", |r, n| name(r, n));
        let value = f.required("value", |r, n| {
            let text = read::name(r, n)?;
            if text.len() > longest {
                r.error(n.at, format!("is too long; give it at most {longest} characters"));
                return None;
            }
            if regular { regex(r, &text).map(Text::Regex) } else { Some(Text::Exact(text)) }
        });
        Some((name?, value?))
    })
}

pub fn header_name(reader: &mut Reader, node: &Node) -> Option<HeaderName> {
    let text = read::name(reader, node)?;
    let name = HeaderName::from_bytes(text.as_bytes()).ok();
    if name.is_none() {
        reader.error(node.at, format!("\"{text}\" is no name of a header; use letters, digits and -"));
    }
    name
}

/// Of several entries for a name the first counts (HTTPHeaderMatch, "name").
fn first_of_each<N: PartialEq + std::fmt::Display>(
    f: &mut Fields,
    key: &'static str,
    entries: Box<[(N, Text)]>,
) -> Vec<(N, Text)> {
    let mut first: Vec<(N, Text)> = Vec::with_capacity(entries.len());
    for (name, value) in entries {
        if first.iter().any(|(other, _)| *other == name) {
            f.warn_at(key, format!("{name} is there twice, and only the first counts; remove the others"));
        } else {
            first.push((name, value));
        }
    }
    first
}
