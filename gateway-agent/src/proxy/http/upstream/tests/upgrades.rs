//! Upgrade and WebSocket, by HTTP/1.1 and HTTP/2 on either side.

use http::Method;
use hyper::ext::Protocol;
use hyper::upgrade::on;
use tokio::io::{AsyncRead, AsyncWrite};

use super::*;

/// Of RFC 6455, section 1.3.
const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";
const ACCEPT: &str = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";

/// Agrees to a WebSocket by whichever version, and answers what it hears in capitals.
async fn websocket() -> Server {
    server(100, |mut request: http::Request<Incoming>| async move {
        let upgraded = on(&mut request);
        let response = http::Response::builder();
        let response = if request.version() == http::Version::HTTP_2 {
            assert_eq!(request.method(), Method::CONNECT);
            assert_eq!(request.extensions().get::<Protocol>().unwrap().as_str(), "websocket");
            assert!(!request.headers().contains_key("sec-websocket-key") && !request.headers().contains_key("upgrade"));
            response.header("sec-websocket-protocol", "chat")
        } else {
            assert_eq!(request.method(), Method::GET);
            let header = |name: &str| request.headers()[name].to_str().unwrap();
            assert_eq!((header("connection"), header("upgrade")), ("upgrade", "websocket"));
            let mut hash = ring::digest::Context::new(&ring::digest::SHA1_FOR_LEGACY_USE_ONLY);
            hash.update(format!("{}258EAFA5-E914-47DA-95CA-C5AB0DC85B11", header("sec-websocket-key")).as_bytes());
            let accept = base64::Engine::encode(&base64::engine::general_purpose::STANDARD, hash.finish());
            response
                .status(101)
                .header("connection", "Upgrade")
                .header("upgrade", "websocket")
                .header("sec-websocket-accept", accept)
                .header("sec-websocket-protocol", "chat")
        };
        tokio::task::spawn_local(async move {
            let mut stream = TokioIo::new(upgraded.await.unwrap());
            let mut some = [0; 100];
            while let Ok(n @ 1..) = stream.read(&mut some).await {
                stream.write_all(some[..n].to_ascii_uppercase().as_slice()).await.unwrap();
            }
            stream.shutdown().await.unwrap();
        });
        response.body(http_body_util::Empty::new()).unwrap()
    })
    .await
}

async fn talk(mut stream: impl AsyncRead + AsyncWrite + Unpin) {
    for word in ["hello", "again"] {
        stream.write_all(word.as_bytes()).await.unwrap();
        let mut heard = [0; 5];
        stream.read_exact(&mut heard).await.unwrap();
        assert_eq!(heard, word.to_ascii_uppercase().as_bytes());
    }
    stream.shutdown().await.unwrap();
    assert_eq!(stream.read(&mut [0]).await.unwrap(), 0, "the end goes through");
}

/// By HTTP/1.1, as a browser does.
async fn handshake(gateway: &Gateway, protocol: &str) -> (String, TcpStream) {
    let mut client = gateway.connect().await;
    let head = format!(
        "GET /chat HTTP/1.1\r\nHost: example.com\r\nConnection: keep-alive, Upgrade\r\nUpgrade: {protocol}\r\n\
         Sec-WebSocket-Key: {KEY}\r\nSec-WebSocket-Version: 13\r\n\r\n"
    );
    write(&mut client, &head).await;
    (read_head(&mut client).await.to_ascii_lowercase(), client)
}

#[test]
fn a_websocket_goes_through_whatever_is_spoken_on_either_side() {
    run(async {
        let server = websocket().await;
        for application in [Application::Http, Application::WebSocket, Application::H2c] {
            let gateway = Gateway::speaking(application, &server.endpoint);
            let (head, client) = handshake(&gateway, "websocket").await;
            assert!(head.starts_with("http/1.1 101 "), "{application:?}: {head}");
            let accept = format!("sec-websocket-accept: {}\r\n", ACCEPT.to_ascii_lowercase());
            assert!(head.contains(&accept) && head.contains("upgrade: websocket\r\n"), "{head}");
            assert!(
                head.contains("connection: upgrade\r\n") && head.contains("sec-websocket-protocol: chat\r\n"),
                "{head}"
            );
            talk(client).await;

            let mut client = gateway.http2().await;
            // Its settings must have come.
            tokio::time::sleep(Duration::from_millis(20)).await;
            let request = http::Request::connect("http://example.com/chat")
                .extension(Protocol::from_static("websocket"))
                .header("sec-websocket-version", "13");
            let mut response = client.send_request(request.body(Body::empty()).unwrap()).await.unwrap();
            assert_eq!(
                (response.status().as_u16(), &response.headers()["sec-websocket-protocol"]),
                (200, &"chat".parse().unwrap())
            );
            assert!(!response.headers().contains_key("sec-websocket-accept"));
            talk(TokioIo::new(on(&mut response).await.unwrap())).await;
        }
    });
}

#[test]
fn an_upgrade_that_the_backend_declines_is_an_answer_like_others() {
    run(async {
        for application in [Application::Http, Application::H2c] {
            let server = server(100, |_| async { text("no") }).await;
            let gateway = Gateway::speaking(application, &server.endpoint);
            let (head, mut client) = handshake(&gateway, "other").await;
            assert!(head.starts_with("http/1.1 200 "), "{head}");
            let mut body = [0; 2];
            client.read_exact(&mut body).await.unwrap();
            assert_eq!(&body, b"no");
        }
    });
}

#[test]
fn other_versions_of_http_are_no_upgrade() {
    run(async {
        let server = server(100, |request: http::Request<Incoming>| async move {
            assert!(!request.headers().contains_key("upgrade"));
            text("no")
        })
        .await;
        let gateway = Gateway::to(&server.endpoint);
        for protocol in ["h2c", "websocket, h2c", "TLS/1.0"] {
            let (head, _) = handshake(&gateway, protocol).await;
            assert!(head.starts_with("http/1.1 200 "), "{protocol}: {head}");
        }
        // And nobody is asked to connect elsewhere.
        let mut client = gateway.connect().await;
        write(&mut client, "CONNECT example.com:443 HTTP/1.1\r\nHost: example.com:443\r\n\r\n").await;
        assert!(read_head(&mut client).await.starts_with("HTTP/1.1 400 "));
    });
}

#[test]
fn an_agreement_that_nobody_asked_for_is_none() {
    run(async {
        let server = accepting(|mut stream| async move {
            read_head(&mut stream).await;
            write(&mut stream, "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n").await;
            read_head(&mut stream).await;
        })
        .await;
        assert_eq!(Gateway::to(&server.endpoint).get().await.0, 502);
    });
}
