//! One client, one listener, one backend: the frames each of them sends and what must become of them.

use std::net::{IpAddr, SocketAddr};

use anyhow::{Context, Result};
use gateway_common::{Backend, Flow, FlowKey, backend_flags, flow_flags, protocol};

use crate::lab::{Lab, Table};
use crate::net::{Port, Version, map_address, port_of};
use crate::outcome::{Outcome, Went};
use crate::packet::Packet;

/// Where the backend is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// On the node: DNAT only.
    Pod,
    /// Behind another interface: SNAT.
    Remote,
    /// On the interface the client is on: SNAT, out where it came in.
    Near,
}

impl Place {
    pub const ALL: [Place; 3] = [Place::Pod, Place::Remote, Place::Near];

    pub fn port(self) -> Port {
        match self {
            Place::Pod => Port::Pod0,
            Place::Remote => Port::Ext1,
            Place::Near => Port::Ext0,
        }
    }

    pub fn address(self, version: Version) -> IpAddr {
        match self {
            Place::Pod => version.pod(),
            Place::Remote => version.remote(),
            Place::Near => version.near(),
        }
    }

    /// The node's address towards the backend.
    pub fn source(self, version: Version) -> IpAddr {
        match self {
            Place::Pod | Place::Near => version.node(),
            Place::Remote => version.node_ext1(),
        }
    }

    /// The map entry of a backend here.
    pub fn entry(self, version: Version, protocol: u8, port: u16) -> Backend {
        Backend {
            address: map_address(self.address(version)),
            source: map_address(self.source(version)),
            port,
            flags: if self == Place::Pod { backend_flags::LOCAL } else { 0 },
            protocol,
            ifindex: 0,
        }
    }
}

pub const BACKEND: u32 = 1;
/// The client's and the backend's initial sequence numbers.
pub const CLIENT_ISN: u32 = 1_000;
pub const BACKEND_ISN: u32 = 0xffff_fff0;

#[derive(Clone, Debug)]
pub struct Scene {
    pub version: Version,
    pub protocol: u8,
    pub place: Place,
    pub client: SocketAddr,
    pub gateway: SocketAddr,
    pub backend: SocketAddr,
    /// Whom the backend takes for its peer; the port is known after the first packet where it is translated.
    pub peer: SocketAddr,
    pub listener: u32,
    pub set: u32,
}

/// Both halves of the flow.
#[derive(Clone, Copy, Debug)]
pub struct Halves {
    pub table: Table,
    pub forward: Flow,
    pub reply: Flow,
}

impl Scene {
    /// Fills the maps: an address of its own, one listener, one backend.
    pub fn new(lab: &mut Lab, version: Version, protocol: u8, place: Place) -> Result<Scene> {
        let backend = port_of(place.address(version), 8080);
        lab.exclusive(version.gateway())?;
        lab.backend(BACKEND, place.entry(version, protocol, backend.port()))?;
        let set = lab.set(&[BACKEND], &[])?;
        let gateway = port_of(version.gateway(), 80);
        let listener = lab.listener(gateway, protocol, set)?;
        let client = port_of(version.client(), 40_000);
        let peer = if place == Place::Pod { client } else { port_of(place.source(version), 0) };
        Ok(Scene { version, protocol, place, client, gateway, backend, peer, listener, set })
    }

    /// The same from another port of the client.
    pub fn client_port(&self, port: u16) -> Scene {
        let client = port_of(self.client.ip(), port);
        let peer = if self.place == Place::Pod { client } else { self.peer };
        Scene { client, peer, ..self.clone() }
    }

    // What the hosts send.

    /// A TCP segment from the client.
    pub fn up(&self, flags: &str, seq: u32, ack: u32) -> Packet {
        self.sent_by_client(Packet::tcp(self.client, self.gateway, flags, seq, ack))
    }

    /// A TCP segment from the backend.
    pub fn down(&self, flags: &str, seq: u32, ack: u32) -> Packet {
        self.sent_by_backend(Packet::tcp(self.backend, self.peer, flags, seq, ack))
    }

    /// A datagram from the client.
    pub fn request(&self, payload: &[u8]) -> Packet {
        self.sent_by_client(Packet::udp(self.client, self.gateway, payload))
    }

    /// A datagram from the backend.
    pub fn response(&self, payload: &[u8]) -> Packet {
        self.sent_by_backend(Packet::udp(self.backend, self.peer, payload))
    }

    /// The first packet a client sends: a SYN with the usual options, or a datagram.
    pub fn opening(&self) -> Packet {
        match self.protocol {
            protocol::TCP => self.up("S", CLIENT_ISN, 0).header(|header| {
                // MSS 1460, SACK permitted, timestamps, window scale 7.
                let options = [2, 4, 5, 180, 4, 2, 8, 10, 0, 1, 2, 3, 0, 0, 0, 0, 1, 3, 3, 7];
                header.set_options_raw(&options).expect("40 bytes at most");
            }),
            _ => self.request(b"who is there?"),
        }
    }

    /// The backend's answer to [`Scene::opening`].
    pub fn opening_answer(&self) -> Packet {
        match self.protocol {
            protocol::TCP => self.down("SA", BACKEND_ISN, CLIENT_ISN + 1),
            _ => self.response(b"it is I"),
        }
    }

    /// The client's packet that confirms the flow.
    pub fn confirmation(&self) -> Packet {
        match self.protocol {
            protocol::TCP => self.up("A", CLIENT_ISN + 1, BACKEND_ISN.wrapping_add(1)),
            _ => self.request(b"and who else?"),
        }
    }

    pub fn sent_by_client(&self, packet: Packet) -> Packet {
        packet.macs(Port::Ext0.peer_mac(), Port::Ext0.mac())
    }

    pub fn sent_by_backend(&self, packet: Packet) -> Packet {
        packet.macs(self.place.port().peer_mac(), self.place.port().mac())
    }

    // What must become of it.

    /// A packet of the client as the backend gets it.
    pub fn forwarded(&self, packet: &Packet) -> Packet {
        let port = self.place.port();
        packet.clone().from(self.peer).to(self.backend).hop().macs(port.mac(), port.peer_mac())
    }

    /// A packet of the backend as the client gets it.
    pub fn returned(&self, packet: &Packet) -> Packet {
        packet.clone().from(self.gateway).to(self.client).hop().macs(Port::Ext0.mac(), Port::Ext0.peer_mac())
    }

    // Sending through `ingress_tc`.

    /// Sends what opens the flow and learns the translated port.
    #[track_caller]
    pub fn start(&mut self, lab: &mut Lab, packet: &Packet) -> Result<()> {
        let outcome = lab.tc(Port::Ext0, &packet.frame())?;
        self.learn(&outcome, packet)?;
        outcome.forwarded(&self.forwarded(packet));
        Ok(())
    }

    /// Reads the translated source port from a frame that went to the backend.
    pub fn learn(&mut self, outcome: &Outcome, packet: &Packet) -> Result<()> {
        if self.peer.port() == 0 && outcome.went() == Went::Out {
            let extensions: usize = packet.extensions.iter().map(|(_, content)| content.len() + 2).sum();
            let at = 14 + self.version.header() + packet.options.len() + extensions;
            let port = outcome.frame.get(at..at + 2).context("the frame has no transport header")?;
            let port = u16::from_be_bytes([port[0], port[1]]);
            assert!(matches!(port, 1024..=32_767 | 61_000..), "source port {port} is not one of the gateway's");
            self.peer.set_port(port);
        }
        Ok(())
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

    /// Brings the flow into FLOWS.
    #[track_caller]
    pub fn establish(&mut self, lab: &mut Lab) -> Result<()> {
        self.start(lab, &self.opening())?;
        self.backend_sends(lab, &self.opening_answer())?;
        self.client_sends(lab, &self.confirmation())?;
        assert_eq!(self.halves(lab)?.table, Table::Flows);
        Ok(())
    }

    // The flow in the maps.

    pub fn forward_key(&self) -> FlowKey {
        key(self.client, self.gateway, self.protocol)
    }

    pub fn reply_key(&self) -> FlowKey {
        key(self.backend, self.peer, self.protocol)
    }

    /// Both halves, which must be in the same table and say the same.
    #[track_caller]
    pub fn halves(&self, lab: &mut Lab) -> Result<Halves> {
        let (table, forward) = lab.flow(&self.forward_key())?.context("no forward half")?;
        let (reply_table, reply) = lab.flow(&self.reply_key())?.context("no reply half")?;
        assert_eq!(table, reply_table, "the halves are in different tables");
        assert_eq!(
            rewrite(&forward, self.protocol),
            key(self.peer, self.backend, self.protocol),
            "forward half rewrites to"
        );
        assert_eq!(
            rewrite(&reply, self.protocol),
            key(self.gateway, self.client, self.protocol),
            "reply half rewrites to"
        );
        for (name, half) in [("forward", &forward), ("reply", &reply)] {
            assert_eq!((half.backend, half.listener), (BACKEND, self.listener), "{name} half");
            assert_eq!(half.flags & flow_flags::LOCAL != 0, self.place == Place::Pod, "{name} half: LOCAL");
            assert_eq!(half.flags & flow_flags::REPLY != 0, name == "reply", "{name} half: REPLY");
        }
        assert_eq!(forward.state, reply.state, "both halves carry the same state");
        Ok(Halves { table, forward, reply })
    }

    /// Neither half is anywhere.
    #[track_caller]
    pub fn gone(&self, lab: &mut Lab) -> Result<()> {
        assert_eq!(lab.flow(&self.forward_key())?, None, "forward half");
        assert_eq!(lab.flow(&self.reply_key())?, None, "reply half");
        Ok(())
    }

    /// Makes both halves look as if their last packet had come so many ns ago.
    pub fn age(&self, lab: &mut Lab, age: u64) -> Result<()> {
        let halves = self.halves(lab)?;
        self.age_one(lab, &self.forward_key(), halves.forward, age)?;
        self.age_one(lab, &self.reply_key(), halves.reply, age)
    }

    /// Makes the routes of both halves look as if they had been looked up so many ns ago.
    pub fn age_routes(&self, lab: &mut Lab, age: u64) -> Result<()> {
        for key in [self.forward_key(), self.reply_key()] {
            let (table, mut flow) = lab.flow(&key)?.context("no such half")?;
            flow.route.checked = crate::lab::now()? - age;
            lab.put_flow(table, &key, &flow)?;
        }
        Ok(())
    }

    pub fn age_one(&self, lab: &mut Lab, key: &FlowKey, flow: Flow, age: u64) -> Result<()> {
        let (table, _) = lab.flow(key)?.context("no such half")?;
        let last_seen = crate::lab::now()?.checked_sub(age).context("the machine has not run that long")?;
        lab.put_flow(table, key, &Flow { last_seen, ..flow })
    }
}

pub fn key(from: SocketAddr, to: SocketAddr, protocol: u8) -> FlowKey {
    FlowKey {
        source: map_address(from.ip()),
        destination: map_address(to.ip()),
        source_port: from.port(),
        destination_port: to.port(),
        protocol,
        ..FlowKey::default()
    }
}

/// The 5-tuple a half rewrites to; the protocol stays.
fn rewrite(flow: &Flow, protocol: u8) -> FlowKey {
    FlowKey {
        source: flow.source,
        destination: flow.destination,
        source_port: flow.source_port,
        destination_port: flow.destination_port,
        protocol,
        ..FlowKey::default()
    }
}
