//! Connections after their upgrade: how long they last, and what they count for.

use hyper::ext::Protocol;
use hyper::upgrade::on;
use tokio::time::{Instant, sleep};

use super::metering::{Written, lines};
use super::*;
use crate::proxy::http::access_log::{Log, Which};
use crate::proxy::http::metrics::Metrics;

const ASK: &str = "GET /chat HTTP/1.1\r\nHost: example.com\r\nConnection: upgrade\r\nUpgrade: chat\r\n\r\n";

/// A worker whose backend agrees to every upgrade, and says again what it hears.
async fn agreeing() -> Rc<Local> {
    let socket = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let backend = endpoint(&socket.local_addr().unwrap().to_string());
    tokio::task::spawn_local(async move {
        loop {
            let (mut stream, _) = socket.accept().await.unwrap();
            tokio::task::spawn_local(async move {
                let asked = read_heads(&mut stream, 1).await;
                let protocol = if asked.contains("upgrade: websocket") { "websocket" } else { "chat" };
                let agreed = format!("HTTP/1.1 101 Agreed\r\nConnection: upgrade\r\nUpgrade: {protocol}\r\n");
                let key = asked.lines().find_map(|line| line.strip_prefix("sec-websocket-key: "));
                let accept = key.map(|key| {
                    let key = key.parse().unwrap();
                    let accept = super::super::upgrade::accept(&key).unwrap();
                    format!("Sec-WebSocket-Accept: {}\r\n", accept.to_str().unwrap())
                });
                let agreed = format!("{agreed}{}\r\n", accept.unwrap_or_default());
                stream.write_all(agreed.as_bytes()).await.unwrap();
                let (mut reader, mut writer) = stream.split();
                let _ = tokio::io::copy(&mut reader, &mut writer).await;
            });
        }
    });
    serving(vec![rule("/chat", vec![to(vec![backend])])])
}

async fn upgraded(local: &Rc<Local>, settings: &ir::Settings) -> (TcpStream, watch::Sender<bool>) {
    let (mut client, going) = client_of(local, Security::Clear, settings.clone()).await;
    client.write_all(ASK.as_bytes()).await.unwrap();
    let got = read_heads(&mut client, 1).await;
    assert!(got.starts_with("HTTP/1.1 101 "), "{got}");
    (client, going)
}

async fn talk(client: &mut TcpStream) {
    client.write_all(b"word").await.unwrap();
    let mut heard = [0; 4];
    client.read_exact(&mut heard).await.unwrap();
    assert_eq!(&heard, b"word");
}

fn open(metrics: &Metrics) -> u64 {
    metrics.tunnels.get() - metrics.tunnels_closed.get()
}

async fn in_time(test: impl Future<Output = ()>) {
    within(10, test).await;
}

#[tokio::test]
async fn silence_both_ways_ends_it_and_is_counted() {
    in_time(async {
        let local = agreeing().await;
        let mut settings = ir::Settings::default();
        (settings.limits.idle, settings.limits.stream_idle) = (Duration::from_millis(50), Duration::from_millis(200));
        let (mut client, _going) = upgraded(&local, &settings).await;
        for _ in 0..6 {
            sleep(Duration::from_millis(100)).await;
            talk(&mut client).await;
        }
        assert_eq!((open(&local.metrics), local.metrics.answered(Reason::StreamIdle)), (1, 0));
        assert_eq!((local.metrics.tunnel_bytes_in.get(), local.metrics.tunnel_bytes_out.get()), (24, 24));
        let began = Instant::now();
        assert_eq!(client.read(&mut [0]).await.unwrap(), 0);
        assert!(began.elapsed() >= Duration::from_millis(150), "{:?}", began.elapsed());
        assert_eq!((open(&local.metrics), local.metrics.answered(Reason::StreamIdle)), (0, 1));
    })
    .await;
}

#[tokio::test]
async fn it_is_a_connection_of_its_listener_until_it_ends() {
    in_time(async {
        let local = agreeing().await;
        let mut settings = ir::Settings::default();
        settings.limits.connections = 1;
        let (mut client, _going) = upgraded(&local, &settings).await;
        sleep(Duration::from_millis(50)).await;
        assert_eq!(local.shared.lives.read()[0].1, 1);
        assert_eq!((local.metrics.connections.get(), local.metrics.closed.get()), (1, 0));
        let (mut other, _other_going) = client_of(&local, Security::Clear, settings.clone()).await;
        assert!(read_heads(&mut other, 1).await.starts_with("HTTP/1.1 503 "));
        talk(&mut client).await;
        drop(client);
        while local.metrics.closed.get() < 2 {
            sleep(Duration::from_millis(10)).await;
        }
        let (_client, _going) = upgraded(&local, &settings).await;
    })
    .await;
}

#[tokio::test]
async fn it_has_the_drain_time_when_the_agent_stops_or_its_listener_goes() {
    in_time(async {
        for stops in [true, false] {
            let local = agreeing().await;
            let settings = ir::Settings { drain: ir::Drain(Duration::from_millis(500)), ..ir::Settings::default() };
            let (mut client, going) = upgraded(&local, &settings).await;
            let began = Instant::now();
            if stops {
                going.send_replace(true);
            } else {
                local.publish_for_test(snapshot(Vec::new(), &local.snapshot()));
            }
            sleep(Duration::from_millis(200)).await;
            talk(&mut client).await;
            assert_eq!(client.read(&mut [0]).await.unwrap_or(0), 0);
            assert!(began.elapsed() >= Duration::from_millis(400), "{:?}", began.elapsed());
            assert_eq!((open(&local.metrics), local.metrics.closed.get()), (0, 1));
        }
    })
    .await;
}

#[tokio::test]
async fn a_connection_of_http2_is_not_idle_while_it_carries_one() {
    in_time(async {
        let local = agreeing().await;
        let mut settings = ir::Settings { drain: ir::Drain(Duration::from_millis(100)), ..ir::Settings::default() };
        settings.limits.idle = Duration::from_millis(100);
        let (client, going) = client_of(&local, Security::Clear, settings).await;
        let (mut sender, connection) =
            hyper::client::conn::http2::handshake(Executor, TokioIo::new(client)).await.unwrap();
        tokio::task::spawn_local(connection);
        // Its settings must have come.
        sleep(Duration::from_millis(20)).await;
        let request = http::Request::connect("http://example.com/chat").extension(Protocol::from_static("websocket"));
        let mut response = sender.send_request(request.body(Body::empty()).unwrap()).await.unwrap();
        assert_eq!(response.status(), StatusCode::OK);
        let mut stream = TokioIo::new(on(&mut response).await.unwrap());
        sleep(Duration::from_millis(500)).await;
        stream.write_all(b"word").await.unwrap();
        stream.read_exact(&mut [0; 4]).await.unwrap();
        going.send_replace(true);
        assert!(matches!(stream.read(&mut [0]).await, Ok(0) | Err(_)));
        while open(&local.metrics) > 0 {
            sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
}

#[tokio::test]
async fn its_line_is_written_when_it_is_over() {
    in_time(async {
        let local = agreeing().await;
        let written = Written::default();
        local.shared.log.set(Log::start(Which::All, written.clone()).unwrap()).unwrap();
        let (mut client, _going) = upgraded(&local, &ir::Settings::default()).await;
        talk(&mut client).await;
        sleep(Duration::from_millis(300)).await;
        talk(&mut client).await;
        drop(client);
        let lines = lines(&written, 1).await;
        assert_eq!((lines.len(), &lines[0]["status"], &lines[0]["path"]), (1, &101.into(), &"/chat".into()));
        assert_eq!((&lines[0]["request_bytes"], &lines[0]["bytes"]), (&8.into(), &8.into()));
        assert!(lines[0]["took_ms"].as_f64() >= Some(300.0), "{}", lines[0]);
        assert_eq!(lines[0]["aborted"], serde_json::Value::Null);
    })
    .await;
}
