//! `ExternalAuth`: another service decides whether a request may pass.

mod by_grpc;
mod by_http;
mod change;
pub(super) mod messages;

use std::future::ready;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::{HeaderName, response};
use http_body_util::{BodyExt, Full};
use hyper::body::Body as HttpBody;
use tokio::time::timeout;

pub use change::Change;

use super::{Exchange, Filtering, Request, Response, Step};
use crate::ir::http::Target;
use crate::proxy::http::answer::Reason;
use crate::proxy::http::body::{Body, BodyError};

/// How long a client may take for a body that the service is to see.
const BODY_TIME: Duration = Duration::from_secs(30);

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExternalAuth {
    /// Of [`AuthProtocol::Grpc`], it speaks HTTP/2. An invalid one refuses everything.
    pub target: Target,
    pub protocol: AuthProtocol,
    /// Bytes of the body that go along; 0: none. Longer bodies are refused (HTTPExternalAuthFilter, "forwardBody").
    pub body: usize,
    /// Until the service has decided.
    pub timeout: Duration,
    /// Requests pass where the service gives no answer. Only for who says so.
    pub fails_open: bool,
}

impl ExternalAuth {
    /// Where nobody says how long.
    pub const TIMEOUT: Duration = Duration::from_secs(2);
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AuthProtocol {
    Http {
        /// In front of the path of the request. Empty, or begins with a slash.
        path: Arc<str>,
        /// Of the request, beside those that always go along.
        request_headers: Vec<HeaderName>,
        /// Of the answer, that the backend gets; empty: all.
        response_headers: Vec<HeaderName>,
    },
    /// `envoy.service.auth.v3`.
    Grpc {
        /// Empty: all.
        request_headers: Vec<HeaderName>,
    },
}

/// What a service says.
enum Verdict {
    Pass,
    /// With what the client gets, unless that is for the agent to say.
    Deny(Option<Box<Response>>),
}

impl Filtering for Arc<ExternalAuth> {
    async fn request(&self, exchange: &mut Exchange, request: &mut Request) -> Step {
        Box::pin(self.decide(exchange, request)).await
    }

    fn response(&self, exchange: &Exchange, response: &mut response::Parts) {
        for change in exchange.told.by_auth.take() {
            change.apply(&mut response.headers);
        }
    }
}

impl ExternalAuth {
    async fn decide(&self, exchange: &Exchange, request: &mut Request) -> Step {
        let Target::Cluster(cluster) = &self.target else { return Step::Refuse(Reason::AuthUnavailable) };
        let body = match timeout(BODY_TIME, keep_body(request, self.body)).await {
            Ok(Ok(body)) => body,
            Ok(Err(reason)) => return Step::Refuse(reason),
            Err(_) => return Step::Refuse(Reason::RequestTimeout),
        };
        let asked = async {
            match &self.protocol {
                AuthProtocol::Http { path, request_headers, response_headers } => {
                    by_http::ask(cluster, path, request_headers, response_headers, body, exchange, request).await
                }
                AuthProtocol::Grpc { request_headers } => {
                    by_grpc::ask(cluster, request_headers, self.timeout, body, exchange, request).await
                }
            }
        };
        match timeout(self.timeout, asked).await.ok().flatten() {
            Some(Verdict::Pass) => Step::Continue,
            Some(Verdict::Deny(Some(response))) if !exchange.grpc => Step::Answer(response),
            Some(Verdict::Deny(_)) => Step::Refuse(Reason::AuthDenied),
            None if self.fails_open => Step::Continue,
            None => Step::Refuse(Reason::AuthUnavailable),
        }
    }
}

/// Reads the body of a request if it is no longer than `limit`, and leaves it with the request.
async fn keep_body(request: &mut Request, limit: usize) -> Result<Bytes, Reason> {
    if limit == 0 || request.body().is_end_stream() {
        return Ok(Bytes::new());
    }
    let too_long = |length: u64| length > limit as u64;
    if too_long(request.body().size_hint().lower()) {
        return Err(Reason::BodyTooLarge);
    }
    let mut body = std::mem::take(request.body_mut());
    let (mut kept, mut trailers) = (BytesMut::new(), None);
    while let Some(frame) = body.frame().await {
        match frame.map_err(|_| Reason::BadRequest)?.into_data() {
            Ok(data) => {
                kept.extend_from_slice(&data);
                if too_long(kept.len() as u64) {
                    return Err(Reason::BodyTooLarge);
                }
            }
            Err(frame) => trailers = frame.into_trailers().ok(),
        }
    }
    let kept = kept.freeze();
    *request.body_mut() = match trailers {
        None => Body::of(kept.clone()),
        Some(trailers) => {
            let body = Full::new(kept.clone()).with_trailers(ready(Some(Ok(trailers))));
            Body::boxed(body.map_err(|never| -> BodyError { match never {} }))
        }
    };
    Ok(kept)
}
