//! `CORS`: preflights are answered here, other responses get their headers. What a backend says of its own about origins is taken out: the
//! filter decides.

use std::sync::Arc;
use std::time::Duration;

use http::header::{
    ACCESS_CONTROL_ALLOW_CREDENTIALS, ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS,
    ACCESS_CONTROL_ALLOW_ORIGIN, ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE, ACCESS_CONTROL_REQUEST_HEADERS,
    ACCESS_CONTROL_REQUEST_METHOD, ORIGIN, SET_COOKIE, VARY,
};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, response};

use super::{Exchange, Filtering, Request, Response, Step};
use crate::proxy::http::body::Body;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cors {
    pub origins: Vec<Origins>,
    pub credentials: bool,
    pub methods: Listed<Method>,
    pub headers: Listed<HeaderName>,
    pub exposed: Listed<HeaderName>,
    pub max_age: Duration,
}

/// An entry of `allowOrigins`, in lower case and without the port that goes without saying.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origins {
    Any,
    Exact(Arc<str>),
    /// What stands before `*` (`https://`) and behind it (`.example.com`, `.example.com:8443`, or nothing: all hosts).
    Below {
        scheme: Arc<str>,
        domain: Arc<str>,
    },
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Listed<T> {
    /// `*`
    Any,
    These(Vec<T>),
}

impl Origins {
    /// `None`: it is no such entry.
    pub fn new(text: &str) -> Option<Origins> {
        if text == "*" {
            return Some(Origins::Any);
        }
        let text = plain(text);
        let (scheme, host) = text.split_once("://").filter(|(scheme, _)| matches!(*scheme, "http" | "https"))?;
        match host.split_once('*') {
            None if host.is_empty() => None,
            None => Some(Origins::Exact(text.as_str().into())),
            Some(("", domain)) if domain.is_empty() || domain.starts_with(['.', ':']) => {
                Some(Origins::Below { scheme: format!("{scheme}://").into(), domain: domain.into() })
            }
            Some(_) => None,
        }
    }

    fn have(&self, origin: &str) -> bool {
        match self {
            Origins::Any => true,
            Origins::Exact(exact) => **exact == *origin,
            Origins::Below { scheme, domain } => {
                let host = origin.strip_prefix(&**scheme).and_then(|host| host.strip_suffix(&**domain));
                // Another port is another origin.
                host.is_some_and(|host| !host.is_empty() && (!host.contains(':') || host.ends_with(']')))
            }
        }
    }
}

/// As origins are compared.
fn plain(origin: &str) -> String {
    let origin = origin.to_ascii_lowercase();
    let port = if origin.starts_with("https:") { ":443" } else { ":80" };
    origin.strip_suffix(port).map(String::from).unwrap_or(origin)
}

impl Filtering for Cors {
    async fn request(&self, exchange: &mut Exchange, request: &mut Request) -> Step {
        let headers = request.headers();
        let mut origins = headers.get_all(ORIGIN).iter();
        let (first, second) = (origins.next(), origins.next());
        exchange.told.asking = first.filter(|_| second.is_none()).cloned();
        match (first, headers.get(ACCESS_CONTROL_REQUEST_METHOD)) {
            (Some(_), Some(method)) if request.method() == Method::OPTIONS => {
                Step::Answer(Box::new(self.preflight(exchange, method, headers)))
            }
            _ => Step::Continue,
        }
    }

    fn response(&self, exchange: &Exchange, response: &mut response::Parts) {
        let headers = &mut response.headers;
        for name in [ACCESS_CONTROL_ALLOW_ORIGIN, ACCESS_CONTROL_ALLOW_CREDENTIALS, ACCESS_CONTROL_EXPOSE_HEADERS] {
            headers.remove(name);
        }
        vary(headers);
        let Some(origin) = self.allowed(exchange) else { return };
        if let Some(exposed) = self.exposed(headers) {
            headers.insert(ACCESS_CONTROL_EXPOSE_HEADERS, exposed);
        }
        headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin.clone());
        if self.credentials {
            headers.insert(ACCESS_CONTROL_ALLOW_CREDENTIALS, HeaderValue::from_static("true"));
        }
    }
}

impl Cors {
    /// The origin that asks, if it may. It is what the response names, also where all may: what is cached for one is then not taken
    /// for another's, and credentials want it (HTTPCORSFilter, "allowOrigins").
    fn allowed<'a>(&self, exchange: &'a Exchange) -> Option<&'a HeaderValue> {
        let asking = exchange.told.asking.as_ref()?;
        let origin = plain(asking.to_str().ok()?);
        self.origins.iter().any(|origins| origins.have(&origin)).then_some(asking)
    }

    /// [`Filtering::response`] adds what other responses have as well.
    fn preflight(&self, exchange: &Exchange, method: &HeaderValue, asked: &HeaderMap) -> Response {
        let mut response = Response::new(Body::empty());
        if self.allowed(exchange).is_none() {
            *response.status_mut() = StatusCode::FORBIDDEN;
            return response;
        }
        let methods = match &self.methods {
            Listed::Any => Some(method.clone()),
            Listed::These(methods) => list(methods.iter().map(Method::as_str)),
        };
        let names = match &self.headers {
            Listed::Any => asked.get(ACCESS_CONTROL_REQUEST_HEADERS).cloned(),
            Listed::These(names) => list(names.iter().map(HeaderName::as_str)),
        };
        let headers = response.headers_mut();
        headers.insert(ACCESS_CONTROL_MAX_AGE, HeaderValue::from(self.max_age.as_secs()));
        headers.extend(methods.map(|methods| (ACCESS_CONTROL_ALLOW_METHODS, methods)));
        headers.extend(names.map(|names| (ACCESS_CONTROL_ALLOW_HEADERS, names)));
        response
    }

    fn exposed(&self, of: &HeaderMap) -> Option<HeaderValue> {
        match &self.exposed {
            Listed::These(names) => list(names.iter().map(HeaderName::as_str)),
            // With credentials `*` is the name of a header (Fetch, "CORS-exposed header-name list").
            Listed::Any if self.credentials => {
                list(of.keys().filter(|name| **name != SET_COOKIE && **name != VARY).map(HeaderName::as_str))
            }
            Listed::Any => Some(HeaderValue::from_static("*")),
        }
    }
}

fn list<'a>(names: impl Iterator<Item = &'a str>) -> Option<HeaderValue> {
    let all = names.collect::<Vec<_>>().join(", ");
    (!all.is_empty()).then(|| HeaderValue::try_from(all).ok())?
}

/// A cache keeps a response for each origin.
fn vary(headers: &mut HeaderMap) {
    let names = |value: &HeaderValue| {
        value.as_bytes().split(|byte| *byte == b',').any(|name| {
            let name = name.trim_ascii();
            name == b"*" || name.eq_ignore_ascii_case(b"origin")
        })
    };
    if !headers.get_all(VARY).iter().any(names) {
        headers.append(VARY, HeaderValue::from_static("Origin"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn origins_are_compared_whole() {
        let have = |entry: &str, origin: &str| Origins::new(entry).unwrap().have(&plain(origin));
        assert!(have("*", "null") && have("*", "https://a:1"));
        assert!(have("https://WWW.example.com", "https://www.example.com"));
        assert!(have("https://www.example.com:443", "https://www.example.com"));
        assert!(have("http://www.example.com", "http://www.example.com:80"));
        assert!(!have("https://www.example.com", "http://www.example.com"));
        assert!(!have("https://www.example.com", "https://www.example.com:8443"));
        assert!(!have("https://example.com", "null"));
        for origin in ["https://a.example.com", "https://b.a.example.com", "https://A.Example.com:443"] {
            assert!(have("https://*.example.com", origin), "{origin}");
        }
        for origin in [
            "https://example.com",
            "http://a.example.com",
            "https://aexample.com",
            "https://.example.com",
            "https://a.example.com:8443",
            "https://a.example.com.evil.test",
            "https://evil.test:1.example.com",
        ] {
            assert!(!have("https://*.example.com", origin), "{origin}");
        }
        assert!(have("https://*.example.com:8443", "https://a.example.com:8443"));
        assert!(have("https://*", "https://a.b") && have("https://*", "https://[2001:db8::1]"));
        assert!(!have("https://*", "https://a.b:1") && have("https://*:1", "https://a.b:1"));
    }

    #[test]
    fn what_is_no_entry_is_refused() {
        for text in ["", "example.com", "ftp://a", "https://", "https://a.*", "https://*a", "https://a.*.b"] {
            assert_eq!(Origins::new(text), None, "{text}");
        }
    }
}
