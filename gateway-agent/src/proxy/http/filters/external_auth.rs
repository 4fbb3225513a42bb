//! `ExternalAuth`: another service decides whether a request may pass.

use std::sync::Arc;

use http::HeaderName;

use super::{Exchange, Filtering, Request, Step};
use crate::ir::http::Target;
use crate::proxy::http::answer::Reason;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExternalAuth {
    pub target: Target,
    pub protocol: AuthProtocol,
    /// Bytes of the body that go along; 0: none.
    pub body: usize,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AuthProtocol {
    Http {
        /// In front of the path of the request.
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

impl Filtering for Arc<ExternalAuth> {
    /// Nobody can be asked yet: closed.
    async fn request(&self, _exchange: &mut Exchange, _request: &mut Request) -> Step {
        Step::Refuse(Reason::AuthUnavailable)
    }
}
