//! `RequestHeaderModifier`, and the changes that both header modifiers make.

use http::{HeaderMap, HeaderName, HeaderValue};

use super::{Exchange, Filtering, Request, Step};

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RequestHeaders(pub Changes);

impl Filtering for RequestHeaders {
    async fn request(&self, _exchange: &mut Exchange, request: &mut Request) -> Step {
        self.0.apply(request.headers_mut());
        Step::Continue
    }
}

/// No name is in two of the lists (`compile` sees to it).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    pub set: Vec<(HeaderName, HeaderValue)>,
    pub add: Vec<(HeaderName, HeaderValue)>,
    pub remove: Vec<HeaderName>,
}

impl Changes {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn set_replaces_add_appends_remove_removes() {
        let name = HeaderName::from_static;
        let value = HeaderValue::from_static;
        let changes =
            Changes { set: vec![(name("a"), value("1"))], add: vec![(name("b"), value("2"))], remove: vec![name("c")] };
        let mut headers = HeaderMap::new();
        for of in ["a", "b", "c"] {
            headers.append(of, value("0"));
            headers.append(of, value("00"));
        }
        changes.apply(&mut headers);
        let all = |of: &str| headers.get_all(of).iter().map(|v| v.to_str().unwrap()).collect::<Vec<_>>();
        assert_eq!((all("a"), all("b"), all("c")), (vec!["1"], vec!["0", "00", "2"], vec![]));
    }
}
