//! What every node of a cluster says that it has in force, and who of those that serve a Gateway is behind.
//!
//! How far a node is, is said by resourceVersions: two numbers are enough for any number of Gateways, and a node that is ever so little
//! behind while much changes has still what was there before. (A hash by Gateway would be as long as there are Gateways in each renewal of
//! each node's Lease, and one hash of all would never be the same on two nodes while anything changes.) They are numbers that grow, which
//! Kubernetes promises since 1.35 (KEP-5504) and etcd has always made of them; one that is no number counts as 0, and nobody is waited for.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::{self, Write};
use std::net::IpAddr;
use std::sync::Arc;

use super::Owners;

/// Listeners that a node names as not in force; of more than that nothing is known. A Lease is no place for long lists.
const MOST_LACKING: usize = 64;
/// Names in a message.
const MOST_NAMES: usize = 5;

/// A place in what the API server has said of each kind: the highest resourceVersion that there was.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Reached {
    pub gateways: u64,
    pub listener_sets: u64,
}

impl Reached {
    fn covers(self, other: Reached) -> bool {
        self.gateways >= other.gateways && self.listener_sets >= other.listener_sets
    }
}

/// What a node says of itself: everything up to there is in its maps and tables, but for these listeners.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Applied {
    pub reached: Reached,
    /// By kind, name and listener, as [`crate::emit::in_force`] writes them.
    pub lacking: BTreeSet<Box<str>>,
}

impl Applied {
    pub fn parse(text: &str) -> Applied {
        let mut applied = Applied::default();
        for line in text.lines() {
            match line.split_once(' ') {
                Some(("gateways", version)) => applied.reached.gateways = version.parse().unwrap_or(0),
                Some(("listenersets", version)) => applied.reached.listener_sets = version.parse().unwrap_or(0),
                Some(("without", listener)) => drop(applied.lacking.insert(listener.into())),
                // Of a later version of the agent.
                _ => {}
            }
        }
        applied
    }
}

impl fmt::Display for Applied {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Reached { gateways, listener_sets } = self.reached;
        write!(f, "gateways {gateways}\nlistenersets {listener_sets}\n")?;
        self.lacking.iter().take(MOST_LACKING).try_for_each(|listener| writeln!(f, "without {listener}"))
    }
}

/// What is known of the nodes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Nodes {
    pub own: Arc<str>,
    /// Those that live, and what they say; `None`: nothing yet.
    pub others: BTreeMap<Arc<str>, Option<Arc<Applied>>>,
    /// Who answers for which address; `None`: nothing was heard of anybody yet.
    pub owners: Option<Arc<Owners>>,
}

/// What is to be in force of an object before it counts as programmed.
#[derive(Clone, Debug, Default)]
pub struct Need {
    pub reached: Reached,
    /// Of its Gateway, those that one node answers for. Without any, every node serves it.
    pub addresses: Vec<IpAddr>,
    /// As in [`Applied::lacking`].
    pub listeners: Vec<Box<str>>,
}

/// Why something is not in force where it must be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Behind {
    /// The whole object.
    Whole(String),
    /// Listeners, by their places in [`Need::listeners`].
    Listeners(BTreeMap<usize, String>),
}

impl Nodes {
    /// Whether the same nodes answer for the same addresses.
    pub fn serve_like(&self, other: &Nodes) -> bool {
        self.others.keys().eq(other.others.keys()) && self.owners == other.owners
    }

    /// `None`: the object is in force wherever it must be, as far as it is on this node.
    pub fn behind(&self, need: &Need) -> Option<Behind> {
        let Some(owners) = &self.owners else {
            return Some(Behind::Whole("It is not known yet what the other nodes have in force".to_owned()));
        };
        // Nobody else could have an address.
        if self.others.is_empty() {
            return None;
        }
        let lives = |node: &&Arc<str>| **node == self.own || self.others.contains_key(*node);
        let owner = |address: &IpAddr| owners.get(address).filter(lives);
        let unanswered: Vec<String> =
            need.addresses.iter().filter(|address| owner(address).is_none()).map(IpAddr::to_string).collect();
        if !unanswered.is_empty() {
            return Some(Behind::Whole(format!("No node answers for {} yet", some(&unanswered))));
        }
        let owning: BTreeSet<&Arc<str>> = need.addresses.iter().filter_map(owner).collect();
        let serving = self.others.iter().filter(|(node, _)| owning.is_empty() || owning.contains(node));
        let (mut late, mut lacking) = (Vec::new(), BTreeMap::<usize, Vec<&str>>::new());
        for (node, applied) in serving {
            match applied {
                Some(applied) if applied.reached.covers(need.reached) => {
                    for (i, listener) in need.listeners.iter().enumerate() {
                        if applied.lacking.contains(listener) {
                            lacking.entry(i).or_default().push(node);
                        }
                    }
                }
                _ => late.push(&**node),
            }
        }
        if !late.is_empty() {
            return Some(Behind::Whole(format!("Not in the data plane yet of {}", nodes(&late))));
        }
        let message = |on: Vec<&str>| format!("Not in the data plane of {}; see what its agent logs", nodes(&on));
        let lacking: BTreeMap<usize, String> = lacking.into_iter().map(|(i, on)| (i, message(on))).collect();
        (!lacking.is_empty()).then_some(Behind::Listeners(lacking))
    }
}

fn nodes(names: &[&str]) -> String {
    format!("{} {}", if names.len() == 1 { "node" } else { "nodes" }, some(names))
}

/// Enough of them for a message.
fn some<S: AsRef<str>>(names: &[S]) -> String {
    let mut text = String::new();
    for (i, name) in names.iter().take(MOST_NAMES).enumerate() {
        // A String takes everything.
        let _ = write!(text, "{}{}", if i > 0 { ", " } else { "" }, name.as_ref());
    }
    if names.len() > MOST_NAMES {
        let _ = write!(text, " and {} more", names.len() - MOST_NAMES);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(198, 18, 0, 1));
    const TWO: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(198, 18, 0, 2));

    fn applied(gateways: u64, listener_sets: u64, lacking: &[&str]) -> Option<Arc<Applied>> {
        let lacking = lacking.iter().map(|listener| Box::from(*listener)).collect();
        Some(Arc::new(Applied { reached: Reached { gateways, listener_sets }, lacking }))
    }

    /// This node is `a`, which has the first address; `b` has the second.
    fn nodes(others: &[(&str, Option<Arc<Applied>>)]) -> Nodes {
        let owners = Owners::from([(ONE, "a".into()), (TWO, "b".into())]);
        let others = others.iter().map(|(node, applied)| (Arc::from(*node), applied.clone())).collect();
        Nodes { own: "a".into(), others, owners: Some(owners.into()) }
    }

    fn need(gateways: u64, listener_sets: u64, addresses: &[IpAddr]) -> Need {
        let listeners = vec!["Gateway x/edge http".into(), "Gateway x/edge https".into()];
        Need { reached: Reached { gateways, listener_sets }, addresses: addresses.to_vec(), listeners }
    }

    fn whole(text: &str) -> Option<Behind> {
        Some(Behind::Whole(text.to_owned()))
    }

    #[test]
    fn without_a_pool_every_node_that_lives_must_have_it() {
        let both = nodes(&[("b", applied(10, 5, &[])), ("c", applied(9, 5, &[])), ("d", None)]);
        assert_eq!(both.behind(&need(9, 0, &[])), whole("Not in the data plane yet of node d"));
        assert_eq!(both.behind(&need(10, 5, &[])), whole("Not in the data plane yet of nodes c, d"));
        assert_eq!(both.behind(&need(9, 6, &[])), whole("Not in the data plane yet of nodes b, c, d"));
        let gone = nodes(&[("b", applied(10, 5, &[]))]);
        assert_eq!(gone.behind(&need(10, 5, &[])), None);
        assert_eq!(nodes(&[]).behind(&need(10, 5, &[])), None);
    }

    #[test]
    fn only_the_owner_of_an_address_must_have_it() {
        let known = nodes(&[("b", applied(9, 0, &[])), ("c", None)]);
        assert_eq!(known.behind(&need(10, 0, &[ONE])), None, "this node has it");
        assert_eq!(known.behind(&need(10, 0, &[ONE, TWO])), whole("Not in the data plane yet of node b"));
        assert_eq!(known.behind(&need(9, 0, &[TWO])), None);
    }

    #[test]
    fn an_address_that_nobody_answers_for_is_not_served() {
        let three = IpAddr::from([198, 18, 0, 3]);
        let known = nodes(&[("b", applied(10, 0, &[]))]);
        assert_eq!(known.behind(&need(10, 0, &[TWO, three])), whole("No node answers for 198.18.0.3 yet"));
        let dead = nodes(&[("c", applied(10, 0, &[]))]);
        assert_eq!(dead.behind(&need(10, 0, &[TWO])), whole("No node answers for 198.18.0.2 yet"));
        let unheard = Nodes { owners: None, ..known };
        assert!(matches!(unheard.behind(&need(1, 0, &[])), Some(Behind::Whole(_))));
    }

    #[test]
    fn what_a_node_could_not_put_in_force_is_said_of_that_listener() {
        let known = nodes(&[("b", applied(10, 0, &["Gateway x/edge https", "Gateway x/other https"]))]);
        let text = "Not in the data plane of node b; see what its agent logs".to_owned();
        assert_eq!(known.behind(&need(10, 0, &[])), Some(Behind::Listeners([(1, text)].into())));
    }

    #[test]
    fn names_are_not_listed_without_end() {
        let names: Vec<String> = (0..9).map(|i| format!("n{i}")).collect();
        assert_eq!(some(&names), "n0, n1, n2, n3, n4 and 4 more");
    }

    #[test]
    fn what_is_said_is_read_again() {
        let said = applied(12, 7, &["Gateway x/edge http", "ListenerSet x/set http"]).unwrap();
        assert_eq!(
            said.to_string(),
            "gateways 12\nlistenersets 7\nwithout Gateway x/edge http\nwithout ListenerSet x/set http\n"
        );
        assert_eq!(Applied::parse(&said.to_string()), *said);
        assert_eq!(Applied::parse("gateways x\nfuture 7\n\nnonsense"), Applied::default());
        let many = Applied { lacking: (0..1000).map(|i| i.to_string().into()).collect(), ..Applied::default() };
        assert_eq!(many.to_string().lines().count(), 2 + MOST_LACKING);
    }
}
