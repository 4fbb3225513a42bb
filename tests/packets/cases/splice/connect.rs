//! The SYN to the backend: what it says, and what happens until it is answered.

use anyhow::{Context, Result, ensure};
use gateway_common::{Backend, Config, FlowKey, Reason, event_kind, flow_state, protocol::TCP};

use crate::answer::reset;
use crate::cases::Cases;
use crate::hello::{alert, description};
use crate::lab::{Lab, Table};
use crate::net::{Port, Version, map_address, port_of};
use crate::outcome::Hook;
use crate::packet::Packet;
use crate::scene::{Place, key};
use crate::segment::{Offer, Segment};
use crate::tls::{BACKEND_ISN, SECOND, Tls};

pub fn add(cases: &mut Cases) {
    for place in Place::ALL {
        cases.each(&format!("splice/connect/syn_offers_what_the_client_did_{place:?}"), move |lab, v| {
            offers(lab, v, place)
        });
        cases.each(&format!("splice/connect/next_backend_after_a_reset_{place:?}"), move |lab, v| {
            refused(lab, v, place)
        });
        cases
            .each(&format!("splice/connect/next_backend_after_silence_{place:?}"), move |lab, v| silent(lab, v, place));
    }
    cases.each("splice/connect/next_backend_is_another_one", another_one);
    cases.each("splice/connect/window_of_the_syn", windows);
    cases.each("splice/connect/proxy_header_lowers_the_number", proxy);
    cases.each("splice/connect/proxy_header_for_one_backend_of_two", proxy_for_one);
    cases.each("splice/connect/client_repeats_itself_too_soon", too_soon);
    cases.each("splice/connect/bare_ack_makes_no_syn", bare_ack);
    cases.each("splice/connect/one_backend_alone_is_tried_again", alone);
    cases.each("splice/connect/backend_without_a_way_is_passed_over", no_way);
    cases.each("splice/connect/answer_to_another_syn", stranger);
    cases.each("splice/connect/reset_that_acknowledges_something_else", wrong_reset);
    cases.each("splice/connect/data_before_the_syn_ack", no_syn);
    cases.each("splice/connect/more_data_of_the_client_is_kept", early_data);
    cases.each("splice/connect/new_data_makes_no_syn", new_data);
    cases.each("splice/connect/client_resets", client_resets);
    cases.each("splice/connect/client_opens_anew", client_syn);
    cases.each("splice/connect/late_answer_of_a_backend_given_up", late_answer);
    cases.each("splice/connect/slot_taken_by_another_client", slot_taken);
    cases.each("splice/connect/ports_exhausted", ports_exhausted);
    cases.each("splice/connect/flow_table_full", table_full);
    cases.each("splice/connect/retries_are_told", events);
}

/// Three backends, in an order that a hash decides.
fn three(lab: &mut Lab, version: Version, place: Place) -> Result<Tls> {
    let tls = Tls::new(lab, version, place)?;
    lab.replace_set(tls.set, &[tls.id(0), tls.id(1), tls.id(2)], &[])?;
    Ok(tls)
}

/// Takes the frame as a SYN to whichever backend it names.
#[track_caller]
fn syn_to_any(tls: &mut Tls, outcome: &crate::outcome::Outcome, packet: &Packet) -> Result<()> {
    let syn = Segment::read(&outcome.frame)?;
    tls.at = tls.backends.iter().position(|backend| *backend == syn.to).with_context(|| format!("no SYN: {syn:?}"))?;
    tls.restart();
    tls.is_syn(outcome, packet)
}

/// The client's hello, whose SYN went to whichever backend.
#[track_caller]
fn dialled(lab: &mut Lab, tls: &mut Tls) -> Result<Packet> {
    tls.opened(lab)?;
    let packet = tls.up("PA", 0, 0).data(&tls.hello());
    let outcome = lab.tc(Port::Ext0, &packet.frame())?;
    syn_to_any(tls, &outcome, &packet)?;
    Ok(packet)
}

/// The backend that has the SYN refuses, and another one gets it.
#[track_caller]
fn refused_by_one(lab: &mut Lab, tls: &mut Tls) -> Result<()> {
    let reset = tls.sent_by_backend("RA", 0, tls.client_seq(0));
    let outcome = lab.tc(tls.place.port(), &reset.frame())?;
    syn_to_any(tls, &outcome, &reset)
}

fn offers(lab: &mut Lab, version: Version, place: Place) -> Result<()> {
    let tls = Tls::new(lab, version, place)?;
    let mut port = 10_000;
    for scale in [None, Some(0), Some(1), Some(7), Some(13), Some(14), Some(15)] {
        for mss in [None, Some(536), Some(1219), Some(1220), Some(1400), Some(1460), Some(9000)] {
            for sack in [false, true] {
                let mut tls = tls.client_port(port);
                tls.offer = Offer { mss, scale, sack, timestamps: true };
                tls.connecting(lab)?;
                tls.in_state(lab, flow_state::CONNECTING)?;
                port += 1;
            }
        }
    }
    Ok(())
}

fn windows(lab: &mut Lab, version: Version) -> Result<()> {
    let tls = Tls::new(lab, version, Place::Remote)?;
    let mut port = 10_000;
    for scale in [None, Some(0), Some(2), Some(7), Some(14)] {
        for window in [1, 63, 502, 512, 1024, 29_200, 65_535] {
            let mut tls = Tls { window, ..tls.client_port(port) };
            tls.offer.scale = scale;
            tls.connecting(lab)?;
            port += 1;
        }
    }
    Ok(())
}

fn proxy(lab: &mut Lab, version: Version) -> Result<()> {
    for place in Place::ALL {
        lab.reset()?;
        let mut tls = Tls::new(lab, version, place)?;
        tls.wants_proxy(lab, 0)?;
        assert_eq!(tls.prelude, if version == Version::V4 { 28 } else { 52 });
        tls.connecting(lab)?;
    }
    Ok(())
}

/// The number of the SYN follows what the backend wants that it goes to.
fn proxy_for_one(lab: &mut Lab, version: Version) -> Result<()> {
    let mut tls = three(lab, version, Place::Remote)?;
    tls.wants_proxy(lab, 0)?;
    let header = tls.prelude;
    let hello = tls.hello();
    let mut seen = [false; 2];
    for port in 0..40 {
        let mut tls = tls.client_port(10_000 + port);
        tls.opened(lab)?;
        let packet = tls.up("PA", 0, 0).data(&hello);
        let mut outcome = lab.tc(Port::Ext0, &packet.frame())?;
        for _ in 0..3 {
            let syn = Segment::read(&outcome.frame)?;
            let wants = syn.to == tls.backends[0];
            seen[usize::from(wants)] = true;
            tls.prelude = if wants { header } else { 0 };
            syn_to_any(&mut tls, &outcome, &packet)?;
            let reset = tls.sent_by_backend("RA", 0, tls.client_seq(0).wrapping_sub(tls.prelude));
            outcome = lab.tc(tls.place.port(), &reset.frame())?;
        }
        assert_eq!(outcome.reasons, [Reason::BackendSilent]);
    }
    assert_eq!(seen, [true, true]);
    Ok(())
}

/// The client's retransmissions drive what is sent to the backend, but not each of its segments.
fn too_soon(lab: &mut Lab, version: Version) -> Result<()> {
    let mut tls = three(lab, version, Place::Remote)?;
    let packet = dialled(lab, &mut tls)?;
    for _ in 0..5 {
        lab.tc(Port::Ext0, &packet.frame())?.consumed();
    }
    tls.in_state(lab, flow_state::CONNECTING)
}

fn bare_ack(lab: &mut Lab, version: Version) -> Result<()> {
    let mut tls = Tls::new(lab, version, Place::Remote)?;
    let hello = tls.connecting(lab)?;
    tls.age(lab, SECOND)?;
    lab.tc(Port::Ext0, &tls.up("A", hello.len() as u32, 0).frame())?.consumed();
    tls.in_state(lab, flow_state::CONNECTING)
}

fn refused(lab: &mut Lab, version: Version, place: Place) -> Result<()> {
    let mut tls = three(lab, version, place)?;
    let packet = dialled(lab, &mut tls)?;
    let mut tried = vec![tls.at];
    let mut reset = tls.sent_by_backend("RA", 0, tls.client_seq(0));
    for _ in 0..2 {
        let before = tls.clone();
        let outcome = lab.tc(place.port(), &reset.frame())?;
        syn_to_any(&mut tls, &outcome, &reset)?;
        assert!(lab.flow(&before.reply_key())?.is_none(), "the half of the backend that refused is left");
        tls.in_state(lab, flow_state::CONNECTING)?;
        tried.push(tls.at);
        reset = tls.sent_by_backend("RA", 0, tls.client_seq(0));
    }
    assert_ne!(tried[0], tried[1]);
    assert_ne!(tried[1], tried[2]);
    // Three is enough: the client is told, on the way of the last refusal.
    let answer = tls.own("FPA", 0, tls.hello().len() as u32, 0).data(&alert(description::INTERNAL_ERROR));
    let outcome = lab.tc(place.port(), &reset.frame())?;
    outcome.answered(Reason::BackendSilent, &answer);
    assert_eq!(lab.flows(Table::Flows)?, vec![]);
    assert!(lab.hello(&tls.forward_key())?.is_none());
    // And again when it asks again.
    lab.tc(Port::Ext0, &packet.frame())?.replied(&answer);
    Ok(())
}

/// Few tries of a hash find another of three.
fn another_one(lab: &mut Lab, version: Version) -> Result<()> {
    let tls = three(lab, version, Place::Remote)?;
    let mut same = 0;
    for port in 0..100 {
        let mut tls = tls.client_port(10_000 + port);
        dialled(lab, &mut tls)?;
        let before = tls.at;
        refused_by_one(lab, &mut tls)?;
        same += u32::from(tls.at == before);
    }
    assert!(same <= 10, "{same} of 100 came back to the backend that had refused");
    Ok(())
}

/// As long as there is one with a way; if there is none, the refusal says so, whoever was tried before.
fn no_way(lab: &mut Lab, version: Version) -> Result<()> {
    let tls = three(lab, version, Place::Remote)?;
    let unrouted = |i| Backend { address: map_address(version.unrouted()), ..tls.entry(i) };
    lab.backend(tls.id(0), unrouted(0))?;
    lab.backend(tls.id(1), unrouted(1))?;
    for port in 0..30 {
        let mut tls = tls.client_port(10_000 + port);
        tls.opened(lab)?;
        let packet = tls.up("PA", 0, 0).data(&tls.hello());
        let outcome = lab.tc(Port::Ext0, &packet.frame())?;
        // Two of three picks are in vain: that the third is as well happens to one in nine.
        if outcome.reasons == [Reason::NoRoute] {
            continue;
        }
        syn_to_any(&mut tls, &outcome, &packet)?;
        assert_eq!(tls.at, 2);
    }
    let picked = lab.backend_counter(tls.id(2))?.picked;
    ensure!(picked >= 20, "with a way to one of three backends {picked} of 30 connections came through");
    // The last one is lost, too, under the eyes of a connection.
    let mut tls = tls.client_port(20_000);
    lab.replace_set(tls.set, &[tls.id(2)], &[])?;
    tls.at = 2;
    tls.restart();
    let length = tls.connecting(lab)?.len() as u32;
    lab.backend(tls.id(2), unrouted(2))?;
    let reset = tls.sent_by_backend("RA", 0, tls.client_seq(0));
    let answer = tls.own("FPA", 0, length, 0).data(&alert(description::INTERNAL_ERROR));
    lab.tc(tls.place.port(), &reset.frame())?.answered(Reason::NoRoute, &answer);
    Ok(())
}

fn silent(lab: &mut Lab, version: Version, place: Place) -> Result<()> {
    let mut tls = three(lab, version, place)?;
    let packet = dialled(lab, &mut tls)?;
    let mut syns = vec![tls.at];
    let answer = tls.own("FPA", 0, tls.hello().len() as u32, 0).data(&alert(description::INTERNAL_ERROR));
    loop {
        tls.age(lab, SECOND)?;
        let outcome = lab.tc(Port::Ext0, &packet.frame())?;
        if outcome.reasons == [Reason::BackendSilent] {
            outcome.answered(Reason::BackendSilent, &answer);
            break;
        }
        syn_to_any(&mut tls, &outcome, &packet)?;
        syns.push(tls.at);
        assert!(syns.len() <= 6, "tried {syns:?}");
    }
    assert_eq!(syns.len(), 6, "two SYNs to each of three backends: {syns:?}");
    for pair in syns.chunks(2) {
        assert_eq!(pair[0], pair[1], "{syns:?}");
    }
    assert!(syns[1] != syns[2] && syns[3] != syns[4], "{syns:?}");
    assert_eq!(lab.flows(Table::Flows)?, vec![]);
    assert_eq!(lab.listener_counter(tls.by_name)?.refused, 1);
    Ok(())
}

fn alone(lab: &mut Lab, version: Version) -> Result<()> {
    let mut tls = Tls::new(lab, version, Place::Remote)?;
    tls.connecting(lab)?;
    let reset = tls.sent_by_backend("RA", 0, tls.client_seq(0));
    // It may be on its way up.
    tls.restart();
    let outcome = lab.tc(tls.place.port(), &reset.frame())?;
    syn_to_any(&mut tls, &outcome, &reset)?;
    tls.in_state(lab, flow_state::CONNECTING)
}

/// A backend that remembers an older connection from this port answers it, not the SYN (RFC 9293 section 3.10.7.4).
fn stranger(lab: &mut Lab, version: Version) -> Result<()> {
    let mut tls = Tls::new(lab, version, Place::Remote)?;
    let hello = tls.connecting(lab)?;
    for (flags, ack) in [("A", 12_345), ("SA", 54_321), ("A", tls.client_seq(1)), ("A", tls.client_seq(0))] {
        let answer = tls.sent_by_backend(flags, BACKEND_ISN + 77, ack);
        let outcome = lab.tc(tls.place.port(), &answer.frame())?;
        outcome.replied(&reset(&answer));
        tls.in_state(lab, flow_state::CONNECTING)?;
    }
    // The client's next segment makes the SYN again, at once.
    tls.connects(lab, &tls.up("PA", 0, 0).data(&hello))?;
    let piece = tls.first_piece(&hello);
    lab.tc(tls.place.port(), &tls.syn_ack().frame())?.forwarded(&piece);
    Ok(())
}

/// RFC 9293 section 3.10.7.3: a RST that does not acknowledge the SYN is nobody's.
fn wrong_reset(lab: &mut Lab, version: Version) -> Result<()> {
    let mut tls = Tls::new(lab, version, Place::Remote)?;
    tls.connecting(lab)?;
    for (flags, ack) in [("R", 0), ("R", tls.client_seq(0)), ("RA", tls.client_seq(1)), ("RA", 7)] {
        let reset = tls.sent_by_backend(flags, 0, ack);
        lab.tc(tls.place.port(), &reset.frame())?.consumed();
        tls.in_state(lab, flow_state::CONNECTING)?;
    }
    Ok(())
}

fn no_syn(lab: &mut Lab, version: Version) -> Result<()> {
    let mut tls = Tls::new(lab, version, Place::Remote)?;
    let hello = tls.connecting(lab)?;
    // Neither SYN nor ACK: dropped, and the flow waits on.
    for flags in ["", "P", "F", "S"] {
        let outcome = lab.tc(tls.place.port(), &tls.sent_by_backend(flags, BACKEND_ISN, 0).frame())?;
        outcome.consumed();
    }
    lab.tc(tls.place.port(), &tls.syn_ack().frame())?.forwarded(&tls.first_piece(&hello));
    Ok(())
}

/// 0-RTT: the client goes on before anybody has answered.
fn early_data(lab: &mut Lab, version: Version) -> Result<()> {
    let mut tls = Tls::new(lab, version, Place::Remote)?;
    let mut bytes = tls.connecting(lab)?;
    let length = bytes.len() as u32;
    let early = vec![0x77; 700];
    // Out of order and twice.
    lab.tc(Port::Ext0, &tls.up("PA", length + 300, 0).data(&early[300..]).frame())?.consumed();
    lab.tc(Port::Ext0, &tls.up("PA", length, 0).data(&early[..300]).frame())?.consumed();
    lab.tc(Port::Ext0, &tls.up("PA", length, 0).data(&early[..300]).frame())?.consumed();
    bytes.extend(early);
    let (_, kept) = lab.hello(&tls.forward_key())?.context("no slot")?;
    assert_eq!(kept.length as usize, bytes.len());
    lab.tc(tls.place.port(), &tls.syn_ack().frame())?.forwarded(&tls.first_piece(&bytes));
    Ok(())
}

/// However long a backend takes to answer: who sends what is new waits for nothing yet.
fn new_data(lab: &mut Lab, version: Version) -> Result<()> {
    let mut tls = Tls::new(lab, version, Place::Remote)?;
    let length = tls.connecting(lab)?.len() as u32;
    for i in 0..8 {
        tls.age(lab, SECOND)?;
        lab.tc(Port::Ext0, &tls.up("PA", length + i, 0).data(b"x").frame())?.consumed();
    }
    tls.age(lab, SECOND)?;
    tls.connects(lab, &tls.up("PA", length + 7, 0).data(b"x"))
}

fn client_resets(lab: &mut Lab, version: Version) -> Result<()> {
    let mut tls = Tls::new(lab, version, Place::Remote)?;
    let hello = tls.connecting(lab)?;
    lab.tc(Port::Ext0, &tls.up("R", 0x4000_0000, 0).frame())?.consumed();
    tls.in_state(lab, flow_state::CONNECTING)?;
    lab.tc(Port::Ext0, &tls.up("RA", hello.len() as u32, 0).frame())?.consumed();
    tls.nothing(lab)
}

/// RFC 5961 section 4: a SYN never removes a live flow.
fn client_syn(lab: &mut Lab, version: Version) -> Result<()> {
    for hook in Hook::BOTH {
        lab.reset()?;
        let mut tls = Tls::new(lab, version, Place::Remote)?;
        tls.connecting(lab)?;
        for isn in [tls.isn, tls.isn.wrapping_add(50_000)] {
            let syn = Tls { isn, ..tls.clone() }.syn();
            let outcome = lab.run(hook, Port::Ext0, &syn.frame())?;
            if hook == Hook::Xdp {
                outcome.untouched();
            } else {
                // What the backend has not got stays unacknowledged.
                outcome.replied(&tls.acknowledgement(0));
            }
            tls.in_state(lab, flow_state::CONNECTING)?;
        }
    }
    Ok(())
}

fn late_answer(lab: &mut Lab, version: Version) -> Result<()> {
    let mut tls = three(lab, version, Place::Remote)?;
    dialled(lab, &mut tls)?;
    let given_up = tls.clone();
    refused_by_one(lab, &mut tls)?;
    // The node answers it with RST: it comes to a port of its own that nobody has.
    lab.tc(tls.place.port(), &given_up.syn_ack().frame())?.untouched();
    lab.tc(tls.place.port(), &tls.syn_ack().frame())?.forwarded(&tls.first_piece(&tls.hello()));
    Ok(())
}

fn slot_taken(lab: &mut Lab, version: Version) -> Result<()> {
    for of_client in [true, false] {
        lab.reset()?;
        let mut tls = Tls::new(lab, version, Place::Remote)?;
        let hello = tls.connecting(lab)?;
        let (slot, mut kept) = lab.hello(&tls.forward_key())?.context("no slot")?;
        kept.client = FlowKey { source_port: 9, ..kept.client };
        lab.put_hello(slot, kept)?;
        let (port, packet) =
            if of_client { (Port::Ext0, tls.up("PA", 0, 0).data(&hello)) } else { (tls.place.port(), tls.syn_ack()) };
        lab.tc(port, &packet.frame())?.answered(Reason::HelloEvicted, &reset(&packet));
        let (told, untold) = (tls.forward_key(), tls.reply_key());
        let (told, untold) = if of_client { (told, untold) } else { (untold, told) };
        assert_eq!(lab.flow(&told)?, None);
        let (table, other) = lab.flow(&untold)?.context("the other end is forgotten untold")?;
        assert_eq!((table, other.state), (Table::Flows, flow_state::GONE));
        assert_eq!(lab.hello_at(slot)?.client.source_port, 9, "the other client keeps the slot");
    }
    Ok(())
}

fn ports_exhausted(lab: &mut Lab, version: Version) -> Result<()> {
    let mut tls = Tls::new(lab, version, Place::Remote)?;
    // Every port towards the backend is somebody's.
    let (_, template, _) = {
        let mut other = tls.client_port(50_000);
        other.connecting(lab)?;
        other.halves(lab)?
    };
    for port in (1_024..=32_767).chain(61_000..=65_535) {
        let peer = port_of(tls.peer.ip(), port);
        lab.put_flow(Table::Flows, &key(tls.backends[0], peer, TCP), &template)?;
    }
    tls.opened(lab)?;
    let packet = tls.up("PA", 0, 0).data(&tls.hello());
    lab.tc(Port::Ext0, &packet.frame())?.answered(Reason::PortsExhausted, &reset(&packet));
    assert_eq!(lab.flow(&tls.forward_key())?, None);
    assert!(lab.hello(&tls.forward_key())?.is_none());
    assert_eq!(lab.listener_counter(tls.by_name)?.refused, 1);
    Ok(())
}

/// A connection takes both of its halves, or none.
fn table_full(_: &mut Lab, version: Version) -> Result<()> {
    for room in [1, 2, 3] {
        let mut lab = Lab::with_sizes(&[(gateway_common::names::FLOWS, room)])?;
        let lab = &mut lab;
        let mut tls = Tls::new(lab, version, Place::Remote)?;
        if room > 1 {
            tls.connecting(lab)?;
            tls = tls.client_port(40_001);
        }
        let flows = lab.flows(Table::Flows)?.len();
        tls.opened(lab)?;
        let packet = tls.up("PA", 0, 0).data(&tls.hello());
        lab.tc(Port::Ext0, &packet.frame())?.answered(Reason::FlowTableFull, &reset(&packet));
        assert_eq!(lab.flow(&tls.forward_key())?, None);
        assert_eq!(lab.flows(Table::Flows)?.len(), flows);
        assert!(lab.hello(&tls.forward_key())?.is_none());
    }
    Ok(())
}

fn events(lab: &mut Lab, version: Version) -> Result<()> {
    let mut tls = three(lab, version, Place::Remote)?;
    lab.configure(Config { events: 1, ..Config::default() })?;
    dialled(lab, &mut tls)?;
    let refused_by = tls.id(tls.at);
    refused_by_one(lab, &mut tls)?;
    let told: Vec<_> = lab.events()?.iter().map(|e| (e.kind, e.listener, e.backend)).collect();
    let takes = tls.id(tls.at);
    assert_eq!(
        told,
        [
            (event_kind::OPENED, tls.by_name, refused_by),
            (event_kind::RETRIED, tls.by_name, refused_by),
            (event_kind::OPENED, tls.by_name, takes)
        ]
    );
    Ok(())
}
