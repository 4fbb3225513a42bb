//! Properties of any frame at all, and of any payload.

use std::cell::RefCell;

use anyhow::{Context, Result, bail, ensure};
use gateway_common::{
    Reason,
    protocol::{TCP, UDP},
};
use proptest::collection::vec;
use proptest::prelude::{Just, Strategy, any, prop_oneof};
use proptest::sample::{Index, subsequence};
use proptest::test_runner::{Config, TestCaseError, TestError, TestRunner};

use crate::answer::reset;
use crate::cases::Cases;
use crate::lab::Lab;
use crate::net::{Port, Version, port_of};
use crate::outcome::{Hook, Went};
use crate::packet::Packet;
use crate::scene::{Place, Scene};
use crate::sound::{anything, busy, kinds, whole_pairs};

/// Inputs of a property, unless PROPTEST_CASES asks for another number.
const INPUTS: u32 = 1_000;

pub fn add(cases: &mut Cases) {
    cases.each("random/mutated_frames_pass_untouched_or_have_a_reason", mutated_frames);
    cases.each("random/corpus_of_the_fuzz_target_frames", corpus);
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
    property_of(lab, INPUTS, strategy, property)
}

/// The same on so many inputs.
pub fn property_of<S: Strategy>(
    lab: &mut Lab,
    inputs: u32,
    strategy: &S,
    property: impl Fn(&mut Lab, S::Value) -> Result<()>,
) -> Result<()> {
    let mut config = Config { failure_persistence: None, ..Config::default() };
    if std::env::var_os("PROPTEST_CASES").is_none() {
        config.cases = inputs;
    }
    let lab = RefCell::new(lab);
    let result = TestRunner::new(config).run(strategy, |input| {
        property(&mut lab.borrow_mut(), input).map_err(|error| TestCaseError::fail(format!("{error:#}")))
    });
    match result {
        Ok(()) => Ok(()),
        Err(TestError::Fail(reason, input)) => bail!("{reason}\nfor {input:?}"),
        Err(TestError::Abort(reason)) => bail!("{reason}"),
    }
}

/// Bytes to write over a frame, bytes to insert, and where to cut it.
#[derive(Clone, Debug)]
pub struct Mutation {
    writes: Vec<(Index, u8)>,
    insert: Option<(Index, Vec<u8>)>,
    cut: Option<Index>,
}

impl Mutation {
    pub fn strategy() -> impl Strategy<Value = Mutation> {
        let insert = prop_oneof![3 => Just(None), 1 => (any::<Index>(), vec(any::<u8>(), 1..40)).prop_map(Some)];
        let cut = prop_oneof![3 => Just(None), 1 => any::<Index>().prop_map(Some)];
        (vec((any::<Index>(), any::<u8>()), 0..6), insert, cut).prop_map(|(writes, insert, cut)| Mutation {
            writes,
            insert,
            cut,
        })
    }

    pub fn apply(&self, frame: &mut Vec<u8>) {
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
    let frames = kinds(&busy(lab, version)?);
    let strategy = (any::<Index>(), Mutation::strategy(), any::<bool>());
    property(lab, &strategy, |lab, (kind, mutation, from_client)| {
        let mut frame = frames[kind.index(frames.len())].clone();
        mutation.apply(&mut frame);
        anything(lab, if from_client { Port::Ext0 } else { Port::Ext1 }, &frame)
    })?;
    whole_pairs(lab)
}

/// What fuzzing started from, and what it has found.
fn corpus(lab: &mut Lab, version: Version) -> Result<()> {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../fuzz/corpus/frames");
    busy(lab, version)?;
    let mut seeds = 0;
    for file in std::fs::read_dir(folder).with_context(|| format!("no folder {folder}"))? {
        let frame = std::fs::read(file?.path())?;
        for port in [Port::Ext0, Port::Ext1] {
            anything(lab, port, &frame)?;
        }
        seeds += 1;
    }
    ensure!(seeds > 0, "no seed in {folder}");
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

fn any_payload(lab: &mut Lab, version: Version, protocol: u8) -> Result<()> {
    lab.xdp_ports(&[Port::Ext0, Port::Ext1])?;
    let mut scene = Scene::new(lab, version, protocol, Place::Remote)?;
    scene.establish(lab)?;
    let strategy = (
        vec(any::<u8>(), 0..=1_300),
        any::<(u32, u32, u16, u16)>(),
        subsequence(vec!['P', 'U', 'E', 'C'], 0..=4),
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
        subsequence(vec!['S', 'A', 'F', 'P', 'U', 'E', 'C'], 0..=7),
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
            lab.run(hook, Port::Ext0, &segment.frame())?.answered(Reason::NoListener, &reset(&segment));
        }
        Ok(())
    })
}
