//! What the agent answers by itself, and why.

use http::header::{CONNECTION, CONTENT_TYPE};
use http::{HeaderMap, HeaderValue, Response, StatusCode};

use super::body::Body;
use super::grpc::Status;

/// The table of reasons: name in metrics and logs, status, grpc-status (of the mapping of gRPC, "HTTP to gRPC Status Code
/// Mapping", where the agent knows no better).
macro_rules! reasons {
    ($($(#[$doc:meta])* $reason:ident $name:literal $status:ident $grpc:ident,)*) => {
        /// Why the agent answers by itself.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[repr(usize)]
        pub enum Reason {
            $($(#[$doc])* $reason,)*
        }

        impl Reason {
            pub const ALL: &[Reason] = &[$(Reason::$reason,)*];

            /// The metric label.
            pub fn name(self) -> &'static str {
                match self {
                    $(Reason::$reason => $name,)*
                }
            }

            pub fn status(self) -> StatusCode {
                match self {
                    $(Reason::$reason => StatusCode::$status,)*
                }
            }

            pub fn grpc_status(self) -> Status {
                match self {
                    $(Reason::$reason => Status::$grpc,)*
                }
            }
        }
    };
}

reasons! {
    /// No host, two of them, a path or a framing that has two readings.
    BadRequest "bad_request" BAD_REQUEST Internal,
    RequestTimeout "request_timeout" REQUEST_TIMEOUT DeadlineExceeded,
    /// A body that is chunked and something else beside.
    UnsupportedCoding "unsupported_coding" NOT_IMPLEMENTED Unimplemented,
    UnsupportedVersion "unsupported_version" HTTP_VERSION_NOT_SUPPORTED Unimplemented,
    /// The client takes nothing of an answer under way: it is broken off.
    ClientStalled "client_stalled" REQUEST_TIMEOUT DeadlineExceeded,
    /// An upgraded connection that was silent both ways: it is ended.
    StreamIdle "stream_idle" REQUEST_TIMEOUT DeadlineExceeded,
    UriTooLong "uri_too_long" URI_TOO_LONG Internal,
    HeadersTooLarge "headers_too_large" REQUEST_HEADER_FIELDS_TOO_LARGE ResourceExhausted,
    /// Of HTTP/2: what the client does is no HTTP/2, is too much for nothing, or is more streams than there may be. Answered by a frame.
    Http2Error "http2_error" BAD_REQUEST Internal,
    Http2Flood "http2_flood" TOO_MANY_REQUESTS ResourceExhausted,
    TooManyStreams "too_many_streams" SERVICE_UNAVAILABLE Unavailable,
    /// No listener of this address and port, or no rule, takes the request.
    NoRoute "no_route" NOT_FOUND Unimplemented,
    /// The host belongs to another listener than the connection's server name.
    Misdirected "misdirected" MISDIRECTED_REQUEST Unavailable,
    /// The reference that was picked does not hold, or the rule has none.
    InvalidBackend "invalid_backend" INTERNAL_SERVER_ERROR Unavailable,
    UnknownFilter "unknown_filter" INTERNAL_SERVER_ERROR Unavailable,
    /// The authorization service says no, and has no answer of its own that would do.
    AuthDenied "auth_denied" FORBIDDEN PermissionDenied,
    /// It cannot be asked, or gives no answer.
    AuthUnavailable "auth_unavailable" FORBIDDEN PermissionDenied,
    /// More than the authorization service is to see.
    BodyTooLarge "body_too_large" PAYLOAD_TOO_LARGE ResourceExhausted,
    /// No endpoint serves.
    NoEndpoint "no_endpoint" SERVICE_UNAVAILABLE Unavailable,
    TooManyConnections "too_many_connections" SERVICE_UNAVAILABLE Unavailable,
    /// Clients make the agent keep as much as they may.
    OutOfMemory "out_of_memory" SERVICE_UNAVAILABLE Unavailable,
    /// It takes no connection, or breaks off before its answer.
    Unreachable "unreachable" BAD_GATEWAY Unavailable,
    /// It answers with what is no HTTP.
    BadResponse "bad_response" BAD_GATEWAY Unavailable,
    BackendTimeout "backend_timeout" GATEWAY_TIMEOUT DeadlineExceeded,
}

/// The answer. `grpc`: to a gRPC call (by its content-type), which wants a trailers-only response.
pub fn answer(reason: Reason, grpc: bool) -> Response<Body> {
    let mut response = Response::new(Body::empty());
    if grpc {
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
        headers.insert("grpc-status", HeaderValue::from(u16::from(reason.grpc_status().number())));
        headers.insert("grpc-message", HeaderValue::from_static(reason.name()));
        return response;
    }
    *response.status_mut() = reason.status();
    if reason == Reason::RequestTimeout {
        response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    }
    response
}

/// Whether a request is a gRPC call: of the content-type `application/grpc`, alone or with `+` or `;`; grpc-web is not.
pub fn is_grpc(headers: &HeaderMap) -> bool {
    let content_type = headers.get(CONTENT_TYPE).map(HeaderValue::as_bytes).unwrap_or_default();
    let rest = content_type.strip_prefix(b"application/grpc");
    rest.is_some_and(|rest| matches!(rest.first(), None | Some(b'+' | b';')))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_has_its_own_name_and_place() {
        for (i, reason) in Reason::ALL.iter().enumerate() {
            assert_eq!(*reason as usize, i);
            assert_eq!(Reason::ALL.iter().filter(|other| other.name() == reason.name()).count(), 1);
        }
    }

    #[test]
    fn a_grpc_call_is_answered_by_trailers_only() {
        let mut headers = HeaderMap::new();
        for (value, is) in
            [("application/grpc", true), ("application/grpc+proto", true), ("application/grpc-web", false)]
        {
            headers.insert(CONTENT_TYPE, value.parse().unwrap());
            assert_eq!(is_grpc(&headers), is, "{value}");
        }
        let response = answer(Reason::NoRoute, true);
        assert_eq!((response.status(), &response.headers()["grpc-status"]), (StatusCode::OK, &HeaderValue::from(12)));
        assert_eq!(answer(Reason::NoRoute, false).status(), StatusCode::NOT_FOUND);
    }
}
