//! What is counted and written of requests.

use std::io::Write;
use std::sync::Mutex;

use super::*;
use crate::proxy::http::access_log::{Log, Which};

/// What a thread writes, and a test reads.
#[derive(Clone, Default)]
pub(super) struct Written(Arc<Mutex<Vec<u8>>>);

impl Write for Written {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn requests_are_counted_by_listener_rule_and_backend_and_written_down() {
    let all = async {
        let socket = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = socket.local_addr().unwrap().to_string();
        tokio::task::spawn_local(echo(socket));
        let backend = service(vec![endpoint(&address)]).to_string();
        let local = serving(vec![rule("/a", vec![to(vec![endpoint(&address)])]), rule("/none", Vec::new())]);
        let written = Written::default();
        local.shared.log.set(Log::start(Which::All, written.clone()).unwrap()).unwrap();
        let mut client = client(&local, Security::Clear).await;
        let trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        let request = format!("GET /a/\"1\"?b=%20 HTTP/1.1\r\nHost: example.com\r\nTraceparent: {trace}\r\n\r\n");
        client.write_all(request.as_bytes()).await.unwrap();
        let got = read_heads(&mut client, 2).await;
        assert!(got.contains(&format!("traceparent: {trace}\r\n")) && got.contains("x-request-id: "), "{got}");
        assert_eq!(local.shared.sums()[0].1.request_size.sum, 0);
        for path in ["/none", "/other"] {
            get(&mut client, "example.com", path).await;
        }
        let sums = local.shared.sums();
        let names = |at: usize| {
            let (labels, sum) = &sums[at];
            let rule = labels.route.as_ref().map(|(route, rule)| format!("{route} {rule}"));
            (
                rule.unwrap_or_default(),
                labels.backend.as_deref().unwrap_or_default().to_owned(),
                sum.classes,
                sum.active,
            )
        };
        assert_eq!(sums.len(), 3);
        assert_eq!(names(0), (String::new(), String::new(), [0, 0, 0, 0, 1, 0], 0));
        assert_eq!(names(1), ("HTTPRoute default/web /a".into(), backend.clone(), [0, 0, 1, 0, 0, 0], 0));
        assert_eq!(names(2), ("HTTPRoute default/web /none".into(), String::new(), [0, 0, 0, 0, 0, 1], 0));
        assert!(sums[1].1.response_size.sum > 50 && sums[1].1.whole.sum >= sums[1].1.first_byte.sum, "{:?}", sums[1]);
        let lines = loop {
            let text = String::from_utf8(written.0.lock().unwrap().clone()).unwrap();
            let lines: Vec<serde_json::Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
            if lines.len() == 3 {
                break lines;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        };
        assert_eq!(lines[0]["path"], "/a/\"1\"?b=%20");
        assert_eq!((&lines[0]["trace"], &lines[0]["status"]), (&trace.into(), &200.into()));
        assert_eq!((&lines[0]["route"], &lines[0]["rule"]), (&"HTTPRoute default/web".into(), &"/a".into()));
        assert_eq!((&lines[0]["backend"], &lines[0]["aborted"]), (&backend.into(), &serde_json::Value::Null));
        assert!(got.contains(lines[0]["id"].as_str().unwrap()));
        assert_eq!((&lines[1]["reason"], &lines[2]["reason"]), (&"invalid_backend".into(), &"no_route".into()));
    };
    within(5, all).await;
}

#[tokio::test]
async fn bytes_of_requests_are_counted_as_they_come() {
    let all = async {
        let socket = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let backend = endpoint(&socket.local_addr().unwrap().to_string());
        let local = serving(vec![rule("/a", vec![to(vec![backend])])]);
        let mut client = client(&local, Security::Clear).await;
        let head = "POST /a HTTP/1.1\r\nHost: example.com\r\nTransfer-Encoding: chunked\r\n\r\n";
        client.write_all(format!("{head}5\r\nfirst\r\n6\r\nsecond\r\n0\r\n\r\n").as_bytes()).await.unwrap();
        let (mut at_backend, _) = socket.accept().await.unwrap();
        // The head, and the end of the last chunk.
        read_heads(&mut at_backend, 2).await;
        at_backend.write_all(b"HTTP/1.1 204 No Content\r\n\r\n").await.unwrap();
        read_heads(&mut client, 1).await;
        let sums = local.shared.sums();
        assert_eq!((sums[0].1.request_size.sum, sums[0].1.request_size.buckets[0]), (11, 1));
    };
    within(5, all).await;
}

#[tokio::test]
async fn a_client_that_goes_before_its_answer_is_counted() {
    let all = async {
        let socket = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let backend = endpoint(&socket.local_addr().unwrap().to_string());
        let local = serving(vec![rule("/a", vec![to(vec![backend])])]);
        let mut client = client(&local, Security::Clear).await;
        client.write_all(b"GET /a HTTP/1.1\r\nHost: example.com\r\n\r\n").await.unwrap();
        let (mut at_backend, _) = socket.accept().await.unwrap();
        read_heads(&mut at_backend, 1).await;
        assert_eq!(local.shared.sums().iter().map(|(_, sum)| sum.active).sum::<u64>(), 1);
        drop(client);
        while local.metrics.abandoned.get() == 0 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        assert_eq!(local.shared.sums().iter().map(|(_, sum)| sum.active).sum::<u64>(), 0);
    };
    within(5, all).await;
}

/// The lines of a log, when there are so many.
pub(super) async fn lines(written: &Written, number: usize) -> Vec<serde_json::Value> {
    loop {
        let text = String::from_utf8(written.0.lock().unwrap().clone()).unwrap();
        if text.lines().count() >= number {
            return text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Calls of these paths, one after the other, as the log tells them. The backend answers those of `/a.B/` with the status that its path ends with.
async fn calls(which: Which, paths: &[&str]) -> (Rc<Local>, Vec<serde_json::Value>) {
    let socket = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let backend = endpoint(&socket.local_addr().unwrap().to_string());
    tokio::task::spawn_local(echo_http2(socket));
    let local = serving(vec![
        rule("/a.B", vec![speaking(Application::H2c, vec![backend])]),
        rule("/none", vec![speaking(Application::H2c, Vec::new())]),
    ]);
    let written = Written::default();
    local.shared.log.set(Log::start(which, written.clone()).unwrap()).unwrap();
    let stream = TokioIo::new(client(&local, Security::Clear).await);
    let (mut sender, connection) = hyper::client::conn::http2::handshake(Executor, stream).await.unwrap();
    tokio::task::spawn_local(connection);
    for path in paths {
        let call = http::Request::post(format!("http://example.com{path}")).header("te", "trailers");
        let call = call.header("content-type", "application/grpc").body(Body::empty()).unwrap();
        sender.send_request(call).await.unwrap().into_body().collect().await.unwrap();
    }
    let logged = lines(&written, paths.len()).await;
    (local, logged)
}

#[tokio::test]
async fn an_answer_that_ends_with_trailers_is_whole() {
    let all = async {
        let (_, lines) = calls(Which::All, &["/a.B/C"]).await;
        assert_eq!((&lines[0]["status"], &lines[0]["aborted"]), (&200.into(), &serde_json::Value::Null));
    };
    within(5, all).await;
}

#[tokio::test]
async fn what_becomes_of_a_call_is_told_by_its_own_status() {
    let all = async {
        let (local, lines) = calls(Which::All, &["/a.B/0", "/a.B/9", "/none", "/other"]).await;
        let told = lines.iter().map(|line| (&line["status"], &line["grpc_status"], &line["reason"]));
        let told: Vec<_> =
            told.map(|(status, grpc, reason)| (status.as_u64(), grpc.as_u64(), reason.as_str())).collect();
        let none = [(Some(200), Some(14), Some("no_endpoint")), (Some(200), Some(12), Some("no_route"))];
        assert_eq!(told[..2], [(Some(200), Some(0), None), (Some(200), Some(9), None)]);
        assert_eq!(told[2..], none);
        let _ = local;
    };
    within(5, all).await;
}

#[tokio::test]
async fn calls_that_fail_are_chosen_as_requests_that_do() {
    let all = async {
        let chosen = |paths| async move {
            let (_, lines) = calls(Which::From(5), paths).await;
            lines.iter().map(|line| line["path"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
        };
        // What was to be left out would come before the last.
        assert_eq!(chosen(&["/none"]).await, ["/none"]);
        assert_eq!(chosen(&["/a.B/13"]).await, ["/a.B/13"]);
    };
    within(5, all).await;
}

#[tokio::test]
async fn a_line_says_who_asked_and_how() {
    let all = async {
        let socket = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let backend = endpoint(&socket.local_addr().unwrap().to_string());
        tokio::task::spawn_local(echo(socket));
        let local = serving(vec![rule("/a", vec![to(vec![backend])])]);
        let written = Written::default();
        local.shared.log.set(Log::start(Which::All, written.clone()).unwrap()).unwrap();
        let session = server::Session { version: Some("TLSv1.3"), server_name: Some("example.com".into()) };
        let listener = listener_name("http");
        let mut client = client(&local, Security::Tls { listener, h2: false, session: Some(Rc::new(session)) }).await;
        let head = "POST /a HTTP/1.1\r\nHost: example.com\r\nUser-Agent: test/1\r\nContent-Length: 4\r\n\r\n";
        client.write_all(format!("{head}body").as_bytes()).await.unwrap();
        read_heads(&mut client, 2).await;
        let line = &lines(&written, 1).await[0];
        assert_eq!((&line["user_agent"], &line["request_bytes"]), (&"test/1".into(), &4.into()));
        assert_eq!((&line["tls"], &line["sni"]), (&"TLSv1.3".into(), &"example.com".into()));
    };
    within(5, all).await;
}

#[tokio::test]
async fn a_listener_says_which_of_its_requests_are_written_down() {
    let all = async {
        let local = serving(vec![rule("/none", Vec::new())]);
        let written = Written::default();
        local.shared.log.set(Log::start(Which::None, written.clone()).unwrap()).unwrap();
        let mut client = client(&local, Security::Clear).await;
        // On a connection that is there, each change counts from the next request on.
        for (number, logged) in
            [None, Some(Which::All), Some(Which::From(5)), Some(Which::None), Some(Which::All)].into_iter().enumerate()
        {
            say(&local, logged);
            for path in ["/none", "/other"] {
                let answer = get(&mut client, "example.com", &format!("{path}/{number}")).await;
                assert!(answer.starts_with("HTTP/1.1 "), "{answer}");
            }
        }
        let paths = || -> Vec<String> {
            let text = String::from_utf8(written.0.lock().unwrap().clone()).unwrap();
            let lines = text.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
            lines.map(|line| line["path"].as_str().unwrap().to_owned()).collect()
        };
        while paths().last().is_none_or(|last| last != "/other/4") {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        assert_eq!(paths(), ["/none/1", "/other/1", "/none/2", "/none/4", "/other/4"]);
    };
    within(5, all).await;
}

/// Publishes the same once more, with another word on what is written down.
fn say(local: &Local, logged: Option<Which>) {
    let before = local.snapshot();
    let settings = Arc::new(ir::Settings { logged, ..ir::Settings::default() });
    let listener = before.listeners().find(|listener| &*listener.name.section == "http").unwrap();
    let http = ir::Listener { settings, ..(*listener.ir).clone() };
    local.publish_for_test(snapshot(vec![("http", http)], &before));
}

#[tokio::test]
async fn a_client_that_goes_in_the_middle_of_its_body_is_not_refused_but_gone() {
    let all = async {
        for expect in ["", "Expect: 100-continue\r\n"] {
            let socket = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let backend = endpoint(&socket.local_addr().unwrap().to_string());
            let local = serving(vec![rule("/a", vec![to(vec![backend])])]);
            let written = Written::default();
            local.shared.log.set(Log::start(Which::All, written.clone()).unwrap()).unwrap();
            let mut client = client(&local, Security::Clear).await;
            let head = format!("POST /a HTTP/1.1\r\nHost: example.com\r\nContent-Length: 8\r\n{expect}\r\n");
            client.write_all(head.as_bytes()).await.unwrap();
            let (mut at_backend, _) = socket.accept().await.unwrap();
            read_heads(&mut at_backend, 1).await;
            if !expect.is_empty() {
                at_backend.write_all(b"HTTP/1.1 100 Continue\r\n\r\n").await.unwrap();
                read_heads(&mut client, 1).await;
            }
            client.write_all(b"half").await.unwrap();
            at_backend.read_exact(&mut [0; 4]).await.unwrap();
            drop(client);
            let line = &lines(&written, 1).await[0];
            assert_eq!((&line["status"], &line["reason"]), (&499.into(), &serde_json::Value::Null), "{expect}");
            assert_eq!((local.metrics.abandoned.get(), local.metrics.answered(Reason::BadRequest)), (1, 0));
        }
    };
    within(5, all).await;
}

#[tokio::test]
async fn only_a_trusted_proxy_names_requests_whether_they_are_written_down_or_not() {
    within(5, async {
        for (which, hops) in [(Which::None, 0), (Which::None, 1), (Which::All, 0), (Which::All, 1)] {
            let socket = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let backend = endpoint(&socket.local_addr().unwrap().to_string());
            tokio::task::spawn_local(echo(socket));
            let settings = ir::Settings { trusted_hops: hops, ..ir::Settings::default() };
            let local = serving_with(settings.clone(), vec![rule("/a", vec![to(vec![backend])])]);
            local.shared.log.set(Log::start(which, Written::default()).unwrap()).unwrap();
            let (mut client, _going) = client_of(&local, Security::Clear, settings).await;
            let request = "GET /a HTTP/1.1\r\nHost: example.com\r\nX-Request-Id: mine\r\n\r\n";
            client.write_all(request.as_bytes()).await.unwrap();
            let got = read_heads(&mut client, 2).await;
            assert_eq!(got.contains("x-request-id: mine\r\n"), hops > 0, "{which:?}, {hops}: {got}");
            assert_eq!(got.contains("x-request-id: "), hops > 0 || which == Which::All, "{which:?}, {hops}: {got}");
        }
    })
    .await;
}
