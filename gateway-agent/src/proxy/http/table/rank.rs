//! Which of several matches a request goes by: a sort order, computed once.

use std::cmp::Reverse;

use crate::ir::http::{Created, Match, PathMatch, Route, RouteName, Text};

/// The first by it is taken (HTTPRoute, "matches"; GRPCRoute, "matches"). An HTTPRoute and a GRPCRoute are never compared.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Rank {
    path: PathRank,
    method: Reverse<bool>,
    headers: Reverse<u16>,
    query: Reverse<u16>,
    created: Created,
    route: RouteName,
    pub rule: u16,
    /// In the rule.
    pub nth: u16,
}

/// Characters, the most first. Where regular expressions come is left to implementations: between the others.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum PathRank {
    Exact,
    Regex(Reverse<u32>),
    Prefix(Reverse<u32>),
    Grpc { service: Reverse<u32>, method: Reverse<u32> },
}

impl Rank {
    pub fn of(route: &Route, rule: usize, nth: usize) -> Rank {
        let Match { path, method, headers, query } = &route.rules[rule].matches[nth];
        let length = |text: &str| Reverse(u32::try_from(text.chars().count()).unwrap_or(u32::MAX));
        let characters = |text: &Option<Text>| text.as_ref().map_or(Reverse(0), |text| length(text.as_str()));
        Rank {
            path: match path {
                PathMatch::Exact(_) => PathRank::Exact,
                PathMatch::Regex(pattern) => PathRank::Regex(length(pattern.source())),
                PathMatch::Prefix(prefix) => PathRank::Prefix(length(prefix)),
                PathMatch::Grpc(call) => {
                    PathRank::Grpc { service: characters(&call.service), method: characters(&call.method) }
                }
            },
            method: Reverse(method.is_some()),
            headers: Reverse(small(headers.len())),
            query: Reverse(small(query.len())),
            created: route.created,
            route: route.name.clone(),
            rule: small(rule),
            nth: small(nth),
        }
    }
}

/// The API allows dozens of each; there is a rank for each match at each host, so that its size counts.
fn small(number: usize) -> u16 {
    u16::try_from(number).unwrap_or(u16::MAX)
}
