//! What a worker's connections use one after the other, so that no request allocates it anew.

use std::cell::RefCell;
use std::io;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::{SystemTime, UNIX_EPOCH};

use bytes::{BufMut, Bytes, BytesMut};
use http::HeaderMap;
use jiff::Timestamp;
use jiff::fmt::rfc2822::DateTimePrinter;
use tokio::io::{AsyncRead, AsyncReadExt};

use crate::proxy::http::budget::Budget;
use crate::proxy::pipes::Pipes;

/// Heads of requests are read into it, one behind the other, until it is full. Who has a part of one for long has all of it: its client is
/// slow, and may have many beside it.
const HEADS: usize = 8 << 10;
/// There is to be room for so much of them.
const HEAD: usize = 4 << 10;
/// Of each kind, what is kept for the next.
const KEPT: usize = 64;
/// What is larger was for something unusual.
const OUT: usize = 64 << 10;

#[derive(Debug)]
pub struct Scratch {
    budget: Rc<Budget>,
    heads: RefCell<BytesMut>,
    bodies: RefCell<Bodies>,
    maps: RefCell<Vec<HeaderMap>>,
    outs: RefCell<Vec<Vec<u8>>>,
    pub pipes: Pipes,
    date: RefCell<Date>,
}

/// What bodies and answers are read into, one after the other.
#[derive(Debug, Default)]
struct Bodies {
    buffer: BytesMut,
    size: usize,
    /// By the last read.
    was_filled: bool,
}

#[derive(Debug, Default)]
struct Date {
    /// Seconds since 1970.
    of: u64,
    text: String,
}

impl Scratch {
    pub fn new(budget: Rc<Budget>) -> Scratch {
        Scratch {
            budget,
            heads: RefCell::default(),
            bodies: RefCell::default(),
            maps: RefCell::default(),
            outs: RefCell::default(),
            pipes: Pipes::default(),
            date: RefCell::default(),
        }
    }

    /// What has come, up to a few heads; nothing at the end.
    pub fn poll_head(&self, cx: &mut Context<'_>, stream: Pin<&mut impl AsyncRead>) -> Poll<io::Result<Bytes>> {
        let mut heads = self.heads.borrow_mut();
        if heads.capacity() < HEAD {
            heads.reserve(HEADS);
        }
        poll_read(cx, stream, &mut heads)
    }

    /// What has come of an answer, up to 16 KiB: its head, and all of a small body. What is left of a large one may never be read.
    pub fn poll_answer(&self, cx: &mut Context<'_>, mut stream: Pin<&mut impl AsyncRead>) -> Poll<io::Result<Bytes>> {
        let mut bodies = self.bodies.borrow_mut();
        bodies.make_room(self.budget.is_scarce());
        ready!(pin!(stream.read_buf(&mut (&mut bodies.buffer).limit(Bodies::LEAST))).poll(cx))?;
        Poll::Ready(Ok(bodies.buffer.split().freeze()))
    }

    /// What has come, up to 128 KiB; nothing at the end.
    pub fn poll_body(&self, cx: &mut Context<'_>, stream: Pin<&mut impl AsyncRead>) -> Poll<io::Result<Bytes>> {
        let mut bodies = self.bodies.borrow_mut();
        bodies.make_room(self.budget.is_scarce());
        let read = ready!(poll_read(cx, stream, &mut bodies.buffer))?;
        bodies.was_filled = read.len() == bodies.size;
        Poll::Ready(Ok(read))
    }

    pub fn map(&self) -> HeaderMap {
        self.maps.borrow_mut().pop().unwrap_or_default()
    }

    pub fn give_map_back(&self, mut map: HeaderMap) {
        let mut maps = self.maps.borrow_mut();
        if maps.len() < KEPT {
            map.clear();
            maps.push(map);
        }
    }

    pub fn out(&self) -> Vec<u8> {
        self.outs.borrow_mut().pop().unwrap_or_default()
    }

    pub fn give_out_back(&self, mut out: Vec<u8>) {
        let mut outs = self.outs.borrow_mut();
        if outs.len() < KEPT && out.capacity() <= OUT {
            out.clear();
            outs.push(out);
        }
    }

    /// Of now, as HTTP has it (RFC 9110 section 5.6.7).
    pub fn write_date(&self, out: &mut Vec<u8>) {
        let mut date = self.date.borrow_mut();
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        if now != date.of {
            let now_or_then = Timestamp::from_second(now.try_into().unwrap_or(0)).unwrap_or_default();
            // It fails for years that HTTP has no digits for.
            date.text = DateTimePrinter::new().timestamp_to_rfc9110_string(&now_or_then).unwrap_or_default();
            date.of = now;
        }
        out.extend_from_slice(date.text.as_bytes());
    }
}

impl Bodies {
    const LEAST: usize = 16 << 10;
    /// What a socket has, mostly.
    const MOST: usize = 128 << 10;

    /// The same memory, unless somebody still has some of what was read before. Who takes nothing has all of it, for as long as that is: so the
    /// next is a small one, and grows while everybody keeps up.
    fn make_room(&mut self, is_scarce: bool) {
        let is_free = self.size > 0 && self.buffer.try_reclaim(self.size);
        let size = match self.size {
            _ if !is_free || is_scarce => Bodies::LEAST,
            size if self.was_filled => (2 * size).min(Bodies::MOST),
            size => size,
        };
        if !is_free || size != self.size {
            (self.buffer, self.size) = (BytesMut::with_capacity(size), size);
        }
        self.was_filled = false;
    }
}

fn poll_read(
    cx: &mut Context<'_>,
    mut stream: Pin<&mut impl AsyncRead>,
    into: &mut BytesMut,
) -> Poll<io::Result<Bytes>> {
    // It keeps nothing from one poll to the next.
    ready!(pin!(stream.read_buf(into)).poll(cx))?;
    Poll::Ready(Ok(into.split().freeze()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::task::Waker;

    fn read(scratch: &Scratch) -> Bytes {
        let cx = &mut Context::from_waker(Waker::noop());
        match scratch.poll_body(cx, Pin::new(&mut tokio::io::repeat(b'x'))) {
            Poll::Ready(read) => read.unwrap(),
            Poll::Pending => panic!("there is always more"),
        }
    }

    #[test]
    fn who_keeps_what_was_read_makes_the_next_reads_small() {
        let scratch = Scratch::new(Budget::new(100));
        let reads = || [(); 5].map(|()| read(&scratch).len() >> 10);
        assert_eq!(reads(), [16, 32, 64, 128, 128]);
        let kept = read(&scratch).slice(..1);
        assert_eq!(reads(), [16, 32, 64, 128, 128]);
        drop(kept);
        let scarce = scratch.budget.charge(75);
        assert_eq!(reads(), [16; 5]);
        drop(scarce);
        assert_eq!(reads(), [32, 64, 128, 128, 128]);
        let kept = [(); 3].map(|()| read(&scratch));
        assert_eq!(kept.map(|kept| kept.len() >> 10), [128, 16, 16]);
    }

    #[test]
    fn reads_stay_as_large_as_they_were_when_there_is_less() {
        let scratch = Scratch::new(Budget::new(100));
        let cx = &mut Context::from_waker(Waker::noop());
        for _ in 0..2 {
            let few = scratch.poll_body(cx, Pin::new(&mut &[0; 100][..]));
            assert!(matches!(few, Poll::Ready(Ok(few)) if few.len() == 100));
        }
        assert_eq!(read(&scratch).len() >> 10, 16);
    }
}
