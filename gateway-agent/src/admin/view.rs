//! What the command line gets to see, as JSON.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use gateway_common::{Counter, agent_backend, flow_state, names, protocol};
use serde::{Serialize, Serializer};

use super::requests::Http;
use crate::apply::{Capacity, Fill};
use crate::datapath::Interface;
use crate::emit::status::ObjectStatus;
use crate::proxy::{self, Refusal};

/// `sluice status`.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Status {
    pub node: Arc<str>,
    pub version: &'static str,
    /// The first compile is in the maps.
    pub ready: bool,
    pub objects: Vec<ObjectStatus>,
    /// By `namespace/gateway/listener`.
    pub listeners: BTreeMap<String, Counts>,
    pub server_names: NamesOfListeners,
    /// By Service port, then by endpoint.
    pub backends: BTreeMap<String, BTreeMap<String, Counts>>,
    /// Packets refused or dropped, by reason; reasons that did not occur are left out.
    pub refused_packets: BTreeMap<&'static str, u64>,
    pub proxy: Proxy,
    pub http: Http,
    pub maps: Vec<MapFill>,
    /// Of the pool.
    pub addresses: Vec<PoolAddress>,
    #[serde(serialize_with = "interfaces")]
    pub interfaces: Vec<Interface>,
    pub problems: Vec<String>,
}

/// That a Gateway has.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct PoolAddress {
    pub address: IpAddr,
    /// This node answers for it on its links.
    pub held: bool,
    /// Another machine says that it has it.
    pub contested: bool,
}

/// By `namespace/gateway/listener`, then by server name.
pub type NamesOfListeners = BTreeMap<String, BTreeMap<String, NameOfListener>>;

#[derive(Clone, Debug, Serialize)]
pub struct NameOfListener {
    /// `None`: no route takes it; it is refused.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub route: Option<Arc<str>>,
    pub mode: &'static str,
    pub hits: u64,
}

/// What a listener or a backend has done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Counts {
    pub picked: u64,
    pub established: u64,
    /// Established and not ended.
    pub live: u64,
    pub refused: u64,
    pub packets_in: u64,
    pub packets_out: u64,
    pub bytes_in: u64,
    pub bytes_out: u64,
}

impl From<Counter> for Counts {
    fn from(c: Counter) -> Counts {
        Counts {
            picked: c.picked,
            established: c.established,
            live: c.established.saturating_sub(c.closed),
            refused: c.refused,
            packets_in: c.packets_in,
            packets_out: c.packets_out,
            bytes_in: c.bytes_in,
            bytes_out: c.bytes_out,
        }
    }
}

/// Connections that the agent takes itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Proxy {
    pub accepted: u64,
    pub live: u64,
    /// The most at a time.
    pub capacity: usize,
    /// Passed on as they came.
    pub relayed: u64,
    /// Passed on after TLS.
    pub terminated: u64,
    pub connects_failed: u64,
    /// Of the payload, as the backends have it.
    pub bytes_in: u64,
    pub bytes_out: u64,
    /// By reason; reasons that did not occur are left out.
    pub refused: BTreeMap<&'static str, u64>,
}

impl From<&proxy::Counters> for Proxy {
    fn from(c: &proxy::Counters) -> Proxy {
        let refused = Refusal::ALL.into_iter().map(|reason| (reason.name(), c.refused(reason)));
        Proxy {
            accepted: c.accepted.get(),
            live: c.live(),
            capacity: c.capacity(),
            relayed: c.relayed.get(),
            terminated: c.terminated.get(),
            connects_failed: c.connects_failed.get(),
            bytes_in: c.bytes_in.get(),
            bytes_out: c.bytes_out.get(),
            refused: refused.filter(|(_, count)| *count > 0).collect(),
        }
    }
}

#[derive(Clone, Copy, Debug, Serialize)]
pub struct MapFill {
    pub map: &'static str,
    pub entries: u64,
    pub capacity: u64,
}

/// The maps that the agent fills, with id 0 left out.
pub fn fill(fill: &Fill, capacity: &Capacity) -> Vec<MapFill> {
    let map = |map, entries: u32, capacity: u32| MapFill { map, entries: entries.into(), capacity: capacity.into() };
    vec![
        map(names::LISTENERS, fill.listener_addresses, capacity.listeners),
        map(names::LISTENER_COUNTERS, fill.listeners, capacity.listener_ids - 1),
        map(names::SNI, fill.names, capacity.names),
        map(names::BACKEND_SETS, fill.sets, capacity.sets - 1),
        map(names::SLOTS, fill.slots, capacity.slots),
        map(names::BACKENDS, fill.backends, capacity.backends - agent_backend::FIRST_OTHER),
    ]
}

/// `sluice maps listeners`.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Listener {
    pub address: IpAddr,
    /// 0: the entry of an address, which belongs to Gateways alone or is shared with the node.
    pub port: u16,
    pub protocol: &'static str,
    pub kind: &'static str,
    pub id: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    pub backend_set: u32,
    /// TLS: the smallest on the ways to the backends, if it is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mtu: Option<u16>,
}

/// `sluice maps sni`.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ServerName {
    pub address: IpAddr,
    pub port: u16,
    pub name: String,
    pub mode: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub listener: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub route: Option<Arc<str>>,
    /// 0: no route takes the name; it is refused.
    pub backend_set: u32,
    pub hits: u64,
}

/// `sluice maps hellos`: a ClientHello under way.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Hello {
    pub slot: u32,
    pub client: SocketAddr,
    pub gateway: SocketAddr,
    /// From the first one without a hole.
    pub bytes: u32,
    pub state: &'static str,
    /// Backends tried.
    pub attempts: u8,
    /// Since the last packet.
    pub idle_seconds: f64,
}

/// `sluice maps handshakes`: a client that has proved its address and said nothing yet, or was refused.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Handshake {
    pub client: SocketAddr,
    pub gateway: SocketAddr,
    /// What its SYN offered.
    pub mss: u16,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub window_scale: Option<u8>,
    pub sack: bool,
    /// The TLS alert that it was refused with.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub alert: Option<u8>,
}

/// `sluice maps sets`.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Set {
    pub id: u32,
    pub offset: u32,
    pub length: u16,
    pub nested: u16,
    /// Names of the listeners that have it.
    pub listeners: Vec<String>,
    pub members: Vec<Member>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Member {
    /// 0: none, the share is refused.
    pub backend: u32,
    pub name: String,
    /// Share of new connections, as the slots give it.
    pub share: f64,
}

/// `sluice maps backends`.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Backend {
    pub id: u32,
    pub address: IpAddr,
    pub port: u16,
    pub protocol: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub service: Option<String>,
    pub local: bool,
    pub proxy_protocol: bool,
    /// The node's address towards it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub source: Option<IpAddr>,
    /// The host end of the pod's veth pair.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ifindex: Option<u32>,
    pub counters: Counts,
}

/// `sluice maps flows`: a connection, from the client's side.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Flow {
    pub protocol: &'static str,
    pub client: String,
    pub gateway: String,
    /// What the backend sees as the client.
    pub source: String,
    pub backend: String,
    pub state: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub listener: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub service: Option<String>,
    pub packets: u64,
    pub bytes: u64,
    pub idle_seconds: f64,
}

pub fn protocol(number: u8) -> &'static str {
    match number {
        protocol::TCP => "TCP",
        protocol::UDP => "UDP",
        _ => "any",
    }
}

pub fn state(state: u8) -> &'static str {
    match state {
        flow_state::NEW => "new",
        flow_state::ESTABLISHED => "established",
        flow_state::HALF_CLOSED => "half-closed",
        flow_state::CLOSED => "closed",
        flow_state::RESET => "reset",
        flow_state::GONE => "endpoint-gone",
        flow_state::CONNECTING => "connecting",
        flow_state::REPLAYING => "replaying",
        _ => "unknown",
    }
}

/// As `{name, external, tc, xdp, problem}`.
fn interfaces<S: Serializer>(interfaces: &[Interface], serializer: S) -> Result<S::Ok, S::Error> {
    #[derive(Serialize)]
    struct View<'a> {
        name: &'a str,
        external: bool,
        tc: Option<&'static str>,
        xdp: Option<&'static str>,
        #[serde(skip_serializing_if = "Option::is_none")]
        problem: Option<&'a str>,
    }
    serializer.collect_seq(interfaces.iter().map(|i| View {
        name: &i.name,
        external: i.external,
        tc: i.tc.as_ref().ok().copied(),
        xdp: i.xdp.as_ref().ok().copied(),
        problem: i.tc.as_ref().err().map(String::as_str),
    }))
}
