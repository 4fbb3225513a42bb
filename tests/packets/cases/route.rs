//! The way out: what is looked up, what is kept, and which frames XDP takes.

use anyhow::Result;
use gateway_common::{
    Reason,
    protocol::{TCP, UDP},
    route_kind,
};

use crate::answer::{Error, reset};
use crate::cases::Cases;
use crate::lab::{Lab, Table, now};
use crate::net::{EXT1_MTU, Port, Version, ip, port_of};
use crate::outcome::Went;
use crate::packet::Packet;
use crate::scene::{BACKEND, BACKEND_ISN, CLIENT_ISN, Place, Scene};
use crate::wire::Wire;

const C: u32 = CLIENT_ISN + 1;
const B: u32 = BACKEND_ISN.wrapping_add(1);
const SECOND: u64 = 1_000_000_000;

pub fn add(cases: &mut Cases) {
    for place in Place::ALL {
        cases.each(&format!("route/kept_route_writes_the_macs_{place:?}"), move |lab, v| kept(lab, v, place));
        cases.each(&format!("route/xdp_forwards_established_flows_{place:?}"), move |lab, v| xdp(lab, v, place));
        for protocol in [TCP, UDP] {
            let name = if protocol == TCP { "tcp" } else { "udp" };
            cases.each(&format!("route/{name}_frames_arrive_whole_{place:?}"), move |lab, v| {
                on_the_wire(lab, v, protocol, place, &[])
            });
            cases.each(&format!("route/{name}_frames_by_xdp_arrive_whole_{place:?}"), move |lab, v| {
                on_the_wire(lab, v, protocol, place, &[Port::Ext0, Port::Ext1])
            });
        }
    }
    cases.each("route/is_looked_up_again_after_a_second", looked_up_again);
    cases.each("route/that_disappears", disappears);
    cases.each("route/xdp_leaves_the_rest_to_tc", xdp_leaves);
    cases.each("route/peer_of_a_local_pod", peer);
    cases.each("route/answers_arrive_at_the_sender", answers_on_the_wire);
}

fn kept(lab: &mut Lab, version: Version, place: Place) -> Result<()> {
    let mut scene = Scene::new(lab, version, TCP, place)?;
    scene.establish(lab)?;
    // One packet of each side more, and the route of each half is known.
    scene.client_sends(lab, &scene.up("A", C, B))?;
    scene.backend_sends(lab, &scene.down("A", B, C))?;
    scene.age_routes(lab, 0)?;
    let up = scene.up("PA", C, B).data(b"up");
    lab.tc(Port::Ext0, &up.frame())?.forwarded_whole(&scene.forwarded(&up));
    let down = scene.down("PA", B, C).data(b"down");
    lab.tc(place.port(), &down.frame())?.forwarded_whole(&scene.returned(&down));

    let halves = scene.halves(lab)?;
    for (route, port) in [(halves.forward.route, place.port()), (halves.reply.route, Port::Ext0)] {
        assert_eq!((route.kind, route.ifindex), (route_kind::DIRECT, lab.index(port)));
        assert_eq!(route.mtu, if port == Port::Ext1 { EXT1_MTU } else { 1500 });
        assert_eq!(route.macs[..], [port.peer_mac(), port.mac()].concat()[..]);
        assert!(now()? - route.checked < SECOND, "looked up just now");
    }
    Ok(())
}

fn looked_up_again(lab: &mut Lab, version: Version) -> Result<()> {
    let mut scene = Scene::new(lab, version, TCP, Place::Remote)?;
    scene.establish(lab)?;
    scene.client_sends(lab, &scene.up("A", C, B))?;
    let before = scene.halves(lab)?.forward.route.checked;
    scene.age_routes(lab, 2 * SECOND)?;
    scene.client_sends(lab, &scene.up("A", C, B))?;
    let after = scene.halves(lab)?.forward.route.checked;
    assert!(after >= before, "{after} is not after {before}");
    Ok(())
}

/// A connection outlives a route that is away for a while.
fn disappears(lab: &mut Lab, version: Version) -> Result<()> {
    let mut scene = Scene::new(lab, version, TCP, Place::Pod)?;
    scene.establish(lab)?;
    scene.age_routes(lab, 2 * SECOND)?;
    ip(&format!("route del {} dev pod0\n", version.pod()))?;
    let packet = scene.up("PA", C, B).data(b"x");
    let outcome = lab.tc(Port::Ext0, &packet.frame());
    ip(&format!("route add {} dev pod0\n", version.pod()))?;
    let outcome = outcome?;
    assert_eq!(outcome.reasons, [Reason::NoRoute]);
    assert_ne!(outcome.went(), Went::Next);
    scene.client_sends(lab, &packet)?;
    assert_eq!(scene.halves(lab)?.table, Table::Flows);
    Ok(())
}

fn xdp(lab: &mut Lab, version: Version, place: Place) -> Result<()> {
    lab.xdp_ports(&[Port::Ext0, Port::Ext1])?;
    for protocol in [TCP, UDP] {
        lab.reset()?;
        lab.xdp_ports(&[Port::Ext0, Port::Ext1])?;
        let mut scene = Scene::new(lab, version, protocol, place)?;
        scene.establish(lab)?;
        for _ in 0..2 {
            scene.client_sends(lab, &scene.confirmation())?;
            let answer = if protocol == TCP { scene.down("A", B, C) } else { scene.response(b"y") };
            scene.backend_sends(lab, &answer)?;
        }
        let before = scene.halves(lab)?.forward;
        for length in [0, 1, 2, 513, 1200] {
            scene.age_routes(lab, 0)?;
            let data = vec![0xee; length];
            let (up, down) = match protocol {
                TCP => (scene.up("PA", C, B).data(&data), scene.down("PA", B, C).data(&data)),
                _ => (scene.request(&data), scene.response(&data)),
            };
            let outcome = lab.xdp(Port::Ext0, &up.frame())?;
            // Pods are behind interfaces that are not in XDP_PORTS.
            if place == Place::Pod {
                outcome.untouched()
            } else {
                outcome.forwarded_whole(&scene.forwarded(&up))
            }
            if place != Place::Pod {
                lab.xdp(place.port(), &down.frame())?.forwarded_whole(&scene.returned(&down));
            }
        }
        let after = scene.halves(lab)?.forward;
        let taken = if place == Place::Pod { 0 } else { 5 };
        assert_eq!(after.packets - before.packets, taken, "packets that XDP forwards count as well");
    }
    Ok(())
}

fn xdp_leaves(lab: &mut Lab, version: Version) -> Result<()> {
    lab.xdp_ports(&[Port::Ext0, Port::Ext1])?;
    let mut scene = Scene::new(lab, version, TCP, Place::Remote)?;
    let syn = scene.opening();
    lab.xdp(Port::Ext0, &syn.frame())?.untouched();
    scene.start(lab, &syn)?;
    for packet in [scene.opening(), scene.confirmation(), scene.up("R", C, 0)] {
        lab.xdp(Port::Ext0, &packet.frame())?.untouched();
    }
    lab.xdp(Port::Ext1, &scene.opening_answer().frame())?.untouched();
    scene.backend_sends(lab, &scene.opening_answer())?;
    scene.client_sends(lab, &scene.confirmation())?;
    scene.client_sends(lab, &scene.confirmation())?;
    // What changes the state, what cannot be sent on, and what must be looked up again.
    for packet in [scene.up("FA", C, B), scene.up("R", C, 0), scene.up("S", C, 0), scene.up("A", C, B).ttl(1)] {
        lab.xdp(Port::Ext0, &packet.frame())?.untouched();
    }
    let fragments = scene.up("PA", C, B).data(&[1; 1000]).fragments(1, &[504]);
    for frame in &fragments {
        lab.xdp(Port::Ext0, frame)?.untouched();
    }
    scene.age_routes(lab, 2 * SECOND)?;
    lab.xdp(Port::Ext0, &scene.up("A", C, B).frame())?.untouched();
    scene.client_sends(lab, &scene.up("A", C, B))?;
    scene.age_routes(lab, 0)?;
    let packet = scene.up("A", C, B);
    lab.xdp(Port::Ext0, &packet.frame())?.forwarded_whole(&scene.forwarded(&packet));
    // The way out takes no XDP frames any longer.
    lab.xdp_ports(&[Port::Ext0])?;
    lab.xdp(Port::Ext0, &packet.frame())?.untouched();
    Ok(())
}

fn peer(lab: &mut Lab, version: Version) -> Result<()> {
    let mut scene = Scene::new(lab, version, TCP, Place::Pod)?;
    let mut entry = Place::Pod.entry(version, TCP, scene.backend.port());
    entry.ifindex = lab.index(Port::Pod0);
    lab.backend(BACKEND, entry)?;
    scene.establish(lab)?;
    scene.client_sends(lab, &scene.up("A", C, B))?;
    scene.age_routes(lab, 0)?;
    let up = scene.up("PA", C, B).data(b"into the pod");
    lab.tc(Port::Ext0, &up.frame())?.forwarded_whole(&scene.forwarded(&up));
    let halves = scene.halves(lab)?;
    assert_eq!((halves.forward.route.kind, halves.forward.route.ifindex), (route_kind::PEER, lab.index(Port::Pod0)));
    assert_ne!(halves.reply.route.kind, route_kind::PEER);
    Ok(())
}

/// Through attached programs, over the wire, to the other host: MAC addresses and all, whatever the kind of redirect.
fn on_the_wire(lab: &mut Lab, version: Version, protocol: u8, place: Place, xdp: &[Port]) -> Result<()> {
    lab.attach()?;
    lab.xdp_ports(xdp)?;
    let mut scene = Scene::new(lab, version, protocol, place)?;
    let mut client = Wire::open(Port::Ext0)?;
    let mut backend = if place == Place::Near { None } else { Some(Wire::open(place.port())?) };

    let opening = scene.opening();
    client.send(&opening.frame())?;
    let got = backend.as_mut().unwrap_or(&mut client).received(1);
    assert_eq!(got.len(), 1, "{got:02x?}");
    if scene.peer.port() == 0 {
        let at = 14 + version.header();
        scene.peer.set_port(u16::from_be_bytes([got[0][at], got[0][at + 1]]));
    }
    assert_eq!(got[0], scene.forwarded(&opening).frame());
    let (up, down) = match protocol {
        TCP => (scene.up("PA", C, B).data(b"up"), scene.down("PA", B, C).data(b"down")),
        _ => (scene.request(b"up"), scene.response(b"down")),
    };
    let exchange: [(Packet, bool); 6] = [
        (scene.opening_answer(), false),
        (scene.confirmation(), true),
        (up.clone(), true),
        (down.clone(), false),
        (up, true),
        (down, false),
    ];
    for (packet, from_client) in exchange {
        let wanted = if from_client { scene.forwarded(&packet) } else { scene.returned(&packet) };
        match &mut backend {
            None => {
                client.send(&packet.frame())?;
                client.expect(&[wanted.frame()]);
            }
            Some(backend) if from_client => {
                client.send(&packet.frame())?;
                backend.expect(&[wanted.frame()]);
            }
            Some(backend) => {
                backend.send(&packet.frame())?;
                client.expect(&[wanted.frame()]);
            }
        }
    }
    assert_eq!(scene.halves(lab)?.table, Table::Flows);
    Ok(())
}

fn answers_on_the_wire(lab: &mut Lab, version: Version) -> Result<()> {
    lab.attach()?;
    let scene = Scene::new(lab, version, TCP, Place::Pod)?;
    let mut client = Wire::open(Port::Ext0)?;
    let syn = scene.opening().to(port_of(version.gateway(), 81));
    client.send(&syn.frame())?;
    client.expect(&[reset(&syn).frame()]);

    let request =
        scene.request(b"hello").to(port_of(version.gateway(), 81)).macs(Port::Ext0.peer_mac(), Port::Ext0.mac());
    client.send(&request.frame())?;
    let got = client.received(1);
    assert_eq!(got.len(), 1, "{got:02x?}");
    let quoted = got[0].len() - 14 - version.header() - 8;
    let (kind, code, rest) = Error::PortUnreachable.header(request.is_v4());
    let answer = Packet::icmp(request.destination, request.source, kind, code, rest, &request.ip_packet()[..quoted]);
    let answer = Packet { id: 0, ..answer }.macs(Port::Ext0.mac(), Port::Ext0.peer_mac());
    assert_eq!(got[0], answer.frame());
    Ok(())
}
