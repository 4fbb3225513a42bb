//! Two ends that know nothing of each other's numbers, the splice between them, and a network that loses, repeats and
//! reorders: a tape decides what it does. All of it is one thread without a clock.

use std::collections::VecDeque;
use std::fmt;

use anyhow::{Context, Result, ensure};
use gateway_common::{HELLO_BYTES, Reason};

use crate::hello;
use crate::lab::Lab;
use crate::model::End;
use crate::net::{EXT1_MTU, Port, Version};
use crate::outcome::{Hook, Outcome, Went};
use crate::packet::Packet;
use crate::scene::Place;
use crate::segment::{Offer, Segment};
use crate::tls::{BACKEND_ISN, SECOND, Tls};

/// How often timers may run out before a connection counts as stuck.
const TIMERS: u32 = 120;
/// Most payload that GRO makes one frame of.
/// (BPF_PROG_TEST_RUN takes no frame that is larger than a page.)
const MERGED: u64 = 3_000;

/// What a property test draws.
#[derive(Clone)]
pub struct Plot {
    pub isn: u32,
    pub client: Offer,
    pub server: Offer,
    /// Bytes of receive buffer.
    pub client_buffer: u64,
    pub server_buffer: u64,
    pub hello: Vec<u8>,
    /// What comes after it, and what the server says.
    pub request: Vec<u8>,
    pub response: Vec<u8>,
    /// Does the client send the request before it hears the server?
    pub eager: bool,
    /// Largest first segments of the client: browsers cut hellos in odd places.
    pub cut: u64,
    /// What the network does; when it is used up the network is perfect.
    pub tape: Vec<u8>,
    /// Frames of the client and the backend go through XDP first.
    pub express: bool,
}

/// So many frames lost or late may be every SYN or its answer.
const SILENCE: u32 = 6;
/// Of what the gateway makes; what it forwards has made a hop.
const OWN_TTL: u8 = 64;

impl fmt::Debug for Plot {
    /// What the ends say matters by its length only.
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let Plot { isn, client, server, client_buffer, server_buffer, eager, cut, tape, express, .. } = self;
        let lengths = (self.hello.len(), self.request.len(), self.response.len());
        write!(
            f,
            "ISN {isn}, {client:?} and {server:?}, buffers {client_buffer} and {server_buffer}, hello, request and "
        )?;
        write!(f, "response {lengths:?}, eager {eager}, cut {cut}, express {express}, tape {tape:?}")
    }
}

/// A link that frames are on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Link {
    FromClient,
    ToClient,
    FromServer,
    ToServer,
}

const LINKS: [Link; 4] = [Link::FromClient, Link::ToClient, Link::FromServer, Link::ToServer];

/// A frame and, of one that GRO has merged, the payload of each segment.
type OnTheWay = (Vec<u8>, u32);

pub struct World<'a> {
    lab: &'a mut Lab,
    tls: Tls,
    plot: &'a Plot,
    at: usize,
    client: End,
    server: Option<End>,
    links: [VecDeque<OnTheWay>; 4],
    /// How often the network was not perfect.
    faults: u32,
    /// The client was told that no backend answers.
    refused: bool,
    /// What happened, for people.
    story: Vec<String>,
}

impl<'a> World<'a> {
    pub fn new(lab: &'a mut Lab, mut tls: Tls, plot: &'a Plot) -> Result<World<'a>> {
        lab.watch()?;
        tls.offer = plot.client;
        let mut client = End::new(tls.client, tls.gateway, plot.isn, plot.client);
        client.buffer = room(plot.client_buffer, plot.client);
        client.says = [&plot.hello[..], &plot.request].concat();
        client.may_say = if plot.eager { u64::MAX } else { plot.hello.len() as u64 };
        client.hears = plot.response.clone();
        Ok(World {
            lab,
            tls,
            plot,
            at: 0,
            client,
            server: None,
            links: Default::default(),
            faults: 0,
            refused: false,
            story: Vec::new(),
        })
    }

    /// Runs until both ends have everything.
    pub fn run(mut self) -> Result<()> {
        let result = self.connection();
        result.with_context(|| format!("after\n{}", self.story.join("\n")))
    }

    fn connection(&mut self) -> Result<()> {
        let syn = self.client.syn();
        self.put(Link::FromClient, &syn, 0);
        let mut timers = 0;
        while !self.is_done() {
            if self.client.heard > 0 {
                self.client.may_say = u64::MAX;
            }
            let moved = self.deliver()?;
            let said = self.speak();
            if !moved && !said {
                timers += 1;
                ensure!(timers < TIMERS, "stuck: {:?}\n{:?}", self.client, self.server);
                self.time_out()?;
            }
        }
        Ok(())
    }

    fn is_done(&self) -> bool {
        self.refused || self.client.is_done() && self.server.as_ref().is_some_and(End::is_done)
    }

    /// The next thing that the tape says: 0 is nothing out of the ordinary.
    fn draw(&mut self) -> u8 {
        let byte = self.plot.tape.get(self.at).copied().unwrap_or(0);
        self.at += 1;
        byte
    }

    fn put(&mut self, link: Link, packet: &Packet, merged: u32) {
        let packet = match link {
            Link::FromClient => self.tls.sent_by_client(packet.clone()),
            _ => packet.clone().macs(self.tls.place.port().peer_mac(), self.tls.place.port().mac()),
        };
        self.links[link as usize].push_back((packet.frame(), merged));
    }

    /// Takes one frame off a link, or does with it what the network does. False: there is none.
    fn deliver(&mut self) -> Result<bool> {
        let busy: Vec<Link> = LINKS.into_iter().filter(|link| !self.links[*link as usize].is_empty()).collect();
        if busy.is_empty() {
            return Ok(false);
        }
        let link = busy[usize::from(self.draw()) % busy.len()];
        let fate = self.draw();
        self.faults += u32::from(fate >= 200);
        let queue = &mut self.links[link as usize];
        let frame = queue.pop_front().expect("the link is busy");
        match fate {
            0..200 => self.arrive(link, frame)?,
            200..225 => self.tell(link, "lost", &frame.0),
            225..240 => {
                self.tell(link, "twice", &frame.0);
                queue_again(&mut self.links[link as usize], frame.clone());
                self.arrive(link, frame)?;
            }
            _ => {
                self.tell(link, "later", &frame.0);
                queue_again(&mut self.links[link as usize], frame);
            }
        }
        Ok(true)
    }

    fn tell(&mut self, link: Link, what: &str, frame: &[u8]) {
        let text = match Segment::read(frame) {
            Ok(s) => format!(
                "{link:?} {what}: {} seq {} ack {} win {} {} bytes {:02x?}",
                s.flags,
                s.seq,
                s.ack,
                s.window,
                s.payload.len(),
                s.options
            ),
            Err(error) => format!("{link:?} {what}: {error:#}"),
        };
        self.story.push(text);
    }

    fn arrive(&mut self, link: Link, (frame, merged): OnTheWay) -> Result<()> {
        self.tell(link, "arrives", &frame);
        match link {
            Link::FromClient => self.through(Port::Ext0, &frame, merged),
            Link::FromServer => self.through(self.tls.place.port(), &frame, merged),
            Link::ToClient => {
                let segment = Segment::read(&frame)?;
                let wants = self.client.receive(&segment)?;
                if wants {
                    let ack = self.client.ack();
                    self.put(Link::FromClient, &ack, 0);
                }
                self.compare()
            }
            Link::ToServer => self.at_server(&frame),
        }
    }

    /// Neither end is told of more room than the other has.
    fn compare(&self) -> Result<()> {
        let Some(server) = &self.server else { return Ok(()) };
        let prelude = u64::from(self.tls.prelude);
        let of_server = server.told.saturating_sub(prelude).max(HELLO_BYTES as u64);
        ensure!(
            self.client.edge() <= of_server,
            "the client is told of room to {}, and the backend said {of_server}",
            self.client.edge()
        );
        ensure!(
            server.edge() <= self.client.told,
            "the backend is told of room to {}, and the client said {}",
            server.edge(),
            self.client.told
        );
        Ok(())
    }

    fn at_server(&mut self, frame: &[u8]) -> Result<()> {
        let segment = Segment::read(frame)?;
        if segment.has('S') && self.is_another(&segment) {
            self.begin(&segment)?;
        }
        ensure!(self.server.is_some(), "{segment:?} before a SYN");
        let another = self.is_another(&segment);
        let Some(server) = self.server.as_mut().filter(|_| !another) else {
            // One of an attempt that was given up.
            return Ok(());
        };
        let room = server.position(&segment);
        ensure!(
            segment.ttl != OWN_TTL || segment.payload.len() <= 1 || room <= server.told,
            "what the gateway itself sends ends at {room}, and the backend has room to {}: {segment:?}",
            server.told
        );
        let wants = server.receive(&segment)?;
        if wants {
            let answer = if segment.has('S') { server.syn_ack() } else { server.ack() };
            self.put(Link::FromServer, &answer, 0);
        }
        self.compare()
    }

    /// Whether a segment is not for the backend that has the connection.
    fn is_another(&self, segment: &Segment) -> bool {
        self.server.as_ref().is_none_or(|server| server.remote != segment.from || server.local != segment.to)
    }

    /// A backend takes the connection.
    fn begin(&mut self, syn: &Segment) -> Result<()> {
        self.tls.at = self
            .tls
            .backends
            .iter()
            .position(|backend| *backend == syn.to)
            .with_context(|| format!("{syn:?} is to no backend"))?;
        self.tls.peer = syn.from;
        let mut server = End::new(syn.to, syn.from, BACKEND_ISN, self.plot.server);
        server.buffer = room(self.plot.server_buffer, self.plot.server);
        server.says = self.plot.response.clone();
        let header = if self.tls.prelude == 0 { Vec::new() } else { self.tls.proxy_header() };
        server.hears = [&header[..], &self.plot.hello, &self.plot.request].concat();
        // What the gateway has told the client before it knew of this backend.
        server.told_by_others = (header.len() + HELLO_BYTES) as u64;
        self.server = Some(server);
        Ok(())
    }

    /// A frame of either end comes to the gateway.
    fn through(&mut self, port: Port, frame: &[u8], merged: u32) -> Result<()> {
        if self.plot.express && merged == 0 {
            let outcome = self.lab.xdp(port, frame)?;
            if outcome.went() != Went::Next {
                return self.comes_out(&outcome);
            }
            ensure!(outcome.frame == frame, "XDP passes on what it has changed");
        }
        let outcome = self.lab.tc_segmented(port, frame, merged)?;
        self.comes_out(&outcome)
    }

    fn comes_out(&mut self, outcome: &Outcome) -> Result<()> {
        for (port, frame) in self.lab.sent_beside() {
            self.goes(port, frame)?;
        }
        match outcome.went() {
            // Three backends, two SYNs to each: a network that is bad enough loses them all.
            Went::Out if outcome.reasons == [Reason::BackendSilent] && self.faults >= SILENCE => {
                let alert = Segment::read(&outcome.frame)?;
                ensure!(alert.payload == hello::alert(hello::description::INTERNAL_ERROR), "{alert:?}");
                ensure!(self.server.as_ref().is_none_or(|server| !server.established), "the backend has answered");
                self.refused = true;
                Ok(())
            }
            Went::Out if outcome.reasons == [Reason::PacketTooBig] => self.too_big(outcome),
            Went::Out => {
                ensure!(outcome.reasons.is_empty(), "{:?}: {:?}", outcome.reasons, Segment::read(&outcome.frame));
                self.goes(outcome.port, outcome.frame.clone())
            }
            Went::Dropped => {
                ensure!(outcome.reasons.iter().all(|reason| *reason == Reason::EarlySegment), "{:?}", outcome.reasons);
                Ok(())
            }
            // A backend that was given up answers: the node itself would refuse it.
            Went::Next => {
                ensure!(outcome.hook == Hook::Tc && outcome.frame == outcome.input, "passed on changed");
                Ok(())
            }
        }
    }

    /// Path MTU discovery (RFC 1191, RFC 8201).
    fn too_big(&mut self, outcome: &Outcome) -> Result<()> {
        let from_client = outcome.input.get(..12) == Some(&self.tls.sent_by_client(self.tls.syn()).frame()[..12]);
        let header = self.tls.version.header();
        // Both have it in the last two bytes of the second word, as no MTU here is larger.
        let kind = outcome.frame.get(14 + header);
        ensure!(kind == Some(&if self.tls.version == Version::V4 { 3 } else { 2 }), "no answer of path MTU discovery");
        let mtu = outcome.frame.get(14 + header + 6..14 + header + 8).context("no MTU in the answer")?;
        let fits = u64::from(u16::from_be_bytes([mtu[0], mtu[1]])) - header as u64 - 20;
        let sender = if from_client { Some(&mut self.client) } else { self.server.as_mut() };
        let sender = sender.context("nobody sent it")?;
        self.story.push(format!("too big: {fits} bytes fit"));
        if fits >= sender.path {
            // One that was under way already.
            return Ok(());
        }
        sender.path = fits;
        let mss = sender.mss();
        if let Some(again) = sender.again(mss) {
            self.put(if from_client { Link::FromClient } else { Link::FromServer }, &again, 0);
        }
        Ok(())
    }

    /// A frame leaves for the client or for a backend.
    fn goes(&mut self, _port: Port, frame: Vec<u8>) -> Result<()> {
        let segment = Segment::read(&frame)?;
        let link = if segment.to == self.tls.client { Link::ToClient } else { Link::ToServer };
        // A pod's client is its peer, too: what is from the gateway is for the client.
        let link = if link == Link::ToClient && segment.from != self.tls.gateway { Link::ToServer } else { link };
        self.links[link as usize].push_back((frame, 0));
        Ok(())
    }

    /// Each end says something new, if it has and may.
    fn speak(&mut self) -> bool {
        let mut said = false;
        let link = self.link_mss();
        for of_client in [true, false] {
            // Some of both run at different speeds.
            let drawn = self.draw();
            if drawn % 4 == 3 {
                continue;
            }
            let cut = if self.client.heard == 0 { self.plot.cut } else { u64::MAX };
            let Some(end) = (if of_client { Some(&mut self.client) } else { self.server.as_mut() }) else { continue };
            let cut = if of_client { cut } else { u64::MAX };
            let mss = end.mss().min(cut).min(link);
            // TC sees what GRO has merged.
            let merge = drawn >= 128 && !self.plot.express;
            let most = if merge { MERGED } else { mss };
            let Some(packet) = end.new_data(most) else { continue };
            let length = match &packet.body {
                crate::packet::Body::Tcp(_, payload) => payload.len() as u64,
                _ => 0,
            };
            let merged = if length > mss { mss as u32 } else { 0 };
            self.put(if of_client { Link::FromClient } else { Link::FromServer }, &packet, merged);
            said = true;
        }
        said
    }

    /// What fits the backend's own link; the client's is as wide or wider.
    fn link_mss(&self) -> u64 {
        let mtu = if self.tls.place == Place::Remote { EXT1_MTU } else { 1500 };
        u64::from(mtu) - self.tls.version.header() as u64 - 20
    }

    /// Nothing moves: whoever waits for something repeats itself.
    fn time_out(&mut self) -> Result<()> {
        self.story.push("time passes".into());
        let link = self.link_mss();
        self.tls.age_pending(self.lab, SECOND)?;
        if self.client.established {
            let mss = self.client.mss().min(link);
            let packet = self.client.again(mss).unwrap_or_else(|| self.client.probe());
            self.put(Link::FromClient, &packet, 0);
        } else {
            let syn = self.client.syn();
            self.put(Link::FromClient, &syn, 0);
        }
        if let Some(server) = &mut self.server {
            let packet = if server.established {
                let mss = server.mss().min(link);
                server.again(mss).unwrap_or_else(|| server.probe())
            } else {
                server.syn_ack()
            };
            self.put(Link::FromServer, &packet, 0);
        }
        Ok(())
    }
}

/// A host's scale is one that its buffer can be told in.
fn room(buffer: u64, offer: Offer) -> u64 {
    buffer.max(2 << offer.scale.unwrap_or(0))
}

/// Behind the next one or two.
fn queue_again(queue: &mut VecDeque<OnTheWay>, frame: OnTheWay) {
    let at = queue.len().min(2);
    queue.insert(at, frame);
}
