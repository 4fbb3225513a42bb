//! Which addresses of the pool this node answers for: what [`Council`] decides, carried out.

#![forbid(unsafe_code)]

mod leases;

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::fmt;
use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{Notify, mpsc};
use tokio::time::{sleep, sleep_until, timeout};

pub use leases::Leases;

use crate::addresses::{Council, Heard, Owners};
use crate::complaint::Complaint;

/// How often a node says that it lives, and how long that is believed: one may be lost, and the addresses of a node that has died are
/// another's within three seconds.
const SIGN: Duration = Duration::from_secs(1);
const LASTS: Duration = Duration::from_millis(2_500);
/// After so long an answer is not waited for any more, or a change that was not heard of is tried again.
const ANSWER: Duration = Duration::from_secs(1);

/// Where it is written down who lives and who owns which address. What is there is heard of as [`Heard`]; that nothing can be heard or
/// written for a while is said by whoever listens, and no error here.
pub trait Record {
    type Error: fmt::Display;

    /// This node lives, which is to be believed for so long.
    fn sign(&self, lasts: Duration) -> impl Future<Output = Result<(), Self::Error>>;

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

/// Says again and again that this node lives, until `stop` says so; then that it will be back within `restart`.
pub async fn give_signs<R: Record>(record: Rc<R>, restart: Duration, stop: Rc<Notify>) {
    let mut complaint = Complaint::default();
    loop {
        let begun = Instant::now();
        match timeout(ANSWER, record.sign(LASTS)).await {
            Ok(Ok(())) => complaint.settle(),
            Ok(Err(error)) if complaint.is_new(&error) => {
                tracing::error!(
                    "cannot tell the other nodes that this one lives, so they take over its addresses: {error}"
                );
            }
            Ok(Err(_)) | Err(_) => {}
        }
        tokio::select! {
            () = sleep(SIGN.saturating_sub(begun.elapsed())) => {}
            () = stop.notified() => break,
        }
    }
    if let Ok(Err(error)) = timeout(ANSWER, record.sign(restart)).await {
        tracing::debug!("the other nodes were not told that this one comes back: {error}");
    }
}

/// Decides on all that is heard, until there is nothing to hear. `changed`: the addresses that Gateways have are others.
pub async fn follow<R: Record, H: Holder>(
    own: Arc<str>,
    record: Rc<R>,
    mut heard: mpsc::UnboundedReceiver<Heard>,
    holder: Rc<RefCell<H>>,
    changed: Rc<Notify>,
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
