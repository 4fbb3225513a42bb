//! Which host names stand for which: the hostnames of listeners and of routes.

use std::iter;

use hashbrown::{Equivalent, HashMap};

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

/// A [`HostName`] that is borrowed: it hashes as that does, so that maps find it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Pattern<'a> {
    Exact(&'a str),
    Wildcard(&'a str),
    Any,
}

impl Equivalent<HostName> for Pattern<'_> {
    fn equivalent(&self, host: &HostName) -> bool {
        *self == Pattern::from(host)
    }
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

/// Host names and who wants them, to find those who want names in common.
#[derive(Debug)]
pub struct Meetings<K> {
    by_host: HashMap<HostName, Vec<Wish<K>>>,
    /// Everything that covers one of them.
    above: HashMap<HostName, Vec<Wish<K>>>,
}

/// Those of a host are sorted by who comes first.
#[derive(Debug)]
struct Wish<K> {
    by: K,
    granted: bool,
}

impl<K> Default for Meetings<K> {
    fn default() -> Meetings<K> {
        Meetings { by_host: HashMap::new(), above: HashMap::new() }
    }
}

impl<K: Ord + Clone> Meetings<K> {
    pub fn add(&mut self, host: &HostName, by: &K, granted: bool) {
        add(&mut self.by_host, Pattern::from(host), by, granted);
        covering(host).for_each(|pattern| add(&mut self.above, pattern, by, granted));
    }

    pub fn remove(&mut self, host: &HostName, by: &K) {
        remove(&mut self.by_host, &Pattern::from(host), by);
        covering(host).for_each(|pattern| remove(&mut self.above, &pattern, by));
    }

    /// Who has names that `host` stands for, and comes before `to`.
    pub fn owner(&self, host: &HostName, to: &K) -> Option<&K> {
        let first =
            |wishes: &'_ Vec<Wish<K>>| wishes.iter().take_while(|wish| wish.by < *to).position(|wish| wish.granted);
        let owner = |wishes| first(wishes).map(|at| &wishes[at].by);
        let below = self.above.get(host).and_then(owner);
        below.or_else(|| covering(host).find_map(|pattern| self.by_host.get(&pattern).and_then(owner)))
    }

    /// Those who want names that `host` stands for, and come after `by`.
    pub fn after<'m>(&'m self, host: &'m HostName, by: &'m K) -> impl Iterator<Item = &'m K> {
        let above = covering(host).filter_map(|pattern| self.by_host.get(&pattern));
        let all = self.above.get(host).into_iter().chain(above).flatten();
        all.map(|wish| &wish.by).filter(move |other| *other > by)
    }
}

fn add<K: Ord + Clone>(wishes: &mut HashMap<HostName, Vec<Wish<K>>>, pattern: Pattern, by: &K, granted: bool) {
    let wish = Wish { by: by.clone(), granted };
    match wishes.get_mut(&pattern) {
        None => drop(wishes.insert(pattern.into(), vec![wish])),
        // Of the hosts of one route several may be below one name.
        Some(of_pattern) => {
            if let Err(at) = of_pattern.binary_search_by(|other| other.by.cmp(by)) {
                of_pattern.insert(at, wish);
            }
        }
    }
}

fn remove<K: Ord>(wishes: &mut HashMap<HostName, Vec<Wish<K>>>, pattern: &Pattern, by: &K) {
    let Some(of_pattern) = wishes.get_mut(pattern) else { return };
    if let Ok(at) = of_pattern.binary_search_by(|wish| wish.by.cmp(by)) {
        of_pattern.remove(at);
    }
    if of_pattern.is_empty() {
        wishes.remove(pattern);
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
        for host in &all {
            let mut meetings = Meetings::default();
            meetings.add(host, &2, true);
            meetings.add(host, &1, false);
            for other in &all {
                let meets = covers(host, other) || covers(other, host);
                assert_eq!(meetings.owner(other, &3), meets.then_some(&2), "{host} and {other}");
                assert_eq!(meetings.owner(other, &2), None, "{host} and {other}");
                assert_eq!(meetings.after(other, &1).next(), meets.then_some(&2), "{host} and {other}");
            }
            meetings.remove(host, &2);
            assert!(all.iter().all(|other| meetings.owner(other, &3).is_none()));
        }
        let listed: Vec<Pattern> = covering(&all[0]).collect();
        let expected =
            [Pattern::Exact("a.example.com"), Pattern::Wildcard("example.com"), Pattern::Wildcard("com"), Pattern::Any];
        assert_eq!(listed, expected);
    }
}
