//! Ids and ranges of slots: who gets which, and when a freed one may be taken again.

use std::collections::{BTreeMap, VecDeque};
use std::ops;

use hashbrown::HashSet;

/// An id that was freed is taken again as late as possible, and not before [`Ids::settle`]: a packet
/// or a flow may still carry it.
pub struct Ids {
    first: u32,
    /// Ids from here on were never taken.
    fresh: u32,
    /// One above the last id.
    end: u32,
    free: VecDeque<u32>,
    resting: Vec<u32>,
}

impl Ids {
    /// `taken` are in use already; those that are not in `ids` are ignored.
    pub fn new(ids: ops::Range<u32>, taken: &HashSet<u32>) -> Ids {
        let fresh = taken.iter().copied().filter(|id| ids.contains(id)).max().map_or(ids.start, |last| last + 1);
        let free = (ids.start..fresh).filter(|id| !taken.contains(id)).collect();
        Ids { first: ids.start, fresh, end: ids.end, free, resting: Vec::new() }
    }

    pub fn take(&mut self) -> Option<u32> {
        if self.fresh < self.end {
            self.fresh += 1;
            return Some(self.fresh - 1);
        }
        self.free.pop_front()
    }

    pub fn free(&mut self, id: u32) {
        if (self.first..self.end).contains(&id) {
            self.resting.push(id);
        }
    }

    /// Everything freed until now may be taken again.
    pub fn settle(&mut self) {
        self.free.extend(self.resting.drain(..));
    }
}

/// A part of SLOTS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Range {
    pub offset: u32,
    pub length: u32,
}

/// Ranges of SLOTS, first fit. A freed range rests until [`Ranges::settle`]: a packet may still read it.
pub struct Ranges {
    /// Offset to length; neighbours are joined.
    free: BTreeMap<u32, u32>,
    resting: Vec<Range>,
}

impl Ranges {
    pub fn new(slots: u32) -> Ranges {
        Ranges { free: BTreeMap::from([(0, slots)]), resting: Vec::new() }
    }

    /// Takes this very range, if all of it is free.
    pub fn claim(&mut self, range: Range) -> bool {
        let Some((&offset, &length)) = self.free.range(..=range.offset).next_back() else { return false };
        let (Some(end), free_end) = (range.offset.checked_add(range.length), offset + length) else { return false };
        if end > free_end || range.length == 0 {
            return false;
        }
        self.free.remove(&offset);
        if offset < range.offset {
            self.free.insert(offset, range.offset - offset);
        }
        if end < free_end {
            self.free.insert(end, free_end - end);
        }
        true
    }

    pub fn take(&mut self, length: u32) -> Option<Range> {
        let (&offset, _) = self.free.iter().find(|(_, free)| **free >= length)?;
        let range = Range { offset, length };
        self.claim(range).then_some(range)
    }

    pub fn free(&mut self, range: Range) {
        self.resting.push(range);
    }

    pub fn has_resting(&self) -> bool {
        !self.resting.is_empty()
    }

    /// Everything freed until now may be taken again. The caller knows that nothing reads it any more.
    pub fn settle(&mut self) {
        for range in std::mem::take(&mut self.resting) {
            self.join(range);
        }
    }

    fn join(&mut self, range: Range) {
        let Range { mut offset, mut length } = range;
        if let Some(next) = self.free.remove(&(offset + length)) {
            length += next;
        }
        if let Some((&before, &free)) = self.free.range(..offset).next_back()
            && before + free == offset
        {
            offset = before;
            length += free;
        }
        self.free.insert(offset, length);
    }

    /// Slots that are neither taken nor resting.
    pub fn free_slots(&self) -> u32 {
        self.free.values().sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn an_id_is_taken_again_last_of_all_and_only_after_settling() {
        let mut ids = Ids::new(1..4, &HashSet::from([2]));
        let first = ids.take().unwrap();
        ids.free(first);
        assert_eq!((ids.take(), ids.take()), (Some(1), None));
        ids.settle();
        assert_eq!(ids.take(), Some(first));
    }

    #[test]
    fn an_id_of_others_is_nobodys() {
        let mut ids = Ids::new(3..5, &HashSet::from([1, 3]));
        ids.free(1);
        ids.settle();
        assert_eq!((ids.take(), ids.take()), (Some(4), None));
    }

    proptest! {
        #[test]
        fn ranges_never_overlap_and_come_back_whole(
            steps in proptest::collection::vec((any::<bool>(), 1u32..40), 1..200)
        ) {
            let mut ranges = Ranges::new(256);
            let mut taken: Vec<Range> = Vec::new();
            for (take, number) in steps {
                if take {
                    if let Some(range) = ranges.take(number) {
                        prop_assert!(range.offset + range.length <= 256);
                        let apart = |t: &Range| {
                            t.offset + t.length <= range.offset || range.offset + range.length <= t.offset
                        };
                        prop_assert!(taken.iter().all(apart));
                        taken.push(range);
                    }
                } else if !taken.is_empty() {
                    ranges.free(taken.swap_remove(number as usize % taken.len()));
                    ranges.settle();
                }
            }
            for range in taken {
                ranges.free(range);
            }
            ranges.settle();
            prop_assert_eq!(ranges.take(256), Some(Range { offset: 0, length: 256 }));
        }
    }
}
