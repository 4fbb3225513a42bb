//! `CORS`: preflights are answered here, other responses get their headers.

use std::sync::Arc;
use std::time::Duration;

use http::{HeaderName, Method};

use super::Filtering;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cors {
    pub origins: Vec<Origins>,
    pub credentials: bool,
    pub methods: Listed<Method>,
    pub headers: Listed<HeaderName>,
    pub exposed: Listed<HeaderName>,
    pub max_age: Duration,
}

/// An entry of `allowOrigins`, in lower case.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origins {
    Any,
    Exact(Arc<str>),
    /// What stands before `*.` (`https://`) and behind it (`example.com`, with the port).
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

impl Filtering for Cors {}
