use http::Request;

use super::*;
use crate::ir::HostName;
use crate::ir::http::*;
use crate::proxy::http::matches::Pattern;

/// That only say what they match.
pub(super) fn rules(matches: Vec<Vec<Match>>) -> Vec<Rule> {
    let rule = |(i, matches): (usize, Vec<Match>)| Rule {
        name: i.to_string().into(),
        matches: matches.into(),
        filters: Vec::new(),
        backends: Vec::new(),
        timeouts: Timeouts::default(),
        retry: None,
        persistence: None,
    };
    matches.into_iter().enumerate().map(rule).collect()
}

fn route(name: &str, kind: RouteKind, matches: Vec<Vec<Match>>) -> Arc<Route> {
    let name = RouteName { namespace: "default".into(), name: name.into(), kind };
    Arc::new(Route { name, created: Created::Unknown, rules: rules(matches) })
}

fn prefix(path: &str) -> Match {
    Match::path(PathMatch::Prefix(path.into()))
}

fn exact(path: &str) -> Match {
    Match::path(PathMatch::Exact(path.into()))
}

fn at(host: &str, route: &Arc<Route>) -> Attachment {
    let host = match host.strip_prefix("*.") {
        Some(suffix) => HostName::Wildcard(suffix.into()),
        None => HostName::Exact(host.into()),
    };
    Attachment { hosts: [host].into(), route: Arc::clone(route) }
}

/// Of a listener that has these.
pub(super) fn all(attachments: &[Attachment]) -> Attachments {
    attachments.iter().cloned().collect()
}

/// `route/rule`
fn found(table: &Table, host: &str, path: &str) -> Option<String> {
    let (parts, ()) = Request::get(path).header("colour", "red").body(()).unwrap().into_parts();
    let found = table.find(host, parts.uri.path(), &parts)?;
    Some(format!("{}/{}", found.route.name.name, found.rule.name))
}

#[test]
fn the_most_specific_match_is_taken_across_routes() {
    let red = HeaderMatch { name: "colour".parse().unwrap(), value: Text::Exact("red".into()) };
    let a = route(
        "a",
        RouteKind::Http,
        vec![
            vec![prefix("")],
            vec![Match { headers: vec![red.clone()], ..prefix("/a") }],
            vec![Match::path(PathMatch::Regex(Pattern::new("/a/x.*").unwrap()))],
        ],
    );
    let b = route("b", RouteKind::Http, vec![vec![prefix("/a"), exact("/a/xy")], vec![prefix("/a/b")]]);
    let wide = route("wide", RouteKind::Http, vec![vec![exact("/a/xy")], vec![exact("/other")]]);
    let attachments = [at("a.example.com", &a), at("a.example.com", &b), at("*.example.com", &wide)];
    let table = Table::build(None, &all(&attachments));
    let found = |path| found(&table, "a.example.com", path);
    assert_eq!(found("/").as_deref(), Some("a/0"));
    assert_eq!(found("/a").as_deref(), Some("a/1"), "one header more");
    assert_eq!(found("/a/b/c").as_deref(), Some("b/1"), "the longer prefix");
    assert_eq!(found("/a/xy").as_deref(), Some("b/0"), "exact before regex");
    assert_eq!(found("/a/xz").as_deref(), Some("a/2"), "regex before prefix");
    assert_eq!(found("/other").as_deref(), Some("a/0"), "the more specific host");
    assert_eq!(super::tests::found(&table, "b.example.com", "/other").as_deref(), Some("wide/1"));
    assert_eq!(super::tests::found(&table, "b.example.com", "/"), None);
    assert_eq!(super::tests::found(&table, "example.com", "/other"), None);
}

#[test]
fn a_grpc_call_goes_by_the_longest_service_then_method() {
    let call = |service: Option<Text>, method: Option<Text>| {
        vec![Match::path(PathMatch::Grpc(GrpcMethodMatch { service, method }))]
    };
    let exact = |text: &str| Some(Text::Exact(text.into()));
    let regex = |text: &str| Some(Text::Regex(Pattern::new(text).unwrap()));
    let calls = vec![
        call(None, None),
        call(None, exact("Add")),
        call(exact("shop.Cart"), None),
        call(exact("shop.Cart"), exact("Add")),
        call(regex("shop[.]C.*t"), None),
    ];
    let table = Table::build(None, &all(&[at("example.com", &route("g", RouteKind::Grpc, calls))]));
    let found = |path| found(&table, "example.com", path);
    assert_eq!(found("/x.Y/Get").as_deref(), Some("g/0"));
    assert_eq!(found("/x.Y/Add").as_deref(), Some("g/1"));
    assert_eq!(found("/shop.Cat/Add").as_deref(), Some("g/4"));
    assert_eq!(found("/shop.Cart/Get").as_deref(), Some("g/4"), "more characters");
    assert_eq!(found("/shop.Cart/Add").as_deref(), Some("g/4"), "the service comes first");
    assert_eq!(found("/"), None);
}

#[test]
fn a_table_changed_bit_by_bit_is_the_table_built_anew() {
    let routes = |changed: usize| -> Vec<Attachment> {
        let one = |i: usize| {
            let version = if i == changed { "new" } else { "old" };
            let paths = vec![vec![prefix(&format!("/{i}")), exact(&format!("/{version}"))]];
            at(
                if i.is_multiple_of(2) { "a.example.com" } else { "*.example.com" },
                &route(&format!("{i:03}"), RouteKind::Http, paths),
            )
        };
        (0..100).filter(|i| *i != 50 || changed == 50).map(one).collect()
    };
    let mut attachments = routes(7);
    let mut table = Table::build(None, &all(&attachments));
    for changed in [50, 8, 99] {
        let next = routes(changed);
        table = Table::build(Some((&all(&attachments), &table)), &all(&next));
        attachments = next;
        let anew = Table::build(None, &all(&attachments));
        for host in ["a.example.com", "b.example.com", "example.com"] {
            for path in ["/7", "/8/x", "/50", "/51", "/99", "/old", "/new", "/none"] {
                assert_eq!(found(&table, host, path), found(&anew, host, path), "{host}{path} after {changed}");
            }
        }
    }
    assert_eq!(found(&table, "b.example.com", "/new").as_deref(), Some("099/0"));
    let empty = Table::build(Some((&all(&attachments), &table)), &Attachments::default());
    assert_eq!(found(&empty, "a.example.com", "/7"), None);
}

#[test]
fn what_no_changed_route_is_in_is_shared() {
    let route = |name: &str| route(name, RouteKind::Http, vec![vec![prefix("/a")]]);
    let (a, b) = (route("a"), route("b"));
    let first = [at("a.example.com", &a), at("b.example.com", &b)];
    let before = Table::build(None, &all(&first));
    let second = [at("a.example.com", &a), at("b.example.com", &route("b"))];
    let after = Table::build(Some((&all(&first), &before)), &all(&second));
    let shared = |host| Arc::ptr_eq(before.hosts.of(host).next().unwrap(), after.hosts.of(host).next().unwrap());
    assert!(shared("a.example.com"));
    assert!(!shared("b.example.com"));
    let third = [at("c.example.com", &a), at("b.example.com", &b)];
    let moved = Table::build(Some((&all(&first), &before)), &all(&third));
    assert_eq!(found(&moved, "a.example.com", "/a"), None);
    assert_eq!(found(&moved, "c.example.com", "/a").as_deref(), Some("a/0"));
}

#[test]
fn what_the_most_specific_host_leaves_is_not_for_others() {
    let specific = route("specific", RouteKind::Http, vec![vec![prefix("/a")]]);
    let wide = route("wide", RouteKind::Http, vec![vec![prefix("")]]);
    let any =
        Attachment { hosts: [HostName::Any].into(), route: route("any", RouteKind::Http, vec![vec![prefix("")]]) };
    let table = Table::build(None, &all(&[any, at("a.example.com", &specific), at("*.example.com", &wide)]));
    let found = |host, path| super::tests::found(&table, host, path);
    assert_eq!(found("a.example.com", "/a").as_deref(), Some("specific/0"));
    assert_eq!(found("a.example.com", "/b"), None);
    assert_eq!(found("b.a.example.com", "/b").as_deref(), Some("wide/0"));
    assert_eq!(found("example.com", "/b").as_deref(), Some("any/0"));
    assert_eq!(found("", "/b").as_deref(), Some("any/0"), "HTTP/1.0 without a host");
    assert_eq!(found("[2001:db8::1]", "/b").as_deref(), Some("any/0"));
}
