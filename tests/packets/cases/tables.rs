//! Tables that run full, ports that run out, and floods.

use std::net::{IpAddr, Ipv6Addr};

use anyhow::Result;
use gateway_common::{
    Flow, FlowKey, Reason, flow_flags, flow_state, names,
    protocol::{TCP, UDP},
};

use crate::answer::{Error, reset};
use crate::cases::Cases;
use crate::lab::{Lab, Table, now};
use crate::net::{Port, Version, map_address, port_of};
use crate::outcome::Went;
use crate::scene::{BACKEND, CLIENT_ISN, Place, Scene, key};

pub fn add(cases: &mut Cases) {
    for (table, name) in [(Table::Flows, "established"), (Table::Embryonic, "embryonic")] {
        cases.each(&format!("tables/ports_exhausted_by_{name}_flows"), move |lab, v| ports_exhausted(lab, v, table));
    }
    cases.each("tables/ports_of_many_connections", many_ports);
    cases.each("tables/port_of_another_connection_is_not_taken", port_taken);
    cases.each("tables/port_of_an_orphaned_half_is_taken_over", orphan);
    cases.each("tables/same_client_port_through_two_listeners_to_one_pod", two_listeners);
    for protocol in [TCP, UDP] {
        let name = if protocol == TCP { "tcp" } else { "udp" };
        cases.each(&format!("tables/{name}_evicted_reply_half"), move |lab, v| evicted(lab, v, protocol, true));
        cases.each(&format!("tables/{name}_evicted_forward_half"), move |lab, v| evicted(lab, v, protocol, false));
    }
    cases.one("tables/flows_full", flows_full);
    cases.one("tables/flood_evicts_no_established_flow", flood);
    cases.one("tables/events_full", crate::cases::events::full);
}

/// The ports a gateway may take.
fn ports() -> impl Iterator<Item = u16> {
    (1_024..=32_767).chain(61_000..=65_535)
}

fn taken(scene: &Scene, port: u16) -> Result<(FlowKey, Flow)> {
    let peer = port_of(scene.peer.ip(), port);
    let flow = Flow {
        source: map_address(scene.gateway.ip()),
        destination: map_address(scene.client.ip()),
        source_port: scene.gateway.port(),
        destination_port: 9,
        backend: BACKEND,
        listener: scene.listener,
        state: flow_state::ESTABLISHED,
        flags: flow_flags::REPLY,
        last_seen: now()?,
        ..Flow::default()
    };
    Ok((key(scene.backend, peer, scene.protocol), flow))
}

/// The forward half of all that are [`taken`].
fn takers(scene: &Scene) -> Result<(FlowKey, Flow)> {
    let client = port_of(scene.client.ip(), 9);
    let (_, flow) = taken(scene, 9)?;
    Ok((key(client, scene.gateway, scene.protocol), Flow { flags: 0, ..flow }))
}

fn ports_exhausted(lab: &mut Lab, version: Version, table: Table) -> Result<()> {
    // EMBRYONIC has room for some of the ports only.
    for protocol in [TCP, UDP] {
        lab.reset()?;
        let scene = Scene::new(lab, version, protocol, Place::Remote)?;
        for port in ports() {
            let (key, flow) = taken(&scene, port)?;
            lab.put_flow(if table == Table::Embryonic && port < 20_000 { table } else { Table::Flows }, &key, &flow)?;
        }
        let (key, flow) = takers(&scene)?;
        lab.put_flow(Table::Flows, &key, &flow)?;
        let before = lab.flows(Table::Embryonic)?.len();
        let packet = scene.opening();
        let outcome = lab.tc(Port::Ext0, &packet.frame())?;
        if protocol == TCP {
            outcome.answered(Reason::PortsExhausted, &reset(&packet));
        } else {
            outcome.answered_with(Reason::PortsExhausted, Error::PortUnreachable, &packet);
        }
        assert_eq!(lab.flow(&scene.forward_key())?, None, "no half is left behind");
        assert_eq!(lab.flows(Table::Embryonic)?.len(), before);
        // Towards another backend the same ports are free.
        lab.backend(2, Place::Remote.entry(version, protocol, 9_090))?;
        lab.replace_set(scene.set, &[2], &[])?;
        assert_eq!(lab.tc(Port::Ext0, &scene.client_port(40_001).opening().frame())?.went(), Went::Out);
    }
    Ok(())
}

/// Every connection has a port of its own, from both ranges. ([`Scene::learn`] looks at each.)
fn many_ports(lab: &mut Lab, version: Version) -> Result<()> {
    let scene = Scene::new(lab, version, TCP, Place::Remote)?;
    let mut ports = std::collections::BTreeSet::new();
    for n in 0..500 {
        let mut scene = scene.client_port(10_000 + n);
        scene.start(lab, &scene.opening())?;
        assert!(ports.insert(scene.peer.port()), "port {} twice", scene.peer.port());
    }
    assert!(ports.iter().any(|port| *port < 32_768) && ports.iter().any(|port| *port > 60_999));
    Ok(())
}

/// The port where the search starts is in use: another one is found.
fn port_taken(lab: &mut Lab, version: Version) -> Result<()> {
    for table in [Table::Flows, Table::Embryonic] {
        lab.reset()?;
        let mut scene = Scene::new(lab, version, TCP, Place::Remote)?;
        let opening = scene.opening();
        scene.start(lab, &opening)?;
        let first = scene.peer.port();

        lab.reset()?;
        let mut scene = Scene::new(lab, version, TCP, Place::Remote)?;
        let (forward, flow) = takers(&scene)?;
        lab.put_flow(table, &forward, &flow)?;
        let (key, flow) = taken(&scene, first)?;
        lab.put_flow(table, &key, &flow)?;
        scene.start(lab, &opening)?;
        assert_ne!(scene.peer.port(), first);
        let (_, kept) = lab.flow(&key)?.expect("the other connection is still there");
        assert_eq!(kept.destination_port, 9, "the other connection's half is as it was");
    }
    Ok(())
}

/// A flood evicts forward halves; the reply halves that are left must not use up the ports.
fn orphan(lab: &mut Lab, version: Version) -> Result<()> {
    let mut scene = Scene::new(lab, version, TCP, Place::Remote)?;
    let opening = scene.opening();
    scene.start(lab, &opening)?;
    let first = scene.peer.port();

    lab.reset()?;
    let mut scene = Scene::new(lab, version, TCP, Place::Remote)?;
    let (key, flow) = taken(&scene, first)?;
    lab.put_flow(Table::Embryonic, &key, &flow)?;
    scene.start(lab, &opening)?;
    assert_eq!(scene.peer.port(), first);
    let (_, half) = lab.flow(&key)?.expect("the new connection's half");
    assert_eq!(half.destination_port, scene.client.port());
    Ok(())
}

/// DNAT alone would give both connections the same 5-tuple towards the pod.
fn two_listeners(lab: &mut Lab, version: Version) -> Result<()> {
    let mut one = Scene::new(lab, version, TCP, Place::Pod)?;
    one.establish(lab)?;
    let gateway = port_of(version.gateway(), 8_000);
    lab.listener(gateway, TCP, one.set)?;
    let syn = one.opening().to(gateway);
    let outcome = lab.tc(Port::Ext0, &syn.frame())?;
    // Another source, or a refusal; never the first connection's packets to the second's client.
    if outcome.went() == Went::Out && outcome.reasons.is_empty() {
        let at = 14 + version.header();
        let port = u16::from_be_bytes([outcome.frame[at], outcome.frame[at + 1]]);
        let peer = port_of(Place::Pod.source(version), port);
        outcome.forwarded(&syn.clone().from(peer).to(one.backend).hop());
    }
    one.client_sends(lab, &one.confirmation())?;
    one.backend_sends(lab, &one.down("A", 1, CLIENT_ISN + 1))?;
    Ok(())
}

/// A flood may push one half of a new flow out of EMBRYONIC and leave the other: the client's next try must work.
fn evicted(lab: &mut Lab, version: Version, protocol: u8, reply: bool) -> Result<()> {
    for place in Place::ALL {
        lab.reset()?;
        let mut scene = Scene::new(lab, version, protocol, place)?;
        let first_peer = scene.peer;
        scene.start(lab, &scene.opening())?;
        let key = if reply { scene.reply_key() } else { scene.forward_key() };
        lab.remove_flow(Table::Embryonic, &key)?;
        scene.peer = first_peer;
        scene.start(lab, &scene.opening())?;
        scene.backend_sends(lab, &scene.opening_answer())?;
        scene.client_sends(lab, &scene.confirmation())?;
        assert_eq!(scene.halves(lab)?.table, Table::Flows, "{place:?}");
    }
    Ok(())
}

fn flows_full(_: &mut Lab) -> Result<()> {
    // An odd number: of the last flow there is room for one half.
    let mut lab = Lab::with_sizes(&[(names::FLOWS, 7)])?;
    for version in Version::ALL {
        for protocol in [TCP, UDP] {
            lab.reset()?;
            let scene = Scene::new(&mut lab, version, protocol, Place::Remote)?;
            let mut established = 0;
            let mut refused = 0;
            for n in 0..10 {
                let mut scene = scene.client_port(40_000 + n);
                scene.start(&mut lab, &scene.opening())?;
                scene.backend_sends(&mut lab, &scene.opening_answer())?;
                let confirmation = scene.confirmation();
                let outcome = lab.tc(Port::Ext0, &confirmation.frame())?;
                if outcome.reasons.is_empty() {
                    outcome.forwarded(&scene.forwarded(&confirmation));
                    established += 1;
                    continue;
                }
                refused += 1;
                if protocol == TCP {
                    outcome.answered(Reason::FlowTableFull, &reset(&confirmation));
                } else {
                    outcome.answered_with(Reason::FlowTableFull, Error::PortUnreachable, &confirmation);
                }
                let flows = lab.flows(Table::Flows)?;
                assert!(!flows.iter().any(|(key, _)| *key == scene.forward_key() || *key == scene.reply_key()));
            }
            assert!(refused > 0, "a table for four flows took ten");
            assert_eq!(lab.flows(Table::Flows)?.len(), 2 * established, "both halves or neither");
        }
    }
    Ok(())
}

/// SYNs and datagrams from addresses nobody has.
fn flood(_: &mut Lab) -> Result<()> {
    let mut lab = Lab::with_sizes(&[(names::EMBRYONIC, 256)])?;
    let version = Version::V6;
    let mut tcp = Scene::new(&mut lab, version, TCP, Place::Remote)?;
    tcp.establish(&mut lab)?;
    let udp_listener = lab.listener(tcp.gateway, UDP, tcp.set)?;
    let mut udp =
        Scene { protocol: UDP, listener: udp_listener, client: port_of(tcp.client.ip(), 40_500), ..tcp.clone() };
    udp.peer.set_port(0);
    udp.establish(&mut lab)?;
    for n in 0..4_000_u32 {
        let source = IpAddr::V6(Ipv6Addr::from(0x2001_0db8_0000_0000_0000_0000_0001_0000 + u128::from(n)));
        for packet in [tcp.opening(), tcp.up("A", CLIENT_ISN + 1, n), udp.request(b"flood"), udp.request(b"again")] {
            let port = 40_000;
            lab.tc(Port::Ext0, &packet.from(port_of(source, port)).frame())?;
        }
    }
    assert_eq!(lab.flows(Table::Flows)?.len(), 4);
    tcp.client_sends(&mut lab, &tcp.confirmation())?;
    udp.client_sends(&mut lab, &udp.request(b"still here"))?;
    udp.backend_sends(&mut lab, &udp.response(b"me too"))?;
    // And a new honest client gets in while it goes on.
    let mut honest = tcp.client_port(41_000);
    honest.peer.set_port(0);
    honest.establish(&mut lab)
}
