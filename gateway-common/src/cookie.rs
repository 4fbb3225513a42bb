//! SYN cookies that carry the client's TCP options.
//!
//! The kernel's cookies (`bpf_tcp_raw_gen_syncookie_ipv4`) keep the MSS and nothing else; without timestamps the window scale
//! would have to live in a map that a flood empties. Here the 32 bits are the options (8) and a keyed hash (24) of the
//! connection, the client's initial sequence number, the options and the time. Eight bits of the hash leave the client's
//! sequence number out: they tell a segment that only came out of order from one that belongs to nothing.

use crate::{CookieKey, FlowKey};

/// How long a cookie is given out, as a shift of ns: 68.7 s.
const PERIOD: u32 = 36;
/// A cookie of the period before is taken in the first quarter of a period.
const GRACE: u32 = 34;

/// Scale of the windows that the gateway offers: 512-byte steps, up to 32 MiB.
pub const WINDOW_SCALE: u8 = 9;
/// Window scales above this mean this (RFC 7323 section 2.3).
const LARGEST_SCALE: u8 = 14;
/// No window scaling.
const NO_SCALE: u8 = 15;

const MSS_V4: [u16; 8] = [536, 1_220, 1_340, 1_380, 1_400, 1_432, 1_460, 8_940];
const MSS_V6: [u16; 8] = [536, 1_220, 1_320, 1_360, 1_380, 1_412, 1_440, 8_920];

/// What a SYN offered, in the bits that a cookie has for it: 3 of MSS, 1 of SACK-permitted, 4 of window scale.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options(pub u8);

impl Options {
    /// `mss`: 0 if there was none. The MSS kept is the largest of eight that is not larger.
    #[inline(always)]
    pub fn new(v6: bool, mss: u16, sack: bool, scale: Option<u8>) -> Options {
        let table = if v6 { &MSS_V6 } else { &MSS_V4 };
        let mut index = 0;
        let mut i = 1;
        while i < 8 {
            index += (mss >= table[i]) as u8;
            i += 1;
        }
        let scale = match scale {
            Some(scale) if scale > LARGEST_SCALE => LARGEST_SCALE,
            Some(scale) => scale,
            None => NO_SCALE,
        };
        Options(index << 5 | (sack as u8) << 4 | scale)
    }

    #[inline(always)]
    pub fn mss(self, v6: bool) -> u16 {
        let table = if v6 { &MSS_V6 } else { &MSS_V4 };
        table[(self.0 >> 5) as usize]
    }

    #[inline(always)]
    pub fn sack(self) -> bool {
        self.0 & 0x10 != 0
    }

    #[inline(always)]
    pub fn scale(self) -> Option<u8> {
        let scale = self.0 & 0xf;
        if scale == NO_SCALE { None } else { Some(scale) }
    }
}

/// What a cookie proves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Proof {
    /// The client has seen the SYN-ACK and goes on right after its SYN.
    Client(Options),
    /// It may have, but this is not its first byte.
    Later,
    Nothing,
}

/// The sequence number of the SYN-ACK. `now`: ns of a clock that does not go back.
#[inline(always)]
pub fn make(key: &CookieKey, client: &FlowKey, client_isn: u32, options: Options, now: u64) -> u32 {
    let (of_tuple, whole) = hashes(key, client, client_isn, options, now >> PERIOD);
    (options.0 as u32) << 24 | of_tuple << 16 | whole
}

/// What a segment proves that acknowledges `cookie` and follows `client_isn`.
#[inline(always)]
pub fn check(key: &CookieKey, client: &FlowKey, client_isn: u32, cookie: u32, now: u64) -> Proof {
    let proof = check_period(key, client, client_isn, cookie, now >> PERIOD);
    if matches!(proof, Proof::Client(_)) || now >> GRACE & 3 != 0 {
        return proof;
    }
    // One of 256 cookies of the period before has the connection's bits of this one.
    match check_period(key, client, client_isn, cookie, (now >> PERIOD).wrapping_sub(1)) {
        Proof::Nothing => proof,
        before => before,
    }
}

#[inline(always)]
fn check_period(key: &CookieKey, client: &FlowKey, client_isn: u32, cookie: u32, period: u64) -> Proof {
    let options = Options((cookie >> 24) as u8);
    let (of_tuple, whole) = hashes(key, client, client_isn, options, period);
    if of_tuple != cookie >> 16 & 0xff {
        Proof::Nothing
    } else if whole != cookie & 0xffff {
        Proof::Later
    } else {
        Proof::Client(options)
    }
}

/// 8 bits of the connection, and 16 of all.
#[inline(always)]
fn hashes(key: &CookieKey, client: &FlowKey, client_isn: u32, options: Options, period: u64) -> (u32, u32) {
    let [s0, s1] = client.source.words();
    let [d0, d1] = client.destination.words();
    let ports = (client.source_port as u64) << 48 | (client.destination_port as u64) << 32 | period & 0xffff_ffff;
    let mut state = Sip::new(key);
    state.word(s0);
    state.word(s1);
    state.word(d0);
    state.word(d1);
    state.word(ports);
    let mut whole = state;
    let of_tuple = state.finish() as u32 & 0xff;
    whole.word(1 << 63 | (options.0 as u64) << 32 | client_isn as u64);
    (of_tuple, whole.finish() as u32 & 0xffff)
}

/// SipHash-1-3 (Aumasson, Bernstein 2012), of whole words.
#[derive(Clone, Copy)]
struct Sip {
    v: [u64; 4],
}

impl Sip {
    #[inline(always)]
    fn new(key: &CookieKey) -> Sip {
        let [k0, k1] = key.words;
        Sip {
            v: [
                k0 ^ 0x736f_6d65_7073_6575,
                k1 ^ 0x646f_7261_6e64_6f6d,
                k0 ^ 0x6c79_6765_6e65_7261,
                k1 ^ 0x7465_6462_7974_6573,
            ],
        }
    }

    #[inline(always)]
    fn word(&mut self, word: u64) {
        self.v[3] ^= word;
        self.round();
        self.v[0] ^= word;
    }

    #[inline(always)]
    fn finish(mut self) -> u64 {
        self.v[2] ^= 0xff;
        self.round();
        self.round();
        self.round();
        self.v[0] ^ self.v[1] ^ self.v[2] ^ self.v[3]
    }

    #[inline(always)]
    fn round(&mut self) {
        let [mut a, mut b, mut c, mut d] = self.v;
        a = a.wrapping_add(b);
        c = c.wrapping_add(d);
        b = b.rotate_left(13) ^ a;
        d = d.rotate_left(16) ^ c;
        a = a.rotate_left(32).wrapping_add(d);
        c = c.wrapping_add(b);
        d = d.rotate_left(21) ^ a;
        b = b.rotate_left(17) ^ c;
        c = c.rotate_left(32);
        self.v = [a, b, c, d];
    }
}

#[cfg(test)]
mod tests {
    use core::hash::Hasher;

    use proptest::prelude::*;
    use siphasher::sip::SipHasher13;

    use super::*;

    proptest! {
        /// With the last block of the specification, which holds the length, it is SipHash-1-3.
        #[test]
        fn sip_is_siphash_1_3(words: [u64; 2], message in proptest::collection::vec(any::<u64>(), 0..9)) {
            let mut theirs = SipHasher13::new_with_keys(words[0], words[1]);
            let mut ours = Sip::new(&CookieKey { words });
            for word in &message {
                theirs.write(&word.to_le_bytes());
                ours.word(*word);
            }
            ours.word((message.len() as u64 * 8) << 56);
            prop_assert_eq!(ours.finish(), theirs.finish());
        }
    }
}
