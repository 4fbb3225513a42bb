use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::stream;
use http::Response;
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Frame;

use super::bed::{Server, ask, filtered, run};
use crate::ir::http::{Application, Rule, Target};
use crate::proxy::http::body::{Body, BodyError};
use crate::proxy::http::filters::mirror::{Mirror, Share};
use crate::proxy::http::filters::request_headers::{Changes, RequestHeaders};
use crate::proxy::http::filters::rewrite::{PathChange, Rewrite};
use crate::proxy::http::filters::{Filter, Request, mirror};
use crate::proxy::http::tests::{rule, serving};

const ALL: Share = Share { of: 1, out_of: 1 };

fn to(server: &Server) -> Filter {
    Filter::Mirror(Mirror { target: server.target(Application::Http), share: ALL })
}

#[test]
fn several_mirrors_get_the_request_and_its_body() {
    run(async {
        let server = Server::new().await;
        let mirrors = [Server::answering(|_| Response::builder().status(500).body(Body::empty()).unwrap()).await, {
            Server::new().await
        }];
        let local = serving(vec![filtered(mirrors.iter().map(to).collect(), vec![server.backend()])]);
        let chunked = "Transfer-Encoding: chunked\r\nX-Forwarded-For: 203.0.113.9\r\nx-a: 1\r\n\r\n\
            5\r\nhello\r\n6\r\n world\r\n0\r\n\r\n";
        let answer = ask(&local, "POST /a?q=1", chunked).await;
        assert_eq!((answer.status, answer.body.as_str()), (200, "hello"));
        for asked in [&server, &mirrors[0], &mirrors[1]] {
            let asked = &asked.asked_for(1).await[0];
            assert_eq!(asked.body.as_deref(), Some(&b"hello world"[..]));
            assert_eq!((asked.head.method.as_str(), asked.path()), ("POST", "/a?q=1"));
            assert_eq!((asked.header("host"), asked.header("x-a")), ("example.com".into(), "1".into()));
            assert_eq!(asked.header("x-forwarded-for"), "127.0.0.1");
        }
        ask(&local, "GET /b", "").await;
        assert_eq!(mirrors[1].asked_for(2).await[1].path(), "/b");
    });
}

#[test]
fn a_mirror_sees_what_the_filters_before_it_made_of_the_request() {
    run(async {
        let (server, mirror) = (Server::new().await, Server::new().await);
        let set = |value: &str| {
            let set = vec![("x-a".parse().unwrap(), value.parse().unwrap())];
            Filter::RequestHeaders(RequestHeaders(Changes::new(set, Vec::new(), Vec::new()).unwrap()))
        };
        let host = Some(http::HeaderValue::from_static("new.example.com"));
        let rewrite = Filter::Rewrite(Rewrite { host, path: Some(PathChange::prefix("/new")) });
        let filters = vec![set("before"), rewrite, to(&mirror), set("after")];
        let local = serving(vec![Rule { filters, ..rule("/old", vec![server.backend()]) }]);
        ask(&local, "GET /old/a", "").await;
        let asked = &mirror.asked_for(1).await[0];
        let seen = [asked.path().to_owned(), asked.header("host"), asked.header("x-a")];
        assert_eq!(seen, ["/new/a", "new.example.com", "before"]);
        assert_eq!(server.asked()[0].header("x-a"), "after");
    });
}

#[test]
fn a_mirror_neither_fails_nor_delays_a_request() {
    run(async {
        let server = Server::new().await;
        for filter in [
            to(&Server::gone().await),
            to(&Server::mute().await),
            Filter::Mirror(Mirror { target: Target::Invalid, share: ALL }),
        ] {
            let local = serving(vec![filtered(vec![filter], vec![server.backend()])]);
            let start = Instant::now();
            // More than a mirror may keep waiting, so that one that takes nothing would stop it.
            let long = "x".repeat(2 << 20);
            let body = format!("Content-Length: {}\r\n\r\n{long}", long.len());
            let answer = ask(&local, "POST /", &body).await;
            assert_eq!((answer.status, answer.body.as_str()), (200, "hello"));
            assert!(start.elapsed() < Duration::from_secs(2));
            assert_eq!(server.asked().pop().unwrap().body.unwrap().len(), long.len());
        }
    });
}

#[test]
fn no_share_is_no_request() {
    run(async {
        let (server, mirror) = (Server::new().await, Server::new().await);
        let none =
            Filter::Mirror(Mirror { target: mirror.target(Application::Http), share: Share { of: 0, out_of: 100 } });
        let local = serving(vec![filtered(vec![none], vec![server.backend()])]);
        for _ in 0..20 {
            ask(&local, "GET /", "").await;
        }
        assert_eq!(mirror.asked().len(), 0);
    });
}

fn body(frames: usize, size: usize) -> Request {
    let frames = (0..frames).map(move |_| Ok::<_, BodyError>(Frame::data(Bytes::from(vec![7; size]))));
    Request::new(Body::boxed(StreamBody::new(stream::iter(frames))))
}

#[test]
fn a_copy_is_whole_or_breaks_off() {
    run(async {
        let mut request = body(3, 64 << 10);
        let copy = mirror::tee(&mut request);
        let (own, copied) = futures_util::join!(request.into_body().collect(), copy.collect());
        assert_eq!(own.unwrap().to_bytes(), copied.unwrap().to_bytes());

        // Nobody takes it in time.
        let mut request = body(10, 64 << 10);
        let copy = mirror::tee(&mut request);
        assert_eq!(request.into_body().collect().await.unwrap().to_bytes().len(), 640 << 10);
        assert!(copy.collect().await.is_err());

        // The backend did not want all of it.
        let mut request = body(3, 1 << 10);
        let copy = mirror::tee(&mut request);
        let mut own = request.into_body();
        own.frame().await.unwrap().unwrap();
        drop(own);
        assert!(copy.collect().await.is_err());
    });
}
