//! A parameter of the query.

use std::borrow::Cow;
use std::sync::Arc;

use super::Text;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QueryMatch {
    pub name: Arc<str>,
    pub value: Text,
}

/// Of several parameters of a name the first counts. Names and values are compared decoded (percent, `+`).
pub fn all_hold(wanted: &[QueryMatch], query: Option<&str>) -> bool {
    if wanted.is_empty() {
        return true;
    }
    let query = query.unwrap_or_default();
    wanted.iter().all(|wanted| {
        let mut parameters = query.split('&').map(|pair| pair.split_once('=').unwrap_or((pair, "")));
        let found = parameters.find(|(name, _)| *decoded(name) == *wanted.name.as_bytes());
        found.is_some_and(|(_, value)| wanted.value.holds(&decoded(value)))
    })
}

fn decoded(text: &str) -> Cow<'_, [u8]> {
    if !text.bytes().any(|byte| matches!(byte, b'%' | b'+')) {
        return text.as_bytes().into();
    }
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [byte, after @ ..] = rest {
        rest = after;
        let escaped = match (byte, after) {
            (b'%', [high, low, ..]) => hex(*high).zip(hex(*low)).map(|(high, low)| high << 4 | low),
            _ => None,
        };
        match (byte, escaped) {
            (_, Some(escaped)) => {
                out.push(escaped);
                rest = &after[2..];
            }
            (b'+', None) => out.push(b' '),
            (byte, None) => out.push(*byte),
        }
    }
    out.into()
}

fn hex(digit: u8) -> Option<u8> {
    char::from(digit).to_digit(16).map(|digit| digit as u8)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_are_compared_decoded_and_the_first_counts() {
        let wants = |name: &str, value: &str| [QueryMatch { name: name.into(), value: Text::Exact(value.into()) }];
        assert!(all_hold(&wants("a", "1"), Some("b=2&a=1&a=3")));
        assert!(!all_hold(&wants("a", "3"), Some("b=2&a=1&a=3")));
        assert!(all_hold(&wants("a b", "c&d"), Some("a+b=c%26d")));
        assert!(all_hold(&wants("a", "%zz%"), Some("a=%zz%")));
        assert!(all_hold(&wants("a", ""), Some("a")));
        assert!(!all_hold(&wants("a", ""), None));
    }
}
