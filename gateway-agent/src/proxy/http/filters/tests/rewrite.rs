use std::rc::Rc;

use http::HeaderValue;
use hyper::client::conn::http2;
use hyper_util::rt::TokioIo;

use super::bed::{Server, ask, run};
use crate::ir::http::{Backend, Rule};
use crate::proxy::http::body::Body;
use crate::proxy::http::filters::Filter;
use crate::proxy::http::filters::rewrite::{PathChange, Rewrite};
use crate::proxy::http::server::{Executor, Security};
use crate::proxy::http::tests::{client, rule, serving};

fn rewrite(host: Option<&'static str>, path: Option<PathChange>) -> Vec<Filter> {
    vec![Filter::Rewrite(Rewrite { host: host.map(HeaderValue::from_static), path })]
}

#[test]
fn the_backend_gets_another_host_and_path() {
    run(async {
        let server = Server::new().await;
        let by = |prefix, filters| Rule { filters, ..rule(prefix, vec![server.backend()]) };
        let of_backend = Backend { filters: rewrite(None, Some(PathChange::prefix("/inner"))), ..server.backend() };
        let local = serving(vec![
            by("/host", rewrite(Some("other.example.com"), None)),
            by("/full", rewrite(None, Some(PathChange::Full("/one".into())))),
            by("/prefix", rewrite(Some("p.example.com"), Some(PathChange::prefix("/xyz/")))),
            by("/none", rewrite(None, Some(PathChange::prefix("/")))),
            Rule {
                filters: rewrite(None, Some(PathChange::prefix("/outer"))),
                ..rule("/both", vec![of_backend.clone()])
            },
            rule("/backend", vec![of_backend]),
        ]);
        for (path, host, rewritten) in [
            ("/host/a?q=%20", "other.example.com", "/host/a?q=%20"),
            ("/full/a?q=1", "example.com", "/one?q=1"),
            ("/prefix/a/?q=1", "p.example.com", "/xyz/a/?q=1"),
            ("/prefix", "p.example.com", "/xyz"),
            ("/prefix/x/../../prefix/y", "p.example.com", "/xyz/y"),
            ("/none", "example.com", "/"),
            ("/none/a", "example.com", "/a"),
            ("/both/a", "example.com", "/inner/a"),
            ("/backend/a", "example.com", "/inner/a"),
        ] {
            assert_eq!(ask(&local, &format!("GET {path}"), "").await.status, 200, "{path}");
            let asked = server.asked().pop().unwrap();
            assert_eq!((asked.header("host").as_str(), asked.path()), (host, rewritten), "{path}");
            assert_eq!(asked.header("x-forwarded-host"), "example.com");
        }
    });
}

#[test]
fn a_path_that_is_no_prefix_of_elements_is_not_rewritten() {
    run(async {
        let server = Server::new().await;
        let filters = rewrite(None, Some(PathChange::prefix("/xyz")));
        let local = serving(vec![Rule { filters, ..rule("/foo", vec![server.backend()]) }]);
        assert_eq!(ask(&local, "GET /foobar", "").await.status, 404);
    });
}

#[test]
fn a_host_of_http2_stays_where_the_path_changes() {
    run(async {
        let server = Server::new().await;
        let filters = rewrite(None, Some(PathChange::prefix("/xyz")));
        let local = serving(vec![Rule { filters, ..rule("/foo", vec![server.backend()]) }]);
        let stream = TokioIo::new(client(&Rc::clone(&local), Security::Clear).await);
        let (mut sender, connection) = http2::handshake(Executor, stream).await.unwrap();
        tokio::task::spawn_local(connection);
        let request = http::Request::get("http://example.com/foo/a").body(Body::empty()).unwrap();
        assert_eq!(sender.send_request(request).await.unwrap().status(), 200);
        let asked = server.asked().pop().unwrap();
        assert_eq!((asked.header("host").as_str(), asked.path()), ("example.com", "/xyz/a"));
    });
}
