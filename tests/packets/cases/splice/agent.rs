//! The agent as one more backend: its sockets are on the node, and `egress_tc` translates what they say.

use std::net::SocketAddr;

use anyhow::{Context, Result};
use gateway_common::{
    Backend, Config, FlowKey, HELLO_BYTES, Reason, SniName, agent_backend, backend_flags, flow_flags, flow_state,
    protocol::TCP, sni_mode,
};

use crate::answer::reset;
use crate::cases::Cases;
use crate::hello::hello;
use crate::lab::{Lab, Table};
use crate::net::{Port, Version, map_address, port_of};
use crate::packet::Packet;
use crate::scene::{Place, key};
use crate::segment::Segment;
use crate::tls::{BACKEND_ISN, NAME, Tls, shifted};

const AGENT_PORT: u16 = 30_443;

pub fn add(cases: &mut Cases) {
    cases.each("splice/agent/name_that_ends_here", whole_life);
    cases.each("splice/agent/hello_that_is_larger_than_what_is_kept", oversized);
    cases.each("splice/agent/hello_of_many_extensions", many_extensions);
    cases.each("splice/agent/one_port_of_a_client_to_two_gateways", collision);
    cases.each("splice/agent/all_its_ports_taken", exhausted);
    cases.each("splice/agent/refuses", refuses);
    cases.each("splice/agent/is_not_there", absent);
    cases.each("splice/agent/what_the_node_sends_otherwise", others);
    cases.each("splice/agent/sack_blocks_of_both", sack);
}

/// A name that the agent takes.
fn terminating(lab: &mut Lab, version: Version) -> Result<Tls> {
    // The agent's socket answers on the interface that the client is on, like a backend there that keeps the client's address.
    let mut tls = Tls::new(lab, version, Place::Near)?;
    let agent = port_of(version.gateway(), AGENT_PORT);
    let id = if version == Version::V4 { agent_backend::V4 } else { agent_backend::V6 };
    let backend = Backend {
        address: map_address(agent.ip()),
        source: map_address(agent.ip()),
        port: agent.port(),
        flags: backend_flags::AGENT,
        protocol: TCP,
        ..Backend::default()
    };
    lab.backend(id, backend)?;
    lab.configure(Config { agent_ports: [AGENT_PORT, 0], ..Config::default() })?;
    let value = SniName { listener: tls.by_name, mode: sni_mode::TERMINATE, ..SniName::default() };
    lab.server_name(tls.gateway, NAME, value)?;
    tls.backends = vec![agent];
    tls.peer = tls.client;
    Ok(tls)
}

/// The segment that the agent's socket gets is the gateway's own.
#[track_caller]
fn syn_to_agent(lab: &mut Lab, tls: &mut Tls, packet: &Packet) -> Result<Segment> {
    let outcome = lab.tc(Port::Ext0, &packet.frame())?;
    assert_eq!(outcome.reasons, []);
    let syn = Segment::read(&outcome.frame)?;
    assert_eq!(syn.offer()?, tls.offer_to_backend());
    tls.backends = vec![syn.to];
    let wanted = tls.own_to_backend("S", -1, 0, shifted(tls.window, 7)).header(|h| {
        h.acknowledgment_number = 0;
        h.set_options_raw(&syn.options).expect("as they were");
    });
    outcome.passed(&wanted);
    Ok(syn)
}

/// What the agent's socket sends.
fn says(tls: &Tls, flags: &str, position: u32, acknowledged: u32) -> Packet {
    let packet = tls.down(flags, position, acknowledged);
    packet.macs(Port::Ext0.mac(), Port::Ext0.peer_mac())
}

/// As the client gets it.
fn heard(tls: &Tls, packet: &Packet) -> Packet {
    tls.returned(packet)
}

/// As the agent gets it.
fn got(tls: &Tls, packet: &Packet) -> Packet {
    tls.forwarded(packet)
}

/// Up to the hello being the agent's; answers its length.
#[track_caller]
fn establish(lab: &mut Lab, tls: &mut Tls, bytes: &[u8]) -> Result<u32> {
    tls.opened(lab)?;
    syn_to_agent(lab, tls, &tls.up("PA", 0, 0).data(bytes))?;
    replay(lab, tls, bytes)
}

#[track_caller]
fn replay(lab: &mut Lab, tls: &Tls, bytes: &[u8]) -> Result<u32> {
    let syn_ack = tls.syn_ack().macs(Port::Ext0.mac(), Port::Ext0.peer_mac());
    // It turns round before it leaves the node.
    let outcome = lab.egress(Port::Ext0, &syn_ack.frame())?;
    outcome.forwarded(&tls.first_piece(bytes));
    let length = bytes.len() as u32;
    let ack = says(tls, "A", 0, length);
    lab.egress(Port::Ext0, &ack.frame())?.passed(&heard(tls, &ack));
    let (_, forward) = lab.flow(&tls.forward_key())?.context("no flow")?;
    assert_eq!(forward.state, flow_state::ESTABLISHED);
    assert_ne!(forward.flags & flow_flags::AGENT, 0);
    Ok(length)
}

fn whole_life(lab: &mut Lab, version: Version) -> Result<()> {
    let mut tls = terminating(lab, version)?;
    let bytes = tls.hello();
    let length = establish(lab, &mut tls, &bytes)?;
    for i in 0..3 {
        let data = says(&tls, "PA", 1_000 * i, length + i).data(&[0x17; 1_000]);
        lab.egress(Port::Ext0, &data.frame())?.passed(&heard(&tls, &data));
        let data = tls.up("PA", length + i, 1_000 * (i + 1)).data(b"x");
        lab.tc(Port::Ext0, &data.frame())?.passed(&got(&tls, &data));
    }
    let fin = says(&tls, "FA", 3_000, length + 3);
    lab.egress(Port::Ext0, &fin.frame())?.passed(&heard(&tls, &fin));
    let fin = tls.up("FA", length + 3, 3_001);
    lab.tc(Port::Ext0, &fin.frame())?.passed(&got(&tls, &fin));
    let (table, forward) = lab.flow(&tls.forward_key())?.context("no flow")?;
    assert_eq!((table, forward.state), (Table::Embryonic, flow_state::CLOSED));
    let last = says(&tls, "A", 3_001, length + 4);
    lab.egress(Port::Ext0, &last.frame())?.passed(&heard(&tls, &last));
    let counter = lab.listener_counter(tls.by_name)?;
    assert_eq!((counter.picked, counter.established, counter.closed), (1, 1, 1));
    assert_eq!(lab.server_name_entry(tls.gateway, NAME)?.hits, 1);
    Ok(())
}

/// Nothing is refused for its size: the agent reads on.
fn oversized(lab: &mut Lab, version: Version) -> Result<()> {
    let mut tls = terminating(lab, version)?;
    // The name comes after more than is kept.
    let bytes = hello(NAME).padded_before(12_000).bytes();
    tls.opened(lab)?;
    let mut at = 0;
    let syn = loop {
        let packet = tls.up("A", at as u32, 0).data(&bytes[at..at + 1_000]);
        at += 1_000;
        assert!(at <= HELLO_BYTES, "the stash is full, and nobody reads on");
        if at > HELLO_BYTES - 1_024 {
            break syn_to_agent(lab, &mut tls, &packet)?;
        }
        lab.tc(Port::Ext0, &packet.frame())?.replied(&tls.acknowledgement(at as u32));
    };
    assert_eq!(syn.to.port(), AGENT_PORT);
    let (_, kept) = lab.hello(&tls.forward_key())?.context("no slot")?;
    assert_eq!(kept.bytes[..at], bytes[..at]);
    Ok(())
}

fn many_extensions(lab: &mut Lab, version: Version) -> Result<()> {
    let mut tls = terminating(lab, version)?;
    let hello = (0..200).fold(hello(NAME), |hello, kind| hello.preceded(crate::hello::extension(0x7000 + kind, &[])));
    tls.opened(lab)?;
    let packet = tls.up("PA", 0, 0).data(&hello.bytes());
    syn_to_agent(lab, &mut tls, &packet)?;
    Ok(())
}

/// The agent's socket tells its peers apart by address and port, and not by the Gateway that they asked for.
fn collision(lab: &mut Lab, version: Version) -> Result<()> {
    let mut first = terminating(lab, version)?;
    let bytes = first.hello();
    establish(lab, &mut first, &bytes)?;
    let mut ports = vec![first.backends[0].port()];
    for gateway in 1..agent_backend::PORTS {
        let mut other = first.clone();
        other.gateway.set_port(8_000 + gateway);
        other.isn = first.isn.wrapping_add(u32::from(gateway) * 7_777);
        lab.tls_listener(other.gateway, 0, 1500)?;
        let value = SniName { listener: other.by_name, mode: sni_mode::TERMINATE, ..SniName::default() };
        lab.server_name(other.gateway, NAME, value)?;
        establish(lab, &mut other, &bytes)?;
        ports.push(other.backends[0].port());
    }
    let wanted: Vec<u16> = (AGENT_PORT..AGENT_PORT + agent_backend::PORTS).collect();
    ports.sort();
    assert_eq!(ports, wanted);
    Ok(())
}

fn exhausted(lab: &mut Lab, version: Version) -> Result<()> {
    let mut tls = terminating(lab, version)?;
    let mut other = tls.client_port(50_000);
    other.peer = other.client;
    let bytes = tls.hello();
    establish(lab, &mut other, &bytes)?;
    let (_, template) = lab.flow(&other.forward_key())?.context("no flow")?;
    for port in AGENT_PORT..AGENT_PORT + agent_backend::PORTS {
        let agent = SocketAddr::new(tls.backends[0].ip(), port);
        let key: FlowKey = key(agent, tls.client, TCP);
        lab.put_flow(Table::Flows, &key, &template)?;
    }
    tls.opened(lab)?;
    let packet = tls.up("PA", 0, 0).data(&bytes);
    lab.tc(Port::Ext0, &packet.frame())?.answered(Reason::PortsExhausted, &reset(&packet));
    assert_eq!(lab.flow(&tls.forward_key())?, None);
    Ok(())
}

/// Its socket is there but does not take it: the client is told, and never waits.
fn refuses(lab: &mut Lab, version: Version) -> Result<()> {
    let mut tls = terminating(lab, version)?;
    let bytes = tls.hello();
    tls.opened(lab)?;
    let packet = tls.up("PA", 0, 0).data(&bytes);
    syn_to_agent(lab, &mut tls, &packet)?;
    let mut tries = 1;
    loop {
        let refusal = tls.sent_by_backend("RA", 0, tls.client_seq(0)).macs(Port::Ext0.mac(), Port::Ext0.peer_mac());
        let outcome = lab.egress(Port::Ext0, &refusal.frame())?;
        let segment = Segment::read(&outcome.frame)?;
        if outcome.reasons == [Reason::BackendSilent] {
            assert_eq!((segment.from, segment.to), (tls.gateway, tls.client));
            assert_eq!(segment.payload, crate::hello::alert(crate::hello::description::INTERNAL_ERROR));
            assert!(segment.has('F'));
            break;
        }
        // It may be on its way up: the SYN again.
        assert!(segment.has('S') && segment.to.ip() == tls.backends[0].ip(), "{segment:?}");
        tls.backends = vec![segment.to];
        tries += 1;
        assert!(tries <= 3, "it is asked for ever");
    }
    Ok(())
}

fn absent(lab: &mut Lab, version: Version) -> Result<()> {
    let mut tls = terminating(lab, version)?;
    lab.remove_backend(if version == Version::V4 { agent_backend::V4 } else { agent_backend::V6 })?;
    tls.opened(lab)?;
    let packet = tls.up("PA", 0, 0).data(&tls.hello());
    lab.tc(Port::Ext0, &packet.frame())?.answered(Reason::NoBackend, &reset(&packet));
    tls.nothing(lab)
}

/// Only what belongs to a connection that is spliced to the agent is touched.
fn others(lab: &mut Lab, version: Version) -> Result<()> {
    let mut tls = terminating(lab, version)?;
    let bytes = tls.hello();
    let length = establish(lab, &mut tls, &bytes)?;
    let mine = says(&tls, "PA", 0, length).data(b"data");
    let ssh = port_of(version.node(), 22);
    for packet in [
        mine.clone().from(ssh),
        mine.clone().to(port_of(version.other_client(), 40_000)),
        mine.clone().to(port_of(version.client(), 40_001)),
        Packet::udp(tls.backends[0], tls.client, b"datagram").macs(Port::Ext0.mac(), Port::Ext0.peer_mac()),
    ] {
        lab.egress(Port::Ext0, &packet.frame())?.untouched();
    }
    // A connection to a backend elsewhere is translated where it comes in, not where it leaves.
    lab.reset()?;
    let mut tls = Tls::new(lab, version, Place::Near)?;
    let length = tls.established(lab)?;
    let forwarded = tls.forwarded(&tls.up("PA", length, 0).data(b"data"));
    lab.egress(Port::Ext0, &forwarded.frame())?.untouched();
    lab.egress(Port::Ext0, &tls.down("PA", 0, length).data(b"data").frame())?.untouched();
    Ok(())
}

fn sack(lab: &mut Lab, version: Version) -> Result<()> {
    let mut tls = terminating(lab, version)?;
    let bytes = tls.hello();
    let length = establish(lab, &mut tls, &bytes)?;
    let option = |left: u32, right: u32| [&[1, 1, 5, 10][..], &left.to_be_bytes(), &right.to_be_bytes()].concat();
    let with =
        |packet: Packet, options: &[u8]| packet.header(|h| h.set_options_raw(options).expect("40 bytes at most"));
    let first = tls.cookie.wrapping_add(1);
    let packet = with(tls.up("A", length, 0), &option(first.wrapping_add(500), first.wrapping_add(900)));
    let agents = BACKEND_ISN.wrapping_add(1);
    let wanted = with(tls.up("A", length, 0), &option(agents.wrapping_add(500), agents.wrapping_add(900)));
    lab.tc(Port::Ext0, &packet.frame())?.passed(&got(&tls, &wanted));
    let packet = with(says(&tls, "A", 0, length), &option(tls.client_seq(700), tls.client_seq(800)));
    lab.egress(Port::Ext0, &packet.frame())?.passed(&heard(&tls, &packet));
    Ok(())
}
