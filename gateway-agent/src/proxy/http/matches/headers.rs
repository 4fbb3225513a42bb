//! A header of a request.

use http::{HeaderMap, HeaderName};

use super::Text;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeaderMatch {
    pub name: HeaderName,
    pub value: Text,
}

impl HeaderMatch {
    /// Several headers of the name are one with commas (RFC 9110 section 5.3).
    pub fn holds(&self, headers: &HeaderMap) -> bool {
        let mut values = headers.get_all(&self.name).iter();
        let Some(first) = values.next() else { return false };
        let Some(second) = values.next() else { return self.value.holds(first.as_bytes()) };
        let mut all = first.as_bytes().to_vec();
        for value in std::iter::once(second).chain(values) {
            all.extend_from_slice(b",");
            all.extend_from_slice(value.as_bytes());
        }
        self.value.holds(&all)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn several_headers_of_a_name_are_one() {
        let wanted = HeaderMatch { name: HeaderName::from_static("colour"), value: Text::Exact("red,blue".into()) };
        let mut headers = HeaderMap::new();
        assert!(!wanted.holds(&headers));
        headers.append("colour", "red".parse().unwrap());
        assert!(!wanted.holds(&headers));
        headers.append("colour", "blue".parse().unwrap());
        assert!(wanted.holds(&headers));
    }
}
