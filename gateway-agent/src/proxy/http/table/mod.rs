//! Where a request goes: host → path → rule, in tables that are built once and only walked after that. Tables of one listener
//! share what no changed route is in: a table for one changed route of 5,000 costs that route.

mod host;
mod hosts;
mod rank;
mod shards;

use std::cmp::Ordering;
use std::sync::Arc;

use http::request::Parts;

use host::Host;
pub use hosts::{Hosts, canonical};
pub use rank::Rank;

use crate::ir::http::{Attachment, Route, Rule};

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
    /// For these attachments, of which `before` has some: what is the same `Arc` at the same hosts is shared. Both are sorted by
    /// [`Route::precedence`].
    pub fn build(before: Option<(&[Attachment], &Table)>, attachments: &[Attachment]) -> Table {
        let (old, mut table) = before.map_or((&[][..], Table::default()), |(old, table)| (old, table.clone()));
        let (mut old, mut new) = (old.iter().peekable(), attachments.iter().peekable());
        loop {
            // Most are the same in the same place.
            if let (Some(a), Some(b)) = (old.peek(), new.peek())
                && unchanged(a, b)
            {
                old.next();
                new.next();
                continue;
            }
            let order = match (old.peek(), new.peek()) {
                (None, None) => return table,
                (Some(_), None) => Ordering::Less,
                (None, Some(_)) => Ordering::Greater,
                (Some(old), Some(new)) => old.route.precedence().cmp(&new.route.precedence()),
            };
            let (gone, come) = match order {
                Ordering::Less => (old.next(), None),
                Ordering::Greater => (None, new.next()),
                Ordering::Equal => (old.next(), new.next()),
            };
            if let Some(Attachment { hosts, route }) = gone {
                hosts.iter().for_each(|host| table.hosts.change(host, |host| Host::remove(host, route)));
            }
            if let Some(Attachment { hosts, route }) = come {
                hosts.iter().for_each(|host| table.hosts.change(host, |host| Host::add(host, route)));
            }
        }
    }

    /// The rule for a request. `host` as [`canonical`] has it, `path` as [`normalize`](super::path::normalize) has it. Only the
    /// most specific host that some route has is asked (HTTPRoute, "hostnames"): what its routes leave is no business of a wildcard's.
    pub fn find(&self, host: &str, path: &str, request: &Parts) -> Option<Found<'_>> {
        self.hosts.of(host).next()?.find(path, request)
    }
}

fn unchanged(a: &Attachment, b: &Attachment) -> bool {
    Arc::ptr_eq(&a.route, &b.route) && a.hosts == b.hosts
}

#[cfg(test)]
mod cost;
#[cfg(test)]
mod model;
#[cfg(test)]
mod tests;
