//! Server names as the map SNI knows them.

use std::collections::HashSet;

use gateway_common::server_name::{
    EMPTY, LONGEST, LONGEST_LABEL, finish, hash, is_allowed, is_name, lower, step, wildcard_bit,
};
use gateway_common::{Address, SniKey};
use proptest::prelude::*;

/// What the kernel does: from the last byte to the first, with a look at the hash wherever a label begins.
fn suffixes(name: &[u8]) -> Vec<u64> {
    let mut found = vec![finish(EMPTY)];
    let mut walk = EMPTY;
    for byte in name.iter().rev() {
        if *byte == b'.' {
            found.push(finish(walk));
        }
        walk = step(walk, lower(*byte));
    }
    found.push(finish(walk));
    found
}

fn name() -> impl Strategy<Value = String> {
    proptest::collection::vec("[a-zA-Z0-9_-]{1,20}", 1..12).prop_map(|labels| labels.join("."))
}

proptest! {
    #[test]
    fn one_walk_has_the_hash_of_every_suffix(name in name()) {
        let name = name.as_bytes();
        let small = name.to_ascii_lowercase();
        let labels: Vec<&[u8]> = small.split(|byte| *byte == b'.').collect();
        let wanted: Vec<u64> = (0..=labels.len()).map(|n| hash(&labels[labels.len() - n..].join(&b'.'))).collect();
        prop_assert_eq!(suffixes(name), wanted);
    }

    #[test]
    fn a_changed_byte_changes_the_hash(name in "[a-z0-9.-]{1,253}", at: prop::sample::Index, by in 1_u8..) {
        let mut other = name.clone().into_bytes();
        other[at.index(name.len())] ^= by;
        prop_assert_ne!(hash(name.as_bytes()), hash(&other));
    }

    /// What a walk has so far says nothing of what comes: an exact name is not the wildcard of the same letters.
    #[test]
    fn a_name_and_a_wildcard_of_it_have_keys_of_their_own(name in name()) {
        let key = |port, wildcard| SniKey::new(Address::v4([198, 18, 0, 1]), port, wildcard, name.as_bytes());
        prop_assert_ne!(key(443, false), key(443, true));
        prop_assert_ne!(key(443, false), key(444, false));
        prop_assert_eq!(key(443, true).hash, hash(name.as_bytes()));
    }
}

/// Names as clusters have them: few letters, numbered, the same end.
#[test]
fn a_hundred_thousand_names_have_as_many_hashes() {
    let mut seen = HashSet::new();
    let mut add = |name: String| assert!(seen.insert(hash(name.as_bytes())), "{name} has the hash of another name");
    for i in 0..20_000 {
        add(format!("{i}.example.com"));
        add(format!("tenant-{i}.apps.example.com"));
        add(format!("{i:016b}"));
        add(format!("a.{i}.example.com"));
        add(format!("{i}a.example.com"));
    }
    let long = "x".repeat(LONGEST - 6);
    for i in 0..10_000 {
        add(format!("{i:06}{long}"));
    }
    assert_eq!(seen.len(), 110_000);
}

/// The lowest 32 bits and the highest: what a table takes of a hash.
#[test]
fn halves_of_the_hashes_spread_evenly() {
    const NAMES: usize = 1 << 16;
    for half in [0, 32] {
        let mut buckets = vec![0_u32; 1 << 10];
        for i in 0..NAMES {
            buckets[(hash(format!("{i}.example.com").as_bytes()) >> half & 0x3ff) as usize] += 1;
        }
        // 64 each, eight standard deviations.
        assert!(buckets.iter().all(|count| count.abs_diff(64) < 64), "{buckets:?}");
    }
}

#[test]
fn hash_of_nothing_is_the_name_of_everybody() {
    assert_eq!(hash(b""), finish(EMPTY));
    assert_ne!(hash(b"a"), hash(b""));
    assert_ne!(hash(b"."), hash(b""));
    assert_ne!(hash(&[0]), hash(b""));
}

#[test]
fn every_number_of_labels_has_a_bit_and_many_share_the_last() {
    let bits: HashSet<u32> = (0..32).map(wildcard_bit).collect();
    assert_eq!(bits.len(), 32);
    assert!((0..32).all(|labels| wildcard_bit(labels) == 1 << labels));
    assert!([32, 33, 127, u32::MAX].iter().all(|labels| wildcard_bit(*labels) == 1 << 31));
}

#[test]
fn lower_changes_letters_alone() {
    for byte in 0..=255 {
        assert_eq!(lower(byte), byte.to_ascii_lowercase());
    }
}

/// Upper case is not looked up, and dots are counted apart.
#[test]
fn names_are_of_letters_digits_hyphens_and_underscores() {
    let allowed: Vec<u8> = (0..=255).filter(|byte| is_allowed(*byte)).collect();
    assert_eq!(allowed, b"-0123456789_abcdefghijklmnopqrstuvwxyz");
}

/// RFC 1035 section 2.3.4: labels of 63 bytes at most, names of 253 without the root's.
#[test]
fn names_and_labels_have_their_lengths() {
    let label = |bytes: u32| "x".repeat(bytes as usize);
    let longest = label(LONGEST_LABEL);
    let whole = format!("{longest}.{longest}.{longest}.{}", label(61));
    let good = ["a", "A-b_9.example", &longest, &format!("a.{longest}"), &format!("{longest}.a"), &whole];
    for name in good {
        assert!(is_name(name.as_bytes()), "{name}");
    }
    assert_eq!(whole.len(), LONGEST);
    let longer = label(LONGEST_LABEL + 1);
    let (last, first) = (format!("a.{longer}"), format!("{longer}.a"));
    let bad = ["", ".", "a.", ".a", "a..b", "a b", "*.a", "\u{e}", &longer, &last, &first, &format!("{whole}x")];
    for name in bad {
        assert!(!is_name(name.as_bytes()), "{name}");
    }
}
