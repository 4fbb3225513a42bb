//! A window that the splice passes on is never wider than what its sender has room for, and as wide as can be said. The fuzz
//! target `window` and the tests of gateway-common ask it.

use gateway_common::HELLO_BYTES;
use gateway_common::cookie::WINDOW_SCALE;
use gateway_common::splice::{own_window, syn_window, window, window_shifts};

/// RFC 7323 section 2.3.
const LARGEST_SCALE: u8 = 14;
const NO_SCALE: u8 = LARGEST_SCALE + 1;

/// The scales of the client and of the backend, then a window field each, then room that the gateway has.
pub fn holds(data: &[u8]) {
    let [client, backend, a, b, c, d, e, f, ..] = *data else { return };
    let scale = |byte: u8| Some(byte % (NO_SCALE + 1)).filter(|scale| *scale != NO_SCALE);
    let client = scale(client);
    // Nobody answers with a scale to who has offered none.
    let backend = client.and(scale(backend));
    let (to_client, to_backend) = window_shifts(client, backend);

    // What each end shifts by when it reads a window: who has offered a scale himself was answered with one by the gateway.
    let gateway = client.map_or(0, |_| WINDOW_SCALE);
    said(u16::from_be_bytes([a, b]), backend.unwrap_or(0), to_client, gateway);
    let client_said = u16::from_be_bytes([c, d]);
    let client_reads = backend.and(client).unwrap_or(0);
    said(client_said, client.unwrap_or(0), to_backend, client_reads);

    // A SYN's window is never scaled.
    let room = u64::from(client_said) << client.unwrap_or(0);
    assert_eq!(u64::from(syn_window(client_said, client)), room.min(0xffff));

    let room = u32::from(u16::from_be_bytes([e, f])) % (HELLO_BYTES as u32 + 1);
    let read = u32::from(own_window(room, client)) << gateway;
    assert!(read <= room && room - read < 1 << gateway, "room of {room} is offered as {read}");
}

/// One end has `field << scale` bytes of room, and the other reads `field` shifted by `shift` with a scale of its own.
fn said(field: u16, scale: u8, shift: i8, reads: u8) {
    let room = u64::from(field) << scale;
    let read = u64::from(window(field, shift)) << reads;
    assert!(read <= room, "{room} bytes are read as {read}");
    let most = 0xffff << reads;
    assert!(read == most || room - read < 1 << reads, "{room} bytes are read as {read}, and could be more");
}
