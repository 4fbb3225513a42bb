//! Maglev tables (Eisenbud et al., NSDI 2016) with exact weights.
//!
//! A weight finer than a slot is not rounded away: every member gets the whole slots its weight is worth, and the
//! slots left over point to a nested table in which the members share by their remainders. Two lookups at the most
//! give a resolution of 1 in `length * nested`, about 1 in 10^6 for the smallest table.

use crate::{hash::mix, slot};

/// Table lengths: primes, about 16 slots or more a member.
pub const LENGTHS: [u16; 3] = [1021, 16_381, 65_521];
/// Slots of a nested table.
pub const NESTED_LENGTH: u16 = 1021;

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
    if members <= 64 {
        LENGTHS[0]
    } else if members <= 1024 {
        LENGTHS[1]
    } else {
        LENGTHS[2]
    }
}

/// Where a member's permutation stands.
#[derive(Clone, Copy, Debug, Default)]
pub struct Turn {
    quota: u32,
    next: u32,
    skip: u32,
    remainder: u64,
    /// Slots it is behind, in units of the sum of quotas.
    credit: u64,
}

impl Turn {
    fn new(seed: u64, quota: u32, remainder: u64, length: u32) -> Turn {
        Turn {
            quota,
            next: (mix(seed) % length as u64) as u32,
            skip: (mix(seed ^ 0x5851_f42d_4c95_7f2d) % (length as u64 - 1)) as u32 + 1,
            remainder,
            credit: 0,
        }
    }
}

/// Fills `table` and, when weights do not come out even, `nested`; says whether `nested` is needed.
///
/// `turns` is working memory for `members.len() + 1` entries. `table` is filled with 0 when all weights are 0.
pub fn fill(members: &[Member], table: &mut [u32], nested: &mut [u32], turns: &mut [Turn]) -> bool {
    let total: u128 = members.iter().map(|m| m.weight as u128).sum();
    table.fill(0);
    if total == 0 {
        return false;
    }
    let turns = &mut turns[..=members.len()];
    let mut left = table.len() as u32;
    for (turn, member) in turns.iter_mut().zip(members) {
        let exact = member.weight as u128 * table.len() as u128;
        let quota = (exact / total) as u32;
        // A remainder is a fraction of a slot, kept as parts of 2^32.
        let remainder = ((exact % total) << 32) / total;
        left -= quota;
        *turn = Turn::new(member.seed, quota, remainder as u64, table.len() as u32);
    }
    turns[members.len()] = Turn::new(0x6e65_7374, left, 0, table.len() as u32);
    place(turns, table, |i| members.get(i).map_or(slot::NESTED, |m| m.slot));
    if left == 0 {
        return false;
    }
    let sum: u64 = turns[..members.len()].iter().map(|t| t.remainder).sum();
    let mut free = nested.len() as u32;
    for (turn, member) in turns.iter_mut().zip(members) {
        let exact = turn.remainder as u128 * nested.len() as u128;
        let quota = (exact / sum as u128) as u32;
        free -= quota;
        *turn = Turn::new(member.seed, quota, (exact % sum as u128) as u64, nested.len() as u32);
    }
    // What is left of the nested table goes to the largest remainders.
    while free > 0 {
        let Some(largest) = turns[..members.len()].iter_mut().max_by_key(|t| t.remainder) else { break };
        largest.quota += 1;
        largest.remainder = 0;
        free -= 1;
    }
    nested.fill(0);
    place(&mut turns[..members.len()], nested, |i| members[i].slot);
    true
}

/// Members take turns in proportion to their quotas; at its turn a member takes the next free slot of its permutation.
fn place(turns: &mut [Turn], table: &mut [u32], value: impl Fn(usize) -> u32) {
    let length = table.len() as u32;
    let highest = turns.iter().map(|t| t.quota).max().unwrap_or(0) as u64;
    let mut free = turns.iter().map(|t| t.quota).sum::<u32>();
    while free > 0 {
        for (i, turn) in turns.iter_mut().enumerate() {
            turn.credit += turn.quota as u64;
            if turn.quota == 0 || turn.credit < highest {
                continue;
            }
            turn.credit -= highest;
            if free == 0 {
                break;
            }
            while table[turn.next as usize] != 0 {
                turn.next = (turn.next + turn.skip) % length;
            }
            table[turn.next as usize] = value(i);
            free -= 1;
        }
    }
}
