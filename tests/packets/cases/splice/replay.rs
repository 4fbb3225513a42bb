//! The hello on its way to the backend, until that has all of it.

use anyhow::{Context, Result, ensure};
use gateway_common::{Config, event_kind, flow_state};

use crate::cases::Cases;
use crate::hello::hello;
use crate::lab::Lab;
use crate::net::{Port, Version};
use crate::outcome::{Outcome, Went};
use crate::scene::Place;
use crate::segment::{Offer, Segment};
use crate::tls::{BACKEND_ISN, NAME, OFFER, Tls, shifted};

pub fn add(cases: &mut Cases) {
    for place in Place::ALL {
        cases.each(&format!("splice/replay/in_one_segment_{place:?}"), move |lab, v| one(lab, v, place));
        cases.each(&format!("splice/replay/proxy_header_before_it_{place:?}"), move |lab, v| proxy(lab, v, place));
    }
    cases.each("splice/replay/every_offer_of_the_backend", offers);
    cases.each("splice/replay/in_pieces_of_the_mss", pieces);
    cases.each("splice/replay/within_the_window", small_window);
    cases.each("splice/replay/closed_window_opens", closed_window);
    cases.each("splice/replay/lost_piece_by_repeated_acks", lost_piece);
    cases.each("splice/replay/first_piece_lost", first_piece);
    cases.each("splice/replay/client_repeats_more_than_the_hello", client_repeats_more);
    cases.each("splice/replay/client_repeats_itself", client_again);
    cases.each("splice/replay/syn_ack_again", syn_ack_again);
    cases.each("splice/replay/data_with_the_acknowledgement", data_at_once);
    cases.each("splice/replay/backend_speaks_first", speaks_first);
    cases.each("splice/replay/old_acknowledgement", old_ack);
    cases.each("splice/replay/more_data_of_the_client_passes", more_data);
    cases.each("splice/replay/reset_by_the_client", |lab, v| reset_by(lab, v, true));
    cases.each("splice/replay/reset_by_the_backend", |lab, v| reset_by(lab, v, false));
    cases.each("splice/replay/fin_of_the_backend", backend_fin);
    cases.each("splice/replay/both_ends_close", both_close);
    cases.each("splice/replay/events", events);
}

fn one(lab: &mut Lab, version: Version, place: Place) -> Result<()> {
    let mut tls = Tls::new(lab, version, place)?;
    let length = tls.replaying(lab)?.len() as u32;
    tls.in_state(lab, flow_state::REPLAYING)?;
    let (_, forward, reply) = tls.halves(lab)?;
    assert_eq!((forward.delta, reply.delta), (tls.delta(), tls.delta()));
    assert_eq!((i32::from(reply.window_shift), i32::from(forward.window_shift)), tls.shifts());
    tls.backend_sends(lab, &tls.down("A", 0, length))?;
    tls.in_state(lab, flow_state::ESTABLISHED)?;
    assert!(lab.hello(&tls.forward_key())?.is_none(), "the slot is free");
    assert_eq!(lab.listener_counter(tls.by_name)?.established, 1);
    assert_eq!(lab.backend_counter(tls.id(0))?.established, 1);
    Ok(())
}

fn proxy(lab: &mut Lab, version: Version, place: Place) -> Result<()> {
    let mut tls = Tls::new(lab, version, place)?;
    tls.wants_proxy(lab, 0)?;
    let length = tls.replaying(lab)?.len() as u32;
    // Of the header alone the client learns nothing: it could take it for an acknowledgement of its SYN at best.
    lab.tc(place.port(), &tls.down("A", 0, 0u32.wrapping_sub(tls.prelude - 5)).frame())?.went();
    tls.backend_sends(lab, &tls.down("A", 0, length))?;
    tls.in_state(lab, flow_state::ESTABLISHED)?;
    tls.client_sends(lab, &tls.up("PA", length, 0).data(b"after it"))?;
    tls.backend_sends(lab, &tls.down("PA", 0, length + 8).data(b"and back"))
}

fn offers(lab: &mut Lab, version: Version) -> Result<()> {
    let tls = Tls::new(lab, version, Place::Remote)?;
    let mut port = 10_000;
    for client in [None, Some(0), Some(7), Some(14)] {
        for backend in [None, Some(0), Some(5), Some(9), Some(12), Some(14)] {
            for (sack, window) in [(true, 502), (false, 65_535)] {
                let mut tls = Tls { window, ..tls.client_port(port) };
                port += 1;
                tls.offer = Offer { scale: client, sack, ..OFFER };
                // A backend offers no scale to a SYN without one (RFC 7323 section 2.2).
                tls.answer = Offer { scale: backend.filter(|_| client.is_some()), sack, ..OFFER };
                let length = tls.established(lab)?;
                for window in [0, 1, 511, 512, 600, 0x7fff, 0xffff] {
                    tls.backend_sends(lab, &tls.down("A", 0, length).header(|h| h.window_size = window))?;
                    tls.client_sends(lab, &tls.up("A", length, 0).header(|h| h.window_size = window))?;
                }
            }
        }
    }
    Ok(())
}

/// All that the gateway sends to the backend because of one frame, in the order of the numbers: positions and bytes.
#[track_caller]
fn sent(lab: &mut Lab, tls: &Tls, outcome: &Outcome, acknowledged: u32) -> Result<Vec<(u32, Vec<u8>)>> {
    let mut frames: Vec<Vec<u8>> = lab.sent_beside().into_iter().map(|(_, frame)| frame).collect();
    match outcome.went() {
        Went::Out => frames.push(outcome.frame.clone()),
        Went::Dropped => {}
        Went::Next => panic!("passed on"),
    }
    assert!(outcome.reasons.is_empty(), "{:?}", outcome.reasons);
    let mut pieces = Vec::new();
    for frame in frames {
        let segment = Segment::read(&frame)?;
        let position = segment.seq.wrapping_sub(tls.client_seq(0).wrapping_sub(tls.prelude));
        let wanted = tls
            .own_to_backend(
                "PA",
                position as i32 - tls.prelude as i32,
                acknowledged,
                shifted(tls.window, tls.shifts().1),
            )
            .data(&segment.payload);
        assert_eq!(crate::outcome::difference(&frame, &wanted.frame(), 12), None);
        pieces.push((position, segment.payload));
    }
    pieces.sort();
    Ok(pieces)
}

/// The pieces follow each other without a gap and say this.
#[track_caller]
fn say(pieces: &[(u32, Vec<u8>)], from: u32, wanted: &[u8]) {
    let mut at = from;
    for (position, bytes) in pieces {
        assert_eq!(*position, at, "of {:?}", pieces.iter().map(|(p, b)| (*p, b.len())).collect::<Vec<_>>());
        at += bytes.len() as u32;
    }
    let bytes: Vec<u8> = pieces.iter().flat_map(|(_, bytes)| bytes.clone()).collect();
    assert!(bytes == wanted, "{} bytes from {from}, wanted {}", bytes.len(), wanted.len());
}

/// A connection whose hello is larger than a segment, and its SYN-ACK with this MSS and window.
#[track_caller]
fn large(lab: &mut Lab, tls: &mut Tls, size: usize, mss: Option<u16>, window: u16) -> Result<(Vec<u8>, Outcome)> {
    lab.watch()?;
    let bytes = hello(NAME).padded_before(size).bytes();
    tls.answer.mss = mss;
    tls.opened(lab)?;
    let starts: Vec<usize> = (0..size).step_by(1_300).collect();
    for from in &starts[..starts.len() - 1] {
        let packet = tls.up("A", *from as u32, 0).data(&bytes[*from..from + 1_300]);
        lab.tc(Port::Ext0, &packet.frame())?.replied(&tls.acknowledgement(*from as u32 + 1_300));
    }
    let last = *starts.last().context("a piece")?;
    tls.connects(lab, &tls.up("PA", last as u32, 0).data(&bytes[last..]))?;
    let syn_ack = tls.syn_ack().header(|h| h.window_size = window);
    let outcome = lab.tc(tls.place.port(), &syn_ack.frame())?;
    Ok((bytes, outcome))
}

fn pieces(lab: &mut Lab, version: Version) -> Result<()> {
    for (size, mss) in
        [(1_700, Some(1460)), (3_500, Some(536)), (7_600, Some(1220)), (7_600, Some(8960)), (2_600, None)]
    {
        for proxy in [false, true] {
            lab.reset()?;
            let mut tls = Tls::new(lab, version, Place::Remote)?;
            if proxy {
                tls.wants_proxy(lab, 0)?;
            }
            let (bytes, mut outcome) = large(lab, &mut tls, size, mss, 65_535)?;
            let all = if proxy { [tls.proxy_header(), bytes].concat() } else { bytes };
            // RFC 9293 section 3.7.1 without an option; the way to the backend has an MTU of 1400.
            let default = if version == Version::V4 { 536 } else { 1_220 };
            let most = usize::from(mss.unwrap_or(default)).min(1_360 - if version == Version::V4 { 0 } else { 20 });
            let mut at = 0;
            let mut rounds = 0;
            while at < all.len() {
                let pieces = sent(lab, &tls, &outcome, 0)?;
                ensure!(!pieces.is_empty(), "nothing is sent after {at} of {}", all.len());
                let count: usize = pieces.iter().map(|(_, bytes)| bytes.len()).sum();
                assert!(pieces.iter().all(|(_, bytes)| bytes.len() <= most), "pieces of at most {most}");
                say(&pieces, at as u32, &all[at..at + count]);
                at += count;
                rounds += 1;
                let acknowledged = (at as u32).wrapping_sub(tls.prelude);
                let ack = tls.down("A", 0, acknowledged);
                outcome = lab.tc(tls.place.port(), &ack.frame())?;
                if at == all.len() {
                    outcome.forwarded(&tls.returned(&ack));
                }
            }
            assert!(rounds <= 4, "{rounds} round trips for {} bytes in pieces of {most}", all.len());
            tls.in_state(lab, flow_state::ESTABLISHED)?;
        }
    }
    Ok(())
}

fn small_window(lab: &mut Lab, version: Version) -> Result<()> {
    let mut tls = Tls::new(lab, version, Place::Remote)?;
    // Windows after the SYN-ACK's are scaled by 5.
    let (bytes, outcome) = large(lab, &mut tls, 4_000, Some(1_000), 700)?;
    say(&sent(lab, &tls, &outcome, 0)?, 0, &bytes[..700]);
    let ack =
        |acknowledged, window: u32| tls.down("A", 0, acknowledged).header(|h| h.window_size = (window / 32) as u16);
    let outcome = lab.tc(tls.place.port(), &ack(700, 320).frame())?;
    say(&sent(lab, &tls, &outcome, 0)?, 700, &bytes[700..1_020]);
    let outcome = lab.tc(tls.place.port(), &ack(1_020, 1_600).frame())?;
    say(&sent(lab, &tls, &outcome, 0)?, 1_020, &bytes[1_020..2_620]);
    // Half of it is acknowledged, and the window's edge stays: nothing new may go.
    let outcome = lab.tc(tls.place.port(), &ack(2_020, 608).frame())?;
    let pieces = sent(lab, &tls, &outcome, 0)?;
    assert!(pieces.iter().all(|(at, piece)| at + piece.len() as u32 <= 2_020 + 608), "beyond the window");
    let outcome = lab.tc(tls.place.port(), &ack(2_620, 64_000).frame())?;
    let at = pieces.iter().map(|(at, piece)| at + piece.len() as u32).max().unwrap_or(2_620).max(2_620);
    say(&sent(lab, &tls, &outcome, 0)?, at, &bytes[at as usize..]);
    Ok(())
}

fn closed_window(lab: &mut Lab, version: Version) -> Result<()> {
    let mut tls = Tls::new(lab, version, Place::Remote)?;
    let (bytes, outcome) = large(lab, &mut tls, 2_000, Some(1_000), 0)?;
    // The handshake is acknowledged all the same, or the backend would repeat its SYN-ACK for ever.
    let frames = lab.sent_beside();
    let all: Vec<Segment> = frames
        .iter()
        .map(|(_, frame)| Segment::read(frame))
        .chain((outcome.went() == Went::Out).then(|| Segment::read(&outcome.frame)))
        .collect::<Result<_>>()?;
    assert!(
        all.iter().all(|s| s.payload.is_empty() && s.ack == BACKEND_ISN.wrapping_add(1)),
        "nothing fits a closed window: {all:?}"
    );
    assert_eq!(all.len(), 1, "the SYN-ACK is acknowledged");
    let ack = tls.down("A", 0, 0);
    let outcome = lab.tc(tls.place.port(), &ack.frame())?;
    say(&sent(lab, &tls, &outcome, 0)?, 0, &bytes);
    Ok(())
}

fn lost_piece(lab: &mut Lab, version: Version) -> Result<()> {
    let mut tls = Tls::new(lab, version, Place::Remote)?;
    let (bytes, outcome) = large(lab, &mut tls, 4_000, Some(1_000), 65_535)?;
    say(&sent(lab, &tls, &outcome, 0)?, 0, &bytes);
    // The second piece did not arrive: the others are acknowledged by the same number.
    let ack = tls.down("A", 0, 1_000);
    let outcome = lab.tc(tls.place.port(), &ack.frame())?;
    let first = sent(lab, &tls, &outcome, 0)?;
    let outcome = lab.tc(tls.place.port(), &ack.frame())?;
    let again: Vec<_> = first.into_iter().chain(sent(lab, &tls, &outcome, 0)?).collect();
    assert!(
        again.iter().any(|(at, piece)| *at == 1_000 && piece[..] == bytes[1_000..1_000 + piece.len()]),
        "what is missing is sent again: {:?}",
        again.iter().map(|(at, piece)| (*at, piece.len())).collect::<Vec<_>>()
    );
    tls.backend_sends(lab, &tls.down("A", 0, bytes.len() as u32))?;
    tls.in_state(lab, flow_state::ESTABLISHED)
}

/// The backend has the others, and acknowledges nothing.
fn first_piece(lab: &mut Lab, version: Version) -> Result<()> {
    let mut tls = Tls::new(lab, version, Place::Remote)?;
    let (bytes, outcome) = large(lab, &mut tls, 4_000, Some(1_000), 65_535)?;
    say(&sent(lab, &tls, &outcome, 0)?, 0, &bytes);
    let outcome = lab.tc(tls.place.port(), &tls.down("A", 0, 0).frame())?;
    let again = sent(lab, &tls, &outcome, 0)?;
    assert_eq!(again.first().map(|(at, piece)| (*at, piece[..] == bytes[..piece.len()])), Some((0, true)));
    Ok(())
}

/// A stack puts what comes after the hello into the same segment when it repeats itself.
fn client_repeats_more(lab: &mut Lab, version: Version) -> Result<()> {
    let mut tls = Tls::new(lab, version, Place::Remote)?;
    let (bytes, outcome) = large(lab, &mut tls, 3_000, Some(1_000), 65_535)?;
    say(&sent(lab, &tls, &outcome, 0)?, 0, &bytes);
    // Nothing arrived. The gateway has acknowledged what comes before the last segment: the client will not send it again.
    let again = tls.up("PA", 2_600, 0).data(&[&bytes[2_600..], b"early data"].concat());
    let outcome = lab.tc(Port::Ext0, &again.frame())?;
    let pieces = sent(lab, &tls, &outcome, 0)?;
    assert_eq!(pieces.first().map(|(at, piece)| (*at, piece[..] == bytes[..piece.len()])), Some((0, true)));
    Ok(())
}

/// Everything was lost; the client's last segment was never acknowledged, so it comes again.
fn client_again(lab: &mut Lab, version: Version) -> Result<()> {
    let mut tls = Tls::new(lab, version, Place::Remote)?;
    let (bytes, outcome) = large(lab, &mut tls, 3_000, Some(1_000), 65_535)?;
    say(&sent(lab, &tls, &outcome, 0)?, 0, &bytes);
    let again = tls.up("PA", 2_600, 0).data(&bytes[2_600..]);
    for _ in 0..3 {
        let outcome = lab.tc(Port::Ext0, &again.frame())?;
        let pieces = sent(lab, &tls, &outcome, 0)?;
        // From where the backend's acknowledgements stand, not from where the client's do.
        assert_eq!(pieces.first().map(|(at, _)| *at), Some(0));
        for (at, piece) in pieces {
            assert!(piece[..] == bytes[at as usize..at as usize + piece.len()]);
        }
    }
    tls.backend_sends(lab, &tls.down("A", 0, 3_000))
}

fn syn_ack_again(lab: &mut Lab, version: Version) -> Result<()> {
    let mut tls = Tls::new(lab, version, Place::Remote)?;
    let hello = tls.replaying(lab)?;
    let outcome = lab.tc(tls.place.port(), &tls.syn_ack().frame())?;
    outcome.forwarded(&tls.first_piece(&hello));
    tls.in_state(lab, flow_state::REPLAYING)?;
    tls.backend_sends(lab, &tls.down("A", 0, hello.len() as u32))
}

fn data_at_once(lab: &mut Lab, version: Version) -> Result<()> {
    let mut tls = Tls::new(lab, version, Place::Remote)?;
    let length = tls.replaying(lab)?.len() as u32;
    tls.backend_sends(lab, &tls.down("PA", 0, length).data(&[9; 1_200]))?;
    tls.in_state(lab, flow_state::ESTABLISHED)?;
    assert!(lab.hello(&tls.forward_key())?.is_none());
    Ok(())
}

/// A backend that has not read all of the hello, and says something nevertheless.
fn speaks_first(lab: &mut Lab, version: Version) -> Result<()> {
    let mut tls = Tls::new(lab, version, Place::Remote)?;
    let hello = tls.replaying(lab)?;
    let alert = tls.down("PA", 0, 100).data(&[21, 3, 3, 0, 2, 2, 40]);
    tls.backend_sends(lab, &alert)?;
    tls.in_state(lab, flow_state::REPLAYING)?;
    tls.client_sends(lab, &tls.up("A", hello.len() as u32, 7))?;
    tls.backend_sends(lab, &tls.down("A", 7, hello.len() as u32))?;
    tls.in_state(lab, flow_state::ESTABLISHED)
}

fn old_ack(lab: &mut Lab, version: Version) -> Result<()> {
    let mut tls = Tls::new(lab, version, Place::Remote)?;
    let hello = tls.replaying(lab)?;
    for old in [u32::MAX, 0x8000_0000] {
        lab.tc(tls.place.port(), &tls.down("A", 0, old).frame())?.consumed();
        tls.in_state(lab, flow_state::REPLAYING)?;
    }
    // More than was ever sent: no end says so, and the client must not hear it.
    let beyond = tls.down("A", 0, hello.len() as u32 + 1);
    let outcome = lab.tc(tls.place.port(), &beyond.frame())?;
    assert_ne!(outcome.went(), Went::Next);
    Ok(())
}

fn more_data(lab: &mut Lab, version: Version) -> Result<()> {
    let mut tls = Tls::new(lab, version, Place::Remote)?;
    let hello = tls.replaying(lab)?;
    let length = hello.len() as u32;
    tls.client_sends(lab, &tls.up("PA", length, 0).data(b"early"))?;
    tls.client_sends(lab, &tls.up("A", length + 5, 0))?;
    tls.in_state(lab, flow_state::REPLAYING)?;
    tls.backend_sends(lab, &tls.down("A", 0, length + 5))?;
    tls.in_state(lab, flow_state::ESTABLISHED)
}

fn reset_by(lab: &mut Lab, version: Version, client: bool) -> Result<()> {
    let mut tls = Tls::new(lab, version, Place::Remote)?;
    let length = tls.replaying(lab)?.len() as u32;
    if client {
        tls.client_sends(lab, &tls.up("RA", length, 0))?;
    } else {
        tls.backend_sends(lab, &tls.down("RA", 0, length))?;
    }
    let (table, forward, _) = tls.halves(lab)?;
    assert_eq!((table, forward.state), (crate::lab::Table::Embryonic, flow_state::RESET));
    assert!(lab.hello(&tls.forward_key())?.is_none(), "the slot is free");
    Ok(())
}

fn backend_fin(lab: &mut Lab, version: Version) -> Result<()> {
    let mut tls = Tls::new(lab, version, Place::Remote)?;
    let length = tls.replaying(lab)?.len() as u32;
    // Not all of the hello was read.
    tls.backend_sends(lab, &tls.down("FA", 0, 50))?;
    tls.client_sends(lab, &tls.up("A", length, 1))?;
    tls.backend_sends(lab, &tls.down("A", 1, length))?;
    tls.in_state(lab, flow_state::HALF_CLOSED)?;
    tls.client_sends(lab, &tls.up("FA", length, 1))?;
    let (table, forward, _) = tls.halves(lab)?;
    assert_eq!((table, forward.state), (crate::lab::Table::Embryonic, flow_state::CLOSED));
    Ok(())
}

/// Both have said all, and the ACK of the hello is the last segment of the backend.
fn both_close(lab: &mut Lab, version: Version) -> Result<()> {
    let mut tls = Tls::new(lab, version, Place::Remote)?;
    let length = tls.replaying(lab)?.len() as u32;
    tls.backend_sends(lab, &tls.down("FA", 0, 50))?;
    tls.client_sends(lab, &tls.up("FA", length, 1))?;
    tls.in_state(lab, flow_state::REPLAYING)?;
    tls.backend_sends(lab, &tls.down("A", 1, length + 1))?;
    let (table, forward, _) = tls.halves(lab)?;
    assert_eq!((table, forward.state), (crate::lab::Table::Embryonic, flow_state::CLOSED));
    Ok(())
}

fn events(lab: &mut Lab, version: Version) -> Result<()> {
    lab.configure(Config { events: 1, ..Config::default() })?;
    let mut tls = Tls::new(lab, version, Place::Remote)?;
    tls.established(lab)?;
    let events = lab.events()?;
    let told: Vec<_> = events.iter().map(|e| (e.kind, e.client, e.listener, e.backend)).collect();
    let (client, listener, backend) = (tls.forward_key(), tls.by_name, tls.id(0));
    assert_eq!(
        told,
        [(event_kind::OPENED, client, listener, backend), (event_kind::DELIVERED, client, listener, backend)]
    );
    let name = events[0].name;
    assert_eq!(name[..NAME.len()], *NAME.as_bytes());
    assert!(name[NAME.len()..].iter().all(|byte| *byte == 0));
    Ok(())
}
