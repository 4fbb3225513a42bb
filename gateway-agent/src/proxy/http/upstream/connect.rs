//! A new connection to an endpoint.

use std::cell::RefCell;
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::Notify;
use tokio::time::timeout;

use super::pool::{Key, Multiplexed};
use crate::ir::http::Application;
use crate::proxy::backend_tls::{Configs, Protocols};
use crate::proxy::http::body::Body;
use crate::proxy::http::direct::{Direct, Scratch};
use crate::proxy::http::server::Executor;
use crate::proxy::sockets;
use crate::proxy::through::write_through;

/// A SYN and its first retransmission (RFC 6298), and some time for TLS and the first frames.
const CONNECT: Duration = Duration::from_secs(2);
/// Of a response that its client does not read, per HTTP/1.1 connection or HTTP/2 stream. Frames of HTTP/2 are small against it.
const UNREAD: u32 = 64 << 10;
/// So much for all streams, so that slow ones do not stop others.
const UNREAD_OF_ALL: u32 = 8 << 20;
/// Of a response.
const HEADERS: usize = 256;
const HEADER_BYTES: u32 = 64 << 10;

/// What a PROXY protocol header says of a connection that a proxy made for itself: one has the requests of many clients, of whom
/// X-Forwarded-For tells (version 2, LOCAL).
const LOCAL: [u8; 16] = *b"\r\n\r\n\0\r\nQUIT\n\x20\x00\x00\x00";

/// One that is ready for requests.
pub enum Connected {
    Direct(Direct),
    Http1(http1::SendRequest<Body>),
    Http2(Rc<Multiplexed>),
}

/// Within the time that a backend has for it. `direct`: of HTTP/1.1 it is to be one past hyper, with these buffers.
pub async fn connect(key: &Key, configs: &Configs, direct: Option<&Rc<Scratch>>) -> io::Result<Connected> {
    let ready = async {
        let mut stream = TcpStream::connect(key.address).await?;
        sockets::tune(&stream)?;
        if key.proxy_protocol {
            stream.write_all(&LOCAL).await?;
        }
        let Some(tls) = &key.tls else { return speak(stream, key.application == Application::H2c, direct).await };
        let stream = configs.connect(stream, tls, protocols(key.application)).await?;
        let h2 = stream.get_ref().1.alpn_protocol() == Some(b"h2") || key.application == Application::H2c;
        speak(stream, h2, direct).await
    };
    timeout(CONNECT, ready).await.map_err(io::Error::from)?
}

/// What may be spoken inside TLS.
fn protocols(application: Application) -> Protocols {
    match application {
        Application::Http => &[b"h2", b"http/1.1"],
        Application::H2c => &[b"h2"],
        Application::WebSocket => &[b"http/1.1"],
    }
}

async fn speak<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(
    stream: S,
    h2: bool,
    direct: Option<&Rc<Scratch>>,
) -> io::Result<Connected> {
    if h2 {
        return speak_http2(stream).await;
    }
    if let Some(scratch) = direct {
        return Ok(Connected::Direct(Direct::new(stream, Rc::clone(scratch))));
    }
    let stream = TokioIo::new(stream);
    let mut builder = http1::Builder::new();
    builder.max_buf_size(UNREAD as usize).max_headers(HEADERS);
    let (sender, connection) = builder.handshake::<_, Body>(stream).await.map_err(io::Error::other)?;
    tokio::task::spawn_local(async move {
        if let Err(error) = connection.with_upgrades().await {
            tracing::debug!(%error, "a connection to a backend was broken off");
        }
    });
    Ok(Connected::Http1(sender))
}

/// Waits for the backend's settings: before them nobody knows how many streams it takes.
async fn speak_http2<S>(stream: S) -> io::Result<Connected>
where
    S: AsyncRead + AsyncWrite + Unpin + 'static,
{
    let mut builder = http2::Builder::new(Executor);
    builder
        .timer(TokioTimer::new())
        .initial_max_send_streams(0)
        .initial_stream_window_size(UNREAD)
        .initial_connection_window_size(UNREAD_OF_ALL)
        .max_header_list_size(HEADER_BYTES)
        .max_send_buf_size(UNREAD as usize);
    let heard = Rc::new(Notify::new());
    let stream = TokioIo::new(Heard { stream, heard: Rc::clone(&heard) });
    let (sender, connection) = builder.handshake::<_, Body>(stream).await.map_err(io::Error::other)?;
    let connection = Rc::new(RefCell::new(Some(connection)));
    let multiplexed = Multiplexed::new(sender, Rc::clone(&connection) as Rc<dyn Peer>);
    let ended = Rc::clone(&heard);
    tokio::task::spawn_local(async move {
        let driven = poll_fn(|cx| match connection.borrow_mut().as_mut() {
            Some(connection) => Pin::new(connection).poll(cx),
            None => Poll::Ready(Ok(())),
        });
        if let Err(error) = driven.await {
            tracing::debug!(%error, "a connection to a backend was broken off");
        }
        connection.take();
        ended.notify_one();
    });
    while !multiplexed.has_room() {
        if !multiplexed.is_open() {
            return Err(io::Error::new(
                io::ErrorKind::ConnectionAborted,
                "the backend ended before its HTTP/2 settings",
            ));
        }
        heard.notified().await;
    }
    Ok(Connected::Http2(multiplexed))
}

/// What the backend has said in its settings.
pub trait Peer {
    fn streams(&self) -> usize;
    /// It takes extended CONNECT (RFC 8441).
    fn takes_extended_connect(&self) -> bool;
}

impl<S> Peer for RefCell<Option<http2::Connection<TokioIo<S>, Body, Executor>>>
where
    S: AsyncRead + AsyncWrite + Unpin + 'static,
{
    fn streams(&self) -> usize {
        self.borrow().as_ref().map_or(0, |connection| connection.current_max_send_streams())
    }

    fn takes_extended_connect(&self) -> bool {
        self.borrow().as_ref().is_some_and(|connection| connection.is_extended_connect_protocol_enabled())
    }
}

/// Tells whoever waits that something has come.
struct Heard<S> {
    stream: S,
    heard: Rc<Notify>,
}

impl<S: AsyncRead + Unpin> AsyncRead for Heard<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, to: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let read = ready!(Pin::new(&mut self.stream).poll_read(cx, to));
        self.heard.notify_one();
        Poll::Ready(read)
    }
}

write_through!(Heard);
