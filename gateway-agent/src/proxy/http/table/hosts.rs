//! Values by host name, the most specific first.

use std::borrow::Cow;
use std::iter;
use std::net::Ipv6Addr;

use crate::ir::{HostName, Shards};

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

/// A host as tables have it, of Host or `:authority`: lower case, without a port and without a dot at its end. `None`: what is no host that all
/// read alike.
pub fn canonical(authority: &str) -> Option<Cow<'_, str>> {
    let (host, port) = match authority.strip_prefix('[') {
        Some(rest) => {
            let end = rest.find(']')?;
            rest[..end].parse::<Ipv6Addr>().ok()?;
            authority.split_at(end + 2)
        }
        None => {
            let (name, port) = authority.split_at(authority.find(':').unwrap_or(authority.len()));
            let name = name.strip_suffix('.').unwrap_or(name);
            (is_name(name).then_some(name)?, port)
        }
    };
    if !is_port(port) {
        return None;
    }
    if host.bytes().any(|byte| byte.is_ascii_uppercase()) {
        return Some(host.to_ascii_lowercase().into());
    }
    Some(host.into())
}

/// Labels are what DNS has, with `_`. An empty one could pass for a wildcard's.
fn is_name(name: &str) -> bool {
    let mut before = b'.';
    let fine = name.bytes().all(|byte| {
        let fine = byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_') || (byte == b'.' && before != b'.');
        before = byte;
        fine
    });
    fine && before != b'.'
}

/// Nothing, or `:` and digits, which may be missing (RFC 3986 section 3.2.3).
fn is_port(port: &str) -> bool {
    let Some(digits) = port.strip_prefix(':') else { return port.is_empty() };
    digits.is_empty() || (digits.bytes().all(|byte| byte.is_ascii_digit()) && digits.parse::<u16>().is_ok())
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
            ("example.com.:80", Some("example.com")),
            ("example.com:", Some("example.com")),
            ("a_b.example.com", Some("a_b.example.com")),
            ("198.18.0.1:80", Some("198.18.0.1")),
            ("[2001:DB8::1]:80", Some("[2001:db8::1]")),
            ("[2001:db8::1]", Some("[2001:db8::1]")),
            ("[2001:db8::1]80", None),
            ("[2001:db8::1", None),
            ("[example.com]", None),
            ("[fe80::1%25eth0]", None),
            ("2001:db8::1", None),
            ("example.com:80a", None),
            ("example.com:+80", None),
            ("example.com:65536", None),
            ("example.com:80:80", None),
            ("example.com..", None),
            (".example.com", None),
            ("a..example.com", None),
            ("exa mple.com", None),
            ("ex%61mple.com", None),
            ("*.example.com", None),
            ("a@example.com", None),
            ("example.com/", None),
            ("b\u{fc}cher.example", None),
            (".", None),
            (":80", None),
            ("", None),
        ] {
            assert_eq!(canonical(authority).as_deref(), host, "{authority}");
        }
    }
}
