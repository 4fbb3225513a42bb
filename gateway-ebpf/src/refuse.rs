//! Every packet that does not go on ends here: counted by reason, and answered unless the reason says otherwise.

use gateway_common::{Reason, reason::Answer};

use crate::count;
use crate::frame::{Frame, Tc};
use crate::headers::{ACK, FIN, RST, SYN};
use crate::icmp;
use crate::maps::scratch;
use crate::parse::{Packet, fragment};
use crate::segment;

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
        // Alerts are sent where the sequence numbers of the handshake are known.
        Answer::Silent | Answer::Alert => F::DROP,
    }
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
    let Some(scratch) = scratch() else { return F::DROP };
    let segment = &mut scratch.segment;
    segment.answer(&packet.key);
    if packet.flags & ACK != 0 {
        segment.numbers(packet.acknowledgement, 0, RST, 0);
    } else {
        let control = (packet.flags & SYN != 0) as u32 + (packet.flags & FIN != 0) as u32;
        let end = packet.sequence.wrapping_add(packet.payload).wrapping_add(control);
        segment.numbers(0, end, RST | ACK, 0);
    }
    segment::send_back(frame, packet, segment).unwrap_or(F::DROP)
}

/// Turns the segment into a RST that goes on to whom it was sent to.
#[inline(always)]
pub fn reset_onward(frame: Tc, packet: &Packet) -> bool {
    let Some(scratch) = scratch() else { return false };
    let segment = &mut scratch.segment;
    let key = &packet.key;
    segment.start(&key.source, &key.destination, key.source_port, key.destination_port);
    segment.numbers(packet.sequence, packet.acknowledgement, RST | ACK, 0);
    segment.own = 0;
    segment::write(frame, packet, segment) != 0
}
