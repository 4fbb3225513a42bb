//! Values by host name, the most specific first.

use std::borrow::Cow;
use std::iter;

use super::shards::Shards;
use crate::ir::HostName;

#[derive(Clone, Debug)]
pub struct Hosts<V> {
    exact: Shards<V>,
    /// By what follows `*.`.
    wildcards: Shards<V>,
    any: Option<V>,
}

impl<V> Default for Hosts<V> {
    fn default() -> Hosts<V> {
        Hosts { exact: Shards::default(), wildcards: Shards::default(), any: None }
    }
}

impl<V: Clone> Hosts<V> {
    /// What is for a host, the most specific first.
    pub fn of<'a>(&'a self, host: &str) -> impl Iterator<Item = &'a V> {
        let parents = iter::successors(parent(host), |name| parent(name));
        let wildcards = parents.filter_map(|parent| self.wildcards.get(parent));
        self.exact.get(host).into_iter().chain(wildcards).chain(&self.any)
    }

    pub fn set(&mut self, host: &HostName, value: V) {
        match host {
            HostName::Exact(name) => self.exact.set(name, Some(value)),
            HostName::Wildcard(suffix) => self.wildcards.set(suffix, Some(value)),
            HostName::Any => self.any = Some(value),
        }
    }

    /// What `change` makes of the value; `None`: there is none, or there is to be none.
    pub fn change(&mut self, host: &HostName, change: impl FnOnce(Option<V>) -> Option<V>) {
        match host {
            HostName::Exact(name) => self.exact.change(name, change),
            HostName::Wildcard(suffix) => self.wildcards.change(suffix, change),
            HostName::Any => self.any = change(self.any.take()),
        }
    }
}

fn parent(name: &str) -> Option<&str> {
    name.split_once('.').map(|(_, parent)| parent)
}

/// A host as tables have it, of Host or `:authority`: lower case, without a port and without a dot at its end. `None`: what is no host.
pub fn canonical(authority: &str) -> Option<Cow<'_, str>> {
    let host = match authority.rsplit_once(':') {
        Some((host, port)) if !port.contains(']') => port.bytes().all(|byte| byte.is_ascii_digit()).then_some(host)?,
        _ => authority,
    };
    let host = host.strip_suffix('.').unwrap_or(host);
    let fine = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~[]:!$&'()*+,;=%".contains(&byte);
    if host.is_empty() || !host.bytes().all(fine) {
        return None;
    }
    if host.bytes().any(|byte| byte.is_ascii_uppercase()) {
        return Some(host.to_ascii_lowercase().into());
    }
    Some(host.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_are_found_most_specific_first() {
        let mut hosts = Hosts::default();
        let wildcard = |suffix: &str| HostName::Wildcard(suffix.into());
        for (i, host) in
            [HostName::Any, wildcard("com"), wildcard("example.com"), HostName::Exact("a.example.com".into())]
                .iter()
                .enumerate()
        {
            hosts.set(host, i);
        }
        let of = |host| hosts.of(host).copied().collect::<Vec<_>>();
        assert_eq!(of("a.example.com"), [3, 2, 1, 0]);
        assert_eq!(of("b.a.example.com"), [2, 1, 0]);
        assert_eq!(of("example.com"), [1, 0]);
        assert_eq!(of("com"), [0]);
    }

    #[test]
    fn a_host_is_compared_without_case_port_and_last_dot() {
        for (authority, host) in [
            ("Example.COM:8080", Some("example.com")),
            ("example.com.", Some("example.com")),
            ("[2001:db8::1]:80", Some("[2001:db8::1]")),
            ("[2001:db8::1]", Some("[2001:db8::1]")),
            ("example.com:80a", None),
            ("exa mple.com", None),
            ("a@example.com", None),
            ("", None),
        ] {
            assert_eq!(canonical(authority).as_deref(), host, "{authority}");
        }
    }
}
