//! What the programs say about connections, for people and for those who watch.

use std::cell::RefCell;
use std::net::SocketAddr;

use gateway_common::{Event, Reason, event_kind};
use hyper::body::Bytes;
use jiff::Timestamp;
use serde::Serialize;
use tokio::sync::{Notify, mpsc};

use super::dump::socket;
use super::{Names, view};

/// An event as a JSON line has it.
#[derive(Debug, Serialize)]
pub struct Line<'a> {
    time: String,
    event: &'static str,
    protocol: &'static str,
    client: SocketAddr,
    gateway: SocketAddr,
    #[serde(skip_serializing_if = "Option::is_none")]
    server_name: Option<&'a str>,
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

/// `boot`: when the monotonic clock was 0, ns since 1970.
pub fn line<'a>(event: &'a Event, names: &'a Names, boot: i128) -> Line<'a> {
    let closed = event.kind == event_kind::CLOSED;
    let time = Timestamp::from_nanosecond(boot + i128::from(event.time)).unwrap_or_default();
    let name = event.name.split(|byte| *byte == 0).next().unwrap_or_default();
    Line {
        time: format!("{time:.6}"),
        event: match event.kind {
            event_kind::OPENED => "opened",
            event_kind::CLOSED => "closed",
            event_kind::REFUSED => "refused",
            event_kind::RETRIED => "retried",
            event_kind::DELIVERED => "delivered",
            _ => "unknown",
        },
        protocol: view::protocol(event.client.protocol),
        client: socket(event.client.source, event.client.source_port),
        gateway: socket(event.client.destination, event.client.destination_port),
        // The programs look at letters only as far as they need: what a client sends may be anything.
        server_name: std::str::from_utf8(name).ok().filter(|name| !name.is_empty()),
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

/// Those who want to see events as they come.
#[derive(Default)]
pub struct Watchers {
    present: RefCell<Vec<Watcher>>,
    joined: Notify,
}

struct Watcher {
    lines: mpsc::Sender<Bytes>,
    /// It knows that nothing is missed from here on.
    greeted: bool,
    /// Lines that it was too slow for.
    missed: u64,
}

/// Lines that wait for a watcher.
const PATIENCE: usize = 4096;

impl Watchers {
    pub fn join(&self) -> mpsc::Receiver<Bytes> {
        let (lines, receiver) = mpsc::channel(PATIENCE);
        self.present.borrow_mut().push(Watcher { lines, greeted: false, missed: 0 });
        self.joined.notify_one();
        receiver
    }

    /// Returns when there is a new one.
    pub async fn joined(&self) {
        self.joined.notified().await;
    }

    /// Says to new ones that events come from now on.
    pub fn greet(&self) {
        for watcher in self.present.borrow_mut().iter_mut().filter(|w| !w.greeted) {
            watcher.greeted = true;
            watcher.send(Bytes::from_static(b"{\"event\":\"watching\"}\n"));
        }
    }

    /// Whether nobody is there any more.
    pub fn is_empty(&self) -> bool {
        let mut present = self.present.borrow_mut();
        present.retain(|watcher| !watcher.lines.is_closed());
        present.is_empty()
    }

    pub fn send(&self, line: &Bytes) {
        self.present.borrow_mut().iter_mut().for_each(|watcher| watcher.send(line.clone()));
    }
}

impl Watcher {
    fn send(&mut self, line: Bytes) {
        if self.missed > 0 {
            let told = format!("{{\"event\":\"missed\",\"events\":{}}}\n", self.missed);
            if self.lines.try_send(told.into()).is_ok() {
                self.missed = 0;
            }
        }
        self.missed += u64::from(self.lines.try_send(line).is_err());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use gateway_common::{Address, EVENT_NAME, FlowKey, protocol};

    fn event(kind: u8, detail: Reason, name: &[u8]) -> Event {
        let client = FlowKey {
            source: Address::v4([198, 18, 0, 1]),
            destination: Address::v4([198, 19, 0, 1]),
            source_port: 4000,
            destination_port: 80,
            protocol: protocol::TCP,
            _pad: [0; 3],
        };
        let mut event = Event { time: 1_500_000_000, client, kind, detail: detail as u32, ..Event::default() };
        event.name[..name.len().min(EVENT_NAME)].copy_from_slice(name);
        event
    }

    #[test]
    fn a_refused_connection_says_why() {
        let names = Names::default();
        let event = event(event_kind::REFUSED, Reason::NoBackend, b"a.example");
        let text = serde_json::to_string(&line(&event, &names, 0)).unwrap();
        let expected = r#"{"time":"1970-01-01T00:00:01.500000Z","event":"refused","protocol":"TCP","client":"198.18.0.1:4000","gateway":"198.19.0.1:80","server_name":"a.example","reason":"no_backend"}"#;
        assert_eq!(text, expected);
    }

    #[test]
    fn a_watcher_that_is_too_slow_is_told_how_much_it_missed() {
        let watchers = Watchers::default();
        let mut lines = watchers.join();
        watchers.greet();
        for n in 0..PATIENCE + 5 {
            watchers.send(&Bytes::from(format!("{n}\n")));
        }
        assert_eq!(lines.try_recv().unwrap(), "{\"event\":\"watching\"}\n");
        assert_eq!(lines.try_recv().unwrap(), "0\n");
        watchers.send(&Bytes::from_static(b"last\n"));
        let rest: Vec<Bytes> = std::iter::from_fn(|| lines.try_recv().ok()).collect();
        assert_eq!(rest[rest.len() - 2..], ["{\"event\":\"missed\",\"events\":6}\n", "last\n"]);
        drop(lines);
        assert!(watchers.is_empty());
    }
}
