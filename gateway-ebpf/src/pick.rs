//! Stage: a backend by weight.

use gateway_common::{BackendSet, Reason, hash, slot};

use crate::maps::{BACKEND_SETS, SLOTS};

/// The backend id for a connection with this hash.
#[inline(always)]
pub fn pick(set: u32, hash: u64) -> Result<u32, Reason> {
    let Some(set) = BACKEND_SETS.get_ptr(set) else { return Err(Reason::NoBackend) };
    // SAFETY: a map value; read at once, because the agent swaps it with one 8-byte write.
    let word = unsafe { core::ptr::read_volatile(set.cast::<u64>()) };
    // SAFETY: the same 8 bytes.
    let set = unsafe { core::mem::transmute::<u64, BackendSet>(word) };
    if set.length == 0 {
        return Err(Reason::NoBackend);
    }
    let table = set.offset + hash::reduce(hash as u32, set.length as u32);
    let mut id = read(table);
    if id == slot::NESTED {
        let nested = hash::reduce((hash >> 32) as u32, set.nested as u32);
        id = read(set.offset + set.length as u32 + nested);
    }
    match id {
        slot::INVALID => Err(Reason::InvalidBackend),
        0 | slot::FIRST_SPECIAL.. => Err(Reason::NoBackend),
        id => Ok(id),
    }
}

#[inline(always)]
fn read(index: u32) -> u32 {
    SLOTS.get(index).copied().unwrap_or(0)
}
