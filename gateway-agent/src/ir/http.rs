//! HTTP in the IR: listeners, the routes at them, and what a rule says. A match or a filter is a type of its own in the file of
//! its feature (`proxy/http/matches`, `proxy/http/filters`), ready to run: what is here puts them together.

use std::cmp::Ordering;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

pub use super::attachments::Attachments;
use super::{Certificate, HostName, as_one_text};
pub use crate::proxy::http::access_log::Which;
pub use crate::proxy::http::filters::Filter;
pub use crate::proxy::http::matches::{GrpcMethodMatch, HeaderMatch, Match, PathMatch, QueryMatch, Text};
pub use crate::proxy::http::retry::Retry;
pub use crate::proxy::http::session::Persistence;
pub use crate::proxy::http::timeout::Timeouts;
pub use crate::proxy::http::upstream::balance::Balance;

/// An HTTP or HTTPS listener. On one address and port there are no two with the same hostname (`compile` refuses the younger), so
/// that the most specific one that matches a host is one (listener isolation).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listener {
    pub hostname: HostName,
    pub security: Security,
    /// No host of a GRPCRoute has names in common with one of an HTTPRoute:
    /// `compile` accepts the older of two such routes (GRPCRoute, "hostnames").
    pub routes: Attachments,
    pub settings: Arc<Settings>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Security {
    Http,
    Https {
        /// None: the listener is there to refuse its hostname.
        certificates: Vec<Arc<Certificate>>,
        clients: Clients,
    },
}

impl Security {
    /// As manifests write the protocol.
    pub fn as_str(&self) -> &'static str {
        match self {
            Security::Http => "HTTP",
            Security::Https { .. } => "HTTPS",
        }
    }
}

/// What a listener wants to know of its clients.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Clients {
    /// They are asked for no certificate.
    Anonymous,
    Checked {
        authorities: Arc<Authorities>,
        unverified: Unverified,
    },
    /// The certificates to check them with are missing or broken: every handshake is refused.
    Refused,
}

/// What becomes of a client without a certificate that holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unverified {
    /// `AllowValidOnly`.
    Refused,
    /// `AllowInsecureFallback`.
    Allowed,
}

/// Certificates to check others with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Authorities {
    /// `ConfigMap namespace/name`, for people.
    pub origin: Arc<str>,
    /// DER, never empty.
    pub certificates: Vec<Vec<u8>>,
}

/// What listeners can be told beyond their routes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Settings {
    /// Proxies in front that are believed what they say in X-Forwarded-*: so many entries from the right.
    pub trusted_hops: u8,
    /// Connections begin with a PROXY protocol header, version 1 or 2; those without are refused.
    pub proxy_protocol: bool,
    pub drain: Drain,
    /// Whose requests are written down; `None`: those that the agent was told to.
    pub logged: Option<Which>,
    pub limits: Limits,
}

/// How long requests have when their listener or the agent goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Drain(pub Duration);

impl Default for Drain {
    fn default() -> Drain {
        Drain(Duration::from_secs(10))
    }
}

/// What a client may use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// At a time, of the listener.
    pub connections: usize,
    /// Bytes of all headers; more: 431.
    pub header_bytes: usize,
    /// Number of headers; more: 431.
    pub headers: usize,
    /// Bytes of the path and query; more: 414.
    pub uri_bytes: usize,
    /// From the first byte of a request to the end of its headers; longer: 408.
    pub header_time: Duration,
    /// Without a byte of a body that is under way, while the client is waited for.
    pub body_idle: Duration,
    /// Without a byte of what is open both ways: an upgraded connection, both ways; a gRPC call, from the client.
    pub stream_idle: Duration,
    /// Without a request.
    pub idle: Duration,
    /// At a time, of an HTTP/2 connection.
    pub streams: u32,
    /// Streams that the client has reset and that are not done with; more: GOAWAY.
    pub pending_resets: usize,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            connections: 10_000,
            header_bytes: 64 << 10,
            headers: 128,
            uri_bytes: 16 << 10,
            header_time: Duration::from_secs(10),
            body_idle: Duration::from_secs(60),
            stream_idle: Duration::from_secs(3600),
            idle: Duration::from_secs(120),
            streams: 128,
            pending_resets: 20,
        }
    }
}

/// A route at a listener.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attachment {
    /// What the hostnames of both have in common, sorted, never empty.
    pub hosts: Arc<[HostName]>,
    pub route: Arc<Route>,
}

/// An HTTPRoute or GRPCRoute. While nothing of it changes (its objects, the Services and policies it leads to), every compile
/// has the same `Arc`: `Arc::ptr_eq` says "nothing to do here", and is all that the proxy's tables ask.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    pub name: RouteName,
    pub created: Created,
    pub rules: Vec<Rule>,
}

impl Route {
    /// The older, then the first by name.
    pub fn precedence(&self) -> (Created, &RouteName) {
        (self.created, &self.name)
    }
}

/// Sorts as `namespace/name` does, letter by letter: that is precedence among routes of one age.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct RouteName {
    pub namespace: Arc<str>,
    pub name: Arc<str>,
    pub kind: RouteKind,
}

impl Ord for RouteName {
    fn cmp(&self, other: &RouteName) -> Ordering {
        let by_name = as_one_text((&self.namespace, &self.name), (&other.namespace, &other.name));
        by_name.then_with(|| self.kind.cmp(&other.kind))
    }
}

impl PartialOrd for RouteName {
    fn partial_cmp(&self, other: &RouteName) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl fmt::Display for RouteName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}/{}", self.kind.as_str(), self.namespace, self.name)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum RouteKind {
    Http,
    /// What goes wrong is told by grpc-status.
    Grpc,
}

impl RouteKind {
    pub fn as_str(self) -> &'static str {
        match self {
            RouteKind::Http => "HTTPRoute",
            RouteKind::Grpc => "GRPCRoute",
        }
    }
}

/// When a route came into being; the oldest sorts first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Created {
    /// Seconds since 1970, which is what Kubernetes keeps.
    At(i64),
    /// Younger than all that are known.
    Unknown,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// For metrics and logs: `name`, or the number of the rule.
    pub name: Arc<str>,
    /// One of them must match. Never empty: no `matches` is a prefix of `/`, or any gRPC method.
    pub matches: Arc<[Match]>,
    /// In their order on the request, in the opposite one on the response.
    pub filters: Vec<Filter>,
    /// Empty: the filters answer, or it is 500 (HTTPRoute, "backendRefs").
    pub backends: Vec<Backend>,
    pub timeouts: Timeouts,
    pub retry: Option<Retry>,
    pub persistence: Option<Arc<Persistence>>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Backend {
    /// Share of the requests, relative to the others of the rule.
    pub weight: u32,
    /// After those of the rule.
    pub filters: Vec<Filter>,
    pub target: Target,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// The reference, or the policy for it, does not hold: its share gets 500.
    Invalid,
    Cluster(Arc<Cluster>),
}

/// A port of a Service, as the agent speaks to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cluster {
    /// `namespace/name:port`: its endpoints are in [`super::Ir::endpoints`] by that.
    pub service: Arc<str>,
    pub application: Application,
    pub balance: Balance,
    /// BackendTLSPolicy. One that is broken makes the target [`Target::Invalid`].
    pub tls: Option<Arc<BackendTls>>,
}

/// `appProtocol`. Of a GRPCRoute that says nothing it is [`Application::H2c`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Application {
    /// HTTP/1.1 in the clear, with any Upgrade; over TLS as ALPN says.
    Http,
    /// `kubernetes.io/h2c`: HTTP/2 by prior knowledge.
    H2c,
    /// `kubernetes.io/ws`, and `wss` where there is TLS: HTTP/1.1, also over TLS.
    WebSocket,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BackendTls {
    /// SNI. Also who the backend must be, if `identities` is empty.
    pub server_name: Arc<str>,
    pub identities: Vec<Identity>,
    pub roots: Roots,
    /// What the Gateway shows of itself (`tls.backend.clientCertificateRef`).
    pub client: Option<Arc<Certificate>>,
}

/// A subjectAltName that will do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Identity {
    Dns(Arc<str>),
    Uri(Arc<str>),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Roots {
    /// `wellKnownCACertificates: System`.
    System,
    These(Arc<Authorities>),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn routes_of_one_age_sort_by_namespace_and_name_as_one_text() {
        let name = |namespace: &str, name: &str| RouteName {
            namespace: namespace.into(),
            name: name.into(),
            kind: RouteKind::Http,
        };
        // `-` comes before `/`.
        assert!(name("a-b", "x") < name("a", "x"));
        assert!(name("a", "x") < name("b", "a"));
        assert!(name("a", "x") < name("a", "x-1"));
    }
}
