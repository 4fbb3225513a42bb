//! `RequestRedirect`.

use std::borrow::Cow;
use std::net::IpAddr;
use std::sync::Arc;

use http::header::LOCATION;
use http::{HeaderValue, StatusCode};

use super::rewrite::PathChange;
use super::{Exchange, Filtering, Request, Step};
use crate::proxy::http::answer::Reason;
use crate::proxy::http::body::Body;
use crate::proxy::http::exchange::Scheme;

/// What is not given stays as it was.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Redirect {
    pub scheme: Option<Scheme>,
    pub host: Option<Arc<str>>,
    /// Not given: the default of the new scheme, or the listener's where the scheme stays (HTTPRequestRedirectFilter, "port").
    pub port: Option<u16>,
    pub path: Option<PathChange>,
    /// 301, 302, 303, 307 or 308.
    pub status: StatusCode,
}

impl Filtering for Redirect {
    async fn request(&self, exchange: &mut Exchange, request: &mut Request) -> Step {
        let Ok(location) = HeaderValue::try_from(self.location(exchange, request)) else {
            return Step::Refuse(Reason::BadRequest);
        };
        let mut response = super::Response::new(Body::empty());
        *response.status_mut() = self.status;
        response.headers_mut().insert(LOCATION, location);
        Step::Answer(Box::new(response))
    }
}

impl Redirect {
    fn location(&self, exchange: &Exchange, request: &Request) -> String {
        let uri = request.uri();
        let scheme = self.scheme.unwrap_or(exchange.scheme);
        let host = match &self.host {
            Some(host) => host.as_ref().into(),
            // Of HTTP/1.0: the address is what the client knows.
            None if exchange.requested_host.is_empty() => Cow::from(address(exchange.origin.gateway.ip())),
            None => Cow::from(&*exchange.requested_host),
        };
        let default = match self.scheme {
            Some(scheme) => scheme.port(),
            None => exchange.origin.gateway.port(),
        };
        let port = match self.port.unwrap_or(default) {
            port if port == scheme.port() => String::new(),
            port => format!(":{port}"),
        };
        let path = match &self.path {
            Some(change) => change.apply(uri, exchange.matched_prefix),
            None => uri.path_and_query().map_or("/", |path| path.as_str()).to_owned(),
        };
        format!("{}://{host}{port}{path}", scheme.as_str())
    }
}

/// As an authority has it.
fn address(ip: IpAddr) -> String {
    match ip {
        IpAddr::V4(ip) => ip.to_string(),
        IpAddr::V6(ip) => format!("[{ip}]"),
    }
}
