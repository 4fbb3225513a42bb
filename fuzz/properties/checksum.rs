//! An updated checksum is the checksum of the updated bytes. The fuzz target `checksum` and, with its corpus and random
//! bytes, the tests of gateway-common ask it.

use etherparse::checksum::Sum16BitWords;
use gateway_common::checksum;

/// The first byte says how many words of the rest change; these come once as they are and once inverted and swapped.
pub fn holds(data: &[u8]) {
    let Some((first, rest)) = data.split_first() else { return };
    let rest = &rest[..rest.len() & !1];
    let changed = (usize::from(*first) * 2).min(rest.len());
    let (old, kept) = rest.split_at(changed);
    let new: Vec<u8> = old.iter().rev().map(|byte| !byte).collect();

    let before = reference(old, kept);
    assert_eq!(!checksum::fold(sum(old) + sum(kept)), before);
    // All zeros are the one case that RFC 1624, equation 3, leaves open.
    if new.iter().chain(kept).any(|byte| *byte != 0) {
        assert_eq!(checksum::update(before, sum(old), sum(&new)), reference(&new, kept));
    }
}

fn sum(bytes: &[u8]) -> u64 {
    bytes.chunks_exact(2).map(|word| u64::from(u16::from_ne_bytes([word[0], word[1]]))).sum()
}

fn reference(one: &[u8], other: &[u8]) -> u16 {
    Sum16BitWords::new().add_slice(one).add_slice(other).ones_complement()
}
