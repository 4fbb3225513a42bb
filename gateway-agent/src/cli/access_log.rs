//! `--access-log`: a JSON line a connection that was opened, closed or refused.

use std::cell::RefCell;
use std::fs::{File, OpenOptions};
use std::io::{self, BufWriter, Write};
use std::net::SocketAddr;
use std::path::Path;

use anyhow::Context;
use gateway_common::{Address, Event, Reason, event_kind};
use jiff::Timestamp;
use rustix::time::{ClockId, clock_gettime};
use serde::Serialize;

use crate::admin::{Names, view};
use crate::agent::Agent;
use crate::datapath::Events;
use crate::emit::maps::ip;

pub struct AccessLog {
    events: Events,
    to: BufWriter<Box<dyn Write>>,
}

/// Most events written at a time, so that other work goes on.
const BURST: usize = 4096;

/// Where to write; `-` is standard output.
pub fn open(path: &Path) -> anyhow::Result<Box<dyn Write>> {
    Ok(if path == Path::new("-") {
        Box::new(io::stdout())
    } else {
        Box::new(append(path).with_context(|| format!("cannot write the access log {}", path.display()))?)
    })
}

impl AccessLog {
    pub fn new(to: Box<dyn Write>, events: Events) -> AccessLog {
        AccessLog { events, to: BufWriter::new(to) }
    }

    /// Writes what has come since the last call.
    pub fn write(&mut self, agent: &RefCell<Agent>) -> io::Result<()> {
        let Some(first) = self.events.next() else { return Ok(()) };
        let mut agent = agent.borrow_mut();
        let names = agent.names();
        let boot = boot_time();
        for event in std::iter::once(first).chain(&mut self.events).take(BURST) {
            serde_json::to_writer(&mut self.to, &line(&event, names, boot))?;
            self.to.write_all(b"\n")?;
        }
        self.to.flush()
    }
}

fn append(path: &Path) -> io::Result<File> {
    OpenOptions::new().create(true).append(true).open(path)
}

/// When the monotonic clock was 0, ns since 1970.
fn boot_time() -> i128 {
    let ns = |clock| {
        let time = clock_gettime(clock);
        i128::from(time.tv_sec) * 1_000_000_000 + i128::from(time.tv_nsec)
    };
    ns(ClockId::Realtime) - ns(ClockId::Monotonic)
}

#[derive(Debug, Serialize)]
struct Line<'a> {
    time: String,
    event: &'static str,
    protocol: &'static str,
    client: SocketAddr,
    gateway: SocketAddr,
    #[serde(skip_serializing_if = "Option::is_none")]
    listener: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    service: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    backend: Option<SocketAddr>,
    /// Why it was refused, or the state it ended in.
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    bytes_in: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    bytes_out: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    packets: Option<u64>,
}

fn line<'a>(event: &Event, names: &'a Names, boot: i128) -> Line<'a> {
    let socket = |address: Address, port: u16| SocketAddr::new(ip(address), port);
    let closed = event.kind == event_kind::CLOSED;
    let time = Timestamp::from_nanosecond(boot + i128::from(event.time)).unwrap_or_default();
    Line {
        time: format!("{time:.6}"),
        event: match event.kind {
            event_kind::OPENED => "opened",
            event_kind::CLOSED => "closed",
            event_kind::REFUSED => "refused",
            _ => "unknown",
        },
        protocol: view::protocol(event.client.protocol),
        client: socket(event.client.source, event.client.source_port),
        gateway: socket(event.client.destination, event.client.destination_port),
        listener: names.listener(event.listener),
        service: names.service(event.backend),
        backend: names.backends.get(&event.backend).map(|b| socket(b.key.address, b.key.port)),
        reason: match event.kind {
            event_kind::REFUSED => Reason::from_index(event.detail).map(Reason::name),
            event_kind::CLOSED => Some(view::state(event.detail as u8)),
            _ => None,
        },
        bytes_in: closed.then_some(event.bytes_in),
        bytes_out: closed.then_some(event.bytes_out),
        packets: closed.then_some(event.packets),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use gateway_common::{FlowKey, protocol};

    #[test]
    fn a_refused_connection_says_why() {
        let client = FlowKey {
            source: Address::v4([198, 18, 0, 1]),
            destination: Address::v4([198, 19, 0, 1]),
            source_port: 4000,
            destination_port: 80,
            protocol: protocol::TCP,
            _pad: [0; 3],
        };
        let detail = Reason::NoBackend as u32;
        let event = Event { time: 1_500_000_000, client, kind: event_kind::REFUSED, detail, ..Event::default() };
        let names = Names::default();
        let text = serde_json::to_string(&line(&event, &names, 0)).unwrap();
        let expected = r#"{"time":"1970-01-01T00:00:01.500000Z","event":"refused","protocol":"TCP","client":"198.18.0.1:4000","gateway":"198.19.0.1:80","reason":"no_backend"}"#;
        assert_eq!(text, expected);
    }
}
