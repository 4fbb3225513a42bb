//! Where a request goes: host → path → rule, in tables that are built once and only walked after that. Tables of one listener
//! share what no changed route is in: a table for one changed route of 5,000 costs that route.

mod host;
mod hosts;
mod rank;

use std::sync::Arc;

use http::request::Parts;

use host::Host;
pub use hosts::{Hosts, canonical};
pub use rank::Rank;

use crate::ir::http::{Attachment, Attachments, Route, Rule};

/// The routes of a listener.
#[derive(Clone, Debug, Default)]
pub struct Table {
    hosts: Hosts<Arc<Host>>,
}

/// What a request has found.
#[derive(Clone, Copy, Debug)]
pub struct Found<'a> {
    pub route: &'a Arc<Route>,
    pub rule: &'a Rule,
    /// Bytes of the path that were matched as a prefix.
    pub matched_prefix: usize,
}

impl Table {
    /// For these attachments, of which `before` has some: what is the same `Arc` at the same hosts is shared.
    pub fn build(before: Option<(&Attachments, &Table)>, attachments: &Attachments) -> Table {
        let none = Attachments::default();
        let (old, mut table) = before.map_or((&none, Table::default()), |(old, table)| (old, table.clone()));
        for (gone, come) in old.changes(attachments) {
            if let Some(Attachment { hosts, route }) = gone {
                hosts.iter().for_each(|host| table.hosts.change(host, |host| Host::remove(host, route)));
            }
            if let Some(Attachment { hosts, route }) = come {
                hosts.iter().for_each(|host| table.hosts.change(host, |host| Host::add(host, route)));
            }
        }
        table
    }

    /// The rule for a request. `host` as [`canonical`] has it, `path` as [`normalize`](super::path::normalize) has it. Only the
    /// most specific host that some route has is asked (HTTPRoute, "hostnames"): what its routes leave is no business of a wildcard's.
    pub fn find(&self, host: &str, path: &str, request: &Parts) -> Option<Found<'_>> {
        self.hosts.of(host).next()?.find(path, request)
    }
}

#[cfg(test)]
mod cost;
#[cfg(test)]
mod model;
#[cfg(test)]
mod tests;
