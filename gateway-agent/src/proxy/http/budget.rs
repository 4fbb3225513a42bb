//! What clients make a worker keep for them, by estimate: of a connection, of a request under way, and of bytes that one side has given and the
//! other does not take. Kernels and protocols let a client hold far more than it sends: it opens a hundred streams with a few bytes, or
//! reads nothing. So there is a limit for all of it. When it is reached, connections go whose clients leave the most of their answers unread;
//! where there are none, whoever comes is refused.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use hashbrown::HashMap;
use tokio::sync::Notify;

/// What is charged for each of these: as measured with 3,000 of them (tests/network/http/slow.rs), and rounded up.
pub mod cost {
    /// A connection whose first head has not come whole.
    pub const CONNECTION: usize = 5 << 10;
    /// TLS on it.
    pub const TLS: usize = 9 << 10;
    /// Beyond that, of a connection of HTTP/1 that has had a head, and of one of HTTP/2, with all of the buffers that h2 has for it.
    pub const HTTP1: usize = 6 << 10;
    pub const HTTP2: usize = 34 << 10;
    /// A request, until its answer has gone; and one by a stream of HTTP/2.
    pub const REQUEST: usize = 6 << 10;
    pub const STREAM: usize = 19 << 10;
    /// A piece of an answer has at least so much: it is a part of a buffer, and nobody else has the rest.
    pub const PIECE: usize = 16 << 10;
    /// What knows of a piece: by HTTP/2 its stream, whose head may wait too.
    pub const OF_PIECE: usize = 3 << 10;
    /// On the way to a client that takes nothing, behind the pieces: what they are written from, and with TLS its records.
    pub const STUCK: usize = 16 << 10;
    pub const STUCK_TLS: usize = 32 << 10;
    /// Of a large answer by hyper: what the backend may send before it is read.
    pub const UNREAD: usize = 64 << 10;
}

/// Of a worker.
#[derive(Debug)]
pub struct Budget {
    limit: usize,
    count: Arc<Count>,
    accounts: RefCell<HashMap<u64, Arc<Account>>>,
    /// Connections so far.
    opened: Cell<u64>,
}

#[derive(Debug, Default)]
struct Count {
    used: AtomicUsize,
    /// Of that, what connections have that have been told to go.
    leaving: AtomicUsize,
    /// Ticks so far.
    now: AtomicU32,
}

impl Budget {
    /// Ticks without a piece taken after which a client counts as one that does not read.
    const SLOW: u32 = 10;
    /// A client that has so much unread need not be slow.
    const MUCH: usize = 1 << 20;
    /// What is made room for at a time: more than whoever comes needs.
    const ROOM: usize = 64 << 10;

    pub fn new(limit: usize) -> Rc<Budget> {
        let (count, accounts, opened) = (Arc::default(), RefCell::default(), Cell::new(0));
        Rc::new(Budget { limit, count, accounts, opened })
    }

    pub fn charge(self: &Rc<Budget>, bytes: usize) -> Charge {
        let mut charge = Charge { count: Arc::clone(&self.count), bytes: 0 };
        charge.set(bytes);
        charge
    }

    /// For a connection.
    pub fn open(self: &Rc<Budget>) -> Open {
        let number = self.opened.get();
        self.opened.set(number + 1);
        let count = Arc::clone(&self.count);
        let (unread, leaves) = (AtomicUsize::new(0), AtomicUsize::new(0));
        let (moved, waiting, cut_off) = (AtomicU32::new(0), Mutex::default(), Notify::new());
        let account = Arc::new(Account { count, unread, moved, waiting, leaves, cut_off });
        self.accounts.borrow_mut().insert(number, Arc::clone(&account));
        Open { budget: Rc::clone(self), number, account }
    }

    /// Ten times a second.
    pub fn tick(&self) {
        self.count.now.fetch_add(1, Relaxed);
        if self.used() < self.limit {
            self.accounts.borrow().values().for_each(|account| account.wake());
        }
    }

    /// Until a client may be given another piece: while memory is used up it is to take first what it has.
    pub fn poll_room(&self, cx: &Context<'_>, account: &Account) -> Poll<()> {
        if self.used() < self.limit || account.unread.load(Relaxed) == 0 {
            return Poll::Ready(());
        }
        account.waiting.lock().unwrap_or_else(PoisonError::into_inner).push(cx.waker().clone());
        Poll::Pending
    }

    /// Whether there is room for more, also if others have to make it.
    pub fn has_room(&self) -> bool {
        self.used().saturating_sub(self.count.leaving.load(Relaxed)) < self.limit || self.make_room()
    }

    /// Who has something gets no more, and what is read is read in small pieces.
    pub fn is_scarce(&self) -> bool {
        self.used() >= self.limit / 4 * 3
    }

    pub fn used(&self) -> usize {
        self.count.used.load(Relaxed)
    }

    /// Connections are cut off whose clients have the most unread. Whether there were any.
    fn make_room(&self) -> bool {
        let now = self.count.now.load(Relaxed);
        let mut accounts = self.accounts.borrow_mut();
        let mut freed = 0;
        while freed < Budget::ROOM {
            let unread = accounts.iter().map(|(number, account)| (account.unread(now), *number));
            let Some((most @ 1.., number)) = unread.max() else { break };
            let Some(account) = accounts.remove(&number) else { break };
            account.leaves.store(most, Relaxed);
            self.count.leaving.fetch_add(most, Relaxed);
            account.cut_off.notify_one();
            freed += most;
        }
        freed > 0
    }
}

/// What the client of a connection has.
#[derive(Debug)]
pub struct Account {
    count: Arc<Count>,
    /// Of answers that it has been given.
    unread: AtomicUsize,
    /// When that last changed.
    moved: AtomicU32,
    /// Answers that may have more when it has taken that.
    waiting: Mutex<Vec<Waker>>,
    /// What it is to give back by going.
    leaves: AtomicUsize,
    cut_off: Notify,
}

impl Account {
    /// Smaller pieces are copied: each would keep the whole buffer that it is in.
    const SMALL: usize = 4 << 10;

    /// A piece of an answer, which is charged for until nobody has it any more.
    pub fn give(self: &Arc<Account>, piece: Bytes) -> Bytes {
        let (bytes, cost) = match piece.len() {
            small @ ..Account::SMALL => (Bytes::copy_from_slice(&piece), small + cost::OF_PIECE),
            large => (piece, large.max(cost::PIECE) + cost::OF_PIECE),
        };
        Bytes::from_owner(Piece { bytes, _unread: self.charge(cost) })
    }

    /// Of an answer, so many bytes wait for the client.
    pub fn charge(self: &Arc<Account>, bytes: usize) -> Unread {
        self.count.used.fetch_add(bytes, Relaxed);
        self.unread.fetch_add(bytes, Relaxed);
        self.moves();
        Unread { bytes, account: Arc::clone(self) }
    }

    /// Until the connection is to make room for others.
    pub async fn cut_off(&self) {
        self.cut_off.notified().await;
    }

    fn wake(&self) {
        let waiting = std::mem::take(&mut *self.waiting.lock().unwrap_or_else(PoisonError::into_inner));
        waiting.into_iter().for_each(Waker::wake);
    }

    fn moves(&self) {
        self.moved.store(self.count.now.load(Relaxed), Relaxed);
    }

    /// 0: it is not to blame.
    fn unread(&self, now: u32) -> usize {
        let unread = self.unread.load(Relaxed);
        let is_slow = now.wrapping_sub(self.moved.load(Relaxed)) >= Budget::SLOW;
        if is_slow || unread >= Budget::MUCH { unread } else { 0 }
    }
}

/// A connection has its account until this is dropped.
#[derive(Debug)]
pub struct Open {
    budget: Rc<Budget>,
    number: u64,
    pub account: Arc<Account>,
}

impl Drop for Open {
    fn drop(&mut self) {
        self.budget.accounts.borrow_mut().remove(&self.number);
        self.account.count.leaving.fetch_sub(self.account.leaves.load(Relaxed), Relaxed);
    }
}

/// What waits for a client until this is dropped.
#[derive(Debug)]
pub struct Unread {
    bytes: usize,
    account: Arc<Account>,
}

struct Piece {
    bytes: Bytes,
    _unread: Unread,
}

impl AsRef<[u8]> for Piece {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for Unread {
    fn drop(&mut self) {
        self.account.count.used.fetch_sub(self.bytes, Relaxed);
        if self.account.unread.fetch_sub(self.bytes, Relaxed) == self.bytes {
            self.account.wake();
        }
        self.account.moves();
    }
}

/// What somebody has of it, until this is dropped.
#[derive(Debug)]
pub struct Charge {
    count: Arc<Count>,
    bytes: usize,
}

impl Charge {
    /// So much from now on.
    pub fn set(&mut self, bytes: usize) {
        self.count.used.fetch_add(bytes, Relaxed);
        self.count.used.fetch_sub(self.bytes, Relaxed);
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
        assert!(budget.is_scarce() && budget.has_room());
        let second = budget.charge(25);
        assert!(!budget.has_room());
        first.set(10);
        assert_eq!(budget.used(), 35);
        drop((first, second));
        assert_eq!(budget.used(), 0);
    }

    #[test]
    fn a_piece_is_charged_for_as_long_as_somebody_has_some_of_it() {
        let budget = Budget::new(100 << 10);
        let open = budget.open();
        let large = open.account.give(Bytes::from(vec![1; 20 << 10]));
        let small = open.account.give(Bytes::from_static(b"few"));
        assert_eq!(budget.used(), (20 << 10) + 3 + 2 * cost::OF_PIECE);
        let last = large.slice((20 << 10) - 1..);
        drop((large, small));
        assert_eq!((&last[..], budget.used()), (&[1][..], (20 << 10) + cost::OF_PIECE));
        drop((last, open));
        assert_eq!(budget.used(), 0);
    }

    #[test]
    fn when_memory_is_used_up_a_client_gets_one_piece_at_a_time() {
        let budget = Budget::new(64 << 10);
        let open = budget.open();
        let cx = &Context::from_waker(Waker::noop());
        let is_let = || budget.poll_room(cx, &open.account).is_ready();
        let first = open.account.give(Bytes::from(vec![0; 16 << 10]));
        assert!(is_let());
        let others = budget.charge(60 << 10);
        assert!(!is_let());
        drop(first);
        assert!(is_let(), "it has nothing");
        let _second = open.account.give(Bytes::from(vec![0; 16 << 10]));
        drop(others);
        assert!(is_let(), "there is room");
    }

    #[test]
    fn who_reads_least_makes_room_for_others() {
        let budget = Budget::new(300 << 10);
        let [idle, some, most, reader] = [(); 4].map(|()| budget.open());
        let _some = some.account.give(Bytes::from(vec![0; 70 << 10]));
        let _most = most.account.give(Bytes::from(vec![0; 100 << 10]));
        (0..Budget::SLOW).for_each(|_| budget.tick());
        let _moves = reader.account.give(Bytes::from(vec![0; 120 << 10]));
        assert!(budget.is_scarce() && budget.has_room());
        let _more = budget.charge(10 << 10);
        let is_cut_off = |of: &Open| {
            let mut notified = std::pin::pin!(of.account.cut_off());
            let cx = &mut std::task::Context::from_waker(std::task::Waker::noop());
            notified.as_mut().poll(cx).is_ready()
        };
        assert!(budget.has_room() && is_cut_off(&most), "the most first");
        assert!(budget.has_room() && !is_cut_off(&some), "that is enough");
        let _more = budget.charge(100 << 10);
        assert!(budget.has_room() && is_cut_off(&some));
        let _more = budget.charge(70 << 10);
        assert!(!budget.has_room(), "those who are left have nothing unread, or read");
        drop((most, some));
        assert!(!budget.has_room(), "what they had is still there");
        assert!([idle, reader].iter().all(|left| !is_cut_off(left)));
    }
}
