//! What a worker's connections use one after the other, so that no request allocates it anew.

use std::cell::RefCell;
use std::io;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};
use std::time::{SystemTime, UNIX_EPOCH};

use bytes::{Bytes, BytesMut};
use http::HeaderMap;
use jiff::Timestamp;
use jiff::fmt::rfc2822::DateTimePrinter;
use tokio::io::{AsyncRead, AsyncReadExt};

/// Heads of requests are read into it, one behind the other, until it is full.
const HEADS: usize = 64 << 10;
/// There is to be room for so much of them.
const HEAD: usize = 4 << 10;
/// Bodies, and answers: what a socket has, mostly.
const BODY: usize = 128 << 10;
/// Of each kind, what is kept for the next.
const KEPT: usize = 64;
/// What is larger was for something unusual.
const OUT: usize = 64 << 10;

#[derive(Debug, Default)]
pub struct Scratch {
    heads: RefCell<BytesMut>,
    bodies: RefCell<BytesMut>,
    maps: RefCell<Vec<HeaderMap>>,
    outs: RefCell<Vec<Vec<u8>>>,
    date: RefCell<Date>,
}

#[derive(Debug, Default)]
struct Date {
    /// Seconds since 1970.
    of: u64,
    text: String,
}

impl Scratch {
    /// What has come, up to a few heads; nothing at the end.
    pub fn poll_head(&self, cx: &mut Context<'_>, stream: Pin<&mut impl AsyncRead>) -> Poll<io::Result<Bytes>> {
        let mut heads = self.heads.borrow_mut();
        if heads.capacity() < HEAD {
            heads.reserve(HEADS);
        }
        poll_read(cx, stream, &mut heads)
    }

    /// What has come, up to 128 KiB; nothing at the end.
    pub fn poll_body(&self, cx: &mut Context<'_>, stream: Pin<&mut impl AsyncRead>) -> Poll<io::Result<Bytes>> {
        let mut bodies = self.bodies.borrow_mut();
        // The same memory, unless somebody still has what was read before.
        bodies.reserve(BODY);
        poll_read(cx, stream, &mut bodies)
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

fn poll_read(
    cx: &mut Context<'_>,
    mut stream: Pin<&mut impl AsyncRead>,
    into: &mut BytesMut,
) -> Poll<io::Result<Bytes>> {
    // It keeps nothing from one poll to the next.
    ready!(pin!(stream.read_buf(into)).poll(cx))?;
    Poll::Ready(Ok(into.split().freeze()))
}
