//! Internet checksum arithmetic (RFC 1071, RFC 1624). Sums are of 16-bit words in network order as they lie in
//! memory; a checksum is the complement of a folded sum.

/// Folds a sum of 16- or 32-bit words to 16 bits.
#[inline(always)]
pub const fn fold(sum: u64) -> u16 {
    let sum = (sum & 0xffff_ffff) + (sum >> 32);
    let sum = (sum & 0xffff) + (sum >> 16);
    let sum = (sum & 0xffff) + (sum >> 16);
    let sum = (sum & 0xffff) + (sum >> 16);
    sum as u16
}

/// The checksum after words that sum up to `old` became words that sum up to `new` (RFC 1624, equation 3).
#[inline(always)]
pub const fn update(checksum: u16, old: u64, new: u64) -> u16 {
    !fold(!checksum as u64 + !fold(old) as u64 + fold(new) as u64)
}
