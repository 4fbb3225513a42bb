//! ClientHellos in pieces: what is kept, what is acknowledged, and when the name is known.

use anyhow::{Context, Result};
use gateway_common::{HELLO_BYTES, Reason, flow_state};

use crate::answer::reset;
use crate::cases::Cases;
use crate::hello::{Hello, extension, hello, host_name};
use crate::lab::Lab;
use crate::net::{Port, Version};
use crate::scene::Place;
use crate::tls::{NAME, Tls};

pub fn add(cases: &mut Cases) {
    cases.each("splice/hello/one_segment", one_segment);
    cases.each("splice/hello/two_segments_cut_anywhere", cut_anywhere);
    cases.each("splice/hello/two_segments_the_second_first", second_first);
    for pieces in 3..=8 {
        cases.each(&format!("splice/hello/{pieces}_segments_in_many_orders"), move |lab, v| orders(lab, v, pieces));
    }
    cases.each("splice/hello/single_bytes", single_bytes);
    cases.each("splice/hello/single_bytes_backwards", single_bytes_backwards);
    cases.each("splice/hello/repeated_and_overlapping", overlapping);
    cases.each("splice/hello/every_size", every_size);
    cases.each("splice/hello/merged_segments", merged);
    cases.each("splice/hello/fin_in_between", fin_in_between);
    cases.each("splice/hello/fin_with_the_last_byte", fin_at_the_end);
    cases.each("splice/hello/reset_in_between", reset_in_between);
    cases.each("splice/hello/several_records", several_records);
    cases.each("splice/hello/several_records_cut_anywhere", several_records_cut);
    cases.each("splice/hello/of_old_and_new_clients", clients);
    cases.each("splice/hello/client_without_window_scaling", without_scaling);
    cases.each("splice/hello/pure_ack_in_between", pure_ack);
    cases.each("splice/hello/before_the_first_byte_and_beyond_the_window", out_of_window);
    cases.each("splice/hello/evicted_by_newer_ones", evicted);
}

fn one_segment(lab: &mut Lab, version: Version) -> Result<()> {
    for place in Place::ALL {
        lab.reset()?;
        let mut tls = Tls::new(lab, version, place)?;
        let hello = tls.connecting(lab)?;
        tls.in_state(lab, flow_state::CONNECTING)?;
        let (_, kept) = lab.hello(&tls.forward_key())?.context("no slot")?;
        assert_eq!(kept.bytes[..hello.len()], hello[..]);
        assert_eq!((kept.length, kept.attempts, kept.syns), (hello.len() as u32, 1, 1));
        assert_eq!(lab.handshakes()?, vec![]);
    }
    Ok(())
}

/// Where the name ends: as soon as that byte is there, it is known.
fn known_at(bytes: &[u8]) -> usize {
    let name = NAME.as_bytes();
    let at = bytes.windows(name.len()).position(|window| window == name).expect("the name is in one record");
    at + name.len()
}

/// Sends the pieces of the hello in an order; each is answered as what has come so far wants it.
#[track_caller]
fn send(lab: &mut Lab, tls: &mut Tls, bytes: &[u8], pieces: &[(usize, usize)]) -> Result<()> {
    let known = known_at(bytes);
    let mut have = vec![false; bytes.len()];
    let mut connecting = false;
    for (from, to) in pieces {
        have[*from..*to].fill(true);
        let length = have.iter().position(|have| !have).unwrap_or(have.len());
        let packet = tls.up("A", *from as u32, 0).data(&bytes[*from..*to]);
        if connecting {
            lab.tc(Port::Ext0, &packet.frame())?.consumed();
        } else if length >= known {
            tls.connects(lab, &packet)?;
            connecting = true;
        } else {
            let outcome = lab.tc(Port::Ext0, &packet.frame())?;
            outcome.replied(&tls.acknowledgement(length as u32));
        }
    }
    assert!(connecting, "all of it was sent");
    let (_, kept) = lab.hello(&tls.forward_key())?.context("no slot")?;
    assert_eq!(kept.length as usize, bytes.len());
    assert_eq!(kept.bytes[..bytes.len()], *bytes);
    Ok(())
}

/// A client of its own, and its hello in these pieces.
#[track_caller]
fn client_sends(lab: &mut Lab, tls: &Tls, port: u16, bytes: &[u8], pieces: &[(usize, usize)]) -> Result<()> {
    let mut tls = tls.client_port(port);
    tls.opened(lab)?;
    send(lab, &mut tls, bytes, pieces).with_context(|| format!("{pieces:?}"))
}

fn cut_anywhere(lab: &mut Lab, version: Version) -> Result<()> {
    let tls = Tls::new(lab, version, Place::Remote)?;
    for bytes in [tls.hello(), hello(NAME).padded_before(400).bytes()] {
        for cut in 1..bytes.len() {
            client_sends(lab, &tls, 10_000 + cut as u16, &bytes, &[(0, cut), (cut, bytes.len())])?;
        }
        lab.reset()?;
        Tls::new(lab, version, Place::Remote)?;
    }
    Ok(())
}

fn second_first(lab: &mut Lab, version: Version) -> Result<()> {
    let tls = Tls::new(lab, version, Place::Pod)?;
    let bytes = hello(NAME).padded_before(1_700).bytes();
    for cut in (1..bytes.len()).step_by(7) {
        let cut = cut.max(bytes.len() - 1_400);
        client_sends(lab, &tls, 10_000 + cut as u16, &bytes, &[(cut, bytes.len()), (0, cut)])?;
        lab.reset()?;
        Tls::new(lab, version, Place::Pod)?;
    }
    Ok(())
}

/// Permutations by the factorial number system, spread over all of them.
fn order(pieces: usize, number: usize) -> Vec<usize> {
    let mut left: Vec<usize> = (0..pieces).collect();
    let mut number = number;
    (0..pieces)
        .map(|_| {
            let at = number % left.len();
            number /= left.len();
            left.remove(at)
        })
        .collect()
}

fn orders(lab: &mut Lab, version: Version, pieces: usize) -> Result<()> {
    let tls = Tls::new(lab, version, Place::Remote)?;
    let bytes = hello(NAME).padded_before(pieces * 220).bytes();
    let all: usize = (1..=pieces).product();
    let step = all.div_ceil(240);
    for (i, number) in (0..all).step_by(step).enumerate() {
        // Pieces of different sizes, single bytes among them.
        let mut cuts: Vec<usize> = (1..pieces).map(|piece| piece * 220 - (number * piece) % 219).collect();
        cuts.insert(0, 0);
        cuts.push(bytes.len());
        let ranges: Vec<(usize, usize)> =
            order(pieces, number).into_iter().map(|piece| (cuts[piece], cuts[piece + 1])).collect();
        client_sends(lab, &tls, 10_000 + i as u16, &bytes, &ranges)?;
    }
    Ok(())
}

fn single_bytes(lab: &mut Lab, version: Version) -> Result<()> {
    let tls = Tls::new(lab, version, Place::Remote)?;
    let bytes = hello(NAME).bytes();
    let pieces: Vec<(usize, usize)> = (0..bytes.len()).map(|at| (at, at + 1)).collect();
    client_sends(lab, &tls, 10_000, &bytes, &pieces)
}

fn single_bytes_backwards(lab: &mut Lab, version: Version) -> Result<()> {
    let tls = Tls::new(lab, version, Place::Remote)?;
    let bytes = hello(NAME).bytes();
    let pieces: Vec<(usize, usize)> = (0..bytes.len()).rev().map(|at| (at, at + 1)).collect();
    client_sends(lab, &tls, 10_000, &bytes, &pieces)
}

fn overlapping(lab: &mut Lab, version: Version) -> Result<()> {
    let tls = Tls::new(lab, version, Place::Remote)?;
    let bytes = hello(NAME).padded_before(1_000).bytes();
    let end = bytes.len();
    for (i, pieces) in [
        &[(0, 300), (0, 300), (0, 300), (300, end)][..],
        &[(0, 300), (100, 400), (399, end)],
        &[(0, 300), (0, end)],
        &[(500, 700), (400, 800), (0, 450), (700, end)],
        &[(500, 600), (800, 900), (550, 850), (0, 500), (0, 1), (850, end)],
        &[(100, 200), (300, 400), (500, 600), (700, 800), (150, 750), (0, 100), (750, end)],
        &[(999, end), (0, 1), (0, 999)],
    ]
    .into_iter()
    .enumerate()
    {
        client_sends(lab, &tls, 10_000 + i as u16, &bytes, pieces)?;
    }
    // What was acknowledged stays as it came first.
    let mut tls = tls.client_port(20_000);
    tls.opened(lab)?;
    lab.tc(Port::Ext0, &tls.up("A", 0, 0).data(&bytes[..600]).frame())?.replied(&tls.acknowledgement(600));
    let mut other = bytes.clone();
    other[..600].fill(0xee);
    tls.connects(lab, &tls.up("A", 0, 0).data(&other))?;
    let (_, kept) = lab.hello(&tls.forward_key())?.context("no slot")?;
    assert_eq!(kept.bytes[..end], bytes[..]);
    Ok(())
}

fn every_size(lab: &mut Lab, version: Version) -> Result<()> {
    let tls = Tls::new(lab, version, Place::Remote)?;
    // The last that is told apart from an endless one leaves one step of the scaled window.
    for (i, size) in [300, 511, 512, 513, 1_023, 1_024, 1_025, 2_048, 4_095, 4_096, 4_097, 6_000, 7_679, 7_680]
        .into_iter()
        .enumerate()
    {
        for before in [false, true] {
            let hello = if before { hello(NAME).padded_before(size) } else { hello(NAME).padded(size) };
            let bytes = hello.bytes();
            let starts = (0..size).step_by(1_340);
            let pieces: Vec<(usize, usize)> = starts.map(|from| (from, (from + 1_340).min(size))).collect();
            client_sends(lab, &tls, 10_000 + 2 * i as u16 + u16::from(before), &bytes, &pieces)?;
        }
    }
    Ok(())
}

/// GRO makes one frame of what came as several segments.
fn merged(lab: &mut Lab, version: Version) -> Result<()> {
    // BPF_PROG_TEST_RUN takes no larger frame.
    for size in [1_600, 2_700, 3_400] {
        lab.reset()?;
        let mut tls = Tls::new(lab, version, Place::Remote)?;
        let bytes = hello(NAME).padded_before(size).bytes();
        tls.opened(lab)?;
        let whole = tls.up("PA", 0, 0).data(&bytes);
        let outcome = lab.tc_segmented(Port::Ext0, &whole.frame(), 1_340)?;
        tls.is_syn(&outcome, &whole)?;
        let (_, kept) = lab.hello(&tls.forward_key())?.context("no slot")?;
        assert_eq!(kept.bytes[..size], bytes[..]);

        // A part of it merged.
        let mut tls = tls.client_port(40_001);
        tls.opened(lab)?;
        let first = tls.up("A", 0, 0).data(&bytes[..1_500]);
        lab.tc_segmented(Port::Ext0, &first.frame(), 750)?.replied(&tls.acknowledgement(1_500));
        tls.connects(lab, &tls.up("PA", 1_500, 0).data(&bytes[1_500..]))?;
    }
    Ok(())
}

fn fin_in_between(lab: &mut Lab, version: Version) -> Result<()> {
    let mut tls = Tls::new(lab, version, Place::Remote)?;
    let bytes = tls.hello();
    tls.opened(lab)?;
    lab.tc(Port::Ext0, &tls.up("A", 0, 0).data(&bytes[..40]).frame())?.replied(&tls.acknowledgement(40));
    let fin = tls.up("FA", 40, 0);
    lab.tc(Port::Ext0, &fin.frame())?.answered(Reason::HelloAbandoned, &reset(&fin));
    tls.nothing(lab)?;

    // With the last of what it has to say.
    tls.opened(lab)?;
    let fin = tls.up("FA", 0, 0).data(&bytes[..40]);
    lab.tc(Port::Ext0, &fin.frame())?.answered(Reason::HelloAbandoned, &reset(&fin));
    tls.nothing(lab)?;

    // Before what comes before it: the hello may be whole yet.
    tls.opened(lab)?;
    let fin = tls.up("FA", 40, 0).data(&bytes[40..]);
    lab.tc(Port::Ext0, &fin.frame())?.replied(&tls.acknowledgement(0));
    tls.connects(lab, &tls.up("A", 0, 0).data(&bytes[..40]))
}

fn fin_at_the_end(lab: &mut Lab, version: Version) -> Result<()> {
    let mut tls = Tls::new(lab, version, Place::Remote)?;
    let bytes = tls.hello();
    tls.opened(lab)?;
    tls.connects(lab, &tls.up("FPA", 0, 0).data(&bytes))?;
    tls.in_state(lab, flow_state::CONNECTING)?;
    // The FIN is not the SYN's business: the client sends it again to whoever answers.
    let piece = tls.first_piece(&bytes);
    lab.tc(tls.place.port(), &tls.syn_ack().frame())?.forwarded(&piece);
    let length = bytes.len() as u32;
    tls.backend_sends(lab, &tls.down("A", 0, length))?;
    tls.in_state(lab, flow_state::ESTABLISHED)?;
    tls.client_sends(lab, &tls.up("FA", length, 0))?;
    tls.in_state(lab, flow_state::HALF_CLOSED)
}

fn reset_in_between(lab: &mut Lab, version: Version) -> Result<()> {
    let mut tls = Tls::new(lab, version, Place::Remote)?;
    tls.opened(lab)?;
    let first = tls.up("A", 0, 0).data(&tls.hello()[..40]);
    lab.tc(Port::Ext0, &first.frame())?.replied(&tls.acknowledgement(40));
    lab.tc(Port::Ext0, &tls.up("R", 40, 0).frame())?.consumed();
    tls.nothing(lab)?;
    let more = tls.up("A", 40, 0).data(b"more");
    lab.tc(Port::Ext0, &more.frame())?.dropped(Reason::EarlySegment);
    Ok(())
}

fn several_records(lab: &mut Lab, version: Version) -> Result<()> {
    let tls = Tls::new(lab, version, Place::Remote)?;
    for (i, record) in [2, 3, 4, 5, 64, 400, 899].into_iter().enumerate() {
        let bytes = hello(NAME).padded_before(900).records(record).bytes();
        let mut tls = tls.client_port(10_000 + i as u16);
        tls.opened(lab)?;
        tls.connects(lab, &tls.up("PA", 0, 0).data(&bytes)).with_context(|| format!("records of {record}"))?;
        let (_, kept) = lab.hello(&tls.forward_key())?.context("no slot")?;
        assert_eq!(kept.bytes[..bytes.len()], bytes[..], "the backend gets the records as they came");
    }
    Ok(())
}

fn several_records_cut(lab: &mut Lab, version: Version) -> Result<()> {
    let tls = Tls::new(lab, version, Place::Remote)?;
    // The name lies in two records.
    let bytes = hello(NAME).padded_before(300).records(150).bytes();
    for cut in 1..bytes.len() {
        let mut tls = tls.client_port(10_000 + cut as u16);
        tls.opened(lab)?;
        let first = tls.up("A", 0, 0).data(&bytes[..cut]);
        let outcome = lab.tc(Port::Ext0, &first.frame())?;
        let known = crate::segment::Segment::read(&outcome.frame)?.has('S');
        if known {
            tls.is_syn(&outcome, &first)?;
        } else {
            outcome.replied(&tls.acknowledgement(cut as u32));
            tls.connects(lab, &tls.up("PA", cut as u32, 0).data(&bytes[cut..])).with_context(|| format!("at {cut}"))?;
        }
    }
    Ok(())
}

/// Versions, session ids and extensions of all ages.
fn clients(lab: &mut Lab, version: Version) -> Result<()> {
    let tls = Tls::new(lab, version, Place::Remote)?;
    let grease = |hello: Hello| hello.preceded(extension(0x0a0a, &[0])).followed(extension(0xfafa, &[]));
    let post_quantum = extension(51, &[&[0x11, 0xec, 0x04, 0xc0][..], &[5; 1216]].concat());
    let ech = extension(0xfe0d, &[0, 0, 1, 0, 1, 7, 0, 32, 1, 2, 3, 4]);
    let hellos = [
        hello(NAME),
        grease(hello(NAME)),
        hello(NAME).preceded(post_quantum.clone()),
        hello(NAME).followed(post_quantum),
        hello(NAME).preceded(ech.clone()).followed(ech),
        (0..100).fold(hello(NAME), |hello, kind| hello.preceded(extension(0x7000 + kind, &[]))),
        Hello::nameless().followed(extension(0, &host_name(NAME.as_bytes()))),
    ];
    for (i, hello) in hellos.iter().enumerate() {
        let mut bytes = hello.bytes();
        for (j, (of_record, of_hello)) in [(1, 3), (1, 1), (3, 3), (0, 3), (4, 2)].into_iter().enumerate() {
            // TLS 1.0 to 1.3 by the record's version and the message's, neither of which says much.
            (bytes[2], bytes[10]) = (of_record, of_hello);
            let mut tls = tls.client_port(10_000 + (10 * i + j) as u16);
            tls.opened(lab)?;
            tls.connects(lab, &tls.up("PA", 0, 0).data(&bytes)).with_context(|| format!("hello {i}, version {j}"))?;
        }
    }
    Ok(())
}

fn without_scaling(lab: &mut Lab, version: Version) -> Result<()> {
    let mut tls = Tls::new(lab, version, Place::Remote)?;
    tls.offer.scale = None;
    let bytes = hello(NAME).padded_before(3_000).bytes();
    tls.opened(lab)?;
    send(lab, &mut tls, &bytes, &[(0, 1_000), (2_000, 3_000), (1_000, 2_000)])
}

fn pure_ack(lab: &mut Lab, version: Version) -> Result<()> {
    let mut tls = Tls::new(lab, version, Place::Remote)?;
    let bytes = tls.hello();
    tls.opened(lab)?;
    lab.tc(Port::Ext0, &tls.up("A", 0, 0).data(&bytes[..100]).frame())?.replied(&tls.acknowledgement(100));
    lab.tc(Port::Ext0, &tls.up("A", 100, 0).frame())?.consumed();
    tls.connects(lab, &tls.up("PA", 100, 0).data(&bytes[100..]))
}

fn out_of_window(lab: &mut Lab, version: Version) -> Result<()> {
    let mut tls = Tls::new(lab, version, Place::Remote)?;
    let bytes = tls.hello();
    tls.opened(lab)?;
    let ack = |tls: &Tls, kept| tls.acknowledgement(kept);
    lab.tc(Port::Ext0, &tls.up("A", 0, 0).data(&bytes[..100]).frame())?.replied(&ack(&tls, 100));
    // A keep-alive with a byte of garbage, as old stacks send (RFC 9293 section 3.8.4).
    lab.tc(Port::Ext0, &tls.up("A", 99, 0).data(&[0xff]).frame())?.replied(&ack(&tls, 100));
    lab.tc(Port::Ext0, &tls.up("A", u32::MAX, 0).data(&[0xff; 2]).frame())?.replied(&ack(&tls, 100));
    for beyond in [HELLO_BYTES as u32, HELLO_BYTES as u32 + 1, 0x7fff_ff00, 0x8000_0000, 0xffff_0000] {
        lab.tc(Port::Ext0, &tls.up("A", beyond, 0).data(&[0xff; 50]).frame())?.replied(&ack(&tls, 100));
    }
    // Partly inside: what fits is kept.
    let last = tls.up("A", HELLO_BYTES as u32 - 10, 0).data(&[0xaa; 50]);
    lab.tc(Port::Ext0, &last.frame())?.replied(&ack(&tls, 100));
    let (_, kept) = lab.hello(&tls.forward_key())?.context("no slot")?;
    assert_eq!(kept.bytes[..100], bytes[..100]);
    assert_eq!(kept.bytes[HELLO_BYTES - 10..], [0xaa; 10]);
    tls.connects(lab, &tls.up("PA", 100, 0).data(&bytes[100..]))
}

/// The slots are few; who waits longest loses its own.
fn evicted(lab: &mut Lab, version: Version) -> Result<()> {
    let mut first = Tls::new(lab, version, Place::Remote)?;
    lab.configure(gateway_common::Config { hellos: 4, ..gateway_common::Config::default() })?;
    let bytes = first.hello();
    first.opened(lab)?;
    lab.tc(Port::Ext0, &first.up("A", 0, 0).data(&bytes[..100]).frame())?.replied(&first.acknowledgement(100));
    // Three slots: index 0 is never used.
    for port in 0..3 {
        let mut tls = first.client_port(41_000 + port);
        tls.opened(lab)?;
        std::thread::sleep(std::time::Duration::from_millis(10));
        lab.tc(Port::Ext0, &tls.up("A", 0, 0).data(&bytes[..100]).frame())?.replied(&tls.acknowledgement(100));
    }
    let rest = first.up("PA", 100, 0).data(&bytes[100..]);
    lab.tc(Port::Ext0, &rest.frame())?.answered(Reason::HelloEvicted, &reset(&rest));
    assert_eq!(lab.handshake(&first.forward_key())?, None);
    // The newer ones go on.
    for port in 0..3 {
        let mut tls = first.client_port(41_000 + port);
        let (_, kept) = lab.hello(&tls.forward_key())?.context("evicted, too")?;
        tls.cookie = kept.our_sequence.wrapping_sub(1);
        tls.connects(lab, &tls.up("PA", 100, 0).data(&bytes[100..]))?;
    }
    Ok(())
}
