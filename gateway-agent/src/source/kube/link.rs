//! What the watches have in common: whether the API server can be reached, and when the kinds it serves change.

use std::cell::Cell;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::time::Duration;

use tokio::sync::{Notify, watch};

use super::api::ApiError;

pub struct Link {
    away: Cell<bool>,
    returned: Notify,
    definitions: watch::Sender<()>,
}

impl Link {
    pub fn new() -> Link {
        Link { away: Cell::new(false), returned: Notify::new(), definitions: watch::Sender::new(()) }
    }

    /// Says once that the API server is away.
    pub fn lost(&self, error: &ApiError) {
        if !self.away.replace(true) {
            tracing::warn!("{error}; connections are forwarded as before, and it is tried again");
        }
    }

    pub fn back(&self) {
        if self.away.replace(false) {
            tracing::info!("the API server is back");
            self.returned.notify_waiters();
        }
    }

    /// Waits until it can be reached again.
    pub async fn returned(&self) {
        if self.away.get() {
            self.returned.notified().await;
        } else {
            std::future::pending().await
        }
    }

    /// CustomResourceDefinitions of the Gateway API have changed.
    pub fn redefined(&self) {
        self.definitions.send_replace(());
    }

    pub fn definitions(&self) -> watch::Receiver<()> {
        self.definitions.subscribe()
    }
}

/// Waits that grow, each by chance up to a half shorter, so that not all nodes come at once.
#[derive(Default)]
pub struct Backoff {
    failures: u32,
}

impl Backoff {
    const FIRST: Duration = Duration::from_millis(200);
    const LONGEST: Duration = Duration::from_secs(10);

    pub fn failures(&self) -> u32 {
        self.failures
    }

    pub fn next(&mut self) -> Duration {
        let whole = Backoff::FIRST.saturating_mul(1 << self.failures.min(10)).min(Backoff::LONGEST);
        self.failures += 1;
        let chance = RandomState::new().build_hasher().finish() % 1000;
        whole.mul_f64(1.0 - chance as f64 / 2000.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_up_to_a_limit() {
        let mut backoff = Backoff::default();
        let waits: Vec<Duration> = (0..20).map(|_| backoff.next()).collect();
        assert!(waits[0] >= Backoff::FIRST / 2 && waits[0] <= Backoff::FIRST, "{waits:?}");
        assert!(waits[4] > waits[0], "{waits:?}");
        assert!(waits[10..].iter().all(|w| *w <= Backoff::LONGEST && *w >= Backoff::LONGEST / 2), "{waits:?}");
    }
}
