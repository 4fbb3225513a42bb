//! What is counted of requests. Each worker writes its own, and nobody else does: to count is to read, add and write, without a lock and
//! without a word that two cores write. Who asks adds them up.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use super::access_log::Log;
use super::answer::Reason;
use super::grpc;
use super::places::Lives;
use crate::ir::ListenerName;
use crate::ir::http::RouteName;

/// What all workers, and those who ask, have in common for as long as the agent runs.
#[derive(Debug, Default)]
pub struct Shared {
    workers: Mutex<Vec<Arc<Metrics>>>,
    series: Mutex<BTreeMap<Labels, Vec<Arc<Series>>>>,
    pub lives: Lives,
    /// Set once at the start, or never.
    pub log: OnceLock<Log>,
}

/// What requests are told apart by: how far they came.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Labels {
    pub listener: ListenerName,
    /// With the name of the rule. `None`: no rule took them.
    pub route: Option<(RouteName, Arc<str>)>,
    /// The Service port. `None`: they went to none.
    pub backend: Option<Arc<str>>,
}

impl Shared {
    /// For a new worker.
    pub fn join(&self) -> Arc<Metrics> {
        let mut workers = lock(&self.workers);
        let metrics = Arc::new(Metrics::new(workers.len()));
        workers.push(Arc::clone(&metrics));
        metrics
    }

    /// The series of a worker, which it is to keep: this takes a lock.
    pub fn series(&self, worker: &Metrics, labels: Labels) -> Arc<Series> {
        let mut all = lock(&self.series);
        let of_labels = all.entry(labels).or_default();
        if let Some(known) = of_labels.iter().find(|series| series.worker == worker.worker) {
            return Arc::clone(known);
        }
        let series = Arc::new(Series::new(worker.worker));
        of_labels.push(Arc::clone(&series));
        series
    }

    /// Added up over the workers; those that nothing has come to are left out.
    pub fn sums(&self) -> Vec<(Labels, Sum)> {
        let all = lock(&self.series);
        let sum = |of: &Vec<Arc<Series>>| of.iter().fold(Sum::default(), |sum, series| sum.and(&series.read()));
        let all = all.iter().map(|(labels, of)| (labels.clone(), sum(of)));
        all.filter(|(_, sum)| sum.requests() + sum.active > 0).collect()
    }

    /// Forgets what no listener has any more.
    pub fn retain(&self, is_there: impl Fn(&Labels) -> bool) {
        lock(&self.series).retain(|labels, _| is_there(labels));
    }

    /// Of all workers.
    pub fn total(&self, count: impl Fn(&Metrics) -> u64) -> u64 {
        lock(&self.workers).iter().map(|metrics| count(metrics)).sum()
    }
}

/// Nobody panics with it, and what is in it would be whole if somebody did.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A count that one thread alone writes.
#[derive(Debug, Default)]
pub struct Tally(AtomicU64);

impl Tally {
    pub fn set(&self, n: u64) {
        self.0.store(n, Relaxed);
    }

    pub fn add(&self, n: u64) {
        self.0.store(self.0.load(Relaxed).wrapping_add(n), Relaxed);
    }

    pub fn take_back(&self) {
        self.0.store(self.0.load(Relaxed).wrapping_sub(1), Relaxed);
    }

    pub fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

/// Of a worker, whatever the request.
#[derive(Debug)]
pub struct Metrics {
    worker: usize,
    pub connections: Tally,
    pub closed: Tally,
    /// Taken from clients whose heads were whole, or refused.
    pub requests: Tally,
    /// By the first digit of the status.
    classes: [Tally; 6],
    answered: Vec<Tally>,
    /// Whose clients went before there was an answer.
    pub abandoned: Tally,
    /// Lines of the access log that found no room.
    pub lines_lost: Tally,
    /// What clients make the worker keep, by estimate.
    pub memory: Tally,
    /// Upgraded connections, and the bytes that they have moved.
    pub tunnels: Tally,
    pub tunnels_closed: Tally,
    pub tunnel_bytes_in: Tally,
    pub tunnel_bytes_out: Tally,
}

impl Metrics {
    fn new(worker: usize) -> Metrics {
        Metrics {
            worker,
            connections: Tally::default(),
            closed: Tally::default(),
            requests: Tally::default(),
            classes: Default::default(),
            answered: Reason::ALL.iter().map(|_| Tally::default()).collect(),
            abandoned: Tally::default(),
            lines_lost: Tally::default(),
            memory: Tally::default(),
            tunnels: Tally::default(),
            tunnels_closed: Tally::default(),
            tunnel_bytes_in: Tally::default(),
            tunnel_bytes_out: Tally::default(),
        }
    }

    pub fn responded(&self, status: http::StatusCode) {
        if let Some(class) = self.classes.get(usize::from(status.as_u16() / 100)) {
            class.add(1);
        }
    }

    /// Responses with `n`xx.
    pub fn class(&self, n: usize) -> u64 {
        self.classes.get(n).map_or(0, Tally::get)
    }

    /// The agent answers by itself, or breaks off.
    pub fn answer(&self, reason: Reason) {
        self.answered[reason as usize].add(1);
    }

    pub fn answered(&self, reason: Reason) -> u64 {
        self.answered[reason as usize].get()
    }
}

/// Upper bounds of times, in microseconds.
pub const TIMES: [u64; 14] = [
    500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000, 1_000_000, 2_500_000, 10_000_000,
    60_000_000,
];
/// Upper bounds of sizes, in bytes.
pub const SIZES: [u64; 8] = [100, 1_000, 10_000, 100_000, 1_000_000, 10_000_000, 100_000_000, 1_000_000_000];

/// Requests with the same labels, of a worker.
#[derive(Debug)]
pub struct Series {
    worker: usize,
    pub begun: Tally,
    pub ended: Tally,
    classes: [Tally; 6],
    /// Calls of gRPC by their status. Most series have none.
    calls: OnceLock<Box<[Tally; grpc::Status::ALL.len()]>>,
    pub retries: Tally,
    first_byte: Distribution<{ TIMES.len() }>,
    whole: Distribution<{ TIMES.len() }>,
    request_size: Distribution<{ SIZES.len() }>,
    response_size: Distribution<{ SIZES.len() }>,
}

impl Series {
    fn new(worker: usize) -> Series {
        Series {
            worker,
            begun: Tally::default(),
            ended: Tally::default(),
            classes: Default::default(),
            calls: OnceLock::new(),
            retries: Tally::default(),
            first_byte: Distribution::default(),
            whole: Distribution::default(),
            request_size: Distribution::default(),
            response_size: Distribution::default(),
        }
    }

    /// A request whose answer has gone to its last byte, or to where it broke off. The times are to the head of the response
    /// and to its end, the bytes those of the bodies of request and response.
    pub fn end(&self, status: http::StatusCode, [first_byte, whole]: [Duration; 2], [request, response]: [u64; 2]) {
        self.ended.add(1);
        if let Some(class) = self.classes.get(usize::from(status.as_u16() / 100)) {
            class.add(1);
        }
        self.first_byte.observe(micros(first_byte), &TIMES);
        self.whole.observe(micros(whole), &TIMES);
        self.request_size.observe(request, &SIZES);
        self.response_size.observe(response, &SIZES);
    }

    /// It was a call of gRPC.
    pub fn call(&self, status: grpc::Status) {
        self.calls.get_or_init(Box::default)[usize::from(status.number())].add(1);
    }

    fn read(&self) -> Sum {
        // In this order, so that none has ended before it began.
        let ended = self.ended.get();
        Sum {
            active: self.begun.get().saturating_sub(ended),
            classes: std::array::from_fn(|n| self.classes[n].get()),
            calls: std::array::from_fn(|n| self.calls.get().map_or(0, |calls| calls[n].get())),
            retries: self.retries.get(),
            first_byte: self.first_byte.read(),
            whole: self.whole.read(),
            request_size: self.request_size.read(),
            response_size: self.response_size.read(),
        }
    }
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

/// Values by size. There is one of each kind a rule, so that the bounds, which are the same for all, are not among it.
#[derive(Debug)]
struct Distribution<const N: usize> {
    buckets: [Tally; N],
    beyond: Tally,
    sum: Tally,
}

impl<const N: usize> Default for Distribution<N> {
    fn default() -> Distribution<N> {
        let buckets = std::array::from_fn(|_| Tally::default());
        Distribution { buckets, beyond: Tally::default(), sum: Tally::default() }
    }
}

impl<const N: usize> Distribution<N> {
    /// `bounds`: the same at all times.
    fn observe(&self, value: u64, bounds: &[u64; N]) {
        let bucket = bounds.iter().position(|bound| value <= *bound);
        bucket.map_or(&self.beyond, |bucket| &self.buckets[bucket]).add(1);
        self.sum.add(value);
    }

    fn read(&self) -> Histogram<N> {
        let buckets = std::array::from_fn(|bucket| self.buckets[bucket].get());
        Histogram { buckets, beyond: self.beyond.get(), sum: self.sum.get() }
    }
}

/// What a [`Series`] says at one time, or several do together.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sum {
    pub active: u64,
    pub classes: [u64; 6],
    /// Of gRPC, by their status.
    pub calls: [u64; grpc::Status::ALL.len()],
    pub retries: u64,
    pub first_byte: Histogram<{ TIMES.len() }>,
    pub whole: Histogram<{ TIMES.len() }>,
    pub request_size: Histogram<{ SIZES.len() }>,
    pub response_size: Histogram<{ SIZES.len() }>,
}

impl Sum {
    pub fn and(self, other: &Sum) -> Sum {
        Sum {
            active: self.active + other.active,
            classes: std::array::from_fn(|n| self.classes[n] + other.classes[n]),
            calls: std::array::from_fn(|n| self.calls[n] + other.calls[n]),
            retries: self.retries + other.retries,
            first_byte: self.first_byte.and(&other.first_byte),
            whole: self.whole.and(&other.whole),
            request_size: self.request_size.and(&other.request_size),
            response_size: self.response_size.and(&other.response_size),
        }
    }

    pub fn requests(&self) -> u64 {
        self.classes.iter().sum()
    }
}

/// How many values were in each bucket alone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Histogram<const N: usize> {
    pub buckets: [u64; N],
    pub beyond: u64,
    pub sum: u64,
}

impl<const N: usize> Default for Histogram<N> {
    fn default() -> Histogram<N> {
        Histogram { buckets: [0; N], beyond: 0, sum: 0 }
    }
}

impl<const N: usize> Histogram<N> {
    fn and(self, other: &Histogram<N>) -> Histogram<N> {
        let buckets = std::array::from_fn(|bucket| self.buckets[bucket] + other.buckets[bucket]);
        Histogram { buckets, beyond: self.beyond + other.beyond, sum: self.sum.wrapping_add(other.sum) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::StatusCode;

    fn labels(section: &str) -> Labels {
        let listener = ListenerName { namespace: "a".into(), gateway: "b".into(), section: section.into() };
        Labels { listener, route: None, backend: None }
    }

    #[test]
    fn a_request_that_comes_further_is_not_under_way_twice() {
        let shared = Shared::default();
        let series = shared.series(&shared.join(), labels("x"));
        series.begun.add(1);
        series.begun.take_back();
        assert_eq!(shared.sums(), []);
    }

    #[test]
    fn workers_write_their_own_and_are_added_up() {
        let shared = Shared::default();
        let (first, second) = (shared.join(), shared.join());
        let series = [(&first, "x"), (&second, "x"), (&first, "x"), (&first, "y")]
            .map(|(worker, section)| shared.series(worker, labels(section)));
        assert!(Arc::ptr_eq(&series[0], &series[2]) && !Arc::ptr_eq(&series[0], &series[1]));
        for of in &series {
            of.begun.add(1);
            of.end(StatusCode::OK, [Duration::from_micros(700), Duration::from_secs(100)], [2000, 100]);
        }
        series[1].begun.add(1);
        let sums = shared.sums();
        assert_eq!(sums[0].0, labels("x"));
        let x = &sums[0].1;
        assert_eq!((x.requests(), x.classes[2], x.active), (3, 3, 1));
        assert_eq!((x.first_byte.buckets[1], x.first_byte.sum, x.whole.beyond), (3, 2100, 3));
        assert_eq!((x.request_size.buckets[2], x.request_size.sum, x.response_size.buckets[0]), (3, 6000, 3));
        assert_eq!(sums[1].1.requests(), 1);
        first.answer(Reason::NoRoute);
        second.answer(Reason::NoRoute);
        assert_eq!(shared.total(|metrics| metrics.answered(Reason::NoRoute)), 2);
        shared.retain(|labels| &*labels.listener.section == "y");
        assert_eq!(shared.sums().len(), 1);
    }
}
