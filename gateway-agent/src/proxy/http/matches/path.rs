//! The path of a request.

use std::sync::Arc;

use super::{GrpcMethodMatch, Pattern};

/// Paths here are normalized (see [`super::super::path`]), those of manifests and those of requests.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PathMatch {
    Exact(Arc<str>),
    /// By element: `/a` takes `/a`, `/a/` and `/a/b`, not `/ab`. Without the slash at its end: `/` is empty.
    Prefix(Arc<str>),
    Regex(Pattern),
    /// Of a GRPCRoute.
    Grpc(GrpcMethodMatch),
}

impl PathMatch {
    pub fn holds(&self, path: &str) -> bool {
        match self {
            PathMatch::Exact(wanted) => **wanted == *path,
            PathMatch::Prefix(prefix) => {
                path.strip_prefix(&**prefix).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
            }
            PathMatch::Regex(pattern) => pattern.holds(path.as_bytes()),
            PathMatch::Grpc(method) => method.holds(path),
        }
    }
}

/// Every prefix that takes a path, the longest first.
pub fn prefixes(path: &str) -> impl Iterator<Item = &str> {
    let slashes = path.bytes().enumerate().rev().filter(|(_, byte)| *byte == b'/').map(|(i, _)| &path[..i]);
    let whole = Some(path).filter(|path| !path.ends_with('/'));
    whole.into_iter().chain(slashes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_is_one_of_elements() {
        let prefix = PathMatch::Prefix("/a".into());
        for path in ["/a", "/a/", "/a/b"] {
            assert!(prefix.holds(path), "{path}");
            assert!(prefixes(path).any(|prefix| prefix == "/a"), "{path}");
        }
        for path in ["/ab", "/", "/b/a"] {
            assert!(!prefix.holds(path), "{path}");
            assert!(prefixes(path).all(|prefix| prefix != "/a"), "{path}");
        }
        assert_eq!(prefixes("/a/b").collect::<Vec<_>>(), ["/a/b", "/a", ""]);
    }
}
