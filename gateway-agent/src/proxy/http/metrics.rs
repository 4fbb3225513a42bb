//! What a worker counts of its requests. Each worker writes its own; who asks adds them up.

use crate::proxy::counters::Count;

use super::answer::Reason;

#[derive(Debug)]
pub struct Metrics {
    pub requests: Count,
    /// By the first digit of the status.
    classes: [Count; 6],
    answered: Vec<Count>,
}

impl Default for Metrics {
    fn default() -> Metrics {
        Metrics {
            requests: Count::default(),
            classes: Default::default(),
            answered: Reason::ALL.iter().map(|_| Count::default()).collect(),
        }
    }
}

impl Metrics {
    pub fn responded(&self, status: http::StatusCode) {
        if let Some(class) = self.classes.get(usize::from(status.as_u16() / 100)) {
            class.add(1);
        }
    }

    /// Responses with `n`xx.
    pub fn class(&self, n: usize) -> u64 {
        self.classes.get(n).map_or(0, Count::get)
    }

    /// The agent answers by itself.
    pub fn answer(&self, reason: Reason) {
        self.answered[reason as usize].add(1);
    }

    pub fn answered(&self, reason: Reason) -> u64 {
        self.answered[reason as usize].get()
    }
}
