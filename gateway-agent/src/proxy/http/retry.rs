//! When a request may be tried again, and how often.

use std::time::Duration;

use http::{Method, StatusCode};

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

/// How an attempt ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// No byte of the request went out: no connection, or one of the pool that had just gone.
    Unsent,
    /// Something went out, and nothing came back.
    Broken,
    Answered(StatusCode),
}

/// Whether another attempt does no harm and is wanted. `made`: attempts so far; `replayable`: the body is kept whole.
pub fn again(retry: Option<&Retry>, outcome: Outcome, method: &Method, made: u32, replayable: bool) -> bool {
    /// Without being told to, another endpoint gets what was never sent.
    const UNASKED: u32 = 2;
    let allowed = retry.map_or(0, |retry| retry.attempts);
    match outcome {
        Outcome::Unsent => made <= allowed.max(UNASKED),
        Outcome::Broken => made <= allowed && replayable && method.is_idempotent(),
        Outcome::Answered(status) => {
            made <= allowed && replayable && retry.is_some_and(|retry| retry.codes.binary_search(&status).is_ok())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_attempt_is_made_only_where_it_does_no_harm() {
        let retry = Retry { codes: vec![StatusCode::BAD_GATEWAY], attempts: 1, backoff: Duration::ZERO };
        let with = |outcome, method, made, replayable| again(Some(&retry), outcome, &method, made, replayable);
        assert!(again(None, Outcome::Unsent, &Method::POST, 1, false));
        assert!(!again(None, Outcome::Unsent, &Method::POST, 3, false));
        assert!(!again(None, Outcome::Broken, &Method::GET, 1, true));
        assert!(with(Outcome::Broken, Method::GET, 1, true));
        assert!(!with(Outcome::Broken, Method::POST, 1, true));
        assert!(with(Outcome::Answered(StatusCode::BAD_GATEWAY), Method::POST, 1, true));
        assert!(!with(Outcome::Answered(StatusCode::BAD_GATEWAY), Method::POST, 2, true));
        assert!(!with(Outcome::Answered(StatusCode::BAD_GATEWAY), Method::GET, 1, false));
        assert!(!with(Outcome::Answered(StatusCode::NOT_FOUND), Method::GET, 1, true));
    }
}
