//! Refusals: each reason with the answer the sender gets.

use anyhow::Result;
use gateway_common::{
    Backend, Reason, flow_state,
    protocol::{TCP, UDP},
    slot,
};

use crate::answer::{Error, reset};
use crate::cases::Cases;
use crate::lab::{Lab, Table};
use crate::net::{EXT1_MTU, Port, Version, map_address, port_of};
use crate::outcome::{Hook, Went};
use crate::packet::Packet;
use crate::scene::{BACKEND, BACKEND_ISN, CLIENT_ISN, Place, Scene};

const C: u32 = CLIENT_ISN + 1;
const B: u32 = BACKEND_ISN.wrapping_add(1);

pub fn add(cases: &mut Cases) {
    for hook in Hook::BOTH {
        cases.each(&format!("refuse/no_listener_tcp_{hook:?}"), move |lab, v| no_listener_tcp(lab, v, hook));
        cases.each(&format!("refuse/unknown_connection_{hook:?}"), move |lab, v| unknown_connection(lab, v, hook));
        cases.each(&format!("refuse/stray_reset_{hook:?}"), move |lab, v| stray_reset(lab, v, hook));
        cases.each(&format!("refuse/shared_address_{hook:?}"), move |lab, v| shared_address(lab, v, hook));
    }
    cases.each("refuse/no_listener_udp", no_listener_udp);
    cases.each("refuse/no_listener_of_this_protocol", other_protocol);
    cases.each("refuse/empty_share", |lab, v| share(lab, v, slot::EMPTY, Reason::NoBackend));
    cases.each("refuse/invalid_share", |lab, v| share(lab, v, slot::INVALID, Reason::InvalidBackend));
    cases.each("refuse/listener_without_a_route", without_a_route);
    cases.each("refuse/set_without_slots", without_slots);
    cases.each("refuse/backend_unknown", backend_unknown);
    cases.each("refuse/no_route_to_the_backend", no_route);
    cases.each("refuse/backend_without_a_source_address", no_source);
    cases.each("refuse/ttl_expired", ttl_expired);
    cases.each("refuse/too_big_for_the_way_out", too_big);
    cases.each("refuse/too_big_without_dont_fragment", too_big_to_fragment);
    cases.each("refuse/merged_segments_are_measured_one_by_one", merged_segments);
    cases.each("refuse/resets_of_the_standard", reset_numbers);
    cases.each("refuse/padding_does_not_count", padding);
    cases.each("refuse/gone_backend", gone_backend);
    cases.each("refuse/nobody_to_answer_to", nobody);
    cases.each("refuse/icmp_errors_are_limited_in_rate", rate_limit);
}

fn no_listener_tcp(lab: &mut Lab, version: Version, hook: Hook) -> Result<()> {
    let scene = Scene::new(lab, version, TCP, Place::Pod)?;
    let syn = scene.opening().to(port_of(version.gateway(), 81));
    lab.run(hook, Port::Ext0, &syn.frame())?.answered(Reason::NoListener, &reset(&syn));
    Ok(())
}

fn no_listener_udp(lab: &mut Lab, version: Version) -> Result<()> {
    let scene = Scene::new(lab, version, UDP, Place::Pod)?;
    for length in [0, 3, 4, 100, 1472 - 20] {
        let request = scene.request(&vec![0x42; length]).to(port_of(version.gateway(), 81));
        lab.tc(Port::Ext0, &request.frame())?.answered_with(Reason::NoListener, Error::PortUnreachable, &request);
    }
    Ok(())
}

fn other_protocol(lab: &mut Lab, version: Version) -> Result<()> {
    let scene = Scene::new(lab, version, TCP, Place::Pod)?;
    let request = scene.request(b"is this DNS?");
    lab.tc(Port::Ext0, &request.frame())?.answered_with(Reason::NoListener, Error::PortUnreachable, &request);
    Ok(())
}

/// A TCP segment, a RST and a datagram to a port of the node's own go to the node.
fn shared_address(lab: &mut Lab, version: Version, hook: Hook) -> Result<()> {
    let scene = Scene::new(lab, version, TCP, Place::Pod)?;
    let shared = port_of(version.node(), 22);
    lab.shared(version.node())?;
    lab.listener(port_of(version.node(), 80), TCP, scene.set)?;
    for packet in [scene.opening(), scene.up("A", 5, 6), scene.up("R", 5, 0), scene.request(b"dns")] {
        lab.run(hook, Port::Ext0, &packet.to(shared).frame())?.untouched();
    }
    assert_eq!(lab.flows(Table::Embryonic)?.len(), 0);
    Ok(())
}

/// Nothing is known of the connection: it ends now instead of hanging.
fn unknown_connection(lab: &mut Lab, version: Version, hook: Hook) -> Result<()> {
    let scene = Scene::new(lab, version, TCP, Place::Remote)?;
    for (flags, ack) in [("A", B), ("PA", B), ("FA", B), ("F", 0), ("", 0), ("SA", B)] {
        let packet = scene.up(flags, C, ack).data(b"data");
        lab.run(hook, Port::Ext0, &packet.frame())?.answered(Reason::UnknownConnection, &reset(&packet));
    }
    assert_eq!(lab.flows(Table::Embryonic)?.len(), 0, "what opens nothing leaves no flow");
    Ok(())
}

/// A RST is never answered (RFC 9293 section 3.10.7.1).
fn stray_reset(lab: &mut Lab, version: Version, hook: Hook) -> Result<()> {
    let scene = Scene::new(lab, version, TCP, Place::Pod)?;
    for flags in ["R", "RA"] {
        let packet = scene.up(flags, C, 0);
        lab.run(hook, Port::Ext0, &packet.frame())?.dropped(Reason::StrayReset);
        let elsewhere = packet.to(port_of(version.gateway(), 81));
        lab.run(hook, Port::Ext0, &elsewhere.frame())?.dropped(Reason::StrayReset);
    }
    Ok(())
}

fn share(lab: &mut Lab, version: Version, value: u32, reason: Reason) -> Result<()> {
    let scene = Scene::new(lab, version, TCP, Place::Pod)?;
    lab.replace_set(scene.set, &[value], &[])?;
    let syn = scene.opening();
    lab.tc(Port::Ext0, &syn.frame())?.answered(reason, &reset(&syn));
    lab.xdp(Port::Ext0, &syn.frame())?.untouched();

    let udp = lab.listener(port_of(version.gateway(), 53), UDP, scene.set)?;
    let request = scene.request(b"query").to(port_of(version.gateway(), 53));
    lab.tc(Port::Ext0, &request.frame())?.answered_with(reason, Error::PortUnreachable, &request);
    assert_eq!(lab.listener_counter(scene.listener)?.refused, 1);
    assert_eq!(lab.listener_counter(udp)?.refused, 1);
    assert_eq!(lab.flows(Table::Embryonic)?.len(), 0);
    Ok(())
}

fn without_a_route(lab: &mut Lab, version: Version) -> Result<()> {
    let scene = Scene::new(lab, version, TCP, Place::Pod)?;
    lab.listener(port_of(version.gateway(), 82), TCP, 0)?;
    let syn = scene.opening().to(port_of(version.gateway(), 82));
    lab.tc(Port::Ext0, &syn.frame())?.answered(Reason::NoBackend, &reset(&syn));
    Ok(())
}

fn without_slots(lab: &mut Lab, version: Version) -> Result<()> {
    let scene = Scene::new(lab, version, TCP, Place::Pod)?;
    lab.replace_set(scene.set, &[], &[])?;
    let syn = scene.opening();
    lab.tc(Port::Ext0, &syn.frame())?.answered(Reason::NoBackend, &reset(&syn));
    Ok(())
}

/// Between two writes of the agent a slot may name a backend that is no more.
fn backend_unknown(lab: &mut Lab, version: Version) -> Result<()> {
    let scene = Scene::new(lab, version, TCP, Place::Pod)?;
    lab.remove_backend(BACKEND)?;
    let syn = scene.opening();
    lab.tc(Port::Ext0, &syn.frame())?.answered(Reason::NoBackend, &reset(&syn));
    Ok(())
}

fn no_route(lab: &mut Lab, version: Version) -> Result<()> {
    for protocol in [TCP, UDP] {
        lab.reset()?;
        let scene = Scene::new(lab, version, protocol, Place::Remote)?;
        let entry = Place::Remote.entry(version, protocol, 8080);
        lab.backend(BACKEND, Backend { address: map_address(version.unrouted()), ..entry })?;
        let packet = scene.opening();
        let outcome = lab.tc(Port::Ext0, &packet.frame())?;
        if protocol == TCP {
            outcome.answered(Reason::NoRoute, &reset(&packet));
        } else {
            outcome.answered_with(Reason::NoRoute, Error::PortUnreachable, &packet);
        }
    }
    Ok(())
}

fn no_source(lab: &mut Lab, version: Version) -> Result<()> {
    let scene = Scene::new(lab, version, TCP, Place::Remote)?;
    let entry = Place::Remote.entry(version, TCP, 8080);
    lab.backend(BACKEND, Backend { source: Default::default(), ..entry })?;
    let syn = scene.opening();
    lab.tc(Port::Ext0, &syn.frame())?.answered(Reason::NoRoute, &reset(&syn));
    Ok(())
}

fn ttl_expired(lab: &mut Lab, version: Version) -> Result<()> {
    for protocol in [TCP, UDP] {
        lab.reset()?;
        let mut scene = Scene::new(lab, version, protocol, Place::Remote)?;
        let last_hop = scene.opening().ttl(1);
        lab.tc(Port::Ext0, &last_hop.frame())?.answered_with(Reason::TtlExpired, Error::TimeExceeded, &last_hop);
        assert_eq!(lab.flow(&scene.forward_key())?, None, "it has opened nothing");
        let one_more = scene.opening().ttl(2);
        scene.start(lab, &one_more)?;
        scene.backend_sends(lab, &scene.opening_answer())?;
        scene.client_sends(lab, &scene.confirmation())?;
        for ttl in [0, 1] {
            let packet = scene.confirmation().ttl(ttl);
            lab.tc(Port::Ext0, &packet.frame())?.answered_with(Reason::TtlExpired, Error::TimeExceeded, &packet);
            let packet = scene.opening_answer().ttl(ttl);
            lab.tc(Port::Ext1, &packet.frame())?.answered_with(Reason::TtlExpired, Error::TimeExceeded, &packet);
        }
    }
    Ok(())
}

fn too_big(lab: &mut Lab, version: Version) -> Result<()> {
    lab.xdp_ports(&[Port::Ext0, Port::Ext1])?;
    let mut scene = Scene::new(lab, version, TCP, Place::Remote)?;
    scene.establish(lab)?;
    let room = EXT1_MTU as usize - version.header() - 20;
    let fits = scene.up("PA", C, B).data(&vec![1; room]);
    scene.client_sends(lab, &fits)?;
    scene.age_routes(lab, 0)?;
    lab.xdp(Port::Ext0, &fits.frame())?.forwarded_whole(&scene.forwarded(&fits));
    for more in [1, 100] {
        let packet = scene.up("PA", C, B).data(&vec![1; room + more]);
        let error = Error::TooBig { mtu: EXT1_MTU };
        lab.tc(Port::Ext0, &packet.frame())?.answered_with(Reason::PacketTooBig, error, &packet);
        lab.xdp(Port::Ext0, &packet.frame())?.untouched();
    }
    // The other direction has the larger MTU.
    scene.backend_sends(lab, &scene.down("PA", B, C).data(&vec![1; 1500 - version.header() - 20]))
}

/// A program cannot cut a packet: who would allow it (RFC 791) learns of it all the same.
fn too_big_to_fragment(lab: &mut Lab, version: Version) -> Result<()> {
    let mut scene = Scene::new(lab, version, UDP, Place::Remote)?;
    scene.establish(lab)?;
    let packet = Packet { dont_fragment: false, ..scene.request(&[7; 1_400]) };
    let outcome = lab.tc(Port::Ext0, &packet.frame())?;
    outcome.answered_with(Reason::PacketTooBig, Error::TooBig { mtu: EXT1_MTU }, &packet);
    Ok(())
}

/// An skb that GRO merged is larger than the MTU, the packets that leave are not.
fn merged_segments(lab: &mut Lab, version: Version) -> Result<()> {
    let mut scene = Scene::new(lab, version, TCP, Place::Remote)?;
    scene.establish(lab)?;
    let segment = EXT1_MTU as usize - version.header() - 20;
    let merged = scene.up("PA", C, B).data(&vec![3; 2 * segment + 9]);
    lab.tc_segmented(Port::Ext0, &merged.frame(), segment as u32)?.forwarded(&scene.forwarded(&merged));
    // Segments that do not fit are as much too big as single packets.
    let error = Error::TooBig { mtu: EXT1_MTU };
    let merged = scene.up("PA", C, B).data(&vec![3; 2 * segment + 9]);
    lab.tc_segmented(Port::Ext0, &merged.frame(), segment as u32 + 1)?.answered_with(
        Reason::PacketTooBig,
        error,
        &merged,
    );
    Ok(())
}

/// RFC 9293 section 3.10.7.1: without ACK the RST acknowledges all the segment occupies, with ACK it takes its number.
fn reset_numbers(lab: &mut Lab, version: Version) -> Result<()> {
    let scene = Scene::new(lab, version, TCP, Place::Pod)?;
    let closed = port_of(version.gateway(), 81);
    for hook in Hook::BOTH {
        for (flags, seq, ack, data) in [
            ("S", 0xffff_ffff, 0, &b""[..]),
            ("S", 7, 0, b"fast open"),
            ("SF", 7, 0, b""),
            ("SFU", 0xffff_fff0, 0, b"more than sixteen bytes"),
            ("F", 9, 0, b"1"),
            ("", 9, 77, b"12"),
            ("A", 9, 0, b""),
            ("SA", 9, 0xffff_ffff, b""),
            ("FPA", 9, 0x8000_0000, b"123"),
        ] {
            let packet = scene.up(flags, seq, ack).data(data).to(closed);
            lab.run(hook, Port::Ext0, &packet.frame())?.answered(Reason::NoListener, &reset(&packet));
        }
    }
    Ok(())
}

/// The length of a segment is what the IP header says, not what the frame has.
fn padding(lab: &mut Lab, version: Version) -> Result<()> {
    let scene = Scene::new(lab, version, TCP, Place::Pod)?;
    for hook in Hook::BOTH {
        let mut packet = scene.up("S", 100, 0).to(port_of(version.gateway(), 81));
        packet.padding = 6;
        lab.run(hook, Port::Ext0, &packet.frame())?.answered(Reason::NoListener, &reset(&packet));
    }
    let mut request = scene.request(b"").to(port_of(version.gateway(), 81));
    request.padding = 18;
    lab.tc(Port::Ext0, &request.frame())?.answered_with(Reason::NoListener, Error::PortUnreachable, &request);
    Ok(())
}

/// The RST that a segment of the backend becomes.
pub fn onward(scene: &Scene) -> Packet {
    scene.down("RA", B, C).header(|header| header.window_size = 0)
}

fn gone_backend(lab: &mut Lab, version: Version) -> Result<()> {
    for from_client in [true, false] {
        lab.reset()?;
        let mut scene = Scene::new(lab, version, TCP, Place::Remote)?;
        scene.establish(lab)?;
        lab.remove_backend(BACKEND)?;
        lab.sweep()?;
        assert_eq!(scene.halves(lab)?.forward.state, flow_state::GONE);
        let (port, packet): (Port, Packet) = if from_client {
            (Port::Ext0, scene.up("PA", C, B).data(b"hello?"))
        } else {
            (Port::Ext1, scene.down("PA", B, C).data(b"hello?"))
        };
        lab.xdp(port, &packet.frame())?.untouched();
        if !from_client {
            // The client is told first: it may have nothing to send.
            lab.tc(port, &packet.frame())?.answered(Reason::BackendGone, &scene.returned(&onward(&scene)));
        }
        lab.tc(port, &packet.frame())?.answered(Reason::BackendGone, &reset(&packet));
    }
    Ok(())
}

/// RFC 1122 section 3.2.2, RFC 4443 section 2.4 (e.6): what cannot be one host's address is neither answered nor let in.
fn nobody(lab: &mut Lab, version: Version) -> Result<()> {
    let scene = Scene::new(lab, version, TCP, Place::Pod)?;
    let sources: &[&str] = match version {
        Version::V4 => &["0.0.0.0", "255.255.255.255", "224.0.0.1", "239.1.2.3", "127.0.0.1"],
        Version::V6 => &["::", "::1", "ff02::1", "ff0e::5"],
    };
    for source in sources {
        let from = port_of(source.parse()?, 40_000);
        let closed = port_of(version.gateway(), 81);
        for packet in [scene.opening(), scene.opening().to(closed), scene.up("A", 1, 2), scene.request(b"x").to(closed)]
        {
            for hook in Hook::BOTH {
                let outcome = lab.run(hook, Port::Ext0, &packet.clone().from(from).frame())?;
                assert_ne!(outcome.went(), Went::Out, "{hook:?} with source {source}: {:?}", outcome.reasons);
            }
        }
    }
    assert_eq!(lab.flows(Table::Embryonic)?.len(), 0);
    Ok(())
}

/// RFC 1812 section 4.3.2.8, RFC 4443 section 2.4 (f): errors are limited in rate, what is refused is counted all the same.
fn rate_limit(lab: &mut Lab, version: Version) -> Result<()> {
    let scene = Scene::new(lab, version, UDP, Place::Pod)?;
    let request = scene.request(b"flood").to(port_of(version.gateway(), 81)).frame();
    let (mut answered, mut dropped) = (0, 0);
    for _ in 0..50_000 {
        if dropped > 10 {
            break;
        }
        let outcome = lab.tc(Port::Ext0, &request)?;
        assert_eq!(outcome.reasons, [Reason::NoListener]);
        match outcome.went() {
            Went::Out => answered += 1,
            Went::Dropped => dropped += 1,
            Went::Next => panic!("a refused packet went on"),
        }
    }
    assert!(answered > 0 && dropped > 0, "{answered} answered, {dropped} not");
    Ok(())
}
