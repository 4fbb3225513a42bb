//! A query parameter matches as the URL standard reads it: the first of its name counts.
//!
//! The data: a byte that says how many bytes the name has, the name as manifests write it, and the query.

use gateway_agent::proxy::http::matches::{Match, PathMatch, QueryMatch, Text};
use http::Request;

pub fn holds(data: &[u8]) {
    let Some((length, rest)) = data.split_first() else { return };
    let Some((name, query)) = rest.split_at_checked(usize::from(*length)) else { return };
    let (Ok(name), Ok(query)) = (std::str::from_utf8(name), std::str::from_utf8(query)) else { return };
    let Ok(request) = Request::get(format!("/?{query}")).body(()) else { return };
    let (request, ()) = request.into_parts();
    let query = request.uri.query().unwrap_or_default();
    let theirs = form_urlencoded::parse(query.as_bytes()).find(|(other, _)| other == name);
    // Ours are bytes: what is no text in theirs has become something else there.
    let is_text = !form_urlencoded::parse(query.as_bytes()).any(|(name, value)| (name + value).contains('\u{fffd}'));
    if name.is_empty() || !is_text {
        return;
    }
    let matches = |value: &str| {
        let wanted = QueryMatch { name: name.into(), value: Text::Exact(value.into()) };
        let any = Match::path(PathMatch::Prefix("".into()));
        Match { query: vec![wanted], ..any }.holds_beside_path(&request)
    };
    match theirs {
        Some((_, value)) => {
            assert!(matches(&value), "{name} is {value:?} in {query}");
            assert!(!matches(&format!("{value}x")), "{name} is {value:?} in {query}");
        }
        None => assert!(!matches(""), "no {name} in {query}"),
    }
}
