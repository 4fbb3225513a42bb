//! Headers between Ethernet and the transport: options, extension headers, and what contradicts itself.

use anyhow::Result;
use gateway_common::{
    Reason,
    protocol::{TCP, UDP},
};

use crate::answer::{Error, reset};
use crate::cases::Cases;
use crate::lab::Lab;
use crate::net::{Port, Version, port_of};
use crate::outcome::{Hook, Went};
use crate::packet::{Packet, extension};
use crate::scene::{BACKEND_ISN, CLIENT_ISN, Place, Scene};

pub fn add(cases: &mut Cases) {
    for protocol in [TCP, UDP] {
        let name = if protocol == TCP { "tcp" } else { "udp" };
        cases.one(&format!("headers/{name}_ipv4_options"), move |lab| ipv4_options(lab, protocol));
        cases.one(&format!("headers/{name}_ipv6_extensions"), move |lab| ipv6_extensions(lab, protocol));
        cases.one(&format!("headers/{name}_atomic_fragment"), move |lab| atomic_fragment(lab, protocol));
        cases.each(&format!("headers/{name}_truncated"), move |lab, v| truncated(lab, v, protocol));
    }
    cases.one("headers/refusals_of_packets_with_ipv4_options", |lab| refusals(lab, Version::V4));
    cases.one("headers/refusals_of_packets_with_ipv6_extensions", |lab| refusals(lab, Version::V6));
    cases.one("headers/ipv6_routing_header_passes", routing_header);
    cases.each("headers/of_the_other_ip_version_get_no_answer", other_version);
    cases.each("headers/contradictions", contradictions);
    cases.each("headers/contradictions_elsewhere_pass", contradictions_elsewhere);
}

/// No-operations, router alert, a timestamp, a record route, as long as it gets.
fn options() -> Vec<Vec<u8>> {
    let record_route = [vec![7, 39, 4], vec![0; 36], vec![0]].concat();
    vec![vec![1, 1, 1, 0], vec![0x94, 4, 0, 0], vec![68, 12, 5, 0, 0, 0, 0, 0, 0, 0, 0, 0], record_route]
}

/// Chains of hop-by-hop and destination options.
fn chains() -> Vec<Vec<(u8, Vec<u8>)>> {
    let pad = |length: usize| [vec![1, length as u8 - 4], vec![0; length - 4]].concat();
    let router_alert = vec![5, 2, 0, 0, 1, 0];
    vec![
        vec![(extension::HOP_BY_HOP, router_alert.clone())],
        vec![(extension::DESTINATION, pad(8))],
        vec![(extension::HOP_BY_HOP, pad(24)), (extension::DESTINATION, pad(16))],
        vec![(extension::DESTINATION, pad(64))],
    ]
}

fn everything_passes(lab: &mut Lab, version: Version, protocol: u8, change: impl Fn(&mut Packet)) -> Result<()> {
    for place in [Place::Pod, Place::Remote] {
        lab.reset()?;
        lab.xdp_ports(&[Port::Ext0, Port::Ext1])?;
        let mut scene = Scene::new(lab, version, protocol, place)?;
        let with = |mut packet: Packet| {
            change(&mut packet);
            packet
        };
        scene.start(lab, &with(scene.opening()))?;
        scene.backend_sends(lab, &with(scene.opening_answer()))?;
        for _ in 0..3 {
            scene.client_sends(lab, &with(scene.confirmation()))?;
        }
        // XDP may take an established flow, or leave it to TC.
        let packet = with(scene.confirmation());
        let outcome = lab.xdp(Port::Ext0, &packet.frame())?;
        match outcome.went() {
            Went::Out => outcome.forwarded_whole(&scene.forwarded(&packet)),
            _ => outcome.untouched(),
        }
    }
    Ok(())
}

fn ipv4_options(lab: &mut Lab, protocol: u8) -> Result<()> {
    for options in options() {
        everything_passes(lab, Version::V4, protocol, |packet| packet.options = options.clone())?;
    }
    Ok(())
}

fn ipv6_extensions(lab: &mut Lab, protocol: u8) -> Result<()> {
    for chain in chains() {
        everything_passes(lab, Version::V6, protocol, |packet| packet.extensions = chain.clone())?;
    }
    Ok(())
}

/// RFC 6946: a fragment header on a packet that is whole.
fn atomic_fragment(lab: &mut Lab, protocol: u8) -> Result<()> {
    let version = Version::V6;
    let mut scene = Scene::new(lab, version, protocol, Place::Pod)?;
    for packet in [scene.opening(), scene.opening()] {
        let wanted = scene.forwarded(&packet).fragments(0x1234_5678, &[]);
        lab.tc(Port::Ext0, &packet.fragments(0x1234_5678, &[])[0])?.forwarded_frame(&wanted[0]);
    }
    let answer = scene.opening_answer();
    let wanted = scene.returned(&answer).fragments(7, &[]);
    lab.tc(Port::Pod0, &answer.fragments(7, &[])[0])?.forwarded_frame(&wanted[0]);
    scene.peer = scene.client;
    scene.client_sends(lab, &scene.confirmation())?;
    Ok(())
}

fn refusals(lab: &mut Lab, version: Version) -> Result<()> {
    let scene = Scene::new(lab, version, TCP, Place::Pod)?;
    let closed = port_of(version.gateway(), 81);
    let mut packets = Vec::new();
    for base in [scene.up("S", 77, 0).data(b"abc").to(closed), scene.request(b"abcde").to(closed)] {
        match version {
            Version::V4 => packets.extend(options().into_iter().map(|options| Packet { options, ..base.clone() })),
            Version::V6 => packets.extend(chains().into_iter().map(|extensions| Packet { extensions, ..base.clone() })),
        }
    }
    let (segments, datagrams) = packets.split_at(packets.len() / 2);
    for packet in segments {
        lab.tc(Port::Ext0, &packet.frame())?.answered(Reason::NoListener, &reset(packet));
        lab.xdp(Port::Ext0, &packet.frame())?.answered(Reason::NoListener, &reset(packet));
    }
    for packet in datagrams {
        lab.tc(Port::Ext0, &packet.frame())?.answered_with(Reason::NoListener, Error::PortUnreachable, packet);
    }
    Ok(())
}

fn routing_header(lab: &mut Lab) -> Result<()> {
    let scene = Scene::new(lab, Version::V6, TCP, Place::Pod)?;
    for number in [43, 51, 135, 139, 140, 253] {
        let packet = scene.opening().extension(number, &[0; 14]);
        for hook in Hook::BOTH {
            lab.run(hook, Port::Ext0, &packet.frame())?.untouched();
        }
    }
    Ok(())
}

/// A frame cut anywhere is dropped as malformed, or goes on where not even the address was in it.
fn truncated(lab: &mut Lab, version: Version, protocol: u8) -> Result<()> {
    let mut scene = Scene::new(lab, version, protocol, Place::Pod)?;
    scene.establish(lab)?;
    let frames = [scene.confirmation().frame(), scene.client_port(40_001).opening().frame()];
    for frame in frames {
        for length in 14..frame.len() {
            let outcome = lab.xdp(Port::Ext0, &frame[..length])?;
            if length < 14 + version.header() {
                outcome.untouched();
                continue;
            }
            outcome.dropped(Reason::Malformed);
            // BPF_PROG_TEST_RUN makes no skb of less than an IP header.
            lab.tc(Port::Ext0, &frame[..length])?.dropped(Reason::Malformed);
        }
    }
    Ok(())
}

/// Frames to the gateway whose headers cannot be true.
fn contradictory(scene: &Scene) -> Vec<(&'static str, Vec<u8>)> {
    let version = scene.version;
    let transport = 14 + version.header();
    let segment = scene.up("PA", CLIENT_ISN + 1, BACKEND_ISN.wrapping_add(1)).data(b"data").frame();
    let datagram = scene.request(b"data").frame();
    let changed = |frame: &[u8], at: usize, bytes: &[u8]| {
        let mut frame = frame.to_vec();
        frame[at..at + bytes.len()].copy_from_slice(bytes);
        frame
    };
    let length_field = if version == Version::V4 { 16 } else { 18 };
    let mut frames = vec![
        ("TCP header of 16 bytes", changed(&segment, transport + 12, &[0x40])),
        ("TCP header past the end", changed(&segment, transport + 12, &[0xf0])),
        ("UDP length below its header", changed(&datagram, transport + 4, &[0, 7])),
        ("UDP length past the end", changed(&datagram, transport + 4, &[0, 200])),
        // Only an skb of merged segments may have none (BIG TCP).
        ("no IP length", changed(&segment, length_field, &[0, 0])),
        ("IP length past the end", changed(&segment, length_field, &[3, 0])),
    ];
    if version == Version::V4 {
        frames.push(("header of 16 bytes", changed(&segment, 14, &[0x44])));
        frames.push(("header past the end", changed(&datagram, 14, &[0x4f])));
        frames.push(("total length below the header", changed(&segment, 16, &[0, 19])));
    }
    frames
}

/// EtherType and version field disagree: the kernel drops such a packet (RFC 8200 has nothing to say for it).
fn other_version(lab: &mut Lab, version: Version) -> Result<()> {
    let mut scene = Scene::new(lab, version, TCP, Place::Pod)?;
    scene.establish(lab)?;
    let unknown = scene.client_port(40_001);
    for packet in [scene.confirmation(), unknown.opening(), unknown.confirmation()] {
        for first in [0x05, 0x45, 0x55, 0x65, 0x60, 0x70, 0xf5] {
            let mut frame = packet.frame();
            if frame[14] & 0xf0 == first & 0xf0 {
                continue;
            }
            frame[14] = first;
            for hook in Hook::BOTH {
                let outcome = lab.run(hook, Port::Ext0, &frame)?;
                assert_ne!(outcome.went(), Went::Out, "{first:02x} at the start: {:?}", outcome.reasons);
            }
        }
    }
    Ok(())
}

fn contradictions(lab: &mut Lab, version: Version) -> Result<()> {
    let scene = Scene::new(lab, version, TCP, Place::Pod)?;
    lab.listener(scene.gateway, UDP, scene.set)?;
    for (what, frame) in contradictory(&scene) {
        for hook in Hook::BOTH {
            let outcome = lab.run(hook, Port::Ext0, &frame)?;
            assert_eq!(outcome.reasons, [Reason::Malformed], "{what}, {hook:?}");
            outcome.dropped(Reason::Malformed);
        }
    }
    Ok(())
}

fn contradictions_elsewhere(lab: &mut Lab, version: Version) -> Result<()> {
    let mut scene = Scene::new(lab, version, TCP, Place::Pod)?;
    scene.gateway = port_of(version.node(), 80);
    for (_, frame) in contradictory(&scene) {
        for hook in Hook::BOTH {
            lab.run(hook, Port::Ext0, &frame)?.untouched();
        }
    }
    Ok(())
}
