//! When a request may be tried again, and how often.

use std::time::Duration;

use http::{Method, StatusCode, request};

use super::body::{Body, Kept};
use super::filters::Request;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Retry {
    /// Of responses, sorted.
    pub codes: Vec<StatusCode>,
    /// Beside the first.
    pub attempts: u32,
    /// Before the first of them; doubled for each that follows, with jitter.
    pub backoff: Duration,
}

/// The most of a request's body that is kept for another attempt.
pub const KEPT_BODY: usize = 64 << 10;
/// The longest that an attempt waits.
const BACKOFF_AT_MOST: Duration = Duration::from_secs(10);
/// Without being told to, another endpoint gets what was never sent.
const UNASKED: u32 = 2;

/// How an attempt ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// No connection.
    Unconnected,
    /// By a connection of the pool that ended before an answer, as servers do with those that they have had enough of.
    Stale,
    /// The backend said that it did nothing with it (RFC 9113 section 8.7).
    Unprocessed,
    /// Something went out, and nothing came back.
    Broken,
    /// Nothing came back in time.
    TimedOut,
    /// What came back is no HTTP.
    Invalid,
    /// The client's body broke off.
    Client,
    Answered(StatusCode),
}

/// Whether another attempt does no harm and is wanted. `made`: attempts so far. The request is there whole, or it could not be asked.
pub fn again(retry: Option<&Retry>, outcome: Outcome, method: &Method, made: u32) -> bool {
    let allowed = retry.map_or(0, |retry| retry.attempts);
    match outcome {
        Outcome::Unconnected | Outcome::Unprocessed => made <= allowed.max(UNASKED),
        Outcome::Stale => made <= allowed.max(UNASKED) && method.is_idempotent(),
        Outcome::Broken | Outcome::TimedOut => made <= allowed && method.is_idempotent(),
        Outcome::Answered(status) => made <= allowed && method.is_idempotent() && is_wanted(retry, status),
        Outcome::Invalid | Outcome::Client => false,
    }
}

fn is_wanted(retry: Option<&Retry>, status: StatusCode) -> bool {
    retry.is_some_and(|retry| retry.codes.binary_search(&status).is_ok())
}

/// How long it is put off: not at all where an endpoint took nothing and another may.
pub fn pause(retry: Option<&Retry>, outcome: Outcome, made: u32, random: u64) -> Duration {
    let quick = matches!(outcome, Outcome::Unconnected | Outcome::Unprocessed | Outcome::Stale) && made <= UNASKED;
    let Some(retry) = retry.filter(|_| !quick) else { return Duration::ZERO };
    let most = retry.backoff.saturating_mul(1 << (made - 1).min(16)).min(BACKOFF_AT_MOST.max(retry.backoff));
    // From a half to the whole of it.
    most / 2 + most.mul_f64((random >> 32) as f64 / f64::from(u32::MAX) / 2.0)
}

/// A request that can be had again after it was sent.
#[derive(Debug)]
pub struct Spare {
    head: request::Parts,
    body: SpareBody,
}

#[derive(Debug)]
enum SpareBody {
    Empty,
    Kept(Kept),
}

impl Spare {
    /// `None`: it has a body. Nothing more is kept than the head.
    pub fn of_head(request: &Request) -> Option<Spare> {
        if !request.body().is_empty() {
            return None;
        }
        Some(Spare { head: head(request), body: SpareBody::Empty })
    }

    /// The body is kept on its way, as far as there is room.
    pub fn of(request: &mut Request) -> Spare {
        let head = head(request);
        if request.body().is_empty() {
            return Spare { head, body: SpareBody::Empty };
        }
        let kept = Kept::new(std::mem::take(request.body_mut()), KEPT_BODY);
        *request.body_mut() = kept.again().unwrap_or_else(Body::empty);
        Spare { head, body: SpareBody::Kept(kept) }
    }

    /// `None`: the body is more than what is kept.
    pub fn request(&self) -> Option<Request> {
        let body = match &self.body {
            SpareBody::Empty => Body::empty(),
            SpareBody::Kept(kept) => kept.again()?,
        };
        Some(Request::from_parts(self.head.clone(), body))
    }
}

fn head(request: &Request) -> request::Parts {
    let (mut head, ()) = http::Request::new(()).into_parts();
    head.method = request.method().clone();
    head.uri = request.uri().clone();
    head.version = request.version();
    head.headers = request.headers().clone();
    head
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_attempt_is_made_only_where_it_does_no_harm() {
        let retry = Retry { codes: vec![StatusCode::BAD_GATEWAY], attempts: 1, backoff: Duration::ZERO };
        let with = |outcome, method, made| again(Some(&retry), outcome, &method, made);
        for outcome in [Outcome::Unconnected, Outcome::Unprocessed] {
            assert!(again(None, outcome, &Method::POST, 1));
            assert!(!again(None, outcome, &Method::POST, 3));
        }
        assert!(again(None, Outcome::Stale, &Method::GET, 1));
        assert!(!with(Outcome::Stale, Method::POST, 1));
        assert!(!again(None, Outcome::Broken, &Method::GET, 1));
        for outcome in [Outcome::Broken, Outcome::TimedOut, Outcome::Answered(StatusCode::BAD_GATEWAY)] {
            assert!(with(outcome, Method::GET, 1));
            assert!(!with(outcome, Method::GET, 2));
            assert!(!with(outcome, Method::POST, 1));
        }
        assert!(!with(Outcome::Answered(StatusCode::NOT_FOUND), Method::GET, 1));
        assert!(!with(Outcome::Client, Method::GET, 1));
    }

    #[test]
    fn attempts_are_put_off_longer_and_longer_by_chance() {
        let retry = Retry { codes: Vec::new(), attempts: 40, backoff: Duration::from_millis(100) };
        let pause = |made, random| pause(Some(&retry), Outcome::Broken, made, random).as_millis();
        assert_eq!((pause(1, 0), pause(1, u64::MAX)), (50, 100));
        assert_eq!((pause(3, 0), pause(3, u64::MAX)), (200, 400));
        assert_eq!(pause(40, u64::MAX), 10_000);
        assert_eq!(super::pause(Some(&retry), Outcome::Unconnected, 1, 0), Duration::ZERO);
        assert_eq!(super::pause(None, Outcome::Unconnected, 1, 0), Duration::ZERO);
    }
}
