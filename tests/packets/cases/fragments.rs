//! Fragmented datagrams: every piece goes where the first one goes, in whatever order they come.

use std::net::UdpSocket;
use std::time::Duration;

use anyhow::{Context, Result};
use gateway_common::{FRAGMENT_SECONDS, FragmentTrack, HELD_PER_DATAGRAM, Reason, protocol::UDP};

use crate::answer::Error;
use crate::cases::Cases;
use crate::lab::{Lab, Table};
use crate::net::{Port, Version, port_of};
use crate::outcome::{Outcome, Went};
use crate::packet::{Packet, extension};
use crate::scene::{Place, Scene};
use crate::wire::Wire;

/// Where a datagram of 3,000 bytes is cut.
const CUTS: [usize; 2] = [1200, 2400];

pub fn add(cases: &mut Cases) {
    for place in Place::ALL {
        cases.each(&format!("fragments/in_order_{place:?}"), move |lab, v| in_order(lab, v, place));
        for (name, order) in [("last_middle_first", [2, 1, 0]), ("middle_first_last", [1, 0, 2])] {
            cases.each(&format!("fragments/{name}_{place:?}"), move |lab, v| out_of_order(lab, v, place, order));
            cases.each(&format!("fragments/reply_{name}_{place:?}"), move |lab, v| {
                reply_out_of_order(lab, v, place, order)
            });
        }
    }
    cases.each("fragments/that_come_before_their_flow", before_the_flow);
    cases.each("fragments/of_two_datagrams_do_not_mix", two_datagrams);
    cases.each("fragments/too_many_before_the_first", too_many);
    cases.each("fragments/too_large_to_hold", too_large);
    cases.each("fragments/refused_datagram", refused);
    cases.each("fragments/ttl_runs_out", ttl);
    cases.one("fragments/with_other_ipv6_extensions", with_extensions);
    cases.one("fragments/with_ipv4_options", with_options);
    cases.each("fragments/to_a_shared_address", shared_address);
    cases.each("fragments/of_a_new_datagram_with_an_old_id", old_id);
    cases.each("fragments/of_the_nodes_own_datagrams_arrive", the_nodes_own);
    cases.each("fragments/of_others_pass_in_any_order", others_pass);
}

fn payload() -> Vec<u8> {
    (0..2992_u32).map(|i| (i * 7) as u8).collect()
}

/// A fragment waits: nothing is counted, nothing is sent.
#[track_caller]
fn held(outcome: &Outcome) {
    assert_eq!((outcome.went(), &outcome.reasons[..]), (Went::Dropped, &[][..]), "a held fragment");
}

fn in_order(lab: &mut Lab, version: Version, place: Place) -> Result<()> {
    let mut scene = Scene::new(lab, version, UDP, place)?;
    let request = scene.request(&payload());
    let frames = request.fragments(0xabcd, &CUTS);
    let outcome = lab.tc(Port::Ext0, &frames[0])?;
    if scene.peer.port() == 0 {
        // The transport header follows the fragment header.
        let skip = if version == Version::V6 { 8 } else { 0 };
        let at = 14 + version.header() + skip;
        scene.peer.set_port(u16::from_be_bytes([outcome.frame[at], outcome.frame[at + 1]]));
    }
    let wanted = scene.forwarded(&request).fragments(0xabcd, &CUTS);
    outcome.forwarded_frame(&wanted[0]);
    assert_eq!(scene.halves(lab)?.table, Table::Embryonic);
    lab.tc(Port::Ext0, &frames[1])?.forwarded_frame(&wanted[1]);
    lab.tc(Port::Ext0, &frames[2])?.forwarded_frame(&wanted[2]);
    lab.tc(Port::Ext0, &frames[1])?.forwarded_frame(&wanted[1]);

    let answer = scene.response(&payload());
    let wanted = scene.returned(&answer).fragments(0x77, &CUTS);
    for (frame, wanted) in answer.fragments(0x77, &CUTS).iter().zip(&wanted) {
        lab.tc(place.port(), frame)?.forwarded_frame(wanted);
    }
    Ok(())
}

fn out_of_order(lab: &mut Lab, version: Version, place: Place, order: [usize; 3]) -> Result<()> {
    let mut scene = Scene::new(lab, version, UDP, place)?;
    scene.establish(lab)?;
    let request = scene.request(&payload());
    let wanted = scene.forwarded(&request).fragments(0xabcd, &CUTS);
    all_arrive(lab, Port::Ext0, &request.fragments(0xabcd, &CUTS), place.port(), wanted, order)
}

/// The datagram that opens the flow comes in the wrong order.
fn before_the_flow(lab: &mut Lab, version: Version) -> Result<()> {
    for order in [[2, 1, 0], [1, 0, 2]] {
        lab.reset()?;
        let scene = Scene::new(lab, version, UDP, Place::Pod)?;
        let request = scene.request(&payload());
        let wanted = scene.forwarded(&request).fragments(0xabcd, &CUTS);
        all_arrive(lab, Port::Ext0, &request.fragments(0xabcd, &CUTS), Port::Pod0, wanted, order)?;
        assert_eq!(scene.halves(lab)?.table, Table::Embryonic);
    }
    Ok(())
}

fn reply_out_of_order(lab: &mut Lab, version: Version, place: Place, order: [usize; 3]) -> Result<()> {
    let mut scene = Scene::new(lab, version, UDP, place)?;
    scene.establish(lab)?;
    let answer = scene.response(&payload());
    let wanted = scene.returned(&answer).fragments(0xabcd, &CUTS);
    all_arrive(lab, place.port(), &answer.fragments(0xabcd, &CUTS), Port::Ext0, wanted, order)
}

/// Every fragment goes out once: as the outcome of a run, or on the wire where one run sends several.
fn all_arrive(
    lab: &mut Lab,
    port: Port,
    frames: &[Vec<u8>],
    way_out: Port,
    wanted: Vec<Vec<u8>>,
    order: [usize; 3],
) -> Result<()> {
    let mut wire = Wire::open(way_out)?;
    let mut sent = Vec::new();
    let mut first_came = false;
    for i in order {
        first_came |= i == 0;
        let outcome = lab.tc(port, &frames[i])?;
        if first_came {
            assert_eq!((outcome.went(), &outcome.reasons[..]), (Went::Out, &[][..]), "fragment {i}");
            sent.push(outcome.frame);
        } else {
            held(&outcome);
        }
    }
    // One of those that waited is the outcome of the first one's run.
    let waited = order.iter().take_while(|i| **i != 0).count();
    sent.extend(wire.received(waited));
    let network = |frames: Vec<Vec<u8>>| -> std::collections::BTreeSet<Vec<u8>> {
        frames.into_iter().map(|frame| frame[12..].to_vec()).collect()
    };
    assert_eq!(sent.len(), 3, "every fragment goes out once");
    assert_eq!(network(sent), network(wanted));
    assert_eq!(lab.held()?, 0, "nothing is held any longer");
    Ok(())
}

fn two_datagrams(lab: &mut Lab, version: Version) -> Result<()> {
    let mut scene = Scene::new(lab, version, UDP, Place::Remote)?;
    scene.establish(lab)?;
    let mut other = scene.client_port(40_001);
    other.peer.set_port(0);
    other.establish(lab)?;
    let (one, two) = (scene.request(&[1; 2000]), other.request(&[2; 2000]));
    let cut = [1000];
    let frames = [one.fragments(5, &cut), two.fragments(6, &cut)];
    let wanted = [scene.forwarded(&one).fragments(5, &cut), other.forwarded(&two).fragments(6, &cut)];
    for (datagram, piece) in [(0, 0), (1, 0), (0, 1), (1, 1)] {
        lab.tc(Port::Ext0, &frames[datagram][piece])?.forwarded_frame(&wanted[datagram][piece]);
    }
    Ok(())
}

fn too_many(lab: &mut Lab, version: Version) -> Result<()> {
    let scene = Scene::new(lab, version, UDP, Place::Pod)?;
    let most = HELD_PER_DATAGRAM as usize;
    let cuts: Vec<usize> = (1..=most + 1).map(|i| i * 64).collect();
    let frames = scene.request(&vec![9; 64 * (most + 2)]).fragments(1, &cuts);
    for frame in &frames[1..=most] {
        held(&lab.tc(Port::Ext0, frame)?);
    }
    assert_eq!(lab.held()?, most);
    lab.tc(Port::Ext0, &frames[most + 1])?.dropped(Reason::FragmentUnmatched);
    Ok(())
}

fn too_large(lab: &mut Lab, version: Version) -> Result<()> {
    let scene = Scene::new(lab, version, UDP, Place::Pod)?;
    let frames = scene.request(&[9; 3000]).fragments(1, &[1000]);
    lab.tc(Port::Ext0, &frames[1])?.dropped(Reason::FragmentUnmatched);
    assert_eq!(lab.held()?, 0);
    Ok(())
}

/// The first fragment has the ports, so it gets the answer; what follows ends without one (RFC 1122 section 3.2.2).
fn refused(lab: &mut Lab, version: Version) -> Result<()> {
    let scene = Scene::new(lab, version, UDP, Place::Pod)?;
    let request = scene.request(&payload()).to(port_of(version.gateway(), 81));
    let frames = request.fragments(1, &CUTS);
    lab.tc(Port::Ext0, &frames[0])?.answered_quoting(
        Reason::NoListener,
        Error::PortUnreachable,
        &request,
        &frames[0][14..],
    );
    for frame in &frames[1..] {
        assert_eq!(lab.tc(Port::Ext0, frame)?.went(), Went::Dropped);
    }
    Ok(())
}

/// Only the first fragment is answered (RFC 1812 section 4.3.2.7).
fn ttl(lab: &mut Lab, version: Version) -> Result<()> {
    let mut scene = Scene::new(lab, version, UDP, Place::Pod)?;
    scene.establish(lab)?;
    let request = scene.request(&payload()).ttl(1);
    let frames = request.fragments(1, &CUTS);
    lab.tc(Port::Ext0, &frames[0])?.answered_quoting(
        Reason::TtlExpired,
        Error::TimeExceeded,
        &request,
        &frames[0][14..],
    );
    let alive = scene.request(&payload());
    let wanted = scene.forwarded(&alive).fragments(2, &CUTS);
    lab.tc(Port::Ext0, &alive.fragments(2, &CUTS)[0])?.forwarded_frame(&wanted[0]);
    lab.tc(Port::Ext0, &request.fragments(2, &CUTS)[1])?.dropped(Reason::TtlExpired);
    Ok(())
}

fn pass_with(lab: &mut Lab, version: Version, change: impl Fn(Packet) -> Packet) -> Result<()> {
    let mut scene = Scene::new(lab, version, UDP, Place::Remote)?;
    scene.establish(lab)?;
    let request = change(scene.request(&payload()));
    let wanted = scene.forwarded(&request).fragments(3, &CUTS);
    for (frame, wanted) in request.fragments(3, &CUTS).iter().zip(&wanted) {
        lab.tc(Port::Ext0, frame)?.forwarded_frame(wanted);
    }
    Ok(())
}

fn with_extensions(lab: &mut Lab) -> Result<()> {
    pass_with(lab, Version::V6, |packet| {
        packet
            .extension(extension::HOP_BY_HOP, &[5, 2, 0, 0, 1, 0])
            .extension(extension::DESTINATION, &[1, 4, 0, 0, 0, 0])
    })
}

fn with_options(lab: &mut Lab) -> Result<()> {
    pass_with(lab, Version::V4, |packet| Packet { options: vec![0x94, 4, 0, 0], ..packet })
}

/// Gateways on the node's own address.
fn shared_address(lab: &mut Lab, version: Version) -> Result<()> {
    for order in [[0, 1, 2], [2, 1, 0]] {
        lab.reset()?;
        let mut scene = Scene::new(lab, version, UDP, Place::Pod)?;
        scene.gateway = port_of(version.node(), 80);
        lab.shared(version.node())?;
        scene.listener = lab.listener(scene.gateway, UDP, scene.set)?;
        scene.establish(lab)?;
        let request = scene.request(&payload());
        let wanted = scene.forwarded(&request).fragments(4, &CUTS);
        all_arrive(lab, Port::Ext0, &request.fragments(4, &CUTS), Port::Pod0, wanted, order)?;
    }
    Ok(())
}

/// Ids come round again (RFC 6864): what an older datagram of the same id left behind is not followed.
fn old_id(lab: &mut Lab, version: Version) -> Result<()> {
    let mut old = Scene::new(lab, version, UDP, Place::Remote)?;
    old.establish(lab)?;
    let mut new = old.client_port(40_001);
    new.peer.set_port(0);
    new.establish(lab)?;
    let (before, after) = (old.request(&payload()), new.request(&payload()));
    for frame in before.fragments(9, &CUTS) {
        lab.tc(Port::Ext0, &frame)?;
    }
    for (key, track) in lab.fragments()?.into_iter().filter(|(_, track)| track.flow == old.forward_key()) {
        let since = track.since.checked_sub(FRAGMENT_SECONDS + 2).context("the machine has not run that long")?;
        lab.put_fragment(&key, &FragmentTrack { since, ..track })?;
    }
    let wanted = new.forwarded(&after).fragments(9, &CUTS);
    all_arrive(lab, Port::Ext0, &after.fragments(9, &CUTS), Port::Ext1, wanted, [1, 0, 2])
}

/// What was held for an address that is shared, and is the node's, reaches its socket whole.
fn the_nodes_own(lab: &mut Lab, version: Version) -> Result<()> {
    for (id, order) in [(1, [0, 1, 2]), (2, [2, 0, 1]), (3, [2, 1, 0])] {
        lab.reset()?;
        lab.attach()?;
        let scene = Scene::new(lab, version, UDP, Place::Pod)?;
        lab.shared(version.node())?;
        let own = port_of(version.node(), 5_300);
        let socket = UdpSocket::bind(own)?;
        socket.set_read_timeout(Some(Duration::from_secs(1)))?;
        let request = scene.request(&payload()).to(own);
        let frames = request.fragments(id, &CUTS);
        let mut client = Wire::open(Port::Ext0)?;
        for i in order {
            client.send(&frames[i])?;
        }
        let mut buffer = vec![0; 4096];
        let (length, from) = socket.recv_from(&mut buffer).with_context(|| format!("sent in the order {order:?}"))?;
        assert_eq!((&buffer[..length], from), (&payload()[..], scene.client));
    }
    Ok(())
}

fn others_pass(lab: &mut Lab, version: Version) -> Result<()> {
    let scene = Scene::new(lab, version, UDP, Place::Pod)?;
    lab.shared(version.node())?;
    let elsewhere = scene.request(&payload()).to(port_of(version.remote(), 53)).fragments(1, &CUTS);
    for i in [2, 1, 0] {
        lab.tc(Port::Ext0, &elsewhere[i])?.untouched();
    }
    // The first one decides for what follows it.
    let own = scene.request(&payload()).to(port_of(version.node(), 5_300)).fragments(2, &CUTS);
    for frame in &own {
        lab.tc(Port::Ext0, frame)?.untouched();
    }
    Ok(())
}
