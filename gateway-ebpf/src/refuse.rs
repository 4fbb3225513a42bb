//! Every packet that does not go on ends here: counted by reason, and answered unless the reason says otherwise.

use gateway_common::{Reason, checksum, protocol, reason::Answer};

use crate::count;
use crate::frame::{ETHERNET, Frame, Tc, at, fixed};
use crate::headers::{ACK, DONT_FRAGMENT, Ethernet, FIN, Ipv4, Ipv6, RST, SYN, Tcp};
use crate::icmp;
use crate::parse::{Packet, fragment};

/// `listener`: id, 0 if none. `mtu`: for [`Reason::PacketTooBig`].
#[inline(never)]
pub fn refuse<F: Frame>(frame: F, packet: &Packet, listener: u32, reason: Reason, mtu: u16) -> i32 {
    count::dropped(reason);
    match reason.answer() {
        Answer::Refuse => {
            count::refused(reason, &packet.key, listener);
            if packet.fragment != fragment::WHOLE && packet.is_tcp() || packet.fragment == fragment::LATER {
                F::DROP
            } else if packet.is_tcp() {
                reset(frame, packet)
            } else {
                icmp::unreachable(frame, packet)
            }
        }
        Answer::TimeExceeded => icmp::time_exceeded(frame, packet),
        Answer::TooBig => icmp::too_big(frame, packet, mtu),
        Answer::Silent => F::DROP,
    }
}

/// Ethernet addresses change places.
#[inline(always)]
pub fn swap_macs<F: Frame>(frame: F) -> bool {
    let Some(ethernet) = fixed::<Ethernet, 0>(frame) else { return false };
    let m = &mut ethernet.macs;
    (m[0], m[1], m[2], m[3], m[4], m[5]) = (m[3], m[4], m[5], m[0], m[1], m[2]);
    true
}

/// Counts a packet that the kernel would not let be edited.
#[inline(always)]
pub fn broken<F: Frame>(_frame: F) -> i32 {
    count::dropped(Reason::Malformed);
    F::DROP
}

/// Turns the segment into the RST that answers it (RFC 9293 section 3.10.7.1), keeping IP options and extension headers.
#[inline(always)]
fn reset<F: Frame>(frame: F, packet: &Packet) -> i32 {
    if packet.flags & RST != 0 {
        return F::DROP;
    }
    let (sequence, acknowledgement, flags) = if packet.flags & ACK != 0 {
        (packet.acknowledgement, 0, RST)
    } else {
        let control = (packet.flags & SYN != 0) as u32 + (packet.flags & FIN != 0) as u32;
        (0, packet.sequence.wrapping_add(packet.payload).wrapping_add(control), RST | ACK)
    };
    if bare(frame, packet, sequence, acknowledgement, flags as u32 | BACK) == 0 || !swap_macs(frame) {
        return F::DROP;
    }
    frame.reply()
}

/// Turns the segment into a RST that goes on to whom it was sent to.
#[inline(always)]
pub fn reset_onward(frame: Tc, packet: &Packet) -> bool {
    bare(frame, packet, packet.sequence, packet.acknowledgement, (RST | ACK) as u32) != 0
}

/// To [`bare`], beside the TCP flags: the segment goes back to its sender.
const BACK: u32 = 0x100;

/// Leaves of the segment a TCP header with these values, without options and payload. 0: the kernel refused.
#[inline(never)]
fn bare<F: Frame>(frame: F, packet: &Packet, sequence: u32, acknowledgement: u32, flags: u32) -> u32 {
    let partial = frame.checksum_is_partial(packet.transport + 16);
    if !frame.shrink(packet.transport + 20) {
        return 0;
    }
    let Some(mut sum) = cut_network(frame, packet, flags & BACK != 0) else { return 0 };
    sum += (protocol::TCP as u16).to_be() as u64 + 20u16.to_be() as u64;
    let Some(tcp) = at::<Tcp>(frame, packet.transport) else { return 0 };
    if flags & BACK != 0 {
        (tcp.source, tcp.destination) = (tcp.destination, tcp.source);
    }
    tcp.sequence = sequence.to_be();
    tcp.acknowledgement = acknowledgement.to_be();
    tcp.offset = 5 << 4;
    tcp.flags = flags as u8;
    tcp.window = 0;
    tcp.urgent = 0;
    tcp.checksum = if partial {
        checksum::fold(sum)
    } else {
        sum += tcp.source as u64 + tcp.destination as u64 + tcp.sequence as u64 + tcp.acknowledgement as u64;
        sum += u16::from_ne_bytes([tcp.offset, tcp.flags]) as u64;
        !checksum::fold(sum)
    };
    1
}

/// Makes the IP header one for a bare TCP header after it, that of an answer if it goes `back`; answers the sum of the addresses.
#[inline(always)]
fn cut_network<F: Frame>(frame: F, packet: &Packet, back: bool) -> Option<u64> {
    let length = packet.transport + 20 - ETHERNET;
    if packet.v6 {
        let ip = fixed::<Ipv6, { ETHERNET as usize }>(frame)?;
        if back {
            (ip.source, ip.destination) = (ip.destination, ip.source);
            ip.hop_limit = icmp::TTL;
        }
        ip.payload = (length as u16 - 40).to_be();
        let (s, d) = (ip.source, ip.destination);
        let mut sum = 0;
        for i in 0..4 {
            sum += s[i] as u64 + d[i] as u64;
        }
        return Some(sum);
    }
    let ip = fixed::<Ipv4, { ETHERNET as usize }>(frame)?;
    let old = ip.length as u64 + ip.id as u64 + ip.fragment as u64 + u16::from_ne_bytes([ip.ttl, 0]) as u64;
    if back {
        (ip.source, ip.destination) = (ip.destination, ip.source);
        ip.ttl = icmp::TTL;
        ip.id = 0;
        ip.fragment = DONT_FRAGMENT;
    }
    ip.length = (length as u16).to_be();
    let new = ip.length as u64 + ip.id as u64 + ip.fragment as u64 + u16::from_ne_bytes([ip.ttl, 0]) as u64;
    ip.checksum = checksum::update(ip.checksum, old, new);
    Some(ip.source as u64 + ip.destination as u64)
}
