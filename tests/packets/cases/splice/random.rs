//! Any two ends, any network between them: each end hears what the other says, and nothing else.

use anyhow::Result;
use proptest::collection::vec;
use proptest::prelude::{Just, Strategy, any, prop_oneof};
use proptest::sample::select;

use crate::cases::Cases;
use crate::cases::random::property_of;
use crate::hello::hello;
use crate::lab::Lab;
use crate::net::Version;
use crate::scene::Place;
use crate::segment::Offer;
use crate::tls::{NAME, Tls};
use crate::world::{Plot, World};

/// Connections of a property, unless PROPTEST_CASES asks for another number.
const CONNECTIONS: u32 = 120;

pub fn add(cases: &mut Cases) {
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
    let hello = (prop_oneof![(160_usize..1_400), (1_400_usize..7_600)], any::<bool>(), select(vec![1 << 14, 500, 100]));
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
    lab.xdp_ports(&[crate::net::Port::Ext0, crate::net::Port::Ext1])?;
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
