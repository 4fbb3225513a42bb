//! Filters on whole requests: a client's socket → rule → filters → backend's socket, and back.

mod bed;
mod cors;
mod external_auth;
mod headers;
mod mirror;
mod redirect;
mod rewrite;
