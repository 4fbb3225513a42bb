//! One client, one TLS listener, three backends: the frames each of them sends and what the splice must make of them.

use std::net::SocketAddr;

use anyhow::{Context, Result, ensure};
use gateway_common::{
    Backend, Flow, FlowKey, HELLO_BYTES, SniName, agent_backend, backend_flags, cookie, flow_flags, flow_state,
    protocol::TCP, sni_mode,
};

use crate::hello::hello;
use crate::lab::{COOKIE_KEY, Lab, Table, now};
use crate::net::{EXT1_MTU, Port, Version, port_of};
use crate::outcome::{Hook, Outcome, Went};
use crate::packet::Packet;
use crate::scene::{Place, key};
use crate::segment::{Offer, Segment};

/// The name that the backends are reached by.
pub const NAME: &str = "www.example.com";
/// Numbers wrap within the hello.
pub const ISN: u32 = 0xffff_ff80;
pub const BACKEND_ISN: u32 = 0x7654_3210;
/// The gateway's own window scale.
pub const OWN_SCALE: u8 = 9;
/// What an ordinary client offers, and an ordinary backend.
pub const OFFER: Offer = Offer { mss: Some(1460), scale: Some(7), sack: true, timestamps: false };
pub const SECOND: u64 = 1_000_000_000;

#[derive(Clone, Debug)]
pub struct Tls {
    pub version: Version,
    pub place: Place,
    pub client: SocketAddr,
    pub gateway: SocketAddr,
    /// The first has the id [`agent_backend::FIRST_OTHER`].
    pub backends: Vec<SocketAddr>,
    /// Index of the one that has the connection.
    pub at: usize,
    /// Whom the backend takes for its peer.
    pub peer: SocketAddr,
    pub listener: u32,
    /// The listener that [`NAME`] counts for.
    pub by_name: u32,
    pub set: u32,
    /// What the client offers, and its window field.
    pub offer: Offer,
    pub window: u16,
    pub isn: u32,
    /// Sequence number of the SYN-ACK.
    pub cookie: u32,
    /// Bytes of the PROXY protocol header.
    pub prelude: u32,
    /// What the backend offers in turn.
    pub answer: Offer,
}

impl Tls {
    /// Fills the maps: an address of its own, a listener, a name, and one backend in its set.
    pub fn new(lab: &mut Lab, version: Version, place: Place) -> Result<Tls> {
        let gateway = port_of(version.gateway(), 443);
        let backends: Vec<SocketAddr> = (8443..8446).map(|port| port_of(place.address(version), port)).collect();
        lab.exclusive(version.gateway())?;
        let mtu = if place == Place::Remote { EXT1_MTU } else { 1500 };
        let listener = lab.tls_listener(gateway, 0, mtu)?;
        let by_name = lab.listener_id();
        let client = port_of(version.client(), 40_000);
        let mut tls = Tls {
            version,
            place,
            client,
            gateway,
            backends,
            at: 0,
            peer: port_of(place.source(version), 0),
            listener,
            by_name,
            set: 0,
            offer: OFFER,
            window: 502,
            isn: ISN,
            cookie: 0,
            prelude: 0,
            answer: Offer { scale: Some(5), ..OFFER },
        };
        for i in 0..tls.backends.len() {
            lab.backend(tls.id(i), tls.entry(i))?;
        }
        tls.set = lab.set(&[tls.id(0)], &[])?;
        lab.server_name(gateway, NAME, tls.passthrough(tls.set))?;
        tls.restart();
        Ok(tls)
    }

    /// The same from another port of the client.
    pub fn client_port(&self, port: u16) -> Tls {
        let mut tls = self.clone();
        tls.client = port_of(self.client.ip(), port);
        tls.restart();
        tls
    }

    /// No backend has the connection.
    pub fn restart(&mut self) {
        self.peer = if self.place == Place::Pod { self.client } else { port_of(self.place.source(self.version), 0) };
    }

    pub fn id(&self, backend: usize) -> u32 {
        agent_backend::FIRST_OTHER + backend as u32
    }

    pub fn entry(&self, backend: usize) -> Backend {
        self.place.entry(self.version, TCP, self.backends[backend].port())
    }

    /// An entry of SNI that leads to a set.
    pub fn passthrough(&self, set: u32) -> SniName {
        SniName { backend_set: set, listener: self.by_name, mode: sni_mode::PASSTHROUGH, ..SniName::default() }
    }

    /// Makes the backend want a PROXY protocol header.
    pub fn wants_proxy(&mut self, lab: &mut Lab, backend: usize) -> Result<()> {
        let entry = self.entry(backend);
        lab.backend(self.id(backend), Backend { flags: entry.flags | backend_flags::PROXY, ..entry })?;
        self.prelude = self.proxy_header().len() as u32;
        Ok(())
    }

    /// PROXY protocol version 2, section 2.2 of its specification.
    pub fn proxy_header(&self) -> Vec<u8> {
        let mut header = b"\r\n\r\n\0\r\nQUIT\n\x21".to_vec();
        let addresses: Vec<u8> = match (self.client.ip(), self.gateway.ip()) {
            (std::net::IpAddr::V4(s), std::net::IpAddr::V4(d)) => {
                header.extend([0x11, 0, 12]);
                [s.octets(), d.octets()].concat()
            }
            (std::net::IpAddr::V6(s), std::net::IpAddr::V6(d)) => {
                header.extend([0x21, 0, 36]);
                [s.octets(), d.octets()].concat()
            }
            both => panic!("{both:?}"),
        };
        header.extend(addresses);
        header.extend(self.client.port().to_be_bytes());
        header.extend(self.gateway.port().to_be_bytes());
        header
    }

    pub fn hello(&self) -> Vec<u8> {
        hello(NAME).padded(517).bytes()
    }

    // What the hosts send. Positions count from the first byte after the SYN.

    pub fn syn(&self) -> Packet {
        self.sent_by_client(Packet::tcp(self.client, self.gateway, "S", self.isn, 0))
            .header(|h| h.set_options_raw(&self.offer.bytes()).expect("40 bytes at most"))
    }

    /// A segment of the client after its SYN.
    pub fn up(&self, flags: &str, position: u32, acknowledged: u32) -> Packet {
        let (seq, ack) = (self.client_seq(position), self.cookie.wrapping_add(1).wrapping_add(acknowledged));
        self.sent_by_client(Packet::tcp(self.client, self.gateway, flags, seq, ack))
            .header(|h| h.window_size = self.window)
    }

    /// The backend's answer to the SYN.
    pub fn syn_ack(&self) -> Packet {
        let ack = self.client_seq(0).wrapping_sub(self.prelude);
        self.sent_by_backend("SA", BACKEND_ISN, ack)
            .header(|h| h.set_options_raw(&self.answer.bytes()).expect("40 bytes at most"))
    }

    /// A segment of the backend after its SYN-ACK. What it acknowledges counts from the client's first byte.
    pub fn down(&self, flags: &str, position: u32, acknowledged: u32) -> Packet {
        self.sent_by_backend(flags, BACKEND_ISN.wrapping_add(1).wrapping_add(position), self.client_seq(acknowledged))
            .header(|h| h.window_size = 600)
    }

    pub fn sent_by_backend(&self, flags: &str, seq: u32, ack: u32) -> Packet {
        let port = self.place.port();
        Packet::tcp(self.backends[self.at], self.peer, flags, seq, ack).macs(port.peer_mac(), port.mac())
    }

    pub fn sent_by_client(&self, packet: Packet) -> Packet {
        packet.macs(Port::Ext0.peer_mac(), Port::Ext0.mac())
    }

    pub fn client_seq(&self, position: u32) -> u32 {
        self.isn.wrapping_add(1).wrapping_add(position)
    }

    // What they must get.

    /// A segment that the gateway makes for the client.
    pub fn own(&self, flags: &str, position: u32, acknowledged: u32, window: u16) -> Packet {
        let seq = self.cookie.wrapping_add(1).wrapping_add(position);
        let packet = Packet::tcp(self.gateway, self.client, flags, seq, self.client_seq(acknowledged));
        let packet = packet.header(|h| h.window_size = window).macs(Port::Ext0.mac(), Port::Ext0.peer_mac());
        Packet { id: 0, ..packet }
    }

    /// The window field that goes with so many bytes kept.
    pub fn own_window(&self, kept: u32) -> u16 {
        let room = HELLO_BYTES as u32 - kept;
        (if self.offer.scale.is_some() { room >> OWN_SCALE } else { room }) as u16
    }

    /// The acknowledgement of so many bytes of an unfinished hello.
    pub fn acknowledgement(&self, kept: u32) -> Packet {
        self.own("A", 0, kept, self.own_window(kept))
    }

    /// A segment that the gateway makes for the backend. The position counts from the client's first byte.
    pub fn own_to_backend(&self, flags: &str, position: i32, acknowledged: u32, window: u16) -> Packet {
        let seq = self.client_seq(position as u32);
        let ack = BACKEND_ISN.wrapping_add(1).wrapping_add(acknowledged);
        let port = self.place.port();
        let packet = Packet::tcp(self.peer, self.backends[self.at], flags, seq, ack);
        let packet = packet.header(|h| h.window_size = window).macs(port.mac(), port.peer_mac());
        Packet { id: 0, ..packet }
    }

    /// The SYN to the backend, options aside.
    fn syn_to_backend(&self) -> Packet {
        let window = match self.offer.scale {
            Some(scale) => (u32::from(self.window) << scale.min(14)).min(0xffff) as u16,
            None => self.window,
        };
        self.own_to_backend("S", -1 - self.prelude as i32, 0, window).header(|h| h.acknowledgment_number = 0)
    }

    /// What the SYN to the backend offers: the client's own, the MSS in the steps of the cookie.
    pub fn offer_to_backend(&self) -> Offer {
        let steps = match self.version {
            Version::V4 => [536, 1_220, 1_340, 1_380, 1_400, 1_432, 1_460, 8_940],
            Version::V6 => [536, 1_220, 1_320, 1_360, 1_380, 1_412, 1_440, 8_920],
        };
        let offered = self.offer.mss.unwrap_or(536);
        let mss = steps.into_iter().filter(|step| *step <= offered.max(536)).max();
        Offer { mss, scale: self.offer.scale.map(|scale| scale.min(14)), timestamps: false, ..self.offer }
    }

    /// What the gateway's SYN-ACK offers.
    pub fn own_offer(&self, mtu: u16) -> Offer {
        let headers = self.version.header() as u16 + 20;
        Offer {
            mss: Some(mtu - headers),
            scale: self.offer.scale.map(|_| OWN_SCALE),
            sack: self.offer.sack,
            timestamps: false,
        }
    }

    /// Bytes of options in the SYN-ACK: each has its place.
    fn own_options(&self) -> usize {
        match (self.offer.sack, self.offer.scale) {
            (true, _) => 12,
            (false, Some(_)) => 8,
            (false, None) => 4,
        }
    }

    /// A segment of the client's as the backend gets it. Its options must be right already.
    pub fn forwarded(&self, packet: &Packet) -> Packet {
        let port = self.place.port();
        let (delta, shift) = (self.delta(), self.shifts().1);
        packet.clone().from(self.peer).to(self.backends[self.at]).hop().macs(port.mac(), port.peer_mac()).header(|h| {
            h.acknowledgment_number = h.acknowledgment_number.wrapping_sub(delta);
            h.window_size = shifted(h.window_size, shift);
        })
    }

    /// A segment of the backend's as the client gets it.
    pub fn returned(&self, packet: &Packet) -> Packet {
        let (delta, shift) = (self.delta(), self.shifts().0);
        packet.clone().from(self.gateway).to(self.client).hop().macs(Port::Ext0.mac(), Port::Ext0.peer_mac()).header(
            |h| {
                h.sequence_number = h.sequence_number.wrapping_add(delta);
                h.window_size = shifted(h.window_size, shift);
            },
        )
    }

    /// What is added to the backend's sequence numbers.
    pub fn delta(&self) -> u32 {
        self.cookie.wrapping_sub(BACKEND_ISN)
    }

    /// How far the window fields of the backend and of the client are shifted to the left.
    pub fn shifts(&self) -> (i32, i32) {
        match (self.offer.scale, self.answer.scale) {
            // Nobody scales without the client.
            (None, _) => (0, 0),
            (Some(_), Some(scale)) => (i32::from(scale.min(14)) - i32::from(OWN_SCALE), 0),
            (Some(scale), None) => (-i32::from(OWN_SCALE), i32::from(scale.min(14))),
        }
    }

    // The steps of a connection through `ingress_tc`.

    /// SYN and SYN-ACK; learns the cookie.
    #[track_caller]
    pub fn accepted(&mut self, lab: &mut Lab, hook: Hook) -> Result<()> {
        let mtu = if self.place == Place::Remote { EXT1_MTU } else { 1500 };
        self.accepted_with(lab, hook, &self.syn(), mtu)
    }

    #[track_caller]
    pub fn accepted_with(&mut self, lab: &mut Lab, hook: Hook, syn: &Packet, mtu: u16) -> Result<()> {
        let offered = match &syn.body {
            crate::packet::Body::Tcp(header, payload) => header.options.len() + payload.len(),
            other => panic!("not TCP: {other:?}"),
        };
        // XDP does not lengthen frames, and knows no flow that has ended: that is TC's.
        let known = lab.flow(&self.forward_key())?.is_some();
        let mut outcome = lab.run(hook, Port::Ext0, &syn.frame())?;
        if hook == Hook::Xdp && (known || offered < self.own_options()) {
            outcome.untouched();
            outcome = lab.tc(Port::Ext0, &syn.frame())?;
        }
        assert_eq!(outcome.went(), Went::Out, "{:?}", outcome.reasons);
        let answer = Segment::read(&outcome.frame)?;
        assert_eq!(answer.offer()?, self.own_offer(mtu), "offer of the SYN-ACK");
        self.cookie = answer.seq;
        let proof = cookie::check(&COOKIE_KEY, &self.forward_key(), self.isn, answer.seq, now()?);
        let kept = self.offer_to_backend();
        let options = cookie::Options::new(self.version == Version::V6, kept.mss.unwrap_or(0), kept.sack, kept.scale);
        assert_eq!(proof, cookie::Proof::Client(options), "what the SYN-ACK's number says");
        let wanted = self.own("SA", 0, 0, HELLO_BYTES as u16).header(|h| {
            h.sequence_number = answer.seq;
            h.set_options_raw(&answer.options).expect("as they were");
        });
        outcome.replied(&Packet { tos: syn.tos, ..wanted });
        Ok(())
    }

    /// The handshake, to the bare ACK.
    #[track_caller]
    pub fn opened(&mut self, lab: &mut Lab) -> Result<()> {
        self.accepted(lab, Hook::Tc)?;
        lab.tc(Port::Ext0, &self.up("A", 0, 0).frame())?.consumed();
        Ok(())
    }

    /// The client sends this, and it becomes the SYN to the backend.
    #[track_caller]
    pub fn connects(&mut self, lab: &mut Lab, packet: &Packet) -> Result<()> {
        let outcome = lab.tc(Port::Ext0, &packet.frame())?;
        self.is_syn(&outcome, packet)
    }

    /// This became the SYN to the backend; learns the translated port.
    #[track_caller]
    pub fn is_syn(&mut self, outcome: &Outcome, packet: &Packet) -> Result<()> {
        assert!(
            outcome.went() == Went::Out && outcome.reasons.is_empty(),
            "{:?} with {:?}, wanted a SYN to the backend",
            outcome.went(),
            outcome.reasons
        );
        let syn = Segment::read(&outcome.frame)?;
        if self.peer.port() == 0 {
            let port = syn.from.port();
            assert!(matches!(port, 1024..=32_767 | 61_000..), "source port {port} is not one of the gateway's");
            self.peer.set_port(port);
        }
        assert_eq!(syn.offer()?, self.offer_to_backend(), "offer of the SYN to the backend");
        let wanted = self.syn_to_backend().header(|h| h.set_options_raw(&syn.options).expect("as they were"));
        outcome.forwarded(&Packet { tos: packet.tos, ..wanted });
        Ok(())
    }

    /// A connection whose whole hello is in the slot and whose SYN is out.
    #[track_caller]
    pub fn connecting(&mut self, lab: &mut Lab) -> Result<Vec<u8>> {
        let hello = self.hello();
        self.connecting_with(lab, &hello)?;
        Ok(hello)
    }

    #[track_caller]
    pub fn connecting_with(&mut self, lab: &mut Lab, hello: &[u8]) -> Result<()> {
        self.opened(lab)?;
        self.connects(lab, &self.up("PA", 0, 0).data(hello))
    }

    /// The backend has sent its SYN-ACK and got the first bytes: as many as the longest segment, all in one frame.
    #[track_caller]
    pub fn replaying(&mut self, lab: &mut Lab) -> Result<Vec<u8>> {
        let hello = self.connecting(lab)?;
        let outcome = lab.tc(self.place.port(), &self.syn_ack().frame())?;
        outcome.forwarded(&self.first_piece(&hello));
        Ok(hello)
    }

    /// PROXY header and hello in one segment.
    pub fn first_piece(&self, hello: &[u8]) -> Packet {
        let header = if self.prelude == 0 { Vec::new() } else { self.proxy_header() };
        self.own_to_backend("PA", -(self.prelude as i32), 0, shifted(self.window, self.shifts().1))
            .data(&[&header[..], hello].concat())
    }

    /// Everything to ESTABLISHED; answers how long the hello was.
    #[track_caller]
    pub fn established(&mut self, lab: &mut Lab) -> Result<u32> {
        let length = self.replaying(lab)?.len() as u32;
        self.backend_sends(lab, &self.down("A", 0, length))?;
        Ok(length)
    }

    #[track_caller]
    pub fn client_sends(&self, lab: &mut Lab, packet: &Packet) -> Result<()> {
        lab.tc(Port::Ext0, &packet.frame())?.forwarded(&self.forwarded(packet));
        Ok(())
    }

    #[track_caller]
    pub fn backend_sends(&self, lab: &mut Lab, packet: &Packet) -> Result<()> {
        lab.tc(self.place.port(), &packet.frame())?.forwarded(&self.returned(packet));
        Ok(())
    }

    // What the maps say.

    pub fn forward_key(&self) -> FlowKey {
        key(self.client, self.gateway, TCP)
    }

    pub fn reply_key(&self) -> FlowKey {
        key(self.backends[self.at], self.peer, TCP)
    }

    /// Both halves, in the same table, in the same state, and right.
    #[track_caller]
    pub fn halves(&self, lab: &mut Lab) -> Result<(Table, Flow, Flow)> {
        let (table, forward) = lab.flow(&self.forward_key())?.context("no forward half")?;
        let (reply_table, reply) = lab.flow(&self.reply_key())?.context("no reply half")?;
        assert_eq!(table, reply_table, "the halves are in different tables");
        assert_eq!(forward.state, reply.state, "the halves' states");
        for (name, half, from, to) in
            [("forward", &forward, self.peer, self.backends[self.at]), ("reply", &reply, self.gateway, self.client)]
        {
            let rewritten = FlowKey {
                source: half.source,
                destination: half.destination,
                source_port: half.source_port,
                destination_port: half.destination_port,
                protocol: TCP,
                ..FlowKey::default()
            };
            assert_eq!(rewritten, key(from, to, TCP), "{name} half rewrites to");
            assert_eq!((half.backend, half.listener), (self.id(self.at), self.by_name), "{name} half");
            assert_eq!(half.flags & flow_flags::LOCAL != 0, self.place == Place::Pod, "{name} half: LOCAL");
            assert_eq!(half.flags & flow_flags::REPLY != 0, name == "reply", "{name} half: REPLY");
            assert_ne!(half.flags & flow_flags::SPLICED, 0, "{name} half: SPLICED");
        }
        Ok((table, forward, reply))
    }

    /// Both halves are in FLOWS in this state.
    #[track_caller]
    pub fn in_state(&self, lab: &mut Lab, state: u8) -> Result<()> {
        let (table, forward, _) = self.halves(lab)?;
        assert_eq!((table, forward.state), (Table::Flows, state));
        Ok(())
    }

    /// Nothing is kept of any connection.
    #[track_caller]
    pub fn nothing(&self, lab: &mut Lab) -> Result<()> {
        assert_eq!(lab.flows(Table::Flows)?, vec![]);
        assert_eq!(lab.flows(Table::Embryonic)?, vec![]);
        assert_eq!(lab.handshakes()?, vec![]);
        assert!(lab.hello(&self.forward_key())?.is_none(), "a slot is still taken");
        Ok(())
    }

    /// Makes the slot look as if the last SYN or piece had gone out so many ns ago.
    pub fn age(&self, lab: &mut Lab, age: u64) -> Result<()> {
        ensure!(self.age_pending(lab, age)?, "no slot is this client's");
        Ok(())
    }

    /// The same if the connection has a slot; answers whether it has.
    pub fn age_pending(&self, lab: &mut Lab, age: u64) -> Result<bool> {
        let Some((_, flow)) = lab.flow(&self.forward_key())? else { return Ok(false) };
        if !matches!(flow.state, flow_state::CONNECTING | flow_state::REPLAYING) {
            return Ok(false);
        }
        let mut hello = lab.hello_at(flow.handshake)?;
        hello.sent_at = hello.sent_at.saturating_sub(age);
        hello.last_seen = hello.last_seen.saturating_sub(age);
        lab.put_hello(flow.handshake, hello)?;
        Ok(true)
    }
}

/// A window field in another scale, as far as 16 bits go.
pub fn shifted(field: u16, shift: i32) -> u16 {
    let exact = f64::from(field) * 2f64.powi(shift);
    exact.min(65_535.0) as u16
}
