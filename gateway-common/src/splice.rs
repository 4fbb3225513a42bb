//! What the splice does to the numbers of a segment.

use crate::cookie::WINDOW_SCALE;

/// Largest window field.
const FULL: u32 = 0xffff;

/// The shift of the backend's window fields, and that of the client's. The client takes the gateway's scale for the backend's;
/// the backend was offered the client's own, and uses it if it offers one itself. Without a scale of the client's nobody scales.
#[inline(always)]
pub const fn window_shifts(client: Option<u8>, backend: Option<u8>) -> (i8, i8) {
    match (client, backend) {
        (None, _) => (0, 0),
        (Some(_), Some(backend)) => (backend as i8 - WINDOW_SCALE as i8, 0),
        (Some(client), None) => (-(WINDOW_SCALE as i8), client as i8),
    }
}

/// A window field, shifted to the left (or by a negative number to the right).
#[inline(always)]
pub const fn window(field: u16, shift: i8) -> u16 {
    let field = field as u32;
    if shift < 0 {
        return (field >> (-shift as u32 & 31)) as u16;
    }
    let wide = field << (shift as u32 & 15);
    (if wide > FULL { FULL } else { wide }) as u16
}

/// The window of the SYN to the backend, which is never scaled.
#[inline(always)]
pub const fn syn_window(field: u16, client: Option<u8>) -> u16 {
    match client {
        Some(scale) => window(field, scale as i8),
        None => field,
    }
}

/// The window that the gateway offers a client while it keeps the hello: `room` in bytes.
#[inline(always)]
pub const fn own_window(room: u32, client: Option<u8>) -> u16 {
    match client {
        Some(_) => (room >> WINDOW_SCALE) as u16,
        None => room as u16,
    }
}
