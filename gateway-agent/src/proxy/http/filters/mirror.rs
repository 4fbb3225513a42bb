//! `RequestMirror`: a copy of requests for another backend, whose answers nobody waits for.

use super::Filtering;
use crate::ir::http::Target;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mirror {
    /// An invalid one mirrors nothing.
    pub target: Target,
    pub share: Share,
}

/// Of the requests: `of` of `out_of`. All: 1 of 1; a percentage is one of 100.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Share {
    pub of: u32,
    /// Not 0, not below `of`.
    pub out_of: u32,
}

impl Filtering for Mirror {}
