//! Which of several matches a request goes by: a sort order, computed once.

use std::cmp::Reverse;

use crate::ir::http::{Created, Match, PathMatch, Route, RouteName, Text};

/// The first by it is taken (HTTPRoute, "matches"; GRPCRoute, "matches"). An HTTPRoute and a GRPCRoute are never compared.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Rank {
    path: PathRank,
    method: Reverse<bool>,
    headers: Reverse<usize>,
    query: Reverse<usize>,
    created: Created,
    route: RouteName,
    rule: usize,
    /// In the rule.
    nth: usize,
}

/// Characters, the most first. Where regular expressions come is left to implementations: between the others.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum PathRank {
    Exact,
    Regex(Reverse<usize>),
    Prefix(Reverse<usize>),
    Grpc { service: Reverse<usize>, method: Reverse<usize> },
}

impl Rank {
    pub fn of(route: &Route, rule: usize, nth: usize) -> Rank {
        let Match { path, method, headers, query } = &route.rules[rule].matches[nth];
        let characters = |text: &Option<Text>| Reverse(text.as_ref().map_or(0, |text| text.as_str().chars().count()));
        Rank {
            path: match path {
                PathMatch::Exact(_) => PathRank::Exact,
                PathMatch::Regex(pattern) => PathRank::Regex(Reverse(pattern.source().chars().count())),
                PathMatch::Prefix(prefix) => PathRank::Prefix(Reverse(prefix.chars().count())),
                PathMatch::Grpc(call) => {
                    PathRank::Grpc { service: characters(&call.service), method: characters(&call.method) }
                }
            },
            method: Reverse(method.is_some()),
            headers: Reverse(headers.len()),
            query: Reverse(query.len()),
            created: route.created,
            route: route.name.clone(),
            rule,
            nth,
        }
    }
}
