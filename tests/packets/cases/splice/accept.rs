//! The SYN, and the SYN-ACK that it becomes.

use anyhow::Result;

use crate::cases::Cases;
use crate::lab::Lab;
use crate::net::{EXT1_MTU, Port, Version};
use crate::outcome::Hook;
use crate::packet::Packet;
use crate::scene::Place;
use crate::segment::{Offer, Segment};
use crate::tls::{OFFER, Tls};

pub fn add(cases: &mut Cases) {
    for hook in Hook::BOTH {
        let name = |what: &str| format!("splice/accept/{what}_{hook:?}");
        cases.each(&name("every_offer_is_answered_in_kind"), move |lab, v| every_offer(lab, v, hook));
        cases.each(&name("mss_fits_the_smallest_mtu"), move |lab, v| smallest_mtu(lab, v, hook));
        cases.each(&name("syn_again_gets_the_same_answer"), move |lab, v| again(lab, v, hook));
        cases.each(&name("data_in_the_syn_is_not_acknowledged"), move |lab, v| with_data(lab, v, hook));
        cases.each(&name("ecn_is_not_agreed_on"), move |lab, v| ecn(lab, v, hook));
        cases.each(&name("odd_options"), move |lab, v| odd_options(lab, v, hook));
        cases.each(&name("tos_and_ip_headers"), move |lab, v| headers(lab, v, hook));
    }
}

fn every_offer(lab: &mut Lab, version: Version, hook: Hook) -> Result<()> {
    let mut tls = Tls::new(lab, version, Place::Remote)?;
    let scales = std::iter::once(None).chain((0..=15).map(Some));
    for scale in scales {
        for mss in [None, Some(0), Some(536), Some(1220), Some(1379), Some(1460), Some(8960), Some(65_535)] {
            for (sack, timestamps) in [(false, false), (true, false), (false, true), (true, true)] {
                tls.offer = Offer { mss, scale, sack, timestamps };
                tls.accepted(lab, hook)?;
            }
        }
    }
    tls.nothing(lab)
}

fn smallest_mtu(lab: &mut Lab, version: Version, hook: Hook) -> Result<()> {
    let mut tls = Tls::new(lab, version, Place::Remote)?;
    // 0: not known; then that of the client's interface counts, as when the backends' is larger.
    for (mtu, wanted) in [(1280, 1280), (1499, 1499), (1500, 1500), (9000, 1500), (0, 1500)] {
        lab.put_tls_listener(tls.gateway, tls.listener, 0, mtu)?;
        tls.accepted_with(lab, hook, &tls.syn(), wanted)?;
    }
    Ok(())
}

fn again(lab: &mut Lab, version: Version, hook: Hook) -> Result<()> {
    let mut tls = Tls::new(lab, version, Place::Pod)?;
    tls.accepted(lab, hook)?;
    let first = tls.cookie;
    tls.accepted(lab, hook)?;
    assert_eq!(tls.cookie, first);
    // Another client, and the same with another number, get something else.
    let mut other = tls.client_port(40_001);
    other.accepted(lab, hook)?;
    assert_ne!(other.cookie, first);
    tls.isn = tls.isn.wrapping_add(1);
    tls.accepted(lab, hook)?;
    assert_ne!(tls.cookie, first);
    tls.nothing(lab)
}

/// RFC 9293 section 3.10.7.2 would keep it; it is sent again.
fn with_data(lab: &mut Lab, version: Version, hook: Hook) -> Result<()> {
    let mut tls = Tls::new(lab, version, Place::Pod)?;
    for length in [1, 2, 517, 1400] {
        tls.accepted_with(lab, hook, &tls.syn().data(&vec![0x16; length]), 1500)?;
    }
    tls.nothing(lab)
}

fn ecn(lab: &mut Lab, version: Version, hook: Hook) -> Result<()> {
    let mut tls = Tls::new(lab, version, Place::Pod)?;
    let syn = tls.syn().header(|h| (h.ece, h.cwr) = (true, true));
    tls.accepted_with(lab, hook, &syn, 1500)?;
    // PSH and URG mean nothing in a SYN.
    let syn = tls.syn().header(|h| (h.psh, h.urg, h.urgent_pointer) = (true, true, 7));
    tls.accepted_with(lab, hook, &syn, 1500)
}

fn odd_options(lab: &mut Lab, version: Version, hook: Hook) -> Result<()> {
    let mut tls = Tls::new(lab, version, Place::Pod)?;
    let none = Offer::default();
    let mss = |mss| Offer { mss: Some(mss), ..none };
    let cases: &[(&[u8], Offer)] = &[
        (&[], none),
        // End of options: what comes after it is padding.
        (&[0, 2, 4, 5, 180, 0, 0, 0], none),
        (&[2, 4, 5, 180, 0, 3, 3, 7], mss(1460)),
        // Unknown kinds are passed over (RFC 9293 section 3.2), TCP Fast Open among them.
        (&[34, 2, 2, 4, 5, 180, 1, 1], mss(1460)),
        (&[253, 6, 1, 2, 3, 4, 2, 4, 5, 180, 1, 3, 3, 9], Offer { scale: Some(9), ..mss(1460) }),
        // Many, each with a NOP before it.
        (
            &[1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 2, 4, 5, 180, 1, 4, 2, 1, 3, 3, 14],
            Offer { mss: Some(1460), scale: Some(14), sack: true, timestamps: false },
        ),
        // Forty bytes of them.
        (
            &[
                8, 10, 0, 1, 2, 3, 4, 5, 6, 7, 34, 18, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 2, 4, 5,
                180, 4, 2, 3, 3, 2, 0, 0, 0,
            ],
            Offer { scale: Some(2), sack: true, ..mss(1460) },
        ),
        // Lengths that are none: what was read before them counts.
        (&[2, 4, 5, 180, 3, 0, 7, 0], mss(1460)),
        (&[2, 4, 5, 180, 3, 1, 7, 0], mss(1460)),
        (&[2, 4, 5, 180, 254, 200, 0, 0], mss(1460)),
        (&[2, 4, 5, 180, 1, 1, 1, 3], mss(1460)),
        // Options of the wrong length are not what they say.
        (&[2, 3, 5, 4, 2, 1, 1, 1], Offer { sack: true, ..none }),
        (&[3, 4, 7, 7, 4, 2, 1, 1], Offer { sack: true, ..none }),
        (&[4, 3, 0, 2, 4, 5, 180, 1], mss(1460)),
    ];
    for (options, offer) in cases {
        tls.offer = *offer;
        let mut bytes = options.to_vec();
        bytes.resize(options.len().next_multiple_of(4), 0);
        let syn = tls.syn().header(|h| h.set_options_raw(&bytes).expect("40 bytes at most"));
        tls.accepted_with(lab, hook, &syn, 1500).map_err(|e| e.context(format!("options {options:?}")))?;
    }
    Ok(())
}

fn headers(lab: &mut Lab, version: Version, hook: Hook) -> Result<()> {
    let mut tls = Tls { offer: OFFER, ..Tls::new(lab, version, Place::Remote)? };
    for tos in [0, 0x10, 0xb8] {
        let syn = Packet { tos, ttl: 1, id: 77, ..tls.syn() };
        tls.accepted_with(lab, hook, &syn, EXT1_MTU)?;
    }
    // A frame with padding: the answer has none.
    let syn = Packet { padding: 6, ..tls.syn() };
    let outcome = lab.run(hook, Port::Ext0, &syn.frame())?;
    let answer = Segment::read(&outcome.frame)?;
    assert_eq!((answer.seq, answer.payload.len()), (tls.cookie, 0));
    Ok(())
}
