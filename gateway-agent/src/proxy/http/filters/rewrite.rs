//! `URLRewrite`, and the change of a path that a redirect has as well.

use std::sync::Arc;

use http::HeaderValue;
use http::uri::{InvalidUriParts, PathAndQuery, Uri};

use super::{Exchange, Filtering, Request, Step};
use crate::proxy::http::answer::Reason;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rewrite {
    /// For Host, or `:authority`.
    pub host: Option<HeaderValue>,
    pub path: Option<PathChange>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PathChange {
    Full(Arc<str>),
    /// In place of the prefix that the request was matched by; `compile` lets none through for other matches. Without the slash
    /// at its end.
    Prefix(Arc<str>),
}

impl PathChange {
    /// `replacePrefixMatch`: a slash at the end makes no difference.
    pub fn prefix(text: &str) -> PathChange {
        PathChange::Prefix(text.trim_end_matches('/').into())
    }

    /// The path and query after the change. `matched`: how many bytes of the path were matched as a prefix.
    pub fn apply(&self, uri: &Uri, matched: usize) -> String {
        let mut changed = match self {
            PathChange::Full(path) => path.to_string(),
            PathChange::Prefix(prefix) => {
                let rest = uri.path().get(matched..).unwrap_or_default();
                if prefix.is_empty() && rest.is_empty() { "/".to_owned() } else { format!("{prefix}{rest}") }
            }
        };
        if let Some(query) = uri.query() {
            changed.push('?');
            changed.push_str(query);
        }
        changed
    }
}

impl Filtering for Rewrite {
    async fn request(&self, exchange: &mut Exchange, request: &mut Request) -> Step {
        if let Some(host) = &self.host {
            exchange.host = Some(host.clone());
        }
        if let Some(change) = &self.path {
            let Ok(path) = PathAndQuery::try_from(change.apply(request.uri(), exchange.matched_prefix)) else {
                return Step::Refuse(Reason::BadRequest);
            };
            if set_path(request.uri_mut(), path).is_err() {
                return Step::Refuse(Reason::BadRequest);
            }
            // Another change of the prefix, by the filter of a backend, finds this one in its place.
            exchange.matched_prefix = match change {
                PathChange::Prefix(prefix) => prefix.len(),
                PathChange::Full(_) => 0,
            };
        }
        Step::Continue
    }
}

/// Scheme and authority, which HTTP/2 has there, stay.
fn set_path(uri: &mut Uri, path: PathAndQuery) -> Result<(), InvalidUriParts> {
    let mut parts = std::mem::take(uri).into_parts();
    parts.path_and_query = Some(path);
    *uri = Uri::from_parts(parts)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The table of HTTPPathModifier, "replacePrefixMatch", and what it leaves out.
    #[test]
    fn a_prefix_is_replaced_by_element_and_the_query_kept() {
        for (uri, matched, to, changed) in [
            ("/foo/bar", "/foo", "/xyz", "/xyz/bar"),
            ("/foo/bar", "/foo", "/xyz/", "/xyz/bar"),
            ("/foo/bar", "/foo/", "/xyz", "/xyz/bar"),
            ("/foo/bar", "/foo/", "/xyz/", "/xyz/bar"),
            ("/foo", "/foo", "/xyz", "/xyz"),
            ("/foo/", "/foo", "/xyz", "/xyz/"),
            ("/foo/bar", "/foo", "", "/bar"),
            ("/foo/", "/foo", "", "/"),
            ("/foo", "/foo", "", "/"),
            ("/foo/", "/foo", "/", "/"),
            ("/foo", "/foo", "/", "/"),
            ("/foo/bar?a=1&b=/foo", "/foo", "/xyz", "/xyz/bar?a=1&b=/foo"),
            ("/foo?a", "/foo", "", "/?a"),
            ("/bar", "/", "/xyz", "/xyz/bar"),
            ("/", "/", "/xyz", "/xyz/"),
        ] {
            let matched = matched.trim_end_matches('/').len();
            let got = PathChange::prefix(to).apply(&uri.parse().unwrap(), matched);
            assert_eq!(got, changed, "{uri}, {to}");
        }
        assert_eq!(PathChange::Full("/b".into()).apply(&"/a/c?q".parse().unwrap(), 2), "/b?q");
    }
}
