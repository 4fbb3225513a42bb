//! `timeouts` of a rule.

use std::time::Duration;

use http::HeaderMap;
use tokio::time::Instant;

/// `None`, or `0s` in a manifest: none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Timeouts {
    /// From the request's headers to the response's, over all attempts.
    pub request: Option<Duration>,
    /// Of an attempt, from its start to the response's headers.
    pub backend_request: Option<Duration>,
}

impl Timeouts {
    /// When a request that came at `came` is given up.
    pub fn whole(&self, came: Instant) -> Option<Instant> {
        self.request.map(|time| came + time)
    }

    /// When an attempt that starts now is given up. Most rules have no time-outs, and ask no clock.
    pub fn deadline(&self, whole: Option<Instant>, now: impl FnOnce() -> Instant) -> Option<Instant> {
        let attempt = self.backend_request.map(|time| now() + time);
        whole.into_iter().chain(attempt).min()
    }
}

/// How long the client of a gRPC call waits, if it says so (gRPC over HTTP/2: Timeout): its backend gives the call up then, too.
pub fn of_call(headers: &HeaderMap) -> Option<Duration> {
    let value = headers.get("grpc-timeout")?.to_str().ok()?;
    let (digits, unit) = value.split_at_checked(value.len().checked_sub(1)?)?;
    if digits.is_empty() || digits.len() > 8 || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let amount: u64 = digits.parse().ok()?;
    match unit {
        "H" => Some(Duration::from_secs(amount * 3600)),
        "M" => Some(Duration::from_secs(amount * 60)),
        "S" => Some(Duration::from_secs(amount)),
        "m" => Some(Duration::from_millis(amount)),
        "u" => Some(Duration::from_micros(amount)),
        "n" => Some(Duration::from_nanos(amount)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_say_how_long_they_wait() {
        let of =
            |value: &str| of_call(&HeaderMap::from_iter([("grpc-timeout".parse().unwrap(), value.parse().unwrap())]));
        assert_eq!(of("1m"), Some(Duration::from_millis(1)));
        assert_eq!(of("99999999H"), Some(Duration::from_secs(99_999_999 * 3600)));
        assert_eq!(of("250u"), Some(Duration::from_micros(250)));
        for wrong in ["", "m", "1", "123456789m", "-1S", "1 S", "1x"] {
            assert_eq!(of(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn the_first_of_both_counts() {
        let came = Instant::now();
        let now = came + Duration::from_secs(2);
        let seconds = |n| Some(Duration::from_secs(n));
        let at = |request, backend_request| {
            let timeouts = Timeouts { request, backend_request };
            timeouts.deadline(timeouts.whole(came), || now)
        };
        assert_eq!(at(None, None), None);
        assert_eq!(at(seconds(5), None), Some(came + Duration::from_secs(5)));
        assert_eq!(at(seconds(5), seconds(1)), Some(came + Duration::from_secs(3)));
        assert_eq!(at(seconds(1), seconds(5)), Some(came + Duration::from_secs(1)));
    }
}
