//! Which host names stand for which: the hostnames of listeners and of routes.

use std::iter;

use crate::ir::HostName;

/// Whether every server name that `narrow` stands for is one of `wide`. Two host names stand for names of which one set holds
/// the other, or have none in common.
pub fn covers(wide: &HostName, narrow: &HostName) -> bool {
    covering(narrow).any(|pattern| pattern == Pattern::from(wide))
}

/// What a route gets of a listener.
pub fn intersection(route: &HostName, listener: &HostName) -> Option<HostName> {
    if covers(listener, route) { Some(route.clone()) } else { covers(route, listener).then(|| listener.clone()) }
}

/// A [`HostName`] that is borrowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Pattern<'a> {
    Exact(&'a str),
    Wildcard(&'a str),
    Any,
}

impl<'a> From<&'a HostName> for Pattern<'a> {
    fn from(host: &'a HostName) -> Pattern<'a> {
        match host {
            HostName::Exact(name) => Pattern::Exact(name),
            HostName::Wildcard(suffix) => Pattern::Wildcard(suffix),
            HostName::Any => Pattern::Any,
        }
    }
}

/// Everything that covers a host name, itself included, the most specific first.
pub fn covering(host: &HostName) -> impl Iterator<Item = Pattern<'_>> {
    let own = Pattern::from(host);
    let name = match own {
        Pattern::Exact(name) | Pattern::Wildcard(name) => name,
        Pattern::Any => "",
    };
    let wider = iter::successors(parent(name), |name| parent(name)).map(Pattern::Wildcard);
    let any = (own != Pattern::Any).then_some(Pattern::Any);
    iter::once(own).chain(wider).chain(any)
}

fn parent(name: &str) -> Option<&str> {
    name.split_once('.').map(|(_, parent)| parent)
}
