use http::{HeaderName, HeaderValue, Response};

use super::bed::{Server, ask, filtered, run};
use crate::ir::http::Backend;
use crate::proxy::http::body::Body;
use crate::proxy::http::filters::Filter;
use crate::proxy::http::filters::request_headers::{Changes, RequestHeaders};
use crate::proxy::http::filters::response_headers::ResponseHeaders;
use crate::proxy::http::tests::serving;

fn changes(set: &[(&str, &str)], add: &[(&str, &str)], remove: &[&str]) -> Changes {
    let pairs = |list: &[(&str, &str)]| -> Vec<(HeaderName, HeaderValue)> {
        list.iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap())).collect()
    };
    Changes::new(pairs(set), pairs(add), remove.iter().map(|name| name.parse().unwrap()).collect()).unwrap()
}

#[test]
fn rules_and_backends_change_headers_one_after_the_other() {
    run(async {
        let server = Server::answering(|_| {
            let response = Response::builder().header("x-a", "backend").header("x-b", "1").header("x-b", "2");
            response.header("x-c", "secret").body(Body::empty()).unwrap()
        })
        .await;
        let of_rule = vec![
            Filter::RequestHeaders(RequestHeaders(changes(&[("x-a", "rule")], &[("x-b", "rule, too")], &["x-c"]))),
            Filter::ResponseHeaders(ResponseHeaders(changes(&[("x-a", "rule")], &[("x-b", "rule")], &["x-c"]))),
        ];
        let of_backend = vec![
            Filter::RequestHeaders(RequestHeaders(changes(&[], &[("x-a", "backend")], &["x-d"]))),
            Filter::ResponseHeaders(ResponseHeaders(changes(&[("x-b", "own")], &[], &[]))),
        ];
        let backend = Backend { filters: of_backend, ..server.backend() };
        let local = serving(vec![filtered(of_rule, vec![backend])]);
        let client = "X-A: client\r\nx-b: 1\r\nX-B: 2\r\nx-c: secret\r\nx-d: gone\r\nx-e: stays\r\n";
        let answer = ask(&local, "GET /", client).await;
        let asked = &server.asked()[0];
        let there = ["x-a", "x-b", "x-c", "x-d", "x-e"].map(|name| asked.header(name));
        assert_eq!(there, ["rule|backend", "1|2|rule, too", "", "", "stays"]);
        // The backend's first: it is the inner one.
        assert_eq!(["x-a", "x-b", "x-c"].map(|name| answer.header(name)), ["rule", "own|rule", ""]);
    });
}

#[test]
fn what_the_agent_says_of_the_client_may_be_said_otherwise() {
    run(async {
        let server = Server::new().await;
        let set = [("x-forwarded-proto", "https"), ("x-forwarded-host", "shop.example")];
        let filter = RequestHeaders(changes(&set, &[("x-forwarded-for", "203.0.113.1")], &["x-forwarded-port"]));
        let local = serving(vec![filtered(vec![Filter::RequestHeaders(filter)], vec![server.backend()])]);
        // A client has no say in it, nor in what goes no further.
        let client = "X-Forwarded-For: 203.0.113.9\r\nX-Forwarded-Port: 1\r\nConnection: close, x-forwarded-for\r\n";
        assert_eq!(ask(&local, "GET /", client).await.status, 200);
        let asked = &server.asked()[0];
        let there = ["for", "proto", "host", "port"].map(|name| asked.header(&format!("x-forwarded-{name}")));
        assert_eq!(there, ["127.0.0.1|203.0.113.1", "https", "shop.example", ""]);
    });
}

#[test]
fn filters_of_a_backend_are_for_its_share_only() {
    run(async {
        let server = Server::new().await;
        let marked = vec![Filter::RequestHeaders(RequestHeaders(changes(&[("x-canary", "1")], &[], &[])))];
        let backends = vec![Backend { filters: marked, ..server.backend() }, server.backend()];
        let local = serving(vec![filtered(Vec::new(), backends)]);
        for _ in 0..40 {
            assert_eq!(ask(&local, "GET /", "").await.status, 200);
        }
        let marked = server.asked().iter().filter(|asked| asked.header("x-canary") == "1").count();
        assert!((5..=35).contains(&marked), "{marked}");
    });
}

#[test]
fn answers_of_the_agent_have_the_headers_of_their_rule() {
    run(async {
        let header = Filter::ResponseHeaders(ResponseHeaders(changes(&[("x-a", "rule")], &[], &[])));
        let local = serving(vec![filtered(vec![header], Vec::new())]);
        let answer = ask(&local, "GET /", "").await;
        assert_eq!((answer.status, answer.header("x-a").as_str()), (500, "rule"));
    });
}
