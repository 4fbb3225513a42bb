//! SYN cookies: what they carry, how long they hold, and what it takes to forge one.

use std::ops::Range;

use gateway_common::cookie::{Options, Proof, check, make};
use gateway_common::{Address, CookieKey, FlowKey, protocol};
use proptest::prelude::*;

/// How long a cookie is given out, and how long after that it is still taken, ns.
const PERIOD: u64 = 1 << 36;
const GRACE: u64 = 1 << 34;

const MSS: [[u16; 8]; 2] =
    [[536, 1_220, 1_340, 1_380, 1_400, 1_432, 1_460, 8_940], [536, 1_220, 1_320, 1_360, 1_380, 1_412, 1_440, 8_920]];

/// A client's SYN, and the time at which it comes: all that a cookie is made from.
#[derive(Clone, Copy, Debug)]
struct Syn {
    key: CookieKey,
    client: FlowKey,
    isn: u32,
    options: Options,
    now: u64,
}

impl Syn {
    fn cookie(&self) -> u32 {
        make(&self.key, &self.client, self.isn, self.options, self.now)
    }

    fn proof(&self, isn: u32, cookie: u32, now: u64) -> Proof {
        check(&self.key, &self.client, isn, cookie, now)
    }

    /// The first moment of the next period.
    fn end(&self) -> u64 {
        (self.now / PERIOD + 1) * PERIOD
    }
}

prop_compose! {
    fn syn()(
        words: [u64; 2], source: [u8; 16], destination: [u8; 16], ports: (u16, u16), isn: u32, options: u8,
        now in prop_oneof![0..2 * PERIOD, 0..u64::MAX / 2],
    ) -> Syn {
        let client = FlowKey {
            source: Address { octets: source },
            destination: Address { octets: destination },
            source_port: ports.0,
            destination_port: ports.1,
            protocol: protocol::TCP,
            ..FlowKey::default()
        };
        Syn { key: CookieKey { words }, client, isn, options: Options(options), now }
    }
}

/// SYNs that are all different, without proptest's cost for each.
fn syns(range: Range<u64>) -> impl Iterator<Item = Syn> {
    range.map(|i| Syn {
        key: CookieKey { words: [0x0706_0504_0302_0100, 0x0f0e_0d0c_0b0a_0908] },
        client: FlowKey {
            source: Address::v4([198, 18, (i >> 24) as u8, (i >> 16) as u8]),
            destination: Address::v4([198, 19, 0, 1]),
            source_port: i as u16,
            destination_port: 443,
            protocol: protocol::TCP,
            ..FlowKey::default()
        },
        isn: 77,
        options: Options(0xb7),
        now: GRACE * 3,
    })
}

proptest! {
    #[test]
    fn its_own_cookie_proves_the_client_and_brings_its_options_back(syn in syn(), later in 0..PERIOD + GRACE) {
        let until = syn.end() + GRACE;
        let proof = syn.proof(syn.isn, syn.cookie(), syn.now + later);
        if syn.now + later < until {
            prop_assert_eq!(proof, Proof::Client(syn.options));
        } else {
            prop_assert_ne!(proof, Proof::Client(syn.options));
        }
    }

    /// To the nanosecond, at both ends.
    #[test]
    fn a_cookie_ends_a_quarter_of_a_period_after_its_own(syn in syn()) {
        let cookie = syn.cookie();
        prop_assert_eq!(syn.proof(syn.isn, cookie, syn.end() - 1), Proof::Client(syn.options));
        prop_assert_eq!(syn.proof(syn.isn, cookie, syn.end() + GRACE - 1), Proof::Client(syn.options));
        prop_assert_ne!(syn.proof(syn.isn, cookie, syn.end() + GRACE), Proof::Client(syn.options));
        prop_assert_ne!(syn.proof(syn.isn, cookie, syn.end() + PERIOD), Proof::Client(syn.options));
        // Nor before it was made.
        if syn.now >= PERIOD {
            prop_assert_ne!(syn.proof(syn.isn, cookie, syn.end() - PERIOD - 1), Proof::Client(syn.options));
        }
    }

    /// The sequence number alone is wrong where a segment overtakes the first one.
    #[test]
    fn a_segment_out_of_order_is_known_by_the_connection(syn in syn(), ahead in 1_u32..) {
        let proof = syn.proof(syn.isn.wrapping_add(ahead), syn.cookie(), syn.now);
        // One of 65,536 has the same 16 bits.
        prop_assert!(proof == Proof::Later || proof == Proof::Client(syn.options));
    }

    #[test]
    fn every_bit_of_what_it_is_made_from_changes_the_cookie(syn in syn(), bit in 0_usize..448) {
        let mut other = syn;
        let (word, of_word) = (bit / 8, 1 << (bit % 8));
        match word {
            0..16 => other.client.source.octets[word] ^= of_word,
            16..32 => other.client.destination.octets[word - 16] ^= of_word,
            32..34 => other.client.source_port ^= 1 << (bit % 16),
            34..36 => other.client.destination_port ^= 1 << (bit % 16),
            36..40 => other.isn ^= 1 << (bit % 32),
            40..56 => other.key.words[bit / 64 % 2] ^= 1 << (bit % 64),
            _ => unreachable!("448 bits"),
        }
        // 24 bits (16, if only the sequence number changed) of two hashes are the same once in 2^24 (2^16): too seldom to see.
        prop_assert_ne!(syn.cookie(), other.cookie());
        prop_assert_eq!(syn.cookie() >> 24, other.cookie() >> 24, "the options lie open");
    }

    #[test]
    fn a_changed_cookie_proves_nothing_of_the_client(syn in syn(), bit in 0_u32..32) {
        let proof = syn.proof(syn.isn, syn.cookie() ^ 1 << bit, syn.end() - 1);
        match bit {
            0..16 => prop_assert_eq!(proof, Proof::Later),
            16..24 => prop_assert_eq!(proof, Proof::Nothing),
            _ => prop_assert!(!matches!(proof, Proof::Client(_)), "options that were not offered"),
        }
    }

    #[test]
    fn options_come_back_as_they_were_offered(v6: bool, mss: u16, sack: bool, scale in proptest::option::of(any::<u8>())) {
        let options = Options::new(v6, mss, sack, scale);
        prop_assert_eq!(options.sack(), sack);
        // RFC 7323 section 2.3: more than 14 means 14.
        prop_assert_eq!(options.scale(), scale.map(|scale| scale.min(14)));
        // The largest of the table that the client can take; without an offer, the smallest that is.
        let fits = MSS[usize::from(v6)].iter().rev().find(|known| **known <= mss);
        prop_assert_eq!(options.mss(v6), *fits.unwrap_or(&536));
    }
}

/// Also of the one in 256 whose eight bits of the connection are the same in the next period.
#[test]
fn every_cookie_is_taken_in_the_quarter_after_its_period() {
    for syn in syns(0..1 << 14) {
        assert_eq!(syn.proof(syn.isn, syn.cookie(), syn.end()), Proof::Client(syn.options), "{syn:?}");
    }
}

#[test]
fn options_use_every_value_of_their_bits() {
    for v6 in [false, true] {
        let mut seen = [false; 256];
        for mss in MSS[usize::from(v6)] {
            for sack in [false, true] {
                for scale in (0..15).map(Some).chain([None]) {
                    let options = Options::new(v6, mss, sack, scale);
                    assert_eq!((options.mss(v6), options.sack(), options.scale()), (mss, sack, scale));
                    assert!(
                        !std::mem::replace(&mut seen[usize::from(options.0)], true),
                        "{options:?} means two things"
                    );
                }
            }
        }
        assert!(seen.iter().all(|seen| *seen), "a value without a meaning");
    }
}

/// The number of a period has 32 bits in the hash: 9,000 years, so that only the arithmetic must not care.
#[test]
fn periods_come_round() {
    for (made, checked) in
        [(u64::MAX - 1, u64::MAX), (0, 0), (0, GRACE - 1), (PERIOD * (1 << 27) - 1, PERIOD * (1 << 27))]
    {
        for syn in syns(0..100) {
            let syn = Syn { now: made, ..syn };
            assert_eq!(syn.proof(syn.isn, syn.cookie(), checked), Proof::Client(syn.options), "{made} {checked}");
        }
    }
    // Of the period before the first one there is no cookie, and no fault either.
    let syn = syns(0..1).next().expect("one");
    assert_eq!(syn.proof(syn.isn, syn.cookie() ^ 0xff_0000, 0), Proof::Nothing);
}

/// Eight bits say whether it is the connection, sixteen more whether it is this very SYN: 24 in all, since an attacker
/// may choose the options. 2^-8 and 2^-16 are measured one by one, because their product would take minutes.
#[test]
fn a_forged_cookie_is_taken_once_in_16_million() {
    const TRIES: u64 = 1 << 19;
    let any = |i: u64| gateway_common::hash::mix(i) as u32;
    let guess = |syn: &Syn, cookie| syn.proof(syn.isn, cookie, syn.now);

    let known = syns(0..TRIES).filter(|syn| guess(syn, any(syn.client.source_port.into())) != Proof::Nothing).count();
    near(known, TRIES as f64 / 256.0, "guesses of the connection's eight bits");

    let whole = syns(0..TRIES)
        .zip(0..)
        .filter(|(syn, i)| matches!(guess(syn, syn.cookie() & 0xffff_0000 | any(*i) & 0xffff), Proof::Client(_)))
        .count();
    near(whole, TRIES as f64 / 65_536.0, "guesses of the other sixteen");

    // In the quarter of a period in which two periods count, twice as many.
    let in_grace = syns(0..TRIES)
        .filter(|syn| syn.proof(syn.isn, any(syn.client.source_port.into()), PERIOD) != Proof::Nothing)
        .count();
    near(in_grace, TRIES as f64 / 128.0, "guesses while two periods count");
}

/// Within five standard deviations of a Poisson distribution.
#[track_caller]
fn near(count: usize, expected: f64, what: &str) {
    let off = (count as f64 - expected).abs() / expected.sqrt();
    assert!(off < 5.0, "{count} {what}, not {expected}");
}

/// Each of the 24 bits is one half of the time, also for clients that count their ports up.
#[test]
fn cookies_of_neighbours_share_no_bit() {
    const CLIENTS: u64 = 1 << 16;
    let mut ones = [0_u32; 24];
    let mut together = [0_u32; 24];
    let mut previous = 0;
    for syn in syns(0..CLIENTS) {
        let cookie = syn.cookie();
        for bit in 0..24 {
            ones[bit] += cookie >> bit & 1;
            together[bit] += (cookie ^ previous) >> bit & 1;
        }
        previous = cookie;
    }
    for count in ones.iter().chain(&together) {
        // Five standard deviations of 65,536 tosses.
        assert!(count.abs_diff(CLIENTS as u32 / 2) < 640, "{count} of {CLIENTS}: {ones:?} {together:?}");
    }
}
