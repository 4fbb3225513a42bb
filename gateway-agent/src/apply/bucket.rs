//! How often something may be done: some at once, and then one for each such time.

use std::time::{Duration, Instant};

pub struct Bucket {
    most: u32,
    each: Duration,
    left: u32,
    filled: Instant,
}

impl Bucket {
    pub fn new(most: u32, each: Duration, now: Instant) -> Bucket {
        Bucket { most, each, left: most, filled: now }
    }

    /// Whether it may be done now; then it counts.
    pub fn take(&mut self, now: Instant) -> bool {
        self.fill(now);
        let may = self.left > 0;
        self.left -= u32::from(may);
        may
    }

    /// When it may be done again.
    pub fn next(&mut self, now: Instant) -> Instant {
        self.fill(now);
        if self.left > 0 { now } else { self.filled + self.each }
    }

    fn fill(&mut self, now: Instant) {
        let gained = now.saturating_duration_since(self.filled).as_nanos() / self.each.as_nanos().max(1);
        let gained = u32::try_from(gained).unwrap_or(u32::MAX);
        self.left = self.left.saturating_add(gained).min(self.most);
        // What is over counts for the next one, unless it would be more than there is room for.
        self.filled = if self.left == self.most { now } else { self.filled + self.each * gained };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn some_at_once_and_then_one_each_time() {
        let start = Instant::now();
        let each = Duration::from_millis(10);
        let mut bucket = Bucket::new(3, each, start);
        let taken = |bucket: &mut Bucket, now| (0..100).filter(|_| bucket.take(now)).count();
        assert_eq!((taken(&mut bucket, start), bucket.next(start)), (3, start + each));
        let soon = start + each * 3 / 2;
        assert_eq!((taken(&mut bucket, soon), bucket.next(soon)), (1, start + each * 2), "half of the next has gone");
        assert_eq!(taken(&mut bucket, start + each * 2), 1);
        let later = start + each * 1000;
        assert_eq!((bucket.next(later), taken(&mut bucket, later)), (later, 3), "more than that are not saved");
    }
}
