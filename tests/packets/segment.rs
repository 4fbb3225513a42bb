//! A TCP segment read from a frame: every checksum on the way is computed again, by etherparse.

use std::net::{IpAddr, SocketAddr};

use anyhow::{Context, Result, bail, ensure};
use etherparse::{IpHeaders, TcpHeader, TcpOptionElement};

/// What a frame says, options as they lie in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Segment {
    pub from: SocketAddr,
    pub to: SocketAddr,
    /// TTL or hop limit.
    pub ttl: u8,
    pub seq: u32,
    pub ack: u32,
    /// Letters of S A F R P U E C that are set, in this order.
    pub flags: String,
    pub window: u16,
    pub options: Vec<u8>,
    pub payload: Vec<u8>,
}

/// The options of a SYN or SYN-ACK.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Offer {
    pub mss: Option<u16>,
    pub scale: Option<u8>,
    pub sack: bool,
    pub timestamps: bool,
}

impl Segment {
    pub fn read(frame: &[u8]) -> Result<Segment> {
        let packet = frame.get(14..).context("shorter than an Ethernet header")?;
        let (ip, payload) = IpHeaders::from_slice(packet).context("no IP packet")?;
        let (tcp, payload) = TcpHeader::from_slice(payload.payload).context("no TCP segment")?;
        let (source, destination, ttl, sum): (IpAddr, IpAddr, u8, u16) = match &ip {
            IpHeaders::Ipv4(ip, _) => {
                ensure!(ip.calc_header_checksum() == ip.header_checksum, "wrong IP checksum");
                (ip.source.into(), ip.destination.into(), ip.time_to_live, tcp.calc_checksum_ipv4(ip, payload)?)
            }
            IpHeaders::Ipv6(ip, _) => {
                (ip.source.into(), ip.destination.into(), ip.hop_limit, tcp.calc_checksum_ipv6(ip, payload)?)
            }
        };
        ensure!(sum == tcp.checksum, "TCP checksum {:#06x}, wanted {sum:#06x}", tcp.checksum);
        let letters = [
            ('S', tcp.syn),
            ('A', tcp.ack),
            ('F', tcp.fin),
            ('R', tcp.rst),
            ('P', tcp.psh),
            ('U', tcp.urg),
            ('E', tcp.ece),
            ('C', tcp.cwr),
        ];
        Ok(Segment {
            from: (source, tcp.source_port).into(),
            to: (destination, tcp.destination_port).into(),
            ttl,
            seq: tcp.sequence_number,
            ack: tcp.acknowledgment_number,
            flags: letters.iter().filter(|(_, set)| *set).map(|(letter, _)| letter).collect(),
            window: tcp.window_size,
            options: tcp.options.as_slice().to_vec(),
            payload: payload.to_vec(),
        })
    }

    pub fn has(&self, flag: char) -> bool {
        self.flags.contains(flag)
    }

    /// What a SYN or SYN-ACK offers; no other option may be in it.
    pub fn offer(&self) -> Result<Offer> {
        let mut offer = Offer::default();
        for option in elements(&self.options)? {
            match option {
                TcpOptionElement::Noop => {}
                TcpOptionElement::MaximumSegmentSize(mss) => offer.mss = Some(mss),
                TcpOptionElement::WindowScale(scale) => offer.scale = Some(scale),
                TcpOptionElement::SelectiveAcknowledgementPermitted => offer.sack = true,
                TcpOptionElement::Timestamp(..) => offer.timestamps = true,
                other => bail!("{other:?} in a SYN"),
            }
        }
        Ok(offer)
    }

    /// The blocks of SACK, left and right edges.
    pub fn sack(&self) -> Result<Vec<(u32, u32)>> {
        let mut blocks = Vec::new();
        for option in elements(&self.options)? {
            if let TcpOptionElement::SelectiveAcknowledgement(first, others) = option {
                blocks.push(first);
                blocks.extend(others.into_iter().flatten());
            }
        }
        Ok(blocks)
    }
}

fn elements(options: &[u8]) -> Result<Vec<TcpOptionElement>> {
    etherparse::TcpOptionsIterator::from_slice(options)
        .collect::<Result<_, _>>()
        .map_err(|error| anyhow::anyhow!("options {options:02x?}: {error}"))
}

impl Offer {
    /// As bytes, in the order that Linux sends them.
    pub fn bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        if let Some(mss) = self.mss {
            bytes.extend([2, 4, (mss >> 8) as u8, mss as u8]);
        }
        match (self.sack, self.timestamps) {
            (true, true) => bytes.extend([4, 2, 8, 10, 0, 1, 2, 3, 0, 0, 0, 0]),
            (true, false) => bytes.extend([1, 1, 4, 2]),
            (false, true) => bytes.extend([1, 1, 8, 10, 0, 1, 2, 3, 0, 0, 0, 0]),
            (false, false) => {}
        }
        if let Some(scale) = self.scale {
            bytes.extend([1, 3, 3, scale]);
        }
        bytes
    }
}
