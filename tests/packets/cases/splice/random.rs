//! Any two ends, any network between them: each end hears what the other says, and nothing else.

use anyhow::Result;
use proptest::collection::vec;
use proptest::prelude::{Just, Strategy, any, prop_oneof};
use proptest::sample::{Index, select};

use crate::cases::Cases;
use crate::cases::random::{Mutation, property_of};
use crate::hello::hello;
use crate::lab::Lab;
use crate::net::{Port, Version};
use crate::outcome::{Hook, Went};
use crate::scene::Place;
use crate::segment::Offer;
use crate::sound::{checksums, whole_pairs};
use crate::tls::{NAME, Tls};
use crate::world::{Plot, World};

/// Connections of a property, unless PROPTEST_CASES asks for another number.
const CONNECTIONS: u32 = 120;

/// Frames of the property of mutated ones.
const FRAMES: u32 = 1_000;

pub fn add(cases: &mut Cases) {
    cases.each("splice/random/mutated_frames_break_nothing", mutated);
    for place in Place::ALL {
        for proxy in [false, true] {
            let name = if proxy { "with_proxy_header" } else { "plain" };
            cases.each(&format!("splice/random/each_end_hears_the_other_{name}_{place:?}"), move |lab, v| {
                any_connection(lab, v, place, proxy)
            });
        }
    }
}

fn offer() -> impl Strategy<Value = Offer> {
    let mss = prop_oneof![
        1 => Just(None),
        4 => select(vec![536_u16, 700, 1_220, 1_340, 1_400, 1_440, 1_460]).prop_map(Some),
        1 => (536_u16..9_000).prop_map(Some),
    ];
    let scale = prop_oneof![1 => Just(None), 3 => (0_u8..=14).prop_map(Some)];
    (mss, scale, any::<bool>()).prop_map(|(mss, scale, sack)| Offer { mss, scale, sack, timestamps: false })
}

fn plot() -> impl Strategy<Value = Plot> {
    let buffer = || prop_oneof![(2_000_u64..20_000), (20_000_u64..1_000_000)];
    let hello = (prop_oneof![(160_usize..1_400), (1_400_usize..7_200)], any::<bool>(), select(vec![1 << 14, 500, 100]));
    let cut = prop_oneof![3 => Just(u64::MAX), 2 => 1_u64..1_400, 1 => 1_u64..40];
    (
        (any::<u32>(), offer(), offer(), buffer(), buffer()),
        (hello, vec(any::<u8>(), 0..9_000), vec(any::<u8>(), 1..9_000)),
        (any::<bool>(), cut, vec(any::<u8>(), 0..300), any::<bool>()),
    )
        .prop_map(|((isn, client, server, client_buffer, server_buffer), (hello, request, response), rest)| {
            let (eager, cut, tape, express) = rest;
            Plot {
                isn,
                client,
                server,
                client_buffer,
                server_buffer,
                hello: client_hello(hello),
                request,
                response,
                eager,
                // Hellos of single bytes are short ones.
                cut: if hello.0 > 1_400 { cut.max(100) } else { cut },
                tape,
                express,
            }
        })
}

fn client_hello((size, before, records): (usize, bool, usize)) -> Vec<u8> {
    let hello = hello(NAME);
    let hello = if before { hello.padded_before(size.max(170)) } else { hello.padded(size.max(170)) };
    hello.records(records).bytes()
}

fn any_connection(lab: &mut Lab, version: Version, place: Place, proxy: bool) -> Result<()> {
    lab.xdp_ports(&[Port::Ext0, Port::Ext1])?;
    let mut tls = Tls::new(lab, version, place)?;
    if proxy {
        for backend in 0..3 {
            tls.wants_proxy(lab, backend)?;
        }
    }
    lab.replace_set(tls.set, &[tls.id(0), tls.id(1), tls.id(2)], &[])?;
    let port = std::cell::Cell::new(10_000);
    property_of(lab, CONNECTIONS, &plot(), |lab, plot| {
        port.set(port.get() + 1);
        World::new(lab, tls.client_port(port.get()), &plot)?.run()
    })
}

/// Every kind of frame that a spliced connection is made of, changed at random, to connections in every state.
fn mutated(lab: &mut Lab, version: Version) -> Result<()> {
    lab.xdp_ports(&[Port::Ext0, Port::Ext1])?;
    let template = Tls::new(lab, version, Place::Remote)?;
    let mut frames = Vec::new();
    for state in 0..5 {
        let mut tls = template.client_port(50_000 + state);
        let hello = tls.hello();
        let length = hello.len() as u32;
        tls.accepted(lab, Hook::Tc)?;
        if state > 0 {
            let first = tls.up("A", 0, 0).data(&hello[..60]);
            lab.tc(Port::Ext0, &first.frame())?.replied(&tls.acknowledgement(60));
        }
        if state > 1 {
            tls.connects(lab, &tls.up("PA", 60, 0).data(&hello[60..]))?;
        }
        if state > 2 {
            lab.tc(Port::Ext1, &tls.syn_ack().frame())?.forwarded(&tls.first_piece(&hello));
        }
        if state > 3 {
            tls.backend_sends(lab, &tls.down("A", 0, length))?;
        }
        for packet in [
            tls.syn(),
            tls.up("A", 0, 0),
            tls.up("A", 0, 0).data(&hello[..60]),
            tls.up("PA", 0, 0).data(&hello),
            tls.up("FA", length, 0),
            tls.up("RA", length, 0),
            tls.up("A", length, 0).header(|h| {
                let ours = tls.cookie.wrapping_add(100).to_be_bytes();
                h.set_options_raw(&[&[1, 1, 5, 10][..], &ours, &ours].concat()).expect("40 bytes at most");
            }),
        ] {
            frames.push((Port::Ext0, packet.frame()));
        }
        if state > 1 {
            for packet in [
                tls.syn_ack(),
                tls.down("A", 0, length),
                tls.down("PA", 0, length).data(b"response"),
                tls.down("A", 0, 30),
                tls.sent_by_backend("RA", 0, tls.client_seq(0)),
            ] {
                frames.push((Port::Ext1, packet.frame()));
            }
        }
    }
    let strategy = (any::<Index>(), Mutation::strategy());
    property_of(lab, FRAMES, &strategy, |lab, (kind, mutation)| {
        let (port, mut frame) = frames[kind.index(frames.len())].clone();
        mutation.apply(&mut frame);
        unbroken(lab, port, &frame)
    })?;
    whole_pairs(lab)
}

/// Whatever comes, what goes out is right, unless what came was wrong already.
fn unbroken(lab: &mut Lab, port: Port, frame: &[u8]) -> Result<()> {
    for hook in Hook::BOTH {
        if hook == Hook::Tc && frame.len() < 54 {
            // BPF_PROG_TEST_RUN makes no skb of that.
            continue;
        }
        let outcome = lab.run(hook, port, frame)?;
        assert!(outcome.reasons.len() <= 1, "{:?}", outcome.reasons);
        match outcome.went() {
            Went::Next => outcome.untouched(),
            Went::Dropped => {}
            Went::Out => {
                let (before, after) = (checksums(frame), checksums(&outcome.frame));
                assert!(after.0 || !before.0, "the IP checksum is wrong");
                assert!(after.1 != Some(false) || before.1 != Some(true), "the transport checksum is wrong");
            }
        }
    }
    Ok(())
}
