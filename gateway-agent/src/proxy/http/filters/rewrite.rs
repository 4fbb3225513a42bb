//! `URLRewrite`, and the change of a path that a redirect has as well.

use std::sync::Arc;

use http::HeaderValue;
use http::uri::{PathAndQuery, Uri};

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
            *request.uri_mut() = Uri::from(path);
        }
        Step::Continue
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_is_replaced_and_the_query_kept() {
        let changed =
            |to: &str, uri: &str, matched| PathChange::Prefix(to.into()).apply(&uri.parse().unwrap(), matched);
        assert_eq!(changed("/xyz", "/foo/bar?a=1", 4), "/xyz/bar?a=1");
        assert_eq!(changed("/xyz", "/foo", 4), "/xyz");
        assert_eq!(changed("/xyz", "/foo/", 4), "/xyz/");
        assert_eq!(changed("", "/foo", 4), "/");
        assert_eq!(changed("", "/foo/bar", 4), "/bar");
        assert_eq!(changed("/xyz", "/", 0), "/xyz/");
        assert_eq!(PathChange::Full("/b".into()).apply(&"/a?q".parse().unwrap(), 0), "/b?q");
    }
}
