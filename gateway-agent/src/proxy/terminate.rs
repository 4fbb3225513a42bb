//! forward, after TLS: the agent ends TLS, and what was inside goes to the backend.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use super::copy::{Buffers, copy};
use super::{Counters, Terminator, sockets};

/// The TLS handshake; `read` is what has come of it.
pub async fn accept<'a>(
    client: &'a mut TcpStream,
    read: Vec<u8>,
    terminator: &Terminator,
) -> io::Result<TlsStream<Rewound<'a>>> {
    let client = Rewound { read, taken: 0, client };
    TlsAcceptor::from(terminator.config.clone()).accept(client).await
}

/// Both ways until both have ended: a close_notify becomes FIN, and FIN close_notify. A client that ends without close_notify
/// may have been cut off by somebody else, so that its backend is not told that this was all (RFC 8446 section 6.1).
pub async fn forward(
    mut client: TlsStream<Rewound<'_>>,
    mut backend: TcpStream,
    buffers: &Buffers,
    counters: &Counters,
) -> io::Result<()> {
    let result = copy(&mut client, &mut backend, buffers, counters).await;
    if result.is_err() {
        sockets::reset_on_close(&backend);
        sockets::reset_on_close(&*client.get_ref().0.client);
    }
    result
}

/// A client whose first bytes were read before.
pub struct Rewound<'a> {
    read: Vec<u8>,
    taken: usize,
    client: &'a mut TcpStream,
}

impl AsyncRead for Rewound<'_> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, to: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.taken == self.read.len() {
            return Pin::new(&mut *self.client).poll_read(cx, to);
        }
        let left = &self.read[self.taken..];
        let part = left.len().min(to.remaining());
        to.put_slice(&left[..part]);
        self.taken += part;
        if self.taken == self.read.len() {
            (self.read, self.taken) = (Vec::new(), 0);
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Rewound<'_> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut *self.client).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut *self.client).poll_write_vectored(cx, parts)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.client).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.client).poll_shutdown(cx)
    }
}
