//! Who asks on the link for an address of Gateways (ARP, RFC 826; Neighbor Discovery, RFC 4861) is answered here, by the node that owns
//! the address and by no other: the kernel would answer wherever the address is local, and for IPv6 only where it lies on the interface.
//!
//! The last node to announce an address has it. An owner that was given up for dead, whose agent is, or that nobody can reach but on the
//! link falls silent when another machine speaks for the address; its agent, if it knows better, takes the address back.

use gateway_common::{Address, Announced, checksum, protocol};

use crate::frame::{ETHERNET, Frame, Tc, fixed};
use crate::headers::*;
use crate::maps::{ANNOUNCED, INTERFACES};
use crate::parse::{address_v6, mapped, unmapped};

/// A packet that is neither TCP nor UDP nor an ICMP error.
#[inline(never)]
pub fn answer(frame: Tc) -> i32 {
    // SAFETY: the context is valid. What is for a VLAN comes again on that interface.
    if unsafe { (*frame.0).vlan_present } != 0 {
        return Tc::PASS;
    }
    let Some(ethernet) = fixed::<Ethernet, 0>(frame) else { return Tc::PASS };
    if ethernet.kind != ETHERTYPE_ARP && ethernet.kind != ETHERTYPE_IPV6 {
        return Tc::PASS;
    }
    let Some(interface) = INTERFACES.get_ptr(frame.interface()) else { return Tc::PASS };
    // SAFETY: a map value that starts with the MAC address, at a multiple of 8.
    let own = unsafe { *interface.cast::<Mac>() };
    if ethernet.kind == ETHERTYPE_ARP { arp(frame, own) } else { discovery(frame, own) }
}

type Mac = [u16; 3];

#[inline(always)]
fn arp(frame: Tc, own: Mac) -> i32 {
    let Some(arp) = fixed::<Arp, { ETHERNET as usize }>(frame) else { return Tc::PASS };
    if arp.hardware != ARP_ETHERNET || arp.protocol != ETHERTYPE_IPV4 || arp.lengths != ARP_LENGTHS {
        return Tc::PASS;
    }
    let (sender, asked) = (address(arp.sender), address(arp.target));
    // The kernel might answer an announcement (RFC 5227 section 2.3), which is made as a request.
    if is_spoken_for(&sender, arp.sender_mac, own) && sender == asked {
        return Tc::DROP;
    }
    if arp.operation != ARP_REQUEST {
        return Tc::PASS;
    }
    match who_answers(&asked) {
        Who::Kernel => return Tc::PASS,
        Who::Other => return Tc::DROP,
        Who::Here => {}
    }
    let (target, from) = (arp.target, arp.sender_mac);
    arp.operation = ARP_REPLY;
    (arp.target_mac, arp.target) = (from, arp.sender);
    (arp.sender_mac, arp.sender) = (own, target);
    if address_frame(frame, own, from) { frame.reply() } else { Tc::DROP }
}

#[inline(always)]
fn address([low, high]: [u16; 2]) -> Address {
    mapped(low as u32 | (high as u32) << 16)
}

/// What asks on a link by ARP with an address that another node holds asks with the interface's own instead: the kernel takes the source
/// of the packet that waits (unless arp_announce says otherwise), which may be that of a connection from before the address moved, and all who
/// hear it would send here what is for that node.
#[inline(never)]
pub fn leave(frame: Tc) -> i32 {
    let Some(arp) = fixed::<Arp, { ETHERNET as usize }>(frame) else { return Tc::PASS };
    if arp.hardware == ARP_ETHERNET
        && arp.protocol == ETHERTYPE_IPV4
        && arp.operation == ARP_REQUEST
        && matches!(who_answers(&address(arp.sender)), Who::Other)
        && let Some(interface) = INTERFACES.get_ptr(frame.interface())
    {
        // SAFETY: a map value, which the agent replaces as a whole.
        let own = unsafe { unmapped(&(*interface).v4) };
        if own == 0 {
            return Tc::DROP;
        }
        arp.sender = [own as u16, (own >> 16) as u16];
    }
    Tc::PASS
}

#[inline(always)]
fn discovery(frame: Tc, own: Mac) -> i32 {
    const SOLICITATION: u8 = 135;
    const ADVERTISEMENT: u8 = 136;
    /// RFC 4861 section 7.1: what has passed a router is not heeded.
    const HOP_LIMIT: u8 = 255;
    const ALL_NODES: [u32; 4] = [0x02ff, 0, 0, 1u32.to_be()];
    const ALL_NODES_MAC: Mac = [0x3333, 0, 1u16.to_be()];
    /// Flags of an advertisement (RFC 4861 section 4.4).
    const SOLICITED: u32 = (1u32 << 30).to_be();
    const OVERRIDE: u32 = (1u32 << 29).to_be();
    /// Of the option that says the link-layer address of the target: type, and length in 8 bytes.
    const TARGET_MAC: u16 = u16::from_ne_bytes([2, 1]);

    // `parse` had no reason to make more than the IP header reachable.
    const REACHED: u32 = ETHERNET + size_of::<Discovery>() as u32;
    if frame.length() < REACHED || (frame.start() + REACHED as usize > frame.end() && !frame.pull(REACHED)) {
        return Tc::PASS;
    }
    let Some(ask) = fixed::<Discovery, { ETHERNET as usize }>(frame) else { return Tc::PASS };
    if ask.ip.next != protocol::ICMPV6 || ask.ip.hop_limit != HOP_LIMIT {
        return Tc::PASS;
    }
    let asked = address_v6(&ask.target);
    let Some(ethernet) = fixed::<Ethernet, 0>(frame) else { return Tc::PASS };
    let from = [ethernet.macs[3], ethernet.macs[4], ethernet.macs[5]];
    if ask.kind == ADVERTISEMENT {
        return if is_spoken_for(&asked, from, own) { Tc::DROP } else { Tc::PASS };
    }
    if ask.kind != SOLICITATION {
        return Tc::PASS;
    }
    match who_answers(&asked) {
        Who::Kernel => return Tc::PASS,
        Who::Other => return Tc::DROP,
        Who::Here => {}
    }
    let (target, source) = (ask.target, ask.ip.source);
    // Somebody wants the address for himself and has none yet (duplicate address detection, RFC 4862 section 5.4.3): all are told.
    let is_probe = source[0] | source[1] | source[2] | source[3] == 0;
    let (to, to_mac) = if is_probe { (ALL_NODES, ALL_NODES_MAC) } else { (source, from) };
    let length = ETHERNET + size_of::<Advertisement>() as u32;
    if !frame.resize(length, length) || !address_frame(frame, own, to_mac) {
        return Tc::DROP;
    }
    let Some(answer) = fixed::<Advertisement, { ETHERNET as usize }>(frame) else { return Tc::DROP };
    let payload = ((size_of::<Advertisement>() - size_of::<Ipv6>()) as u16).to_be();
    let flags = if is_probe { OVERRIDE } else { SOLICITED | OVERRIDE };
    answer.ip =
        Ipv6 { version: 0x60, payload, next: protocol::ICMPV6, hop_limit: HOP_LIMIT, source: target, destination: to };
    let kind = u16::from_ne_bytes([ADVERTISEMENT, 0]);
    let mut sum = payload as u64 + (protocol::ICMPV6 as u16).to_be() as u64 + kind as u64 + flags as u64;
    sum += TARGET_MAC as u64 + own[0] as u64 + own[1] as u64 + own[2] as u64;
    for i in 0..4 {
        // As the source of the packet, and in it.
        sum += 2 * target[i] as u64 + to[i] as u64;
    }
    answer.kind = ADVERTISEMENT;
    answer.code = 0;
    answer.checksum = !checksum::fold(sum);
    answer.flags = flags;
    answer.target = target;
    answer.option = TARGET_MAC;
    answer.mac = own;
    frame.reply()
}

#[inline(always)]
fn address_frame(frame: Tc, own: Mac, to: Mac) -> bool {
    let Some(ethernet) = fixed::<Ethernet, 0>(frame) else { return false };
    ethernet.macs = [to[0], to[1], to[2], own[0], own[1], own[2]];
    true
}

#[derive(Clone, Copy)]
#[repr(u32)]
enum Who {
    /// The address is of no pool.
    Kernel,
    Here,
    Other,
}

#[inline(always)]
fn who_answers(address: &Address) -> Who {
    let Some(announced) = ANNOUNCED.get_ptr(address) else { return Who::Kernel };
    // SAFETY: only read; a rival that is half written is one all the same.
    let Announced { rival, held } = unsafe { *announced };
    if held != 0 && rival[0] | rival[1] | rival[2] == 0 { Who::Here } else { Who::Other }
}

/// A machine says that the address is its own; whether it is of a pool.
#[inline(always)]
fn is_spoken_for(address: &Address, by: Mac, own: Mac) -> bool {
    let Some(announced) = ANNOUNCED.get_ptr_mut(address) else { return false };
    if (by[0] ^ own[0]) | (by[1] ^ own[1]) | (by[2] ^ own[2]) != 0 {
        // SAFETY: as above.
        unsafe { (*announced).rival = by };
    }
    true
}
