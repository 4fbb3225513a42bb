//! Spliced connections that are silent for long, with the times that the agent sets when nobody asks for others.

use anyhow::{Context, Result};
use gateway_common::cookie::{self, Proof};
use gateway_common::{Config, Reason, flow_state};

use crate::answer::reset;
use crate::cases::Cases;
use crate::lab::{COOKIE_KEY, Lab, now};
use crate::net::{Port, Version};
use crate::outcome::Hook;
use crate::packet::Packet;
use crate::scene::Place;
use crate::tls::{SECOND, Tls};

pub fn add(cases: &mut Cases) {
    for place in Place::ALL {
        cases.each(&format!("splice/idle/keep_alive_after_an_hour_{place:?}"), move |lab, v| hourly(lab, v, place));
    }
    cases.each("splice/idle/keep_alive_after_the_limit_is_refused", forgotten);
}

/// Less than the two hours after which Linux sends a keep-alive, more than what a half-closed connection is given.
const AN_HOUR: u64 = 3_500 * SECOND;

/// So many ns as the programs are to see them. A machine that does not run as long as the longest of these times has a shorter second.
fn scaled(time: u64) -> Result<u64> {
    let longest = 2 * Config::default().tcp_established;
    let here = now()?;
    Ok(if here > longest { time } else { (u128::from(time) * u128::from(here) / u128::from(longest)) as u64 })
}

fn default_times(lab: &mut Lab) -> Result<()> {
    let times = Config::default();
    lab.configure(Config {
        tcp_new: scaled(times.tcp_new)?,
        tcp_established: scaled(times.tcp_established)?,
        tcp_half_closed: scaled(times.tcp_half_closed)?,
        tcp_closed: scaled(times.tcp_closed)?,
        ..times
    })
}

/// Makes both halves look as if their last packets had come so much earlier, and lets the agent's sweep find them.
fn silent(lab: &mut Lab, tls: &Tls, time: u64) -> Result<()> {
    let time = scaled(time)?;
    for key in [tls.forward_key(), tls.reply_key()] {
        let (table, mut flow) = lab.flow(&key)?.context("no such half")?;
        flow.last_seen = flow.last_seen.checked_sub(time).context("the machine has not run that long")?;
        flow.route.checked = flow.route.checked.saturating_sub(time);
        lab.put_flow(table, &key, &flow)?;
    }
    lab.sweep()
}

/// Goes from one end to the other, in TC, since XDP does not look up ways.
fn passes(lab: &mut Lab, tls: &Tls, from_client: bool, packet: &Packet) -> Result<()> {
    let (port, wanted) =
        if from_client { (Port::Ext0, tls.forwarded(packet)) } else { (tls.place.port(), tls.returned(packet)) };
    lab.xdp(port, &packet.frame())?.untouched();
    lab.tc(port, &packet.frame())?.forwarded(&wanted);
    Ok(())
}

/// RFC 9293 section 3.8.4: either end may ask, and however often.
fn hourly(lab: &mut Lab, version: Version, place: Place) -> Result<()> {
    default_times(lab)?;
    let mut tls = Tls::new(lab, version, place)?;
    let length = tls.established(lab)?;
    // In all longer than the longest time.
    for by_client in [true, false, true, false, true, false] {
        silent(lab, &tls, AN_HOUR)?;
        let (mut ask, mut answer) = (tls.up("A", length - 1, 0), tls.down("A", 0, length));
        if !by_client {
            (ask, answer) = (tls.down("A", u32::MAX, length), tls.up("A", length, 0));
        }
        passes(lab, &tls, by_client, &ask)?;
        passes(lab, &tls, !by_client, &answer)?;
        tls.in_state(lab, flow_state::ESTABLISHED)?;
    }
    // And then it goes on.
    silent(lab, &tls, AN_HOUR)?;
    passes(lab, &tls, true, &tls.up("PA", length, 0).data(b"request"))?;
    passes(lab, &tls, false, &tls.down("PA", 0, length + 7).data(b"response"))?;
    assert_eq!(lab.listener_counter(tls.by_name)?.closed, 0);
    Ok(())
}

fn forgotten(lab: &mut Lab, version: Version) -> Result<()> {
    for hook in Hook::BOTH {
        lab.reset()?;
        default_times(lab)?;
        let mut tls = Tls::new(lab, version, Place::Remote)?;
        let length = tls.established(lab)?;
        let limit = Config::default().tcp_established;
        silent(lab, &tls, limit - 10 * SECOND)?;
        tls.in_state(lab, flow_state::ESTABLISHED)?;
        silent(lab, &tls, 20 * SECOND)?;
        tls.nothing(lab)?;
        assert_eq!(lab.listener_counter(tls.by_name)?.closed, 1);
        // What the client has received since takes it away from its cookie, which is hours old.
        let is_no_proof = |ask: &Packet| -> Result<bool> {
            let crate::packet::Body::Tcp(tcp, _) = &ask.body else { return Ok(false) };
            let (isn, number) = (tcp.sequence_number.wrapping_sub(1), tcp.acknowledgment_number.wrapping_sub(1));
            Ok(cookie::check(&COOKIE_KEY, &tls.forward_key(), isn, number, now()?) == Proof::Nothing)
        };
        let mut asks = (1..8).map(|i| tls.up("A", length - 1, i << 17));
        let ask = asks.find_map(|ask| is_no_proof(&ask).map(|no| no.then_some(ask)).transpose());
        let ask = ask.context("every number is a proof")??;
        lab.run(hook, Port::Ext0, &ask.frame())?.answered(Reason::UnknownConnection, &reset(&ask));
        // The backend's own comes to a port of the node that nobody has: the node refuses it.
        let ask = tls.down("A", u32::MAX, length);
        lab.run(hook, tls.place.port(), &ask.frame())?.untouched();
    }
    Ok(())
}
