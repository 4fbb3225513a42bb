//! Properties of any frame at all, and of any payload.

use std::cell::RefCell;

use anyhow::{Result, bail};
use etherparse::{IpHeaders, LaxPacketHeaders, TransportHeader};
use gateway_common::{
    flow_flags,
    protocol::{TCP, UDP},
};
use proptest::collection::vec;
use proptest::prelude::{Just, Strategy, any, prop_oneof};
use proptest::sample::Index;
use proptest::test_runner::{Config, TestError, TestRunner};

use crate::answer::reset;
use crate::cases::Cases;
use crate::lab::{Lab, Table};
use crate::net::{Port, Version, port_of};
use crate::outcome::{Hook, Outcome, Went, difference};
use crate::packet::{Packet, extension};
use crate::scene::{BACKEND_ISN, CLIENT_ISN, Place, Scene};

/// Inputs of a property, unless PROPTEST_CASES asks for another number.
const INPUTS: u32 = 1_000;

pub fn add(cases: &mut Cases) {
    cases.each("random/mutated_frames_pass_untouched_or_have_a_reason", mutated_frames);
    cases.each("random/noise_passes_untouched_or_has_a_reason", noise);
    for protocol in [TCP, UDP] {
        let name = if protocol == TCP { "tcp" } else { "udp" };
        cases.each(&format!("random/{name}_rewrite_of_any_payload"), move |lab, v| any_payload(lab, v, protocol));
    }
    cases.each("random/reset_of_any_segment", any_reset);
}

/// Runs a property on many inputs; the failure names the smallest input that shows it.
fn property<S: Strategy>(
    lab: &mut Lab,
    strategy: &S,
    property: impl Fn(&mut Lab, S::Value) -> Result<()>,
) -> Result<()> {
    let mut config = Config { failure_persistence: None, ..Config::default() };
    if std::env::var_os("PROPTEST_CASES").is_none() {
        config.cases = INPUTS;
    }
    let lab = RefCell::new(lab);
    let result = TestRunner::new(config).run(strategy, |input| {
        property(&mut lab.borrow_mut(), input)
            .map_err(|error| proptest::test_runner::TestCaseError::fail(format!("{error:#}")))
    });
    match result {
        Ok(()) => Ok(()),
        Err(TestError::Fail(reason, input)) => bail!("{reason}\nfor {input:?}"),
        Err(TestError::Abort(reason)) => bail!("{reason}"),
    }
}

/// Every kind of frame that the pipeline looks into.
fn kinds(scene: &Scene) -> Vec<Vec<u8>> {
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
        frames.push(scene.from_backend(error).frame());
    }
    if version == Version::V6 {
        frames.push(data.extension(extension::HOP_BY_HOP, &[5, 2, 0, 0, 1, 0]).frame());
    } else {
        frames.push(Packet { options: vec![1, 1, 1, 0], ..data }.frame());
    }
    frames
}

/// Bytes to write over a frame, bytes to insert, and where to cut it.
#[derive(Clone, Debug)]
struct Mutation {
    writes: Vec<(Index, u8)>,
    insert: Option<(Index, Vec<u8>)>,
    cut: Option<Index>,
}

impl Mutation {
    fn strategy() -> impl Strategy<Value = Mutation> {
        let insert = prop_oneof![3 => Just(None), 1 => (any::<Index>(), vec(any::<u8>(), 1..40)).prop_map(Some)];
        let cut = prop_oneof![3 => Just(None), 1 => any::<Index>().prop_map(Some)];
        (vec((any::<Index>(), any::<u8>()), 0..6), insert, cut).prop_map(|(writes, insert, cut)| Mutation {
            writes,
            insert,
            cut,
        })
    }

    fn apply(&self, frame: &mut Vec<u8>) {
        for (at, byte) in &self.writes {
            // Mostly the headers, which is where the decisions are.
            let end = frame.len().min(14 + 40 + 24);
            frame[at.index(end)] = *byte;
        }
        if let Some((at, bytes)) = &self.insert {
            let at = at.index(frame.len());
            frame.splice(at..at, bytes.iter().copied());
        }
        if let Some(at) = &self.cut {
            frame.truncate(14 + at.index(frame.len() - 14));
        }
    }
}

fn mutated_frames(lab: &mut Lab, version: Version) -> Result<()> {
    lab.xdp_ports(&[Port::Ext0, Port::Ext1])?;
    let mut scene = Scene::new(lab, version, TCP, Place::Remote)?;
    lab.shared(version.node())?;
    lab.listener(scene.gateway, UDP, scene.set)?;
    scene.establish(lab)?;
    let frames = kinds(&scene);
    let strategy = (any::<Index>(), Mutation::strategy(), any::<bool>());
    property(lab, &strategy, |lab, (kind, mutation, from_client)| {
        let mut frame = frames[kind.index(frames.len())].clone();
        mutation.apply(&mut frame);
        anything(lab, if from_client { Port::Ext0 } else { Port::Ext1 }, &frame)
    })?;
    whole_pairs(lab)
}

fn noise(lab: &mut Lab, version: Version) -> Result<()> {
    let scene = Scene::new(lab, version, UDP, Place::Pod)?;
    lab.listener(scene.gateway, TCP, scene.set)?;
    let addresses = scene.request(b"").frame();
    let strategy = (vec(any::<u8>(), 0..200), 0_usize..80);
    property(lab, &strategy, |lab, (noise, known)| {
        // The frame starts as a packet to the gateway would, to get past the first doors.
        let known = known.min(addresses.len());
        let frame = [&addresses[..known.max(14)], &noise[..]].concat();
        anything(lab, Port::Ext0, &frame)
    })?;
    whole_pairs(lab)
}

/// What must hold for whatever frame, in both programs.
fn anything(lab: &mut Lab, port: Port, frame: &[u8]) -> Result<()> {
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
fn checksums(frame: &[u8]) -> (bool, Option<bool>) {
    let Ok((ip, payload)) = IpHeaders::from_slice_lax(&frame[14..]).map(|(ip, payload, _)| (ip, payload)) else {
        return (true, None);
    };
    let network = ip.ipv4().is_none_or(|(ip, _)| ip.calc_header_checksum() == ip.header_checksum);
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

/// Every half in FLOWS has its other half there.
fn whole_pairs(lab: &mut Lab) -> Result<()> {
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

fn any_payload(lab: &mut Lab, version: Version, protocol: u8) -> Result<()> {
    lab.xdp_ports(&[Port::Ext0, Port::Ext1])?;
    let mut scene = Scene::new(lab, version, protocol, Place::Remote)?;
    scene.establish(lab)?;
    let strategy = (
        vec(any::<u8>(), 0..=1_300),
        any::<(u32, u32, u16, u16)>(),
        proptest::sample::subsequence(vec!['P', 'U', 'E', 'C'], 0..=4),
        vec(any::<u8>(), 0..=40),
        (any::<u8>(), 2_u8..=255, any::<u16>()),
        any::<(bool, bool)>(),
    );
    property(lab, &strategy, |lab, (data, (seq, ack, window, urgent), flags, options, (tos, ttl, id), (up, sum))| {
        let mut packet = match protocol {
            TCP => {
                let flags: String = flags.iter().chain(&['A']).collect();
                let segment = if up { scene.up(&flags, seq, ack) } else { scene.down(&flags, seq, ack) };
                segment.header(|header| {
                    header.window_size = window;
                    header.urgent_pointer = urgent;
                    header.set_options_raw(&options[..options.len() / 4 * 4]).expect("40 bytes at most");
                })
            }
            _ if up => scene.request(b""),
            _ => scene.response(b""),
        };
        packet = Packet { tos, ttl, id, ..packet.data(&data) };
        if protocol == UDP && version == Version::V4 && !sum {
            packet = packet.without_checksum();
        }
        let (port, wanted) =
            if up { (Port::Ext0, scene.forwarded(&packet)) } else { (Port::Ext1, scene.returned(&packet)) };
        lab.tc(port, &packet.frame())?.forwarded(&wanted);
        let outcome = lab.xdp(port, &packet.frame())?;
        match outcome.went() {
            Went::Out => outcome.forwarded_whole(&wanted),
            // The route is looked up in TC once a second.
            _ => outcome.untouched(),
        }
        Ok(())
    })
}

fn any_reset(lab: &mut Lab, version: Version) -> Result<()> {
    let scene = Scene::new(lab, version, TCP, Place::Pod)?;
    let closed = port_of(version.gateway(), 81);
    let strategy = (
        vec(any::<u8>(), 0..=1_000),
        any::<(u32, u32)>(),
        proptest::sample::subsequence(vec!['S', 'A', 'F', 'P', 'U', 'E', 'C'], 0..=7),
        vec(any::<u8>(), 0..=40),
        0_usize..=20,
    );
    property(lab, &strategy, |lab, (data, (seq, ack), flags, options, padding)| {
        let flags: String = flags.iter().collect();
        let mut segment = scene.up(&flags, seq, ack).data(&data).to(closed).header(|header| {
            header.set_options_raw(&options[..options.len() / 4 * 4]).expect("40 bytes at most");
        });
        segment.padding = padding;
        for hook in Hook::BOTH {
            lab.run(hook, Port::Ext0, &segment.frame())?.answered(gateway_common::Reason::NoListener, &reset(&segment));
        }
        Ok(())
    })
}
