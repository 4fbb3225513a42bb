//! A future that hardly ever has news.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use std::task::{Context, Poll, Wake, Waker};

use futures_util::task::AtomicWaker;

/// Polls a future when that has been woken, not each time that something else wakes the task.
pub struct Rarely<F> {
    future: F,
    bell: Arc<Bell>,
    /// Rings the bell.
    ringer: Waker,
    /// Whom the bell wakes.
    task: Option<Waker>,
}

struct Bell {
    has_rung: AtomicBool,
    task: AtomicWaker,
}

impl<F> Rarely<F> {
    pub fn new(future: F) -> Rarely<F> {
        let bell = Arc::new(Bell { has_rung: AtomicBool::new(true), task: AtomicWaker::new() });
        Rarely { future, ringer: Waker::from(Arc::clone(&bell)), bell, task: None }
    }
}

impl<F: Future + Unpin> Future for Rarely<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        let this = &mut *self;
        let is_known = this.task.as_ref().is_some_and(|task| task.will_wake(cx.waker()));
        if !is_known {
            this.task = Some(cx.waker().clone());
        }
        let has_rung = this.bell.has_rung.load(Acquire);
        // Who was woken is forgotten by that.
        if has_rung || !is_known {
            this.bell.task.register(cx.waker());
        }
        if !has_rung {
            return Poll::Pending;
        }
        // Before the future is asked: what comes meanwhile rings again.
        this.bell.has_rung.store(false, Relaxed);
        Pin::new(&mut this.future).poll(&mut Context::from_waker(&this.ringer))
    }
}

impl Wake for Bell {
    fn wake(self: Arc<Bell>) {
        self.has_rung.store(true, Release);
        self.task.wake();
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::future::poll_fn;
    use std::pin::pin;
    use std::sync::atomic::AtomicUsize;

    use tokio::sync::mpsc;

    use super::*;

    #[derive(Default)]
    struct Woken(AtomicUsize);

    impl Wake for Woken {
        fn wake(self: Arc<Woken>) {
            self.0.fetch_add(1, Relaxed);
        }
    }

    #[test]
    fn what_has_no_news_is_not_asked_and_what_has_wakes_each_time() {
        let (send, mut news) = mpsc::channel(1);
        let asked = Cell::new(0);
        let future = pin!(poll_fn(|cx| {
            asked.set(asked.get() + 1);
            // Never done: it is about those who wait.
            while news.poll_recv(cx).is_ready() {}
            Poll::<()>::Pending
        }));
        let (mut rarely, woken) = (Rarely::new(future), Arc::new(Woken::default()));
        let waker = Waker::from(Arc::clone(&woken));
        for time in 1..4 {
            for _ in 0..10 {
                assert!(Pin::new(&mut rarely).poll(&mut Context::from_waker(&waker)).is_pending());
            }
            assert_eq!((asked.get(), woken.0.load(Relaxed)), (time, time - 1));
            send.try_send(()).unwrap();
        }
    }
}
