//! `Programmed` is said of a Gateway or ListenerSet once it is in force on every node that serves it.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use tokio::sync::watch;

use crate::addresses::{Behind, Need, Nodes};
use crate::index::{Kind, ObjectId};

/// The others usually have it by then, and the status is written once. Longer than they may wait before they say so.
const GRACE: Duration = Duration::from_secs(1);

pub struct Gate {
    nodes: watch::Receiver<Nodes>,
    /// As they were when news of them was heard last.
    known: Nodes,
    /// Objects that are not in force everywhere, and since when that is known.
    behind: BTreeMap<ObjectId, Instant>,
}

/// What is to be done with the status of something that is in force here.
#[derive(Debug, PartialEq, Eq)]
pub enum Passage {
    /// `waited`: it was not a moment ago.
    Free { waited: bool },
    /// Nothing before then.
    Wait(Instant),
    /// It is written with what is missing.
    Behind(Behind),
}

/// Of whom the news is.
#[derive(Debug, PartialEq, Eq)]
pub enum Touched {
    Everything,
    These(Vec<ObjectId>),
}

impl Gate {
    pub fn new(mut nodes: watch::Receiver<Nodes>) -> Gate {
        let known = nodes.borrow_and_update().clone();
        Gate { nodes, known, behind: BTreeMap::new() }
    }

    /// `at_once`: there is something in the status that the others must know.
    pub fn pass(&mut self, id: &ObjectId, need: &Need, at_once: bool, now: Instant) -> Passage {
        let Some(behind) = self.nodes.borrow().behind(need) else {
            return Passage::Free { waited: self.behind.remove(id).is_some() };
        };
        let until = *self.behind.entry(id.clone()).or_insert(now) + GRACE;
        if now < until && !at_once { Passage::Wait(until) } else { Passage::Behind(behind) }
    }

    /// It has nothing to do with other nodes, or is gone.
    pub fn forget(&mut self, id: &ObjectId) {
        self.behind.remove(id);
    }

    /// Waits for news of the nodes, for as long as there are any.
    pub async fn news(&mut self) -> Touched {
        if self.nodes.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
        let now = self.nodes.borrow_and_update().clone();
        let before = std::mem::replace(&mut self.known, now);
        if !self.known.serve_like(&before) {
            return Touched::Everything;
        }
        let mut touched: Vec<ObjectId> = self.behind.keys().cloned().collect();
        // What a node has lost since is not programmed any more.
        let lacking = |nodes: &Nodes| -> Vec<Box<str>> {
            nodes.others.values().flatten().flat_map(|applied| applied.lacking.iter().cloned()).collect()
        };
        let old = lacking(&before);
        touched.extend(lacking(&self.known).iter().filter(|name| !old.contains(name)).filter_map(|name| object(name)));
        Touched::These(touched)
    }
}

/// Whose listener that is.
fn object(lacking: &str) -> Option<ObjectId> {
    let mut words = lacking.split(' ');
    let kind = match words.next()? {
        "Gateway" => Kind::Gateway,
        "ListenerSet" => Kind::ListenerSet,
        _ => return None,
    };
    let (namespace, name) = words.next()?.split_once('/')?;
    Some(ObjectId { kind, name: crate::index::Name { namespace: namespace.into(), name: name.into() } })
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use futures_util::FutureExt;

    use super::*;
    use crate::addresses::{Applied, Owners, Reached};

    fn nodes(of_b: &str) -> Nodes {
        let others = BTreeMap::from([(Arc::from("b"), Some(Arc::new(Applied::parse(of_b))))]);
        Nodes { own: "a".into(), others, owners: Some(Owners::new().into()) }
    }

    fn need(gateways: u64) -> Need {
        Need { reached: Reached { gateways, listener_sets: 0 }, ..Need::default() }
    }

    fn edge() -> ObjectId {
        object("Gateway x/edge a").unwrap()
    }

    #[test]
    fn what_the_others_have_soon_is_written_once() {
        let start = Instant::now();
        let (sender, receiver) = watch::channel(nodes("gateways 4"));
        let mut gate = Gate::new(receiver);
        assert_eq!(gate.pass(&edge(), &need(4), false, start), Passage::Free { waited: false });
        assert_eq!(gate.pass(&edge(), &need(5), false, start), Passage::Wait(start + GRACE));
        assert_eq!(gate.pass(&edge(), &need(5), false, start + GRACE / 2), Passage::Wait(start + GRACE));
        let behind = Passage::Behind(Behind::Whole("Not in the data plane yet of node b".to_owned()));
        assert_eq!(gate.pass(&edge(), &need(5), true, start), behind);
        assert_eq!(gate.pass(&edge(), &need(5), false, start + GRACE), behind);
        sender.send_replace(nodes("gateways 5"));
        assert_eq!(gate.pass(&edge(), &need(5), false, start + GRACE), Passage::Free { waited: true });
        let later = start + GRACE * 9;
        assert_eq!(gate.pass(&edge(), &need(6), false, later), Passage::Wait(later + GRACE), "it starts over");
    }

    #[test]
    fn news_are_about_who_waits_and_what_a_node_has_lost() {
        let (sender, receiver) = watch::channel(nodes("gateways 4"));
        let mut gate = Gate::new(receiver);
        assert!(gate.news().now_or_never().is_none());
        gate.pass(&edge(), &need(5), false, Instant::now());
        sender.send_replace(nodes("gateways 4\nwithout ListenerSet x/set a"));
        let set = object("ListenerSet x/set a").unwrap();
        assert_eq!(gate.news().now_or_never(), Some(Touched::These(vec![edge(), set])));
        sender.send_replace(nodes("gateways 5\nwithout ListenerSet x/set a"));
        assert_eq!(gate.news().now_or_never(), Some(Touched::These(vec![edge()])));
        sender.send_replace(Nodes { others: BTreeMap::new(), ..nodes("") });
        assert_eq!(gate.news().now_or_never(), Some(Touched::Everything));
    }
}
