//! Any members make tables that are complete and give each his share. The fuzz target `maglev` and, with its corpus and
//! random bytes, the tests of gateway-common ask it.

use gateway_common::maglev::{Member, NESTED_LENGTH, Turn, fill, length};
use gateway_common::slot;

/// Each nine bytes are a member: how far its weight is shifted, and the weight.
pub fn holds(data: &[u8]) {
    let members: Vec<Member> = data
        .chunks_exact(9)
        .take(200)
        .zip(1..)
        .map(|(bytes, slot)| {
            let weight = bytes[1..].iter().fold(0, |weight, byte| weight << 8 | u64::from(*byte));
            Member { slot, seed: u64::from(slot) * 0x9e37_79b9, weight: weight >> (bytes[0] & 63) }
        })
        .collect();
    let length = usize::from(length(members.len()));
    let (mut table, mut nested) = (vec![0; length], vec![0; NESTED_LENGTH as usize]);
    let used = fill(&members, &mut table, &mut nested, &mut vec![Turn::default(); members.len()]) as usize;
    let nested = &nested[..used];

    let total: u128 = members.iter().map(|member| u128::from(member.weight)).sum();
    if total == 0 {
        assert!(used == 0 && table.iter().all(|value| *value == 0));
        return;
    }
    let left = table.iter().filter(|value| **value == slot::NESTED).count();
    assert_eq!(left == 0, used == 0, "{left} slots are nested, and the nested table has {used}");
    let mut counts = vec![(0_u64, 0_u64); members.len() + 1];
    for value in table.iter().filter(|value| **value != slot::NESTED) {
        counts[*value as usize].0 += 1;
    }
    for value in nested {
        counts[*value as usize].1 += 1;
    }
    assert_eq!(counts[0], (0, 0), "an unset slot");
    for (member, (whole, finer)) in members.iter().zip(&counts[1..]) {
        let finer = if used == 0 { 0.0 } else { *finer as f64 * left as f64 / used as f64 };
        let wanted = member.weight as f64 * length as f64 / total as f64;
        // Off by one slot at the most: a nested one, or one of the table where that is 2 % of the share or less.
        let bound = if used == 0 { f64::min(1.0, wanted * 0.02) } else { left as f64 / used as f64 } + 1e-3;
        assert!((*whole as f64 + finer - wanted).abs() <= bound, "{whole} + {finer} slots for {wanted}");
        assert!(member.weight > 0 || (*whole == 0 && finer == 0.0), "weight 0 has slots");
    }
}
