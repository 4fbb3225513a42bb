//! What is known of one request beside the request, from its headers to the last byte of its answer.

use std::net::SocketAddr;
use std::rc::Rc;

use http::{HeaderValue, Version};
use hyper::body::Body as _;
use tokio::time::Instant;

use super::body::Body;
use super::filters::Told;
use super::forwarded::Known;
use super::meter::Meter;
use super::server::Connection;
use super::upload::Upload;
use super::worker::{Local, Seen};
use crate::proxy::Origin;

#[derive(Debug)]
pub struct Exchange {
    pub local: Rc<Local>,
    /// All that is decided of it is decided by this one.
    pub snapshot: Rc<Seen>,
    /// Of the client.
    pub connection: Rc<Connection>,
    pub origin: Origin,
    /// What backends are told of it.
    pub known: Rc<Known>,
    pub scheme: Scheme,
    pub came: Instant,
    /// As tables have it.
    pub requested_host: Box<str>,
    /// Host for the backend, if it is another than the client's.
    pub host: Option<HeaderValue>,
    /// Bytes of the path that the rule's match took as a prefix.
    pub matched_prefix: usize,
    /// A gRPC call: the agent's own answers have a grpc-status.
    pub grpc: bool,
    /// 64 bits that decide what is left to chance.
    pub random: u64,
    /// What is counted of it.
    pub meter: Box<Meter>,
    /// What filters have to know of the request when its response comes.
    pub told: Told,
    /// The last that the request was sent to.
    pub endpoint: Option<SocketAddr>,
    /// So far.
    pub attempts: u32,
}

impl Exchange {
    /// The client's body, with an eye on it.
    pub fn receive(&mut self, body: Body, version: Version) -> Body {
        if body.is_end_stream() {
            return Body::empty();
        }
        let progress = self.meter.upload(self.grpc);
        Body::boxed(Upload::new(body, version == Version::HTTP_2, progress, Rc::clone(&self.connection)))
    }
}

/// How the client speaks to the agent, or is to speak next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scheme {
    Http,
    Https,
}

impl Scheme {
    pub fn as_str(self) -> &'static str {
        match self {
            Scheme::Http => "http",
            Scheme::Https => "https",
        }
    }

    /// That goes without saying.
    pub fn port(self) -> u16 {
        match self {
            Scheme::Http => 80,
            Scheme::Https => 443,
        }
    }
}
