//! What clients make a worker keep for them, by estimate: of a connection, of a request under way, and of bytes that one side has given and the
//! other does not take. Kernels and protocols let a client hold far more than it sends: it opens a hundred streams with a few bytes, or
//! reads nothing. So there is a limit for all of it, and whoever comes when it is reached is refused.

use std::cell::Cell;
use std::rc::Rc;

/// What is charged for each of these: as measured with 3,000 of them (tests/network/http/slow.rs), and rounded up.
pub mod cost {
    /// A connection whose first head has not come whole.
    pub const CONNECTION: usize = 5 << 10;
    /// TLS on it.
    pub const TLS: usize = 9 << 10;
    /// Beyond that, of a connection of HTTP/1 that has had a head, and of one of HTTP/2.
    pub const HTTP1: usize = 6 << 10;
    pub const HTTP2: usize = 17 << 10;
    /// A request, until its answer has gone; and one by a stream of HTTP/2.
    pub const REQUEST: usize = 6 << 10;
    pub const STREAM: usize = 19 << 10;
    /// What a piece of an answer keeps at least: all of the buffer that it is in, and what it is to be written from.
    pub const PIECE: usize = 24 << 10;
}

/// Of a worker.
#[derive(Debug)]
pub struct Budget {
    limit: usize,
    used: Cell<usize>,
}

impl Budget {
    pub fn new(limit: usize) -> Rc<Budget> {
        Rc::new(Budget { limit, used: Cell::new(0) })
    }

    pub fn charge(self: &Rc<Budget>, bytes: usize) -> Charge {
        let mut charge = Charge { budget: Rc::clone(self), bytes: 0 };
        charge.set(bytes);
        charge
    }

    /// Nothing more is begun.
    pub fn is_spent(&self) -> bool {
        self.used.get() >= self.limit
    }

    /// Who has something gets no more, and what is read is read in small pieces.
    pub fn is_scarce(&self) -> bool {
        self.used.get() >= self.limit / 4 * 3
    }

    pub fn used(&self) -> usize {
        self.used.get()
    }
}

/// What somebody has of it, until this is dropped.
#[derive(Debug)]
pub struct Charge {
    budget: Rc<Budget>,
    bytes: usize,
}

impl Charge {
    /// So much from now on.
    pub fn set(&mut self, bytes: usize) {
        let used = &self.budget.used;
        used.set(used.get() - self.bytes + bytes);
        self.bytes = bytes;
    }

    pub fn add(&mut self, bytes: usize) {
        self.set(self.bytes + bytes);
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        self.set(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_charged_is_given_back() {
        let budget = Budget::new(100);
        let mut first = budget.charge(40);
        assert!(!budget.is_scarce());
        first.add(35);
        assert!(budget.is_scarce() && !budget.is_spent());
        let second = budget.charge(25);
        assert!(budget.is_spent());
        first.set(10);
        assert_eq!(budget.used(), 35);
        drop((first, second));
        assert_eq!(budget.used(), 0);
    }
}
