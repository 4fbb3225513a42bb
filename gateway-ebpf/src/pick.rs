//! Stage: a backend by weight.

use gateway_common::{BackendSet, Reason, hash, slot};

use crate::maps::{BACKEND_SETS, SLOTS};

/// What the set's table holds for a connection of this hash ([`hash::flow`]): a backend id or one of [`slot`].
#[inline(never)]
pub fn pick(set: u32, hash: u64) -> u32 {
    let Some(set) = BACKEND_SETS.get_ptr(set) else { return slot::EMPTY };
    // SAFETY: a map value; read at once, because the agent swaps it with one 8-byte write.
    let word = unsafe { core::ptr::read_volatile(set.cast::<u64>()) };
    // SAFETY: the same 8 bytes.
    let set = unsafe { core::mem::transmute::<u64, BackendSet>(word) };
    if set.length == 0 {
        return slot::EMPTY;
    }
    let id = read(set.offset + hash::reduce(hash as u32, set.length as u32));
    if id != slot::NESTED {
        return id;
    }
    read(set.offset + set.length as u32 + hash::reduce((hash >> 32) as u32, set.nested as u32))
}

/// Why a slot leads to no backend.
#[inline(always)]
pub fn refusal(slot: u32) -> Option<Reason> {
    match slot {
        slot::INVALID => Some(Reason::InvalidBackend),
        0 | slot::FIRST_SPECIAL.. => Some(Reason::NoBackend),
        _ => None,
    }
}

#[inline(always)]
fn read(index: u32) -> u32 {
    SLOTS.get(index).copied().unwrap_or(slot::EMPTY)
}
