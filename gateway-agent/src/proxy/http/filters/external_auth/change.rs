//! What a service wants of headers.

use http::{HeaderMap, HeaderName, HeaderValue};

use super::messages::HeaderValueOption;
use crate::proxy::http::filters::request_headers::may_change;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    name: HeaderName,
    value: HeaderValue,
    how: How,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum How {
    Set,
    Append,
    AddIfAbsent,
    SetIfPresent,
}

impl Change {
    /// `default`: where the service leaves it open. `None`: no header, or one that is not to be changed.
    pub fn of(option: &HeaderValueOption, default: How) -> Option<Change> {
        let header = option.header.as_ref()?;
        let name = HeaderName::try_from(&*header.key).ok().filter(|name| may_change(name).is_ok())?;
        let value = if header.value.is_empty() { &header.raw_value } else { header.value.as_bytes() };
        let how = match (&option.append, option.append_action) {
            (Some(append), _) if append.value => How::Append,
            (Some(_), _) => How::Set,
            (None, 1) => How::AddIfAbsent,
            (None, 2) => How::Set,
            (None, 3) => How::SetIfPresent,
            (None, _) => default,
        };
        Some(Change { name, value: HeaderValue::from_bytes(value).ok()?, how })
    }

    pub fn apply(self, headers: &mut HeaderMap) {
        let present = headers.contains_key(&self.name);
        match self.how {
            How::Append => drop(headers.append(self.name, self.value)),
            How::AddIfAbsent if present => {}
            How::SetIfPresent if !present => {}
            How::Set | How::AddIfAbsent | How::SetIfPresent => drop(headers.insert(self.name, self.value)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::messages::{BoolValue, HeaderValue as Header};
    use super::*;

    #[test]
    fn headers_change_as_the_service_says() {
        let option = |key: &str, append: Option<bool>, append_action| HeaderValueOption {
            header: Some(Header { key: key.into(), value: "new".into(), raw_value: Vec::new() }),
            append: append.map(|value| BoolValue { value }),
            append_action,
        };
        let after = |present: &str, append, action| {
            let mut headers = HeaderMap::new();
            if !present.is_empty() {
                headers.insert("a", present.parse().unwrap());
            }
            Change::of(&option("A", append, action), How::Set).unwrap().apply(&mut headers);
            headers.get_all("a").iter().map(|value| value.to_str().unwrap().to_owned()).collect::<Vec<_>>().join(",")
        };
        assert_eq!(after("old", None, 0), "new");
        assert_eq!(after("old", Some(true), 0), "old,new");
        assert_eq!(after("old", Some(false), 1), "new");
        assert_eq!((after("old", None, 1), after("", None, 1)), ("old".into(), "new".into()));
        assert_eq!((after("old", None, 2), after("", None, 2)), ("new".into(), "new".into()));
        assert_eq!((after("old", None, 3), after("", None, 3)), ("new".into(), String::new()));
        for fixed in ["host", ":authority", "content-length", "transfer-encoding", "no name"] {
            assert_eq!(Change::of(&option(fixed, None, 0), How::Set), None, "{fixed}");
        }
    }
}
