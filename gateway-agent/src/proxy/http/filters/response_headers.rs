//! `ResponseHeaderModifier`.

use http::response;

use super::request_headers::Changes;
use super::{Exchange, Filtering};

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ResponseHeaders(pub Changes);

impl Filtering for ResponseHeaders {
    fn response(&self, _exchange: &Exchange, response: &mut response::Parts) {
        self.0.apply(&mut response.headers);
    }
}
