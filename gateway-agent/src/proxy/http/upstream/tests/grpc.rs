//! Calls of gRPC: HTTP/2 on both sides, trailers at the end.

use http::{HeaderMap, HeaderName, HeaderValue};
use http_body_util::StreamBody;
use hyper::body::Frame;
use tokio::sync::mpsc;

use super::super::super::body::BodyError;
use super::*;

/// Says back each message as it comes, and that all went well.
async fn echo() -> Server {
    server(100, |request| async move {
        assert_eq!((&request.headers()["te"], request.uri().path()), (&HeaderValue::from_static("trailers"), "/a.B/C"));
        let (messages, stream) = messages();
        tokio::task::spawn_local(async move {
            let mut body = request.into_body();
            while let Some(Ok(frame)) = body.frame().await {
                messages.send(frame).await.unwrap();
            }
            messages.send(Frame::trailers(status("0"))).await.unwrap();
        });
        http::Response::builder().header("content-type", "application/grpc").body(stream).unwrap()
    })
    .await
}

fn status(code: &'static str) -> HeaderMap {
    HeaderMap::from_iter([(HeaderName::from_static("grpc-status"), HeaderValue::from_static(code))])
}

fn messages() -> (mpsc::Sender<Frame<Bytes>>, Body) {
    let (send, mut frames) = mpsc::channel(4);
    let stream =
        futures_util::stream::poll_fn(move |cx| frames.poll_recv(cx).map(|frame| frame.map(Ok::<_, BodyError>)));
    (send, Body::boxed(StreamBody::new(stream)))
}

fn call(body: Body) -> http::Request<Body> {
    let request = http::Request::post("http://example.com/a.B/C").header("content-type", "application/grpc");
    request.header("te", "trailers").body(body).unwrap()
}

#[test]
fn messages_go_both_ways_while_the_call_lasts() {
    run(async {
        let server = echo().await;
        let gateway = Gateway::speaking(Application::H2c, &server.endpoint);
        let mut client = gateway.http2().await;
        for messages_of_call in [0, 1, 20] {
            let (messages, body) = messages();
            let mut response = client.send_request(call(body)).await.unwrap();
            for i in 0..messages_of_call {
                let message = Bytes::from(format!("message {i}"));
                messages.send(Frame::data(message.clone())).await.unwrap();
                // The answer to one comes before the next goes.
                assert_eq!(response.frame().await.unwrap().unwrap().into_data().unwrap(), message);
            }
            drop(messages);
            let end = response.into_body().collect().await.unwrap();
            assert_eq!(end.trailers().unwrap()["grpc-status"], "0");
        }
        assert_eq!(server.connections.get(), 1);
    });
}

#[test]
fn an_error_without_messages_goes_as_it_is() {
    run(async {
        let server = server(100, |_| async {
            let response = http::Response::builder().header("content-type", "application/grpc");
            response.header("grpc-status", "5").header("grpc-message", "none").body(Body::empty()).unwrap()
        })
        .await;
        let gateway = Gateway::speaking(Application::H2c, &server.endpoint);
        let response = gateway.http2().await.send_request(call(Body::empty())).await.unwrap();
        assert!(hyper::body::Body::is_end_stream(response.body()), "trailers only");
        assert_eq!(
            (&response.headers()["grpc-status"], &response.headers()["grpc-message"]),
            (&"5".parse().unwrap(), &"none".parse().unwrap())
        );
    });
}

#[test]
fn what_the_agent_has_to_say_of_a_call_is_a_status_of_grpc() {
    run(async {
        let gone = nobody().await;
        let slow = server(100, |_| async {
            tokio::time::sleep(Duration::from_secs(30)).await;
            text("")
        })
        .await;
        let of = |endpoints: Vec<Endpoint>| vec![to(Cluster { application: Application::H2c, ..cluster(endpoints) })];
        let hasty = Timeouts { request: Some(Duration::from_millis(50)), backend_request: None };
        for (rule, code) in [
            (rule(of(vec![gone])), "14"),
            (rule(of(Vec::new())), "14"),
            (Rule { timeouts: hasty, ..rule(of(vec![slow.endpoint.clone()])) }, "4"),
        ] {
            let response = Gateway::new(rule).http2().await.send_request(call(Body::empty())).await.unwrap();
            assert_eq!((response.status().as_u16(), response.headers()["grpc-status"].to_str().unwrap()), (200, code));
        }
    });
}

#[test]
fn a_stream_that_is_reset_is_reset_on_the_other_side_too() {
    run(async {
        let (told, mut gone) = mpsc::channel(1);
        let server = server(100, move |request| {
            let told = told.clone();
            async move {
                let (messages, stream) = messages();
                tokio::task::spawn_local(async move {
                    messages.send(Frame::data("one".into())).await.unwrap();
                    assert!(request.into_body().collect().await.is_err());
                    told.send(()).await.unwrap();
                });
                http::Response::new(stream)
            }
        })
        .await;
        let gateway = Gateway::speaking(Application::H2c, &server.endpoint);
        let mut client = gateway.http2().await;
        let (messages, body) = messages();
        let mut response = client.send_request(call(body)).await.unwrap();
        response.frame().await.unwrap().unwrap();
        drop((response, messages));
        timeout(Duration::from_secs(5), gone.recv()).await.expect("the backend is told").unwrap();
    });
}
