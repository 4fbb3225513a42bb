//! What the sweep ends, and what it leaves alone.

use anyhow::Result;
use gateway_common::{
    Config, Reason, flow_state,
    protocol::{TCP, UDP},
};

use crate::answer::reset;
use crate::cases::Cases;
use crate::lab::{Lab, Table, now};
use crate::net::{Port, Version, port_of};
use crate::outcome::Hook;
use crate::scene::{BACKEND, BACKEND_ISN, CLIENT_ISN, Place, Scene};

const C: u32 = CLIENT_ISN + 1;
const B: u32 = BACKEND_ISN.wrapping_add(1);
const SECOND: u64 = 1_000_000_000;

/// All different, and short, so that a test can reach back past each of them.
const IDLE: Config = Config {
    tcp_new: 3 * SECOND,
    tcp_established: 50 * SECOND,
    tcp_half_closed: 20 * SECOND,
    tcp_closed: 7 * SECOND,
    udp_new: 5 * SECOND,
    udp_established: 12 * SECOND,
    events: 0,
    hellos: 0,
    agent_ports: [0; 2],
    workers: 0,
};

pub fn add(cases: &mut Cases) {
    cases.each("sweep/idle_tcp_new", |lab, v| {
        idle(lab, v, IDLE.tcp_new, |lab, scene| scene.start(lab, &scene.opening()))
    });
    cases.each("sweep/idle_tcp_established", |lab, v| idle(lab, v, IDLE.tcp_established, |lab, s| s.establish(lab)));
    cases.each("sweep/idle_tcp_half_closed", |lab, v| {
        idle(lab, v, IDLE.tcp_half_closed, |lab, scene| {
            scene.establish(lab)?;
            scene.client_sends(lab, &scene.up("FA", C, B))
        })
    });
    cases.each("sweep/idle_tcp_closed", |lab, v| {
        idle(lab, v, IDLE.tcp_closed, |lab, scene| {
            scene.establish(lab)?;
            scene.client_sends(lab, &scene.up("FA", C, B))?;
            scene.backend_sends(lab, &scene.down("FA", B, C + 1))
        })
    });
    cases.each("sweep/idle_tcp_reset", |lab, v| {
        idle(lab, v, IDLE.tcp_closed, |lab, scene| {
            scene.establish(lab)?;
            scene.backend_sends(lab, &scene.down("R", B, 0))
        })
    });
    cases.each("sweep/every_packet_says_that_its_half_is_busy", busy_halves);
    cases.each("sweep/one_busy_half_keeps_both", one_busy_half);
    cases.each("sweep/leaves_what_is_in_use", leaves_the_rest);
    cases.each("sweep/udp_of_a_gone_backend_picks_anew", udp_gone);
    cases.each("sweep/embryonic_flows_of_a_gone_backend", embryonic_gone);
    cases.each("sweep/gone_connection_ends_after_its_reset", gone_ends);
    cases.each("sweep/id_of_a_gone_backend_that_is_anothers", id_again);
    cases.each("sweep/silent_gone_connection_expires", gone_expires);
    cases.each("sweep/ended_connection_does_not_come_back", ended);
}

/// A flow lives a second short of its idle time and not a second longer.
fn idle(lab: &mut Lab, version: Version, time: u64, bring: impl Fn(&mut Lab, &mut Scene) -> Result<()>) -> Result<()> {
    for place in [Place::Pod, Place::Remote] {
        lab.reset()?;
        lab.configure(IDLE)?;
        let mut scene = Scene::new(lab, version, TCP, place)?;
        bring(lab, &mut scene)?;
        let before = scene.halves(lab)?;
        scene.age(lab, time - SECOND)?;
        lab.sweep()?;
        let after = scene.halves(lab)?;
        assert_eq!((after.table, after.forward.state), (before.table, before.forward.state));
        scene.age(lab, time + SECOND)?;
        lab.sweep()?;
        scene.gone(lab)?;
    }
    Ok(())
}

fn busy_halves(lab: &mut Lab, version: Version) -> Result<()> {
    for hook in Hook::BOTH {
        for protocol in [TCP, UDP] {
            lab.reset()?;
            lab.xdp_ports(&[Port::Ext0, Port::Ext1])?;
            let mut scene = Scene::new(lab, version, protocol, Place::Remote)?;
            scene.establish(lab)?;
            let down = if protocol == TCP { scene.down("A", B, C) } else { scene.response(b"x") };
            // One more each way, so that XDP finds the routes.
            scene.client_sends(lab, &scene.confirmation())?;
            scene.backend_sends(lab, &down)?;
            scene.age(lab, 20 * SECOND)?;
            scene.age_routes(lab, 0)?;
            let start = now()?;
            lab.run(hook, Port::Ext0, &scene.confirmation().frame())?
                .forwarded(&scene.forwarded(&scene.confirmation()));
            let halves = scene.halves(lab)?;
            assert!(halves.forward.last_seen >= start && halves.reply.last_seen < start, "{hook:?}, {protocol}");
            lab.run(hook, Port::Ext1, &down.frame())?.forwarded(&scene.returned(&down));
            assert!(scene.halves(lab)?.reply.last_seen >= start, "{hook:?}, {protocol}");
        }
    }
    Ok(())
}

/// A download moves one half only; the connection is not idle.
fn one_busy_half(lab: &mut Lab, version: Version) -> Result<()> {
    lab.configure(IDLE)?;
    for protocol in [TCP, UDP] {
        for busy in ["forward", "reply"] {
            let mut scene = Scene::new(lab, version, protocol, Place::Remote)?;
            scene.establish(lab)?;
            let halves = scene.halves(lab)?;
            match busy {
                "forward" => scene.age_one(lab, &scene.reply_key(), halves.reply, 60 * SECOND)?,
                _ => scene.age_one(lab, &scene.forward_key(), halves.forward, 60 * SECOND)?,
            }
            lab.sweep()?;
            assert_eq!(scene.halves(lab)?.table, Table::Flows, "with a busy {busy} half");
            lab.reset()?;
            lab.configure(IDLE)?;
        }
    }
    Ok(())
}

/// Endpoints that are drained stay in BACKENDS, out of every set.
fn leaves_the_rest(lab: &mut Lab, version: Version) -> Result<()> {
    let mut scene = Scene::new(lab, version, TCP, Place::Remote)?;
    scene.establish(lab)?;
    lab.backend(2, Place::Pod.entry(version, TCP, 9_090))?;
    lab.replace_set(scene.set, &[2], &[])?;
    for _ in 0..3 {
        lab.sweep()?;
    }
    assert_eq!(scene.halves(lab)?.forward.state, flow_state::ESTABLISHED);
    scene.client_sends(lab, &scene.up("PA", C, B).data(b"x"))?;
    scene.backend_sends(lab, &scene.down("PA", B, C + 1).data(b"y"))
}

fn udp_gone(lab: &mut Lab, version: Version) -> Result<()> {
    let mut scene = Scene::new(lab, version, UDP, Place::Remote)?;
    scene.establish(lab)?;
    lab.backend(2, Place::Pod.entry(version, UDP, 9_090))?;
    lab.replace_set(scene.set, &[2], &[])?;
    lab.remove_backend(BACKEND)?;
    lab.sweep()?;
    scene.gone(lab)?;
    let request = scene.request(b"anybody else?");
    let wanted = request.clone().to(port_of(version.pod(), 9_090)).hop();
    lab.tc(Port::Ext0, &request.frame())?.forwarded(&wanted);
    Ok(())
}

/// Not confirmed yet, and the endpoint is gone: whatever comes next does not go there.
fn embryonic_gone(lab: &mut Lab, version: Version) -> Result<()> {
    let mut scene = Scene::new(lab, version, TCP, Place::Remote)?;
    scene.start(lab, &scene.opening())?;
    lab.backend(2, Place::Pod.entry(version, TCP, 9_090))?;
    lab.replace_set(scene.set, &[2], &[])?;
    lab.remove_backend(BACKEND)?;
    lab.sweep()?;
    let again = scene.opening();
    let wanted = again.clone().to(port_of(version.pod(), 9_090)).hop();
    lab.tc(Port::Ext0, &again.frame())?.forwarded(&wanted);
    Ok(())
}

fn gone_ends(lab: &mut Lab, version: Version) -> Result<()> {
    for from_client in [true, false] {
        lab.reset()?;
        let mut scene = Scene::new(lab, version, TCP, Place::Remote)?;
        scene.establish(lab)?;
        lab.remove_backend(BACKEND)?;
        lab.sweep()?;
        let (up, down) = (scene.up("PA", C, B).data(b"up"), scene.down("PA", B, C).data(b"down"));
        let client = (Port::Ext0, up);
        let backend = (Port::Ext1, down);
        let (first, second) = if from_client { (client, backend) } else { (backend, client) };
        if !from_client {
            let told = scene.returned(&super::refuse::onward(&scene));
            lab.tc(first.0, &first.1.frame())?.answered(Reason::BackendGone, &told);
        }
        lab.tc(first.0, &first.1.frame())?.answered(Reason::BackendGone, &reset(&first.1));
        // The other side is told at its own next packet, a client that has been told before once more.
        let outcome = lab.tc(second.0, &second.1.frame())?;
        assert_eq!(outcome.reasons.len(), 1, "{:?}", outcome.reasons);
        assert_eq!(outcome.frame[12..], reset(&second.1).frame()[12..]);
    }
    Ok(())
}

/// The id is in BACKENDS, but not for the endpoint that the flow goes to.
fn id_again(lab: &mut Lab, version: Version) -> Result<()> {
    let mut scene = Scene::new(lab, version, TCP, Place::Remote)?;
    scene.establish(lab)?;
    lab.sweep()?;
    assert_eq!(scene.halves(lab)?.forward.state, flow_state::ESTABLISHED);
    lab.backend(BACKEND, Place::Pod.entry(version, TCP, 9_090))?;
    lab.sweep()?;
    assert_eq!(scene.halves(lab)?.forward.state, flow_state::GONE);
    Ok(())
}

fn gone_expires(lab: &mut Lab, version: Version) -> Result<()> {
    lab.configure(IDLE)?;
    let mut scene = Scene::new(lab, version, TCP, Place::Pod)?;
    scene.establish(lab)?;
    lab.remove_backend(BACKEND)?;
    lab.sweep()?;
    assert_eq!(scene.halves(lab)?.forward.state, flow_state::GONE);
    lab.sweep()?;
    assert_eq!(scene.halves(lab)?.forward.state, flow_state::GONE, "it waits for the next packet");
    scene.age(lab, IDLE.tcp_established + SECOND)?;
    lab.sweep()?;
    scene.gone(lab)
}

/// After the flow has expired its packets belong to no connection.
fn ended(lab: &mut Lab, version: Version) -> Result<()> {
    lab.configure(IDLE)?;
    let mut scene = Scene::new(lab, version, TCP, Place::Pod)?;
    scene.establish(lab)?;
    scene.age(lab, IDLE.tcp_established + SECOND)?;
    lab.sweep()?;
    let late = scene.up("PA", C, B).data(b"late");
    lab.tc(Port::Ext0, &late.frame())?.answered(Reason::UnknownConnection, &reset(&late));
    Ok(())
}
