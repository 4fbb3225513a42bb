//! What the programs say about connections, read from the ring buffer now and then: a reader that is too slow loses events
//! (the programs count them), never packets.

use std::mem::size_of;

use aya::maps::{Map, MapData, RingBuf};
use gateway_common::{Event, names};

use super::pins::Pins;

pub struct Events(RingBuf<MapData>);

impl Events {
    pub fn open(pins: &Pins) -> Result<Events, aya::maps::MapError> {
        let data = MapData::from_pin(pins.map(names::EVENTS))?;
        RingBuf::try_from(Map::from_map_data(data)?).map(Events)
    }
}

impl Iterator for Events {
    type Item = Event;

    /// `None`: there is none now.
    fn next(&mut self) -> Option<Event> {
        loop {
            let item = self.0.next()?;
            if item.len() >= size_of::<Event>() {
                // SAFETY: as many bytes as an Event has, of which every bit pattern is one; alignment is not relied on.
                return Some(unsafe { item.as_ptr().cast::<Event>().read_unaligned() });
            }
        }
    }
}
