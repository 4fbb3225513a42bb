//! The life of a TCP connection through the gateway.

use anyhow::Result;
use gateway_common::{Reason, flow_flags, flow_state, protocol::TCP};

use crate::answer::reset;
use crate::cases::Cases;
use crate::lab::{Lab, Table};
use crate::net::{Port, Version, port_of};
use crate::scene::{BACKEND_ISN, CLIENT_ISN, Place, Scene};

/// Numbers after the handshake.
const C: u32 = CLIENT_ISN + 1;
const B: u32 = BACKEND_ISN.wrapping_add(1);

pub fn add(cases: &mut Cases) {
    for place in Place::ALL {
        cases.each(&format!("tcp/handshake_data_and_close_{place:?}"), move |lab, v| whole_life(lab, v, place));
    }
    cases.each("tcp/syn_again_takes_the_same_way", syn_again);
    cases.each("tcp/syn_and_syn_ack_leave_the_flow_embryonic", not_before_the_ack);
    cases.each("tcp/forged_ack_does_not_promote", forged_ack);
    cases.each("tcp/reset_and_forged_ack_do_not_promote", reset_then_ack);
    cases.each("tcp/first_data_instead_of_a_bare_ack_promotes", data_confirms);
    cases.each("tcp/backend_refuses", backend_refuses);
    cases.each("tcp/half_closed_connection_goes_on", half_close);
    cases.each("tcp/simultaneous_close", simultaneous_close);
    cases.each("tcp/retransmitted_fin_still_passes", fin_again);
    cases.each("tcp/reset_by_the_client", |lab, v| reset_by(lab, v, true));
    cases.each("tcp/reset_by_the_backend", |lab, v| reset_by(lab, v, false));
    cases.each("tcp/connection_goes_on_after_a_forged_reset", forged_reset);
    cases.each("tcp/syn_on_an_established_flow_goes_to_its_backend", syn_on_established);
    cases.each("tcp/port_used_again_after_close", port_used_again);
    cases.each("tcp/urgent_data_options_and_ecn_pass", urgent_and_options);
    cases.each("tcp/hairpin", hairpin);
    cases.each("tcp/replies_are_translated_on_any_interface", reply_elsewhere);
    cases.each("tcp/fragments_of_a_segment", fragments);
    cases.each("tcp/running_connection_keeps_its_backend", keeps_its_backend);
}

fn whole_life(lab: &mut Lab, version: Version, place: Place) -> Result<()> {
    let mut scene = Scene::new(lab, version, TCP, place)?;
    scene.start(lab, &scene.opening())?;
    let halves = scene.halves(lab)?;
    assert_eq!((halves.table, halves.forward.state), (Table::Embryonic, flow_state::NEW));
    assert_eq!(halves.forward.flags & flow_flags::REPLIED, 0);

    scene.backend_sends(lab, &scene.opening_answer())?;
    let halves = scene.halves(lab)?;
    assert_eq!((halves.table, halves.forward.state), (Table::Embryonic, flow_state::NEW));

    scene.client_sends(lab, &scene.up("A", C, B))?;
    let halves = scene.halves(lab)?;
    assert_eq!((halves.table, halves.forward.state), (Table::Flows, flow_state::ESTABLISHED));

    scene.client_sends(lab, &scene.up("PA", C, B).data(b"GET / HTTP/1.0\r\n\r\n"))?;
    scene.backend_sends(lab, &scene.down("A", B, C + 18))?;
    scene.backend_sends(lab, &scene.down("PA", B, C + 18).data(&[7; 1400]))?;
    scene.client_sends(lab, &scene.up("A", C + 18, B.wrapping_add(1400)))?;

    scene.backend_sends(lab, &scene.down("FA", B.wrapping_add(1400), C + 18))?;
    let halves = scene.halves(lab)?;
    assert_eq!((halves.table, halves.forward.state), (Table::Flows, flow_state::HALF_CLOSED));
    scene.client_sends(lab, &scene.up("FA", C + 18, B.wrapping_add(1401)))?;
    let halves = scene.halves(lab)?;
    assert_eq!((halves.table, halves.forward.state), (Table::Embryonic, flow_state::CLOSED));
    scene.backend_sends(lab, &scene.down("A", B.wrapping_add(1401), C + 19))?;
    assert_eq!(scene.halves(lab)?.table, Table::Embryonic);
    assert_eq!(lab.flows(Table::Flows)?.len(), 0, "FLOWS holds live connections only");
    Ok(())
}

fn syn_again(lab: &mut Lab, version: Version) -> Result<()> {
    let mut scene = Scene::new(lab, version, TCP, Place::Remote)?;
    scene.start(lab, &scene.opening())?;
    scene.client_sends(lab, &scene.opening())?;
    scene.backend_sends(lab, &scene.opening_answer())?;
    scene.client_sends(lab, &scene.opening())?;
    scene.backend_sends(lab, &scene.opening_answer())?;
    assert_eq!(lab.flows(Table::Embryonic)?.len(), 2);
    scene.client_sends(lab, &scene.confirmation())?;
    assert_eq!(scene.halves(lab)?.table, Table::Flows);
    Ok(())
}

fn not_before_the_ack(lab: &mut Lab, version: Version) -> Result<()> {
    let mut scene = Scene::new(lab, version, TCP, Place::Pod)?;
    scene.start(lab, &scene.opening())?;
    scene.backend_sends(lab, &scene.opening_answer())?;
    // The client's SYN again, and the backend's SYN-ACK again: neither confirms.
    scene.client_sends(lab, &scene.opening())?;
    scene.backend_sends(lab, &scene.opening_answer())?;
    assert_eq!(scene.halves(lab)?.table, Table::Embryonic);
    Ok(())
}

/// An ACK can only confirm when it acknowledges the SYN-ACK, which who forges addresses does not see.
fn forged_ack(lab: &mut Lab, version: Version) -> Result<()> {
    let mut scene = Scene::new(lab, version, TCP, Place::Remote)?;
    scene.start(lab, &scene.opening())?;
    for early in [0, B, C] {
        lab.tc(Port::Ext0, &scene.up("A", C, early).frame())?;
        assert_eq!(scene.halves(lab)?.table, Table::Embryonic, "an ACK of {early} before the SYN-ACK");
    }
    scene.backend_sends(lab, &scene.opening_answer())?;
    for wrong in [0, B.wrapping_sub(1), B.wrapping_add(0x8000_0000)] {
        lab.tc(Port::Ext0, &scene.up("A", C, wrong).frame())?;
        assert_eq!(scene.halves(lab)?.table, Table::Embryonic, "an ACK of {wrong}");
    }
    scene.client_sends(lab, &scene.confirmation())?;
    assert_eq!(scene.halves(lab)?.table, Table::Flows);
    Ok(())
}

/// Three forged packets a flow must not fill FLOWS any more than one does.
fn reset_then_ack(lab: &mut Lab, version: Version) -> Result<()> {
    let mut scene = Scene::new(lab, version, TCP, Place::Remote)?;
    scene.start(lab, &scene.opening())?;
    lab.tc(Port::Ext0, &scene.up("R", C, 0).frame())?;
    lab.tc(Port::Ext0, &scene.up("A", C, 1).frame())?;
    lab.tc(Port::Ext0, &scene.up("PA", C, 1).data(b"x").frame())?;
    assert_eq!(lab.flows(Table::Flows)?.len(), 0);
    Ok(())
}

/// The bare ACK may be lost or overtaken.
fn data_confirms(lab: &mut Lab, version: Version) -> Result<()> {
    let mut scene = Scene::new(lab, version, TCP, Place::Pod)?;
    scene.start(lab, &scene.opening())?;
    scene.backend_sends(lab, &scene.opening_answer())?;
    scene.client_sends(lab, &scene.up("PA", C, B).data(b"hello"))?;
    assert_eq!(scene.halves(lab)?.table, Table::Flows);
    Ok(())
}

fn backend_refuses(lab: &mut Lab, version: Version) -> Result<()> {
    let mut scene = Scene::new(lab, version, TCP, Place::Remote)?;
    scene.start(lab, &scene.opening())?;
    let refusal = scene.down("RA", 0, C).header(|h| h.window_size = 0);
    scene.backend_sends(lab, &refusal)?;
    assert_eq!(lab.flows(Table::Flows)?.len(), 0);
    // The client tries again from the same port, and this time somebody listens.
    scene.client_sends(lab, &scene.opening())?;
    scene.backend_sends(lab, &scene.opening_answer())?;
    scene.client_sends(lab, &scene.confirmation())?;
    assert_eq!(scene.halves(lab)?.table, Table::Flows);
    Ok(())
}

fn half_close(lab: &mut Lab, version: Version) -> Result<()> {
    let mut scene = Scene::new(lab, version, TCP, Place::Remote)?;
    scene.establish(lab)?;
    scene.client_sends(lab, &scene.up("FA", C, B))?;
    let halves = scene.halves(lab)?;
    assert_eq!((halves.table, halves.forward.state), (Table::Flows, flow_state::HALF_CLOSED));
    for i in 0..3 {
        let seq = B.wrapping_add(i * 1000);
        scene.backend_sends(lab, &scene.down("PA", seq, C + 1).data(&[1; 1000]))?;
        scene.client_sends(lab, &scene.up("A", C + 1, seq.wrapping_add(1000)))?;
    }
    let halves = scene.halves(lab)?;
    assert_eq!((halves.table, halves.forward.state), (Table::Flows, flow_state::HALF_CLOSED));
    Ok(())
}

fn simultaneous_close(lab: &mut Lab, version: Version) -> Result<()> {
    let mut scene = Scene::new(lab, version, TCP, Place::Pod)?;
    scene.establish(lab)?;
    scene.client_sends(lab, &scene.up("FA", C, B))?;
    scene.backend_sends(lab, &scene.down("FA", B, C))?;
    let halves = scene.halves(lab)?;
    assert_eq!((halves.table, halves.forward.state), (Table::Embryonic, flow_state::CLOSED));
    scene.client_sends(lab, &scene.up("A", C + 1, B.wrapping_add(1)))?;
    scene.backend_sends(lab, &scene.down("A", B.wrapping_add(1), C + 1))?;
    Ok(())
}

fn fin_again(lab: &mut Lab, version: Version) -> Result<()> {
    let mut scene = Scene::new(lab, version, TCP, Place::Remote)?;
    scene.establish(lab)?;
    scene.client_sends(lab, &scene.up("FA", C, B))?;
    scene.client_sends(lab, &scene.up("FA", C, B))?;
    assert_eq!(scene.halves(lab)?.forward.state, flow_state::HALF_CLOSED, "one side's FIN twice is one FIN");
    scene.backend_sends(lab, &scene.down("FA", B, C + 1))?;
    // The last ACK was lost: both sides repeat themselves.
    scene.backend_sends(lab, &scene.down("FA", B, C + 1))?;
    scene.client_sends(lab, &scene.up("A", C + 1, B.wrapping_add(1)))?;
    let halves = scene.halves(lab)?;
    assert_eq!((halves.table, halves.forward.state), (Table::Embryonic, flow_state::CLOSED));
    Ok(())
}

fn reset_by(lab: &mut Lab, version: Version, client: bool) -> Result<()> {
    let mut scene = Scene::new(lab, version, TCP, Place::Remote)?;
    scene.establish(lab)?;
    if client {
        scene.client_sends(lab, &scene.up("R", C, 0))?;
    } else {
        scene.backend_sends(lab, &scene.down("RA", B, C))?;
    }
    let halves = scene.halves(lab)?;
    assert_eq!((halves.table, halves.forward.state), (Table::Embryonic, flow_state::RESET));
    Ok(())
}

/// Ends check a RST's sequence number (RFC 5961), the gateway does not: what they ignore must harm nobody.
fn forged_reset(lab: &mut Lab, version: Version) -> Result<()> {
    let mut scene = Scene::new(lab, version, TCP, Place::Remote)?;
    scene.establish(lab)?;
    scene.client_sends(lab, &scene.up("R", 77, 0))?;
    assert_eq!(scene.halves(lab)?.forward.state, flow_state::RESET);
    scene.client_sends(lab, &scene.up("PA", C, B).data(b"still here"))?;
    let halves = scene.halves(lab)?;
    assert_eq!((halves.table, halves.forward.state), (Table::Flows, flow_state::ESTABLISHED));
    scene.backend_sends(lab, &scene.down("PA", B, C + 10).data(b"so am I"))?;
    // The same from the backend's side.
    scene.backend_sends(lab, &scene.down("R", 77, 0))?;
    assert_eq!(scene.halves(lab)?.table, Table::Embryonic);
    scene.backend_sends(lab, &scene.down("PA", B, C + 10).data(b"so am I"))?;
    let halves = scene.halves(lab)?;
    assert_eq!((halves.table, halves.forward.state), (Table::Flows, flow_state::ESTABLISHED));
    Ok(())
}

/// The backend answers it with a challenge ACK (RFC 5961 section 4); the gateway must not pick anew.
fn syn_on_established(lab: &mut Lab, version: Version) -> Result<()> {
    let mut scene = Scene::new(lab, version, TCP, Place::Remote)?;
    scene.establish(lab)?;
    scene.client_sends(lab, &scene.up("S", 9_000_000, 0))?;
    scene.backend_sends(lab, &scene.down("A", B, C))?;
    let halves = scene.halves(lab)?;
    assert_eq!((halves.table, halves.forward.state), (Table::Flows, flow_state::ESTABLISHED));
    Ok(())
}

fn port_used_again(lab: &mut Lab, version: Version) -> Result<()> {
    let mut scene = Scene::new(lab, version, TCP, Place::Pod)?;
    scene.establish(lab)?;
    scene.client_sends(lab, &scene.up("FA", C, B))?;
    scene.backend_sends(lab, &scene.down("FA", B, C + 1))?;
    scene.client_sends(lab, &scene.up("A", C + 1, B.wrapping_add(1)))?;
    assert_eq!(scene.halves(lab)?.table, Table::Embryonic);
    // A client may use a port again at once when its ISN is higher (RFC 9293 section 3.6.1).
    scene.client_sends(lab, &scene.up("S", C + 100_000, 0))?;
    scene.backend_sends(lab, &scene.down("SA", B.wrapping_add(70_000), C + 100_001))?;
    scene.client_sends(lab, &scene.up("A", C + 100_001, B.wrapping_add(70_001)))?;
    let halves = scene.halves(lab)?;
    assert_eq!((halves.table, halves.forward.state), (Table::Flows, flow_state::ESTABLISHED));
    Ok(())
}

fn urgent_and_options(lab: &mut Lab, version: Version) -> Result<()> {
    let mut scene = Scene::new(lab, version, TCP, Place::Remote)?;
    scene.establish(lab)?;
    let packet = scene.up("PAUEC", C, B).data(b"urgent!").header(|header| {
        header.urgent_pointer = 7;
        header.ns = true;
        // SACK blocks and timestamps: 38 bytes, padded to 40.
        let mut options = vec![1, 1, 8, 10, 1, 2, 3, 4, 5, 6, 7, 8, 1, 1, 5, 26];
        options.extend((0..24).map(|i| i * 9));
        header.set_options_raw(&options).expect("40 bytes at most");
    });
    scene.client_sends(lab, &packet)?;
    scene.client_sends(lab, &scene.up("PA", C + 7, B).data(&[0xff; 333]))?;
    for tos in [1, 2, 3, 0xb8] {
        let mut packet = scene.up("A", C, B);
        packet.tos = tos;
        scene.client_sends(lab, &packet)?;
    }
    Ok(())
}

/// A pod that reaches its own gateway and is picked itself: without SNAT its answers would never leave it.
fn hairpin(lab: &mut Lab, version: Version) -> Result<()> {
    let mut scene = Scene::new(lab, version, TCP, Place::Pod)?;
    scene.client = port_of(version.pod(), 40_000);
    scene.peer = port_of(Place::Pod.source(version), 0);
    let from_pod = |p: crate::packet::Packet| p.macs(Port::Pod0.peer_mac(), Port::Pod0.mac());
    let syn = from_pod(scene.opening());
    let outcome = lab.tc(Port::Pod0, &syn.frame())?;
    scene.learn(&outcome, &syn)?;
    outcome.forwarded(&scene.forwarded(&syn));
    for (packet, up) in [(scene.opening_answer(), false), (scene.confirmation(), true)] {
        let wanted = if up { scene.forwarded(&packet) } else { scene.returned(&packet) };
        lab.tc(Port::Pod0, &from_pod(packet).frame())?.forwarded(&wanted);
    }
    assert_eq!(scene.halves(lab)?.table, Table::Flows);
    Ok(())
}

fn reply_elsewhere(lab: &mut Lab, version: Version) -> Result<()> {
    let mut scene = Scene::new(lab, version, TCP, Place::Remote)?;
    scene.start(lab, &scene.opening())?;
    // The backend's answer comes back on the client's side.
    let answer = scene.opening_answer().macs(Port::Ext0.peer_mac(), Port::Ext0.mac());
    lab.tc(Port::Ext0, &answer.frame())?.forwarded(&scene.returned(&answer));
    let ack = scene.confirmation().macs(Port::Ext1.peer_mac(), Port::Ext1.mac());
    lab.tc(Port::Ext1, &ack.frame())?.forwarded(&scene.forwarded(&ack));
    assert_eq!(scene.halves(lab)?.table, Table::Flows);
    Ok(())
}

/// Rare, but the network may do it to whoever allows it.
fn fragments(lab: &mut Lab, version: Version) -> Result<()> {
    let mut scene = Scene::new(lab, version, TCP, Place::Pod)?;
    scene.establish(lab)?;
    let segment = scene.up("PA", C, B).data(&[4; 1_000]);
    let wanted = scene.forwarded(&segment).fragments(8, &[504]);
    for (frame, wanted) in segment.fragments(8, &[504]).iter().zip(&wanted) {
        lab.tc(Port::Ext0, frame)?.forwarded_frame(wanted);
    }
    Ok(())
}

/// A changed set concerns new connections only.
fn keeps_its_backend(lab: &mut Lab, version: Version) -> Result<()> {
    let mut scene = Scene::new(lab, version, TCP, Place::Remote)?;
    scene.establish(lab)?;
    lab.backend(2, Place::Pod.entry(version, TCP, 9090))?;
    lab.replace_set(scene.set, &[2], &[])?;
    scene.client_sends(lab, &scene.up("PA", C, B).data(b"x"))?;
    scene.backend_sends(lab, &scene.down("PA", B, C + 1).data(b"y"))?;

    let new = scene.client_port(40_001);
    let syn = new.opening();
    let wanted = syn.clone().to(port_of(version.pod(), 9090)).hop();
    lab.tc(Port::Ext0, &syn.frame())?.forwarded(&wanted);

    // Without any backend, running connections go on as well; new ones are refused.
    lab.replace_set(scene.set, &[], &[])?;
    scene.client_sends(lab, &scene.up("PA", C + 1, B).data(b"z"))?;
    let refused = scene.client_port(40_002).opening();
    lab.tc(Port::Ext0, &refused.frame())?.answered(Reason::NoBackend, &reset(&refused));
    Ok(())
}
