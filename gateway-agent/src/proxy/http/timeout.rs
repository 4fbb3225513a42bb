//! `timeouts` of a rule.

use std::time::Duration;

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

#[cfg(test)]
mod tests {
    use super::*;

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
