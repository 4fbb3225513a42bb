//! What is counted and what EVENTS says.

use anyhow::Result;
use gateway_common::{
    Config, Reason, event_kind, flow_state, names,
    protocol::{TCP, UDP},
    slot,
};

use crate::cases::Cases;
use crate::lab::{Lab, now};
use crate::net::{Port, Version, port_of};
use crate::scene::{BACKEND, BACKEND_ISN, CLIENT_ISN, Place, Scene, key};

const C: u32 = CLIENT_ISN + 1;
const B: u32 = BACKEND_ISN.wrapping_add(1);
const ON: u32 = 1;

pub fn add(cases: &mut Cases) {
    cases.each("events/opened_and_closed", opened_and_closed);
    cases.each("events/reset_and_expired", reset_and_expired);
    cases.each("events/refused", refused);
    cases.each("events/none_unless_asked", none_unless_asked);
    cases.each("counters/packets_and_bytes", packets_and_bytes);
    cases.each("counters/merged_segments_count_as_packets", merged_segments);
    cases.each("counters/refused_and_picked", refused_and_picked);
}

fn configure(lab: &mut Lab) -> Result<()> {
    lab.configure(Config { events: ON, ..Config::default() })
}

fn opened_and_closed(lab: &mut Lab, version: Version) -> Result<()> {
    configure(lab)?;
    let mut scene = Scene::new(lab, version, TCP, Place::Remote)?;
    let before = now()?;
    scene.establish(lab)?;
    let events = lab.events()?;
    assert_eq!(events.len(), 1, "{events:?}");
    let opened = events[0];
    assert_eq!(opened.kind, event_kind::OPENED);
    assert_eq!((opened.client, opened.listener, opened.backend), (scene.forward_key(), scene.listener, BACKEND));
    assert!(opened.time >= before && opened.time <= now()? + 1_000_000_000, "{} is not now", opened.time);

    scene.client_sends(lab, &scene.up("PA", C, B).data(&[1; 100]))?;
    scene.backend_sends(lab, &scene.down("PA", B, C + 100).data(&[1; 1000]))?;
    scene.client_sends(lab, &scene.up("FA", C + 100, B))?;
    scene.backend_sends(lab, &scene.down("FA", B.wrapping_add(1000), C + 101))?;
    let halves = scene.halves(lab)?;
    let events = lab.events()?;
    assert_eq!(events.len(), 1, "{events:?}");
    let closed = events[0];
    assert_eq!((closed.kind, closed.detail), (event_kind::CLOSED, u32::from(flow_state::CLOSED)));
    assert_eq!((closed.client, closed.listener, closed.backend), (scene.forward_key(), scene.listener, BACKEND));
    // SYN with 20 bytes of options, two ACKs' worth of headers, 100 bytes, FIN; and the way back.
    let header = version.header() as u64 + 20;
    assert_eq!((closed.bytes_in, closed.bytes_out), (4 * header + 20 + 100, 3 * header + 1000));
    assert_eq!(closed.packets, 7);
    assert_eq!((halves.forward.packets, halves.reply.packets), (4, 3));
    Ok(())
}

fn reset_and_expired(lab: &mut Lab, version: Version) -> Result<()> {
    configure(lab)?;
    let mut scene = Scene::new(lab, version, TCP, Place::Pod)?;
    scene.establish(lab)?;
    scene.client_sends(lab, &scene.up("R", C, 0))?;
    let events = lab.events()?;
    assert_eq!(events.iter().map(|e| e.kind).collect::<Vec<_>>(), [event_kind::OPENED, event_kind::CLOSED]);
    assert_eq!(events[1].detail, u32::from(flow_state::RESET));

    lab.reset()?;
    configure(lab)?;
    let mut scene = Scene::new(lab, version, UDP, Place::Remote)?;
    scene.establish(lab)?;
    scene.age(lab, Config::default().udp_established + 1_000_000_000)?;
    lab.sweep()?;
    scene.gone(lab)?;
    let events = lab.events()?;
    assert_eq!(events.iter().map(|e| e.kind).collect::<Vec<_>>(), [event_kind::OPENED, event_kind::CLOSED]);
    assert_eq!((events[1].client, events[1].detail), (scene.forward_key(), u32::from(flow_state::ESTABLISHED)));
    let counter = lab.listener_counter(scene.listener)?;
    assert_eq!((counter.picked, counter.established, counter.closed), (1, 1, 1));
    Ok(())
}

fn refused(lab: &mut Lab, version: Version) -> Result<()> {
    configure(lab)?;
    let scene = Scene::new(lab, version, TCP, Place::Pod)?;
    let closed_port = port_of(version.gateway(), 81);
    lab.tc(Port::Ext0, &scene.opening().to(closed_port).frame())?;
    lab.replace_set(scene.set, &[slot::INVALID], &[])?;
    lab.tc(Port::Ext0, &scene.opening().frame())?;
    let events = lab.events()?;
    let got: Vec<_> = events.iter().map(|e| (e.kind, e.detail, e.listener, e.backend, e.client)).collect();
    let wanted = [
        (event_kind::REFUSED, Reason::NoListener as u32, 0, 0, key(scene.client, closed_port, TCP)),
        (event_kind::REFUSED, Reason::InvalidBackend as u32, scene.listener, 0, scene.forward_key()),
    ];
    assert_eq!(got, wanted);
    Ok(())
}

fn none_unless_asked(lab: &mut Lab, version: Version) -> Result<()> {
    let mut scene = Scene::new(lab, version, TCP, Place::Pod)?;
    scene.establish(lab)?;
    lab.tc(Port::Ext0, &scene.opening().to(port_of(version.gateway(), 81)).frame())?;
    scene.client_sends(lab, &scene.up("R", C, 0))?;
    assert_eq!(lab.events()?, []);
    Ok(())
}

fn packets_and_bytes(lab: &mut Lab, version: Version) -> Result<()> {
    let mut scene = Scene::new(lab, version, UDP, Place::Remote)?;
    scene.establish(lab)?;
    let listener = lab.listener_counter(scene.listener)?;
    for length in [0, 1, 1200] {
        let mut request = scene.request(&vec![1; length]);
        request.padding = if length == 0 { 18 } else { 0 };
        scene.client_sends(lab, &request)?;
        scene.backend_sends(lab, &scene.response(&vec![1; length / 2]))?;
    }
    let header = version.header() as u64 + 8;
    let after = lab.listener_counter(scene.listener)?;
    assert_eq!(after.packets_in - listener.packets_in, 3);
    assert_eq!(after.packets_out - listener.packets_out, 3);
    assert_eq!(after.bytes_in - listener.bytes_in, 3 * header + 1201, "bytes of IP packets, without padding");
    assert_eq!(after.bytes_out - listener.bytes_out, 3 * header + 600);
    let backend = lab.backend_counter(BACKEND)?;
    assert_eq!((backend.picked, backend.established, backend.closed), (1, 1, 0));
    assert_eq!((backend.packets_in, backend.bytes_in), (after.packets_in, after.bytes_in));
    assert_eq!((backend.packets_out, backend.bytes_out), (after.packets_out, after.bytes_out));
    Ok(())
}

/// The wire carries the headers of each segment.
fn merged_segments(lab: &mut Lab, version: Version) -> Result<()> {
    let mut scene = Scene::new(lab, version, TCP, Place::Pod)?;
    scene.establish(lab)?;
    let before = lab.listener_counter(scene.listener)?;
    let merged = scene.up("PA", C, B).data(&[3; 2_500]);
    lab.tc_segmented(Port::Ext0, &merged.frame(), 1_000)?.forwarded(&scene.forwarded(&merged));
    let after = lab.listener_counter(scene.listener)?;
    let headers = version.header() as u64 + 20;
    assert_eq!(after.packets_in - before.packets_in, 3);
    assert_eq!(after.bytes_in - before.bytes_in, 2_500 + 3 * headers);
    Ok(())
}

fn refused_and_picked(lab: &mut Lab, version: Version) -> Result<()> {
    let mut scene = Scene::new(lab, version, TCP, Place::Pod)?;
    scene.start(lab, &scene.opening())?;
    let counter = lab.listener_counter(scene.listener)?;
    assert_eq!((counter.picked, counter.established, counter.closed, counter.refused), (1, 0, 0, 0));
    scene.client_sends(lab, &scene.opening())?;
    assert_eq!(lab.listener_counter(scene.listener)?.picked, 1, "a SYN again is no new flow");
    scene.backend_sends(lab, &scene.opening_answer())?;
    scene.client_sends(lab, &scene.confirmation())?;
    assert_eq!(lab.listener_counter(scene.listener)?.established, 1);
    scene.client_sends(lab, &scene.up("FA", C, B))?;
    assert_eq!(lab.listener_counter(scene.listener)?.closed, 0);
    scene.backend_sends(lab, &scene.down("FA", B, C + 1))?;
    assert_eq!(lab.listener_counter(scene.listener)?.closed, 1);
    lab.replace_set(scene.set, &[slot::EMPTY], &[])?;
    lab.tc(Port::Ext0, &scene.client_port(50_000).opening().frame())?;
    assert_eq!(lab.listener_counter(scene.listener)?.refused, 1);
    Ok(())
}

/// A reader that does not read loses events, never packets.
pub fn full(_: &mut Lab) -> Result<()> {
    let mut lab = Lab::with_sizes(&[(names::EVENTS, 4096)])?;
    configure(&mut lab)?;
    let version = Version::V4;
    let scene = Scene::new(&mut lab, version, TCP, Place::Pod)?;
    for n in 0..200 {
        scene.client_port(1_024 + n).establish(&mut lab)?;
    }
    let lost = lab.events_lost()?;
    let written = lab.events()?.len() as u64;
    assert!(written > 0 && lost > 0, "{written} written, {lost} lost");
    assert_eq!(written + lost, 200);
    Ok(())
}
