//! What must hold for whatever frame comes: it passes untouched, or it is forwarded as long as it was, or there is a
//! reason. The property tests and the fuzz target `frames` ask it.

use anyhow::Result;
use etherparse::{IpHeaders, LaxPacketHeaders, TransportHeader};
use gateway_common::{
    flow_flags,
    protocol::{TCP, UDP},
};

use crate::lab::{Lab, Table};
use crate::net::{Port, Version, port_of};
use crate::outcome::{Hook, Outcome, Went, difference};
use crate::packet::{Packet, extension};
use crate::scene::{BACKEND_ISN, CLIENT_ISN, Place, Scene};

/// A gateway with listeners of both protocols and a TCP connection, reached over interfaces that take XDP frames.
pub fn busy(lab: &mut Lab, version: Version) -> Result<Scene> {
    lab.xdp_ports(&[Port::Ext0, Port::Ext1])?;
    let mut scene = Scene::new(lab, version, TCP, Place::Remote)?;
    lab.shared(version.node())?;
    lab.listener(scene.gateway, UDP, scene.set)?;
    scene.establish(lab)?;
    Ok(scene)
}

/// Every kind of frame that the pipeline looks into.
pub fn kinds(scene: &Scene) -> Vec<Vec<u8>> {
    let version = scene.version;
    let data = scene.up("PA", CLIENT_ISN + 1, BACKEND_ISN).data(&[0x55; 40]);
    let mut frames = vec![
        scene.opening().frame(),
        scene.confirmation().frame(),
        data.frame(),
        scene.down("PA", BACKEND_ISN, CLIENT_ISN).data(&[0x55; 40]).frame(),
        scene.up("F", 1, 0).frame(),
        scene.request(b"datagram").frame(),
        scene.client_port(40_001).opening().frame(),
        scene.opening().to(port_of(version.gateway(), 81)).frame(),
        scene.request(b"elsewhere").to(port_of(version.gateway(), 81)).frame(),
        scene.opening().to(port_of(version.node(), 22)).frame(),
    ];
    frames.extend(scene.request(&[0x33; 300]).fragments(77, &[104, 208]));
    let kinds: &[u8] = if version == Version::V4 { &[3, 8, 11] } else { &[1, 2, 3, 128] };
    let quoted = scene.forwarded(&data).ip_packet();
    for kind in kinds {
        let error = Packet::icmp(scene.backend.ip(), scene.peer.ip(), *kind, 0, [0; 4], &quoted);
        frames.push(scene.sent_by_backend(error).frame());
    }
    if version == Version::V6 {
        frames.push(data.extension(extension::HOP_BY_HOP, &[5, 2, 0, 0, 1, 0]).frame());
    } else {
        frames.push(Packet { options: vec![1, 1, 1, 0], ..data }.frame());
    }
    frames
}

/// What must hold for whatever frame, in both programs.
pub fn anything(lab: &mut Lab, port: Port, frame: &[u8]) -> Result<()> {
    for hook in Hook::BOTH {
        let needed = match frame.get(12..14) {
            Some([8, 0]) => 34,
            Some([0x86, 0xdd]) => 54,
            _ => 15,
        };
        if hook == Hook::Tc && frame.len() < needed {
            // BPF_PROG_TEST_RUN makes no skb of that.
            continue;
        }
        let outcome = lab.run(hook, port, frame)?;
        let fragment = is_fragment(frame);
        assert!(outcome.reasons.len() <= 1, "{:?}", outcome.reasons);
        match outcome.went() {
            Went::Next => outcome.untouched(),
            Went::Dropped => assert!(outcome.reasons.len() == 1 || fragment, "dropped without a reason"),
            Went::Out if outcome.reasons.is_empty() => forwarded(&outcome, frame, fragment),
            Went::Out => answered(&outcome, frame),
        }
    }
    Ok(())
}

fn is_fragment(frame: &[u8]) -> bool {
    match LaxPacketHeaders::from_ethernet(frame).ok().and_then(|headers| headers.net) {
        Some(etherparse::NetHeaders::Ipv4(ip, _)) => ip.is_fragmenting_payload(),
        Some(etherparse::NetHeaders::Ipv6(_, extensions)) => extensions.fragment.is_some(),
        _ => false,
    }
}

/// A forwarded frame is as long as it was, and its checksums are as right or as wrong as they were.
#[track_caller]
fn forwarded(outcome: &Outcome, input: &[u8], fragment: bool) {
    if fragment {
        return;
    }
    assert_eq!(outcome.frame.len(), input.len());
    let (before, after) = (checksums(input), checksums(&outcome.frame));
    assert_eq!(before, after, "network and transport checksums hold, before and after");
}

/// An answer is a packet without a flaw, to the sender.
#[track_caller]
fn answered(outcome: &Outcome, input: &[u8]) {
    let (network, transport) = checksums(&outcome.frame);
    // An IP header whose checksum was wrong is turned around, not made anew.
    assert!(network || !checksums(input).0, "the answer's IP checksum is wrong");
    let frames = difference(&outcome.frame, input, 0).unwrap_or_default();
    assert_eq!(
        transport,
        Some(true),
        "the answer's transport checksum is wrong (left: answer, right: asked)\n{frames}"
    );
    assert_eq!(addresses(&outcome.frame).1, addresses(input).0, "the answer goes to the sender");
}

/// Source and destination as they lie in the frame.
fn addresses(frame: &[u8]) -> (&[u8], &[u8]) {
    if frame[12] == 8 { (&frame[26..30], &frame[30..34]) } else { (&frame[22..38], &frame[38..54]) }
}

/// Whether the checksum of the IP header and that of what it carries hold; `None` where there is none to check.
pub fn checksums(frame: &[u8]) -> (bool, Option<bool>) {
    let Ok((ip, payload)) = IpHeaders::from_slice_lax(&frame[14..]).map(|(ip, payload, _)| (ip, payload)) else {
        return (true, None);
    };
    // Of the bytes: etherparse leaves the reserved bit of the flags out.
    let network = ip.ipv4().is_none_or(|(ip, _)| adds_up(&frame[14..14 + ip.header_len()]));
    let transport = match (LaxPacketHeaders::from_ethernet(frame).ok().and_then(|h| h.transport), &ip) {
        (Some(TransportHeader::Tcp(tcp)), IpHeaders::Ipv4(ip, _)) => {
            let data = &payload.payload[tcp.header_len()..];
            tcp.calc_checksum_ipv4(ip, data).ok().map(|sum| sum == tcp.checksum)
        }
        (Some(TransportHeader::Tcp(tcp)), IpHeaders::Ipv6(ip, _)) => {
            let data = &payload.payload[tcp.header_len()..];
            tcp.calc_checksum_ipv6(ip, data).ok().map(|sum| sum == tcp.checksum)
        }
        (Some(TransportHeader::Udp(udp)), _) if udp.checksum == 0 => None,
        (Some(TransportHeader::Udp(udp)), ip) => {
            let length = (udp.length as usize).clamp(8, payload.payload.len());
            let data = &payload.payload[8..length];
            let sum = match ip {
                IpHeaders::Ipv4(ip, _) => udp.calc_checksum_ipv4(ip, data),
                IpHeaders::Ipv6(ip, _) => udp.calc_checksum_ipv6(ip, data),
            };
            sum.ok().map(|sum| sum == udp.checksum)
        }
        (Some(TransportHeader::Icmpv4(icmp)), _) => {
            let mut again = icmp.clone();
            again.update_checksum(&payload.payload[icmp.header_len()..]);
            Some(again.checksum == icmp.checksum)
        }
        (Some(TransportHeader::Icmpv6(icmp)), IpHeaders::Ipv6(ip, _)) => {
            let mut again = icmp.clone();
            let data = &payload.payload[icmp.header_len()..];
            again.update_checksum(ip.source, ip.destination, data).ok().map(|()| again.checksum == icmp.checksum)
        }
        _ => None,
    };
    (network, transport)
}

/// Whether a header with its checksum in it adds up to none (RFC 1071).
fn adds_up(header: &[u8]) -> bool {
    let sum: u32 = header.chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(pair[1])).sum();
    (sum & 0xffff) + (sum >> 16) == 0xffff
}

/// Every half in FLOWS has its other half there.
pub fn whole_pairs(lab: &mut Lab) -> Result<()> {
    let flows = lab.flows(Table::Flows)?;
    for (key, flow) in &flows {
        let other = flows.iter().find(|(other, _)| {
            (other.source, other.source_port, other.destination, other.destination_port)
                == (flow.destination, flow.destination_port, flow.source, flow.source_port)
                && other.protocol == key.protocol
        });
        let (_, other) = other.unwrap_or_else(|| panic!("{key:?} has no other half"));
        assert_ne!(other.flags & flow_flags::REPLY, flow.flags & flow_flags::REPLY);
    }
    Ok(())
}
