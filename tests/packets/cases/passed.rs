//! What is none of the gateway's business goes on as it came.

use anyhow::Result;
use gateway_common::protocol::{TCP, UDP};

use crate::cases::Cases;
use crate::lab::{Lab, Table};
use crate::net::{Port, Version, port_of};
use crate::outcome::Hook;
use crate::packet::{Body, Packet};
use crate::scene::{Place, Scene};

pub fn add(cases: &mut Cases) {
    cases.each("passed/xdp_on_an_interface_it_does_not_know", unknown_interface);
    for hook in Hook::BOTH {
        let mut add = |name: &str, case: fn(&mut Lab, Version, Hook) -> Result<()>| {
            cases.each(&format!("passed/{name}_{hook:?}"), move |lab, v| case(lab, v, hook));
        };
        add("other_addresses", other_addresses);
        add("vlan_tagged", vlan_tagged);
        add("multicast_and_broadcast", multicast_and_broadcast);
        add("frames_for_another_host", other_host);
        add("echo_requests", echo_requests);
        add("other_protocols", other_protocols);
        add("other_ethernet", other_ethernet);
        add("icmp_errors_about_others", icmp_errors_about_others);
        add("fragments_for_others", fragments_for_others);
    }
}

fn other_addresses(lab: &mut Lab, version: Version, hook: Hook) -> Result<()> {
    let scene = Scene::new(lab, version, TCP, Place::Pod)?;
    for to in [version.pod(), version.node(), version.remote(), version.unrouted(), version.client()] {
        for packet in [scene.opening(), scene.up("A", 1, 2), scene.up("R", 1, 0), scene.request(b"x")] {
            lab.run(hook, Port::Ext0, &packet.to(port_of(to, 80)).frame())?.untouched();
        }
    }
    Ok(())
}

fn vlan_tagged(lab: &mut Lab, version: Version, hook: Hook) -> Result<()> {
    let scene = Scene::new(lab, version, TCP, Place::Pod)?;
    let frame = scene.opening().frame();
    for tag in [[0x81, 0, 0, 7], [0x88, 0xa8, 0, 7]] {
        let tagged = [&frame[..12], &tag, &frame[12..]].concat();
        lab.run(hook, Port::Ext0, &tagged)?.untouched();
    }
    Ok(())
}

fn multicast_and_broadcast(lab: &mut Lab, version: Version, hook: Hook) -> Result<()> {
    let scene = Scene::new(lab, version, UDP, Place::Pod)?;
    // Even an address that is said to be a Gateway's own.
    lab.exclusive(version.multicast())?;
    let multicast = scene.request(b"mdns").to(port_of(version.multicast(), 5353));
    lab.run(hook, Port::Ext0, &multicast.frame())?.untouched();
    for mac in [[0xff; 6], [1, 0, 0x5e, 0, 0, 1], [0x33, 0x33, 0, 0, 0, 1]] {
        let frame = scene.request(b"to everybody").macs(Port::Ext0.peer_mac(), mac).frame();
        lab.run(hook, Port::Ext0, &frame)?.untouched();
    }
    Ok(())
}

/// A bridge or a promiscuous interface hands over frames for others: another node may know their connection.
fn other_host(lab: &mut Lab, version: Version, hook: Hook) -> Result<()> {
    let mut scene = Scene::new(lab, version, TCP, Place::Remote)?;
    lab.xdp_ports(&Port::ALL)?;
    scene.establish(lab)?;
    scene.client_sends(lab, &scene.confirmation())?;
    let unknown = scene.client_port(40_009);
    for packet in [
        scene.confirmation(),
        scene.opening(),
        unknown.opening(),
        unknown.confirmation(),
        unknown.up("R", 1, 0),
        scene.opening().to(port_of(version.gateway(), 81)),
        scene.request(b"x"),
    ] {
        let overheard = packet.macs(Port::Ext0.peer_mac(), [2, 9, 9, 9, 9, 9]);
        lab.run(hook, Port::Ext0, &overheard.frame())?.untouched();
    }
    let mut cut = scene.opening().macs(Port::Ext0.peer_mac(), [2, 9, 9, 9, 9, 9]).frame();
    cut.truncate(cut.len() - 30);
    lab.run(hook, Port::Ext0, &cut)?.untouched();
    Ok(())
}

/// Whose MAC address XDP does not know.
fn unknown_interface(lab: &mut Lab, version: Version) -> Result<()> {
    let scene = Scene::new(lab, version, TCP, Place::Pod)?;
    lab.interfaces(&[Port::Ext1])?;
    for packet in [scene.confirmation(), scene.opening().to(port_of(version.gateway(), 81))] {
        lab.xdp(Port::Ext0, &packet.frame())?.untouched();
    }
    Ok(())
}

fn echo_requests(lab: &mut Lab, version: Version, hook: Hook) -> Result<()> {
    let scene = Scene::new(lab, version, TCP, Place::Pod)?;
    let kinds: &[u8] = match version {
        Version::V4 => &[8, 0, 13],
        Version::V6 => &[128, 129, 133, 134, 135, 136],
    };
    for kind in kinds {
        let packet = Packet::icmp(version.client(), version.gateway(), *kind, 0, [0, 1, 0, 2], &[9; 56]);
        lab.run(hook, Port::Ext0, &scene.sent_by_client(packet).frame())?.untouched();
    }
    Ok(())
}

fn other_protocols(lab: &mut Lab, version: Version, hook: Hook) -> Result<()> {
    let scene = Scene::new(lab, version, TCP, Place::Pod)?;
    for protocol in [2, 4, 41, 47, 50, 51, 59, 132, 255] {
        let body = Body::Raw { protocol, bytes: vec![0x11; 64] };
        let packet = Packet::new(version.client(), version.gateway(), body);
        lab.run(hook, Port::Ext0, &scene.sent_by_client(packet).frame())?.untouched();
    }
    Ok(())
}

fn other_ethernet(lab: &mut Lab, version: Version, hook: Hook) -> Result<()> {
    let scene = Scene::new(lab, version, TCP, Place::Pod)?;
    for ether_type in [0x0806_u16, 0x88cc, 0x8847, 0x0100, 0x0000] {
        let mut frame = scene.opening().frame();
        frame[12..14].copy_from_slice(&ether_type.to_be_bytes());
        lab.run(hook, Port::Ext0, &frame)?.untouched();
    }
    Ok(())
}

fn icmp_errors_about_others(lab: &mut Lab, version: Version, hook: Hook) -> Result<()> {
    let scene = Scene::new(lab, version, TCP, Place::Pod)?;
    let (kind, code) = if version == Version::V4 { (3, 3) } else { (1, 4) };
    let quoted = scene.up("A", 1, 2).ip_packet();
    for payload in [&quoted[..], &quoted[..version.header() + 8], &quoted[..12], b""] {
        let error = Packet::icmp(version.client(), version.gateway(), kind, code, [0; 4], payload);
        lab.run(hook, Port::Ext0, &scene.sent_by_client(error).frame())?.untouched();
    }
    Ok(())
}

fn fragments_for_others(lab: &mut Lab, version: Version, hook: Hook) -> Result<()> {
    let scene = Scene::new(lab, version, UDP, Place::Pod)?;
    let packet = scene.request(&[5; 3000]).to(port_of(version.node(), 53));
    for frame in packet.fragments(99, &[1400, 2800]).iter().rev() {
        lab.run(hook, Port::Ext0, frame)?.untouched();
    }
    assert_eq!(lab.fragments()?.len() + lab.held()? + lab.flows(Table::Embryonic)?.len(), 0);
    Ok(())
}
