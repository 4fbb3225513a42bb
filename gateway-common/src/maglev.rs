//! Maglev tables (Eisenbud et al., NSDI 2016) with exact weights.
//!
//! A fine weight is not rounded away: where a member is worth few slots, every member gets only the whole slots that its weight
//! is worth, and the slots left over point to a nested table in which the members share by their remainders. Two lookups at
//! the most give a resolution of 1 in `length * nested`, about 1 in 10^6 for the smallest table.

use crate::{hash::mix, slot};

/// Table lengths (primes) and up to how many members: 64 slots a member.
pub const LENGTHS: [(u16, usize); 4] = [(1021, 16), (4093, 64), (16_381, 256), (65_521, usize::MAX)];
/// Slots of a nested table.
pub const NESTED_LENGTH: u16 = 1021;
/// A member whose share is fewer slots than this is not given to the next whole slot: that would be wrong by over 2 %.
const COARSE: u128 = 50;
/// Members that a nested table has room for.
const NESTED_MEMBERS: usize = 256;

/// A member of a set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Member {
    /// What the slots hold: a backend id, [`slot::INVALID`] or [`slot::EMPTY`].
    pub slot: u32,
    /// Identity for the permutation: the same member has the same wherever it stands in the list.
    pub seed: u64,
    /// Share of the set, relative to the others.
    pub weight: u64,
}

/// The table length for so many members.
pub const fn length(members: usize) -> u16 {
    let mut i = 0;
    while members > LENGTHS[i].1 {
        i += 1;
    }
    LENGTHS[i].0
}

/// A member whose turn is to come: where its permutation stands, and when its next turn is.
#[derive(Clone, Copy, Debug, Default)]
pub struct Turn {
    /// Turns come at equal distances, so that all quotas are used up together: parts of 2^32 of the whole.
    time: u64,
    seed: u64,
    slot: u32,
    quota: u32,
    taken: u32,
    next: u32,
    skip: u32,
    remainder: u64,
}

impl Turn {
    fn set(&mut self, quota: u32, remainder: u64, length: u32) {
        self.quota = quota;
        self.taken = 0;
        self.remainder = remainder;
        self.next = (mix(self.seed) % length as u64) as u32;
        self.skip = (mix(self.seed ^ 0x5851_f42d_4c95_7f2d) % (length as u64 - 1)) as u32 + 1;
        self.schedule();
    }

    fn schedule(&mut self) {
        let done = self.taken >= self.quota;
        self.time = if done { u64::MAX } else { ((self.taken as u64 + 1) << 32) / self.quota as u64 };
    }

    /// Who comes first; never decided by where a member stands in the list.
    fn order(&self) -> (u64, u64, u32) {
        (self.time, self.seed, self.slot)
    }
}

/// Fills `table` and, when weights do not come out even, the start of `nested`; answers how much of it.
///
/// `turns` is working memory for `members.len()` entries at least, `nested` has [`NESTED_LENGTH`] entries. Tables are prime
/// in length; `table` is filled with 0 when all weights are 0. Takes `O(table.len() * log(members.len()))`.
pub fn fill(members: &[Member], table: &mut [u32], nested: &mut [u32], turns: &mut [Turn]) -> u16 {
    let total: u128 = members.iter().map(|m| m.weight as u128).sum();
    table.fill(0);
    if total == 0 {
        return 0;
    }
    let turns = &mut turns[..members.len()];
    for (turn, member) in turns.iter_mut().zip(members) {
        let exact = member.weight as u128 * table.len() as u128;
        turn.seed = member.seed;
        turn.slot = member.slot;
        // A remainder is a fraction of a slot, kept as parts of 2^32.
        turn.set((exact / total) as u32, (((exact % total) << 32) / total) as u64, table.len() as u32);
    }
    let is_coarse =
        |member: &Member| member.weight > 0 && member.weight as u128 * (table.len() as u128) < COARSE * total;
    if members.len() > NESTED_MEMBERS || !members.iter().any(is_coarse) {
        round(turns, table.len() as u32);
        place(turns, table);
        return 0;
    }
    let remainders: u64 = turns.iter().map(|t| t.remainder).sum();
    if place(turns, table) == 0 {
        return 0;
    }
    for slot in table.iter_mut().filter(|slot| **slot == 0) {
        *slot = slot::NESTED;
    }
    let length = nested.len() as u32;
    for turn in turns.iter_mut() {
        let exact = turn.remainder as u128 * length as u128;
        turn.set((exact / remainders as u128) as u32, (exact % remainders as u128) as u64, length);
    }
    round(turns, length);
    nested.fill(0);
    place(turns, nested);
    length as u16
}

/// Slots that whole quotas leave go to the largest remainders, one each.
fn round(turns: &mut [Turn], length: u32) {
    let free = length - turns.iter().map(|turn| turn.quota).sum::<u32>();
    turns.sort_unstable_by_key(|turn| (core::cmp::Reverse(turn.remainder), turn.seed, turn.slot));
    for turn in turns.iter_mut().take(free as usize) {
        turn.set(turn.quota + 1, 0, length);
    }
}

/// Members take turns in proportion to their quotas; at its turn a member takes the next free slot of its permutation.
/// Answers how many slots are left when all quotas are used up.
fn place(turns: &mut [Turn], table: &mut [u32]) -> usize {
    let length = table.len() as u32;
    // A sorted list is a heap.
    turns.sort_unstable_by_key(Turn::order);
    let mut left = table.len();
    while let Some(turn) = turns.first_mut() {
        if turn.time == u64::MAX {
            break;
        }
        while table[turn.next as usize] != 0 {
            turn.next = (turn.next + turn.skip) % length;
        }
        table[turn.next as usize] = turn.slot;
        turn.taken += 1;
        turn.schedule();
        sink(turns);
        left -= 1;
    }
    left
}

/// Moves the first entry of a heap to where it belongs.
fn sink(heap: &mut [Turn]) {
    let mut parent = 0;
    loop {
        let mut least = parent;
        for child in [2 * parent + 1, 2 * parent + 2] {
            if child < heap.len() && heap[child].order() < heap[least].order() {
                least = child;
            }
        }
        if least == parent {
            return;
        }
        heap.swap(parent, least);
        parent = least;
    }
}
