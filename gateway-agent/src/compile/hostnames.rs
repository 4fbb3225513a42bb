//! Which host names stand for which: the hostnames of listeners and of routes.

use std::collections::HashMap;
use std::iter;

use crate::index::Name;
use crate::ir::HostName;

/// Whether every server name that `narrow` stands for is one of `wide`. Two host names stand for names of which one set holds
/// the other, or have none in common.
pub fn covers(wide: &HostName, narrow: &HostName) -> bool {
    match (wide, narrow) {
        (HostName::Any, _) => true,
        (HostName::Exact(wide), HostName::Exact(narrow)) => wide == narrow,
        (HostName::Wildcard(wide), HostName::Exact(narrow)) => is_below(narrow, wide),
        (HostName::Wildcard(wide), HostName::Wildcard(narrow)) => wide == narrow || is_below(narrow, wide),
        (HostName::Exact(_), _) | (HostName::Wildcard(_), HostName::Any) => false,
    }
}

fn is_below(name: &str, parent: &str) -> bool {
    name.strip_suffix(parent).is_some_and(|rest| rest.ends_with('.'))
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

/// Host names that have an owner, to find one that has names in common with another.
#[derive(Default)]
pub struct Taken<'a> {
    by_host: HashMap<HostName, &'a Name>,
    /// Everything that covers one of them, and one that it covers.
    above: HashMap<HostName, &'a Name>,
}

impl<'a> Taken<'a> {
    pub fn take(&mut self, host: &HostName, owner: &'a Name) {
        self.by_host.entry(host.clone()).or_insert(owner);
        for pattern in covering(host) {
            self.above.entry(pattern.into()).or_insert(owner);
        }
    }

    /// The owner of names that `host` stands for.
    pub fn owner(&self, host: &HostName) -> Option<&'a Name> {
        let below = self.above.get(host);
        below.or_else(|| covering(host).find_map(|pattern| self.by_host.get(&HostName::from(pattern)))).copied()
    }
}

impl From<Pattern<'_>> for HostName {
    fn from(pattern: Pattern<'_>) -> HostName {
        match pattern {
            Pattern::Exact(name) => HostName::Exact(name.into()),
            Pattern::Wildcard(suffix) => HostName::Wildcard(suffix.into()),
            Pattern::Any => HostName::Any,
        }
    }
}

fn parent(name: &str) -> Option<&str> {
    name.split_once('.').map(|(_, parent)| parent)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_covers_a_host_name_is_listed_most_specific_first() {
        let exact = |name: &str| HostName::Exact(name.into());
        let wildcard = |suffix: &str| HostName::Wildcard(suffix.into());
        let all = [
            exact("a.example.com"),
            wildcard("a.example.com"),
            exact("example.com"),
            wildcard("example.com"),
            wildcard("xample.com"),
            wildcard("com"),
            exact("com"),
            HostName::Any,
        ];
        for narrow in &all {
            let listed: Vec<Pattern> = covering(narrow).collect();
            for wide in &all {
                assert_eq!(covers(wide, narrow), listed.contains(&wide.into()), "{wide} and {narrow}");
            }
        }
        let owner = Name { namespace: "a".into(), name: "b".into() };
        for host in &all {
            let mut taken = Taken::default();
            taken.take(host, &owner);
            for other in &all {
                let meets = covers(host, other) || covers(other, host);
                assert_eq!(taken.owner(other).is_some(), meets, "{host} and {other}");
            }
        }
        let listed: Vec<Pattern> = covering(&all[0]).collect();
        let expected =
            [Pattern::Exact("a.example.com"), Pattern::Wildcard("example.com"), Pattern::Wildcard("com"), Pattern::Any];
        assert_eq!(listed, expected);
    }
}
