//! What proves that a client has seen the SYN-ACK, and what does not.

use anyhow::{Context, Result, ensure};
use gateway_common::{CookieKey, Handshake, Reason, cookie, flow_state, sizes};

use crate::answer::reset;
use crate::cases::Cases;
use crate::lab::{COOKIE_KEY, Lab, Table, now};
use crate::net::{Port, Version};
use crate::outcome::Hook;
use crate::packet::Packet;
use crate::scene::Place;
use crate::tls::Tls;

/// How long a cookie is good at least, ns: `cookie.rs` says.
const PERIOD: u64 = 1 << 36;

pub fn add(cases: &mut Cases) {
    cases.each("splice/prove/bare_ack_is_remembered", bare_ack);
    cases.each("splice/prove/bare_ack_again", bare_ack_again);
    cases.each("splice/prove/data_without_a_bare_ack", data_proves);
    cases.each("splice/prove/forged_ack_is_refused", forged);
    cases.each("splice/prove/segment_out_of_order_is_not_answered", early);
    cases.each("splice/prove/cookie_of_the_period_before", old_cookie);
    cases.each("splice/prove/cookie_of_another_key", other_key);
    cases.each("splice/prove/cookie_of_another_connection", other_connection);
    cases.each("splice/prove/segment_without_ack", without_ack);
    cases.each("splice/prove/reset_ends_it", reset_ends);
    cases.each("splice/prove/stray_reset", stray_reset);
    cases.each("splice/prove/fin_before_any_data", fin_first);
    cases.each("splice/prove/syn_again_after_the_ack", syn_again);
    cases.each("splice/prove/new_syn_from_the_same_port", new_syn);
    cases.each("splice/prove/others_push_out_no_hello_under_way", pushed_out);
    cases.each("splice/prove/late_copy_of_the_bare_ack", late_ack);
    cases.each("splice/prove/keep_alive_in_the_middle", keep_alive);
    cases.each("splice/prove/xdp_leaves_the_client_to_tc", xdp_leaves);
    cases.each("splice/prove/syn_ack_from_a_client", syn_ack);
}

fn bare_ack(lab: &mut Lab, version: Version) -> Result<()> {
    let mut tls = Tls::new(lab, version, Place::Remote)?;
    tls.opened(lab)?;
    let handshake = lab.handshake(&tls.forward_key())?.context("no handshake is known")?;
    let kept = tls.offer_to_backend();
    let options = cookie::Options::new(version == Version::V6, kept.mss.unwrap_or(0), kept.sack, kept.scale);
    let wanted = Handshake {
        client_sequence: tls.client_seq(0),
        our_sequence: tls.cookie.wrapping_add(1),
        options: options.0,
        ..Handshake::default()
    };
    assert_eq!(handshake, wanted);
    assert!(lab.hello(&tls.forward_key())?.is_none(), "a slot is taken before data has come");
    assert_eq!(lab.flows(Table::Flows)?, vec![]);
    Ok(())
}

fn bare_ack_again(lab: &mut Lab, version: Version) -> Result<()> {
    let mut tls = Tls::new(lab, version, Place::Remote)?;
    tls.opened(lab)?;
    lab.tc(Port::Ext0, &tls.up("A", 0, 0).frame())?.consumed();
    assert_eq!(lab.handshakes()?.len(), 1);
    let hello = tls.hello();
    tls.connects(lab, &tls.up("PA", 0, 0).data(&hello))
}

/// The bare ACK may be lost or overtaken.
fn data_proves(lab: &mut Lab, version: Version) -> Result<()> {
    let mut tls = Tls::new(lab, version, Place::Remote)?;
    let hello = tls.hello();
    tls.accepted(lab, Hook::Tc)?;
    let first = tls.up("A", 0, 0).data(&hello[..100]);
    lab.tc(Port::Ext0, &first.frame())?.replied(&tls.acknowledgement(100));
    tls.connects(lab, &tls.up("PA", 100, 0).data(&hello[100..]))?;

    let mut tls = tls.client_port(40_001);
    tls.accepted(lab, Hook::Tc)?;
    tls.connects(lab, &tls.up("PA", 0, 0).data(&hello))
}

fn forged(lab: &mut Lab, version: Version) -> Result<()> {
    let mut tls = Tls::new(lab, version, Place::Remote)?;
    tls.accepted(lab, Hook::Tc)?;
    let right = tls.up("A", 0, 0);
    for bit in 0..32 {
        for data in [&b""[..], &tls.hello()] {
            let ack = (tls.cookie ^ 1 << bit).wrapping_add(1);
            let ack = right.clone().header(|h| h.acknowledgment_number = ack).data(data);
            let outcome = lab.tc(Port::Ext0, &ack.frame())?;
            if matches!(bit, 16..24) {
                outcome.answered(Reason::UnknownConnection, &reset(&ack));
            } else {
                // Of the right addresses and ports, so it may be a segment that only came too early.
                outcome.dropped(Reason::EarlySegment);
            }
        }
    }
    tls.nothing(lab)
}

/// A later segment of the hello may overtake the first: a RST would end the connection.
fn early(lab: &mut Lab, version: Version) -> Result<()> {
    let mut tls = Tls::new(lab, version, Place::Remote)?;
    tls.accepted(lab, Hook::Tc)?;
    let hello = tls.hello();
    for data in [&hello[60..], &[]] {
        let second = tls.up("PA", 60, 0).data(data);
        lab.tc(Port::Ext0, &second.frame())?.dropped(Reason::EarlySegment);
    }
    tls.nothing(lab)?;
    lab.tc(Port::Ext0, &tls.up("A", 0, 0).data(&hello[..60]).frame())?.replied(&tls.acknowledgement(60));
    tls.connects(lab, &tls.up("PA", 60, 0).data(&hello[60..]))
}

fn cookie_of(lab: &mut Lab, tls: &mut Tls, key: &CookieKey, age: u64) -> Result<()> {
    tls.accepted(lab, Hook::Tc)?;
    tls.cookie = cookie_for(tls, key, now()?.checked_sub(age).context("the machine has not run that long")?);
    Ok(())
}

fn cookie_for(tls: &Tls, key: &CookieKey, then: u64) -> u32 {
    let kept = tls.offer_to_backend();
    let options = cookie::Options::new(tls.version == Version::V6, kept.mss.unwrap_or(0), kept.sack, kept.scale);
    cookie::make(key, &tls.forward_key(), tls.isn, options, then)
}

/// Refused; but once in 256 the 8 bits of the connection are right by chance, and once in 2^24 all are.
fn unproved(lab: &mut Lab, tls: &Tls, key: &CookieKey, packet: &Packet) -> Result<()> {
    let proof = cookie::check(key, &tls.forward_key(), tls.isn, tls.cookie, now()?);
    let outcome = lab.tc(Port::Ext0, &packet.frame())?;
    match proof {
        cookie::Proof::Later => outcome.dropped(Reason::EarlySegment),
        _ => outcome.answered(Reason::UnknownConnection, &reset(packet)),
    };
    Ok(())
}

fn old_cookie(lab: &mut Lab, version: Version) -> Result<()> {
    let mut tls = Tls::new(lab, version, Place::Remote)?;
    cookie_of(lab, &mut tls, &COOKIE_KEY, 2 * PERIOD)?;
    unproved(lab, &tls, &COOKIE_KEY, &tls.up("A", 0, 0))?;
    // A client that takes a quarter of a period at the most gets through whenever it started.
    cookie_of(lab, &mut tls, &COOKIE_KEY, PERIOD / 4 - 1_000_000_000)?;
    lab.tc(Port::Ext0, &tls.up("A", 0, 0).frame())?.consumed();
    Ok(())
}

fn other_key(lab: &mut Lab, version: Version) -> Result<()> {
    let mut tls = Tls::new(lab, version, Place::Remote)?;
    tls.accepted(lab, Hook::Tc)?;
    let other = CookieKey { words: [COOKIE_KEY.words[0], COOKIE_KEY.words[1] ^ 1] };
    lab.cookie_key(other)?;
    let ack = tls.up("A", 0, 0);
    unproved(lab, &tls, &other, &ack)?;
    // With the key back it is good again: nothing was kept that says otherwise.
    lab.cookie_key(COOKIE_KEY)?;
    lab.tc(Port::Ext0, &ack.frame())?.consumed();
    Ok(())
}

fn other_connection(lab: &mut Lab, version: Version) -> Result<()> {
    let mut tls = Tls::new(lab, version, Place::Remote)?;
    tls.accepted(lab, Hook::Tc)?;
    let thief = Tls { cookie: tls.cookie, ..tls.client_port(40_001) };
    unproved(lab, &thief, &COOKIE_KEY, &thief.up("A", 0, 0))?;
    tls.nothing(lab)
}

fn without_ack(lab: &mut Lab, version: Version) -> Result<()> {
    let mut tls = Tls::new(lab, version, Place::Remote)?;
    tls.accepted(lab, Hook::Tc)?;
    for flags in ["", "P", "F", "U"] {
        let segment = tls.up(flags, 0, 0).data(b"x");
        lab.tc(Port::Ext0, &segment.frame())?.answered(Reason::UnknownConnection, &reset(&segment));
    }
    tls.nothing(lab)
}

fn reset_ends(lab: &mut Lab, version: Version) -> Result<()> {
    let mut tls = Tls::new(lab, version, Place::Remote)?;
    tls.opened(lab)?;
    lab.tc(Port::Ext0, &tls.up("R", 0, 0).frame())?.consumed();
    tls.nothing(lab)?;

    tls.opened(lab)?;
    lab.tc(Port::Ext0, &tls.up("A", 0, 0).data(&tls.hello()[..100]).frame())?.replied(&tls.acknowledgement(100));
    // One from elsewhere in the numbers' range ends nothing.
    lab.tc(Port::Ext0, &tls.up("R", 0x4000_0000, 0).frame())?.dropped(Reason::StrayReset);
    assert_eq!(lab.collecting()?.len(), 1);
    lab.tc(Port::Ext0, &tls.up("RA", 100, 0).frame())?.consumed();
    tls.nothing(lab)
}

fn stray_reset(lab: &mut Lab, version: Version) -> Result<()> {
    let mut tls = Tls::new(lab, version, Place::Remote)?;
    tls.accepted(lab, Hook::Tc)?;
    for flags in ["R", "RA"] {
        lab.tc(Port::Ext0, &tls.up(flags, 0, 0).frame())?.dropped(Reason::StrayReset);
    }
    tls.nothing(lab)
}

fn fin_first(lab: &mut Lab, version: Version) -> Result<()> {
    let mut tls = Tls::new(lab, version, Place::Remote)?;
    tls.opened(lab)?;
    let fin = tls.up("FA", 0, 0);
    lab.tc(Port::Ext0, &fin.frame())?.answered(Reason::HelloAbandoned, &reset(&fin));
    tls.nothing(lab)?;
    let counter = lab.listener_counter(tls.listener)?;
    assert_eq!((counter.refused, counter.picked), (1, 0));
    Ok(())
}

/// The SYN-ACK may have been lost on the way to a client that has got another copy since.
fn syn_again(lab: &mut Lab, version: Version) -> Result<()> {
    let mut tls = Tls::new(lab, version, Place::Remote)?;
    tls.opened(lab)?;
    tls.accepted(lab, Hook::Tc)?;
    tls.connecting(lab)?;
    tls.in_state(lab, flow_state::CONNECTING)
}

/// A client that has forgotten its first connection uses the port again.
fn new_syn(lab: &mut Lab, version: Version) -> Result<()> {
    let mut tls = Tls::new(lab, version, Place::Remote)?;
    tls.opened(lab)?;
    let start = tls.up("A", 0, 0).data(&tls.hello()[..100]);
    lab.tc(Port::Ext0, &start.frame())?.replied(&tls.acknowledgement(100));
    tls.isn = tls.isn.wrapping_add(99_999);
    tls.connecting(lab)?;
    tls.in_state(lab, flow_state::CONNECTING)?;
    tls.halves(lab).map(drop)
}

/// Clients that connect and say nothing are many and cheap.
fn pushed_out(lab: &mut Lab, version: Version) -> Result<()> {
    let mut tls = Tls::new(lab, version, Place::Remote)?;
    tls.opened(lab)?;
    let hello = tls.hello();
    lab.tc(Port::Ext0, &tls.up("A", 0, 0).data(&hello[..60]).frame())?.replied(&tls.acknowledgement(60));
    for port in 0..2 * sizes::HANDSHAKES as u16 {
        let mut other = tls.client_port(1_024 + port);
        other.cookie = cookie_for(&other, &COOKIE_KEY, now()?);
        lab.tc(Port::Ext0, &other.up("A", 0, 0).frame())?.consumed();
    }
    ensure!(lab.handshakes()?.len() > sizes::HANDSHAKES / 2, "the others have proved nothing");
    tls.connects(lab, &tls.up("PA", 60, 0).data(&hello[60..]))
}

/// Another way through the network took longer.
fn late_ack(lab: &mut Lab, version: Version) -> Result<()> {
    let mut tls = Tls::new(lab, version, Place::Remote)?;
    tls.opened(lab)?;
    let hello = tls.hello();
    lab.tc(Port::Ext0, &tls.up("A", 0, 0).data(&hello[..60]).frame())?.replied(&tls.acknowledgement(60));
    lab.tc(Port::Ext0, &tls.up("A", 0, 0).frame())?.consumed();
    tls.connects(lab, &tls.up("PA", 60, 0).data(&hello[60..]))
}

fn keep_alive(lab: &mut Lab, version: Version) -> Result<()> {
    let mut tls = Tls::new(lab, version, Place::Remote)?;
    tls.opened(lab)?;
    let hello = tls.hello();
    lab.tc(Port::Ext0, &tls.up("A", 0, 0).data(&hello[..60]).frame())?.replied(&tls.acknowledgement(60));
    lab.tc(Port::Ext0, &tls.up("A", 60, 0).frame())?.consumed();
    lab.tc(Port::Ext0, &tls.up("A", 59, 0).frame())?.replied(&tls.acknowledgement(60));
    tls.connects(lab, &tls.up("PA", 60, 0).data(&hello[60..]))
}

fn xdp_leaves(lab: &mut Lab, version: Version) -> Result<()> {
    let mut tls = Tls::new(lab, version, Place::Remote)?;
    tls.accepted(lab, Hook::Xdp)?;
    let early = tls.up("PA", 9, 0).data(b"x");
    for packet in [tls.up("A", 0, 0), tls.up("PA", 0, 0).data(&tls.hello())] {
        lab.xdp(Port::Ext0, &packet.frame())?.untouched();
    }
    // What is refused needs no skb, but for what TC knows more of.
    lab.xdp(Port::Ext0, &early.frame())?.dropped(Reason::EarlySegment);
    tls.nothing(lab)?;
    lab.tc(Port::Ext0, &tls.up("A", 0, 0).frame())?.consumed();
    lab.xdp(Port::Ext0, &early.frame())?.untouched();
    Ok(())
}

fn syn_ack(lab: &mut Lab, version: Version) -> Result<()> {
    let mut tls = Tls::new(lab, version, Place::Remote)?;
    tls.accepted(lab, Hook::Tc)?;
    let scan = tls.up("SA", 0, 0x10_0000);
    lab.tc(Port::Ext0, &scan.frame())?.answered(Reason::UnknownConnection, &reset(&scan));
    tls.nothing(lab)
}
