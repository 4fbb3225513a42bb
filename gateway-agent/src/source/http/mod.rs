//! The rules of HTTPRoutes and GRPCRoutes. What the API server would refuse is an error here too; what it lets through and Sluice
//! cannot do (an expression that is too large) is for the status of the route.

mod filters;
mod matches;

use std::sync::Arc;
use std::time::Duration;

use http::StatusCode;

pub use filters::precise_hostname;

use super::annotations::Auth;
use super::read::{self, Fields, Reader};
use super::route::{MOST_BACKENDS, backend_ref};
use super::yaml::Node;
use crate::index::{HttpBackendRef, HttpFilter, HttpRule, Name, RouteType, Rules};
use crate::ir::http::{Filter, Match, PathMatch, Persistence, Retry, Timeouts};
use crate::proxy::http::filters::rewrite::PathChange;
use crate::proxy::http::session::{Lifetime, Place};

/// The limits of the CRDs.
const MOST_RULES: usize = 16;
const MOST_MATCHES: usize = 64;
const MOST_MATCHES_IN_ALL: usize = 128;
/// Between attempts, where the route does not say (the API leaves it to implementations, as the number of attempts).
const BACKOFF: Duration = Duration::from_millis(25);

/// Whose rules they are.
#[derive(Clone, Copy)]
pub struct Owner<'a> {
    pub of: RouteType,
    pub name: &'a Name,
    pub auth: Auth,
}

/// `spec.rules`.
pub fn rules(f: &mut Fields, owner: Owner) -> Option<Rules> {
    let mut number = 0;
    let mut read_rule = |r: &mut Reader, n: &Node| {
        number += 1;
        rule(r, n, owner, number - 1)
    };
    let mut given = false;
    let rules = f.optional("rules", |r, n| {
        given = true;
        read::items(r, n, &mut read_rule)
    });
    let rules = match rules {
        None if given => return f.reader().take_refusals().map(Rules::Refused),
        // The default of the CRD.
        None if owner.of == RouteType::Http => [everything()].into(),
        None => Box::default(),
        Some(rules) => rules,
    };
    if rules.len() > MOST_RULES {
        f.error_at("rules", format!("has {} rules; give it at most {MOST_RULES}", rules.len()));
    }
    let matches: usize = rules.iter().map(|rule| rule.matches.len()).sum();
    if matches > MOST_MATCHES_IN_ALL {
        f.error_at("rules", format!("has {matches} matches in all; give it at most {MOST_MATCHES_IN_ALL}"));
    }
    for (i, rule) in rules.iter().enumerate() {
        if rules[..i].iter().any(|other| other.name == rule.name) {
            f.error_at("rules", format!("two rules are named {}; give each its own name", rule.name));
        }
    }
    Some(f.reader().take_refusals().map_or(Rules::Http(rules), Rules::Refused))
}

fn everything() -> HttpRule {
    HttpRule {
        name: "0".into(),
        matches: [Match::path(PathMatch::Prefix("".into()))].into(),
        filters: Box::default(),
        backends: Box::default(),
        timeouts: Timeouts::default(),
        retry: None,
        persistence: None,
    }
}

fn rule(reader: &mut Reader, node: &Node, owner: Owner, number: usize) -> Option<HttpRule> {
    reader.fields(node, |f| {
        let name = f.optional("name", read::name).unwrap_or_else(|| f.intern(&number.to_string()));
        let matches = f.list("matches", |r, n| matches::read(r, n, owner.of));
        if matches.len() > MOST_MATCHES {
            f.error_at("matches", format!("has {} matches; give it at most {MOST_MATCHES}", matches.len()));
        }
        let matches = if matches.is_empty() { [matches::any(owner.of)].into() } else { matches };
        let filters = filters::read(f, owner);
        let backends = f.list("backendRefs", |r, n| http_backend_ref(r, n, owner));
        if backends.len() > MOST_BACKENDS {
            f.error_at("backendRefs", format!("has {} backends; give it at most {MOST_BACKENDS}", backends.len()));
        }
        let (timeouts, retry) = match owner.of {
            RouteType::Http => (f.optional("timeouts", timeouts).unwrap_or_default(), f.optional("retry", retry)),
            _ => (Timeouts::default(), None),
        };
        let persistence = f.optional("sessionPersistence", |r, n| persistence(r, n, owner, &name)).map(Arc::new);
        let is_redirect = |filter: &HttpFilter| matches!(filter, HttpFilter::Ready(Filter::Redirect(_)));
        if filters.iter().any(is_redirect) && !backends.is_empty() {
            f.error_at(
                "backendRefs",
                "the filter RequestRedirect answers every request, so no backend gets any; remove one",
            );
        }
        let all = filters.iter().chain(backends.iter().flat_map(|backend| &backend.filters));
        let one_prefix = matches!(&*matches, [Match { path: PathMatch::Prefix(_), .. }]);
        if !one_prefix && all.into_iter().any(replaces_prefix) {
            f.error_at(
                "filters",
                "ReplacePrefixMatch needs exactly one match, by PathPrefix, so that there is one prefix to replace",
            );
        }
        Some(HttpRule { name, matches, filters, backends, timeouts, retry, persistence })
    })
}

fn replaces_prefix(filter: &HttpFilter) -> bool {
    let path = match filter {
        HttpFilter::Ready(Filter::Redirect(redirect)) => &redirect.path,
        HttpFilter::Ready(Filter::Rewrite(rewrite)) => &rewrite.path,
        _ => return false,
    };
    matches!(path, Some(PathChange::Prefix(_)))
}

fn http_backend_ref(reader: &mut Reader, node: &Node, owner: Owner) -> Option<HttpBackendRef> {
    reader.fields(node, |f| {
        let filters = filters::read(f, owner);
        let reference = backend_ref(f, &owner.name.namespace)?;
        Some(HttpBackendRef { reference, filters })
    })
}

fn timeouts(reader: &mut Reader, node: &Node) -> Option<Timeouts> {
    reader.fields(node, |f| {
        // 0s is none.
        let request = f.optional("request", read::duration).filter(|time| !time.is_zero());
        let backend_request = f.optional("backendRequest", read::duration).filter(|time| !time.is_zero());
        if let (Some(whole), Some(attempt)) = (request, backend_request)
            && attempt > whole
        {
            f.error_at("backendRequest", "is longer than timeouts.request, of which it is a part; make it shorter");
        }
        Some(Timeouts { request, backend_request })
    })
}

fn retry(reader: &mut Reader, node: &Node) -> Option<Retry> {
    reader.fields(node, |f| {
        let codes = f.list("codes", |r, n| {
            let code = read::number(r, n, 400, 599)?;
            StatusCode::from_u16(code as u16).ok()
        });
        let attempts = f.optional("attempts", |r, n| read::number(r, n, 0, 100)).unwrap_or(1);
        let backoff = f.optional("backoff", read::duration).unwrap_or(BACKOFF);
        let mut codes = codes.into_vec();
        codes.sort_unstable();
        codes.dedup();
        Some(Retry { codes, attempts: attempts as u32, backoff })
    })
}

fn persistence(reader: &mut Reader, node: &Node, owner: Owner, rule: &str) -> Option<Persistence> {
    reader.fields(node, |f| {
        let name = f.optional("sessionName", read::name).unwrap_or_else(|| session_name(owner, rule));
        let absolute = f.optional("absoluteTimeout", read::duration).filter(|time| !time.is_zero());
        let idle = f.optional("idleTimeout", read::duration).filter(|time| !time.is_zero());
        let cookie =
            f.optional("type", |r, n| read::one_of(r, n, &[("Cookie", true), ("Header", false)])).unwrap_or(true);
        let lifetime = f.within("cookieConfig", |f| {
            let words = [("Session", Lifetime::Session), ("Permanent", Lifetime::Permanent)];
            Some(f.optional("lifetimeType", |r, n| read::one_of(r, n, &words)).unwrap_or(Lifetime::Session))
        });
        if !cookie && lifetime.is_some() {
            f.error_at("cookieConfig", "means nothing to type Header; remove it");
        }
        if lifetime == Some(Lifetime::Permanent) && absolute.is_none() {
            f.error_at("absoluteTimeout", "is missing, and a cookie of lifetimeType Permanent needs it");
        }
        // RFC 6265 and RFC 9110 have the same characters for both.
        if name.len() > 128 || http::HeaderName::from_bytes(name.as_bytes()).is_err() {
            f.error_at(
                "sessionName",
                format!("\"{name}\" is no name for a cookie or header; use at most 128 of a-z, A-Z, 0-9, - and _"),
            );
        }
        let place = if cookie { Place::Cookie(lifetime.unwrap_or(Lifetime::Session)) } else { Place::Header };
        Some(Persistence { name, place, absolute, idle })
    })
}

/// The same for a rule on every node and at every start, and another for each rule: rules of one host must not take each other's.
fn session_name(owner: Owner, rule: &str) -> Arc<str> {
    let text = format!("{} {} {rule}", owner.of, owner.name);
    // FNV-1a: the standard library's hashes may differ from one version to the next, and sessions would be lost by that.
    let hash = text
        .bytes()
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3));
    format!("sluice-session-{hash:016x}").into()
}
