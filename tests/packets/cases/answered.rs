//! Listeners that the agent answers (kind L7): their connections are the node's own, and the programs leave them to its stack.

use std::net::{TcpListener, TcpStream};

use anyhow::{Context, Result};
use gateway_common::Reason;
use gateway_common::protocol::TCP;

use crate::answer::reset;
use crate::cases::Cases;
use crate::lab::{Lab, Table};
use crate::net::{Port, Version, port_of};
use crate::outcome::Hook;
use crate::packet::Packet;
use crate::scene::{Place, Scene};

pub fn add(cases: &mut Cases) {
    for hook in Hook::BOTH {
        let mut add = |name: &str, case: fn(&mut Lab, Version, Hook) -> Result<()>| {
            cases.each(&format!("answered/{name}_{hook:?}"), move |lab, v| case(lab, v, hook));
        };
        add("everything_is_the_stacks", stack);
        add("connections_of_a_listener_that_went", went);
        add("connections_of_a_listener_that_became_a_tcp_listener", other_kind);
        add("connections_of_a_listener_that_lets_tls_pass_now", passes_tls);
    }
}

/// What opens a connection, belongs to one or to none.
fn stack(lab: &mut Lab, version: Version, hook: Hook) -> Result<()> {
    let scene = Scene::new(lab, version, TCP, Place::Pod)?;
    let at = port_of(version.gateway(), 8000);
    lab.answered_listener(at)?;
    for flags in ["S", "SA", "A", "PA", "FA", "R", ""] {
        let packet = scene.up(flags, 1, 2).to(at).data(b"GET");
        lab.run(hook, Port::Ext0, &packet.frame())?.untouched();
    }
    assert_eq!(lab.flows(Table::Embryonic)?.len() + lab.flows(Table::Flows)?.len(), 0);
    Ok(())
}

fn went(lab: &mut Lab, version: Version, hook: Hook) -> Result<()> {
    lab.exclusive(version.node())?;
    left_behind(lab, version, hook, Reason::NoListener)
}

fn other_kind(lab: &mut Lab, version: Version, hook: Hook) -> Result<()> {
    let set = lab.set(&[], &[])?;
    lab.listener(port_of(version.node(), PORT), TCP, set)?;
    left_behind(lab, version, hook, Reason::UnknownConnection)
}

fn passes_tls(lab: &mut Lab, version: Version, hook: Hook) -> Result<()> {
    lab.tls_listener(port_of(version.node(), PORT), 0, 0)?;
    left_behind(lab, version, hook, Reason::UnknownConnection)
}

const PORT: u16 = 8001;

/// What belongs to a socket of the node goes there; what does not is refused for this reason.
fn left_behind(lab: &mut Lab, version: Version, hook: Hook, reason: Reason) -> Result<()> {
    let scene = Scene::new(lab, version, TCP, Place::Pod)?;
    let at = port_of(version.node(), PORT);
    let listener = TcpListener::bind(at).context("the lab's namespace has no such address")?;
    let client = TcpStream::connect(at)?;
    let server = listener.accept()?.0;
    // Nobody listens any more.
    drop(listener);
    let segment = |from, flags| scene.sent_by_client(Packet::tcp(from, at, flags, 1, 2).data(b"GET"));
    for flags in ["A", "PA", "FA", "R"] {
        let packet = segment(client.local_addr()?, flags);
        lab.run(hook, Port::Ext0, &packet.frame())?.untouched();
    }
    let stranger = segment(scene.client, "A");
    lab.run(hook, Port::Ext0, &stranger.frame())?.answered(reason, &reset(&stranger));
    drop((client, server));
    Ok(())
}
