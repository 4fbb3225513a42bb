//! Attempts and time-outs.

use tokio::time::{Instant, sleep};

use super::*;

/// Answers 503 so many times, then with what it got.
async fn failing(times: usize, requests: &Rc<Cell<usize>>) -> Server {
    let requests = Rc::clone(requests);
    server(100, move |request| {
        requests.set(requests.get() + 1);
        let fails = requests.get() <= times;
        async move {
            let body = request.into_body().collect().await.unwrap().to_bytes();
            let mut response = text(if fails { Bytes::from("no") } else { body });
            *response.status_mut() = if fails { http::StatusCode::SERVICE_UNAVAILABLE } else { http::StatusCode::OK };
            response
        }
    })
    .await
}

fn put(body: Body) -> http::Request<Body> {
    http::Request::put("/").header("host", "example.com").body(body).unwrap()
}

#[test]
fn an_answer_that_is_not_wanted_is_asked_for_again() {
    run(async {
        for application in [Application::Http, Application::H2c] {
            let requests = Rc::default();
            let server = failing(2, &requests).await;
            let backends = || vec![to(Cluster { application, ..cluster(vec![server.endpoint.clone()]) })];
            let gateway = Gateway::new(retrying(&[503], 2, backends()));
            let got = whole(gateway.send(put(Body::of("the body".into()))).await).await;
            assert_eq!((got, requests.get()), ((200, "the body".to_owned()), 3));
            assert_eq!(server.connections.get(), 1, "what nobody wants is read");
            for (rule, request, status) in [
                (retrying(&[503], 1, backends()), put(Body::empty()), 503),
                (retrying(&[500], 2, backends()), get("/"), 503),
                (retrying(&[503], 2, backends()), post("a"), 503),
                (rule(backends()), get("/"), 503),
            ] {
                requests.set(0);
                gateway.publish(rule);
                assert_eq!(gateway.send(request).await.status(), status);
            }
        }
    });
}

#[test]
fn a_body_is_kept_as_far_as_there_is_room() {
    run(async {
        for (size, status) in [(64 << 10, 200), ((64 << 10) + 1, 503)] {
            let requests = Rc::default();
            let server = failing(1, &requests).await;
            let gateway = Gateway::new(retrying(&[503], 3, vec![to(cluster(vec![server.endpoint.clone()]))]));
            let body = vec![b'a'; size];
            let got = whole(gateway.send(put(Body::of(body.clone().into()))).await).await;
            assert_eq!(got.0, status);
            assert!(status != 200 || got.1.as_bytes() == body);
            // Of a length that nobody knows before.
            requests.set(0);
            let streamed = http_body_util::StreamBody::new(futures_util::stream::iter(
                body.chunks(1_000)
                    .map(|part| Ok(hyper::body::Frame::data(Bytes::copy_from_slice(part))))
                    .collect::<Vec<_>>(),
            ));
            let got = whole(gateway.send(put(Body::boxed(streamed))).await).await;
            assert_eq!(got.0, status);
            assert!(status != 200 || got.1.as_bytes() == body);
        }
    });
}

#[test]
fn a_connection_that_breaks_is_tried_again_where_told() {
    run(async {
        let broken = Rc::new(Cell::new(0));
        let count = Rc::clone(&broken);
        let server = accepting(move |mut stream| {
            count.set(count.get() + 1);
            let breaks = count.get() % 3 != 0;
            async move {
                read_head(&mut stream).await;
                if !breaks {
                    write(&mut stream, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n").await;
                }
            }
        })
        .await;
        let gateway = Gateway::new(retrying(&[], 2, vec![to(cluster(vec![server.endpoint.clone()]))]));
        assert_eq!(gateway.get().await.0, 200);
        assert_eq!(broken.get(), 3);
        assert_eq!(gateway.send(post("a")).await.status(), 502, "it may have been done");
        assert_eq!(broken.get(), 4);
    });
}

#[test]
fn what_takes_too_long_is_given_up() {
    run(async {
        let requests = Rc::new(Cell::new(0));
        let count = Rc::clone(&requests);
        let server = server(100, move |_| {
            count.set(count.get() + 1);
            async move {
                sleep(Duration::from_secs(30)).await;
                text("late")
            }
        })
        .await;
        let backends = || vec![to(cluster(vec![server.endpoint.clone()]))];
        let time = |millis| Some(Duration::from_millis(millis));
        let (whole, each) = (time(200), time(60));
        for (rule, attempts, took) in [
            (Rule { timeouts: Timeouts { request: whole, backend_request: None }, ..rule(backends()) }, 1, 200),
            (Rule { timeouts: Timeouts { request: None, backend_request: each }, ..rule(backends()) }, 1, 60),
            (
                Rule { timeouts: Timeouts { request: None, backend_request: each }, ..retrying(&[], 1, backends()) },
                2,
                120,
            ),
            (
                Rule { timeouts: Timeouts { request: whole, backend_request: each }, ..retrying(&[], 9, backends()) },
                3,
                180,
            ),
        ] {
            requests.set(0);
            let (gateway, began) = (Gateway::new(rule), Instant::now());
            assert_eq!(gateway.get().await.0, 504);
            let (took, took_really) = (Duration::from_millis(took), began.elapsed());
            assert!(took_really >= took && took_really < took + Duration::from_secs(2), "{took_really:?}");
            assert!(requests.get() == attempts || attempts == 3 && requests.get() <= 4, "{}", requests.get());
        }
    });
}

#[test]
fn what_is_no_http_is_a_bad_answer() {
    run(async {
        let server = accepting(|mut stream| async move {
            read_head(&mut stream).await;
            write(&mut stream, "220 mail.example.com ESMTP\r\n\r\n").await;
        })
        .await;
        let gateway = Gateway::to(&server.endpoint);
        assert_eq!(gateway.get().await.0, 502);
        assert_eq!(gateway.local.metrics.answered(crate::proxy::http::answer::Reason::BadResponse), 1);
    });
}
