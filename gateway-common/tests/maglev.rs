//! Properties of the Maglev tables: shares, completeness, and how little a change moves.

use std::collections::{BTreeMap, BTreeSet};

use gateway_common::maglev::{LENGTHS, Member, NESTED_LENGTH, Turn, fill, length};
use gateway_common::slot;
use proptest::prelude::*;

/// A table and its nested table (empty if there is none).
#[derive(Clone, Debug, PartialEq, Eq)]
struct Tables {
    table: Vec<u32>,
    nested: Vec<u32>,
}

fn tables(members: &[Member], length: u16) -> Tables {
    let mut table = vec![0; length as usize];
    let mut nested = vec![0; NESTED_LENGTH as usize];
    let used = fill(members, &mut table, &mut nested, &mut vec![Turn::default(); members.len()]);
    nested.truncate(used as usize);
    Tables { table, nested }
}

/// A member with the identity that its slot value stands for.
fn member(slot: u32, weight: u64) -> Member {
    // Any spread will do; neighbours must not have neighbouring seeds.
    Member { slot, seed: gateway_common::hash::mix(u64::from(slot) + 1), weight }
}

fn equal(members: u32) -> Vec<Member> {
    (1..=members).map(|slot| member(slot, 1)).collect()
}

impl Tables {
    /// What each value gets of all connections.
    fn shares(&self) -> BTreeMap<u32, f64> {
        let mut shares = BTreeMap::new();
        let one = 1.0 / self.table.len() as f64;
        for value in &self.table {
            *shares.entry(*value).or_insert(0.0) += one;
        }
        if let Some(left) = shares.remove(&slot::NESTED) {
            let one = left / self.nested.len() as f64;
            for value in &self.nested {
                *shares.entry(*value).or_insert(0.0) += one;
            }
        }
        shares
    }

    /// What a single nested slot is worth, or of the table if there is no nested one: no share is off by more.
    fn resolution(&self) -> f64 {
        if self.nested.is_empty() {
            return 1.0 / self.table.len() as f64;
        }
        let left = self.table.iter().filter(|value| **value == slot::NESTED).count();
        left as f64 / self.table.len() as f64 / self.nested.len().max(1) as f64
    }

    /// The part of all connections that goes elsewhere with `other`.
    fn moved(&self, other: &Tables) -> f64 {
        assert_eq!(self.table.len(), other.table.len());
        let at = |tables: &Tables, i: usize, j: usize| match tables.table[i] {
            slot::NESTED => tables.nested[j * tables.nested.len() / 4096],
            value => value,
        };
        let moved: f64 = (0..self.table.len())
            .map(|i| {
                if self.table[i] != slot::NESTED && other.table[i] != slot::NESTED {
                    return f64::from(u8::from(self.table[i] != other.table[i]));
                }
                (0..4096).filter(|j| at(self, i, *j) != at(other, i, *j)).count() as f64 / 4096.0
            })
            .sum();
        moved / self.table.len() as f64
    }
}

#[track_caller]
fn assert_shares(members: &[Member], tables: &Tables) {
    let total: f64 = members.iter().map(|m| m.weight as f64).sum();
    let shares = tables.shares();
    let resolution = tables.resolution() + 1e-9;
    for member in members {
        let wanted = member.weight as f64 / total;
        let got = shares.get(&member.slot).copied().unwrap_or(0.0);
        assert!(
            (got - wanted).abs() <= resolution,
            "slot {} of weight {} gets {got}, wanted {wanted} to {resolution}",
            member.slot,
            member.weight
        );
        // Up to 256 members, rounding to whole slots is for those that it costs 2 % at the most.
        if tables.nested.is_empty() && members.len() <= 256 {
            assert!((got - wanted).abs() <= wanted * 0.02, "slot {}: {got}, wanted {wanted}", member.slot);
        }
        if member.weight == 0 {
            assert_eq!(got, 0.0, "weight 0 of slot {}", member.slot);
        }
    }
}

#[track_caller]
fn assert_complete(members: &[Member], tables: &Tables) {
    let known: BTreeSet<u32> = members.iter().filter(|m| m.weight > 0).map(|m| m.slot).collect();
    for value in &tables.table {
        assert!(known.contains(value) || (*value == slot::NESTED && !tables.nested.is_empty()), "{value} in the table");
    }
    for value in &tables.nested {
        assert!(known.contains(value), "{value} in the nested table");
    }
}

#[test]
fn equal_members_share_evenly_at_every_length() {
    for members in [1, 2, 3, 10, 16, 17, 64, 65, 256, 500, 1_000, 3_000] {
        let members = equal(members);
        let tables = tables(&members, length(members.len()));
        assert_complete(&members, &tables);
        assert_shares(&members, &tables);
        let shares = tables.shares();
        let (least, most) = shares.values().fold((f64::MAX, 0.0_f64), |(l, m), s| (l.min(*s), m.max(*s)));
        // One slot more or less, of 64 or, beyond a thousand members, of fewer.
        let bound = if members.len() <= 1_000 { 1.02 } else { 1.05 };
        assert!(most / least < bound, "{} members: from {least} to {most}", members.len());
    }
}

#[test]
fn length_gives_every_member_some_slots() {
    for members in [1, 16, 17, 64, 65, 256, 257, 1_000] {
        assert!(LENGTHS.iter().any(|(length_of, _)| *length_of == length(members)));
        assert!(usize::from(length(members)) >= 63 * members);
    }
}

#[test]
fn weights_are_honoured_to_the_last_millionth() {
    for weights in [&[1, 999_999][..], &[0, 1], &[0, 0, 7, 0], &[90, 10], &[1, 2, 3, 4, 5], &[50, 50, 0]] {
        let members: Vec<Member> = weights.iter().zip(1..).map(|(weight, slot)| member(slot, *weight)).collect();
        let tables = tables(&members, length(members.len()));
        assert_complete(&members, &tables);
        assert_shares(&members, &tables);
    }
    let tables = tables(&[member(1, 1), member(2, 999_999)], 1021);
    let rare = tables.shares()[&1];
    assert!((0.9e-6..1.1e-6).contains(&rare), "weight 1 of 1,000,000 gets {rare}");
}

/// The largest weights Kubernetes has, and more of them than 64 bits can sum up.
#[test]
fn huge_weights_do_not_overflow() {
    for weight in [u64::from(u32::MAX), u64::MAX / 2, u64::MAX] {
        let members: Vec<Member> = (1..=40).map(|slot| member(slot, weight - u64::from(slot))).collect();
        let tables = tables(&members, 1021);
        assert_complete(&members, &tables);
        assert_shares(&members, &tables);
    }
}

#[test]
fn without_weight_the_table_is_empty() {
    for members in [vec![], vec![member(1, 0)], vec![member(1, 0), member(2, 0)]] {
        let tables = tables(&members, 1021);
        assert!(tables.table.iter().all(|value| *value == 0) && tables.nested.is_empty());
    }
}

/// Refused shares are members like any other.
#[test]
fn special_slots_have_their_share() {
    let members = [member(7, 1), member(slot::INVALID, 2), member(slot::EMPTY, 1)];
    let tables = tables(&members, 1021);
    assert_complete(&members, &tables);
    assert_shares(&members, &tables);
}

/// Adding one of N moves what the new one gets, 1/(N + 1), and little else; so does taking one away.
#[test]
fn a_member_more_or_less_moves_its_share() {
    for n in [1, 2, 3, 5, 9, 20, 50, 63, 200, 1_000] {
        let length = length(n as usize + 1);
        let (few, many) = (tables(&equal(n), length), tables(&equal(n + 1), length));
        about(n + 1, few.moved(&many));
    }
    for n in [3, 10, 60, 100] {
        let members = equal(n);
        let length = length(n as usize);
        let before = tables(&members, length);
        for gone in [0, n as usize / 2, n as usize - 1] {
            let mut rest = members.clone();
            rest.remove(gone);
            about(n, before.moved(&tables(&rest, length)));
        }
    }
}

/// A set of 16 slots a member moves up to a tenth that it need not: left-over slots are shared anew.
#[track_caller]
fn about(members: u32, moved: f64) {
    let wanted = 1.0 / f64::from(members);
    assert!(moved >= wanted * 0.9, "{members} members: only {moved} moves, ideal {wanted}");
    assert!(moved <= wanted * 1.2 + 0.1, "{members} members: {moved} moves, ideal {wanted}");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_weights_give_their_shares(
        weights in proptest::collection::vec(prop_oneof![0_u64..10, 0_u64..1_000_000, any::<u64>()], 1..40)
    ) {
        let members: Vec<Member> = weights.iter().zip(1..).map(|(weight, slot)| member(slot, *weight)).collect();
        prop_assume!(weights.iter().any(|weight| *weight > 0));
        let tables = tables(&members, 1021);
        assert_complete(&members, &tables);
        assert_shares(&members, &tables);
    }

    /// Where a member stands in the list says nothing.
    #[test]
    fn order_of_members_does_not_matter(
        members in Just((1..=30).map(|slot| member(slot, u64::from(slot % 7))).collect::<Vec<_>>()).prop_shuffle()
    ) {
        let mut sorted = members.clone();
        sorted.sort_by_key(|m| m.slot);
        prop_assert_eq!(tables(&members, 1021), tables(&sorted, 1021));
    }
}
