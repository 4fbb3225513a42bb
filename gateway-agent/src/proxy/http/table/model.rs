//! The tables against a reading of the specification that knows no tables: every match of every route is held against a request, and
//! the winner found by comparing two at a time, in the words and order of HTTPRoute ("hostnames", "matches") and GRPCRoute ("matches").

use std::cell::RefCell;
use std::cmp::Ordering;
use std::collections::BTreeMap;

use http::{Method, Request};
use proptest::collection::{btree_set, vec};
use proptest::option;
use proptest::prelude::*;
use proptest::sample::{select, subsequence};

use super::tests::all;
use super::*;
use crate::ir::HostName;
use crate::ir::http::*;
use crate::proxy::http::matches::Pattern;

/// One way for a request to go.
#[derive(Clone, Copy)]
struct Candidate<'a> {
    route: &'a Route,
    rule: usize,
    nth: usize,
}

impl<'a> Candidate<'a> {
    fn one(&self) -> &'a Match {
        &self.route.rules[self.rule].matches[self.nth]
    }

    fn id(&self) -> String {
        format!("{} {}", self.route.name, self.rule)
    }
}

/// By the specification. Only routes of the most specific host take part: less specific ones are not asked for what these leave.
fn winner(attachments: &[Attachment], host: &str, path: &str, request: &Parts) -> Option<String> {
    let hostname = |attachment: &Attachment| {
        let matching = attachment.hosts.iter().filter(|hostname| covers(hostname, host));
        matching.map(characters_of_hostname).max()
    };
    let most = attachments.iter().filter_map(hostname).max()?;
    let mut winner: Option<Candidate> = None;
    for attachment in attachments.iter().filter(|attachment| hostname(attachment) == Some(most)) {
        let route = &*attachment.route;
        for (rule, matches) in route.rules.iter().map(|rule| &rule.matches).enumerate() {
            for (nth, one) in matches.iter().enumerate() {
                let candidate = Candidate { route, rule, nth };
                if holds(one, path, request) && winner.is_none_or(|winner| comes_before(candidate, winner)) {
                    winner = Some(candidate);
                }
            }
        }
    }
    winner.map(|winner| winner.id())
}

fn covers(hostname: &HostName, host: &str) -> bool {
    match hostname {
        HostName::Exact(name) => **name == *host,
        HostName::Wildcard(suffix) => host.ends_with(&format!(".{suffix}")),
        HostName::Any => true,
    }
}

/// Of a non-wildcard hostname, then of any.
fn characters_of_hostname(hostname: &HostName) -> (usize, usize) {
    match hostname {
        HostName::Exact(name) => (name.len(), name.len()),
        HostName::Wildcard(suffix) => (0, "*.".len() + suffix.len()),
        HostName::Any => (0, 0),
    }
}

fn holds(one: &Match, path: &str, request: &Parts) -> bool {
    let path_holds = match &one.path {
        PathMatch::Exact(exact) => path == &**exact,
        PathMatch::Prefix(prefix) => {
            let elements: Vec<&str> = path.split('/').collect();
            elements.starts_with(&prefix.split('/').collect::<Vec<_>>())
        }
        PathMatch::Regex(pattern) => pattern.holds(path.as_bytes()),
        PathMatch::Grpc(call) => {
            let mut parts: Vec<&str> = path[1..].split('/').collect();
            let method = parts.pop().unwrap_or_default();
            let service = parts.join("/");
            !service.is_empty()
                && !method.is_empty()
                && call.service.as_ref().is_none_or(|wanted| text_holds(wanted, &service))
                && call.method.as_ref().is_none_or(|wanted| text_holds(wanted, method))
        }
    };
    let query: BTreeMap<&str, &str> =
        request.uri.query().unwrap_or_default().split('&').filter_map(|pair| pair.split_once('=')).collect();
    path_holds
        && one.method.as_ref().is_none_or(|method| *method == request.method)
        && one.headers.iter().all(|header| {
            request.headers.get(&header.name).is_some_and(|value| text_holds(&header.value, value.to_str().unwrap()))
        })
        && one.query.iter().all(|wanted| query.get(&*wanted.name).is_some_and(|value| text_holds(&wanted.value, value)))
}

fn text_holds(wanted: &Text, value: &str) -> bool {
    match wanted {
        Text::Exact(text) => **text == *value,
        Text::Regex(pattern) => pattern.holds(value.as_bytes()),
    }
}

fn comes_before(a: Candidate, b: Candidate) -> bool {
    let most = |of: fn(&Match) -> usize| of(b.one()).cmp(&of(a.one()));
    let name = |of: Candidate| format!("{}/{}", of.route.name.namespace, of.route.name.name);
    let order = match (&a.one().path, &b.one().path) {
        (PathMatch::Grpc(_), PathMatch::Grpc(_)) => most(characters_of_service).then(most(characters_of_method)),
        (_, _) => most(kind_of_path).then(most(characters_of_path)).then(most(|one| usize::from(one.method.is_some()))),
    }
    .then(most(|one| one.headers.len()))
    .then(most(|one| one.query.len()))
    .then(a.route.created.cmp(&b.route.created))
    .then(name(a).cmp(&name(b)))
    .then((a.rule, a.nth).cmp(&(b.rule, b.nth)));
    order == Ordering::Less
}

fn kind_of_path(one: &Match) -> usize {
    match one.path {
        PathMatch::Exact(_) => 2,
        PathMatch::Regex(_) => 1,
        PathMatch::Prefix(_) | PathMatch::Grpc(_) => 0,
    }
}

fn characters_of_path(one: &Match) -> usize {
    match &one.path {
        PathMatch::Prefix(prefix) => prefix.len(),
        PathMatch::Regex(pattern) => pattern.source().len(),
        PathMatch::Exact(_) | PathMatch::Grpc(_) => 0,
    }
}

fn characters_of_service(one: &Match) -> usize {
    let PathMatch::Grpc(call) = &one.path else { return 0 };
    call.service.as_ref().map_or(0, |service| service.as_str().len())
}

fn characters_of_method(one: &Match) -> usize {
    let PathMatch::Grpc(call) = &one.path else { return 0 };
    call.method.as_ref().map_or(0, |method| method.as_str().len())
}

fn regex(source: &'static str) -> Pattern {
    thread_local!(static COMPILED: RefCell<BTreeMap<&'static str, Pattern>> = RefCell::default());
    COMPILED.with_borrow_mut(|all| all.entry(source).or_insert_with(|| Pattern::new(source).unwrap()).clone())
}

fn hostnames() -> impl Strategy<Value = Vec<HostName>> {
    let all = vec![
        HostName::Any,
        HostName::Wildcard("test".into()),
        HostName::Wildcard("a.test".into()),
        HostName::Exact("a.test".into()),
        HostName::Exact("b.a.test".into()),
    ];
    subsequence(all, 1..=3)
}

fn path() -> impl Strategy<Value = String> {
    vec(select(vec!["/a", "/b", "/ab"]), 0..4).prop_map(|elements| elements.concat())
}

fn path_of_request() -> impl Strategy<Value = String> {
    (path(), any::<bool>()).prop_map(|(path, open)| if open || path.is_empty() { path + "/" } else { path })
}

fn http_path() -> impl Strategy<Value = PathMatch> {
    prop_oneof![
        3 => path().prop_map(|path| PathMatch::Prefix(path.into())),
        2 => path_of_request().prop_map(|path| PathMatch::Exact(path.into())),
        1 => select(vec!["/a/.*", "/[ab]+/b", "/.*", "/a(/b)?/?"]).prop_map(|source| PathMatch::Regex(regex(source))),
    ]
}

fn text(exact: &[&'static str], patterns: &[&'static str]) -> impl Strategy<Value = Text> + use<> {
    let exact = exact.iter().map(|text| Text::Exact((*text).into()));
    select(exact.chain(patterns.iter().map(|source| Text::Regex(regex(source)))).collect::<Vec<_>>())
}

fn grpc_path() -> impl Strategy<Value = PathMatch> {
    let service = option::of(text(&["a", "b", "ab"], &["a.*", "[ab]"]));
    let method = option::of(text(&["a", "b", "ab"], &["a.*", "[ab]"]));
    (service, method).prop_map(|(service, method)| PathMatch::Grpc(GrpcMethodMatch { service, method }))
}

fn headers() -> impl Strategy<Value = Vec<HeaderMatch>> {
    let value = text(&["1", "2"], &["[12]"]);
    (subsequence(vec!["x", "y"], 0..=2), value).prop_map(|(names, value)| {
        names.into_iter().map(|name| HeaderMatch { name: name.parse().unwrap(), value: value.clone() }).collect()
    })
}

fn query() -> impl Strategy<Value = Vec<QueryMatch>> {
    let value = text(&["1", "2"], &["[12]"]);
    (subsequence(vec!["p", "q"], 0..=2), value).prop_map(|(names, value)| {
        names.into_iter().map(|name| QueryMatch { name: name.into(), value: value.clone() }).collect()
    })
}

fn one(kind: RouteKind) -> BoxedStrategy<Match> {
    match kind {
        RouteKind::Grpc => {
            (grpc_path(), headers()).prop_map(|(path, headers)| Match { headers, ..Match::path(path) }).boxed()
        }
        RouteKind::Http => (http_path(), option::of(select(vec![Method::GET, Method::POST])), headers(), query())
            .prop_map(|(path, method, headers, query)| Match { path, method, headers, query })
            .boxed(),
    }
}

fn attachment(kind: RouteKind) -> impl Strategy<Value = Attachment> {
    let created = select(vec![Created::At(1), Created::At(2), Created::Unknown]);
    let name = (select(vec!["a", "a-b", "b"]), select(vec!["r", "r-1", "s"]));
    let rules = vec(vec(one(kind), 1..4), 1..4);
    (hostnames(), created, name, rules).prop_map(move |(hosts, created, (namespace, name), rules)| {
        let name = RouteName { namespace: namespace.into(), name: name.into(), kind };
        Attachment { hosts: hosts.into(), route: Arc::new(Route { name, created, rules: super::tests::rules(rules) }) }
    })
}

/// No route twice, sorted, as listeners have them.
fn listener(mut attachments: Vec<Attachment>) -> Vec<Attachment> {
    attachments.sort_by(|a, b| a.route.name.cmp(&b.route.name));
    attachments.dedup_by(|a, b| a.route.name == b.route.name);
    attachments.sort_by(|a, b| a.route.precedence().cmp(&b.route.precedence()));
    attachments
}

/// Two states of a listener that have routes in common, and a request.
fn scenes() -> impl Strategy<Value = (Vec<Attachment>, Vec<Attachment>, &'static str, String, Parts)> {
    let states = prop_oneof![Just(RouteKind::Http), Just(RouteKind::Grpc)].prop_flat_map(|kind| {
        let parts = || vec(attachment(kind), 0..4);
        (parts(), parts(), parts()).prop_map(|(before, both, after)| {
            (listener([both.clone(), before].concat()), listener([both, after].concat()))
        })
    });
    let host = select(vec!["a.test", "b.a.test", "c.b.a.test", "x.test", "test", "other", ""]);
    let pairs = |names: Vec<&'static str>| btree_set((select(names), select(vec!["1", "2", "3"])), 0..3);
    let request =
        (path_of_request(), select(vec![Method::GET, Method::POST]), pairs(vec!["x", "y"]), pairs(vec!["p", "q"]));
    (states, host, request).prop_map(|((before, after), host, (path, method, headers, query))| {
        let headers: BTreeMap<_, _> = headers.into_iter().collect();
        let query: BTreeMap<_, _> = query.into_iter().collect();
        let query = query.iter().map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>().join("&");
        let mut request = Request::builder().method(method).uri(format!("{path}?{query}"));
        for (name, value) in headers {
            request = request.header(name, value);
        }
        (before, after, host, path, request.body(()).unwrap().into_parts().0)
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, failure_persistence: None, ..ProptestConfig::default() })]

    /// Built anew, and from another state.
    #[test]
    fn tables_decide_as_the_specification_reads((before, after, host, path, request) in scenes()) {
        let wanted = winner(&after, host, &path, &request);
        let found = |table: &Table| {
            let found = table.find(host, &path, &request)?;
            Some(format!("{} {}", found.route.name, found.rule.name))
        };
        let (before, after) = (all(&before), all(&after));
        prop_assert_eq!(&found(&Table::build(None, &after)), &wanted);
        let changed = Table::build(Some((&before, &Table::build(None, &before))), &after);
        prop_assert_eq!(&found(&changed), &wanted);
    }
}
