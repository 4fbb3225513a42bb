//! A line of JSON a request, for those who ask for it.

use std::time::Duration;

use http::StatusCode;

/// Whose requests are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Which {
    #[default]
    None,
    /// One in so many; never 0.
    OneIn(u32),
    /// With a status of this class (5 for 5xx) or a higher one.
    From(u8),
}

impl Which {
    pub fn takes(self, status: StatusCode, random: u64) -> bool {
        match self {
            Which::None => false,
            Which::OneIn(n) => random.is_multiple_of(u64::from(n)),
            Which::From(class) => status.as_u16() / 100 >= u16::from(class),
        }
    }
}

/// What is written. Texts are the client's: whoever writes escapes them.
#[derive(Clone, Debug)]
pub struct Line<'a> {
    pub id: u64,
    pub method: &'a str,
    pub host: &'a str,
    pub path: &'a str,
    pub status: StatusCode,
    /// `kind namespace/name` and the rule.
    pub route: Option<(&'a str, &'a str)>,
    pub backend: Option<&'a str>,
    pub took: Duration,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_chosen_by_status_or_chance() {
        assert!(!Which::None.takes(StatusCode::BAD_GATEWAY, 0));
        assert!(Which::From(4).takes(StatusCode::BAD_GATEWAY, 1));
        assert!(!Which::From(4).takes(StatusCode::FOUND, 1));
        assert_eq!((0..100).filter(|random| Which::OneIn(10).takes(StatusCode::OK, *random)).count(), 10);
    }
}
