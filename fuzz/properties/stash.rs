//! What is remembered of a hello's bytes is what has come, against a map with one entry a byte. The fuzz target `stash` and
//! the tests of gateway-common ask it.

use gateway_common::stash::add;
use gateway_common::{HELLO_BYTES, Island};

/// Each four bytes are a segment: where it starts, and how long it is.
pub fn holds(data: &[u8]) {
    let mut come = vec![false; HELLO_BYTES];
    let (mut length, mut islands) = (0, [Island::default(); 4]);
    for segment in data.chunks_exact(4) {
        let start = usize::from(u16::from_le_bytes([segment[0], segment[1]])) % HELLO_BYTES;
        let long = usize::from(u16::from_le_bytes([segment[2], segment[3]])) % 2_048 + 1;
        let end = (start + long).min(HELLO_BYTES);

        let before = (runs(&come), length, islands);
        if add(&mut length, &mut islands, start as u32, end as u32) {
            come[start..end].fill(true);
        } else {
            // Four islands, and the segment is a fifth: it neither joins one nor the first run.
            assert_eq!((length, islands), (before.1, before.2), "{start}..{end} is refused and changes something");
            let beyond = before.0.iter().filter(|run| run.0 > 0);
            assert_eq!(beyond.clone().count(), 4, "{start}..{end} is refused, and there is room");
            assert!(
                before.0.iter().all(|(from, to)| *to < start || *from > end),
                "{start}..{end} joins and is refused"
            );
            assert!(start > length as usize, "{start}..{end} continues the first run and is refused");
        }
        assert_eq!(length as usize, come.iter().take_while(|come| **come).count(), "after {start}..{end}");
        assert_eq!(remembered(length, &islands), runs(&come), "after {start}..{end}");
    }
}

/// First and after the last, in order.
fn runs(come: &[bool]) -> Vec<(usize, usize)> {
    let mut runs = Vec::new();
    let mut at = 0;
    for run in come.chunk_by(|one, next| one == next) {
        if run[0] {
            runs.push((at, at + run.len()));
        }
        at += run.len();
    }
    runs
}

fn remembered(length: u32, islands: &[Island; 4]) -> Vec<(usize, usize)> {
    let first = (length > 0).then_some((0, length as usize));
    let others = islands.iter().filter(|island| island.end != 0).map(|island| (island.start.into(), island.end.into()));
    let mut all: Vec<_> = first.into_iter().chain(others).collect();
    all.sort_unstable();
    all
}
