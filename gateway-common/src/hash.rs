//! The hash that picks a slot. Every node and every program uses the same, so that a connection that moves to
//! another node (ECMP) meets the same backend there.

use crate::FlowKey;

/// Finalizer of splitmix64 (Steele, Lea, Flood 2014): every input bit reaches every output bit.
#[inline(always)]
pub const fn mix(mut x: u64) -> u64 {
    x ^= x >> 30;
    x = x.wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x ^= x >> 27;
    x = x.wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

/// Hash of a 5-tuple. The low 32 bits pick the slot, the high 32 bits the slot of the nested table.
#[inline(always)]
pub fn flow(key: &FlowKey) -> u64 {
    let [s0, s1] = key.source.words();
    let [d0, d1] = key.destination.words();
    let ports = (key.source_port as u64) << 32 | (key.destination_port as u64) << 8 | key.protocol as u64;
    let h = mix(s0 ^ 0x9e37_79b9_7f4a_7c15);
    let h = mix(h ^ s1);
    let h = mix(h ^ d0);
    let h = mix(h ^ d1);
    mix(h ^ ports)
}

/// Maps 32 random bits onto `0..n` without a division (Lemire 2019).
#[inline(always)]
pub const fn reduce(bits: u32, n: u32) -> u32 {
    ((bits as u64 * n as u64) >> 32) as u32
}
