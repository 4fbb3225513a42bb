//! Which connections requests go by.

use futures_util::future::join_all;
use http::Version;
use tokio::time::sleep;

use super::*;

#[test]
fn a_connection_has_one_request_after_the_other() {
    run(async {
        let server = server(100, |_| async { text("yes") }).await;
        let gateway = Gateway::to(&server.endpoint);
        for _ in 0..5 {
            assert_eq!(gateway.get().await, (200, "yes".to_owned()));
        }
        assert_eq!(server.connections.get(), 1);
    });
}

#[test]
fn a_connection_that_the_backend_closes_between_requests_fails_none() {
    run(async {
        let server = accepting(|mut stream| async move {
            read_head(&mut stream).await;
            write(&mut stream, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").await;
        })
        .await;
        let gateway = Gateway::to(&server.endpoint);
        for _ in 0..5 {
            assert_eq!(gateway.send(post("a")).await.status(), 200);
            sleep(Duration::from_millis(10)).await;
        }
        assert_eq!(server.connections.get(), 5);
    });
}

/// The second request of a connection is never answered: it and the end of the connection meet.
async fn meeting() -> Server {
    accepting(|mut stream| async move {
        read_head(&mut stream).await;
        write(&mut stream, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").await;
        read_head(&mut stream).await;
    })
    .await
}

#[test]
fn a_request_that_meets_the_end_of_its_connection_goes_by_a_new_one_if_that_is_safe() {
    run(async {
        let server = meeting().await;
        let gateway = Gateway::to(&server.endpoint);
        for _ in 0..4 {
            assert_eq!(gateway.send(get("/")).await.status(), 200);
        }
        assert_eq!(server.connections.get(), 4);
        assert_eq!(gateway.send(post("a")).await.status(), 502, "it may have been done");
        // By a new connection the same is the backend's fault.
        let server = accepting(|mut stream| async move { drop(read_head(&mut stream).await) }).await;
        assert_eq!(Gateway::to(&server.endpoint).send(get("/")).await.status(), 502);
        assert_eq!(server.connections.get(), 1);
    });
}

#[test]
fn an_endpoint_that_refuses_costs_nobody_a_request() {
    run(async {
        let server = server(100, |_| async { text("yes") }).await;
        let gone = nobody().await;
        let gateway = Gateway::new(rule(vec![to(cluster(vec![gone, server.endpoint.clone()]))]));
        for _ in 0..6 {
            assert_eq!(gateway.send(post("a")).await.status(), 200);
        }
        assert_eq!(Gateway::to(&nobody().await).get().await.0, 502);
        assert_eq!(Gateway::new(rule(vec![to(cluster(Vec::new()))])).get().await.0, 503);
    });
}

#[test]
fn requests_that_come_at_once_share_a_connection_of_http2() {
    run(async {
        let server = server(100, |request| async move {
            sleep(Duration::from_millis(20)).await;
            assert_eq!(request.version(), Version::HTTP_2);
            text("yes")
        })
        .await;
        let gateway = Gateway::speaking(Application::H2c, &server.endpoint);
        let all = join_all((0..20).map(|_| gateway.get())).await;
        assert!(all.iter().all(|got| got.0 == 200), "{all:?}");
        assert_eq!(server.connections.get(), 1);
        // Nobody there: everybody is told so.
        let gateway = Gateway::speaking(Application::H2c, &nobody().await);
        let all = join_all((0..20).map(|_| gateway.get())).await;
        assert!(all.iter().all(|got| got.0 == 502), "{all:?}");
    });
}

#[test]
fn http2_has_more_connections_when_streams_run_out() {
    run(async {
        // Nobody is answered before all are there.
        let here = Rc::new(Cell::new(0));
        let all_here = Rc::clone(&here);
        let server = server(2, move |_| {
            let here = Rc::clone(&all_here);
            async move {
                here.set(here.get() + 1);
                while here.get() < 7 {
                    sleep(Duration::from_millis(1)).await;
                }
                text("yes")
            }
        })
        .await;
        let gateway = Gateway::speaking(Application::H2c, &server.endpoint);
        let all = join_all((0..7).map(|_| gateway.get())).await;
        assert!(all.iter().all(|got| got.0 == 200), "{all:?}");
        assert_eq!(server.connections.get(), 4);
        assert_eq!(gateway.get().await.0, 200);
        assert_eq!(server.connections.get(), 4);
    });
}

#[test]
fn what_nobody_uses_goes() {
    run(async {
        let one = server(100, |_| async { text("yes") }).await;
        let two = server(100, |_| async { text("yes") }).await;
        let (http1, http2) = (Gateway::to(&one.endpoint), Gateway::speaking(Application::H2c, &two.endpoint));
        for gateway in [&http1, &http2] {
            gateway.get().await;
            let pool = &gateway.local.pool;
            assert!(!pool.is_empty());
            for _ in 0..9 {
                pool.sweep();
            }
            assert!(!pool.is_empty());
            pool.sweep();
            assert!(pool.is_empty());
            gateway.get().await;
        }
        assert_eq!((one.connections.get(), two.connections.get()), (2, 2));
    });
}

#[test]
fn backends_have_their_weight_of_requests() {
    run(async {
        let one = server(100, |_| async { text("one") }).await;
        let two = server(100, |_| async { text("two") }).await;
        let backend = |weight, server: &Server| Backend { weight, ..to(cluster(vec![server.endpoint.clone()])) };
        let invalid = Backend { weight: 1, filters: Vec::new(), target: Target::Invalid };
        let gateway = Gateway::new(rule(vec![backend(1, &one), backend(2, &two), invalid]));
        let mut got = std::collections::BTreeMap::<_, usize>::new();
        let mut client = gateway.http1().await;
        for _ in 0..400 {
            client.ready().await.unwrap();
            *got.entry(whole(client.send_request(get("/")).await.unwrap()).await).or_default() += 1;
        }
        let count = |status, body: &str| got[&(status, body.to_owned())];
        assert!((60..140).contains(&count(200, "one")), "{got:?}");
        assert!((150..250).contains(&count(200, "two")), "{got:?}");
        assert!((60..140).contains(&count(500, "")), "{got:?}");
    });
}

#[test]
fn an_endpoint_that_wants_a_proxy_header_gets_one_per_connection() {
    run(async {
        let server = accepting(|mut stream| async move {
            let mut header = [0; 16];
            stream.read_exact(&mut header).await.unwrap();
            assert_eq!(header, *b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0");
            for _ in 0..2 {
                assert!(read_head(&mut stream).await.starts_with("GET / HTTP/1.1\r\n"));
                write(&mut stream, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").await;
            }
        })
        .await;
        let wants = Endpoint { proxy_protocol: true, ..server.endpoint.clone() };
        let gateway = Gateway::to(&wants);
        assert_eq!(gateway.get().await.0, 200);
        assert_eq!(gateway.get().await.0, 200);
        assert_eq!(server.connections.get(), 1);
    });
}
