//! What is in the maps, with the names of the objects behind the ids.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Write};
use std::net::SocketAddr;
use std::sync::Arc;

use gateway_common::cookie::Options;
use gateway_common::{
    Address, FlowKey, Hello, SniKey, SniName, backend_flags, flow_flags, listener_kind, slot, sni_mode,
};
use hashbrown::HashMap;
use rustix::time::{ClockId, clock_gettime};
use serde::Serialize;

use super::stream::Writer;
use super::{Snapshot, view};
use crate::emit::maps::ip;

/// The routes behind server names.
pub type Routes = HashMap<SniKey, Arc<str>>;

pub fn json(writer: &mut Writer, value: &impl Serialize) -> io::Result<()> {
    serde_json::to_writer(writer, value).map_err(io::Error::from)
}

/// A JSON array, written element by element.
struct Array<'a> {
    writer: &'a mut Writer,
    elements: usize,
    result: io::Result<()>,
}

impl<'a> Array<'a> {
    fn new(writer: &'a mut Writer) -> Array<'a> {
        let result = writer.write_all(b"[");
        Array { writer, elements: 0, result }
    }

    fn push(&mut self, value: &impl Serialize) {
        if self.result.is_ok() {
            let comma: &[u8] = if self.elements == 0 { b"" } else { b"," };
            self.result = self.writer.write_all(comma).and_then(|()| json(self.writer, value));
            self.elements += 1;
        }
    }

    fn end(self) -> io::Result<()> {
        self.result.and_then(|()| self.writer.write_all(b"]"))
    }
}

pub fn listeners(snapshot: &Snapshot, writer: &mut Writer) -> io::Result<()> {
    let mut all = Vec::new();
    snapshot.contents.listeners(|key, value| all.push((*key, *value)))?;
    all.sort_unstable_by_key(|(key, _)| *key);
    let mut array = Array::new(writer);
    for (key, value) in all {
        array.push(&view::Listener {
            address: ip(key.address),
            port: key.port,
            protocol: view::protocol(key.protocol),
            kind: match value.kind {
                listener_kind::L4 => "L4",
                listener_kind::EXCLUSIVE => "exclusive",
                listener_kind::SHARED => "shared",
                listener_kind::TLS => "TLS",
                listener_kind::L7 => "L7",
                _ => "unknown",
            },
            id: value.id,
            name: snapshot.names.listener(value.id),
            backend_set: value.backend_set,
            mtu: Some(value.mtu).filter(|mtu| *mtu != 0),
        });
    }
    array.end()
}

pub fn sets(snapshot: &Snapshot, writer: &mut Writer) -> io::Result<()> {
    let mut users: BTreeMap<u32, BTreeSet<u32>> = BTreeMap::new();
    snapshot.contents.listeners(|_, value| {
        users.entry(value.backend_set).or_default().insert(value.id);
    })?;
    snapshot.contents.names(|_, name| {
        users.entry(name.backend_set).or_default().insert(name.listener);
    })?;
    users.remove(&0);
    let mut array = Array::new(writer);
    for (id, listeners) in users {
        let name = |id| snapshot.names.listener(id).unwrap_or_else(|| format!("listener {id}"));
        let mut listeners: Vec<String> = listeners.into_iter().map(name).collect();
        listeners.sort_unstable();
        let set = snapshot.contents.set(id)?;
        let slots = snapshot.contents.slots(set)?;
        let (table, nested) = slots.split_at(usize::from(set.length));
        array.push(&view::Set {
            id,
            offset: set.offset,
            length: set.length,
            nested: set.nested,
            listeners,
            members: members(snapshot, table, nested),
        });
    }
    array.end()
}

pub fn members(snapshot: &Snapshot, table: &[u32], nested: &[u32]) -> Vec<view::Member> {
    let mut shares: HashMap<u32, f64> = HashMap::new();
    for slot in table {
        *shares.entry(*slot).or_default() += 1.0 / table.len() as f64;
    }
    let of_nested = shares.remove(&slot::NESTED).unwrap_or(0.0);
    for slot in nested {
        *shares.entry(*slot).or_default() += of_nested / nested.len() as f64;
    }
    let member = |(slot, share): (u32, f64)| {
        let (backend, name) = match slot {
            slot::INVALID => (0, "invalid backendRef".to_owned()),
            0 | slot::FIRST_SPECIAL.. => (0, "no ready endpoint".to_owned()),
            id => (id, backend_name(snapshot, id)),
        };
        view::Member { backend, name, share }
    };
    let mut members: Vec<_> = shares.into_iter().map(member).collect();
    members.sort_unstable_by(|a, b| a.name.cmp(&b.name));
    members
}

pub fn backend_name(snapshot: &Snapshot, id: u32) -> String {
    let Some(backend) = snapshot.names.backends.get(&id) else { return format!("backend {id}") };
    let endpoint = SocketAddr::new(ip(backend.key.address), backend.key.port);
    match &backend.service {
        Some(service) => format!("{service} {endpoint}"),
        None => endpoint.to_string(),
    }
}

pub fn backends(snapshot: &Snapshot, writer: &mut Writer) -> io::Result<()> {
    let mut all = Vec::new();
    snapshot.contents.backends(|id, value| all.push((id, *value)))?;
    all.sort_unstable_by_key(|(id, _)| *id);
    let mut array = Array::new(writer);
    for (id, value) in all {
        array.push(&view::Backend {
            id,
            address: ip(value.address),
            port: value.port,
            protocol: view::protocol(value.protocol),
            service: snapshot.names.service(id).map(str::to_owned),
            local: value.flags & backend_flags::LOCAL != 0,
            proxy_protocol: value.flags & backend_flags::PROXY != 0,
            source: (value.source != Address::UNSET).then(|| ip(value.source)),
            ifindex: Some(value.ifindex).filter(|i| *i != 0),
            counters: snapshot.counters.backend(id)?.into(),
        });
    }
    array.end()
}

pub fn flows(snapshot: &Snapshot, writer: &mut Writer) -> io::Result<()> {
    let now = now();
    let mut array = Array::new(writer);
    snapshot.contents.flows(|key: &FlowKey, flow| {
        if flow.flags & flow_flags::REPLY != 0 {
            return;
        }
        array.push(&view::Flow {
            protocol: view::protocol(key.protocol),
            client: socket(key.source, key.source_port).to_string(),
            gateway: socket(key.destination, key.destination_port).to_string(),
            source: socket(flow.source, flow.source_port).to_string(),
            backend: socket(flow.destination, flow.destination_port).to_string(),
            state: view::state(flow.state),
            listener: snapshot.names.listener(flow.listener),
            service: snapshot.names.service(flow.backend).map(str::to_owned),
            packets: flow.packets,
            bytes: flow.bytes,
            idle_seconds: now.saturating_sub(flow.last_seen) as f64 / 1e9,
        });
    })?;
    array.end()
}

/// Sorted by address, port and name.
pub fn names(snapshot: &Snapshot, routes: &Routes, writer: &mut Writer) -> io::Result<()> {
    let mut all: Vec<(SniKey, String, SniCounts)> = Vec::new();
    snapshot.contents.names(|key, name| all.push((*key, name_text(name), SniCounts::of(name))))?;
    all.sort_unstable_by(|(a, a_name, _), (b, b_name, _)| {
        (a.address, a.port, a_name).cmp(&(b.address, b.port, b_name))
    });
    let mut array = Array::new(writer);
    for (key, name, of) in all {
        array.push(&view::ServerName {
            address: ip(key.address),
            port: key.port,
            name,
            mode: mode(of.mode),
            listener: snapshot.names.listener(of.listener),
            route: routes.get(&key).cloned(),
            backend_set: of.backend_set,
            hits: of.hits,
        });
    }
    array.end()
}

/// An entry of SNI without its name: they may be many.
#[derive(Clone, Copy)]
struct SniCounts {
    mode: u8,
    listener: u32,
    backend_set: u32,
    hits: u64,
}

impl SniCounts {
    fn of(name: &SniName) -> SniCounts {
        let SniName { mode, listener, backend_set, hits, .. } = *name;
        SniCounts { mode, listener, backend_set, hits }
    }
}

/// Of every listener its names, those of several addresses added up.
pub fn names_of_listeners(snapshot: &Snapshot, routes: &Routes) -> io::Result<view::NamesOfListeners> {
    let mut all = view::NamesOfListeners::new();
    snapshot.contents.names(|key, name| {
        let Some(listener) = snapshot.names.listener(name.listener) else { return };
        let of = all.entry(listener).or_default().entry(name_text(name)).or_insert_with(|| view::NameOfListener {
            route: routes.get(key).cloned(),
            mode: mode(name.mode),
            hits: 0,
        });
        of.hits += name.hits;
    })?;
    Ok(all)
}

pub fn name_text(name: &SniName) -> String {
    let text = name.name.split(|byte| *byte == 0).next().unwrap_or_default();
    String::from_utf8_lossy(text).into_owned()
}

pub fn mode(mode: u8) -> &'static str {
    match mode {
        sni_mode::PASSTHROUGH => "passthrough",
        sni_mode::TERMINATE => "terminate",
        sni_mode::HTTPS => "HTTPS",
        _ => "unknown",
    }
}

pub fn hellos(snapshot: &Snapshot, writer: &mut Writer) -> io::Result<()> {
    let now = now();
    let mut array = Array::new(writer);
    snapshot.contents.hellos(|slot, hello| {
        array.push(&view::Hello {
            slot,
            client: socket(hello.client.source, hello.client.source_port),
            gateway: socket(hello.client.destination, hello.client.destination_port),
            bytes: hello.length,
            state: hello_state(hello),
            attempts: hello.attempts,
            idle_seconds: now.saturating_sub(hello.last_seen) as f64 / 1e9,
        });
    })?;
    array.end()
}

fn hello_state(hello: &Hello) -> &'static str {
    match (hello.attempts, hello.sent) {
        (0, _) => "reading",
        (_, 0) => "connecting",
        _ => "replaying",
    }
}

pub fn handshakes(snapshot: &Snapshot, writer: &mut Writer) -> io::Result<()> {
    let mut array = Array::new(writer);
    snapshot.contents.handshakes(|key, handshake| {
        let options = Options(handshake.options);
        array.push(&view::Handshake {
            client: socket(key.source, key.source_port),
            gateway: socket(key.destination, key.destination_port),
            mss: options.mss(!key.source.is_v4()),
            window_scale: options.scale(),
            sack: options.sack(),
            alert: Some(handshake.alert).filter(|alert| *alert != 0),
        });
    })?;
    array.end()
}

pub fn socket(address: Address, port: u16) -> SocketAddr {
    SocketAddr::new(ip(address), port)
}

/// Of the monotonic clock, ns.
fn now() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}
