//! ICMP errors about connections of the gateway, translated to whoever sent the packet that they quote.

use std::net::IpAddr;

use anyhow::Result;
use gateway_common::{
    Reason,
    protocol::{TCP, UDP},
};

use crate::cases::Cases;
use crate::lab::{Lab, Table};
use crate::net::{Port, Version};
use crate::packet::Packet;
use crate::scene::{BACKEND_ISN, CLIENT_ISN, Place, Scene};

const C: u32 = CLIENT_ISN + 1;
const B: u32 = BACKEND_ISN.wrapping_add(1);

pub fn add(cases: &mut Cases) {
    for place in Place::ALL {
        for protocol in [TCP, UDP] {
            let name = if protocol == TCP { "tcp" } else { "udp" };
            cases.each(&format!("icmp/{name}_errors_reach_the_client_{place:?}"), move |lab, v| {
                to_the_client(lab, v, protocol, place)
            });
            cases.each(&format!("icmp/{name}_errors_reach_the_backend_{place:?}"), move |lab, v| {
                to_the_backend(lab, v, protocol, place)
            });
        }
    }
    cases.each("icmp/errors_about_a_new_flow_reach_the_client", about_a_new_flow);
    cases.each("icmp/errors_are_never_answered", never_answered);
    cases.each("icmp/errors_change_no_state", no_state);
    cases.one("icmp/quoted_datagram_without_a_checksum", absent_checksum);
}

/// Type, code and second word of every error that is translated.
fn errors(version: Version) -> Vec<(u8, u8, [u8; 4])> {
    match version {
        Version::V4 => vec![
            (3, 0, [0; 4]),
            (3, 1, [0; 4]),
            (3, 3, [0; 4]),
            (3, 4, [0, 0, 0x05, 0x00]),
            (3, 13, [0; 4]),
            (11, 0, [0; 4]),
            (12, 0, [9, 0, 0, 0]),
        ],
        Version::V6 => vec![
            (1, 0, [0; 4]),
            (1, 3, [0; 4]),
            (1, 4, [0; 4]),
            (2, 0, [0, 0, 0x05, 0x00]),
            (3, 0, [0; 4]),
            (4, 1, [0, 0, 0, 40]),
        ],
    }
}

/// A router on the way.
fn router(version: Version, port: Port) -> IpAddr {
    let text = match (version, port) {
        (Version::V4, Port::Ext0) => "198.18.0.254",
        (Version::V4, _) => "198.18.1.254",
        (Version::V6, Port::Ext0) => "2001:db8::fe",
        (Version::V6, _) => "2001:db8:1::fe",
    };
    text.parse().expect("an address")
}

/// Pieces of a packet that errors quote: header and 8 bytes, a bit more, all of it.
fn quotations(version: Version, packet: &Packet) -> Vec<usize> {
    let all = packet.ip_packet().len();
    vec![version.header() + 8, version.header() + 20, version.header() + 24, all]
}

/// What the backend's side refuses comes to the client as if it were about the client's packet.
fn to_the_client(lab: &mut Lab, version: Version, protocol: u8, place: Place) -> Result<()> {
    let mut scene = Scene::new(lab, version, protocol, place)?;
    scene.establish(lab)?;
    let sent = match protocol {
        TCP => scene.up("PA", C, B).data(&[0x77; 61]),
        _ => scene.request(&[0x77; 61]),
    };
    scene.client_sends(lab, &sent)?;
    let mut got = scene.forwarded(&sent);
    let mut expected = sent.clone();
    (got.ttl, expected.ttl) = (9, 9);
    for (kind, code, rest) in errors(version) {
        for from in [router(version, Port::Ext1), scene.backend.ip()] {
            for quoted in quotations(version, &sent) {
                let error = Packet::icmp(from, scene.peer.ip(), kind, code, rest, &got.ip_packet()[..quoted]);
                let error = scene.sent_by_backend(error);
                // The client knows the gateway only.
                let gateway = scene.gateway.ip();
                let wanted =
                    Packet::icmp(gateway, scene.client.ip(), kind, code, rest, &expected.ip_packet()[..quoted]);
                lab.tc(place.port(), &error.frame())?.forwarded(&wanted.hop());
                lab.xdp(place.port(), &error.frame())?.untouched();
            }
        }
    }
    Ok(())
}

/// What the client's side refuses comes to the backend as if it were about the backend's packet.
fn to_the_backend(lab: &mut Lab, version: Version, protocol: u8, place: Place) -> Result<()> {
    let mut scene = Scene::new(lab, version, protocol, place)?;
    scene.establish(lab)?;
    let sent = match protocol {
        TCP => scene.down("PA", B, C).data(&[0x77; 62]),
        _ => scene.response(&[0x77; 62]),
    };
    scene.backend_sends(lab, &sent)?;
    let mut got = scene.returned(&sent);
    let mut expected = sent.clone();
    (got.ttl, expected.ttl) = (3, 3);
    for (kind, code, rest) in errors(version) {
        for from in [router(version, Port::Ext0), scene.client.ip()] {
            for quoted in quotations(version, &sent) {
                let error = Packet::icmp(from, scene.gateway.ip(), kind, code, rest, &got.ip_packet()[..quoted]);
                let error = scene.sent_by_client(error);
                // A pod knows the client's side; another backend knows the node only.
                let seen_from = if place == Place::Pod { from } else { scene.peer.ip() };
                let wanted =
                    Packet::icmp(seen_from, scene.backend.ip(), kind, code, rest, &expected.ip_packet()[..quoted]);
                lab.tc(Port::Ext0, &error.frame())?.forwarded(&wanted.hop());
            }
        }
    }
    Ok(())
}

/// A host without the service answers the first datagram so.
fn about_a_new_flow(lab: &mut Lab, version: Version) -> Result<()> {
    let mut scene = Scene::new(lab, version, UDP, Place::Remote)?;
    let sent = scene.request(b"anybody?");
    scene.start(lab, &sent)?;
    let got = scene.forwarded(&sent);
    let (kind, code, rest) = errors(version)[2];
    let error = Packet::icmp(scene.backend.ip(), scene.peer.ip(), kind, code, rest, &got.ip_packet());
    let seen = Packet { ttl: got.ttl, ..sent.clone() };
    let wanted = Packet::icmp(scene.gateway.ip(), scene.client.ip(), kind, code, rest, &seen.ip_packet());
    lab.tc(Port::Ext1, &scene.sent_by_backend(error).frame())?.forwarded(&wanted.hop());
    Ok(())
}

/// RFC 1122 section 3.2.2: not even when its TTL runs out.
fn never_answered(lab: &mut Lab, version: Version) -> Result<()> {
    let mut scene = Scene::new(lab, version, TCP, Place::Remote)?;
    scene.establish(lab)?;
    let got = scene.forwarded(&scene.confirmation());
    let (kind, code, rest) = errors(version)[2];
    let error = Packet::icmp(scene.backend.ip(), scene.peer.ip(), kind, code, rest, &got.ip_packet()).ttl(1);
    lab.tc(Port::Ext1, &scene.sent_by_backend(error).frame())?.dropped(Reason::TtlExpired);
    Ok(())
}

/// RFC 5927: anybody can forge one; the ends decide what it means.
fn no_state(lab: &mut Lab, version: Version) -> Result<()> {
    let mut scene = Scene::new(lab, version, TCP, Place::Remote)?;
    scene.establish(lab)?;
    let before = scene.halves(lab)?;
    let got = scene.forwarded(&scene.confirmation());
    for (kind, code, rest) in errors(version) {
        let error = Packet::icmp(scene.backend.ip(), scene.peer.ip(), kind, code, rest, &got.ip_packet());
        lab.tc(Port::Ext1, &scene.sent_by_backend(error).frame())?;
    }
    let after = scene.halves(lab)?;
    assert_eq!((after.table, after.forward.state), (Table::Flows, before.forward.state));
    assert_eq!(after.forward.packets, before.forward.packets);
    scene.client_sends(lab, &scene.confirmation())
}

fn absent_checksum(lab: &mut Lab) -> Result<()> {
    let version = Version::V4;
    let mut scene = Scene::new(lab, version, UDP, Place::Remote)?;
    let sent = scene.request(b"no sum").without_checksum();
    scene.start(lab, &sent)?;
    let got = scene.forwarded(&sent);
    let seen = Packet { ttl: got.ttl, ..sent.clone() };
    let error = Packet::icmp(scene.backend.ip(), scene.peer.ip(), 3, 3, [0; 4], &got.ip_packet());
    let wanted = Packet::icmp(scene.gateway.ip(), scene.client.ip(), 3, 3, [0; 4], &seen.ip_packet());
    lab.tc(Port::Ext1, &scene.sent_by_backend(error).frame())?.forwarded(&wanted.hop());
    Ok(())
}
