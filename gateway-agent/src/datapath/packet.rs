//! What this node says on its links about addresses of Gateways: the frames, and the socket they go out by (packet(7)).

use std::io;
use std::mem::size_of;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use gateway_common::checksum;

pub type Mac = [u8; 6];

const BROADCAST: Mac = [0xff; 6];

/// Says at once who has an address: a request, which changes entries that are there (RFC 5227 section 3), or a reply, which some switches want.
pub fn gratuitous_arp(mac: Mac, address: Ipv4Addr, reply: bool) -> Vec<u8> {
    let mut frame = ethernet(BROADCAST, mac, 0x0806);
    // Ethernet, IPv4, and the lengths of their addresses (RFC 826).
    frame.extend([0, 1, 0x08, 0, 6, 4, 0, if reply { 2 } else { 1 }]);
    frame.extend(mac);
    frame.extend(address.octets());
    frame.extend(if reply { BROADCAST } else { [0; 6] });
    frame.extend(address.octets());
    frame
}

/// An unsolicited neighbor advertisement to all nodes (RFC 4861 sections 4.4 and 7.2.6).
pub fn unsolicited_advertisement(mac: Mac, address: Ipv6Addr) -> Vec<u8> {
    const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
    const ICMPV6: u8 = 58;
    const OVERRIDE: u8 = 0x20;
    let mut message = vec![136, 0, 0, 0, OVERRIDE, 0, 0, 0];
    message.extend(address.octets());
    // The option that says the target's link-layer address.
    message.extend([2, 1]);
    message.extend(mac);
    let length = message.len() as u16;
    let sums = [&address.octets()[..], &ALL_NODES.octets(), &length.to_be_bytes(), &[0, ICMPV6], &message];
    let words =
        sums.iter().flat_map(|part| part.chunks_exact(2)).map(|word| u64::from(word[0]) << 8 | u64::from(word[1]));
    let sum = !checksum::fold(words.sum());
    message[2..4].copy_from_slice(&sum.to_be_bytes());
    let mut frame = ethernet([0x33, 0x33, 0, 0, 0, 1], mac, 0x86dd);
    frame.extend([0x60, 0, 0, 0]);
    frame.extend(length.to_be_bytes());
    frame.extend([ICMPV6, 255]);
    frame.extend(address.octets());
    frame.extend(ALL_NODES.octets());
    frame.extend(message);
    frame
}

fn ethernet(to: Mac, from: Mac, kind: u16) -> Vec<u8> {
    let mut frame = Vec::with_capacity(86);
    frame.extend(to);
    frame.extend(from);
    frame.extend(kind.to_be_bytes());
    frame
}

/// Sends whole frames by any interface; takes none in.
pub struct PacketSocket(OwnedFd);

impl PacketSocket {
    pub fn new() -> io::Result<PacketSocket> {
        // SAFETY: no memory is passed. Protocol 0: nothing is received.
        let fd = unsafe { libc::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK, 0) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the kernel has just made this descriptor, and it is nobody else's.
        Ok(PacketSocket(unsafe { OwnedFd::from_raw_fd(fd) }))
    }

    pub fn send(&self, ifindex: u32, frame: &[u8]) -> io::Result<()> {
        // SAFETY: plain integers.
        let mut to: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
        to.sll_family = libc::AF_PACKET as u16;
        to.sll_ifindex = ifindex as i32;
        let (bytes, length) = (frame.as_ptr().cast(), size_of::<libc::sockaddr_ll>() as u32);
        // SAFETY: both pointers live over the call, with these lengths.
        let sent =
            unsafe { libc::sendto(self.0.as_raw_fd(), bytes, frame.len(), 0, std::ptr::from_ref(&to).cast(), length) };
        if sent < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAC: Mac = [2, 0, 0, 0xab, 0xcd, 0xef];

    #[test]
    fn an_announcement_of_ipv4_is_a_request_or_reply_for_itself() {
        let address = Ipv4Addr::new(198, 18, 0, 7);
        let mut wanted = vec![0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2, 0, 0, 0xab, 0xcd, 0xef, 8, 6];
        wanted.extend([
            0, 1, 8, 0, 6, 4, 0, 1, 2, 0, 0, 0xab, 0xcd, 0xef, 198, 18, 0, 7, 0, 0, 0, 0, 0, 0, 198, 18, 0, 7,
        ]);
        assert_eq!(gratuitous_arp(MAC, address, false), wanted);
        let reply = gratuitous_arp(MAC, address, true);
        assert_eq!((reply[21], &reply[32..38]), (2, &[0xff; 6][..]));
    }

    #[test]
    fn an_announcement_of_ipv6_has_its_checksum() {
        let address: Ipv6Addr = "2001:db8::7".parse().unwrap();
        let frame = unsolicited_advertisement(MAC, address);
        assert_eq!(frame.len(), 14 + 40 + 32);
        assert_eq!(&frame[..14], [0x33, 0x33, 0, 0, 0, 1, 2, 0, 0, 0xab, 0xcd, 0xef, 0x86, 0xdd]);
        assert_eq!((frame[20], frame[21], frame[54], frame[58]), (58, 255, 136, 0x20));
        assert_eq!(frame[62..78], address.octets());
        assert_eq!(&frame[78..], [2, 1, 2, 0, 0, 0xab, 0xcd, 0xef]);
        // RFC 1071: with the checksum in it, everything sums up to all ones; addresses, length and next header count too.
        let words = frame[22..].chunks(2).map(|word| u32::from(word[0]) << 8 | u32::from(word[1]));
        let sum = words.sum::<u32>() + 32 + 58;
        assert_eq!((sum & 0xffff) + (sum >> 16), 0xffff);
    }
}
