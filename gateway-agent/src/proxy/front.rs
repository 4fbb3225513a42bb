//! HTTP and HTTPS: from what is known of a connection to its first request.

use std::rc::Rc;
use std::sync::Arc;

use tokio::net::TcpStream;
use tokio::time::{Instant, timeout_at};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::{ProtocolVersion, ServerConnection};

use super::connection::{Answer, Refused};
use super::http::server::{self, Client, Security, Session};
use super::rewound::Rewound;
use super::worker::Kept;
use super::{Origin, Refusal, Shared, Terminator};
use crate::ir::ListenerName;
use crate::ir::http::Listener;

/// An HTTP listener, or the HTTPS listener that a server name leads to.
#[derive(Clone, Debug)]
pub struct Front {
    pub name: ListenerName,
    pub listener: Arc<Listener>,
}

/// In the clear: the first request says which listener's it is.
pub async fn clear(stream: TcpStream, front: Front, origin: Origin, kept: &Kept) {
    serve(stream, front, origin, Security::Clear, kept).await;
}

/// Ends TLS; `read` is what has come of it.
pub async fn secure(
    stream: TcpStream,
    read: Vec<u8>,
    deadline: Instant,
    (front, terminator): (Front, Arc<Terminator>),
    origin: Origin,
    shared: &Shared,
    kept: &Kept,
) -> Result<(), (Refused, Option<TcpStream>)> {
    // Both by themselves: what TLS needs is more than a kilobyte, which each future below would have the room for.
    let accept = TlsAcceptor::from(Arc::clone(&terminator.config)).accept(Rewound::new(read, stream)).into_fallible();
    drop(terminator);
    let stream = match timeout_at(deadline, Box::pin(accept)).await {
        Ok(Ok(stream)) => Box::new(stream),
        Ok(Err((error, stream))) => {
            tracing::debug!(%error, client = %origin.client, "a TLS handshake failed");
            let refused = Refused { reason: Refusal::HandshakeFailed, answer: Answer::End };
            return Err((refused, Some(stream.into_inner())));
        }
        Err(_) => return Err((Refusal::HandshakeTimeout.into(), None)),
    };
    shared.counters.terminated.add(1);
    let h2 = stream.get_ref().1.alpn_protocol() == Some(super::tls::H2);
    let session = kept.http.shared.log.get().map(|_| Rc::new(session(stream.get_ref().1)));
    let security = Security::Tls { listener: front.name.clone(), h2, session };
    serve(stream, front, origin, security, kept).await;
    Ok(())
}

fn session(tls: &ServerConnection) -> Session {
    let version = tls.protocol_version().and_then(|version| match version {
        ProtocolVersion::TLSv1_2 => Some("TLSv1.2"),
        ProtocolVersion::TLSv1_3 => Some("TLSv1.3"),
        _ => None,
    });
    Session { version, server_name: tls.server_name().map(Box::from) }
}

async fn serve<S>(stream: S, front: Front, origin: Origin, security: Security, kept: &Kept)
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
{
    let client = Client { local: Rc::clone(&kept.http), origin, security };
    let settings = Arc::clone(&front.listener.settings);
    drop(front);
    server::serve(stream, client, &settings, kept.stopped.clone()).await;
}
