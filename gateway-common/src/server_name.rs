//! Server names (RFC 6066 section 3) as the map SNI knows them: hashed from the end, so that one walk over a name gives the
//! hash of every wildcard that could match it.

use crate::hash::mix;

/// Longest name, bytes (RFC 1035 section 3.1, without the root).
pub const LONGEST: usize = 253;
/// Longest label, bytes (RFC 1035 section 2.3.4).
pub const LONGEST_LABEL: u32 = 63;
/// Hash of the empty name: what follows the asterisk of the name of everybody.
pub const EMPTY: u64 = 0x5157_1ce5_0000_0001;

/// The hash with one more byte in front.
#[inline(always)]
pub const fn step(hash: u64, byte: u8) -> u64 {
    let h = (hash ^ byte as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    h ^ (h >> 29)
}

/// Hash of a name in lower case.
pub const fn hash(name: &[u8]) -> u64 {
    let mut hash = EMPTY;
    let mut i = name.len();
    while i > 0 {
        i -= 1;
        hash = step(hash, name[i]);
    }
    finish(hash)
}

/// What stands in SNI for the hash of a walk.
#[inline(always)]
pub const fn finish(hash: u64) -> u64 {
    mix(hash)
}

/// The bit of `Listener::wildcards` for a wildcard with so many labels after the asterisk.
#[inline(always)]
pub const fn wildcard_bit(labels: u32) -> u32 {
    1 << if labels < 31 { labels } else { 31 }
}

/// A letter in lower case, anything else as it is.
#[inline(always)]
pub const fn lower(byte: u8) -> u8 {
    byte | (((byte >= b'A') & (byte <= b'Z')) as u8) << 5
}

/// How long the label that a walk is in has become with one more byte, in lower case; 0: it has ended. `None`: nobody's name.
#[inline(always)]
pub const fn label(length: u32, byte: u8) -> Option<u32> {
    match byte {
        b'.' if length != 0 => Some(0),
        byte if is_allowed(byte) && length < LONGEST_LABEL => Some(length + 1),
        _ => None,
    }
}

/// Whether it can be somebody's name, whatever the case of its letters.
pub fn is_name(name: &[u8]) -> bool {
    let last = name.iter().rev().try_fold(0, |length, byte| label(length, lower(*byte)));
    name.len() <= LONGEST && last.is_some_and(|length| length != 0)
}

/// What a name in lower case is made of beside dots: letters, digits, hyphen, and the underscore that some use.
#[inline(always)]
pub const fn is_allowed(byte: u8) -> bool {
    matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_')
}
