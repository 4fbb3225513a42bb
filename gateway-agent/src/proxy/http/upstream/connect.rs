//! A new connection to an endpoint.

use std::io;
use std::time::Duration;

use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::pool::{Connection, Key};
use super::tls;
use crate::ir::http::Application;
use crate::proxy::http::body::Body;
use crate::proxy::http::server::Executor;
use crate::proxy::sockets;

/// A SYN and its first retransmission (RFC 6298), and some time for an answer.
const CONNECT: Duration = Duration::from_secs(2);

/// Ready for a request, within the time that a backend has for it.
pub async fn connect(key: &Key) -> io::Result<Connection> {
    let ready = async {
        let stream = TcpStream::connect(key.address).await?;
        sockets::tune(&stream)?;
        let Some(tls) = &key.tls else { return speak(stream, key.application == Application::H2c).await };
        let stream = tls::connect(stream, tls, key.application).await?;
        let h2 = stream.get_ref().1.alpn_protocol() == Some(b"h2") || key.application == Application::H2c;
        speak(stream, h2).await
    };
    timeout(CONNECT, ready).await.map_err(io::Error::from)?
}

async fn speak<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(stream: S, h2: bool) -> io::Result<Connection> {
    let stream = TokioIo::new(stream);
    if h2 {
        let mut builder = http2::Builder::new(Executor);
        builder.timer(TokioTimer::new()).adaptive_window(true);
        let (sender, connection) = builder.handshake::<_, Body>(stream).await.map_err(io::Error::other)?;
        tokio::task::spawn_local(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "a connection to a backend was broken off");
            }
        });
        return Ok(Connection::Http2(sender));
    }
    let mut builder = http1::Builder::new();
    builder.preserve_header_case(false);
    let (sender, connection) = builder.handshake::<_, Body>(stream).await.map_err(io::Error::other)?;
    tokio::task::spawn_local(async move {
        if let Err(error) = connection.with_upgrades().await {
            tracing::debug!(%error, "a connection to a backend was broken off");
        }
    });
    Ok(Connection::Http1(sender))
}
