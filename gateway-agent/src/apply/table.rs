//! The Maglev table of a set, as SLOTS will hold it.

use gateway_common::maglev::{self, Member, NESTED_LENGTH, Turn};
use gateway_common::{hash::mix, slot};

use super::ids::Range;
use crate::emit::shares::{Backend, BackendKey, Set, To};

/// Working memory, kept from set to set.
#[derive(Default)]
pub struct Table {
    slots: Vec<u32>,
    length: u16,
    nested: u16,
    members: Vec<Member>,
    turns: Vec<Turn>,
}

impl Table {
    /// Fills in the table of a set; says whether every backend of it has an id. Those without one are left out: the others
    /// take over their share.
    pub fn fill(&mut self, set: &Set, id: impl Fn(&BackendKey) -> Option<u32>) -> bool {
        self.members.clear();
        let mut complete = true;
        for share in &set.shares {
            let (slot, seed) = match &share.to {
                To::Backend(backend) => match id(&backend.key()) {
                    Some(id) => (id, seed(backend)),
                    None => {
                        complete = false;
                        continue;
                    }
                },
                To::Invalid => (slot::INVALID, u64::from(slot::INVALID)),
                To::Empty => (slot::EMPTY, u64::from(slot::EMPTY)),
            };
            self.members.push(Member { slot, seed, weight: share.weight });
        }
        if self.members.is_empty() {
            self.members.push(Member { slot: slot::EMPTY, seed: 0, weight: 1 });
        }
        // By all shares, so that the length does not depend on what has found room.
        self.length = maglev::length(set.shares.len());
        self.slots.clear();
        self.slots.resize(usize::from(self.length) + usize::from(NESTED_LENGTH), 0);
        self.turns.resize(self.members.len(), Turn::default());
        let (table, nested) = self.slots.split_at_mut(usize::from(self.length));
        self.nested = maglev::fill(&self.members, table, nested, &mut self.turns);
        complete
    }

    /// Table and nested table, one after the other.
    pub fn slots(&self) -> &[u32] {
        &self.slots[..usize::from(self.length) + usize::from(self.nested)]
    }

    /// Where it would be, at this offset.
    pub fn at(&self, range: Range) -> gateway_common::BackendSet {
        gateway_common::BackendSet { offset: range.offset, length: self.length, nested: self.nested }
    }
}

/// From the identity and never from the id: an agent that starts anew must make the same table.
fn seed(backend: &Backend) -> u64 {
    let [high, low] = backend.address.words();
    let kind = u64::from(backend.proxy) << 32 | u64::from(backend.port) << 8 | u64::from(backend.protocol);
    mix(mix(mix(high) ^ low) ^ kind)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::emit::shares::Share;
    use gateway_common::{Address, protocol};

    fn backend(n: u8) -> Backend {
        Backend { address: Address::v4([198, 18, 0, n]), port: 80, protocol: protocol::TCP, proxy: false, local: false }
    }

    fn set(members: impl IntoIterator<Item = u8>) -> Set {
        let share = |n| Share { to: To::Backend(backend(n)), weight: 1 };
        Set { shares: members.into_iter().map(share).collect(), idle: [].into() }
    }

    #[test]
    fn the_same_set_gives_the_same_table_whatever_the_ids_are() {
        let (mut one, mut other) = (Table::default(), Table::default());
        let last = |k: &BackendKey| u32::from(k.address.octets[15]);
        assert!(one.fill(&set(1..=10), |k| Some(last(k))));
        assert!(other.fill(&set(1..=10), |k| Some(last(k) + 100)));
        let renamed: Vec<u32> =
            one.slots().iter().map(|s| if *s < slot::FIRST_SPECIAL { s + 100 } else { *s }).collect();
        assert_eq!(renamed, other.slots());
    }

    #[test]
    fn a_backend_without_an_id_leaves_its_share_to_the_others() {
        let mut table = Table::default();
        let known = |k: &BackendKey| (k.address.octets[15] == 1).then_some(7);
        assert!(!table.fill(&set(1..=2), known));
        assert!(table.slots().iter().all(|s| *s == 7));
        assert!(!table.fill(&set(1..=2), |_| None));
        assert!(table.slots().iter().all(|s| *s == slot::EMPTY));
    }
}
