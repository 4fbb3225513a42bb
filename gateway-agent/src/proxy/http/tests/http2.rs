//! HTTP/2, by its frames (RFC 9113 section 6).

use super::*;

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;
const CONTINUATION: u8 = 9;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

const PROTOCOL_ERROR: u32 = 1;
const FLOW_CONTROL_ERROR: u32 = 3;
const REFUSED_STREAM: u32 = 7;
const ENHANCE_YOUR_CALM: u32 = 11;

/// `GET http://example.com/` in HPACK: entries of the static table, and a literal.
const GET: &[u8] = b"\x82\x86\x84\x41\x0bexample.com";
/// The same with `POST`.
const POST: &[u8] = b"\x83\x86\x84\x41\x0bexample.com";
/// And with `content-type: application/grpc`.
const CALL: &[u8] = b"\x83\x86\x84\x41\x0bexample.com\x5f\x10application/grpc";

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = payload.len() as u32;
    let mut frame = vec![(length >> 16) as u8, (length >> 8) as u8, length as u8, kind, flags];
    frame.extend(stream.to_be_bytes());
    frame.extend(payload);
    frame
}

fn error(frame: &Frame) -> u32 {
    let at = if frame.kind == GOAWAY { 4 } else { 0 };
    u32::from_be_bytes(frame.payload[at..at + 4].try_into().unwrap())
}

#[derive(Debug)]
struct Frame {
    kind: u8,
    stream: u32,
    payload: Vec<u8>,
}

async fn read_frame(stream: &mut TcpStream) -> Option<Frame> {
    let mut head = [0; 9];
    stream.read_exact(&mut head).await.ok()?;
    let length = usize::from(head[0]) << 16 | usize::from(head[1]) << 8 | usize::from(head[2]);
    let mut payload = vec![0; length];
    stream.read_exact(&mut payload).await.ok()?;
    Some(Frame { kind: head[3], stream: u32::from_be_bytes(head[5..].try_into().unwrap()), payload })
}

/// The first of these kinds.
async fn wait_for(stream: &mut TcpStream, kinds: &[u8]) -> Option<Frame> {
    loop {
        let frame = read_frame(stream).await?;
        if kinds.contains(&frame.kind) {
            return Some(frame);
        }
    }
}

async fn open(local: &Rc<Local>) -> TcpStream {
    let mut client = client(local, Security::Clear).await;
    client.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await.unwrap();
    client.write_all(&frame(SETTINGS, 0, 0, &[])).await.unwrap();
    client
}

/// With limits of its own.
async fn open_limited(local: &Rc<Local>, change: impl FnOnce(&mut ir::Limits)) -> TcpStream {
    let mut settings = ir::Settings::default();
    change(&mut settings.limits);
    let (mut client, going) = client_of(local, Security::Clear, settings).await;
    std::mem::forget(going);
    client.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await.unwrap();
    client.write_all(&frame(SETTINGS, 0, 0, &[])).await.unwrap();
    client
}

async fn in_time(test: impl Future<Output = ()>) {
    within(10, test).await;
}

/// A worker whose requests for `/` wait for ever.
async fn waiting() -> (Rc<Local>, TcpListener) {
    let socket = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let backend = endpoint(&socket.local_addr().unwrap().to_string());
    (serving(vec![rule("", vec![to(vec![backend])])]), socket)
}

/// Sends the frames again and again until the agent ends the connection. How it ended, and after how many bytes.
async fn flood(local: &Rc<Local>, mut frames: impl FnMut(u32) -> Vec<u8>) -> (Option<u32>, usize) {
    let (mut reader, mut writer) = open(local).await.into_split();
    let mut sent = 0;
    let sending = async {
        for n in 0.. {
            let bytes = frames(n);
            sent += bytes.len();
            if writer.write_all(&bytes).await.is_err() || sent > 64 << 20 {
                return;
            }
        }
    };
    let mut error = None;
    let reading = async {
        let mut got = Vec::new();
        // A reset may come before all was read.
        let _ = reader.read_to_end(&mut got).await;
        let mut rest = &got[..];
        while let [a, b, c, kind, _, _, _, _, _, ..] = *rest {
            let end = 9 + (usize::from(a) << 16 | usize::from(b) << 8 | usize::from(c));
            if kind == GOAWAY && rest.len() >= end {
                error = Some(u32::from_be_bytes(rest[13..17].try_into().unwrap()));
            }
            rest = rest.get(end..).unwrap_or_default();
        }
    };
    tokio::select! {
        ((), ()) = async { tokio::join!(sending, reading) } => {}
        () = tokio::time::sleep(Duration::from_secs(8)) => panic!("the agent takes it all"),
    }
    (error, sent)
}

#[tokio::test]
async fn streams_that_are_reset_at_once_end_the_connection() {
    in_time(async {
        let (local, _socket) = waiting().await;
        let (error, sent) = flood(&local, |n| {
            let stream = 2 * n + 1;
            [frame(HEADERS, END_HEADERS | END_STREAM, stream, GET), frame(RST_STREAM, 0, stream, &8u32.to_be_bytes())]
                .concat()
        })
        .await;
        assert_eq!(error, Some(ENHANCE_YOUR_CALM));
        assert!(sent < 8 << 20, "{sent}");
        assert_eq!(local.metrics.answered(Reason::Http2Flood), 1);
    })
    .await;
}

#[tokio::test]
async fn headers_without_an_end_end_the_connection() {
    in_time(async {
        let local = serving(Vec::new());
        // A literal header again and again; never END_HEADERS.
        let header = b"\x00\x01a\x01b".repeat(2000);
        let (error, sent) = flood(&local, |n| match n {
            0 => frame(HEADERS, 0, 1, GET),
            _ => frame(CONTINUATION, 0, 1, &header),
        })
        .await;
        assert!(matches!(error, Some(ENHANCE_YOUR_CALM | PROTOCOL_ERROR)), "{error:?}");
        assert!(sent < 16 << 20, "{sent}");
        let (error, sent) = flood(&local, |n| match n {
            0 => frame(HEADERS, 0, 1, GET),
            _ => frame(CONTINUATION, 0, 1, &[]),
        })
        .await;
        assert!(error.is_some() && sent < 8 << 20, "{error:?} {sent}");
        let counted = [Reason::Http2Flood, Reason::Http2Error].map(|reason| local.metrics.answered(reason));
        assert_eq!(counted.iter().sum::<u64>(), 2);
    })
    .await;
}

#[tokio::test]
async fn data_frames_of_a_byte_end_the_connection() {
    in_time(async {
        let (local, _socket) = waiting().await;
        let (error, sent) = flood(&local, |n| match n {
            0 => frame(HEADERS, END_HEADERS, 1, GET),
            _ => frame(DATA, 0, 1, &[]),
        })
        .await;
        assert_eq!(error, Some(ENHANCE_YOUR_CALM));
        assert!(sent < 16 << 20, "{sent}");
        assert_eq!(local.metrics.answered(Reason::Http2Flood), 1);
    })
    .await;
}

#[tokio::test]
async fn windows_beyond_what_there_is_end_the_connection() {
    in_time(async {
        let (local, _socket) = waiting().await;
        for (increment, stream, wanted) in [(0x7fff_ffff_u32, 0, FLOW_CONTROL_ERROR), (0, 0, PROTOCOL_ERROR)] {
            let mut client = open(&local).await;
            client.write_all(&frame(WINDOW_UPDATE, 0, stream, &increment.to_be_bytes())).await.unwrap();
            let goaway = wait_for(&mut client, &[GOAWAY]).await.unwrap();
            assert_eq!(error(&goaway), wanted, "{increment}");
        }
        // Of a window of a stream the stream dies.
        let mut client = open(&local).await;
        client.write_all(&frame(HEADERS, END_HEADERS, 1, GET)).await.unwrap();
        client.write_all(&frame(WINDOW_UPDATE, 0, 1, &0x7fff_ffff_u32.to_be_bytes())).await.unwrap();
        let reset = wait_for(&mut client, &[RST_STREAM, GOAWAY]).await.unwrap();
        assert_eq!(error(&reset), FLOW_CONTROL_ERROR);
        assert_eq!(local.metrics.answered(Reason::Http2Error), 3);
    })
    .await;
}

#[tokio::test]
async fn more_streams_than_are_allowed_are_refused_and_the_others_go_on() {
    in_time(async {
        let (local, _socket) = waiting().await;
        let most = ir::Limits::default().streams;
        let mut client = open(&local).await;
        // Ours are told first.
        wait_for(&mut client, &[SETTINGS]).await.unwrap();
        for n in 0..most + 5 {
            client.write_all(&frame(HEADERS, END_HEADERS | END_STREAM, 2 * n + 1, GET)).await.unwrap();
        }
        for n in most..most + 5 {
            let reset = wait_for(&mut client, &[RST_STREAM, GOAWAY]).await.unwrap();
            assert_eq!((reset.kind, reset.stream, error(&reset)), (RST_STREAM, 2 * n + 1, REFUSED_STREAM));
        }
        while local.metrics.requests.get() < u64::from(most) {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        assert_eq!(local.metrics.requests.get(), u64::from(most));
        assert_eq!(local.metrics.answered(Reason::TooManyStreams), 5);
    })
    .await;
}

/// What the agent would have to answer piles up nowhere: while its answers are not taken, it does not read on.
#[tokio::test]
async fn pings_and_settings_are_read_no_faster_than_their_answers_are() {
    let both = async {
        let local = serving(Vec::new());
        for (n, one) in [frame(PING, 0, 0, &[0; 8]), frame(SETTINGS, 0, 0, &[0, 4, 0, 1, 0, 0])].iter().enumerate() {
            let mut client = open_limited(&local, |limits| limits.body_idle = Duration::from_millis(500)).await;
            let many = one.repeat(10_000);
            let mut sent = 0;
            let sending = async {
                while sent < 1 << 28 && client.write_all(&many).await.is_ok() {
                    sent += many.len();
                }
            };
            // Stuck, and then broken off.
            sending.await;
            assert!(sent < 1 << 27, "{sent} bytes were read");
            while local.metrics.answered(Reason::ClientStalled) <= n as u64 {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        }
    };
    within(30, both).await;
}

#[tokio::test]
async fn a_connection_of_http2_says_goaway_when_it_drains_or_is_idle() {
    in_time(async {
        let local = serving(Vec::new());
        let mut settings = ir::Settings::default();
        settings.limits.idle = Duration::from_millis(100);
        for stops in [true, false] {
            let (mut client, going) = client_of(&local, Security::Clear, settings.clone()).await;
            client.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await.unwrap();
            client.write_all(&frame(SETTINGS, 0, 0, &[])).await.unwrap();
            client.write_all(&frame(HEADERS, END_HEADERS | END_STREAM, 1, GET)).await.unwrap();
            wait_for(&mut client, &[HEADERS]).await.unwrap();
            if stops {
                going.send_replace(true);
            }
            let goaway = wait_for(&mut client, &[GOAWAY]).await.unwrap();
            assert_eq!(error(&goaway), 0);
        }
    })
    .await;
}

#[tokio::test]
async fn a_stream_whose_window_stays_closed_ends_the_connection() {
    in_time(async {
        let (local, socket) = waiting().await;
        let mut settings = ir::Settings::default();
        settings.limits.body_idle = Duration::from_millis(100);
        let (mut client, _going) = client_of(&local, Security::Clear, settings).await;
        client.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await.unwrap();
        // SETTINGS_INITIAL_WINDOW_SIZE is 0.
        client.write_all(&frame(SETTINGS, 0, 0, &[0, 4, 0, 0, 0, 0])).await.unwrap();
        client.write_all(&frame(HEADERS, END_HEADERS | END_STREAM, 1, GET)).await.unwrap();
        let (mut backend, _) = socket.accept().await.unwrap();
        read_heads(&mut backend, 1).await;
        // The backend may be as slow as it likes.
        tokio::time::sleep(Duration::from_millis(300)).await;
        backend.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n").await.unwrap();
        backend.write_all(&[0; 1000]).await.unwrap();
        wait_for(&mut client, &[HEADERS]).await.expect("the head of the answer");
        assert!(wait_for(&mut client, &[DATA]).await.is_none());
        assert_eq!(local.metrics.answered(Reason::ClientStalled), 1);
    })
    .await;
}

#[tokio::test]
async fn limits_of_heads_are_those_of_http1() {
    in_time(async {
        let local = serving(Vec::new());
        let mut settings = ir::Settings::default();
        (settings.limits.uri_bytes, settings.limits.headers, settings.limits.header_bytes) = (1000, 10, 2000);
        let (client, _going) = client_of(&local, Security::Clear, settings).await;
        let (mut sender, connection) =
            hyper::client::conn::http2::handshake(Executor, TokioIo::new(client)).await.unwrap();
        tokio::task::spawn_local(connection);
        let long = format!("http://example.com/{}", "x".repeat(1000));
        let request = http::Request::get(long).body(Body::empty()).unwrap();
        assert_eq!(sender.send_request(request).await.unwrap().status(), StatusCode::URI_TOO_LONG);
        let mut request = http::Request::get("http://example.com/");
        for n in 0..11 {
            request = request.header(format!("x-{n}"), "y");
        }
        let response = sender.send_request(request.body(Body::empty()).unwrap()).await.unwrap();
        assert_eq!(response.status(), StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE);
        let request = http::Request::get("http://example.com/").header("x", "y".repeat(2001));
        let response = sender.send_request(request.body(Body::empty()).unwrap()).await.unwrap();
        assert_eq!(response.status(), StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE);
        let counted = [Reason::UriTooLong, Reason::HeadersTooLarge].map(|reason| local.metrics.answered(reason));
        assert_eq!(counted, [1, 2]);
    })
    .await;
}

#[tokio::test]
async fn a_request_whose_body_does_not_come_is_answered_408_and_the_connection_goes_on() {
    in_time(async {
        let (local, socket) = waiting().await;
        let mut client = open_limited(&local, |limits| limits.body_idle = Duration::from_millis(100)).await;
        client.write_all(&frame(HEADERS, END_HEADERS, 1, POST)).await.unwrap();
        client.write_all(&frame(DATA, 0, 1, b"half")).await.unwrap();
        // Those of gRPC may be silent.
        client.write_all(&frame(HEADERS, END_HEADERS, 3, CALL)).await.unwrap();
        let (_first, _second) = (socket.accept().await.unwrap(), socket.accept().await.unwrap());
        let answer = wait_for(&mut client, &[HEADERS, RST_STREAM, GOAWAY]).await.unwrap();
        // `:status` by its name in the static table, and the value in Huffman's code.
        assert_eq!((answer.kind, answer.stream, &answer.payload[..2]), (HEADERS, 1, &b"\x48\x83"[..]));
        assert_eq!(local.metrics.answered(Reason::RequestTimeout), 1);
        assert_eq!(local.metrics.answered(Reason::Unreachable), 0);
        client.write_all(&frame(PING, 0, 0, &[0; 8])).await.unwrap();
        assert_eq!(wait_for(&mut client, &[HEADERS, PING, GOAWAY]).await.unwrap().kind, PING);
    })
    .await;
}

#[tokio::test]
async fn a_call_whose_client_is_silent_ends_after_its_own_time() {
    in_time(async {
        let (local, _socket) = waiting().await;
        let mut client = open_limited(&local, |limits| limits.stream_idle = Duration::from_millis(100)).await;
        client.write_all(&frame(HEADERS, END_HEADERS, 1, CALL)).await.unwrap();
        wait_for(&mut client, &[HEADERS]).await.unwrap();
        assert_eq!(local.metrics.answered(Reason::RequestTimeout), 1);
    })
    .await;
}

#[tokio::test]
async fn a_body_may_be_silent_once_its_answer_has_begun_and_ends_both_when_its_time_is_over() {
    in_time(async {
        let (local, socket) = waiting().await;
        let change = |limits: &mut ir::Limits| {
            (limits.body_idle, limits.stream_idle) = (Duration::from_millis(100), Duration::from_millis(500));
        };
        let mut client = open_limited(&local, change).await;
        client.write_all(&frame(HEADERS, END_HEADERS, 1, POST)).await.unwrap();
        let (mut backend, _) = socket.accept().await.unwrap();
        read_heads(&mut backend, 1).await;
        backend.write_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n").await.unwrap();
        wait_for(&mut client, &[HEADERS]).await.unwrap();
        tokio::time::sleep(Duration::from_millis(300)).await;
        backend.write_all(b"1\r\na\r\n").await.unwrap();
        assert_eq!(wait_for(&mut client, &[DATA, RST_STREAM]).await.unwrap().payload, b"a");
        assert_eq!(wait_for(&mut client, &[DATA, RST_STREAM, GOAWAY]).await.unwrap().kind, RST_STREAM);
        assert_eq!(local.metrics.answered(Reason::RequestTimeout), 1);
    })
    .await;
}

#[tokio::test]
async fn a_client_whose_window_is_full_of_what_nobody_reads_is_not_slow() {
    in_time(async {
        let (local, _socket) = waiting().await;
        let mut client = open_limited(&local, |limits| limits.body_idle = Duration::from_millis(100)).await;
        wait_for(&mut client, &[WINDOW_UPDATE]).await.unwrap();
        // These are not read for a second, for their backends do not ask for them.
        let waits = [POST, b"\x63\x0c100-continue"].concat();
        for n in 0..16 {
            client.write_all(&frame(HEADERS, END_HEADERS, 2 * n + 1, &waits)).await.unwrap();
            for _ in 0..4 {
                client.write_all(&frame(DATA, 0, 2 * n + 1, &[0; 16 << 10][..16_383])).await.unwrap();
            }
        }
        client.write_all(&frame(HEADERS, END_HEADERS, 33, POST)).await.unwrap();
        tokio::time::sleep(Duration::from_millis(500)).await;
        assert_eq!(local.metrics.answered(Reason::RequestTimeout), 0);
        // By and by all could send again.
        while local.metrics.answered(Reason::RequestTimeout) < 17 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
}

#[tokio::test]
async fn a_client_that_does_not_read_makes_room_for_others() {
    in_time(async {
        let socket = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let backend = endpoint(&socket.local_addr().unwrap().to_string());
        let (host, rules) = (HostName::Exact("example.com".into()), vec![rule("", vec![to(vec![backend])])]);
        let local = serving_within(90 << 10, host, rules);
        let mut unread = open(&local).await;
        unread.write_all(&frame(HEADERS, END_HEADERS | END_STREAM, 1, GET)).await.unwrap();
        let (mut backend, _) = socket.accept().await.unwrap();
        read_heads(&mut backend, 1).await;
        backend.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000000\r\n\r\n").await.unwrap();
        let block = vec![0; 1 << 20];
        while tokio::time::timeout(Duration::from_millis(300), backend.write_all(&block)).await.is_ok() {}
        assert!((90 << 10..128 << 10).contains(&local.budget.used()), "{}", local.budget.used());
        // By now it has not read for long enough.
        tokio::time::sleep(Duration::from_millis(1200)).await;
        let mut other = client(&local, Security::Clear).await;
        assert!(get(&mut other, "example.net", "/").await.starts_with("HTTP/1.1 404 "));
        assert_eq!(local.metrics.answered(Reason::OutOfMemory), 1);
        let mut rest = Vec::new();
        // Cut off, maybe by a reset.
        let _ = unread.read_to_end(&mut rest).await;
        assert!(rest.len() < 100 << 10, "{}", rest.len());
    })
    .await;
}
