//! One end of a TCP connection in user space, after RFC 9293, RFC 7323 section 2 and RFC 2018. It knows nothing of a gateway,
//! and takes it ill when it gets what an honest other end would not send.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use anyhow::{Result, ensure};

use crate::packet::Packet;
use crate::segment::{Offer, Segment};

/// Most SACK blocks that fit beside no other option.
const SACK_BLOCKS: usize = 4;
/// Without an MSS option (RFC 9293 section 3.7.1).
const DEFAULT_MSS: u16 = 536;

/// Positions in a stream count from its first byte: 0 has the sequence number after the SYN's.
#[derive(Clone, Debug)]
pub struct End {
    pub local: SocketAddr,
    pub remote: SocketAddr,
    pub offer: Offer,
    isn: u32,
    /// The other end's initial sequence number, and what it offered.
    theirs: Option<(u32, Offer)>,
    /// Whether the other end has acknowledged the SYN.
    pub established: bool,

    /// The largest segment that gets through, as far as is known.
    pub path: u64,

    /// What it says, and whether a FIN follows.
    pub says: Vec<u8>,
    pub then_closes: bool,
    /// How far of it may be said now.
    pub may_say: u64,
    una: u64,
    next: u64,
    /// The first position that the other end has no room for.
    edge: u64,
    sacked: Vec<(u64, u64)>,

    /// What it must hear, and what it has heard so far of it.
    pub hears: Vec<u8>,
    pub heard: u64,
    pieces: BTreeMap<u64, u64>,
    latest: Vec<(u64, u64)>,
    fin_at: Option<u64>,
    /// Bytes of receive buffer.
    pub buffer: u64,
    /// The furthest position that it has told the other end it has room for.
    pub told: u64,
    /// What others may have told in its name.
    pub told_by_others: u64,
}

impl End {
    pub fn new(local: SocketAddr, remote: SocketAddr, isn: u32, offer: Offer) -> End {
        End {
            local,
            remote,
            offer,
            isn,
            theirs: None,
            established: false,
            path: u64::MAX,
            says: Vec::new(),
            then_closes: true,
            may_say: u64::MAX,
            una: 0,
            next: 0,
            edge: 0,
            sacked: Vec::new(),
            hears: Vec::new(),
            heard: 0,
            pieces: BTreeMap::new(),
            latest: Vec::new(),
            fin_at: None,
            buffer: 0xffff,
            told: 0,
            told_by_others: 0,
        }
    }

    /// What the other end's segments may carry: what this end was offered, as far as it goes.
    pub fn mss(&self) -> u64 {
        u64::from(self.theirs.and_then(|(_, offer)| offer.mss).unwrap_or(DEFAULT_MSS)).min(self.path)
    }

    /// The furthest position that the other end has given room for.
    pub fn edge(&self) -> u64 {
        self.edge
    }

    /// Everything was said and heard, and the other end knows.
    pub fn is_done(&self) -> bool {
        self.said_all() && self.heard_all()
    }

    fn said_all(&self) -> bool {
        self.una == self.last()
    }

    pub fn heard_all(&self) -> bool {
        self.heard == self.hears.len() as u64 + 1 && self.fin_at.is_some()
    }

    /// The position after the FIN, or after the last byte.
    fn last(&self) -> u64 {
        self.says.len() as u64 + u64::from(self.then_closes)
    }

    fn scaling(&self) -> bool {
        self.offer.scale.is_some() && self.theirs.is_some_and(|(_, offer)| offer.scale.is_some())
    }

    fn sack(&self) -> bool {
        self.offer.sack && self.theirs.is_some_and(|(_, offer)| offer.sack)
    }

    // Sending.

    pub fn syn(&mut self) -> Packet {
        let field = self.buffer.min(0xffff) as u16;
        self.told = self.told.max(u64::from(field));
        self.packet("S", self.isn, 0, field, &self.offer.bytes(), &[])
    }

    pub fn syn_ack(&mut self) -> Packet {
        let (irs, theirs) = self.theirs.expect("a SYN came");
        let field = self.buffer.min(0xffff) as u16;
        self.told = self.told.max(u64::from(field));
        let offer = Offer {
            scale: self.offer.scale.filter(|_| theirs.scale.is_some()),
            sack: self.offer.sack && theirs.sack,
            ..self.offer
        };
        self.packet("SA", self.isn, irs.wrapping_add(1), field, &offer.bytes(), &[])
    }

    /// The next new segment of at most so many bytes, as far as the window allows.
    pub fn new_data(&mut self, most: u64) -> Option<Packet> {
        if !self.established || self.next >= self.last() || self.next >= self.may_say {
            return None;
        }
        let end = (self.next + most).min(self.edge).min(self.may_say).min(self.last());
        if end <= self.next {
            return None;
        }
        let start = std::mem::replace(&mut self.next, end);
        Some(self.data(start, end))
    }

    /// The first bytes that the other end lacks again, at most so many. None: there are none.
    pub fn again(&mut self, most: u64) -> Option<Packet> {
        if !self.established || self.una >= self.next {
            return None;
        }
        let mut start = self.una;
        // What the other end has is not sent again: it is lost if this end was told wrongly.
        while let Some((_, end)) = self.sacked.iter().find(|(from, to)| *from <= start && start < *to) {
            start = *end;
        }
        assert!(start < self.next, "{:?} is said to have come, but not {}", self.sacked, self.una);
        let hole = self.sacked.iter().map(|(from, _)| *from).filter(|from| *from > start).min().unwrap_or(self.next);
        Some(self.data(start, (start + most).min(hole).min(self.next)))
    }

    /// A probe of a window that is closed, or of a connection that is idle (RFC 9293 section 3.8.4).
    pub fn probe(&mut self) -> Packet {
        let seq = self.seq(self.una).wrapping_sub(1);
        let (field, ack, options) = self.acknowledgement();
        self.packet("A", seq, ack, field, &options, &[])
    }

    pub fn ack(&mut self) -> Packet {
        let (field, ack, options) = self.acknowledgement();
        self.packet("A", self.seq(self.next), ack, field, &options, &[])
    }

    fn data(&mut self, start: u64, end: u64) -> Packet {
        let fin = end > self.says.len() as u64;
        let bytes = self.says[start as usize..(end as usize).min(self.says.len())].to_vec();
        let (field, ack, _) = self.acknowledgement();
        self.packet(if fin { "FA" } else { "PA" }, self.seq(start), ack, field, &[], &bytes)
    }

    /// Window field, acknowledgement number and options of what is sent now.
    fn acknowledgement(&mut self) -> (u16, u32, Vec<u8>) {
        let shift = if self.scaling() { self.offer.scale.unwrap_or(0) } else { 0 };
        let room = self.told.max(self.heard + self.buffer) - self.heard;
        let field = (room >> shift).min(0xffff) as u16;
        self.told = self.told.max(self.heard + (u64::from(field) << shift));
        let mut options = Vec::new();
        if self.sack() && !self.latest.is_empty() {
            let blocks = &self.latest[..self.latest.len().min(SACK_BLOCKS)];
            options.extend([1, 1, 5, 2 + 8 * blocks.len() as u8]);
            for (from, to) in blocks {
                options.extend(self.their_seq(*from).to_be_bytes());
                options.extend(self.their_seq(*to).to_be_bytes());
            }
        }
        (field, self.their_seq(self.heard), options)
    }

    fn packet(&self, flags: &str, seq: u32, ack: u32, window: u16, options: &[u8], bytes: &[u8]) -> Packet {
        Packet::tcp(self.local, self.remote, flags, seq, ack).data(bytes).header(|header| {
            header.window_size = window;
            header.set_options_raw(options).expect("40 bytes at most");
        })
    }

    fn seq(&self, position: u64) -> u32 {
        self.isn.wrapping_add(1).wrapping_add(position as u32)
    }

    fn their_seq(&self, position: u64) -> u32 {
        let (irs, _) = self.theirs.expect("a SYN came");
        irs.wrapping_add(1).wrapping_add(position as u32)
    }

    // Receiving.

    /// Where the data of a segment of the other end's ends.
    pub fn position(&self, segment: &Segment) -> u64 {
        let Some((irs, _)) = self.theirs else { return 0 };
        let start = self.heard as i64
            + i64::from(segment.seq.wrapping_sub(irs.wrapping_add(1)).wrapping_sub(self.heard as u32) as i32);
        (start + segment.payload.len() as i64).max(0) as u64
    }

    /// Takes a segment in. True: it wants an acknowledgement.
    pub fn receive(&mut self, segment: &Segment) -> Result<bool> {
        ensure!(segment.from == self.remote && segment.to == self.local, "{segment:?} is for somebody else");
        ensure!(!segment.has('R'), "reset by {segment:?}");
        let Some((irs, _)) = self.theirs else {
            ensure!(segment.has('S'), "{segment:?} before a SYN");
            return self.first(segment);
        };
        if segment.has('S') {
            ensure!(segment.seq == irs, "another SYN: {segment:?}");
            return Ok(true);
        }
        ensure!(segment.has('A'), "{segment:?} acknowledges nothing");
        self.acknowledged(segment)?;
        self.take(segment)
    }

    /// SYN or SYN-ACK.
    fn first(&mut self, segment: &Segment) -> Result<bool> {
        ensure!(segment.payload.is_empty(), "data in {segment:?}");
        let offer = segment.offer()?;
        ensure!(!offer.timestamps, "timestamps in {segment:?}");
        self.theirs = Some((segment.seq, offer));
        if segment.has('A') {
            ensure!(segment.ack == self.seq(0), "{segment:?} acknowledges another SYN than {}", self.isn);
            ensure!(self.offer.scale.is_some() || offer.scale.is_none(), "a scale that was not asked for: {segment:?}");
            ensure!(self.offer.sack || !offer.sack, "SACK that was not asked for: {segment:?}");
            self.established = true;
        } else {
            ensure!(segment.ack == 0, "{segment:?}");
        }
        self.edge = u64::from(segment.window);
        Ok(true)
    }

    fn acknowledged(&mut self, segment: &Segment) -> Result<()> {
        let ack = self.una.wrapping_add_signed(i64::from(segment.ack.wrapping_sub(self.seq(self.una)) as i32));
        if (ack as i64) < 0 || ack < self.una {
            // Old, or from before the SYN's acknowledgement.
            return Ok(());
        }
        ensure!(ack <= self.next, "{segment:?} acknowledges {ack}, and {} was sent", self.next);
        self.established = true;
        self.una = ack;
        let shift = match self.theirs {
            Some((_, offer)) if self.scaling() => offer.scale.unwrap_or(0),
            _ => 0,
        };
        self.edge = self.edge.max(ack + (u64::from(segment.window) << shift));
        let blocks = segment.sack()?;
        // The gateway agrees for a backend that it does not know yet; one that does not know SACK passes over the option.
        let theirs = self.theirs.is_some_and(|(_, offer)| offer.sack);
        ensure!(blocks.is_empty() || theirs, "SACK was not agreed on: {segment:?}");
        for (left, right) in blocks.into_iter().filter(|_| self.offer.sack) {
            let position = |seq: u32| ack as i64 + i64::from(seq.wrapping_sub(segment.ack) as i32);
            let (from, to) = (position(left), position(right));
            ensure!(
                from > ack as i64 && from < to && to <= self.next as i64,
                "SACK {from}..{to} after {ack} of {}: {segment:?}",
                self.next
            );
            self.sacked.push((from as u64, to as u64));
        }
        self.sacked.retain(|(_, to)| *to > ack);
        Ok(())
    }

    fn take(&mut self, segment: &Segment) -> Result<bool> {
        let ahead = i64::from(segment.seq.wrapping_sub(self.their_seq(self.heard)) as i32);
        let from = self.heard as i64 + ahead;
        let to = from + segment.payload.len() as i64;
        let end = to + i64::from(segment.has('F'));
        if end == from {
            // A probe has a number that is not new.
            return Ok(ahead < 0);
        }
        ensure!(from >= 0, "{segment:?} starts before the first byte");
        let (from, to, end) = (from as u64, to as u64, end as u64);
        ensure!(
            to <= self.told.max(self.told_by_others),
            "{from}..{to} is beyond {} and {}",
            self.told,
            self.told_by_others
        );
        ensure!(
            self.hears.get(from as usize..to as usize) == Some(&segment.payload[..]),
            "bytes {from}..{to} are not what the other end said: {:02x?}",
            &segment.payload[..segment.payload.len().min(64)]
        );
        if segment.has('F') {
            ensure!(to == self.hears.len() as u64, "FIN at {to} of {}", self.hears.len());
            self.fin_at = Some(to);
        }
        let end = end.min(self.told.max(self.heard) + u64::from(segment.has('F')));
        if end > self.heard && from < end {
            self.insert(from.max(self.heard), end);
        }
        Ok(true)
    }

    fn insert(&mut self, from: u64, to: u64) {
        let (mut from, mut to) = (from, to);
        let joined: Vec<u64> = self.pieces.iter().filter(|(f, t)| **f <= to && **t >= from).map(|(f, _)| *f).collect();
        for start in joined {
            let end = self.pieces.remove(&start).expect("it is there");
            (from, to) = (from.min(start), to.max(end));
        }
        self.latest.retain(|(f, t)| *t < from || *f > to);
        if from <= self.heard {
            self.heard = to;
        } else {
            self.pieces.insert(from, to);
            self.latest.insert(0, (from, to));
        }
    }
}
