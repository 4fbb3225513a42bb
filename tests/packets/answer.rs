//! The answers that the sender of a refused packet must get, built from the packet by the RFCs' rules.

use gateway_common::Reason;

use crate::net::Version;
use crate::outcome::Outcome;
use crate::packet::{Body, Packet};

/// Of packets that Sluice makes.
const TTL: u8 = 64;

/// The RST that answers a segment to a closed port (RFC 9293 section 3.10.7.1).
pub fn reset(of: &Packet) -> Packet {
    let Body::Tcp(header, payload) = &of.body else { panic!("not TCP: {of:?}") };
    let (seq, ack, flags) = if header.ack {
        (header.acknowledgment_number, 0, "R")
    } else {
        let length = payload.len() as u32 + u32::from(header.syn) + u32::from(header.fin);
        (0, header.sequence_number.wrapping_add(length), "RA")
    };
    let from = (of.destination, header.destination_port).into();
    let to = (of.source, header.source_port).into();
    let answer = Packet::tcp(from, to, flags, seq, ack).header(|answer| answer.window_size = 0);
    Packet {
        // What the packet carried at the network layer comes back with the answer.
        options: of.options.clone(),
        extensions: of.extensions.clone(),
        tos: of.tos,
        id: 0,
        ttl: TTL,
        ..answer.macs(of.eth_destination, of.eth_source)
    }
}

/// An ICMP error about a packet.
#[derive(Clone, Copy, Debug)]
pub enum Error {
    PortUnreachable,
    TimeExceeded,
    TooBig { mtu: u16 },
}

impl Error {
    /// Type, code and second word: RFC 792, RFC 1191 section 4, RFC 4443 section 3.
    pub fn header(self, v4: bool) -> (u8, u8, [u8; 4]) {
        match self {
            Error::PortUnreachable if v4 => (3, 3, [0; 4]),
            Error::PortUnreachable => (1, 4, [0; 4]),
            Error::TimeExceeded if v4 => (11, 0, [0; 4]),
            Error::TimeExceeded => (3, 0, [0; 4]),
            Error::TooBig { mtu } if v4 => (3, 4, u32::from(mtu).to_be_bytes()),
            Error::TooBig { mtu } => (2, 0, u32::from(mtu).to_be_bytes()),
        }
    }
}

impl Outcome {
    /// The sender of `offending` gets an ICMP error that quotes it: from the address that it was sent to, where the gateway
    /// speaks for the host, or from the interface's own, where it is a router on the way (RFC 1812 section 4.3.2.4).
    #[track_caller]
    pub fn answered_with(&self, reason: Reason, error: Error, offending: &Packet) {
        self.answered_quoting(reason, error, offending, &offending.frame()[14..]);
    }

    /// The same about the bytes of an IP packet that `offending` does not describe (a fragment).
    #[track_caller]
    pub fn answered_quoting(&self, reason: Reason, error: Error, offending: &Packet, packet: &[u8]) {
        let v4 = offending.is_v4();
        let (header, most) = if v4 { (20, 576) } else { (40, 1280) };
        let quoted = self.frame.len().saturating_sub(14 + header + 8);
        // Enough to find the connection (RFC 792: the header and 8 bytes), and no more than fits everywhere.
        let least = packet.len().min(header + offending.options.len() + 8);
        assert!(
            (least..=packet.len().min(most)).contains(&quoted),
            "{quoted} bytes of {} are quoted, wanted at least {least}: {:?}",
            packet.len(),
            self.reasons
        );
        let (kind, code, rest) = error.header(v4);
        let version = if v4 { Version::V4 } else { Version::V6 };
        let from = match error {
            Error::PortUnreachable => None,
            Error::TimeExceeded | Error::TooBig { .. } => self.port.address(version),
        };
        let answer =
            Packet::icmp(from.unwrap_or(offending.destination), offending.source, kind, code, rest, &packet[..quoted]);
        self.answered(reason, &Packet { id: 0, ttl: TTL, ..answer });
    }
}
