//! Two connections that have become one: what is changed in a segment, and that nothing else is.

use anyhow::Result;
use gateway_common::{Reason, flow_state, protocol::TCP};
use proptest::collection::vec;
use proptest::prelude::any;
use proptest::sample::subsequence;

use crate::answer::reset;
use crate::cases::Cases;
use crate::cases::random::property_of;
use crate::lab::{Lab, Table};
use crate::net::{Port, Version};
use crate::outcome::{Hook, Went};
use crate::packet::{Body, Packet};
use crate::scene::{Place, key};
use crate::tls::{ISN, Tls};

/// Segments of a property, unless PROPTEST_CASES asks for another number.
const SEGMENTS: u32 = 500;

pub fn add(cases: &mut Cases) {
    for place in Place::ALL {
        for hook in Hook::BOTH {
            if hook == Hook::Xdp && place == Place::Pod {
                continue;
            }
            let name = |what: &str| format!("splice/translate/{what}_{place:?}_{hook:?}");
            cases.each(&name("numbers_both_ways"), move |lab, v| numbers(lab, v, place, hook));
            cases.each(&name("sack_blocks"), move |lab, v| sack(lab, v, place, hook));
            cases.each(&name("windows"), move |lab, v| windows(lab, v, place, hook));
        }
    }
    for hook in Hook::BOTH {
        let name = |what: &str| format!("splice/translate/{what}_{hook:?}");
        cases.each(&name("any_segment"), move |lab, v| any_segment(lab, v, hook));
        cases.each(&name("options_that_are_no_sack"), move |lab, v| odd_options(lab, v, hook));
    }
    cases.each("splice/translate/merged_segments", merged);
    cases.each("splice/translate/syn_ack_again_after_the_handshake", syn_ack_again);
    cases.each("splice/translate/syn_removes_no_live_flow", syn_on_live);
    cases.each("splice/translate/keep_alive", keep_alive);
    cases.each("splice/translate/counters", counters);
    cases.each("splice/close/client_first", |lab, v| close(lab, v, true));
    cases.each("splice/close/backend_first", |lab, v| close(lab, v, false));
    cases.each("splice/close/at_once", at_once);
    cases.each("splice/close/half_closed_goes_on", half_closed);
    cases.each("splice/close/reset_by_the_client", |lab, v| reset_by(lab, v, true));
    cases.each("splice/close/reset_by_the_backend", |lab, v| reset_by(lab, v, false));
    cases.each("splice/close/goes_on_after_a_forged_reset", forged_reset);
    cases.each("splice/close/port_used_again", port_again);
    cases.each("splice/close/endpoint_gone", endpoint_gone);
    cases.each("splice/close/unknown_segments_are_refused", unknown);
}

/// An established connection whose routes are known.
fn established(lab: &mut Lab, version: Version, place: Place) -> Result<(Tls, u32)> {
    lab.xdp_ports(&[Port::Ext0, Port::Ext1])?;
    let mut tls = Tls::new(lab, version, place)?;
    let length = tls.established(lab)?;
    // One packet of each side more, and the route of each half is known.
    tls.client_sends(lab, &tls.up("A", length, 0))?;
    tls.backend_sends(lab, &tls.down("A", 0, length))?;
    Ok((tls, length))
}

/// What this end sends comes out like this at the other.
#[track_caller]
fn passes(lab: &mut Lab, tls: &Tls, hook: Hook, from_client: bool, packet: &Packet, wanted: &Packet) -> Result<()> {
    let port = if from_client { Port::Ext0 } else { tls.place.port() };
    if hook == Hook::Xdp {
        // XDP takes a flow while its route is fresh.
        for key in [tls.forward_key(), tls.reply_key()] {
            let (table, mut flow) = lab.flow(&key)?.expect("both halves are there");
            flow.route.checked = crate::lab::now()?;
            lab.put_flow(table, &key, &flow)?;
        }
        let outcome = lab.xdp(port, &packet.frame())?;
        // Options may have to be searched for SACK blocks: that is TC's.
        if from_client && has_options(packet) && outcome.went() == Went::Next {
            outcome.untouched();
            lab.tc(port, &packet.frame())?.forwarded(wanted);
        } else {
            outcome.forwarded_whole(wanted);
        }
    } else {
        lab.tc(port, &packet.frame())?.forwarded(wanted);
    }
    Ok(())
}

fn has_options(packet: &Packet) -> bool {
    matches!(&packet.body, Body::Tcp(header, _) if !header.options.is_empty())
}

#[track_caller]
fn up(lab: &mut Lab, tls: &Tls, hook: Hook, packet: &Packet) -> Result<()> {
    passes(lab, tls, hook, true, packet, &tls.forwarded(packet))
}

#[track_caller]
fn down(lab: &mut Lab, tls: &Tls, hook: Hook, packet: &Packet) -> Result<()> {
    passes(lab, tls, hook, false, packet, &tls.returned(packet))
}

fn numbers(lab: &mut Lab, version: Version, place: Place, hook: Hook) -> Result<()> {
    let (tls, length) = established(lab, version, place)?;
    for position in [0, 1, 1_000, 0x7fff_ffff, 0x8000_0000, 0u32.wrapping_sub(tls.cookie), u32::MAX - length] {
        let ahead = length.wrapping_add(position);
        up(lab, &tls, hook, &tls.up("PA", ahead, position).data(b"request"))?;
        up(lab, &tls, hook, &tls.up("A", ahead, position))?;
        up(lab, &tls, hook, &tls.up("A", ahead, position).data(&[0x5a; 1_301]))?;
        down(lab, &tls, hook, &tls.down("PA", position, ahead).data(b"response"))?;
        down(lab, &tls, hook, &tls.down("A", position, ahead))?;
        down(lab, &tls, hook, &tls.down("A", position, ahead).data(&[0xa5; 1_300]))?;
    }
    for flags in ["PA", "UA", "EA", "CA", "PUECA"] {
        let urgent = |packet: Packet| Packet { tos: 0x2e, ..packet.header(|h| h.urgent_pointer = 77) };
        up(lab, &tls, hook, &urgent(tls.up(flags, length, 5).data(b"x")))?;
        down(lab, &tls, hook, &urgent(tls.down(flags, 5, length).data(b"xy")))?;
    }
    tls.in_state(lab, flow_state::ESTABLISHED)
}

/// An option with these blocks after `before` and filled up with `after`.
fn sack_option(before: &[u8], blocks: &[(u32, u32)], after: u8) -> Vec<u8> {
    let mut options = before.to_vec();
    options.extend([5, 2 + 8 * blocks.len() as u8]);
    for (left, right) in blocks {
        options.extend(left.to_be_bytes());
        options.extend(right.to_be_bytes());
    }
    options.resize(options.len().next_multiple_of(4), after);
    options
}

fn sack(lab: &mut Lab, version: Version, place: Place, hook: Hook) -> Result<()> {
    let (tls, length) = established(lab, version, place)?;
    let timestamps: &[u8] = &[8, 10, 0, 1, 2, 3, 4, 5, 6, 7];
    let befores: &[&[u8]] =
        &[&[1, 1], &[], &[1], &[1, 1, 1], &[1, 8, 10, 0, 1, 2, 3, 4, 5, 6, 7], timestamps, &[253, 3, 9], &[254, 2]];
    for before in befores {
        for count in 1..=4 {
            if before.len() + 2 + 8 * count > 40 {
                continue;
            }
            // Edges around the place where the numbers wrap, and before the acknowledgement (RFC 2883).
            let edges: Vec<(u32, u32)> = (0..count as u32)
                .map(|i| (0u32.wrapping_sub(tls.cookie).wrapping_sub(100).wrapping_add(i * 300), i))
                .map(|(at, i)| if i == 3 { (0, 40) } else { (at, at.wrapping_add(150 + i)) })
                .collect();
            for after in [0, 1] {
                let of_client: Vec<(u32, u32)> = edges
                    .iter()
                    .map(|(l, r)| (tls.cookie.wrapping_add(1 + l), tls.cookie.wrapping_add(1).wrapping_add(*r)))
                    .collect();
                let of_backend: Vec<(u32, u32)> =
                    of_client.iter().map(|(l, r)| (l.wrapping_sub(tls.delta()), r.wrapping_sub(tls.delta()))).collect();
                let packet = tls.up("A", length, 5);
                let with = |packet: &Packet, blocks| {
                    packet
                        .clone()
                        .header(|h| h.set_options_raw(&sack_option(before, blocks, after)).expect("40 bytes at most"))
                };
                let wanted = tls.forwarded(&with(&packet, &of_backend));
                passes(lab, &tls, hook, true, &with(&packet, &of_client), &wanted)?;
                // Data may come with it.
                let packet = packet.data(b"abc");
                let wanted = tls.forwarded(&with(&packet, &of_backend));
                passes(lab, &tls, hook, true, &with(&packet, &of_client), &wanted)?;

                // The client's numbers are the backend's.
                let of_client: Vec<(u32, u32)> =
                    edges.iter().map(|(l, r)| (ISN.wrapping_add(*l), ISN.wrapping_add(*r))).collect();
                down(lab, &tls, hook, &with(&tls.down("A", 5, length), &of_client))?;
            }
        }
    }
    Ok(())
}

fn odd_options(lab: &mut Lab, version: Version, hook: Hook) -> Result<()> {
    let (tls, length) = established(lab, version, Place::Remote)?;
    let options: &[&[u8]] = &[
        &[1, 1, 1, 1],
        &[8, 10, 0, 1, 2, 3, 4, 5, 6, 7, 1, 1],
        // Lengths that are none.
        &[5, 0, 0, 0],
        &[5, 1, 0, 0],
        &[5, 2, 0, 0],
        &[5, 9, 1, 2, 3, 4, 5, 6, 7, 8, 9, 0],
        &[5, 10, 1, 2],
        &[1, 1, 1, 5],
        &[5, 42, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10],
        // After the end of the options.
        &[0, 1, 5, 10, 1, 2, 3, 4, 5, 6, 7, 8],
        // Within another option.
        &[253, 12, 5, 10, 1, 2, 3, 4, 5, 6, 7, 8],
        // MD5 signatures cannot hold, and are not ours to judge.
        &[19, 18, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 1, 1],
    ];
    for option in options {
        let with = |packet: Packet| packet.header(|h| h.set_options_raw(option).expect("40 bytes at most"));
        up(lab, &tls, hook, &with(tls.up("A", length, 5)))?;
        up(lab, &tls, hook, &with(tls.up("PA", length, 5).data(b"12345")))?;
        down(lab, &tls, hook, &with(tls.down("A", 5, length)))?;
    }
    Ok(())
}

fn windows(lab: &mut Lab, version: Version, place: Place, hook: Hook) -> Result<()> {
    lab.xdp_ports(&[Port::Ext0, Port::Ext1])?;
    let tls = Tls::new(lab, version, place)?;
    let mut port = 10_000;
    for client in [None, Some(0), Some(1), Some(14)] {
        for backend in [None, Some(0), Some(8), Some(9), Some(10), Some(14)] {
            let mut tls = tls.client_port(port);
            port += 1;
            tls.offer.scale = client;
            tls.answer.scale = backend.filter(|_| client.is_some());
            let length = tls.established(lab)?;
            tls.client_sends(lab, &tls.up("A", length, 0))?;
            tls.backend_sends(lab, &tls.down("A", 0, length))?;
            for window in [0, 1, 2, 127, 128, 511, 512, 0x7fff, 0x8000, 0xffff] {
                up(lab, &tls, hook, &tls.up("A", length, 0).header(|h| h.window_size = window))?;
                down(lab, &tls, hook, &tls.down("A", 0, length).header(|h| h.window_size = window))?;
            }
        }
    }
    Ok(())
}

fn any_segment(lab: &mut Lab, version: Version, hook: Hook) -> Result<()> {
    let (tls, _) = established(lab, version, Place::Remote)?;
    let strategy = (
        vec(any::<u8>(), 0..=1_200),
        any::<(u32, u32, u16, u16)>(),
        subsequence(vec!['P', 'U', 'E', 'C'], 0..=4),
        vec(any::<u8>(), 0..=40),
        (any::<u8>(), 2_u8..=255, any::<u16>(), any::<bool>()),
    );
    property_of(lab, SEGMENTS, &strategy, |lab, (data, (seq, ack, window, urgent), flags, options, rest)| {
        let (tos, ttl, id, from_client) = rest;
        let flags: String = flags.iter().chain(&['A']).collect();
        // Kinds that mean something here have tests of their own.
        let options: Vec<u8> = options[..options.len() / 4 * 4].iter().map(|byte| byte | 0x40).collect();
        let segment = if from_client { tls.up(&flags, 0, 0) } else { tls.down(&flags, 0, 0) };
        let segment = segment.data(&data).header(|h| {
            (h.sequence_number, h.acknowledgment_number, h.window_size, h.urgent_pointer) = (seq, ack, window, urgent);
            h.set_options_raw(&options).expect("40 bytes at most");
        });
        let segment = Packet { tos, ttl, id, ..segment };
        if from_client { up(lab, &tls, hook, &segment) } else { down(lab, &tls, hook, &segment) }
    })
}

/// GRO's frames stay whole.
fn merged(lab: &mut Lab, version: Version) -> Result<()> {
    let (tls, length) = established(lab, version, Place::Remote)?;
    for (data, size) in [(3_000, 1_000), (3_500, 1_300), (2_601, 1_300)] {
        let packet = tls.up("PA", length, 5).data(&vec![0x33; data]);
        lab.tc_segmented(Port::Ext0, &packet.frame(), size)?.forwarded(&tls.forwarded(&packet));
        let packet = tls.down("PA", 5, length).data(&vec![0x44; data]);
        lab.tc_segmented(Port::Ext1, &packet.frame(), size)?.forwarded(&tls.returned(&packet));
    }
    Ok(())
}

/// The ACK of the SYN-ACK was lost: the client's acknowledgement takes its place.
fn syn_ack_again(lab: &mut Lab, version: Version) -> Result<()> {
    let (tls, length) = established(lab, version, Place::Remote)?;
    let again = tls.syn_ack();
    let outcome = lab.tc(Port::Ext1, &again.frame())?;
    // The client answers it as it would its own SYN-ACK's copy; the window in it is one that is never scaled.
    let answer = crate::segment::Segment::read(&outcome.frame)?;
    assert_eq!((answer.seq, answer.ack), (tls.cookie, tls.client_seq(0)));
    assert!(answer.has('S') && answer.has('A'));
    tls.client_sends(lab, &tls.up("A", length, 0))?;
    tls.in_state(lab, flow_state::ESTABLISHED)
}

/// RFC 5961 section 4: whoever sends it is asked whether he means it.
fn syn_on_live(lab: &mut Lab, version: Version) -> Result<()> {
    for hook in Hook::BOTH {
        lab.reset()?;
        let (tls, length) = established(lab, version, Place::Remote)?;
        for isn in [ISN, ISN.wrapping_add(100_000)] {
            let syn = Tls { isn, ..tls.clone() }.syn();
            let outcome = lab.run(hook, Port::Ext0, &syn.frame())?;
            assert_eq!(outcome.reasons, []);
            tls.in_state(lab, flow_state::ESTABLISHED)?;
        }
        tls.backend_sends(lab, &tls.down("A", 0, length))?;
        tls.client_sends(lab, &tls.up("PA", length, 0).data(b"it goes on"))?;
    }
    Ok(())
}

fn keep_alive(lab: &mut Lab, version: Version) -> Result<()> {
    let (tls, length) = established(lab, version, Place::Remote)?;
    for hook in Hook::BOTH {
        up(lab, &tls, hook, &tls.up("A", length - 1, 0))?;
        down(lab, &tls, hook, &tls.down("A", 0, length))?;
        down(lab, &tls, hook, &tls.down("A", u32::MAX, length))?;
        up(lab, &tls, hook, &tls.up("A", length, 0))?;
        up(lab, &tls, hook, &tls.up("A", length - 1, 0).data(&[0]))?;
    }
    Ok(())
}

fn counters(lab: &mut Lab, version: Version) -> Result<()> {
    let (tls, length) = established(lab, version, Place::Remote)?;
    let before = lab.listener_counter(tls.by_name)?;
    let header = version.header() as u64 + 20;
    for hook in Hook::BOTH {
        up(lab, &tls, hook, &tls.up("PA", length, 0).data(&[1; 100]))?;
        down(lab, &tls, hook, &tls.down("PA", 0, length).data(&[1; 1_000]))?;
    }
    let after = lab.listener_counter(tls.by_name)?;
    assert_eq!(after.packets_in - before.packets_in, 2);
    assert_eq!(after.bytes_in - before.bytes_in, 2 * (header + 100));
    assert_eq!(after.packets_out - before.packets_out, 2);
    assert_eq!(after.bytes_out - before.bytes_out, 2 * (header + 1_000));
    assert_eq!((after.picked, after.established, after.closed, after.refused), (1, 1, 0, 0));
    assert_eq!(lab.backend_counter(tls.id(0))?.packets_in, after.packets_in);
    Ok(())
}

fn close(lab: &mut Lab, version: Version, client_first: bool) -> Result<()> {
    let (tls, length) = established(lab, version, Place::Remote)?;
    if client_first {
        tls.client_sends(lab, &tls.up("FA", length, 0))?;
        tls.in_state(lab, flow_state::HALF_CLOSED)?;
        tls.backend_sends(lab, &tls.down("A", 0, length + 1))?;
        tls.backend_sends(lab, &tls.down("FPA", 0, length + 1).data(b"bye"))?;
    } else {
        tls.backend_sends(lab, &tls.down("FPA", 0, length).data(b"bye"))?;
        tls.in_state(lab, flow_state::HALF_CLOSED)?;
        tls.client_sends(lab, &tls.up("FA", length, 4))?;
    }
    let (table, forward, _) = tls.halves(lab)?;
    assert_eq!((table, forward.state), (Table::Embryonic, flow_state::CLOSED));
    // The last acknowledgement, and what is repeated because it was lost.
    tls.client_sends(lab, &tls.up("A", length + 1, 4))?;
    tls.backend_sends(lab, &tls.down("FA", 3, length + 1))?;
    tls.client_sends(lab, &tls.up("A", length + 1, 4))?;
    assert_eq!(lab.flows(Table::Flows)?, vec![]);
    let counter = lab.listener_counter(tls.by_name)?;
    assert_eq!((counter.picked, counter.established, counter.closed), (1, 1, 1));
    Ok(())
}

fn at_once(lab: &mut Lab, version: Version) -> Result<()> {
    let (tls, length) = established(lab, version, Place::Remote)?;
    tls.client_sends(lab, &tls.up("FA", length, 0))?;
    tls.backend_sends(lab, &tls.down("FA", 0, length))?;
    tls.client_sends(lab, &tls.up("A", length + 1, 1))?;
    tls.backend_sends(lab, &tls.down("A", 1, length + 1))?;
    let (table, forward, _) = tls.halves(lab)?;
    assert_eq!((table, forward.state), (Table::Embryonic, flow_state::CLOSED));
    Ok(())
}

fn half_closed(lab: &mut Lab, version: Version) -> Result<()> {
    for client_first in [true, false] {
        lab.reset()?;
        let (tls, length) = established(lab, version, Place::Remote)?;
        if client_first {
            tls.client_sends(lab, &tls.up("FA", length, 0))?;
        } else {
            tls.backend_sends(lab, &tls.down("FA", 0, length))?;
        }
        for i in 0..4 {
            if client_first {
                down(lab, &tls, Hook::Tc, &tls.down("PA", i * 1_000, length + 1).data(&[1; 1_000]))?;
                up(lab, &tls, Hook::Tc, &tls.up("A", length + 1, i * 1_000 + 1_000))?;
            } else {
                up(lab, &tls, Hook::Tc, &tls.up("PA", length + i * 1_000, 1).data(&[1; 1_000]))?;
                down(lab, &tls, Hook::Tc, &tls.down("A", 1, length + i * 1_000 + 1_000))?;
            }
        }
        tls.in_state(lab, flow_state::HALF_CLOSED)?;
    }
    Ok(())
}

fn reset_by(lab: &mut Lab, version: Version, client: bool) -> Result<()> {
    let (tls, length) = established(lab, version, Place::Remote)?;
    if client {
        tls.client_sends(lab, &tls.up("R", length, 0).header(|h| (h.acknowledgment_number, h.window_size) = (0, 0)))
    } else {
        tls.backend_sends(lab, &tls.down("RA", 0, length))
    }?;
    let (table, forward, _) = tls.halves(lab)?;
    assert_eq!((table, forward.state), (Table::Embryonic, flow_state::RESET));
    assert_eq!(lab.listener_counter(tls.by_name)?.closed, 1);
    Ok(())
}

fn forged_reset(lab: &mut Lab, version: Version) -> Result<()> {
    let (tls, length) = established(lab, version, Place::Remote)?;
    lab.tc(Port::Ext0, &tls.up("R", 0x4000_0000, 0).frame())?;
    // The client, who sent none, goes on.
    tls.client_sends(lab, &tls.up("PA", length, 0).data(b"still here"))?;
    tls.in_state(lab, flow_state::ESTABLISHED)?;
    tls.backend_sends(lab, &tls.down("A", 0, length + 10))
}

/// The client's port comes round again while the old connection is remembered.
fn port_again(lab: &mut Lab, version: Version) -> Result<()> {
    for hook in Hook::BOTH {
        lab.reset()?;
        let (mut tls, length) = established(lab, version, Place::Remote)?;
        tls.client_sends(lab, &tls.up("FA", length, 0))?;
        tls.backend_sends(lab, &tls.down("FA", 0, length + 1))?;
        let old = tls.reply_key();
        tls.isn = tls.isn.wrapping_add(200_000);
        tls.restart();
        tls.accepted(lab, hook)?;
        lab.tc(Port::Ext0, &tls.up("A", 0, 0).frame())?.consumed();
        let hello = tls.hello();
        tls.connects(lab, &tls.up("PA", 0, 0).data(&hello))?;
        tls.in_state(lab, flow_state::CONNECTING)?;
        // A backend in TIME_WAIT would not take the same port for a new connection.
        assert_ne!(tls.reply_key(), old, "the port towards the backend was used a moment ago");
        let piece = tls.first_piece(&hello);
        lab.tc(Port::Ext1, &tls.syn_ack().frame())?.forwarded(&piece);
        tls.backend_sends(lab, &tls.down("A", 0, hello.len() as u32))?;
        tls.in_state(lab, flow_state::ESTABLISHED)?;
    }
    Ok(())
}

fn endpoint_gone(lab: &mut Lab, version: Version) -> Result<()> {
    let (tls, length) = established(lab, version, Place::Remote)?;
    lab.remove_backend(tls.id(0))?;
    lab.sweep()?;
    let data = tls.up("PA", length, 0).data(b"anybody?");
    lab.tc(Port::Ext0, &data.frame())?.answered(Reason::BackendGone, &reset(&data));
    // The backend's first packet tells the client; it is the client's own numbers that it must have.
    let (tls, length) = {
        lab.reset()?;
        established(lab, version, Place::Remote)?
    };
    lab.remove_backend(tls.id(0))?;
    lab.sweep()?;
    let data = tls.down("PA", 0, length).data(b"anybody?");
    let outcome = lab.tc(Port::Ext1, &data.frame())?;
    let told = crate::segment::Segment::read(&outcome.frame)?;
    assert_eq!((told.from, told.to, told.seq), (tls.gateway, tls.client, tls.cookie.wrapping_add(1)));
    assert!(told.has('R'), "{told:?}");
    Ok(())
}

fn unknown(lab: &mut Lab, version: Version) -> Result<()> {
    let tls = Tls::new(lab, version, Place::Remote)?;
    for (flags, data) in [("A", &b""[..]), ("PA", b"data"), ("FA", b""), ("F", b""), ("", b"x"), ("SA", b"")] {
        // No cookie has this number.
        let packet = tls.up(flags, 700, 0x5555).data(data);
        lab.tc(Port::Ext0, &packet.frame())?.answered(Reason::UnknownConnection, &reset(&packet));
    }
    lab.tc(Port::Ext0, &tls.up("R", 700, 0).frame())?.dropped(Reason::StrayReset);
    assert_eq!(lab.flow(&key(tls.client, tls.gateway, TCP))?, None);
    tls.nothing(lab)
}
