//! The life of a UDP flow through the gateway.

use anyhow::Result;
use gateway_common::{Config, flow_flags, flow_state, protocol::UDP};

use crate::cases::Cases;
use crate::lab::{Lab, Table};
use crate::net::{Port, Version, port_of};
use crate::scene::{Place, Scene};

pub fn add(cases: &mut Cases) {
    for place in Place::ALL {
        cases.each(&format!("udp/request_reply_request_{place:?}"), move |lab, v| whole_life(lab, v, place));
    }
    cases.each("udp/requests_without_an_answer_stay_embryonic", no_answer);
    cases.each("udp/answers_alone_do_not_promote", answers_alone);
    cases.each("udp/empty_and_odd_datagrams", lengths);
    cases.one("udp/absent_checksum_stays_absent_v4", |lab| absent_checksum(lab, Version::V4));
    cases.each("udp/checksum_that_comes_out_as_zero_is_sent_as_ffff", checksum_ffff);
    cases.each("udp/hairpin", hairpin);
    cases.each("udp/idle_time_of_a_flow_is_of_its_state", idle);
}

fn whole_life(lab: &mut Lab, version: Version, place: Place) -> Result<()> {
    let mut scene = Scene::new(lab, version, UDP, place)?;
    scene.start(lab, &scene.request(b"one"))?;
    let halves = scene.halves(lab)?;
    assert_eq!((halves.table, halves.forward.state), (Table::Embryonic, flow_state::NEW));

    scene.backend_sends(lab, &scene.response(b"answer"))?;
    let halves = scene.halves(lab)?;
    assert_eq!((halves.table, halves.forward.state), (Table::Embryonic, flow_state::NEW));
    assert_ne!((halves.forward.flags | halves.reply.flags) & flow_flags::REPLIED, 0);

    scene.client_sends(lab, &scene.request(b"two"))?;
    let halves = scene.halves(lab)?;
    assert_eq!((halves.table, halves.forward.state), (Table::Flows, flow_state::ESTABLISHED));
    for i in 0..4 {
        scene.client_sends(lab, &scene.request(&vec![i; 1200 - i as usize]))?;
        scene.backend_sends(lab, &scene.response(&vec![i; 1300 + i as usize]))?;
    }
    Ok(())
}

/// A flood from forged addresses stays where it can be evicted.
fn no_answer(lab: &mut Lab, version: Version) -> Result<()> {
    let mut scene = Scene::new(lab, version, UDP, Place::Remote)?;
    scene.start(lab, &scene.request(b"one"))?;
    for _ in 0..3 {
        scene.client_sends(lab, &scene.request(b"again"))?;
    }
    assert_eq!(scene.halves(lab)?.table, Table::Embryonic);
    Ok(())
}

fn answers_alone(lab: &mut Lab, version: Version) -> Result<()> {
    let mut scene = Scene::new(lab, version, UDP, Place::Pod)?;
    scene.start(lab, &scene.request(b"one"))?;
    for _ in 0..3 {
        scene.backend_sends(lab, &scene.response(b"amplified"))?;
    }
    assert_eq!(scene.halves(lab)?.table, Table::Embryonic);
    Ok(())
}

fn lengths(lab: &mut Lab, version: Version) -> Result<()> {
    let mut scene = Scene::new(lab, version, UDP, Place::Remote)?;
    scene.start(lab, &scene.request(b""))?;
    for length in [1, 2, 3, 17, 18, 19, 511] {
        scene.client_sends(lab, &scene.request(&vec![0xa5; length]))?;
        scene.backend_sends(lab, &scene.response(&vec![0x5a; length]))?;
    }
    // Ethernet pads what is below 60 bytes; the padding is no part of the datagram.
    let mut padded = scene.request(b"x");
    padded.padding = 17;
    scene.client_sends(lab, &padded)?;
    Ok(())
}

/// RFC 768: zero means that the sender made no checksum.
fn absent_checksum(lab: &mut Lab, version: Version) -> Result<()> {
    let mut scene = Scene::new(lab, version, UDP, Place::Remote)?;
    scene.start(lab, &scene.request(b"no sum").without_checksum())?;
    scene.backend_sends(lab, &scene.response(b"none here").without_checksum())?;
    scene.client_sends(lab, &scene.request(b"no sum").without_checksum())?;
    scene.client_sends(lab, &scene.request(b"now with one"))?;
    lab.xdp_ports(&[Port::Ext1])?;
    scene.age_routes(lab, 0)?;
    for request in [scene.request(b"still no sum").without_checksum(), scene.request(b"and one")] {
        lab.xdp(Port::Ext0, &request.frame())?.forwarded(&scene.forwarded(&request));
    }
    Ok(())
}

/// RFC 768: a sum of zero is sent as all ones, or it would mean that there is none.
fn checksum_ffff(lab: &mut Lab, version: Version) -> Result<()> {
    lab.xdp_ports(&[Port::Ext1])?;
    let mut scene = Scene::new(lab, version, UDP, Place::Remote)?;
    scene.establish(lab)?;
    let (mut becomes, mut was) = (0, 0);
    for filler in 0..=u16::MAX {
        let request = scene.request(&filler.to_be_bytes());
        let wanted = scene.forwarded(&request);
        let (before, after) = (request.transport()[6..8] == [0xff; 2], wanted.transport()[6..8] == [0xff; 2]);
        if before || after {
            scene.age_routes(lab, 0)?;
            lab.tc(Port::Ext0, &request.frame())?.forwarded(&wanted);
            lab.xdp(Port::Ext0, &request.frame())?.forwarded(&wanted);
        }
        becomes += u32::from(after);
        was += u32::from(before);
    }
    assert!(becomes > 0 && was > 0, "no payload has the wanted sum");
    Ok(())
}

fn hairpin(lab: &mut Lab, version: Version) -> Result<()> {
    let mut scene = Scene::new(lab, version, UDP, Place::Pod)?;
    scene.client = port_of(version.pod(), 5353);
    scene.peer = port_of(Place::Pod.source(version), 0);
    let request = scene.request(b"to myself").macs(Port::Pod0.peer_mac(), Port::Pod0.mac());
    let outcome = lab.tc(Port::Pod0, &request.frame())?;
    scene.learn(&outcome, &request)?;
    outcome.forwarded(&scene.forwarded(&request));
    let answer = scene.response(b"from myself");
    lab.tc(Port::Pod0, &answer.frame())?.forwarded(&scene.returned(&answer));
    Ok(())
}

fn idle(lab: &mut Lab, version: Version) -> Result<()> {
    const S: u64 = 1_000_000_000;
    lab.configure(Config { udp_new: 3 * S, udp_established: 9 * S, ..Config::default() })?;
    let mut scene = Scene::new(lab, version, UDP, Place::Remote)?;
    scene.start(lab, &scene.request(b"one"))?;
    scene.age(lab, 2 * S)?;
    lab.sweep()?;
    scene.backend_sends(lab, &scene.response(b"just in time"))?;
    scene.age(lab, 4 * S)?;
    lab.sweep()?;
    scene.gone(lab)?;

    let mut scene = Scene { peer: port_of(scene.peer.ip(), 0), ..scene };
    scene.establish(lab)?;
    scene.age(lab, 8 * S)?;
    lab.sweep()?;
    scene.client_sends(lab, &scene.request(b"just in time"))?;
    scene.age(lab, 10 * S)?;
    lab.sweep()?;
    scene.gone(lab)
}
