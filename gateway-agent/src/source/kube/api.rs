//! The way to the API server: kube's configuration and authentication over one HTTP/2 connection, on which every watch is a stream.

use std::cell::Cell;
use std::fmt;
use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, StatusCode, header};
use http_body_util::BodyExt;
use hyper_rustls::{DefaultServerNameResolver, FixedServerNameResolver, HttpsConnector, ResolveServerName};
use hyper_util::client::legacy::Client as HttpClient;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use jiff::Timestamp;
use kube::client::{Body, ConfigExt};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
use rustls::pki_types::ServerName;
use serde::Deserialize;
use tokio::sync::Mutex;
use tower::{BoxError, ServiceBuilder};

/// For everything that is not a watch.
const ANSWER: Duration = Duration::from_secs(30);
const CONNECT: Duration = Duration::from_secs(5);
/// How soon a connection whose other end is gone without a word is known to be dead.
const PING: (Duration, Duration) = (Duration::from_secs(10), Duration::from_secs(5));
/// What may be on its way unread: of a stream, of the connection.
const WINDOWS: (u32, u32) = (256 << 10, 1 << 20);
/// Of an answer; an object is 1.5 MiB at most (etcd), a page has 200.
const MOST_BYTES: usize = 64 << 20;

#[derive(Clone)]
pub struct Api {
    config: Config,
    client: Client,
    door: Rc<Door>,
}

/// While there is no connection, one at a time goes to make it: else everybody would make one.
#[derive(Default)]
struct Door {
    open: Cell<bool>,
    turn: Mutex<()>,
}

/// A configuration that leads nowhere.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error("cannot use the kubeconfig {path}: {why}; name one that kubectl works with")]
    File { path: String, why: String },
    #[error(
        "cannot find the API server as a pod does: {0}; run in a pod with a service account, or give --kubeconfig or --manifests"
    )]
    Pod(String),
    #[error("cannot speak to the API server: {0}")]
    Client(String),
}

#[derive(Debug, thiserror::Error)]
pub enum ApiError {
    /// A retry may help.
    #[error("the API server cannot be reached: {0}")]
    Unreachable(String),
    #[error("the API server answers {code}: {message}")]
    Refused { code: StatusCode, message: String },
    #[error("the API server's answer makes no sense: {0}")]
    Malformed(String),
}

impl ApiError {
    pub fn malformed(error: impl fmt::Display) -> ApiError {
        ApiError::Malformed(error.to_string())
    }

    pub fn code(&self) -> Option<StatusCode> {
        match self {
            ApiError::Refused { code, .. } => Some(*code),
            ApiError::Unreachable(_) | ApiError::Malformed(_) => None,
        }
    }
}

/// What the API server takes a body for.
#[derive(Clone, Copy)]
pub enum Format {
    Json,
    MergePatch,
    /// Of server-side apply.
    Apply,
}

impl Api {
    /// By a kubeconfig, or as a pod. Nothing is sent yet. Must be called within the event loop.
    pub async fn new(kubeconfig: Option<&Path>) -> Result<Api, ConfigError> {
        let config = match kubeconfig {
            Some(path) => {
                let failed = |why: kube::config::KubeconfigError| ConfigError::File {
                    path: path.display().to_string(),
                    why: why.to_string(),
                };
                let file = Kubeconfig::read_from(path).map_err(failed)?;
                Config::from_custom_kubeconfig(file, &KubeConfigOptions::default()).await.map_err(failed)?
            }
            None => Config::incluster().map_err(|error| ConfigError::Pod(error.to_string()))?,
        };
        Api::by(config)
    }

    pub(super) fn by(config: Config) -> Result<Api, ConfigError> {
        let client = client(&config).map_err(|error| ConfigError::Client(error.to_string()))?;
        Ok(Api { config, client, door: Rc::default() })
    }

    /// With a connection of its own: an API server takes so many streams on one (250).
    pub fn another(&self) -> Result<Api, ConfigError> {
        Api::by(self.config.clone())
    }

    /// The namespace that the agent is to live in.
    pub fn live_in(&mut self, namespace: String) {
        self.config.default_namespace = namespace;
    }

    /// The namespace that the agent lives in.
    pub fn namespace(&self) -> &str {
        &self.config.default_namespace
    }

    /// Where the Leases of that namespace are.
    pub fn leases(&self) -> String {
        format!("/apis/coordination.k8s.io/v1/namespaces/{}/leases", self.namespace())
    }

    pub fn url(&self) -> String {
        self.config.cluster_url.to_string()
    }

    pub async fn get(&self, path: &str, accept: &str) -> Result<Bytes, ApiError> {
        self.answer(request(Method::GET, path).header(header::ACCEPT, accept).body(Body::empty())).await
    }

    pub async fn send(&self, method: Method, path: &str, format: Format, body: Vec<u8>) -> Result<Bytes, ApiError> {
        let kind = match format {
            Format::Json => "application/json",
            Format::MergePatch => "application/merge-patch+json",
            // JSON is YAML.
            Format::Apply => "application/apply-patch+yaml",
        };
        let request = request(method, path).header(header::ACCEPT, JSON).header(header::CONTENT_TYPE, kind);
        self.answer(request.body(Body::from(body))).await
    }

    /// An answer that comes bit by bit and does not end.
    pub async fn stream(&self, path: &str, accept: &str) -> Result<Body, ApiError> {
        let request = request(Method::GET, path).header(header::ACCEPT, accept).body(Body::empty());
        in_time(self.start(request)).await
    }

    async fn answer(&self, request: http::Result<Request<Body>>) -> Result<Bytes, ApiError> {
        in_time(async { collect(self.start(request).await?).await }).await
    }

    async fn start(&self, request: http::Result<Request<Body>>) -> Result<Body, ApiError> {
        let request = request.map_err(ApiError::malformed)?;
        let turn = if self.door.open.get() { None } else { Some(self.door.turn.lock().await) };
        let answer = self.client.send(request).await;
        self.door.open.set(answer.is_ok());
        drop(turn);
        let (head, body) = answer.map_err(|error| unreachable(&error))?.into_parts();
        if head.status.is_success() {
            return Ok(body);
        }
        #[derive(Deserialize)]
        struct Status {
            message: String,
        }
        let bytes = collect(body).await.unwrap_or_default();
        let message = match serde_json::from_slice(&bytes) {
            Ok(Status { message }) => message,
            Err(_) => String::from_utf8_lossy(&bytes[..bytes.len().min(200)]).trim().to_owned(),
        };
        Err(ApiError::Refused { code: head.status, message })
    }
}

pub const JSON: &str = "application/json";

/// As the API writes times of Leases and Events.
pub fn micro_time(time: Timestamp) -> String {
    time.strftime("%Y-%m-%dT%H:%M:%S%.6fZ").to_string()
}

async fn in_time<T>(answer: impl Future<Output = Result<T, ApiError>>) -> Result<T, ApiError> {
    let answer = tokio::time::timeout(ANSWER, answer).await;
    answer.unwrap_or_else(|_| Err(ApiError::Unreachable(format!("no answer within {} s", ANSWER.as_secs()))))
}

fn request(method: Method, path: &str) -> http::request::Builder {
    Request::builder().method(method).uri(path)
}

async fn collect(body: Body) -> Result<Bytes, ApiError> {
    let body = http_body_util::Limited::new(body, MOST_BYTES);
    let collected = body.collect().await.map_err(|error| unreachable(&*error))?;
    Ok(collected.to_bytes())
}

/// With what is behind it: the outermost error says little.
pub fn unreachable(error: &(dyn std::error::Error + 'static)) -> ApiError {
    let mut texts = vec![error.to_string()];
    let mut next = error.source();
    while let Some(cause) = next {
        let text = cause.to_string();
        if !texts.iter().any(|known| known.contains(&text)) {
            texts.push(text);
        }
        next = cause.source();
    }
    ApiError::Unreachable(texts.join(": "))
}

fn client(config: &Config) -> Result<Client, BoxError> {
    let mut tcp = HttpConnector::new();
    tcp.enforce_http(false);
    tcp.set_nodelay(true);
    tcp.set_connect_timeout(Some(CONNECT));
    let mut tls = config.rustls_client_config()?;
    tls.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    let name: std::sync::Arc<dyn ResolveServerName + Send + Sync> = match &config.tls_server_name {
        Some(name) => std::sync::Arc::new(FixedServerNameResolver::new(ServerName::try_from(name.clone())?)),
        None => std::sync::Arc::new(DefaultServerNameResolver::default()),
    };
    let http = HttpClient::builder(TokioExecutor::new())
        .timer(TokioTimer::new())
        .pool_timer(TokioTimer::new())
        .http2_keep_alive_interval(PING.0)
        .http2_keep_alive_timeout(PING.1)
        .http2_initial_stream_window_size(WINDOWS.0)
        .http2_initial_connection_window_size(WINDOWS.1)
        .build(HttpsConnector::new(tcp, tls, false, name));
    let service = ServiceBuilder::new()
        .layer(config.base_uri_layer())
        .option_layer(config.auth_layer()?)
        .layer(config.extra_headers_layer()?)
        .map_err(BoxError::from)
        .service(http);
    Ok(Client::new(service, config.default_namespace.clone()))
}
