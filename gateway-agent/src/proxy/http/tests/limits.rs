//! What clients may not do, and how long they have for what they may.

use super::*;

async fn local<T>(test: impl Future<Output = T>) -> T {
    within(10, test).await
}

fn limited(change: impl FnOnce(&mut ir::Limits)) -> ir::Settings {
    let mut settings = ir::Settings::default();
    change(&mut settings.limits);
    settings
}

/// To the end of the connection.
async fn read_all(stream: &mut TcpStream) -> String {
    let mut got = Vec::new();
    stream.read_to_end(&mut got).await.expect("an end, no reset");
    String::from_utf8(got).unwrap()
}

/// Takes connections, and never answers.
async fn silent() -> (TcpListener, Endpoint) {
    let socket = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = socket.local_addr().unwrap().to_string();
    (socket, endpoint(&address))
}

#[tokio::test]
async fn what_is_malformed_is_answered_after_what_came_before_and_ends_the_connection() {
    local(async {
        let local = serving(Vec::new());
        for (bad, status, reason) in [
            ("GET / HTTP/1.1\nHost: a\n\n", "400", Reason::BadRequest),
            ("GET / HTTP/3.0\r\nHost: a\r\n\r\n", "505", Reason::UnsupportedVersion),
            ("POST / HTTP/1.1\r\nTransfer-Encoding: gzip, chunked\r\n\r\n", "501", Reason::UnsupportedCoding),
            (
                "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\nContent-Length: 4\r\n\r\n0\r\n\r\nGET",
                "400",
                Reason::BadRequest,
            ),
        ] {
            let before = local.metrics.answered(reason);
            for first in [
                "",
                "GET / HTTP/1.1\r\nHost: example.com\r\n\r\n",
                "POST / HTTP/1.1\r\nHost: example.com\r\nContent-Length: 1\r\n\r\nx",
            ] {
                let mut client = client(&local, Security::Clear).await;
                client.write_all(format!("{first}{bad}").as_bytes()).await.unwrap();
                let got = read_all(&mut client).await;
                let refusal = match first {
                    "" => &got[..],
                    _ => {
                        assert!(got.starts_with("HTTP/1.1 404 "), "{bad}: {got}");
                        got.rsplit_once("HTTP/1.1 ").map(|(before, _)| &got[before.len()..]).unwrap()
                    }
                };
                assert!(refusal.starts_with(&format!("HTTP/1.1 {status} ")), "{first}{bad}: {got}");
                assert!(refusal.contains("connection: close\r\n"), "{got}");
            }
            assert_eq!(local.metrics.answered(reason), before + 3, "{bad}");
        }
    })
    .await;
}

#[tokio::test]
async fn what_is_too_large_is_refused_before_it_is_read_whole() {
    local(async {
        let local = serving(Vec::new());
        let settings = limited(|limits| {
            (limits.uri_bytes, limits.header_bytes, limits.headers) = (1000, 2000, 10);
        });
        let long = "x".repeat(3000);
        for (head, status, reason) in [
            (format!("GET /{long}"), "414", Reason::UriTooLong),
            (format!("GET / HTTP/1.1\r\nA: {long}"), "431", Reason::HeadersTooLarge),
            (format!("GET / HTTP/1.1\r\n{}", "a: b\r\n".repeat(11)), "431", Reason::HeadersTooLarge),
        ] {
            let (mut client, _going) = client_of(&local, Security::Clear, settings.clone()).await;
            client.write_all(head.as_bytes()).await.unwrap();
            let got = read_all(&mut client).await;
            assert!(got.starts_with(&format!("HTTP/1.1 {status} ")), "{got}");
            assert_eq!(local.metrics.answered(reason), 1 + u64::from(head.contains("a: b")), "{status}");
        }
    })
    .await;
}

#[tokio::test]
async fn a_client_that_is_slow_gets_408_and_one_that_asks_nothing_gets_nothing() {
    local(async {
        let (_socket, backend) = silent().await;
        let local = serving(vec![rule("/slow", vec![to(vec![backend])])]);
        let short = Duration::from_millis(60);
        let settings =
            limited(|limits| (limits.header_time, limits.body_idle, limits.idle) = (short, short, 4 * short));
        let waited = |came: tokio::time::Instant| came.elapsed();
        for (begun, got_first) in [
            ("G", ""),
            ("GET / HTTP/1.1\r\nHost: exa", ""),
            ("POST /slow HTTP/1.1\r\nHost: example.com\r\nContent-Length: 10\r\n\r\nabc", ""),
            ("POST /slow HTTP/1.1\r\nHost: example.com\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc", ""),
            ("GET / HTTP/1.1\r\nHost: example.com\r\n\r\nGET", "HTTP/1.1 404 "),
        ] {
            let before = local.metrics.answered(Reason::RequestTimeout);
            let (mut client, _going) = client_of(&local, Security::Clear, settings.clone()).await;
            client.write_all(begun.as_bytes()).await.unwrap();
            let came = tokio::time::Instant::now();
            let got = read_all(&mut client).await;
            assert!(got.starts_with(got_first) && got.contains("HTTP/1.1 408 "), "{begun}: {got}");
            assert!(waited(came) >= short / 2 && waited(came) < Duration::from_secs(2), "{begun}: {:?}", waited(came));
            assert_eq!(local.metrics.answered(Reason::RequestTimeout), before + 1, "{begun}");
        }
        assert_eq!(local.metrics.answered(Reason::Unreachable), 0, "the backends are not to blame");
        // Bytes that come in time keep a body under way.
        let (mut client, _going) = client_of(&local, Security::Clear, settings.clone()).await;
        client.write_all(b"POST /slow HTTP/1.1\r\nHost: example.com\r\nContent-Length: 10\r\n\r\n").await.unwrap();
        for _ in 0..6 {
            tokio::time::sleep(short / 2).await;
            client.write_all(b"x").await.unwrap();
        }
        assert!(read_all(&mut client).await.starts_with("HTTP/1.1 408 "));
        for asked in ["", "GET / HTTP/1.1\r\nHost: example.com\r\n\r\n"] {
            let (mut client, _going) = client_of(&local, Security::Clear, settings.clone()).await;
            client.write_all(asked.as_bytes()).await.unwrap();
            let came = tokio::time::Instant::now();
            let got = read_all(&mut client).await;
            assert_eq!(got.matches("HTTP/1.1").count(), asked.matches("HTTP/1.1").count(), "{got}");
            assert!(waited(came) >= 3 * short, "{:?}", waited(came));
        }
    })
    .await;
}

#[tokio::test]
async fn a_backend_that_is_slow_is_waited_for() {
    local(async {
        let (socket, backend) = silent().await;
        let local = serving(vec![rule("/slow", vec![to(vec![backend])])]);
        let short = Duration::from_millis(40);
        let settings = limited(|limits| (limits.header_time, limits.body_idle, limits.idle) = (short, short, short));
        let (mut client, _going) = client_of(&local, Security::Clear, settings).await;
        client.write_all(b"GET /slow HTTP/1.1\r\nHost: example.com\r\n\r\n").await.unwrap();
        let (mut backend, _) = socket.accept().await.unwrap();
        read_heads(&mut backend, 1).await;
        tokio::time::sleep(5 * short).await;
        backend.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await.unwrap();
        let got = read_all(&mut client).await;
        assert!(got.starts_with("HTTP/1.1 200 ") && got.ends_with("ok"), "{got}");
    })
    .await;
}

#[tokio::test]
async fn a_client_has_its_time_from_when_its_body_is_asked_for() {
    local(async {
        let (socket, backend) = silent().await;
        let local = serving(vec![rule("/late", vec![to(vec![backend])])]);
        let settings = limited(|limits| limits.body_idle = Duration::from_millis(200));
        let (mut client, _going) = client_of(&local, Security::Clear, settings).await;
        let head = "POST /late HTTP/1.1\r\nHost: example.com\r\nContent-Length: 4\r\nExpect: 100-continue\r\n\r\n";
        client.write_all(head.as_bytes()).await.unwrap();
        let (mut backend, _) = socket.accept().await.unwrap();
        read_heads(&mut backend, 1).await;
        tokio::time::sleep(Duration::from_millis(500)).await;
        backend.write_all(b"HTTP/1.1 100 Continue\r\n\r\n").await.unwrap();
        let got = read_heads(&mut client, 1).await;
        assert!(got.starts_with("HTTP/1.1 100 "), "{got}");
        client.write_all(b"body").await.unwrap();
        backend.read_exact(&mut [0; 4]).await.unwrap();
        backend.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").await.unwrap();
        let got = read_heads(&mut client, 1).await;
        assert!(got.starts_with("HTTP/1.1 200 "), "{got}");
    })
    .await;
}

#[tokio::test]
async fn a_body_that_stops_in_the_middle_of_its_answer_is_counted() {
    local(async {
        let (socket, backend) = silent().await;
        let local = serving(vec![rule("/early", vec![to(vec![backend])])]);
        let settings = limited(|limits| limits.body_idle = Duration::from_millis(100));
        let (mut client, _going) = client_of(&local, Security::Clear, settings).await;
        client.write_all(b"POST /early HTTP/1.1\r\nHost: example.com\r\nContent-Length: 4\r\n\r\na").await.unwrap();
        let (mut backend, _) = socket.accept().await.unwrap();
        read_heads(&mut backend, 1).await;
        backend.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\na").await.unwrap();
        let got = read_all(&mut client).await;
        assert!(got.starts_with("HTTP/1.1 200 ") && got.ends_with("\r\n\r\na"), "{got}");
        while local.metrics.answered(Reason::RequestTimeout) == 0 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
}

#[tokio::test]
async fn a_client_that_takes_nothing_is_broken_off() {
    local(async {
        let (socket, backend) = silent().await;
        let local = serving(vec![rule("/large", vec![to(vec![backend])])]);
        let settings = limited(|limits| limits.body_idle = Duration::from_millis(100));
        let (mut client, _going) = client_of(&local, Security::Clear, settings).await;
        client.write_all(b"GET /large HTTP/1.1\r\nHost: example.com\r\n\r\n").await.unwrap();
        let (mut backend, _) = socket.accept().await.unwrap();
        read_heads(&mut backend, 1).await;
        backend.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000000\r\n\r\n").await.unwrap();
        // Until nobody takes it.
        let block = vec![0; 1 << 20];
        while backend.write_all(&block).await.is_ok() {}
        while local.metrics.answered(Reason::ClientStalled) == 0 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
}

#[tokio::test]
async fn connections_beyond_the_limit_are_answered_503() {
    local(async {
        let local = serving(Vec::new());
        let settings = limited(|limits| limits.connections = 2);
        let connect = || client_of(&local, Security::Clear, settings.clone());
        let (mut first, _second) = (connect().await, connect().await);
        assert!(get(&mut first.0, "example.com", "/").await.starts_with("HTTP/1.1 404 "));
        let mut third = connect().await;
        assert!(read_all(&mut third.0).await.starts_with("HTTP/1.1 503 "));
        assert_eq!(local.metrics.answered(Reason::TooManyConnections), 1);
        drop(first);
        tokio::time::sleep(Duration::from_millis(20)).await;
        assert!(get(&mut connect().await.0, "example.com", "/").await.starts_with("HTTP/1.1 404 "));
    })
    .await;
}

#[tokio::test]
async fn an_upgrade_that_is_refused_leaves_the_connection_what_it_was() {
    local(async {
        let local = serving(Vec::new());
        let mut client = client(&local, Security::Clear).await;
        let upgrade = "GET / HTTP/1.1\r\nHost: example.com\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n";
        let both = format!("{upgrade}GET / HTTP/1.1\r\nHost: example.com\r\n\r\n");
        client.write_all(both.as_bytes()).await.unwrap();
        assert_eq!(read_heads(&mut client, 2).await.matches("HTTP/1.1 404 ").count(), 2);
    })
    .await;
}

#[tokio::test]
async fn a_connection_drains_when_the_agent_stops_or_its_listener_goes() {
    local(async {
        let (socket, backend) = silent().await;
        for stops in [true, false] {
            let local = serving(vec![rule("/slow", vec![to(vec![backend.clone()])])]);
            let settings = ir::Settings::default();
            let (mut idle, going) = client_of(&local, Security::Clear, settings.clone()).await;
            assert!(get(&mut idle, "example.com", "/").await.starts_with("HTTP/1.1 404 "));
            let (mut busy, busy_going) = client_of(&local, Security::Clear, settings.clone()).await;
            let (mut late, late_going) = client_of(&local, Security::Clear, settings.clone()).await;
            assert!(get(&mut late, "example.com", "/").await.starts_with("HTTP/1.1 404 "));
            let (mut new, new_going) = client_of(&local, Security::Clear, settings).await;
            busy.write_all(b"GET /slow HTTP/1.1\r\nHost: example.com\r\n\r\n").await.unwrap();
            let (mut at_backend, _) = socket.accept().await.unwrap();
            read_heads(&mut at_backend, 1).await;
            if stops {
                [going, busy_going, late_going, new_going]
                    .iter()
                    .for_each(|going| going.send_modify(|stop| *stop = true));
            } else {
                std::mem::forget([going, busy_going, late_going, new_going]);
                local.publish_for_test(snapshot(Vec::new(), &local.snapshot()));
            }
            // One of its requests is on its way when the connection is to end: it is answered, and told so.
            loop {
                let got = get(&mut late, "example.com", "/").await;
                assert!(got.starts_with("HTTP/1.1 404 "), "{got}");
                if got.contains("connection: close") {
                    break;
                }
            }
            assert_eq!(read_all(&mut late).await, "");
            assert_eq!(read_all(&mut idle).await, "");
            assert_eq!(read_all(&mut new).await, "");
            at_backend.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await.unwrap();
            let got = read_all(&mut busy).await;
            assert!(
                got.starts_with("HTTP/1.1 200 ") && got.contains("connection: close") && got.ends_with("ok"),
                "{got}"
            );
            assert_eq!(local.metrics.connections.get(), local.metrics.closed.get());
        }
    })
    .await;
}

#[tokio::test]
async fn who_does_not_end_is_cut_off_after_the_drain_time() {
    local(async {
        let (_socket, backend) = silent().await;
        let local = serving(vec![rule("/slow", vec![to(vec![backend])])]);
        let drain = ir::Drain(Duration::from_millis(50));
        let (mut client, going) =
            client_of(&local, Security::Clear, ir::Settings { drain, ..ir::Settings::default() }).await;
        client.write_all(b"GET /slow HTTP/1.1\r\nHost: example.com\r\n\r\n").await.unwrap();
        tokio::time::sleep(Duration::from_millis(20)).await;
        going.send_replace(true);
        let came = tokio::time::Instant::now();
        assert_eq!(read_all(&mut client).await, "");
        assert!(came.elapsed() < Duration::from_secs(1));
    })
    .await;
}

/// Resident memory of this process.
fn resident() -> usize {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    statm.split(' ').nth(1).unwrap().parse::<usize>().unwrap() * 4096
}

/// So many clients that have sent half a head; a pipe each stands for the sockets, whose memory is the kernel's. Bytes for each.
async fn slow_clients(number: usize) -> usize {
    const HALF: &[u8] = b"GET / HTTP/1.1\r\nHost: example.com\r\nUser-Agent: slow\r\nCookie: a";
    let local = serving(Vec::new());
    let settings = limited(|limits| limits.connections = number + 1);
    let before = resident();
    let mut clients = Vec::with_capacity(number);
    let (_going, stop) = watch::channel(false);
    for _ in 0..number {
        let (mut client, served) = tokio::io::duplex(128);
        let origin = Origin { client: GATEWAY.parse().unwrap(), gateway: GATEWAY.parse().unwrap() };
        let of = Client { local: Rc::clone(&local), origin, security: Security::Clear };
        let (settings, stop) = (settings.clone(), stop.clone());
        tokio::task::spawn_local(async move { server::serve(served, of, &settings, stop).await });
        client.write_all(HALF).await.unwrap();
        clients.push(client);
    }
    tokio::time::sleep(Duration::from_millis(100)).await;
    let each = resident().saturating_sub(before) / number;
    // A normal one is not held up.
    let (mut normal, _going) = client_of(&local, Security::Clear, settings).await;
    let came = tokio::time::Instant::now();
    assert!(get(&mut normal, "example.com", "/").await.starts_with("HTTP/1.1 404 "));
    assert!(came.elapsed() < Duration::from_millis(500), "{:?}", came.elapsed());
    assert_eq!(clients.len(), number);
    each
}

#[tokio::test]
async fn slow_clients_cost_little() {
    let each = local(slow_clients(2000)).await;
    // 200 MiB for 10,000, with what the kernel and TLS need; over real sockets it is in tests/network/http/slow.rs.
    assert!(each < 10 << 10, "{each} bytes each");
}

fn shop(backend: Endpoint) -> (HostName, Vec<Rule>) {
    (HostName::Exact("example.com".into()), vec![rule("/slow", vec![to(vec![backend])])])
}

#[tokio::test]
async fn what_comes_when_memory_is_used_up_is_refused_until_some_is_free() {
    local(async {
        let (_socket, backend) = silent().await;
        let (host, rules) = shop(backend);
        let local = serving_within(100 << 10, host, rules);
        let mut clients = Vec::new();
        let refused = loop {
            let mut client = client(&local, Security::Clear).await;
            client.write_all(b"GET /slow HTTP/1.1\r\nHost: example.com\r\n\r\n").await.unwrap();
            tokio::time::sleep(Duration::from_millis(5)).await;
            if local.metrics.answered(Reason::OutOfMemory) > 0 {
                break client;
            }
            clients.push(client);
        };
        assert!((3..20).contains(&clients.len()), "{}", clients.len());
        assert!(read_all(&mut { refused }).await.starts_with("HTTP/1.1 503 "));
        drop(clients);
        tokio::time::sleep(Duration::from_millis(50)).await;
        let mut client = client(&local, Security::Clear).await;
        assert!(get(&mut client, "example.com", "/").await.starts_with("HTTP/1.1 404 "));
        drop(client);
        tokio::time::sleep(Duration::from_millis(50)).await;
        assert_eq!(local.budget.used(), 0, "all that was charged is given back");
    })
    .await;
}

#[tokio::test]
async fn who_does_not_read_is_charged_for_what_waits() {
    local(async {
        let (socket, backend) = silent().await;
        let (host, rules) = shop(backend);
        let local = serving_within(1 << 30, host, rules);
        let mut client = client(&local, Security::Clear).await;
        client.write_all(b"GET /slow HTTP/1.1\r\nHost: example.com\r\n\r\n").await.unwrap();
        let (mut backend, _) = socket.accept().await.unwrap();
        read_heads(&mut backend, 1).await;
        let before = local.budget.used();
        backend.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000000\r\n\r\n").await.unwrap();
        let block = vec![0; 1 << 20];
        while tokio::time::timeout(Duration::from_millis(300), backend.write_all(&block)).await.is_ok() {}
        let waits = local.budget.used() - before;
        assert!((16 << 10..512 << 10).contains(&waits), "{waits}");
    })
    .await;
}
