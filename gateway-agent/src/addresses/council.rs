//! What a node makes of what it hears of the others: who lives, who owns which address, who has what in force, and whether it is this node
//! that is to write down a change. Clocks of different nodes are compared nowhere: a node lives as long as its signs keep coming here.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::nodes::{Applied, Nodes};
use super::owners::{Owners, decide};

/// A node says that it lives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sign {
    pub node: Arc<str>,
    /// Another one each time.
    pub mark: Box<str>,
    /// How long that is to be believed.
    pub lasts: Duration,
    /// What it has in force; `None`: it has not said yet.
    pub applied: Option<Arc<Applied>>,
}

/// What is heard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Heard {
    Sign(Sign),
    /// The node will give no sign any more.
    Gone(Arc<str>),
    /// What is written down, and as which version; an empty one: nothing is.
    Owners(Owners, Box<str>),
}

/// What a node is to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decision {
    /// The addresses it answers for, as far as Gateways have them; `None`: it is not known yet who owns what.
    pub held: Option<BTreeSet<IpAddr>>,
    /// It hears itself, so what it knows is of now: if another machine announces an address, that one is wrong.
    pub certain: bool,
    /// To be written down in place of this version (empty: there is none).
    pub write: Option<(Owners, Box<str>)>,
    /// When to decide again at the latest, if nothing is heard.
    pub again: Option<Instant>,
}

pub struct Council {
    own: Arc<str>,
    nodes: BTreeMap<Arc<str>, Life>,
    record: Option<(Arc<Owners>, Box<str>)>,
    /// Since when this node hears itself.
    awake: Option<Instant>,
}

struct Life {
    mark: Box<str>,
    lasts: Duration,
    heard: Instant,
    applied: Option<Arc<Applied>>,
    /// It gave no sign for too long, while this node could hear.
    silent: bool,
}

impl Life {
    fn until(&self) -> Instant {
        self.heard + self.lasts
    }

    /// A node that has not heard itself for this long may not have heard the others either. It is so much less than what a sign lasts that who
    /// gave his a beat sooner is still taken for living then.
    fn hears_until(&self) -> Instant {
        self.heard + self.lasts * 3 / 5
    }
}

impl Council {
    pub fn new(own: Arc<str>) -> Council {
        Council { own, nodes: BTreeMap::new(), record: None, awake: None }
    }

    pub fn hear(&mut self, heard: Heard, now: Instant) {
        match heard {
            // What is said again and again is not said anew.
            Heard::Sign(sign) if self.nodes.get(&sign.node).is_some_and(|life| life.mark == sign.mark) => {}
            Heard::Sign(Sign { node, mark, lasts, applied }) => {
                if node == self.own && self.nodes.get(&node).is_some_and(|life| now >= life.hears_until()) {
                    self.awake = None;
                }
                let life = Life { mark, lasts, heard: now, applied, silent: false };
                self.nodes.insert(node, life);
            }
            Heard::Gone(node) => drop(self.nodes.remove(&node)),
            Heard::Owners(owners, version) => self.record = Some((owners.into(), version)),
        }
    }

    /// What is known of the others after a decision; `None`: no more than before, for this node does not even hear itself.
    pub fn nodes(&self, now: Instant) -> Option<Nodes> {
        self.awake?;
        let lives = |(node, life): &(&Arc<str>, &Life)| **node != self.own && !life.silent && now < life.until();
        let others = self.nodes.iter().filter(lives);
        let others = others.map(|(node, life)| (Arc::clone(node), life.applied.clone())).collect();
        let owners = self.record.as_ref().map(|(owners, _)| Arc::clone(owners));
        Some(Nodes { own: Arc::clone(&self.own), others, owners })
    }

    pub fn decide(&mut self, addresses: &BTreeSet<IpAddr>, now: Instant) -> Decision {
        let lives = |life: &Life| now < life.until();
        let own = self.nodes.get(&self.own).filter(|life| now < life.hears_until()).map(|life| life.lasts);
        // While this node heard nothing, not even itself, nobody else could be heard either.
        if own.is_some() && self.awake.is_none() {
            self.nodes.values_mut().for_each(|life| life.heard = now);
            self.awake = Some(now);
        }
        // And where all have just begun, the first would take everything for good.
        let ripe = self.awake.zip(own).map(|(since, lasts)| since + lasts);
        if own.is_none() {
            self.awake = None;
        } else {
            // It may live again in the eyes of a node that has slept: that is for addresses, which are not taken away in haste.
            self.nodes.values_mut().for_each(|life| life.silent |= now >= life.until());
        }
        let Some((owners, version)) = &self.record else {
            return Decision { held: None, certain: false, write: None, again: None };
        };
        let owned = owners.iter().filter(|(_, owner)| **owner == self.own);
        let held = Some(owned.map(|(address, _)| *address).collect());
        let Some(ripe) = ripe else {
            return Decision { held, certain: false, write: None, again: None };
        };
        let living: BTreeSet<Arc<str>> =
            self.nodes.iter().filter(|(_, life)| lives(life)).map(|(node, _)| Arc::clone(node)).collect();
        let again = self.nodes.values().filter(|life| lives(life)).map(Life::until).min();
        let again = again.map(|again| if now < ripe { again.min(ripe) } else { again });
        let wanted = decide(&living, owners, addresses);
        // One is enough.
        let writes = now >= ripe && living.first() == Some(&self.own) && wanted != **owners;
        Decision { held, certain: true, write: writes.then(|| (wanted, version.clone())), again }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const LASTS: Duration = Duration::from_millis(2_500);
    const RENEWED: u64 = 1_000;

    fn addresses(count: u8) -> BTreeSet<IpAddr> {
        (0..count).map(|host| IpAddr::from([198, 18, 0, host])).collect()
    }

    fn sign(node: &str, mark: &str) -> Heard {
        Heard::Sign(Sign { node: node.into(), mark: mark.into(), lasts: LASTS, applied: None })
    }

    /// Nodes that share a record, and a clock that is turned by hand.
    struct World {
        start: Instant,
        now: u64,
        councils: BTreeMap<Arc<str>, Council>,
        /// Nodes that give signs, each since when.
        living: BTreeMap<Arc<str>, u64>,
        /// Nobody reaches the record.
        away: bool,
        record: Owners,
        version: u64,
        writes: usize,
        addresses: BTreeSet<IpAddr>,
    }

    impl World {
        fn new(nodes: u8, count: u8) -> World {
            let names: Vec<Arc<str>> = (0..nodes).map(|node| format!("node-{node}").into()).collect();
            let council = |name: &Arc<str>| {
                let mut council = Council::new(Arc::clone(name));
                council.hear(Heard::Owners(Owners::new(), "".into()), Instant::now());
                (Arc::clone(name), council)
            };
            World {
                start: Instant::now(),
                now: 0,
                councils: names.iter().map(council).collect(),
                living: names.iter().enumerate().map(|(i, name)| (Arc::clone(name), 97 * i as u64)).collect(),
                away: false,
                record: Owners::new(),
                version: 0,
                writes: 0,
                addresses: addresses(count),
            }
        }

        /// Lets time go by.
        fn run(&mut self, milliseconds: u64) {
            const STEP: u64 = 50;
            for _ in 0..milliseconds / STEP {
                self.now += STEP;
                let now = self.start + Duration::from_millis(self.now);
                if self.away {
                    continue;
                }
                let due = |since: &u64| (self.now - since.min(&self.now)) % RENEWED < STEP;
                let signs = self.living.iter().filter(|(_, since)| due(since)).map(|(node, _)| Sign {
                    node: Arc::clone(node),
                    mark: self.now.to_string().into(),
                    lasts: LASTS,
                    applied: None,
                });
                let signs: Vec<Sign> = signs.collect();
                for (node, council) in self.councils.iter_mut().filter(|(node, _)| self.living.contains_key(*node)) {
                    signs.iter().for_each(|sign| council.hear(Heard::Sign(sign.clone()), now));
                    if self.version > 0 {
                        council.hear(Heard::Owners(self.record.clone(), self.version.to_string().into()), now);
                    }
                    let decision = council.decide(&self.addresses, now);
                    let version = if self.version == 0 { String::new() } else { self.version.to_string() };
                    if let Some((owners, before)) = decision.write {
                        assert_eq!(*before, *version, "{node} writes over what it does not know");
                        self.record = owners;
                        self.version += 1;
                        self.writes += 1;
                    }
                }
            }
        }

        /// Whom everybody who lives takes for the owner.
        fn holders(&mut self, address: IpAddr) -> Vec<Arc<str>> {
            let now = self.start + Duration::from_millis(self.now);
            let addresses = &self.addresses;
            let holds =
                |council: &mut Council| council.decide(addresses, now).held.is_some_and(|held| held.contains(&address));
            let living = &self.living;
            let councils = self.councils.iter_mut().filter(|(node, _)| living.contains_key(*node));
            councils.filter_map(|(node, council)| holds(council).then(|| Arc::clone(node))).collect()
        }

        fn assert_held_once(&mut self) {
            for address in self.addresses.clone() {
                let holders = self.holders(address);
                assert_eq!(holders.len(), 1, "{address} is held by {holders:?} at {} ms", self.now);
            }
        }
    }

    #[test]
    fn the_addresses_of_a_dead_node_are_taken_over_within_three_seconds() {
        let mut world = World::new(3, 12);
        world.run(5_000);
        world.assert_held_once();
        let dead: Arc<str> = "node-1".into();
        assert!(world.record.values().any(|owner| *owner == dead));
        world.living.remove(&dead);
        world.run(3_000);
        world.assert_held_once();
        assert!(!world.record.values().any(|owner| *owner == dead));
    }

    #[test]
    fn who_comes_back_takes_nothing_back() {
        let mut world = World::new(2, 8);
        world.run(5_000);
        world.living.remove("node-0");
        world.run(3_000);
        let (record, writes) = (world.record.clone(), world.writes);
        world.living.insert("node-0".into(), world.now);
        world.run(10_000);
        assert_eq!((&world.record, world.writes), (&record, writes), "nothing is written while nothing changes");
        world.assert_held_once();
    }

    #[test]
    fn writes_do_not_grow_with_addresses() {
        let mut world = World::new(3, 200);
        world.run(5_000);
        world.living.remove("node-2");
        world.run(5_000);
        assert_eq!((world.writes, world.record.len()), (2, 200), "at the start, and after a death");
    }

    #[test]
    fn while_nothing_can_be_heard_nobody_takes_anything() {
        let mut world = World::new(3, 9);
        world.run(5_000);
        let (record, writes) = (world.record.clone(), world.writes);
        world.away = true;
        world.run(60_000);
        world.assert_held_once();
        world.away = false;
        world.run(10_000);
        assert_eq!((&world.record, world.writes), (&record, writes));
    }

    #[test]
    fn after_an_outage_of_any_length_every_address_is_where_it_was() {
        for (length, phase) in (1..=40).flat_map(|n| (0..5).map(move |phase| (n * 100, phase * 200))) {
            let mut world = World::new(3, 9);
            world.run(5_000 + phase);
            let record = world.record.clone();
            world.away = true;
            world.run(length);
            world.away = false;
            world.run(5_000);
            assert_eq!(world.record, record, "away for {length} ms after {phase} ms");
        }
    }

    #[test]
    fn who_says_that_it_comes_back_is_waited_for() {
        let start = Instant::now();
        let mut council = Council::new("a".into());
        let sign = |node: &str, mark: &str, seconds| {
            Heard::Sign(Sign {
                node: node.into(),
                mark: mark.into(),
                lasts: Duration::from_secs(seconds),
                applied: None,
            })
        };
        council.hear(Heard::Owners(Owners::from([(IpAddr::from([198, 18, 0, 1]), "b".into())]), "1".into()), start);
        for second in 0..20 {
            let now = start + Duration::from_secs(second);
            council.hear(sign("a", &second.to_string(), 2), now);
            council.hear(sign("b", "stopping", 15), now);
            let decision = council.decide(&BTreeSet::from([IpAddr::from([198, 18, 0, 1])]), now);
            assert_eq!(decision.write.is_some(), second >= 15, "after {second} s");
        }
    }

    #[test]
    fn who_has_just_begun_hears_the_others_first() {
        let start = Instant::now();
        let mut council = Council::new("a".into());
        council.hear(Heard::Owners(Owners::new(), "".into()), start);
        for second in 0..5 {
            let now = start + Duration::from_secs(second);
            council.hear(sign("a", &second.to_string()), now);
            assert_eq!(council.decide(&addresses(3), now).write.is_some(), second >= 3, "after {second} s");
        }
    }

    #[test]
    fn before_the_record_is_known_nothing_is_decided() {
        let now = Instant::now();
        let mut council = Council::new("a".into());
        council.hear(sign("a", "1"), now);
        assert_eq!(
            council.decide(&addresses(3), now),
            Decision { held: None, certain: false, write: None, again: None }
        );
    }

    /// Whom a node takes for living, of the others.
    fn others(council: &mut Council, now: Instant) -> Option<Vec<Arc<str>>> {
        council.decide(&BTreeSet::new(), now);
        council.nodes(now).map(|nodes| nodes.others.into_keys().collect())
    }

    #[test]
    fn nobody_waits_for_a_node_that_has_died_also_after_a_time_of_hearing_nothing() {
        let start = Instant::now();
        let at = |millis: u64| start + Duration::from_millis(millis);
        let mut council = Council::new("a".into());
        council.hear(Heard::Owners(Owners::new(), "1".into()), at(0));
        assert_eq!(others(&mut council, at(0)), None, "it does not hear itself");
        for node in ["a", "b", "c"] {
            council.hear(sign(node, "0"), at(0));
        }
        assert_eq!(others(&mut council, at(0)), Some(vec!["b".into(), "c".into()]));
        for (millis, node) in [(1_000, "a"), (1_000, "b"), (2_000, "a"), (2_000, "b")] {
            council.hear(sign(node, &millis.to_string()), at(millis));
        }
        assert_eq!(others(&mut council, at(2_600)), Some(vec!["b".into()]), "c has died");
        assert_eq!(others(&mut council, at(9_000)), None, "the API server is away");
        council.hear(sign("a", "again"), at(9_100));
        assert_eq!(others(&mut council, at(9_100)), Some(vec!["b".into()]), "nobody else has died meanwhile");
        council.hear(sign("c", "again"), at(9_200));
        assert_eq!(others(&mut council, at(9_200)), Some(vec!["b".into(), "c".into()]));
    }

    proptest! {
        /// Whatever dies and comes back, and whenever the record is away: some time later every address has one holder.
        #[test]
        fn in_the_end_every_address_is_held_once(events in proptest::collection::vec((0u8..4, 0u8..4, 1u64..80), 0..12)) {
            let mut world = World::new(4, 10);
            for (node, what, steps) in events {
                let node: Arc<str> = format!("node-{node}").into();
                match what {
                    0 => world.away = true,
                    1 => world.away = false,
                    2 => drop(world.living.remove(&node)),
                    _ => drop(world.living.insert(node, world.now)),
                }
                world.run(steps * 50);
            }
            world.away = false;
            world.living.entry("node-3".into()).or_insert(world.now);
            world.run(8_000);
            world.assert_held_once();
        }
    }
}
