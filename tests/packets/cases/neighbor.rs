//! Who asks on the link for an address of Gateways (ARP, Neighbor Discovery) is answered by the node that holds it.

use std::net::IpAddr;

use anyhow::{Context, Result, ensure};

use crate::cases::Cases;
use crate::lab::Lab;
use crate::net::{Port, Version};
use crate::outcome::{Hook, Outcome, Went};
use crate::packet::Packet;

pub fn add(cases: &mut Cases) {
    cases.each("neighbor/the_holder_answers", holder);
    cases.each("neighbor/who_does_not_hold_is_silent", other);
    cases.each("neighbor/the_kernel_answers_for_other_addresses", kernel);
    cases.each("neighbor/another_machine_that_announces_has_it", rival);
    cases.each("neighbor/own_announcements_that_come_back_change_nothing", own_echo);
    cases.each("neighbor/xdp_leaves_it_to_tc", xdp);
    cases.one("neighbor/arp_replies_to_others_pass", replies_to_others);
    cases.one("neighbor/probes_for_a_duplicate_address_are_answered_to_all", duplicate_address);
    cases.one("neighbor/solicitations_of_any_length_are_answered", any_length);
    cases.one("neighbor/what_came_over_a_router_is_no_solicitation", hop_limit);
    cases.one("neighbor/malformed_arp_passes", malformed_arp);
    cases.one("neighbor/nobody_asks_with_an_address_that_another_holds", asks_with_own);
}

type Mac = [u8; 6];

const ALL: Mac = [0xff; 6];
const RIVAL: Mac = [2, 9, 9, 9, 9, 9];

fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(v4) => v4.octets().into(),
        IpAddr::V6(v6) => v6.octets().into(),
    }
}

/// An ARP frame: to whom, from whom, the operation, then who says to have which address, and who is asked.
fn arp(
    [to, from]: [Mac; 2],
    operation: u8,
    (sender_mac, sender): (Mac, IpAddr),
    (mac, target): (Mac, IpAddr),
) -> Vec<u8> {
    let head = [0, 1, 8, 0, 6, 4, 0, operation];
    let (sender, target) = (octets(sender), octets(target));
    [&to[..], &from, &[8, 6], &head, &sender_mac, &sender, &mac, &target].concat()
}

/// A neighbor solicitation (135) or advertisement (136) with these options.
fn discovery(
    macs: [Mac; 2],
    (from, to): (IpAddr, IpAddr),
    kind: u8,
    flags: u8,
    target: IpAddr,
    options: &[u8],
) -> Vec<u8> {
    let payload = [&octets(target)[..], options].concat();
    let [to_mac, from_mac] = macs;
    Packet::icmp(from, to, kind, 0, [flags, 0, 0, 0], &payload).ttl(255).macs(from_mac, to_mac).frame()
}

/// `[1, 1]`: the sender's MAC address; `[2, 1]`: that of the target.
fn option(head: [u8; 2], mac: Mac) -> Vec<u8> {
    [&head[..], &mac].concat()
}

fn group(target: IpAddr) -> (IpAddr, Mac) {
    let [.., a, b, c] = octets(target)[..] else { unreachable!("an address has three bytes") };
    let group = [0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0xff, a, b, c];
    (group.into(), [0x33, 0x33, 0xff, a, b, c])
}

/// What the client asks, to all.
fn question(version: Version, target: IpAddr) -> Vec<u8> {
    let client = Port::Ext0.peer_mac();
    match version {
        Version::V4 => arp([ALL, client], 1, (client, version.client()), ([0; 6], target)),
        Version::V6 => {
            let (to, mac) = group(target);
            discovery([mac, client], (version.client(), to), 135, 0, target, &option([1, 1], client))
        }
    }
}

/// What it is to be told.
fn answer(version: Version, target: IpAddr) -> Vec<u8> {
    let (client, own) = (Port::Ext0.peer_mac(), Port::Ext0.mac());
    match version {
        Version::V4 => arp([client, own], 2, (own, target), (client, version.client())),
        Version::V6 => discovery([client, own], (target, version.client()), 136, 0x60, target, &option([2, 1], own)),
    }
}

/// A machine says unasked that it has the address.
fn announcement(version: Version, by: Mac, target: IpAddr) -> Vec<u8> {
    match version {
        Version::V4 => arp([ALL, by], 1, (by, target), ([0; 6], target)),
        Version::V6 => {
            let all = "ff02::1".parse().expect("an address");
            discovery([[0x33, 0x33, 0, 0, 0, 1], by], (target, all), 136, 0x20, target, &option([2, 1], by))
        }
    }
}

fn is_answered(outcome: &Outcome, expected: &[u8]) -> Result<()> {
    ensure!(outcome.went() == Went::Out && outcome.reasons.is_empty(), "{outcome:?}");
    ensure!(outcome.frame == expected, "answered\n{:02x?}, not\n{expected:02x?}", outcome.frame);
    Ok(())
}

fn is_silent(outcome: &Outcome) -> Result<()> {
    // It is no refused packet, so nothing is counted.
    ensure!(outcome.went() == Went::Dropped && outcome.reasons.is_empty(), "{outcome:?}");
    Ok(())
}

fn holder(lab: &mut Lab, version: Version) -> Result<()> {
    let target = version.gateway();
    lab.announced(target, true)?;
    is_answered(&lab.tc(Port::Ext0, &question(version, target))?, &answer(version, target))?;
    // Who knows the node asks it alone.
    let mut probe = question(version, target);
    probe[..6].copy_from_slice(&Port::Ext0.mac());
    is_answered(&lab.tc(Port::Ext0, &probe)?, &answer(version, target))
}

fn other(lab: &mut Lab, version: Version) -> Result<()> {
    let target = version.gateway();
    lab.announced(target, false)?;
    is_silent(&lab.tc(Port::Ext0, &question(version, target))?)
}

fn kernel(lab: &mut Lab, version: Version) -> Result<()> {
    lab.announced(version.gateway(), true)?;
    // The node's own, and one that Gateways have without a pool.
    lab.exclusive(version.unrouted())?;
    for target in [version.node(), version.unrouted()] {
        lab.tc(Port::Ext0, &question(version, target))?.untouched();
    }
    Ok(())
}

fn rival(lab: &mut Lab, version: Version) -> Result<()> {
    let target = version.gateway();
    lab.announced(target, true)?;
    is_silent(&lab.tc(Port::Ext0, &announcement(version, RIVAL, target))?)?;
    ensure!(lab.rival(target)? == RIVAL, "{:?}", lab.rival(target)?);
    is_silent(&lab.tc(Port::Ext0, &question(version, target))?)?;
    // The agent knows better.
    lab.announced(target, true)?;
    is_answered(&lab.tc(Port::Ext0, &question(version, target))?, &answer(version, target))
}

fn own_echo(lab: &mut Lab, version: Version) -> Result<()> {
    let target = version.gateway();
    lab.announced(target, true)?;
    is_silent(&lab.tc(Port::Ext0, &announcement(version, Port::Ext0.mac(), target))?)?;
    ensure!(lab.rival(target)? == [0; 6], "the node takes itself for another machine");
    is_answered(&lab.tc(Port::Ext0, &question(version, target))?, &answer(version, target))
}

fn xdp(lab: &mut Lab, version: Version) -> Result<()> {
    lab.announced(version.gateway(), true)?;
    lab.run(Hook::Xdp, Port::Ext0, &question(version, version.gateway()))?.untouched();
    Ok(())
}

fn replies_to_others(lab: &mut Lab) -> Result<()> {
    let (version, client) = (Version::V4, Port::Ext0.peer_mac());
    lab.announced(version.gateway(), true)?;
    let reply = arp([Port::Ext0.mac(), client], 2, (client, version.client()), (Port::Ext0.mac(), version.gateway()));
    lab.tc(Port::Ext0, &reply)?.untouched();
    Ok(())
}

fn duplicate_address(lab: &mut Lab) -> Result<()> {
    let target = Version::V6.gateway();
    lab.announced(target, true)?;
    let (to, mac) = group(target);
    let probe = discovery([mac, RIVAL], ("::".parse()?, to), 135, 0, target, &[]);
    let own = Port::Ext0.mac();
    let all = "ff02::1".parse()?;
    let told = discovery([[0x33, 0x33, 0, 0, 0, 1], own], (target, all), 136, 0x20, target, &option([2, 1], own));
    is_answered(&lab.tc(Port::Ext0, &probe)?, &told)?;
    // And for IPv4 (RFC 5227 section 2.1.1).
    let target = Version::V4.gateway();
    lab.announced(target, true)?;
    let nobody = "0.0.0.0".parse()?;
    let probe = arp([ALL, RIVAL], 1, (RIVAL, nobody), ([0; 6], target));
    is_answered(&lab.tc(Port::Ext0, &probe)?, &arp([RIVAL, own], 2, (own, target), (RIVAL, nobody)))
}

fn any_length(lab: &mut Lab) -> Result<()> {
    let (version, target) = (Version::V6, Version::V6.gateway());
    lab.announced(target, true)?;
    let client = Port::Ext0.peer_mac();
    let nonce = [14, 1, 1, 2, 3, 4, 5, 6];
    for options in [vec![], option([1, 1], client), [&option([1, 1], client)[..], &nonce].concat(), nonce.repeat(20)] {
        let asked = discovery([Port::Ext0.mac(), client], (version.client(), target), 135, 0, target, &options);
        is_answered(&lab.tc(Port::Ext0, &asked)?, &answer(version, target))?;
    }
    Ok(())
}

fn hop_limit(lab: &mut Lab) -> Result<()> {
    let target = Version::V6.gateway();
    lab.announced(target, true)?;
    for frame in [question(Version::V6, target), announcement(Version::V6, RIVAL, target)] {
        let mut routed = frame;
        routed[21] = 254;
        lab.tc(Port::Ext0, &routed)?.untouched();
    }
    ensure!(lab.rival(target)? == [0; 6], "an advertisement from far away was believed");
    Ok(())
}

fn malformed_arp(lab: &mut Lab) -> Result<()> {
    let target = Version::V4.gateway();
    lab.announced(target, true)?;
    let whole = question(Version::V4, target);
    for length in [14, 20, 41] {
        lab.tc(Port::Ext0, &whole[..length])?.untouched();
    }
    // The kinds and lengths of addresses.
    for place in [15, 16, 18, 19] {
        let mut odd = whole.clone();
        odd[place] ^= 0x40;
        lab.tc(Port::Ext0, &odd)?.untouched();
    }
    Ok(())
}

/// TC egress: what the node's own stack asks.
fn asks_with_own(lab: &mut Lab) -> Result<()> {
    let (version, own) = (Version::V4, Port::Ext0.mac());
    let (target, node) = (version.gateway(), Port::Ext0.address(version).context("ext0 has an address")?);
    let asks = |with| arp([ALL, own], 1, (own, with), ([0; 6], version.client()));
    // Of no pool, or held here: as it is.
    lab.egress(Port::Ext0, &asks(target))?.untouched();
    lab.announced(target, true)?;
    lab.egress(Port::Ext0, &asks(target))?.untouched();
    lab.announced(target, false)?;
    let outcome = lab.egress(Port::Ext0, &asks(target))?;
    ensure!(outcome.went() == Went::Next && outcome.frame == asks(node), "{outcome:?}");
    lab.egress(Port::Ext0, &asks(node))?.untouched();
    // An interface without an address has nothing to ask with.
    lab.interfaces(&[])?;
    lab.egress(Port::Ext0, &asks(target))?.untouched();
    Ok(())
}
