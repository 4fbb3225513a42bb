//! Which bytes of a ClientHello have come: a run from the first byte, and up to four islands beyond the first hole.

use crate::Island;

/// Adds the bytes `start..end`. False: there is no place to remember one more island, so they count as not come.
#[inline(always)]
pub fn add(length: &mut u32, islands: &mut [Island; 4], start: u32, end: u32) -> bool {
    let (mut start, mut end) = (start, end);
    // Islands touch neither each other nor the run, so one pass finds all that the new bytes join.
    let mut i = 0;
    while i < 4 {
        let (from, to) = (islands[i].start as u32, islands[i].end as u32);
        if to != 0 && from <= end && to >= start {
            start = if from < start { from } else { start };
            end = if to > end { to } else { end };
            islands[i] = Island { start: 0, end: 0 };
        }
        i += 1;
    }
    if start <= *length {
        if end > *length {
            *length = end;
        }
        return true;
    }
    let mut i = 0;
    while i < 4 {
        if islands[i].end == 0 {
            islands[i] = Island { start: start as u16, end: end as u16 };
            return true;
        }
        i += 1;
    }
    false
}
