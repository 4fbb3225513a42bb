//! What comes beside the segments of a spliced connection: ICMP errors, fragments, time.

use std::net::IpAddr;

use anyhow::{Context, Result};
use gateway_common::{Config, Reason, flow_state};

use crate::answer::Error;
use crate::cases::Cases;
use crate::lab::{Lab, Table, now};
use crate::net::{Port, Version, port_of};
use crate::packet::Packet;
use crate::scene::Place;
use crate::tls::{SECOND, Tls};

pub fn add(cases: &mut Cases) {
    for place in Place::ALL {
        cases.each(&format!("splice/around/icmp_errors_reach_the_client_{place:?}"), move |lab, v| {
            icmp_to_the_client(lab, v, place)
        });
        cases.each(&format!("splice/around/icmp_errors_reach_the_backend_{place:?}"), move |lab, v| {
            icmp_to_the_backend(lab, v, place)
        });
    }
    cases.each("splice/around/fragments_of_a_segment", fragments);
    cases.each("splice/around/fragments_of_a_handshake", fragments_of_a_handshake);
    cases.each("splice/around/client_that_is_its_own_backend", hairpin);
    cases.each("splice/around/idle_while_connecting", |lab, v| idle(lab, v, flow_state::CONNECTING));
    cases.each("splice/around/idle_while_replaying", |lab, v| idle(lab, v, flow_state::REPLAYING));
    cases.each("splice/around/idle_for_long", |lab, v| idle(lab, v, flow_state::ESTABLISHED));
    cases.each("splice/around/endpoint_gone_while_connecting", gone_while_connecting);
    cases.each("splice/around/ttl_expires", ttl);
    cases.each("splice/around/larger_than_the_way_out", too_big);
}

/// Fragmentation needed or packet too big, and unreachable.
fn errors(version: Version) -> [(u8, u8, [u8; 4]); 2] {
    match version {
        Version::V4 => [(3, 4, [0, 0, 0x05, 0x00]), (3, 1, [0; 4])],
        Version::V6 => [(2, 0, [0, 0, 0x05, 0x00]), (1, 0, [0; 4])],
    }
}

fn router(version: Version) -> IpAddr {
    match version {
        Version::V4 => "198.18.0.254".parse().expect("an address"),
        Version::V6 => "2001:db8::fe".parse().expect("an address"),
    }
}

/// Bytes that errors quote: header and 8, all of the TCP header, all of it.
fn quotations(version: Version, packet: &Packet) -> [usize; 3] {
    [version.header() + 8, version.header() + 20, packet.ip_packet().len()]
}

fn icmp_to_the_client(lab: &mut Lab, version: Version, place: Place) -> Result<()> {
    let mut tls = Tls::new(lab, version, place)?;
    let length = tls.established(lab)?;
    let sent = tls.up("PA", length, 0).data(&[0x77; 301]);
    tls.client_sends(lab, &sent)?;
    let got = tls.forwarded(&sent).ttl(9);
    // Numbers of the client's own; of what it acknowledges only the backend knows the number.
    let ack = tls.delta();
    let seen = sent.header(|h| {
        h.acknowledgment_number = h.acknowledgment_number.wrapping_sub(ack);
        h.window_size = crate::tls::shifted(h.window_size, tls.shifts().1);
    });
    let seen = seen.ttl(9);
    for (kind, code, rest) in errors(version) {
        for quoted in quotations(version, &got) {
            let error = Packet::icmp(tls.backends[0].ip(), tls.peer.ip(), kind, code, rest, &got.ip_packet()[..quoted]);
            let error = error.macs(place.port().peer_mac(), place.port().mac());
            let quote = &seen.ip_packet()[..quoted];
            let wanted = Packet::icmp(tls.gateway.ip(), tls.client.ip(), kind, code, rest, quote);
            lab.tc(place.port(), &error.frame())?.forwarded(&wanted.hop());
        }
    }
    Ok(())
}

/// A sender heeds only what quotes a number that it has in flight (RFC 5927 section 4.1).
fn icmp_to_the_backend(lab: &mut Lab, version: Version, place: Place) -> Result<()> {
    let mut tls = Tls::new(lab, version, place)?;
    let length = tls.established(lab)?;
    for position in [0, 5_000, 0x8000_0000, 0u32.wrapping_sub(tls.cookie)] {
        let sent = tls.down("PA", position, length).data(&[0x77; 302]);
        tls.backend_sends(lab, &sent)?;
        let got = tls.returned(&sent).ttl(3);
        let shift = tls.shifts().0;
        let seen = sent.header(|h| h.window_size = crate::tls::shifted(h.window_size, shift)).ttl(3);
        for (kind, code, rest) in errors(version) {
            for quoted in quotations(version, &got) {
                let from = router(version);
                let error = Packet::icmp(from, tls.gateway.ip(), kind, code, rest, &got.ip_packet()[..quoted]);
                let seen_from = if place == Place::Pod { from } else { tls.peer.ip() };
                let quote = &seen.ip_packet()[..quoted];
                let wanted = Packet::icmp(seen_from, tls.backends[0].ip(), kind, code, rest, quote);
                lab.tc(Port::Ext0, &tls.sent_by_client(error).frame())?.forwarded(&wanted.hop());
            }
        }
    }
    tls.in_state(lab, flow_state::ESTABLISHED)
}

fn fragments(lab: &mut Lab, version: Version) -> Result<()> {
    let mut tls = Tls::new(lab, version, Place::Pod)?;
    let length = tls.established(lab)?;
    for (id, (port, segment, wanted)) in [
        (Port::Ext0, tls.up("PA", length, 0).data(&[4; 1_000]), true),
        (Port::Pod0, tls.down("PA", 0, length).data(&[5; 1_000]), false),
    ]
    .into_iter()
    .enumerate()
    {
        let wanted = if wanted { tls.forwarded(&segment) } else { tls.returned(&segment) };
        let id = 80 + id as u32;
        for (frame, wanted) in segment.fragments(id, &[504]).iter().zip(&wanted.fragments(id, &[504])) {
            lab.tc(port, frame)?.forwarded_frame(wanted);
        }
    }
    Ok(())
}

/// Their bytes cannot be read before they are whole, and no client sends them: the MSS fits.
fn fragments_of_a_handshake(lab: &mut Lab, version: Version) -> Result<()> {
    let mut tls = Tls::new(lab, version, Place::Pod)?;
    tls.opened(lab)?;
    let hello = tls.up("PA", 0, 0).data(&tls.hello());
    let frames = hello.fragments(90, &[256]);
    lab.tc(Port::Ext0, &frames[0])?.dropped(Reason::FragmentUnmatched);
    assert_eq!(lab.flows(Table::Flows)?, vec![]);
    // Sent again in one piece it is taken.
    tls.connects(lab, &hello)
}

/// A pod reaches itself through the gateway: it would take its own address for a forgery.
fn hairpin(lab: &mut Lab, version: Version) -> Result<()> {
    let mut tls = Tls::new(lab, version, Place::Pod)?;
    tls.client = port_of(version.pod(), 40_000);
    tls.peer = port_of(version.node(), 0);
    let from_pod = |packet: Packet| packet.macs(Port::Pod0.peer_mac(), Port::Pod0.mac());
    let outcome = lab.tc(Port::Pod0, &from_pod(tls.syn()).frame())?;
    tls.cookie = crate::segment::Segment::read(&outcome.frame)?.seq;
    let hello = tls.hello();
    let packet = from_pod(tls.up("PA", 0, 0).data(&hello));
    let outcome = lab.tc(Port::Pod0, &packet.frame())?;
    tls.is_syn(&outcome, &packet)?;
    assert_eq!(tls.peer.ip(), version.node());
    lab.tc(Port::Pod0, &tls.syn_ack().frame())?.forwarded(&tls.first_piece(&hello));
    let ack = tls.down("A", 0, hello.len() as u32);
    lab.tc(Port::Pod0, &ack.frame())?.forwarded(&tls.returned(&ack));
    let data = from_pod(tls.up("PA", hello.len() as u32, 0).data(b"to myself"));
    lab.tc(Port::Pod0, &data.frame())?.forwarded(&tls.forwarded(&data));
    Ok(())
}

/// Nobody says anything for longer than the state allows.
fn idle(lab: &mut Lab, version: Version, state: u8) -> Result<()> {
    let config = Config { tcp_new: 3 * SECOND, tcp_established: 50 * SECOND, ..Config::default() };
    lab.configure(config)?;
    let mut tls = Tls::new(lab, version, Place::Remote)?;
    match state {
        flow_state::CONNECTING => tls.connecting(lab).map(drop)?,
        flow_state::REPLAYING => tls.replaying(lab).map(drop)?,
        _ => tls.established(lab).map(drop)?,
    }
    let patience = if state == flow_state::ESTABLISHED { config.tcp_established } else { config.tcp_new };
    for (age, stays) in [(patience - SECOND, true), (patience + SECOND, false)] {
        for key in [tls.forward_key(), tls.reply_key()] {
            let (table, mut flow) = lab.flow(&key)?.context("no such half")?;
            flow.last_seen = now()?.checked_sub(age).context("the machine has not run that long")?;
            lab.put_flow(table, &key, &flow)?;
        }
        lab.sweep()?;
        assert_eq!(lab.flow(&tls.forward_key())?.is_some(), stays, "forward half after {age} ns");
        assert_eq!(lab.flow(&tls.reply_key())?.is_some(), stays, "reply half after {age} ns");
    }
    let counter = lab.listener_counter(tls.by_name)?;
    // What never was live has not ended.
    let live = u64::from(state == flow_state::ESTABLISHED);
    assert_eq!((counter.established, counter.closed), (live, live));
    Ok(())
}

/// The next try goes elsewhere.
fn gone_while_connecting(lab: &mut Lab, version: Version) -> Result<()> {
    let mut tls = Tls::new(lab, version, Place::Remote)?;
    let hello = tls.connecting(lab)?;
    lab.replace_set(tls.set, &[tls.id(1)], &[])?;
    lab.remove_backend(tls.id(0))?;
    lab.sweep()?;
    let packet = tls.up("PA", 0, 0).data(&hello);
    tls.age(lab, SECOND)?;
    lab.tc(Port::Ext0, &packet.frame())?;
    tls.age(lab, SECOND)?;
    let outcome = lab.tc(Port::Ext0, &packet.frame())?;
    tls.at = 1;
    tls.restart();
    tls.is_syn(&outcome, &packet)?;
    tls.in_state(lab, flow_state::CONNECTING)
}

fn ttl(lab: &mut Lab, version: Version) -> Result<()> {
    let mut tls = Tls::new(lab, version, Place::Remote)?;
    let length = tls.established(lab)?;
    let dying = tls.up("PA", length, 0).data(b"x").ttl(1);
    let outcome = lab.tc(Port::Ext0, &dying.frame())?;
    outcome.answered_with(Reason::TtlExpired, Error::TimeExceeded, &dying);
    Ok(())
}

fn too_big(lab: &mut Lab, version: Version) -> Result<()> {
    let mut tls = Tls::new(lab, version, Place::Remote)?;
    let length = tls.established(lab)?;
    let large = tls.up("PA", length, 0).data(&[1; 1_400]);
    let outcome = lab.tc(Port::Ext0, &large.frame())?;
    let error = Error::TooBig { mtu: crate::net::EXT1_MTU };
    outcome.answered_with(Reason::PacketTooBig, error, &large);
    // A backend's MSS smaller than the way to it: the client was told more before it was known.
    let mut tls = tls.client_port(40_001);
    let least = if version == Version::V4 { 1_000 } else { 1_220 };
    tls.answer.mss = Some(least);
    let length = tls.established(lab)?;
    let fits = tls.up("PA", length, 0).data(&vec![1; usize::from(least)]);
    tls.client_sends(lab, &fits)?;
    let large = tls.up("PA", length, 0).data(&vec![1; usize::from(least) + 1]);
    let outcome = lab.tc(Port::Ext0, &large.frame())?;
    let error = Error::TooBig { mtu: least + version.header() as u16 + 20 };
    outcome.answered_with(Reason::PacketTooBig, error, &large);
    // Merged segments that each fit pass.
    let merged = tls.up("PA", length, 0).data(&vec![1; 2 * usize::from(least)]);
    lab.tc_segmented(Port::Ext0, &merged.frame(), u32::from(least))?.forwarded(&tls.forwarded(&merged));
    Ok(())
}
