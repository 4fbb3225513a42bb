use http::StatusCode;

use super::bed::{ask, filtered, run, send};
use crate::ir::HostName;
use crate::proxy::http::exchange::Scheme;
use crate::proxy::http::filters::Filter;
use crate::proxy::http::filters::redirect::Redirect;
use crate::proxy::http::filters::rewrite::PathChange;
use crate::proxy::http::tests::{rule, serving, serving_at};

const PLAIN: Redirect = Redirect { scheme: None, host: None, port: None, path: None, status: StatusCode::FOUND };

#[test]
fn a_location_has_what_changes_and_no_port_that_goes_without_saying() {
    run(async {
        let (http, https) = (Some(Scheme::Http), Some(Scheme::Https));
        let host = || Some("other.example.com".into());
        let full = || Some(PathChange::Full("/full".into()));
        let prefix = |to: &str| Some(PathChange::prefix(to));
        for (redirect, location) in [
            (Redirect { host: host(), ..PLAIN }, "http://other.example.com/p/a?q=1"),
            (Redirect { scheme: https, ..PLAIN }, "https://example.com/p/a?q=1"),
            (Redirect { scheme: https, port: Some(443), ..PLAIN }, "https://example.com/p/a?q=1"),
            (Redirect { scheme: https, port: Some(8443), ..PLAIN }, "https://example.com:8443/p/a?q=1"),
            (Redirect { scheme: http, port: Some(443), ..PLAIN }, "http://example.com:443/p/a?q=1"),
            (Redirect { port: Some(80), ..PLAIN }, "http://example.com/p/a?q=1"),
            (Redirect { port: Some(8080), host: host(), ..PLAIN }, "http://other.example.com:8080/p/a?q=1"),
            (Redirect { path: full(), ..PLAIN }, "http://example.com/full?q=1"),
            (Redirect { path: prefix("/new/"), ..PLAIN }, "http://example.com/new/a?q=1"),
            (Redirect { path: prefix("/"), ..PLAIN }, "http://example.com/a?q=1"),
        ] {
            let filters = vec![Filter::Redirect(redirect)];
            let local = serving(vec![crate::ir::http::Rule { filters, ..rule("/p", Vec::new()) }]);
            let answer = ask(&local, "GET /p/a?q=1", "").await;
            assert_eq!((answer.status, answer.header("location").as_str()), (302, location));
            assert_eq!((answer.body.as_str(), answer.header("content-length").as_str()), ("", "0"));
        }
    });
}

#[test]
fn a_redirect_has_its_status() {
    run(async {
        for status in [301, 302, 303, 307, 308] {
            let redirect = Redirect { status: StatusCode::from_u16(status).unwrap(), ..PLAIN };
            let local = serving(vec![filtered(vec![Filter::Redirect(redirect)], Vec::new())]);
            assert_eq!(ask(&local, "POST /", "Content-Length: 0\r\n").await.status, status);
        }
    });
}

#[test]
fn a_location_is_for_the_host_that_was_asked_without_its_port() {
    run(async {
        let local = serving_at(HostName::Any, vec![filtered(vec![Filter::Redirect(PLAIN)], Vec::new())]);
        let asked = |line: &'static str, host: &'static str| {
            let (local, request) = (&local, format!("{line}\r\n{host}Connection: close\r\n\r\n"));
            async move { send(local, &request).await.header("location") }
        };
        assert_eq!(asked("GET / HTTP/1.1", "Host: Example.com.:8080\r\n").await, "http://example.com/");
        assert_eq!(asked("GET / HTTP/1.1", "Host: [2001:DB8::1]:8080\r\n").await, "http://[2001:db8::1]/");
        // The Gateway's address.
        assert_eq!(asked("GET /a HTTP/1.0", "").await, "http://198.18.0.1/a");
    });
}
