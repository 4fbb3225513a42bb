//! `sessionPersistence`: requests of a session go to one endpoint while it serves.

use std::sync::Arc;
use std::time::Duration;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Persistence {
    /// Of the cookie or header.
    pub name: Arc<str>,
    pub place: Place,
    /// Since the session began.
    pub absolute: Option<Duration>,
    /// Since its last request.
    pub idle: Option<Duration>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    Cookie(Lifetime),
    Header,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lifetime {
    /// Until the client ends.
    Session,
    /// As long as [`Persistence::absolute`].
    Permanent,
}
