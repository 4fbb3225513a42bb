use std::future::ready;
use std::sync::Arc;
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use http::{HeaderMap, HeaderName, HeaderValue, Response};
use http_body_util::{BodyExt, Full};
use prost::Message;

use super::bed::{Answer, Asked, Server, ask, filtered, run};
use crate::ir::http::{Application, Target};
use crate::proxy::http::answer::Reason;
use crate::proxy::http::body::{Body, BodyError};
use crate::proxy::http::filters::Filter;
use crate::proxy::http::filters::external_auth::messages::{
    BoolValue, CheckRequest, CheckResponse, Denied, HeaderValue as Header, HeaderValueOption, HttpStatus, Passed,
    Status,
};
use crate::proxy::http::filters::external_auth::{AuthProtocol, ExternalAuth};
use crate::proxy::http::tests::serving;

fn by_http(service: &Server) -> ExternalAuth {
    let name = HeaderName::from_static;
    ExternalAuth {
        target: service.target(Application::Http),
        protocol: AuthProtocol::Http {
            path: "/check/".into(),
            request_headers: vec![name("x-tenant"), name("transfer-encoding")],
            response_headers: vec![name("x-user"), name("x-groups"), name("content-length")],
        },
        body: 0,
        timeout: Duration::from_secs(2),
        fails_open: false,
    }
}

fn by_grpc(service: &Server) -> ExternalAuth {
    let protocol = AuthProtocol::Grpc { request_headers: Vec::new() };
    ExternalAuth { target: service.target(Application::H2c), protocol, ..by_http(service) }
}

/// What a client gets with such a filter, and the backend.
async fn with(auth: ExternalAuth, request: &str, rest: &str) -> (Answer, Vec<Asked>) {
    let backend = Server::new().await;
    let local = serving(vec![filtered(vec![Filter::ExternalAuth(Arc::new(auth))], vec![backend.backend()])]);
    let answer = ask(&local, request, rest).await;
    (answer, backend.asked())
}

#[test]
fn who_may_pass_by_http_passes_with_what_the_service_says() {
    run(async {
        let service = Server::answering(|_| {
            let response =
                Response::builder().header("x-user", "42").header("x-other", "no").header("connection", "x-groups");
            response.body(Body::of("fine".into())).unwrap()
        })
        .await;
        let client =
            "X-User: admin\r\nx-groups: root\r\nx-tenant: a\r\nx-tenant: b\r\nx-secret: s\r\nauthorization: t\r\n";
        let (answer, asked) = with(by_http(&service), "GET /a%20b?q=1", client).await;
        assert_eq!((answer.status, answer.body.as_str()), (200, "hello"));
        let question = &service.asked()[0];
        assert_eq!((question.head.method.as_str(), question.path()), ("GET", "/check/a%20b?q=1"));
        let seen = ["host", "authorization", "x-tenant", "content-length", "x-secret", "x-user", "x-forwarded-for"];
        assert_eq!(seen.map(|name| question.header(name)), ["example.com", "t", "a|b", "0", "", "", ""]);
        // What only the service may say, the client has not said.
        let got = ["x-user", "x-groups", "x-other", "x-secret", "authorization"].map(|name| asked[0].header(name));
        assert_eq!(got, ["42", "", "", "s", "t"]);
    });
}

#[test]
fn without_a_list_the_backend_gets_all_that_the_service_says() {
    run(async {
        let service = Server::answering(|_| {
            let response = Response::builder().header("x-user", "42").header("host", "evil.test");
            response.header("content-type", "text/x-answer").body(Body::of("fine".into())).unwrap()
        })
        .await;
        let protocol = AuthProtocol::Http { path: "".into(), request_headers: vec![], response_headers: vec![] };
        let auth = ExternalAuth { protocol, ..by_http(&service) };
        let body = "content-type: text/plain\r\nContent-Length: 2\r\n\r\nhi";
        let (answer, asked) = with(auth, "POST /", body).await;
        assert_eq!(answer.status, 200);
        let got = ["x-user", "host", "content-type", "content-length"].map(|name| asked[0].header(name));
        assert_eq!(got, ["42", "example.com", "text/plain", "2"]);
        assert_eq!((service.asked()[0].body.as_deref(), asked[0].body.as_deref()), (Some(&b""[..]), Some(&b"hi"[..])));
    });
}

#[test]
fn who_may_not_pass_gets_what_the_service_says() {
    run(async {
        let service = Server::answering(|asked| {
            let status: u16 = asked.head.uri.path().strip_prefix("/check/").unwrap().parse().unwrap();
            let response = Response::builder().status(status).header("location", "/login").header("x-error", "no");
            response.body(Body::of(Bytes::from_static(if status == 204 { b"" } else { b"why not" }))).unwrap()
        })
        .await;
        for (said, status, body) in [
            (401, 401, "why not"),
            (403, 403, "why not"),
            (302, 302, "why not"),
            // It is no 200, and must not look like one.
            (201, 403, ""),
            (204, 403, ""),
            // The service is in trouble.
            (500, 403, ""),
            (503, 403, ""),
        ] {
            let (answer, asked) = with(by_http(&service), &format!("GET /{said}"), "").await;
            assert_eq!((answer.status, answer.body.as_str(), asked.len()), (status, body, 0), "{said}");
            assert_eq!(answer.header("x-error"), if body.is_empty() { "" } else { "no" });
        }
        // A gRPC call is answered as such.
        let (answer, asked) = with(by_http(&service), "POST /401", "content-type: application/grpc\r\n").await;
        assert_eq!((answer.status, answer.header("grpc-status").as_str(), asked.len()), (200, "7", 0));
    });
}

#[test]
fn without_an_answer_nobody_passes_unless_told_otherwise() {
    run(async {
        let garbage = Server::answering(|_| Response::new(Body::of("no message".into()))).await;
        let (gone, mute) = (Server::gone().await, Server::mute().await);
        for auth in [
            by_http(&gone),
            by_http(&mute),
            by_grpc(&gone),
            by_grpc(&mute),
            by_grpc(&garbage),
            ExternalAuth { target: empty(), ..by_http(&gone) },
        ] {
            let auth = ExternalAuth { timeout: Duration::from_millis(100), ..auth };
            let (answer, asked) = with(auth.clone(), "GET /", "").await;
            assert_eq!((answer.status, asked.len()), (403, 0), "{auth:?}");
            let (answer, asked) = with(ExternalAuth { fails_open: true, ..auth.clone() }, "GET /", "").await;
            assert_eq!((answer.status, asked.len()), (200, 1), "{auth:?}");
        }
        // What is wrong with the route is no failure of the service.
        let invalid = ExternalAuth { target: Target::Invalid, fails_open: true, ..by_http(&gone) };
        assert_eq!(with(invalid, "GET /", "").await.0.status, 403);
    });
}

fn empty() -> Target {
    crate::proxy::http::tests::to(Vec::new()).target
}

#[test]
fn a_body_goes_to_both_as_far_as_it_may() {
    run(async {
        let ok = CheckResponse { status: Some(Status { code: 0 }), ..CheckResponse::default() };
        let (http, grpc) = (Server::new().await, checking(move |_| ok.clone()).await);
        let chunked = "Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n5\r\nworld\r\n0\r\n\r\n";
        let known = "Content-Length: 10\r\n\r\nhelloworld";
        for auth in [by_http(&http), by_grpc(&grpc)] {
            for rest in [chunked, known] {
                let limited = |body| ExternalAuth { body, ..auth.clone() };
                for limit in [10, 100] {
                    let (answer, asked) = with(limited(limit), "POST /", rest).await;
                    assert_eq!((answer.status, asked[0].body.as_deref()), (200, Some(&b"helloworld"[..])));
                }
                let (answer, asked) = with(limited(9), "POST /", rest).await;
                assert_eq!((answer.status, asked.len()), (413, 0));
                let (answer, asked) = with(limited(0), "POST /", rest).await;
                assert_eq!((answer.status, asked[0].body.as_deref()), (200, Some(&b"helloworld"[..])));
            }
        }
        let text = |asked: &Asked| String::from_utf8(asked.body.clone().unwrap().into()).unwrap();
        let bodies: Vec<_> =
            http.asked().iter().map(|asked| text(asked) + " " + &asked.header("content-length")).collect();
        assert_eq!(bodies, ["helloworld 10", "helloworld 10", " 0", "helloworld 10", "helloworld 10", " 0"]);
        let bodies: Vec<_> = grpc.asked().iter().map(|asked| question(asked).body).collect();
        assert_eq!(bodies, ["helloworld", "helloworld", "", "helloworld", "helloworld", ""]);
    });
}

/// A service of `envoy.service.auth.v3`.
async fn checking(answer: impl Fn(&CheckRequest) -> CheckResponse + 'static) -> Server {
    Server::answering(move |asked| {
        assert_eq!(asked.path(), "/envoy.service.auth.v3.Authorization/Check");
        assert_eq!((asked.header("content-type"), asked.header("te")), ("application/grpc".into(), "trailers".into()));
        let request = CheckRequest::decode(&asked.body.as_ref().unwrap()[5..]).unwrap();
        grpc(&answer(&request).encode_to_vec(), "0")
    })
    .await
}

fn grpc(message: &[u8], status: &'static str) -> Response<Body> {
    let mut framed = BytesMut::new();
    framed.put_u8(0);
    framed.put_u32(message.len() as u32);
    framed.put_slice(message);
    let trailers = HeaderMap::from_iter([(HeaderName::from_static("grpc-status"), HeaderValue::from_static(status))]);
    let body = Full::new(framed.freeze()).with_trailers(ready(Some(Ok(trailers))));
    Response::builder()
        .header("content-type", "application/grpc")
        .body(Body::boxed(body.map_err(|never| -> BodyError { match never {} })))
        .unwrap()
}

/// What a service of gRPC was asked.
fn question(asked: &Asked) -> super::super::external_auth::messages::HttpRequest {
    let request = CheckRequest::decode(&asked.body.as_ref().unwrap()[5..]).unwrap();
    request.attributes.unwrap().request.unwrap().http.unwrap()
}

fn option(key: &str, value: &str, append: bool) -> HeaderValueOption {
    HeaderValueOption {
        header: Some(Header { key: key.into(), value: value.into(), raw_value: Vec::new() }),
        append: append.then_some(BoolValue { value: true }),
        append_action: 0,
    }
}

#[test]
fn who_may_pass_by_grpc_passes_with_what_the_service_says() {
    run(async {
        let service = checking(|_| CheckResponse {
            status: Some(Status { code: 0 }),
            ok: Some(Passed {
                headers: vec![
                    option("x-user", "42", false),
                    option("x-more", "b", true),
                    option("host", "evil.test", false),
                    option("content-length", "1", false),
                ],
                headers_to_remove: vec!["authorization".into(), "host".into(), "no name".into()],
                response_headers_to_add: vec![option("x-served", "1", false), option("set-cookie", "a=b", true)],
            }),
            ..CheckResponse::default()
        })
        .await;
        let client = "X-User: admin\r\nx-more: a\r\nauthorization: t\r\ncookie: a=1\r\ncookie: b=2\r\n";
        let (answer, asked) = with(by_grpc(&service), "GET /a?q=1", client).await;
        assert_eq!(
            (answer.status, answer.header("x-served"), answer.header("set-cookie")),
            (200, "1".into(), "a=b".into())
        );
        let got = ["x-user", "x-more", "authorization", "host"].map(|name| asked[0].header(name));
        assert_eq!(got, ["42", "a|b", "", "example.com"]);
        let question = question(&service.asked()[0]);
        assert_eq!((question.method.as_str(), question.path.as_str()), ("GET", "/a?q=1"));
        assert_eq!((question.host.as_str(), question.scheme.as_str()), ("example.com", "http"));
        assert_eq!((question.protocol.as_str(), question.size), ("HTTP/1.1", -1));
        let shown = ["x-user", "authorization", "cookie"].map(|name| question.headers[name].as_str());
        assert_eq!(shown, ["admin", "t", "a=1; b=2"]);
    });
}

#[test]
fn a_list_says_what_a_service_of_grpc_sees() {
    run(async {
        let service = checking(|_| CheckResponse::default()).await;
        let protocol = AuthProtocol::Grpc { request_headers: vec![HeaderName::from_static("x-tenant")] };
        let auth = ExternalAuth { protocol, ..by_grpc(&service) };
        let (answer, _) = with(auth, "GET /", "x-tenant: a\r\nauthorization: t\r\n").await;
        assert_eq!(answer.status, 200);
        let shown = question(&service.asked()[0]).headers;
        assert_eq!(shown.into_iter().collect::<Vec<_>>(), [("x-tenant".to_owned(), "a".to_owned())]);
    });
}

#[test]
fn who_may_not_pass_by_grpc_gets_what_the_service_says() {
    run(async {
        let denied = |code, status: Option<i32>| CheckResponse {
            status: Some(Status { code }),
            denied: status.map(|code| Denied {
                status: Some(HttpStatus { code }),
                headers: vec![
                    option("x-error", "no", false),
                    option("set-cookie", "a=1", true),
                    option("set-cookie", "b=2", true),
                ],
                body: "why not".into(),
            }),
            ..CheckResponse::default()
        };
        for (said, status, body) in [
            (denied(7, Some(401)), 401, "why not"),
            (denied(16, Some(302)), 302, "why not"),
            (denied(7, Some(200)), 403, "why not"),
            (denied(7, Some(0)), 403, "why not"),
            (denied(7, None), 403, ""),
        ] {
            let service = checking(move |_| said.clone()).await;
            let (answer, asked) = with(by_grpc(&service), "GET /", "").await;
            assert_eq!((answer.status, answer.body.as_str(), asked.len()), (status, body, 0));
            assert_eq!(answer.header("set-cookie"), if body.is_empty() { "" } else { "a=1|b=2" });
            let (answer, asked) = with(by_grpc(&service), "POST /", "content-type: application/grpc\r\n").await;
            assert_eq!((answer.header("grpc-status").as_str(), asked.len()), ("7", 0));
        }
    });
}

#[test]
fn a_call_that_goes_wrong_is_no_yes() {
    run(async {
        let yes = CheckResponse { status: Some(Status { code: 0 }), ..CheckResponse::default() }.encode_to_vec();
        let framed = |flag: u8, length: u32| {
            let mut framed = BytesMut::new();
            framed.put_u8(flag);
            framed.put_u32(length);
            framed.freeze()
        };
        let plain = |body: Bytes| Response::builder().header("grpc-status", "0").body(Body::of(body)).unwrap();
        for case in 0..6 {
            let yes = yes.clone();
            let service = Server::answering(move |_| match case {
                0 => grpc(&yes, "14"),
                // Compressed, longer than it is, no frame, no message, no status.
                1 => plain(framed(1, 0)),
                2 => plain(framed(0, 1)),
                3 => plain(Bytes::from_static(b"\0\0")),
                4 => grpc(&[0xff], "0"),
                _ => Response::new(Body::of(framed(0, 0))),
            })
            .await;
            let backend = Server::new().await;
            let filter = Filter::ExternalAuth(Arc::new(by_grpc(&service)));
            let local = serving(vec![filtered(vec![filter], vec![backend.backend()])]);
            assert_eq!(ask(&local, "GET /", "").await.status, 403, "{case}");
            assert_eq!((local.metrics.answered(Reason::AuthUnavailable), backend.asked().len()), (1, 0));
        }
        // An empty message says OK: proto3 has no other way to write its 0.
        let service = Server::answering(move |_| plain(framed(0, 0))).await;
        assert_eq!(with(by_grpc(&service), "GET /", "").await.0.status, 200);
    });
}
