//! A connection through the splice that bytes tell: who is there, what they offer, and then what the network does. The fuzz target
//! `splice` makes such bytes up.

use std::ops::Range;

use anyhow::Result;

use crate::hello::hello;
use crate::lab::Lab;
use crate::net::{Port, Version};
use crate::scene::Place;
use crate::segment::Offer;
use crate::tls::{NAME, Tls};
use crate::world::{Plot, World};

/// Bytes before the tape.
const CAST: usize = 20;
const LONGEST_TAPE: usize = 240;
/// What the world loses a frame for, and how often it may: six lost SYNs are three backends that do not answer.
const LOST: Range<u8> = 200..225;
const LOSSES: usize = 5;
const MSS: [Option<u16>; 8] =
    [None, Some(536), Some(700), Some(1_220), Some(1_340), Some(1_400), Some(1_440), Some(1_460)];

/// Each end must hear what the other says. Too few bytes tell nothing.
pub fn connection(lab: &mut Lab, data: &[u8]) -> Result<()> {
    let Some((cast, tape)) = data.split_first_chunk::<CAST>() else { return Ok(()) };
    lab.reset()?;
    lab.xdp_ports(&[Port::Ext0, Port::Ext1])?;
    let where_and_how = cast[CAST - 1];
    let version = Version::ALL[usize::from(where_and_how & 1)];
    let place = Place::ALL[usize::from(where_and_how >> 1 & 3) % Place::ALL.len()];
    let mut tls = Tls::new(lab, version, place)?;
    if where_and_how & 8 != 0 {
        for backend in 0..3 {
            tls.wants_proxy(lab, backend)?;
        }
    }
    lab.replace_set(tls.set, &[tls.id(0), tls.id(1), tls.id(2)], &[])?;
    World::new(lab, tls, &plot(cast, tape))?.run()
}

fn plot(cast: &[u8; CAST], tape: &[u8]) -> Plot {
    let [i0, i1, i2, i3, client_mss, client, _, server, client_buffer, server_buffer, rest @ ..] = *cast;
    let [h0, h1, shape, cut, q0, q1, s0, s1, _, flags] = rest;
    let size = |high: u8, low: u8| usize::from(u16::from_be_bytes([high, low]));
    let long = size(h0, h1) % 7_400 + 170;
    let hello = if shape & 1 == 0 { hello(NAME).padded(long) } else { hello(NAME).padded_before(long) };
    let records = [1 << 14, 500, 100][usize::from(shape >> 1) % 3];
    // Large hellos in tiny segments take for ever.
    let least = if long > 1_400 { 100 } else { 1 };
    Plot {
        isn: u32::from_be_bytes([i0, i1, i2, i3]),
        client: offer(client_mss, client),
        // Not less than the gateway offers: the client hears of that by ICMP, and this one has no ears for it.
        server: Offer { mss: Some(1_460), ..offer(0, server) },
        client_buffer: 2_000 + u64::from(client_buffer) * u64::from(client_buffer) * 15,
        server_buffer: 2_000 + u64::from(server_buffer) * u64::from(server_buffer) * 15,
        hello: hello.records(records).bytes(),
        request: vec![0x71; size(q0, q1) % 9_000],
        response: vec![0x72; size(s0, s1) % 9_000 + 1],
        eager: flags & 16 != 0,
        cut: if cut == 0 { u64::MAX } else { u64::from(cut) * 8 }.max(least),
        tape: forgiving(&tape[..tape.len().min(LONGEST_TAPE)]),
        express: flags & 32 != 0,
    }
}

fn forgiving(tape: &[u8]) -> Vec<u8> {
    let mut losses = 0;
    let mut forgive = |byte: &u8| {
        losses += usize::from(LOST.contains(byte));
        if LOST.contains(byte) && losses > LOSSES { 0 } else { *byte }
    };
    tape.iter().map(&mut forgive).collect()
}

fn offer(mss: u8, options: u8) -> Offer {
    let scale = options & 15;
    Offer {
        mss: MSS[usize::from(mss) % MSS.len()],
        scale: (scale != 15).then_some(scale),
        sack: options & 16 != 0,
        timestamps: false,
    }
}
