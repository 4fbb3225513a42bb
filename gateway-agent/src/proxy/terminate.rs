//! forward, after TLS: the agent ends TLS, and what was inside goes to the backend.

use std::io;
use std::sync::Arc;

use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use super::backend::Backend;
use super::copy::{Buffers, copy};
use super::rewound::Rewound;
use super::{Counters, Terminator, sockets};

/// The TLS handshake; `read` is what has come of it.
pub async fn accept<'a>(
    client: &'a mut TcpStream,
    read: Vec<u8>,
    terminator: &Terminator,
) -> io::Result<TlsStream<Rewound<&'a mut TcpStream>>> {
    TlsAcceptor::from(Arc::clone(&terminator.config)).accept(Rewound::new(read, client)).await
}

/// Both ways until both have ended: a close_notify becomes FIN, and FIN close_notify. A client that ends without close_notify
/// may have been cut off by somebody else, so that its backend is not told that this was all (RFC 8446 section 6.1); nor is the client,
/// by a backend that speaks TLS.
pub async fn forward(
    mut client: TlsStream<Rewound<&mut TcpStream>>,
    backend: Backend,
    buffers: &Buffers,
    counters: &Counters,
) -> io::Result<()> {
    let (inwards, outwards) = (|n| counters.bytes_in.add(n), |n| counters.bytes_out.add(n));
    let result = match backend {
        Backend::Clear(mut backend) => {
            let result = copy(&mut client, &mut backend, buffers, inwards, outwards).await;
            if result.is_err() {
                sockets::reset_on_close(&backend);
            }
            result
        }
        Backend::Secure(mut backend) => {
            let result = copy(&mut client, &mut backend, buffers, inwards, outwards).await;
            if result.is_err() {
                sockets::reset_on_close(backend.get_ref().0);
            }
            result
        }
    };
    if result.is_err() {
        sockets::reset_on_close(&**client.get_ref().0.get_ref());
    }
    result
}
