//! Waiting for sockets: epoll with the index of a socket as its token.

use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use rustix::buffer::spare_capacity;
use rustix::event::epoll::{self, CreateFlags, Event, EventData, EventFlags};
use rustix::io::Errno;

pub const READ: EventFlags = EventFlags::IN;
/// Said once each time it becomes so.
pub const READ_OR_WRITE_ONCE: EventFlags = EventFlags::IN.union(EventFlags::OUT).union(EventFlags::ET);

pub struct Events {
    epoll: OwnedFd,
    events: Vec<Event>,
}

impl Events {
    pub fn new() -> std::io::Result<Events> {
        Ok(Events { epoll: epoll::create(CreateFlags::CLOEXEC)?, events: Vec::with_capacity(256) })
    }

    /// Watches a socket until it is closed.
    pub fn watch(&self, socket: impl AsFd, token: usize, what: EventFlags) -> std::io::Result<()> {
        Ok(epoll::add(&self.epoll, socket, EventData::new_u64(token as u64), what)?)
    }

    /// Puts the tokens of the sockets that are ready into `ready`; none when the time is over.
    pub fn wait(&mut self, ready: &mut Vec<usize>, at_most: Duration) -> std::io::Result<()> {
        self.events.clear();
        let timeout = at_most.try_into().map_err(std::io::Error::other)?;
        match epoll::wait(&self.epoll, spare_capacity(&mut self.events), Some(&timeout)) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        ready.clear();
        ready.extend(self.events.iter().map(|event| event.data.u64() as usize));
        Ok(())
    }
}
