//! What is counted and written of requests.

use std::io::Write;
use std::sync::Mutex;

use super::*;
use crate::proxy::http::access_log::{Log, Which};

/// What a thread writes, and a test reads.
#[derive(Clone, Default)]
struct Written(Arc<Mutex<Vec<u8>>>);

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
    let in_time = async { tokio::time::timeout(Duration::from_secs(5), all).await };
    LocalSet::new().run_until(in_time).await.expect("in time");
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
    let in_time = async { tokio::time::timeout(Duration::from_secs(5), all).await };
    LocalSet::new().run_until(in_time).await.expect("in time");
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
    let in_time = async { tokio::time::timeout(Duration::from_secs(5), all).await };
    LocalSet::new().run_until(in_time).await.expect("in time");
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
    let in_time = async { tokio::time::timeout(Duration::from_secs(5), all).await };
    LocalSet::new().run_until(in_time).await.expect("in time");
}

/// Publishes the same once more, with another word on what is written down.
fn say(local: &Local, logged: Option<Which>) {
    let before = local.snapshot();
    let settings = Arc::new(ir::Settings { logged, ..ir::Settings::default() });
    let listener = before.listeners().find(|listener| &*listener.name.section == "http").unwrap();
    let http = ir::Listener { settings, ..(*listener.ir).clone() };
    local.publish_for_test(snapshot(vec![("http", http)], &before));
}
