//! The unix socket of the command line: one line asks, JSON answers until the end of the stream. An answer that cannot be
//! made is `{"error": "…"}`.

use std::cell::RefCell;
use std::io::{self, Write};
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use gateway_common::{Address, FlowKey, backend_flags, flow_flags, listener_kind, slot};
use hashbrown::HashMap;
use rustix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};

use super::stream::{Reader, Writer, stream};
use super::{Snapshot, Subject, view};
use crate::emit::maps::ip;

/// What can be asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Query {
    Status,
    Listeners,
    Sets,
    Backends,
    Flows,
}

/// Serves until it is dropped.
pub async fn serve<S: Subject + 'static>(listener: UnixListener, subject: Rc<RefCell<S>>) {
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            tokio::time::sleep(Duration::from_millis(100)).await;
            continue;
        };
        let subject = Rc::clone(&subject);
        tokio::task::spawn_local(async move {
            let answered = tokio::time::timeout(Duration::from_secs(60), answer(stream, subject)).await;
            if let Ok(Err(error)) = answered {
                tracing::debug!(%error, "a client of the admin socket has gone");
            }
        });
    }
}

async fn answer<S: Subject>(mut stream: UnixStream, subject: Rc<RefCell<S>>) -> io::Result<()> {
    let mut line = String::new();
    BufReader::new((&mut stream).take(1024)).read_line(&mut line).await?;
    let mut answer = match serde_json::from_str::<Query>(&line) {
        Ok(query) => respond(query, &*subject.borrow()),
        Err(error) => self::stream(move |writer| {
            let error = format!("the agent does not know this question ({error}); is it of another version?");
            json(writer, &serde_json::json!({ "error": error }))
        }),
    };
    while let Some(part) = answer.next().await {
        stream.write_all(&part).await?;
    }
    stream.shutdown().await
}

fn respond(query: Query, subject: &impl Subject) -> Reader {
    if query == Query::Status {
        let status = subject.status();
        return stream(move |writer| json(writer, &status));
    }
    let snapshot = subject.snapshot();
    stream(move |writer| match query {
        Query::Listeners => listeners(&snapshot, writer),
        Query::Sets => sets(&snapshot, writer),
        Query::Backends => backends(&snapshot, writer),
        Query::Flows => flows(&snapshot, writer),
        Query::Status => Ok(()),
    })
}

fn json(writer: &mut Writer, value: &impl Serialize) -> io::Result<()> {
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

fn listeners(snapshot: &Snapshot, writer: &mut Writer) -> io::Result<()> {
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
                _ => "unknown",
            },
            id: value.id,
            name: snapshot.names.listener(value.id),
            backend_set: value.backend_set,
        });
    }
    array.end()
}

fn sets(snapshot: &Snapshot, writer: &mut Writer) -> io::Result<()> {
    let mut users: HashMap<u32, Vec<String>> = HashMap::new();
    snapshot.contents.listeners(|_, value| {
        if value.backend_set != 0 {
            let name = snapshot.names.listener(value.id).unwrap_or_else(|| format!("listener {}", value.id));
            users.entry(value.backend_set).or_default().push(name);
        }
    })?;
    let mut all: Vec<(u32, Vec<String>)> = users.into_iter().collect();
    all.sort_unstable();
    let mut array = Array::new(writer);
    for (id, mut listeners) in all {
        listeners.sort_unstable();
        listeners.dedup();
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

fn members(snapshot: &Snapshot, table: &[u32], nested: &[u32]) -> Vec<view::Member> {
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

fn backend_name(snapshot: &Snapshot, id: u32) -> String {
    let Some(backend) = snapshot.names.backends.get(&id) else { return format!("backend {id}") };
    let endpoint = SocketAddr::new(ip(backend.key.address), backend.key.port);
    match &backend.service {
        Some(service) => format!("{service} {endpoint}"),
        None => endpoint.to_string(),
    }
}

fn backends(snapshot: &Snapshot, writer: &mut Writer) -> io::Result<()> {
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
            source: (value.source != Address::UNSET).then(|| ip(value.source)),
            ifindex: Some(value.ifindex).filter(|i| *i != 0),
            counters: snapshot.counters.backend(id)?.into(),
        });
    }
    array.end()
}

fn flows(snapshot: &Snapshot, writer: &mut Writer) -> io::Result<()> {
    let now = clock_gettime(ClockId::Monotonic);
    let now = now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64;
    let socket = |address: Address, port: u16| SocketAddr::new(ip(address), port).to_string();
    let mut array = Array::new(writer);
    snapshot.contents.flows(|key: &FlowKey, flow| {
        if flow.flags & flow_flags::REPLY != 0 {
            return;
        }
        array.push(&view::Flow {
            protocol: view::protocol(key.protocol),
            client: socket(key.source, key.source_port),
            gateway: socket(key.destination, key.destination_port),
            source: socket(flow.source, flow.source_port),
            backend: socket(flow.destination, flow.destination_port),
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
