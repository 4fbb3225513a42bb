//! Bodies on their way.

use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering::Relaxed;

use http::{HeaderMap, HeaderValue};
use http_body_util::StreamBody;
use hyper::body::Frame;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep};

use super::super::super::body::BodyError;
use super::*;

/// A body that goes frame by frame.
fn channel() -> (mpsc::Sender<Frame<Bytes>>, Body) {
    let (send, mut frames) = mpsc::channel(1);
    let stream =
        futures_util::stream::poll_fn(move |cx| frames.poll_recv(cx).map(|frame| frame.map(Ok::<_, BodyError>)));
    (send, Body::boxed(StreamBody::new(stream)))
}

fn data(text: &'static str) -> Frame<Bytes> {
    Frame::data(Bytes::from_static(text.as_bytes()))
}

#[test]
fn trailers_go_both_ways() {
    run(async {
        for (client2, application) in [(false, Application::Http), (true, Application::Http), (true, Application::H2c)]
        {
            let server = server(100, |request| async move {
                let got = request.into_body().collect().await.unwrap();
                let trailers = got.trailers().cloned().expect("trailers");
                assert_eq!(got.to_bytes(), "body");
                let (frames, body) = channel();
                tokio::task::spawn_local(async move {
                    frames.send(data("answer")).await.unwrap();
                    frames.send(Frame::trailers(trailers)).await.unwrap();
                });
                http::Response::builder().header("trailer", "x-sum").body(body).unwrap()
            })
            .await;
            let gateway = Gateway::speaking(application, &server.endpoint);
            let (frames, body) = channel();
            let request = http::Request::post(if client2 { "http://example.com/" } else { "/" })
                .header("te", "trailers")
                .header("trailer", "x-sum");
            let request = if client2 { request } else { request.header("host", "example.com") }.body(body).unwrap();
            tokio::task::spawn_local(async move {
                let trailers = HeaderMap::from_iter([("x-sum".parse().unwrap(), HeaderValue::from_static("7"))]);
                frames.send(data("body")).await.unwrap();
                frames.send(Frame::trailers(trailers)).await.unwrap();
            });
            let response = if client2 {
                gateway.http2().await.send_request(request).await.unwrap()
            } else {
                gateway.send(request).await
            };
            let got = response.into_body().collect().await.unwrap();
            assert_eq!(got.trailers().expect("trailers")["x-sum"], "7", "{client2} {application:?}");
            assert_eq!(got.to_bytes(), "answer");
        }
    });
}

#[test]
fn trailers_by_http2_need_no_announcement_for_http1() {
    run(async {
        let server = server(100, |request| async move {
            let got = request.into_body().collect().await.unwrap();
            text(got.trailers().and_then(|trailers| trailers.get("x-sum")).map_or("none", |_| "some"))
        })
        .await;
        let (frames, body) = channel();
        let request = http::Request::post("http://example.com/").body(body).unwrap();
        tokio::task::spawn_local(async move {
            let trailers = HeaderMap::from_iter([("x-sum".parse().unwrap(), HeaderValue::from_static("7"))]);
            frames.send(data("body")).await.unwrap();
            frames.send(Frame::trailers(trailers)).await.unwrap();
        });
        let response = Gateway::to(&server.endpoint).http2().await.send_request(request).await.unwrap();
        assert_eq!(whole(response).await, (200, "some".to_owned()));
    });
}

#[test]
fn events_go_when_they_come() {
    run(async {
        for application in [Application::Http, Application::H2c] {
            let (events, body) = channel();
            let body = Rc::new(Cell::new(Some(body)));
            let server = server(100, move |_| {
                let body = body.take().unwrap();
                async move { http::Response::builder().header("content-type", "text/event-stream").body(body).unwrap() }
            })
            .await;
            let mut body = Gateway::speaking(application, &server.endpoint).send(get("/")).await.into_body();
            for _ in 0..10 {
                events.send(data("data: 1\n\n")).await.unwrap();
                let got = timeout(Duration::from_secs(2), body.frame()).await.expect("at once").unwrap().unwrap();
                assert_eq!(got.into_data().unwrap(), "data: 1\n\n");
            }
        }
    });
}

#[test]
fn a_body_waits_until_the_backend_asks_for_it() {
    run(async {
        // It says no: the body never goes.
        let server = accepting(|mut stream| async move {
            let head = read_head(&mut stream).await;
            assert!(head.contains("expect: 100-continue\r\n"), "{head}");
            write(&mut stream, "HTTP/1.1 417 Expectation Failed\r\nContent-Length: 0\r\n\r\n").await;
            sleep(Duration::from_secs(5)).await;
        })
        .await;
        let head = "POST / HTTP/1.1\r\nHost: example.com\r\nContent-Length: 4\r\nExpect: 100-continue\r\n\r\n";
        let mut client = Gateway::to(&server.endpoint).connect().await;
        write(&mut client, head).await;
        let got = read_head(&mut client).await;
        assert!(got.starts_with("HTTP/1.1 417 "), "{got}");

        // It says yes, or nothing.
        for asks in [true, false] {
            let server = accepting(move |mut stream| async move {
                read_head(&mut stream).await;
                let mut body = [0; 4];
                if asks {
                    let none = timeout(Duration::from_millis(100), stream.read(&mut body)).await;
                    assert!(none.is_err(), "not asked yet");
                    write(&mut stream, "HTTP/1.1 100 Continue\r\n\r\n").await;
                }
                stream.read_exact(&mut body).await.unwrap();
                assert_eq!(&body, b"body");
                write(&mut stream, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").await;
            })
            .await;
            let mut client = Gateway::to(&server.endpoint).connect().await;
            let began = Instant::now();
            write(&mut client, head).await;
            assert_eq!(read_head(&mut client).await, "HTTP/1.1 100 Continue\r\n\r\n");
            assert_eq!(began.elapsed() < Duration::from_millis(900), asks, "{:?}", began.elapsed());
            write(&mut client, "body").await;
            let got = read_head(&mut client).await;
            assert!(got.starts_with("HTTP/1.1 200 "), "{got}");
        }
    });
}

#[test]
fn an_answer_may_come_before_the_request_has_ended() {
    run(async {
        for application in [Application::Http, Application::H2c] {
            let server = server(100, |request| async move {
                tokio::task::spawn_local(request.into_body().collect());
                text("early")
            })
            .await;
            let gateway = Gateway::speaking(application, &server.endpoint);
            let (frames, body) = channel();
            frames.send(data("beginning")).await.unwrap();
            let request = http::Request::post("http://example.com/").body(body).unwrap();
            let response = gateway.http2().await.send_request(request).await.unwrap();
            assert_eq!(whole(response).await, (200, "early".to_owned()));
            // The connection is in the middle of it: others go by another.
            assert_eq!(gateway.get().await.0, 200);
            drop(frames);
        }
    });
}

#[test]
fn answers_without_a_body_have_none() {
    run(async {
        for head in [
            "HTTP/1.1 200 OK\r\nContent-Length: 1000",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked",
            "HTTP/1.1 204 No Content",
            "HTTP/1.1 304 Not Modified",
        ] {
            let server = accepting(move |mut stream| async move {
                while !read_head(&mut stream).await.is_empty() {
                    write(&mut stream, &format!("{head}\r\nETag: \"a\"\r\n\r\n")).await;
                }
            })
            .await;
            let gateway = Gateway::to(&server.endpoint);
            let mut client = gateway.connect().await;
            let method = if head.contains("200") { "HEAD" } else { "GET" };
            for _ in 0..2 {
                write(&mut client, &format!("{method} / HTTP/1.1\r\nHost: example.com\r\n\r\n")).await;
                let got = read_head(&mut client).await;
                assert!(got.starts_with(head.split_once("\r\n").map_or(head, |line| line.0)), "{got}");
                assert_eq!(got.contains("content-length: 1000\r\n"), head.contains("1000"), "{got}");
                assert!(!got.contains("content-length: 0\r\n"), "{got}");
            }
            assert_eq!(server.connections.get(), 1);
        }
    });
}

#[test]
fn a_get_may_have_a_body_of_unknown_length() {
    run(async {
        let server =
            server(100, |request| async move { text(request.into_body().collect().await.unwrap().to_bytes()) });
        let mut client = Gateway::to(&server.await.endpoint).connect().await;
        let head = "GET / HTTP/1.1\r\nHost: example.com\r\nTransfer-Encoding: chunked\r\n\r\n";
        write(&mut client, &format!("{head}4\r\nbody\r\n0\r\n\r\n")).await;
        let got = read_head(&mut client).await;
        assert!(got.contains("content-length: 4\r\n"), "{got}");
    });
}

#[test]
fn a_body_that_the_client_breaks_off_is_no_fault_of_the_backend() {
    run(async {
        let server = server(100, |request| async move {
            assert!(request.into_body().collect().await.is_err());
            text("")
        });
        let gateway = Gateway::to(&server.await.endpoint);
        let mut client = gateway.connect().await;
        write(&mut client, "POST / HTTP/1.1\r\nHost: example.com\r\nTransfer-Encoding: chunked\r\n\r\nnonsense\r\n")
            .await;
        let got = read_head(&mut client).await;
        assert!(got.starts_with("HTTP/1.1 400 "), "{got}");
    });
}

#[test]
fn an_answer_that_breaks_off_is_not_taken_for_whole() {
    run(async {
        let server = accepting(|mut stream| async move {
            read_head(&mut stream).await;
            write(&mut stream, "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf").await;
        });
        let gateway = Gateway::to(&server.await.endpoint);
        assert!(gateway.send(get("/")).await.into_body().collect().await.is_err());
        let mut client = gateway.http2().await;
        let response = client.send_request(get("http://example.com/")).await.unwrap();
        assert!(response.into_body().collect().await.is_err());
    });
}

const PART: usize = 64 << 10;
/// Sockets take a few MiB on either side.
const UNDER_WAY: usize = 32 << 20;

/// So many bytes, and how many of them have been taken.
fn large(size: usize, sent: &Arc<AtomicUsize>) -> Body {
    let (sent, part) = (Arc::clone(sent), Bytes::from(vec![b'a'; PART]));
    let parts = std::iter::from_fn(move || {
        let goes = sent.fetch_add(PART, Relaxed) < size;
        goes.then(|| Ok::<_, BodyError>(Frame::data(part.clone())))
    });
    Body::boxed(StreamBody::new(futures_util::stream::iter(parts)))
}

/// Reads it, and sees that little is held on its way.
async fn read(mut body: Incoming, sent: Arc<AtomicUsize>) -> usize {
    let mut read = 0;
    loop {
        let under_way = sent.load(Relaxed) - read;
        assert!(under_way < UNDER_WAY, "{under_way} bytes under way after {read}");
        let Some(frame) = body.frame().await else { break };
        read += frame.unwrap().into_data().unwrap().len();
    }
    read
}

#[test]
fn large_bodies_go_either_way_and_little_of_them_is_held() {
    run(async {
        for (application, size) in [(Application::Http, 256 << 20), (Application::H2c, 64 << 20)] {
            let sent: Arc<AtomicUsize> = Arc::default();
            let (down, up) = (Arc::clone(&sent), Arc::clone(&sent));
            let server = server(100, move |request| {
                let (down, up) = (Arc::clone(&down), Arc::clone(&up));
                async move {
                    if request.method() == http::Method::GET {
                        return http::Response::new(large(size, &down));
                    }
                    let got = read(request.into_body(), up).await;
                    http::Response::new(Body::of(got.to_string().into()))
                }
            })
            .await;
            let gateway = Gateway::speaking(application, &server.endpoint);
            let body = gateway.send(get("/")).await.into_body();
            assert_eq!(read(body, Arc::clone(&sent)).await, size);
            sent.store(0, Relaxed);
            let request = http::Request::post("/").header("host", "example.com").body(large(size, &sent)).unwrap();
            assert_eq!(whole(gateway.send(request).await).await, (200, size.to_string()));
        }
    });
}

#[test]
fn a_client_that_reads_nothing_stops_its_backend() {
    run(async {
        for application in [Application::Http, Application::H2c] {
            let sent: Arc<AtomicUsize> = Arc::default();
            let of_server = Arc::clone(&sent);
            let server = server(100, move |_| {
                let body = large(1 << 30, &of_server);
                async move { http::Response::new(body) }
            })
            .await;
            let response = Gateway::speaking(application, &server.endpoint).send(get("/")).await;
            let mut before = 0;
            // Until no more goes.
            while sent.load(Relaxed) > before {
                before = sent.load(Relaxed);
                sleep(Duration::from_millis(300)).await;
            }
            assert!(before > 0 && before < UNDER_WAY, "{before} bytes under way");
            drop(response);
        }
    });
}
