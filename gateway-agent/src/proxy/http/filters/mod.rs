//! What a rule does to requests and responses beside forwarding them. A file a filter: its settings, which are part of the IR, and
//! what it does.

mod aside;
pub mod cors;
pub mod external_auth;
pub mod mirror;
pub mod redirect;
pub mod request_headers;
pub mod response_headers;
pub mod rewrite;
pub mod unknown;

use std::cell::RefCell;

use http::{HeaderValue, response};

use super::answer::Reason;
use super::body::Body;
use super::exchange::Exchange;

pub type Request = http::Request<Body>;
pub type Response = http::Response<Body>;

/// What a filter is. Each phase may be left out.
pub trait Filtering {
    /// Before a backend is picked (of a rule) or before the request goes there (of a backend). Those that wait box what they wait
    /// with: all requests have room for the largest.
    fn request(&self, _exchange: &mut Exchange, _request: &mut Request) -> impl Future<Output = Step> {
        std::future::ready(Step::Continue)
    }

    /// Also for answers of the agent itself, from the filter that gave it outwards.
    fn response(&self, _exchange: &Exchange, _response: &mut response::Parts) {}
}

/// What filters note of a request for the time of its response.
#[derive(Debug, Default)]
pub struct Told {
    /// Origin, where a CORS filter saw the request.
    pub asking: Option<HeaderValue>,
    /// What external authorization wants of the response.
    pub by_auth: RefCell<Vec<external_auth::Change>>,
}

/// How it goes on after the request phase of a filter.
#[derive(Debug)]
pub enum Step {
    Continue,
    /// The filter answers: what comes after it does not see the request.
    Answer(Box<Response>),
    /// The agent refuses the request.
    Refuse(Reason),
}

/// The table of filters: the name of each, and the type that it is.
macro_rules! filters {
    ($($name:ident($settings:ty),)*) => {
        #[derive(Clone, Debug, PartialEq, Eq)]
        pub enum Filter {
            $($name($settings),)*
        }

        impl Filtering for Filter {
            async fn request(&self, exchange: &mut Exchange, request: &mut Request) -> Step {
                match self {
                    $(Filter::$name(filter) => filter.request(exchange, request).await,)*
                }
            }

            fn response(&self, exchange: &Exchange, response: &mut response::Parts) {
                match self {
                    $(Filter::$name(filter) => filter.response(exchange, response),)*
                }
            }
        }
    };
}

filters! {
    RequestHeaders(request_headers::RequestHeaders),
    ResponseHeaders(response_headers::ResponseHeaders),
    Redirect(redirect::Redirect),
    Rewrite(rewrite::Rewrite),
    Mirror(mirror::Mirror),
    Cors(cors::Cors),
    ExternalAuth(std::sync::Arc<external_auth::ExternalAuth>),
    Unknown(unknown::Unknown),
}

/// All request phases in order, until one answers. Says how many filters saw the request: as many have to see the response.
pub async fn on_request(filters: &[Filter], exchange: &mut Exchange, request: &mut Request) -> (usize, Step) {
    for (i, filter) in filters.iter().enumerate() {
        match filter.request(exchange, request).await {
            Step::Continue => {}
            step => return (i + 1, step),
        }
    }
    (filters.len(), Step::Continue)
}

/// The response phases, the last filter first.
pub fn on_response(filters: &[Filter], exchange: &Exchange, response: &mut response::Parts) {
    filters.iter().rev().for_each(|filter| filter.response(exchange, response));
}

#[cfg(test)]
mod tests;
