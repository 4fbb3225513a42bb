//! Requests that go past hyper, and those that go on with it.

use http_body_util::Full;

use super::*;

async fn run(test: impl Future<Output = ()>) {
    within(20, test).await;
}

/// A worker that leads everything to a backend, and where that takes connections.
async fn to_one() -> (Rc<Local>, TcpListener) {
    let socket = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let backend = endpoint(&socket.local_addr().unwrap().to_string());
    (serving(vec![rule("", vec![to(vec![backend])])]), socket)
}

/// A backend that answers each head, of requests without a body, with these bytes; it ends behind the last.
async fn answering(answers: Vec<Vec<u8>>) -> Rc<Local> {
    let (local, socket) = to_one().await;
    tokio::task::spawn_local(async move {
        let (mut stream, _) = socket.accept().await.unwrap();
        for answer in answers {
            read_heads(&mut stream, 1).await;
            stream.write_all(&answer).await.unwrap();
        }
    });
    local
}

const GET: &str = "GET / HTTP/1.1\r\nHost: example.com\r\n\r\n";
const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

/// A head and a body of chunks, as text and whole.
async fn read_chunked(stream: &mut TcpStream) -> (String, Vec<u8>) {
    let mut got = Vec::new();
    while !got.ends_with(b"\r\n0\r\n\r\n") {
        assert!(stream.read_buf(&mut got).await.unwrap() > 0, "the end, after {}", got.escape_ascii());
    }
    let end = got.windows(4).position(|four| four == b"\r\n\r\n").unwrap() + 4;
    let (head, mut rest) = (String::from_utf8(got[..end].to_vec()).unwrap(), &got[end..]);
    let mut body = Vec::new();
    loop {
        let line = rest.windows(2).position(|two| two == b"\r\n").unwrap();
        let size = usize::from_str_radix(std::str::from_utf8(&rest[..line]).unwrap(), 16).unwrap();
        let data = &rest[line + 2..];
        body.extend_from_slice(&data[..size]);
        assert_eq!(&data[size..size + 2], b"\r\n");
        rest = &data[size + 2..];
        if size == 0 {
            assert!(rest.is_empty());
            return (head, body);
        }
    }
}

#[tokio::test]
async fn requests_that_come_at_once_or_byte_by_byte_are_the_same() {
    run(async {
        for slowly in [false, true] {
            let (local, socket) = to_one().await;
            let backend = tokio::task::spawn_local(async move {
                let (mut stream, _) = socket.accept().await.unwrap();
                let mut got = String::new();
                for end in ["/1", "body", "/3"] {
                    while !got.contains(end) || !got.contains("\r\n\r\n") {
                        let mut some = [0; 4096];
                        let n = stream.read(&mut some).await.unwrap();
                        got.push_str(std::str::from_utf8(&some[..n]).unwrap());
                    }
                    stream.write_all(OK.as_bytes()).await.unwrap();
                    got.clear();
                }
            });
            let mut client = client(&local, Security::Clear).await;
            let requests = "GET /1 HTTP/1.1\r\nHost: example.com\r\n\r\n\
                            PUT /2 HTTP/1.1\r\nHost: example.com\r\nContent-Length: 4\r\n\r\nbody\
                            GET /3 HTTP/1.1\r\nHost: example.com\r\n\r\n";
            let pieces: Vec<&[u8]> =
                if slowly { requests.as_bytes().chunks(1).collect() } else { vec![requests.as_bytes()] };
            for piece in pieces {
                client.write_all(piece).await.unwrap();
                tokio::task::yield_now().await;
            }
            let got = read_heads(&mut client, 3).await;
            assert_eq!(got.matches("HTTP/1.1 200 OK\r\n").count(), 3, "{got}");
            assert_eq!(got.matches("\r\ncontent-length: 2\r\n").count(), 3, "{got}");
            backend.await.unwrap();
            assert_eq!(local.metrics.requests.get(), 3);
        }
    })
    .await;
}

#[tokio::test]
async fn a_client_that_ends_its_side_is_not_answered() {
    run(async {
        let (local, socket) = to_one().await;
        let mut client = client(&local, Security::Clear).await;
        client.write_all(GET.as_bytes()).await.unwrap();
        let (mut backend, _) = socket.accept().await.unwrap();
        read_heads(&mut backend, 1).await;
        client.shutdown().await.unwrap();
        assert_eq!(client.read(&mut [0; 10]).await.unwrap(), 0);
        assert_eq!(backend.read(&mut [0; 10]).await.unwrap(), 0, "the backend is told");
        assert_eq!(local.metrics.abandoned.get(), 1);
    })
    .await;
}

#[tokio::test]
async fn an_answer_ends_where_its_backend_says() {
    run(async {
        let large = vec![b'a'; 100_000];
        let chunked = |chunks: &[&[u8]]| {
            let mut all = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: x\r\n\r\n".to_vec();
            for chunk in chunks {
                all.extend_from_slice(format!("{:X};a=b\r\n", chunk.len()).as_bytes());
                all.extend_from_slice(chunk);
                all.extend_from_slice(b"\r\n");
            }
            all.extend_from_slice(b"0\r\nX: y\r\n\r\n");
            all
        };
        let to_close = [b"HTTP/1.0 200 OK\r\n\r\n", &large[..]].concat();
        let local =
            answering(vec![chunked(&[b"a", b"bc"]), chunked(&[]), chunked(&[&large, b"b", &large]), to_close]).await;
        let mut client = client(&local, Security::Clear).await;
        for wanted in [b"abc".to_vec(), Vec::new(), [&large[..], b"b", &large].concat(), large] {
            client.write_all(GET.as_bytes()).await.unwrap();
            let (head, body) = read_chunked(&mut client).await;
            assert!(head.starts_with("HTTP/1.1 200 OK\r\n") && head.contains("\r\ndate: "), "{head}");
            assert!(!head.contains("connection:") && !head.contains("content-length:"), "{head}");
            assert!(body == wanted, "{} bytes for {}", body.len(), wanted.len());
        }
    })
    .await;
}

#[tokio::test]
async fn a_large_answer_of_a_known_length_is_whole_or_broken_off_and_counted() {
    run(async {
        let body = |bytes: usize| (0..bytes).map(|i| (i / 7) as u8).collect::<Vec<u8>>();
        let (local, socket) = to_one().await;
        let backend = tokio::task::spawn_local(async move {
            let (mut stream, _) = socket.accept().await.unwrap();
            for (announced, sent) in [(1_000_000, 1_000_000), (100_000, 100_000), (300_000, 200_000)] {
                read_heads(&mut stream, 1).await;
                let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {announced}\r\n\r\n");
                stream.write_all(head.as_bytes()).await.unwrap();
                for piece in body(sent).chunks(150_000) {
                    stream.write_all(piece).await.unwrap();
                    // So that everybody waits for it.
                    tokio::time::sleep(Duration::from_millis(10)).await;
                }
            }
        });
        let mut client = client(&local, Security::Clear).await;
        for (bytes, is_whole) in [(1_000_000, true), (100_000, true), (200_000, false)] {
            client.write_all(GET.as_bytes()).await.unwrap();
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                head.push(client.read_u8().await.unwrap());
            }
            let mut got = vec![0; bytes];
            client.read_exact(&mut got).await.unwrap();
            assert!(got == body(bytes), "{bytes} bytes are others");
            let ends = tokio::time::timeout(Duration::from_millis(100), client.read(&mut [0; 1])).await;
            assert_eq!(ends.is_err(), is_whole, "{bytes}");
        }
        backend.await.unwrap();
        assert_eq!(local.shared.sums()[0].1.response_size.sum, 1_300_000);
        assert_eq!(local.scratch.pipes.kept(), 1, "it went by a pipe, which is empty");
    })
    .await;
}

#[tokio::test]
async fn an_answer_that_contradicts_itself_is_none() {
    run(async {
        for (answer, status) in [
            ("HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", Some("502")),
            ("HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nabc", Some("502")),
            ("HTTP/1.1 101 Switching Protocols\r\n\r\n", Some("502")),
            ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\nab\r\n0\r\n\r\n", None),
            ("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nabc", None),
        ] {
            let local = answering(vec![answer.as_bytes().to_vec()]).await;
            let mut client = client(&local, Security::Clear).await;
            client.write_all(GET.as_bytes()).await.unwrap();
            match status {
                Some(status) => {
                    let got = read_heads(&mut client, 1).await;
                    assert!(got.starts_with(&format!("HTTP/1.1 {status} ")), "{answer}: {got}");
                }
                // Too late for another: it breaks off.
                None => {
                    let mut got = Vec::new();
                    let _ = client.read_to_end(&mut got).await;
                    assert!(got.starts_with(b"HTTP/1.1 200 OK\r\n"), "{answer}: {}", got.escape_ascii());
                    assert!(!got.ends_with(b"0\r\n\r\n"), "{answer}: {}", got.escape_ascii());
                }
            }
        }
    })
    .await;
}

#[tokio::test]
async fn what_a_backend_says_before_its_answer_is_left_out() {
    run(async {
        let hints = "HTTP/1.1 103 Early Hints\r\nLink: a\r\n\r\nHTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 299 Mine\r\nContent-Length: 0\r\n\r\n";
        let local = answering(vec![hints.into(), OK.into()]).await;
        let mut client = client(&local, Security::Clear).await;
        client.write_all(GET.as_bytes()).await.unwrap();
        let got = read_heads(&mut client, 1).await;
        assert!(got.starts_with("HTTP/1.1 299 Mine\r\n"), "{got}");
        client.write_all(GET.as_bytes()).await.unwrap();
        assert!(read_heads(&mut client, 1).await.starts_with("HTTP/1.1 200 OK\r\n"));
    })
    .await;
}

#[tokio::test]
async fn a_request_goes_on_while_its_answer_is_there() {
    run(async {
        let (local, socket) = to_one().await;
        let mut client = client(&local, Security::Clear).await;
        let head = "PUT / HTTP/1.1\r\nHost: example.com\r\nContent-Length: 8\r\n\r\n";
        client.write_all(format!("{head}half").as_bytes()).await.unwrap();
        let (mut backend, _) = socket.accept().await.unwrap();
        read_heads(&mut backend, 1).await;
        backend.write_all(OK.as_bytes()).await.unwrap();
        assert!(read_heads(&mut client, 1).await.ends_with("ok"));
        client.write_all(format!("HALF{GET}").as_bytes()).await.unwrap();
        let mut rest = [0; 4];
        while &rest != b"HALF" {
            rest.rotate_left(1);
            rest[3] = backend.read_u8().await.unwrap();
        }
        // The same connections have the next, on both sides.
        assert!(read_heads(&mut backend, 1).await.starts_with("GET / "));
        backend.write_all(OK.as_bytes()).await.unwrap();
        assert!(read_heads(&mut client, 1).await.ends_with("ok"));
    })
    .await;
}

#[tokio::test]
async fn a_body_that_nobody_wants_ends_its_connection() {
    run(async {
        let local = serving(Vec::new());
        let mut client = client(&local, Security::Clear).await;
        let head = "PUT / HTTP/1.1\r\nHost: example.com\r\nContent-Length: 4\r\n\r\n";
        client.write_all(format!("{head}body{head}bo").as_bytes()).await.unwrap();
        let mut got = String::new();
        client.read_to_string(&mut got).await.unwrap();
        let (first, second) = got.split_at(got.rfind("HTTP/1.1").unwrap());
        assert!(first.starts_with("HTTP/1.1 404 ") && !first.contains("connection: close"), "{got}");
        assert!(second.starts_with("HTTP/1.1 404 ") && second.contains("connection: close\r\n"), "{got}");
    })
    .await;
}

#[tokio::test]
async fn what_is_unusual_goes_on_with_hyper() {
    run(async {
        let (local, socket) = to_one().await;
        tokio::task::spawn_local(async move {
            loop {
                let (stream, _) = socket.accept().await.unwrap();
                let answer = service_fn(|request: http::Request<Incoming>| async move {
                    Ok::<_, Infallible>(http::Response::new(Full::new(
                        request.into_body().collect().await.unwrap().to_bytes(),
                    )))
                });
                let serving = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), answer);
                tokio::task::spawn_local(serving);
            }
        });
        let mut going = client(&local, Security::Clear).await;
        let chunked =
            "PUT /c HTTP/1.1\r\nHost: example.com\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nbody\r\n0\r\n\r\n";
        // The requests behind it have come before it is found out.
        going.write_all(format!("{GET}{chunked}{GET}").as_bytes()).await.unwrap();
        let got = read_heads(&mut going, 3).await;
        assert_eq!(got.matches("HTTP/1.1 200 OK\r\n").count(), 3, "{got}");
        assert!(got.contains("body"), "{got}");
        for (request, status, ends) in [
            ("GET /x HTTP/1.0\r\nHost: other.example.com\r\n\r\n", "HTTP/1.0 404 ", true),
            ("GET /x HTTP/1.0\r\nHost: other.example.com\r\nConnection: keep-alive\r\n\r\n", "HTTP/1.0 404 ", false),
            ("GET /x HTTP/1.1\r\nHost: other.example.com\r\nConnection: close\r\n\r\n", "HTTP/1.1 404 ", true),
            ("GET /x HTTP/1.1\r\nHost: other.example.com\r\n\r\n", "HTTP/1.1 404 ", false),
        ] {
            let mut client = client(&local, Security::Clear).await;
            client.write_all(request.as_bytes()).await.unwrap();
            let got = read_heads(&mut client, 1).await;
            assert!(got.starts_with(status), "{got}");
            let end = tokio::time::timeout(Duration::from_millis(100), client.read(&mut [0; 1])).await;
            assert_eq!(matches!(end, Ok(Ok(0))), ends, "{request}");
        }
    })
    .await;
}

/// Up to these bytes at the end.
async fn read_up_to(stream: &mut TcpStream, end: &str) -> String {
    let mut got = Vec::new();
    while !got.ends_with(end.as_bytes()) {
        assert!(stream.read_buf(&mut got).await.unwrap() > 0, "the end, after {}", got.escape_ascii());
    }
    String::from_utf8(got).unwrap()
}

#[tokio::test]
async fn trailers_go_to_the_backend_also_if_nobody_announced_them() {
    run(async {
        for announced in ["", "Trailer: x-a\r\n"] {
            let (local, socket) = to_one().await;
            let mut client = client(&local, Security::Clear).await;
            let head = format!("POST / HTTP/1.1\r\nHost: example.com\r\n{announced}Transfer-Encoding: chunked\r\n\r\n");
            client.write_all(head.as_bytes()).await.unwrap();
            let (mut backend, _) = socket.accept().await.unwrap();
            let head = read_up_to(&mut backend, "\r\n\r\n").await;
            assert!(head.contains("transfer-encoding: chunked\r\n") && !head.contains("content-length"), "{head}");
            // What has come goes on at once.
            client.write_all(b"4\r\nbody\r\n").await.unwrap();
            assert_eq!(read_up_to(&mut backend, "body\r\n").await, "4\r\nbody\r\n");
            let trailers =
                "x-a: 1\r\nX-B: 2\r\nContent-Length: 7\r\nAuthorization: me\r\nX-Forwarded-For: 198.18.0.9\r\n";
            client.write_all(format!("0\r\n{trailers}\r\n").as_bytes()).await.unwrap();
            assert_eq!(read_up_to(&mut backend, "\r\n\r\n").await, "0\r\nx-a: 1\r\nx-b: 2\r\n\r\n");
            backend.write_all(OK.as_bytes()).await.unwrap();
            assert!(read_heads(&mut client, 1).await.starts_with("HTTP/1.1 200 OK\r\n"));
        }
    })
    .await;
}

#[tokio::test]
async fn trailers_of_an_answer_go_to_those_who_take_them() {
    run(async {
        for (te, end) in
            [("TE: trailers\r\n", "0\r\nx-sum: 7\r\n\r\n"), ("", "0\r\n\r\n"), ("TE: gzip\r\n", "0\r\n\r\n")]
        {
            let chunks = "4\r\nbody\r\n0\r\nX-Sum: 7\r\nSet-Cookie: a=1\r\n\r\n";
            let local =
                answering(vec![format!("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n{chunks}").into()]).await;
            let mut client = client(&local, Security::Clear).await;
            client.write_all(format!("GET / HTTP/1.1\r\nHost: example.com\r\n{te}\r\n").as_bytes()).await.unwrap();
            let got = read_up_to(&mut client, end).await;
            assert!(got.ends_with(&format!("4\r\nbody\r\n{end}")), "{te}: {got}");
        }
    })
    .await;
}

#[tokio::test]
async fn clients_that_leave_are_noticed_whatever_they_have_sent_before() {
    run(async {
        let next = "GET /next HTTP/1.1\r\nHost: example.com\r\n\r\n";
        // By hyper: an upload of which the backend knows no more than its head.
        let by_hyper = "POST / HTTP/1.1\r\nHost: example.com\r\nExpect: 100-continue\r\nContent-Length: 4\r\n\r\nbody";
        for first in [GET, by_hyper] {
            for (behind, reset) in
                [(next.into(), false), (next.into(), true), (next.repeat(500), false), ("GET".into(), true)]
            {
                let (local, socket) = to_one().await;
                let mut client = client(&local, Security::Clear).await;
                client.write_all(first.as_bytes()).await.unwrap();
                let (mut backend, _) = socket.accept().await.unwrap();
                read_heads(&mut backend, 1).await;
                // As much as is taken.
                let _ = tokio::time::timeout(Duration::from_millis(100), client.write_all(behind.as_bytes())).await;
                if reset {
                    client.set_zero_linger().unwrap();
                }
                drop(client);
                let left = async { while backend.read(&mut [0; 4096]).await.is_ok_and(|n| n > 0) {} };
                let noticed = tokio::time::timeout(Duration::from_secs(5), left).await;
                assert!(noticed.is_ok(), "{first:?} {} {reset}", behind.len());
                assert_eq!(local.shared.sums().iter().map(|(_, sum)| sum.active).sum::<u64>(), 0);
            }
        }
    })
    .await;
}
