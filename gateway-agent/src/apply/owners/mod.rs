//! What the nodes of a cluster tell each other: that they live, what they have in force, and which of them answers for which address of the
//! pool: what [`Council`] decides, carried out.

#![forbid(unsafe_code)]

mod leases;

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::fmt;
use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{Notify, mpsc, watch};
use tokio::time::{sleep, sleep_until, timeout};

pub use leases::Leases;

use crate::addresses::{Applied, Council, Heard, Nodes, Owners};
use crate::apply::bucket::Bucket;
use crate::complaint::Complaint;

/// How often a node says that it lives, and how long that is believed: one may be lost, and the addresses of a node that has died are
/// another's within three seconds.
const SIGN: Duration = Duration::from_secs(1);
const LASTS: Duration = Duration::from_millis(2_500);
/// The same where no address has to move, as kubelets do it.
const CALM_SIGN: Duration = Duration::from_secs(10);
const CALM_LASTS: Duration = Duration::from_secs(25);
/// Signs that are given sooner because there is news: some at once, for what is made together, and then one for each such time.
const NEWS: (u32, Duration) = (4, Duration::from_millis(500));
/// After so long an answer is not waited for any more, or a change that was not heard of is tried again.
const ANSWER: Duration = Duration::from_secs(1);

/// Where it is written down who lives and who owns which address. What is there is heard of as [`Heard`]; that nothing can be heard or
/// written for a while is said by whoever listens, and no error here.
pub trait Record {
    type Error: fmt::Display;

    /// This node lives, which is to be believed for so long, and has this in force; `None`: what it said before.
    fn sign(&self, lasts: Duration, applied: Option<&Applied>) -> impl Future<Output = Result<(), Self::Error>>;

    /// Replaces this version, unless it is not the last any more: that is no error.
    fn write(&self, owners: &Owners, version: &str) -> impl Future<Output = Result<(), Self::Error>>;
}

/// Who answers for addresses.
pub trait Holder {
    /// Those that Gateways have; `None`: not known yet.
    fn addresses(&self) -> Option<BTreeSet<IpAddr>>;
    /// `certain`: if another machine announces one of them, that machine is wrong.
    fn hold(&mut self, addresses: BTreeSet<IpAddr>, certain: bool);
}

/// What a node has to say of itself.
pub struct Saying {
    /// Addresses are to move soon after it dies.
    pub urgent: bool,
    pub applied: Option<Applied>,
}

/// Says again and again that this node lives, and sooner when there is `news`, until `stop` says so; then that it will be back within
/// `restart`. `say`: `None` if it is not of use to anybody yet.
pub async fn give_signs<R: Record>(
    record: Rc<R>,
    say: impl Fn() -> Option<Saying>,
    news: Rc<Notify>,
    restart: Duration,
    stop: Rc<Notify>,
) {
    let mut complaint = Complaint::default();
    let mut bucket = Bucket::new(NEWS.0, NEWS.1, Instant::now());
    loop {
        let begun = Instant::now();
        let mut pause = SIGN;
        if let Some(Saying { urgent, applied }) = say() {
            let (every, lasts) = if urgent { (SIGN, LASTS) } else { (CALM_SIGN, CALM_LASTS) };
            match timeout(ANSWER, record.sign(lasts, applied.as_ref())).await {
                Ok(Ok(())) => {
                    complaint.settle();
                    pause = every;
                }
                Ok(Err(error)) if complaint.is_new(&error) => {
                    tracing::error!(
                        "cannot tell the other nodes that this one lives, so they take over its addresses: {error}"
                    );
                }
                Ok(Err(_)) | Err(_) => {}
            }
        }
        let hurry = async {
            news.notified().await;
            while !bucket.take(Instant::now()) {
                sleep_until(bucket.next(Instant::now()).into()).await;
            }
        };
        tokio::select! {
            () = sleep(pause.saturating_sub(begun.elapsed())) => {}
            () = hurry => {}
            () = stop.notified() => break,
        }
    }
    if let Ok(Err(error)) = timeout(ANSWER, record.sign(restart, None)).await {
        tracing::debug!("the other nodes were not told that this one comes back: {error}");
    }
}

/// Decides on all that is heard, until there is nothing to hear, and says in `nodes` what is known of the others. `changed`: the addresses
/// that Gateways have are others.
pub async fn follow<R: Record, H: Holder>(
    own: Arc<str>,
    record: Rc<R>,
    mut heard: mpsc::UnboundedReceiver<Heard>,
    holder: Rc<RefCell<H>>,
    changed: Rc<Notify>,
    nodes: watch::Sender<Nodes>,
) {
    let mut council = Council::new(own);
    // The version that was replaced last, and when.
    let mut replaced: Option<(Box<str>, Instant)> = None;
    let mut complaint = Complaint::default();
    loop {
        let now = Instant::now();
        let addresses = holder.borrow().addresses();
        let mut decision = council.decide(addresses.as_ref().unwrap_or(&BTreeSet::new()), now);
        if let Some(held) = decision.held.take() {
            holder.borrow_mut().hold(held, decision.certain);
        }
        if let Some(now) = council.nodes(now) {
            nodes.send_if_modified(|known| {
                let is_new = *known != now;
                *known = now;
                is_new
            });
        }
        if let Some((owners, version)) = decision.write.filter(|_| addresses.is_some()) {
            let last = replaced.as_ref().filter(|(before, _)| *before == version).map(|(_, at)| *at + ANSWER);
            match last.filter(|until| now < *until) {
                Some(until) => decision.again = Some(decision.again.map_or(until, |again| again.min(until))),
                None => {
                    match timeout(ANSWER, record.write(&owners, &version)).await {
                        Ok(Ok(())) => complaint.settle(),
                        Ok(Err(error)) if complaint.is_new(&error) => {
                            tracing::error!(
                                "cannot write down which node has which address: {error}; it is tried again"
                            );
                        }
                        Ok(Err(_)) | Err(_) => {}
                    }
                    replaced = Some((version, Instant::now()));
                    continue;
                }
            }
        }
        let again = decision.again;
        tokio::select! {
            event = heard.recv() => {
                let Some(event) = event else { return };
                council.hear(event, Instant::now());
                while let Ok(event) = heard.try_recv() {
                    council.hear(event, Instant::now());
                }
            }
            () = changed.notified() => {}
            () = sleep_until(again.unwrap_or(now).into()), if again.is_some() => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::task::{LocalSet, spawn_local};

    use super::*;

    /// When signs were given, for how long, and what they said.
    struct Given(RefCell<Vec<(Instant, Duration, Option<Applied>)>>);

    impl Record for Given {
        type Error = fmt::Error;

        async fn sign(&self, lasts: Duration, applied: Option<&Applied>) -> Result<(), fmt::Error> {
            self.0.borrow_mut().push((Instant::now(), lasts, applied.cloned()));
            Ok(())
        }

        async fn write(&self, _: &Owners, _: &str) -> Result<(), fmt::Error> {
            Ok(())
        }
    }

    #[test]
    fn news_are_told_at_once_and_much_news_together() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        LocalSet::new().block_on(&runtime, async {
            let given = Rc::new(Given(RefCell::default()));
            let (news, stop, told) = (Rc::new(Notify::new()), Rc::new(Notify::new()), Rc::new(RefCell::new(false)));
            let say = {
                let told = Rc::clone(&told);
                move || told.borrow().then(|| Saying { urgent: false, applied: Some(Applied::default()) })
            };
            let signs = give_signs(Rc::clone(&given), say, Rc::clone(&news), CALM_LASTS, Rc::clone(&stop));
            let signs = spawn_local(signs);
            sleep(Duration::from_millis(50)).await;
            assert_eq!(given.0.borrow().len(), 0, "nothing is known yet");
            *told.borrow_mut() = true;
            let begun = Instant::now();
            // The first each at once, the others together.
            let some = NEWS.0 as usize;
            for _ in 0..2 * some {
                news.notify_one();
                sleep(Duration::from_millis(20)).await;
            }
            let deadline = begun + CALM_SIGN / 2;
            while given.0.borrow().len() < some + 1 && Instant::now() < deadline {
                sleep(Duration::from_millis(20)).await;
            }
            stop.notify_one();
            signs.await.unwrap();
            let given = given.0.borrow();
            assert_eq!(given.len(), some + 2, "{given:?}");
            let (_, lasts, last) = &given[some + 1];
            assert!(*lasts == CALM_LASTS && last.is_none(), "{given:?}");
            assert!(given[..=some].iter().all(|(_, lasts, said)| *lasts == CALM_LASTS && said.is_some()), "{given:?}");
            assert!(given[some - 1].0 < begun + SIGN && given[some].0 >= begun + NEWS.1, "{given:?} since {begun:?}");
        });
    }
}
