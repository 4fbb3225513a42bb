//! Which host names stand for which: the hostnames of listeners and of routes.

use std::iter;

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
        let listed: Vec<Pattern> = covering(&all[0]).collect();
        let expected =
            [Pattern::Exact("a.example.com"), Pattern::Wildcard("example.com"), Pattern::Wildcard("com"), Pattern::Any];
        assert_eq!(listed, expected);
    }
}
