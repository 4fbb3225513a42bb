use std::time::Duration;

use http::{HeaderName, Method, Response};

use super::bed::{Server, ask, filtered, run};
use crate::proxy::http::body::Body;
use crate::proxy::http::filters::Filter;
use crate::proxy::http::filters::cors::{Cors, Listed, Origins};
use crate::proxy::http::tests::serving;

const PREFLIGHT: &str = "Access-Control-Request-Method: PUT\r\nAccess-Control-Request-Headers: x-1, x-2\r\n";

fn names(names: &[&'static str]) -> Listed<HeaderName> {
    Listed::These(names.iter().map(|name| HeaderName::from_static(name)).collect())
}

fn listed() -> Cors {
    Cors {
        origins: ["https://www.foo.test", "https://*.bar.test"].map(|entry| Origins::new(entry).unwrap()).into(),
        credentials: true,
        methods: Listed::These(vec![Method::GET, Method::OPTIONS]),
        headers: names(&["x-header-1", "x-header-2"]),
        exposed: names(&["x-header-3", "x-header-4"]),
        max_age: Duration::from_secs(3600),
    }
}

fn any(credentials: bool) -> Cors {
    Cors {
        origins: vec![Origins::Any],
        credentials,
        methods: Listed::Any,
        headers: Listed::Any,
        exposed: Listed::Any,
        max_age: Duration::from_secs(5),
    }
}

/// Has an opinion of its own.
async fn server() -> Server {
    Server::answering(|_| {
        let response = Response::builder().header("access-control-allow-origin", "https://evil.test");
        let response = response.header("access-control-allow-credentials", "true").header("x-own", "1");
        response.header("set-cookie", "a=b").body(Body::empty()).unwrap()
    })
    .await
}

/// Of the names behind `access-control-`.
macro_rules! assert_cors {
    ($answer:expr, $($name:literal: $value:expr),* $(,)?) => {
        $(assert_eq!($answer.header(concat!("access-control-", $name)), $value, $name);)*
    };
}

#[test]
fn a_preflight_is_answered_without_the_backend() {
    run(async {
        let server = server().await;
        let local = serving(vec![filtered(vec![Filter::Cors(listed())], vec![server.backend()])]);
        for origin in ["https://www.foo.test", "https://a.b.bar.test"] {
            let answer = ask(&local, "OPTIONS /", &format!("Origin: {origin}\r\n{PREFLIGHT}")).await;
            assert_eq!((answer.status, answer.body.as_str()), (200, ""));
            assert_cors!(answer,
                "allow-origin": origin,
                "allow-methods": "GET, OPTIONS",
                "allow-headers": "x-header-1, x-header-2",
                "expose-headers": "x-header-3, x-header-4",
                "allow-credentials": "true",
                "max-age": "3600",
            );
            assert_eq!(answer.header("vary"), "Origin");
        }
        let answer = ask(&local, "OPTIONS /", &format!("Origin: https://bar.test\r\n{PREFLIGHT}")).await;
        assert_eq!(answer.status, 403);
        assert_cors!(answer, "allow-origin": "", "allow-methods": "", "allow-credentials": "", "max-age": "");
        assert_eq!(server.asked().len(), 0);
        // These are no preflights.
        ask(&local, "OPTIONS /", "Origin: https://www.foo.test\r\n").await;
        ask(&local, "OPTIONS /", PREFLIGHT).await;
        ask(&local, "GET /", &format!("Origin: https://www.foo.test\r\n{PREFLIGHT}")).await;
        assert_eq!(server.asked().len(), 3);
    });
}

#[test]
fn other_responses_say_who_may_read_them() {
    run(async {
        let server = server().await;
        let local = serving(vec![filtered(vec![Filter::Cors(listed())], vec![server.backend()])]);
        let answer = ask(&local, "GET /", "Origin: https://www.foo.test\r\n").await;
        assert_cors!(answer,
            "allow-origin": "https://www.foo.test",
            "allow-credentials": "true",
            "expose-headers": "x-header-3, x-header-4",
            "allow-methods": "",
        );
        for origin in ["", "Origin: https://foo.test\r\n", "Origin: https://www.foo.test\r\nOrigin: null\r\n"] {
            let answer = ask(&local, "GET /", origin).await;
            assert_eq!((answer.status, answer.header("vary").as_str()), (200, "Origin"));
            assert_cors!(answer, "allow-origin": "", "allow-credentials": "", "expose-headers": "");
        }
    });
}

#[test]
fn a_wildcard_is_never_said_to_who_may_send_credentials() {
    run(async {
        let server = server().await;
        let asking = format!("Origin: https://other.test:1\r\n{PREFLIGHT}");
        for credentials in [false, true] {
            let local = serving(vec![filtered(vec![Filter::Cors(any(credentials))], vec![server.backend()])]);
            let allowed = if credentials { "true" } else { "" };
            let answer = ask(&local, "OPTIONS /", &asking).await;
            assert_cors!(answer,
                "allow-origin": "https://other.test:1",
                "allow-methods": "PUT",
                "allow-headers": "x-1, x-2",
                "allow-credentials": allowed,
                "max-age": "5",
            );
            let answer = ask(&local, "GET /", "Origin: https://other.test:1\r\n").await;
            assert_cors!(answer, "allow-origin": "https://other.test:1", "allow-credentials": allowed);
            let exposed = answer.header("access-control-expose-headers");
            match credentials {
                false => assert_eq!(exposed, "*"),
                true => assert!(exposed.contains("x-own") && !exposed.contains("set-cookie"), "{exposed}"),
            }
        }
        // What was not asked for is not said.
        let local = serving(vec![filtered(vec![Filter::Cors(any(true))], vec![server.backend()])]);
        let asking = "Origin: https://a.test\r\nAccess-Control-Request-Method: PUT\r\n";
        assert_cors!(ask(&local, "OPTIONS /", asking).await, "allow-headers": "");
    });
}
