//! Checksums against another implementation, and the hash that picks.

use etherparse::checksum::Sum16BitWords;
use gateway_common::{Address, FlowKey, checksum, hash};
use proptest::prelude::*;

/// The sum of the 16-bit words as they lie in memory, of an even number of bytes.
fn sum(bytes: &[u8]) -> u64 {
    bytes.chunks_exact(2).map(|word| u64::from(u16::from_ne_bytes([word[0], word[1]]))).sum()
}

fn reference(bytes: &[u8]) -> u16 {
    Sum16BitWords::new().add_slice(bytes).ones_complement()
}

proptest! {
    #[test]
    fn complement_of_the_fold_is_the_checksum(words in proptest::collection::vec(any::<[u8; 2]>(), 1..800)) {
        let bytes = words.concat();
        prop_assert_eq!(!checksum::fold(sum(&bytes)), reference(&bytes));
    }

    /// RFC 1624: what `update` answers is what the changed bytes sum up to.
    #[test]
    fn update_equals_recomputation(
        rest in proptest::collection::vec(any::<[u8; 2]>(), 0..20),
        old in proptest::collection::vec(any::<[u8; 2]>(), 1..20),
        new in proptest::collection::vec(any::<[u8; 2]>(), 1..20),
    ) {
        let (rest, old, new) = (rest.concat(), old.concat(), new.concat());
        let before = reference(&[&rest[..], &old].concat());
        let after = [&rest[..], &new].concat();
        // All zeros have no other word that sums up to the same: the one case that equation 3 leaves open.
        prop_assume!(after.iter().any(|byte| *byte != 0));
        prop_assert_eq!(checksum::update(before, sum(&old), sum(&new)), reference(&after));
    }

    #[test]
    fn fold_takes_sums_of_longer_words(words in proptest::collection::vec(any::<u32>(), 1..400)) {
        let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_ne_bytes()).collect();
        let long: u64 = words.iter().map(|word| u64::from(*word)).sum();
        prop_assert_eq!(checksum::fold(long), checksum::fold(sum(&bytes)));
    }

    #[test]
    fn reduce_stays_in_range(bits: u32, n in 1_u32..) {
        prop_assert!(hash::reduce(bits, n) < n);
    }

    /// Every field counts: a changed bit changes about half of the hash.
    #[test]
    fn any_changed_bit_changes_the_hash(
        source: [u8; 16], destination: [u8; 16], ports: (u16, u16), protocol: u8, bit in 0_usize..296
    ) {
        let key = |bytes: [u8; 37]| FlowKey {
            source: Address { octets: bytes[..16].try_into().expect("16 bytes") },
            destination: Address { octets: bytes[16..32].try_into().expect("16 bytes") },
            source_port: u16::from_be_bytes([bytes[32], bytes[33]]),
            destination_port: u16::from_be_bytes([bytes[34], bytes[35]]),
            protocol: bytes[36],
            ..FlowKey::default()
        };
        let mut bytes = [0; 37];
        bytes[..16].copy_from_slice(&source);
        bytes[16..32].copy_from_slice(&destination);
        bytes[32..34].copy_from_slice(&ports.0.to_be_bytes());
        bytes[34..36].copy_from_slice(&ports.1.to_be_bytes());
        bytes[36] = protocol;
        let before = hash::flow(&key(bytes));
        bytes[bit / 8] ^= 1 << (bit % 8);
        let changed = (before ^ hash::flow(&key(bytes))).count_ones();
        prop_assert!((8..=56).contains(&changed), "{} of 64 bits", changed);
    }
}

/// Ports that a client counts up spread evenly over the slots, by the low bits and by the high ones.
#[test]
fn neighbouring_ports_spread_evenly() {
    const SLOTS: u32 = 16;
    let mut counts = [[0_u32; SLOTS as usize]; 2];
    for port in 1_024..=u16::MAX {
        let key = FlowKey {
            source: Address::v4([198, 18, 0, 10]),
            destination: Address::v4([198, 18, 2, 1]),
            source_port: port,
            destination_port: 80,
            protocol: 6,
            ..FlowKey::default()
        };
        let hash = hash::flow(&key);
        counts[0][hash::reduce(hash as u32, SLOTS) as usize] += 1;
        counts[1][hash::reduce((hash >> 32) as u32, SLOTS) as usize] += 1;
    }
    let mean = (65_536.0 - 1_024.0) / f64::from(SLOTS);
    for count in counts.iter().flatten() {
        assert!((f64::from(*count) - mean).abs() < 5.0 * mean.sqrt(), "{counts:?}");
    }
}

/// Nodes of different versions must pick alike: the hash is part of the protocol between them.
#[cfg(target_endian = "little")]
#[test]
fn hash_does_not_change() {
    let key = FlowKey {
        source: Address::v4([198, 18, 0, 10]),
        destination: Address::v4([198, 18, 2, 1]),
        source_port: 40_000,
        destination_port: 80,
        protocol: 6,
        ..FlowKey::default()
    };
    // By a second implementation, in Python.
    assert_eq!(hash::flow(&key), 11_014_229_943_992_931_895);
}
