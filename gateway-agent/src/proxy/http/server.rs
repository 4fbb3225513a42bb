//! A connection of a client, from its first byte of HTTP to its end.

use std::convert::Infallible;
use std::rc::Rc;

use hyper::rt::Executor as HyperExecutor;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::watch;

use super::exchange::Scheme;
use super::forward;
use super::worker::Local;
use crate::ir::ListenerName;
use crate::ir::http::Limits;
use crate::proxy::Origin;

/// What is known of a connection before its first request.
#[derive(Debug)]
pub struct Client {
    pub local: Rc<Local>,
    /// The client (of the PROXY protocol header, where there is one) and the address and port that it wanted.
    pub origin: Origin,
    pub security: Security,
}

#[derive(Clone, Debug)]
pub enum Security {
    Clear,
    /// TLS has ended.
    Tls {
        /// By the server name: requests for hosts of another get 421.
        listener: ListenerName,
        /// ALPN has settled on it.
        h2: bool,
    },
}

impl Client {
    pub fn scheme(&self) -> Scheme {
        match self.security {
            Security::Clear => Scheme::Http,
            Security::Tls { .. } => Scheme::Https,
        }
    }
}

/// Until the connection ends, or has no request under way after `stop` was set. In the clear, HTTP/2 is what begins with its preface (RFC 9113
/// section 3.3).
pub async fn serve<S>(stream: S, client: Client, limits: &Limits, mut stop: watch::Receiver<bool>)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let builder = builder(limits, &client.security);
    let client = Rc::new(client);
    let service = service_fn(|request| {
        let client = Rc::clone(&client);
        async move { Ok::<_, Infallible>(forward::respond(request, &client).await) }
    });
    let connection = builder.serve_connection_with_upgrades(TokioIo::new(stream), service);
    let mut connection = std::pin::pin!(connection);
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        _ = stop.wait_for(|stop| *stop) => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(error, client = %client.origin.client, "a connection was broken off");
    }
}

fn builder(limits: &Limits, security: &Security) -> auto::Builder<Executor> {
    let mut builder = auto::Builder::new(Executor);
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.header_time)
        .max_headers(limits.headers)
        .max_buf_size(limits.header_bytes.max(8 << 10))
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(limits.streams)
        .max_pending_accept_reset_streams(limits.pending_resets)
        .max_header_list_size(u32::try_from(limits.header_bytes).unwrap_or(u32::MAX))
        .enable_connect_protocol();
    match security {
        Security::Clear => builder,
        Security::Tls { h2: true, .. } => builder.http2_only(),
        Security::Tls { h2: false, .. } => builder.http1_only(),
    }
}

/// Tasks stay on the worker of their connection.
#[derive(Clone, Copy, Debug)]
pub struct Executor;

impl<F: Future<Output: 'static> + 'static> HyperExecutor<F> for Executor {
    fn execute(&self, task: F) {
        tokio::task::spawn_local(task);
    }
}
