//! Which backend a new connection gets.

use anyhow::Result;
use gateway_common::{
    Reason, hash,
    maglev::{self, Member, Turn},
    protocol::{TCP, UDP},
    slot,
};

use crate::answer::reset;
use crate::cases::Cases;
use crate::lab::{Lab, Table};
use crate::net::{Port, Version, port_of};
use crate::outcome::{Outcome, Went};
use crate::packet::Packet;
use crate::scene::{Place, Scene, key};

pub fn add(cases: &mut Cases) {
    for protocol in [TCP, UDP] {
        let name = if protocol == TCP { "tcp" } else { "udp" };
        cases.each(&format!("pick/{name}_slot_of_the_hash"), move |lab, v| slot_of_the_hash(lab, v, protocol));
    }
    cases.each("pick/nested_table", nested);
    cases.each("pick/weights_9_to_1", |lab, v| weights(lab, v, &[9, 1]));
    cases.each("pick/weights_1_to_999999", |lab, v| weights(lab, v, &[1, 999_999]));
    cases.each("pick/weight_0_gets_nothing", |lab, v| weights(lab, v, &[0, 5]));
    cases.each("pick/invalid_share_is_refused_in_proportion", invalid_in_proportion);
    cases.each("pick/several_listeners_and_addresses", several);
}

/// What a client's nth connection opens with.
fn opening(scene: &Scene, n: u16) -> Packet {
    scene.client_port(1_024 + n).opening()
}

/// The port of the backend that a packet went to: every backend of these tests has its own.
#[track_caller]
fn backend_port(outcome: &Outcome, version: Version) -> u16 {
    assert_eq!(outcome.went(), Went::Out);
    let at = 14 + version.header() + 2;
    u16::from_be_bytes([outcome.frame[at], outcome.frame[at + 1]])
}

fn slot_of_the_hash(lab: &mut Lab, version: Version, protocol: u8) -> Result<()> {
    let scene = Scene::new(lab, version, protocol, Place::Pod)?;
    let table: Vec<u32> = (1..=61).collect();
    for id in &table {
        lab.backend(*id, Place::Pod.entry(version, protocol, 8_000 + *id as u16))?;
    }
    lab.replace_set(scene.set, &table, &[])?;
    for n in 0..500 {
        let packet = opening(&scene, n);
        let hash = hash::flow(&key(port_of(packet.source, 1_024 + n), scene.gateway, protocol));
        let wanted = table[hash::reduce(hash as u32, table.len() as u32) as usize];
        assert_eq!(backend_port(&lab.tc(Port::Ext0, &packet.frame())?, version), 8_000 + wanted as u16);
    }
    Ok(())
}

/// NESTED sends to the second table, by the other half of the hash.
fn nested(lab: &mut Lab, version: Version) -> Result<()> {
    let scene = Scene::new(lab, version, TCP, Place::Pod)?;
    let nested: Vec<u32> = (1..=31).collect();
    for id in &nested {
        lab.backend(*id, Place::Pod.entry(version, TCP, 8_000 + *id as u16))?;
    }
    lab.replace_set(scene.set, &[slot::NESTED, 1, slot::NESTED, slot::EMPTY], &nested)?;
    let (mut refused, mut twice) = (0, 0);
    for n in 0..400 {
        let packet = opening(&scene, n);
        let hash = hash::flow(&key(port_of(packet.source, 1_024 + n), scene.gateway, TCP));
        let outcome = lab.tc(Port::Ext0, &packet.frame())?;
        match hash::reduce(hash as u32, 4) {
            1 => assert_eq!(backend_port(&outcome, version), 8_001),
            3 => {
                outcome.answered(Reason::NoBackend, &reset(&packet));
                refused += 1;
            }
            _ => {
                let wanted = nested[hash::reduce((hash >> 32) as u32, 31) as usize];
                assert_eq!(backend_port(&outcome, version), 8_000 + wanted as u16);
                twice += 1;
            }
        }
    }
    assert!(refused > 50 && twice > 100, "{refused} refused, {twice} by the nested table");
    Ok(())
}

/// Backends of these weights, with a table as the agent makes it.
fn weighted(lab: &mut Lab, scene: &Scene, members: &[(u32, u64)]) -> Result<()> {
    let members: Vec<Member> =
        members.iter().map(|(slot, weight)| Member { slot: *slot, seed: u64::from(*slot), weight: *weight }).collect();
    for member in members.iter().filter(|member| member.slot < slot::FIRST_SPECIAL) {
        lab.backend(member.slot, Place::Pod.entry(scene.version, scene.protocol, 8_000 + member.slot as u16))?;
    }
    let mut table = vec![0; maglev::length(members.len()) as usize];
    let mut nested = vec![0; maglev::NESTED_LENGTH as usize];
    let mut turns = vec![Turn::default(); members.len()];
    let length = maglev::fill(&members, &mut table, &mut nested, &mut turns);
    nested.truncate(length as usize);
    lab.replace_set(scene.set, &table, &nested)
}

/// The shares of 2,000 connections are within five standard deviations of the weights.
fn weights(lab: &mut Lab, version: Version, weights: &[u64]) -> Result<()> {
    const CONNECTIONS: u16 = 2_000;
    let scene = Scene::new(lab, version, TCP, Place::Pod)?;
    let members: Vec<(u32, u64)> = weights.iter().enumerate().map(|(i, weight)| (i as u32 + 1, *weight)).collect();
    weighted(lab, &scene, &members)?;
    let mut counts = vec![0_u32; weights.len()];
    for n in 0..CONNECTIONS {
        let outcome = lab.tc(Port::Ext0, &opening(&scene, n).frame())?;
        counts[usize::from(backend_port(&outcome, version) - 8_001)] += 1;
    }
    let total: u64 = weights.iter().sum();
    for (count, weight) in counts.iter().zip(weights) {
        let share = *weight as f64 / total as f64;
        let wanted = share * f64::from(CONNECTIONS);
        let deviation = (wanted * (1.0 - share)).sqrt();
        let off = (f64::from(*count) - wanted).abs();
        assert!(off <= 5.0 * deviation + f64::from(u8::from(share > 0.0)), "{counts:?} for {weights:?}");
    }
    for (id, count) in (1..).zip(&counts) {
        assert_eq!(lab.backend_counter(id)?.picked, u64::from(*count));
    }
    assert_eq!(lab.listener_counter(scene.listener)?.picked, u64::from(CONNECTIONS));
    Ok(())
}

fn invalid_in_proportion(lab: &mut Lab, version: Version) -> Result<()> {
    let scene = Scene::new(lab, version, TCP, Place::Pod)?;
    weighted(lab, &scene, &[(1, 1), (slot::INVALID, 2), (slot::EMPTY, 1)])?;
    let (mut good, mut invalid, mut empty) = (0, 0, 0);
    for n in 0..1_000 {
        let packet = opening(&scene, n);
        let outcome = lab.tc(Port::Ext0, &packet.frame())?;
        match outcome.reasons[..] {
            [] => good += 1,
            [Reason::InvalidBackend] => invalid += 1,
            [Reason::NoBackend] => empty += 1,
            _ => panic!("{:?}", outcome.reasons),
        }
    }
    assert!((180..320).contains(&good) && (420..580).contains(&invalid) && (180..320).contains(&empty));
    assert_eq!(lab.listener_counter(scene.listener)?.refused, (invalid + empty) as u64);
    Ok(())
}

/// Ports and addresses have their own sets; one listener may have both IP versions and several addresses.
fn several(lab: &mut Lab, version: Version) -> Result<()> {
    let scene = Scene::new(lab, version, TCP, Place::Pod)?;
    let mut wanted = vec![(scene.gateway, 8_080)];
    for n in 0..20_u16 {
        let id = 10 + u32::from(n);
        lab.backend(id, Place::Pod.entry(version, TCP, 9_000 + n))?;
        let set = lab.set(&[id], &[])?;
        let address = if n % 2 == 0 { version.gateway() } else { version.node() };
        let at = port_of(address, 100 + n);
        lab.listener(at, TCP, set)?;
        wanted.push((at, 9_000 + n));
    }
    for (at, port) in wanted {
        let packet = scene.opening().to(at);
        assert_eq!(backend_port(&lab.tc(Port::Ext0, &packet.frame())?, version), port, "{at}");
    }
    assert_eq!(lab.flows(Table::Embryonic)?.len(), 2 * 21);
    Ok(())
}
