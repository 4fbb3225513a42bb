//! The rules of a host name, by path.

use std::sync::Arc;

use http::request::Parts;

use super::{Found, Rank};
use crate::ir::Shards;
use crate::ir::http::{GrpcMethodMatch, Match, PathMatch, Route, RouteKind, Rule, Text};
use crate::proxy::http::matches::prefixes;

#[derive(Clone, Debug, Default)]
pub struct Host {
    exact: Shards<Bucket>,
    /// Without the slash at the end.
    prefix: Shards<Bucket>,
    /// That are in neither: regular expressions, gRPC methods of any service.
    others: Option<Bucket>,
}

/// Sorted by rank.
type Bucket = Arc<Vec<Entry>>;

#[derive(Clone, Debug)]
struct Entry {
    /// Also says which rule and match of the route it is.
    rank: Rank,
    route: Arc<Route>,
    /// Of an HTTPRoute, and of nothing but the path: who found it by that need not look at the match, which is elsewhere in memory.
    is_plain: bool,
    /// Bytes of the path that it takes as a prefix.
    matched_prefix: u32,
}

/// Where a match is kept.
enum Place {
    Exact(Box<str>),
    Prefix(Box<str>),
    Others,
}

impl Host {
    /// With the matches of a route more.
    pub fn add(host: Option<Arc<Host>>, route: &Arc<Route>) -> Option<Arc<Host>> {
        let mut host = host.unwrap_or_default();
        let into = Arc::make_mut(&mut host);
        for (rule, matches) in route.rules.iter().map(|rule| &rule.matches).enumerate() {
            for (nth, one) in matches.iter().enumerate() {
                let entry = Entry::new(route, rule, nth);
                into.change(place(one), |bucket| {
                    // Most have one, and a vector would make room for four.
                    if bucket.is_empty() {
                        bucket.reserve_exact(1);
                    }
                    let at = bucket.partition_point(|other| other.rank < entry.rank);
                    bucket.insert(at, entry);
                });
            }
        }
        Some(host)
    }

    /// Without those of a route; `None`: without any.
    pub fn remove(host: Option<Arc<Host>>, route: &Arc<Route>) -> Option<Arc<Host>> {
        let mut host = host?;
        let from = Arc::make_mut(&mut host);
        for one in route.rules.iter().flat_map(|rule| &*rule.matches) {
            from.change(place(one), |bucket| bucket.retain(|entry| !Arc::ptr_eq(&entry.route, route)));
        }
        (!from.exact.is_empty() || !from.prefix.is_empty() || from.others.is_some()).then_some(host)
    }

    fn change(&mut self, place: Place, change: impl FnOnce(&mut Vec<Entry>)) {
        let keyed = match place {
            Place::Exact(path) => (&mut self.exact, path),
            Place::Prefix(path) => (&mut self.prefix, path),
            Place::Others => return self.others = changed(self.others.take(), change),
        };
        keyed.0.change(&keyed.1, |bucket| changed(bucket, change));
    }

    pub fn find(&self, path: &str, request: &Parts) -> Option<Found<'_>> {
        let beside = |bucket: &'_ Bucket| -> Option<usize> {
            bucket.iter().position(|entry| {
                entry.is_plain
                    || match &entry.one().path {
                        // `/service` is no call, and not all that begins like one is.
                        PathMatch::Grpc(_) => entry.one().holds(path, request),
                        _ => entry.one().holds_beside_path(request),
                    }
            })
        };
        let exact = self.exact.get(path).into_iter();
        let keyed = |bucket| Some((bucket, beside(bucket)?));
        let others = || {
            let others = self.others.as_ref()?;
            Some((others, others.iter().position(|entry| entry.one().holds(path, request))?))
        };
        let prefix = prefixes(path).filter_map(|prefix| self.prefix.get(prefix)).filter_map(keyed);
        let mut all = exact.filter_map(keyed).chain(others()).chain(prefix);
        let (bucket, at) = all.next()?;
        let mut best = &bucket[at];
        // Of gRPC, the buckets are in no order; of HTTP, the first that has one has the best.
        if !best.is_plain && best.route.name.kind == RouteKind::Grpc {
            best = all
                .map(|(bucket, at)| &bucket[at])
                .fold(best, |best, other| if other.rank < best.rank { other } else { best });
        }
        Some(best.found())
    }
}

impl Entry {
    fn new(route: &Arc<Route>, rule: usize, nth: usize) -> Entry {
        let Match { path, method, headers, query } = &route.rules[rule].matches[nth];
        Entry {
            rank: Rank::of(route, rule, nth),
            route: Arc::clone(route),
            is_plain: route.name.kind == RouteKind::Http && method.is_none() && headers.is_empty() && query.is_empty(),
            matched_prefix: if let PathMatch::Prefix(prefix) = path { prefix.len() as u32 } else { 0 },
        }
    }

    fn one(&self) -> &Match {
        &self.rule().matches[usize::from(self.rank.nth)]
    }

    fn rule(&self) -> &Rule {
        &self.route.rules[usize::from(self.rank.rule)]
    }

    fn found(&self) -> Found<'_> {
        Found { route: &self.route, rule: self.rule(), matched_prefix: self.matched_prefix as usize }
    }
}

/// `None`: nothing is left.
fn changed(bucket: Option<Bucket>, change: impl FnOnce(&mut Vec<Entry>)) -> Option<Bucket> {
    let mut bucket = bucket.unwrap_or_default();
    change(Arc::make_mut(&mut bucket));
    Some(bucket).filter(|bucket| !bucket.is_empty())
}

fn place(one: &Match) -> Place {
    match &one.path {
        PathMatch::Exact(path) => Place::Exact((&**path).into()),
        PathMatch::Prefix(prefix) => Place::Prefix((&**prefix).into()),
        PathMatch::Grpc(GrpcMethodMatch { service: Some(Text::Exact(service)), method }) => match method {
            Some(Text::Exact(method)) => Place::Exact(format!("/{service}/{method}").into()),
            None => Place::Prefix(format!("/{service}").into()),
            Some(Text::Regex(_)) => Place::Others,
        },
        PathMatch::Grpc(_) | PathMatch::Regex(_) => Place::Others,
    }
}
