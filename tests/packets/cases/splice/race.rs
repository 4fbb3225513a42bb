//! Segments of one connection on two CPUs at once: whichever was first, the connection is there once, and goes on.

use anyhow::{Context, Result, bail, ensure};
use gateway_common::{Config, Flow, FlowKey, Reason, cookie, flow_flags, flow_state};

use crate::cases::Cases;
use crate::lab::{COOKIE_KEY, Lab, Table, now};
use crate::net::{Port, Version};
use crate::outcome::{Hook, Outcome, Went};
use crate::packet::Packet;
use crate::scene::Place;
use crate::segment::Segment;
use crate::tls::{SECOND, Tls};

/// Of each kind; how far apart both come goes through all of [`LATEST`] many times.
const ROUNDS: u16 = 240;
/// Turns of an empty loop: about as long as the program runs.
const LATEST: i32 = 200;
/// Slots of HELLOS here: fewer than rounds, so that those that were left behind are needed again.
const SLOTS: u32 = 16;
/// Where a hello is cut: the name is in the second part.
const CUT: usize = 60;
/// The same, where the name is in the first part.
const NAMED: usize = 300;

/// The two segments that come at once.
type Pair = fn(&Tls, &[u8]) -> [Packet; 2];

pub fn add(cases: &mut Cases) {
    let kinds: [(&str, Pair); 4] = [
        ("hello_twice", |tls, hello| [0, 0].map(|from| part(tls, hello, from, hello.len()))),
        ("two_parts_of_a_hello", |tls, hello| [part(tls, hello, 0, CUT), part(tls, hello, CUT, hello.len())]),
        ("name_in_the_first_part", |tls, hello| [part(tls, hello, 0, NAMED), part(tls, hello, NAMED, hello.len())]),
        ("hello_and_its_end_again", |tls, hello| {
            [part(tls, hello, 0, hello.len()), part(tls, hello, CUT, hello.len())]
        }),
    ];
    for (name, pair) in kinds {
        cases.each(&format!("splice/at_once/{name}"), move |lab, v| race(lab, v, pair));
    }
}

fn part(tls: &Tls, hello: &[u8], from: usize, to: usize) -> Packet {
    tls.up("PA", from as u32, 0).data(&hello[from..to])
}

fn race(lab: &mut Lab, version: Version, pair: Pair) -> Result<()> {
    let tls = Tls::new(lab, version, Place::Remote)?;
    lab.configure(Config { hellos: SLOTS, ..Config::default() })?;
    for round in 0..ROUNDS {
        let mut tls = tls.client_port(10_000 + round);
        // Half of the clients' bare ACKs are lost: then both segments prove the cookie.
        if round % 2 == 0 { tls.opened(lab) } else { tls.accepted(lab, Hook::Tc) }?;
        let late = i32::from(round) * 37 % (2 * LATEST) - LATEST;
        one(lab, tls, pair, late, round / 2 % 3).with_context(|| format!("round {round}"))?;
    }
    Ok(())
}

/// What becomes of the SYN of a CPU that lost.
const ANSWERED_FIRST: u16 = 0;
const ANSWERED_LAST: u16 = 1;

fn one(lab: &mut Lab, mut tls: Tls, pair: Pair, late: i32, order: u16) -> Result<()> {
    let hello = tls.hello();
    if round_is_unlucky(&tls)? {
        return Ok(());
    }
    let [first, second] = pair(&tls, &hello);
    let (outcomes, reasons) = lab.tc_at_once([(Port::Ext0, &first.frame()), (Port::Ext0, &second.frame())], late)?;
    ensure!(reasons.iter().all(|reason| *reason == Reason::EarlySegment), "{reasons:?}");
    let mut said = Said::default();
    said.by(&tls, &hello, &outcomes)?;
    said.again(lab, &tls, &hello)?;
    let Said { ports, .. } = said;
    let forward = lab.flow(&tls.forward_key())?.context("no backend was picked")?.1;
    tls.peer.set_port(forward.source_port);
    tls.in_state(lab, flow_state::CONNECTING)?;
    let lost: Vec<Tls> =
        ports.into_iter().filter(|port| *port != tls.peer.port()).map(|port| from(&tls, port)).collect();

    if order == ANSWERED_FIRST {
        refused(lab, &lost)?;
    }
    lab.tc(tls.place.port(), &tls.syn_ack().frame())?.forwarded(&tls.first_piece(&hello));
    tls.backend_sends(lab, &tls.down("A", 0, hello.len() as u32))?;
    if order == ANSWERED_LAST {
        refused(lab, &lost)?;
    }
    goes_on(lab, &tls, hello.len() as u32)
}

/// One of 65,536 segments that overtake the first is taken for it (docs/splice.md).
fn round_is_unlucky(tls: &Tls) -> Result<bool> {
    let now = now()?;
    let taken = |from: usize| {
        let isn = tls.client_seq(from as u32).wrapping_sub(1);
        let proof = cookie::check(&COOKIE_KEY, &tls.forward_key(), isn, tls.cookie, now);
        matches!(proof, cookie::Proof::Client(_))
    };
    Ok(taken(CUT) || taken(NAMED))
}

/// The same connection by the port of an attempt that lost.
fn from(tls: &Tls, port: u16) -> Tls {
    let mut other = tls.clone();
    other.peer.set_port(port);
    other
}

/// What the gateway made of a client's segments.
#[derive(Default)]
struct Said {
    /// Bytes that the client does not send again.
    acknowledged: usize,
    /// That SYNs went out from, each once.
    ports: Vec<u16>,
}

impl Said {
    fn by(&mut self, tls: &Tls, hello: &[u8], outcomes: &[Outcome]) -> Result<()> {
        for outcome in outcomes.iter().filter(|outcome| outcome.went() == Went::Out) {
            let segment = Segment::read(&outcome.frame)?;
            if segment.to == tls.client {
                let acknowledged = segment.ack.wrapping_sub(tls.client_seq(0)) as usize;
                // Rule 2 of docs/splice.md: nobody but the backend acknowledges what made the name known.
                ensure!(segment.flags == "A" && acknowledged < hello.len(), "{acknowledged} bytes: {segment:?}");
                self.acknowledged = self.acknowledged.max(acknowledged);
            } else {
                ensure!(segment.flags == "S" && tls.backends.contains(&segment.to), "{segment:?}");
                self.ports.push(segment.from.port());
            }
        }
        self.ports.sort();
        self.ports.dedup();
        Ok(())
    }

    /// The client sends again what nobody has acknowledged, until a SYN comes of it.
    fn again(&mut self, lab: &mut Lab, tls: &Tls, hello: &[u8]) -> Result<()> {
        for _ in 0..2 {
            tls.age_pending(lab, SECOND)?;
            let outcome = lab.tc(Port::Ext0, &part(tls, hello, self.acknowledged, hello.len()).frame())?;
            ensure!(outcome.reasons.is_empty(), "{:?}", outcome.reasons);
            let is_syn = outcome.went() == Went::Out && !Segment::read(&outcome.frame)?.has('A');
            self.by(tls, hello, &[outcome])?;
            if is_syn {
                return Ok(());
            }
        }
        bail!("{} bytes are acknowledged, and the others sent again and again lead nowhere", self.acknowledged)
    }
}

/// An attempt may have been given up for another one, where the machine was so busy that both segments came far apart. The node itself
/// answers its backend.
fn refused(lab: &mut Lab, lost: &[Tls]) -> Result<()> {
    for tls in lost {
        lab.tc(tls.place.port(), &tls.syn_ack().frame())?.untouched();
    }
    Ok(())
}

/// The connection outlives what is left of the other, and leaves nothing behind.
fn goes_on(lab: &mut Lab, tls: &Tls, length: u32) -> Result<()> {
    // Longer than a connection may be without an answer of the backend.
    for (key, flow) in lab.flows(Table::Flows)? {
        let last_seen = flow.last_seen.checked_sub(60 * SECOND).context("the machine has not run for a minute")?;
        lab.put_flow(Table::Flows, &key, &Flow { last_seen, ..flow })?;
    }
    lab.sweep()?;
    tls.in_state(lab, flow_state::ESTABLISHED)?;
    tls.client_sends(lab, &tls.up("PA", length, 0).data(b"request"))?;
    tls.backend_sends(lab, &tls.down("PA", 0, length + 7).data(b"response"))?;
    let others = |flow: &Flow| flow.flags & flow_flags::REPLY != 0 && flow.source_port != tls.gateway.port();
    let flows = lab.flows(Table::Flows)?;
    ensure!(flows.len() == 2 && !flows.iter().any(|(_, flow)| others(flow)), "halves that are nobody's: {flows:?}");
    // Of others there may be one: of a client whose round was unlucky.
    ensure!(lab.handshake(&tls.forward_key())?.is_none(), "a handshake is left");
    // One may be left by a part that came while the other was binding: it is the next to be taken.
    ensure!(slots(lab, &tls.forward_key())? <= 1, "slots are left");
    lab.tc(Port::Ext0, &tls.up("R", length + 7, 0).frame())?;
    let left = flows.iter().map(|(key, _)| lab.flow(key)).collect::<Result<Vec<_>>>()?;
    let ended = |half: &Option<(Table, Flow)>| half.is_some_and(|(table, _)| table == Table::Embryonic);
    ensure!(left.iter().all(ended), "not everything ends with the connection: {left:?}");
    Ok(())
}

/// How many a client has.
fn slots(lab: &mut Lab, client: &FlowKey) -> Result<usize> {
    let mut count = 0;
    for slot in 1..SLOTS {
        count += usize::from(lab.hello_at(slot)?.client == *client);
    }
    Ok(count)
}
