//! `RequestHeaderModifier`, and the changes that both header modifiers make.

use http::header::{CONTENT_LENGTH, HOST, TRAILER};
use http::{HeaderMap, HeaderName, HeaderValue};

use super::{Exchange, Filtering, Request, Step};
use crate::proxy::http::forwarded::is_of_one_hop;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RequestHeaders(pub Changes);

impl Filtering for RequestHeaders {
    async fn request(&self, _exchange: &mut Exchange, request: &mut Request) -> Step {
        self.0.apply(request.headers_mut());
        Step::Continue
    }
}

/// In this order: removed, set, added.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    remove: Vec<HeaderName>,
    set: Vec<(HeaderName, HeaderValue)>,
    add: Vec<(HeaderName, HeaderValue)>,
}

/// Why a header is not for filters to change.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Fixed {
    #[error("header {0} says how messages go over one connection, which no filter may change; take it out")]
    Connection(HeaderName),
    #[error("Host is not changed as a header; use a URLRewrite filter with \"hostname\"")]
    Host,
}

impl Changes {
    /// Of several entries of a list with the same name the first counts (HTTPHeader, "name").
    pub fn new(
        set: Vec<(HeaderName, HeaderValue)>,
        add: Vec<(HeaderName, HeaderValue)>,
        remove: Vec<HeaderName>,
    ) -> Result<Changes, Fixed> {
        set.iter().chain(&add).map(|(name, _)| name).chain(&remove).try_for_each(may_change)?;
        Ok(Changes { remove, set: firsts(set), add: firsts(add) })
    }

    pub fn apply(&self, headers: &mut HeaderMap) {
        for name in &self.remove {
            headers.remove(name);
        }
        for (name, value) in &self.set {
            headers.insert(name, value.clone());
        }
        for (name, value) in &self.add {
            headers.append(name, value.clone());
        }
    }
}

fn firsts(list: Vec<(HeaderName, HeaderValue)>) -> Vec<(HeaderName, HeaderValue)> {
    let mut kept: Vec<(HeaderName, HeaderValue)> = Vec::with_capacity(list.len());
    for entry in list {
        if kept.iter().all(|(name, _)| *name != entry.0) {
            kept.push(entry);
        }
    }
    kept
}

/// Who may not write these could make two readers of a message disagree on where it ends.
pub fn may_change(name: &HeaderName) -> Result<(), Fixed> {
    match *name {
        HOST => Err(Fixed::Host),
        CONTENT_LENGTH | TRAILER => Err(Fixed::Connection(name.clone())),
        _ if is_of_one_hop(name) => Err(Fixed::Connection(name.clone())),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NAME: fn(&'static str) -> HeaderName = HeaderName::from_static;
    const VALUE: fn(&'static str) -> HeaderValue = HeaderValue::from_static;

    #[test]
    fn set_replaces_add_appends_remove_removes() {
        let set = vec![(NAME("a"), VALUE("1")), (NAME("a"), VALUE("ignored"))];
        let changes = Changes::new(set, vec![(NAME("b"), VALUE("2"))], vec![NAME("c")]).unwrap();
        let mut headers = HeaderMap::new();
        for of in ["a", "b", "c"] {
            headers.append(of, VALUE("0"));
            headers.append(of, VALUE("00"));
        }
        changes.apply(&mut headers);
        let all = |of: &str| headers.get_all(of).iter().map(|v| v.to_str().unwrap()).collect::<Vec<_>>();
        assert_eq!((all("a"), all("b"), all("c")), (vec!["1"], vec!["0", "00", "2"], vec![]));
    }

    #[test]
    fn what_frames_a_message_is_not_changed() {
        for name in ["connection", "transfer-encoding", "content-length", "te", "upgrade", "keep-alive"] {
            let one = || vec![(NAME(name), VALUE("1"))];
            let refused = Err(Fixed::Connection(NAME(name)));
            assert_eq!(Changes::new(one(), Vec::new(), Vec::new()), refused);
            assert_eq!(Changes::new(Vec::new(), one(), Vec::new()), refused);
            assert_eq!(Changes::new(Vec::new(), Vec::new(), vec![NAME(name)]), refused);
        }
        assert_eq!(Changes::new(vec![(HOST, VALUE("a"))], Vec::new(), Vec::new()), Err(Fixed::Host));
    }
}
