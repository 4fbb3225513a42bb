//! `/metrics` in the OpenMetrics text format. Nothing is kept for it: the counters are in the maps.

use std::io;

use gateway_common::{Counter, names};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric, LabelSetEncoder, text};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

use super::requests::Requests;
use super::stream::Writer;
use super::{BackendName, Snapshot, view};
use crate::apply::status::Counts;
use crate::emit::maps::ip;
use crate::ir::ListenerName;
use crate::panics;
use crate::proxy::Refusal;

pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// How long each step from a change to the maps took.
#[derive(Clone, Debug)]
pub struct Durations {
    /// All of it, from the moment that a change was heard of.
    pub change: Histogram,
    pub compile: Histogram,
    pub apply: Histogram,
}

impl Default for Durations {
    fn default() -> Durations {
        const SECONDS: [f64; 10] = [0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.2, 1.0];
        Durations { change: Histogram::new(SECONDS), compile: Histogram::new(SECONDS), apply: Histogram::new(SECONDS) }
    }
}

pub fn write(snapshot: Snapshot, writer: &mut Writer) -> io::Result<()> {
    let mut registry = Registry::with_prefix("sluice");
    let help = "From hearing of a change to the maps";
    registry.register("change_duration_seconds", help, snapshot.durations.change.clone());
    registry.register("compile_duration_seconds", "From changed objects to the IR", snapshot.durations.compile.clone());
    registry.register("apply_duration_seconds", "From the IR to the maps", snapshot.durations.apply.clone());
    registry.register_collector(Box::new(Scrape::new(snapshot)?));
    text::encode(writer, &registry).map_err(io::Error::other)
}

/// What one scrape has read.
#[derive(Debug)]
struct Scrape {
    listeners: Vec<(ListenerName, Counter)>,
    backends: Vec<(BackendName, Counter)>,
    drops: Vec<(&'static str, u64)>,
    events_lost: u64,
    fill: Vec<view::MapFill>,
    memory: Vec<(&'static str, u64)>,
    objects: Vec<(&'static str, usize)>,
    addresses: Vec<view::PoolAddress>,
    interfaces: usize,
    problems: usize,
    statuses: Counts,
    proxy: view::Proxy,
    proxy_refused: Vec<(&'static str, u64)>,
    requests: Requests,
}

impl Scrape {
    fn new(snapshot: Snapshot) -> io::Result<Scrape> {
        let counters = &snapshot.counters;
        let mut listeners = Vec::with_capacity(snapshot.names.listeners.len());
        let mut live = 0;
        for (id, name) in snapshot.names.listeners {
            let counter = counters.listener(id)?;
            live += counter.established.saturating_sub(counter.closed);
            listeners.push((name, counter));
        }
        listeners.sort_unstable_by(|a, b| a.0.cmp(&b.0));
        let mut backends = Vec::with_capacity(snapshot.names.backends.len());
        for (id, name) in snapshot.names.backends {
            backends.push((name, counters.backend(id)?));
        }
        backends.sort_unstable_by(|(a, _), (b, _)| (&a.service, a.key).cmp(&(&b.service, b.key)));
        let proxy = snapshot.proxy.counters();
        let mut fill = view::fill(&snapshot.fill, &snapshot.capacity);
        fill.push(view::MapFill { map: names::FLOWS, entries: live * 2, capacity: counters.flow_capacity().into() });
        let mut hellos = 0;
        snapshot.contents.hellos(|_, _| hellos += 1)?;
        // Slot 0 is not used.
        let capacity = u64::from(counters.hello_capacity()) - 1;
        fill.push(view::MapFill { map: names::HELLOS, entries: hellos, capacity });
        Ok(Scrape {
            listeners,
            backends,
            drops: counters.drops()?.into_iter().map(|(reason, packets)| (reason.name(), packets)).collect(),
            events_lost: counters.events_lost()?,
            fill,
            memory: counters.memory()?,
            objects: snapshot.objects,
            addresses: snapshot.addresses,
            interfaces: snapshot.interfaces,
            problems: snapshot.problems,
            statuses: snapshot.statuses,
            proxy: proxy.into(),
            proxy_refused: Refusal::ALL.iter().map(|reason| (reason.name(), proxy.refused(*reason))).collect(),
            requests: Requests::read(&snapshot.proxy.http()),
        })
    }
}

/// A value, and the label that tells it from the others of its kind (empty: there is no such label).
type Value = (&'static str, fn(&Counter) -> u64);
/// Name, help and values.
type Measure = (&'static str, &'static str, &'static [Value]);

const MEASURES: &[Measure] = &[
    ("picked", "New flows that got a backend", &[("", |c| c.picked)]),
    ("established", "Flows that both ends confirmed", &[("", |c| c.established)]),
    ("closed", "Established flows that ended", &[("", |c| c.closed)]),
    ("packets", "Packets forwarded", &[("in", |c| c.packets_in), ("out", |c| c.packets_out)]),
    ("bytes", "Bytes of IP packets forwarded", &[("in", |c| c.bytes_in), ("out", |c| c.bytes_out)]),
];

impl Collector for Scrape {
    fn encode(&self, mut encoder: DescriptorEncoder) -> std::fmt::Result {
        for (name, help, values) in MEASURES {
            family(&mut encoder, &format!("listener_{name}"), help, values, &self.listeners)?;
        }
        family(&mut encoder, "listener_refused", "New flows refused", &[("", |c| c.refused)], &self.listeners)?;
        for (name, help, values) in MEASURES {
            family(&mut encoder, &format!("backend_{name}"), help, values, &self.backends)?;
        }
        let mut drops = encoder.encode_descriptor(
            "packets_refused",
            "Packets refused or dropped, by reason",
            None,
            MetricType::Counter,
        )?;
        for (reason, packets) in &self.drops {
            ConstCounter::new(*packets).encode(drops.encode_family(&[("reason", *reason)])?)?;
        }
        single_counter(&mut encoder, "events_lost", "Events for the access log that found no room", self.events_lost)?;
        let mut entries =
            encoder.encode_descriptor("map_entries", "Entries of a map that are in use", None, MetricType::Gauge)?;
        for map in &self.fill {
            ConstGauge::new(map.entries as i64).encode(entries.encode_family(&[("map", map.map)])?)?;
        }
        let mut capacity =
            encoder.encode_descriptor("map_capacity", "Entries that a map has room for", None, MetricType::Gauge)?;
        for map in &self.fill {
            ConstGauge::new(map.capacity as i64).encode(capacity.encode_family(&[("map", map.map)])?)?;
        }
        let mut memory = encoder.encode_descriptor("map_bytes", "Kernel memory of a map", None, MetricType::Gauge)?;
        for (map, bytes) in &self.memory {
            ConstGauge::new(*bytes as i64).encode(memory.encode_family(&[("map", *map)])?)?;
        }
        let mut objects = encoder.encode_descriptor("objects", "Objects by kind", None, MetricType::Gauge)?;
        for (kind, count) in &self.objects {
            ConstGauge::new(*count as i64).encode(objects.encode_family(&[("kind", *kind)])?)?;
        }
        let count = |counts: fn(&view::PoolAddress) -> bool| self.addresses.iter().filter(|a| counts(a)).count();
        let help = "Addresses of the pool that this node answers for";
        single_gauge(&mut encoder, "pool_addresses_held", help, count(|address| address.held))?;
        let help = "Of these, those that another machine claims";
        single_gauge(&mut encoder, "pool_addresses_contested", help, count(|address| address.contested))?;
        single_gauge(&mut encoder, "interfaces", "Interfaces with programs on them", self.interfaces)?;
        let help = "Defects of the agent that cost a connection each; the log says where";
        single_counter(&mut encoder, "panics", help, panics::outlived())?;
        single_gauge(&mut encoder, "problems", "Things that are wrong with manifests or maps", self.problems)?;
        written(&mut encoder, &self.statuses)?;
        proxy(&mut encoder, &self.proxy, &self.proxy_refused)?;
        self.requests.encode(&mut encoder)
    }
}

/// To the API server.
fn written(encoder: &mut DescriptorEncoder, statuses: &Counts) -> std::fmt::Result {
    let help = "This agent writes the statuses of the cluster";
    single_gauge(encoder, "status_writer", help, usize::from(statuses.leader))?;
    let mut writes =
        encoder.encode_descriptor("status_writes", "Statuses written, by kind", None, MetricType::Counter)?;
    for (kind, count) in &statuses.writes {
        ConstCounter::new(*count).encode(writes.encode_family(&[("kind", kind.to_string())])?)?;
    }
    single_counter(encoder, "status_failures", "Statuses that could not be written at once", statuses.failures)
}

fn proxy(encoder: &mut DescriptorEncoder, proxy: &view::Proxy, refusals: &[(&'static str, u64)]) -> std::fmt::Result {
    single_counter(encoder, "proxy_accepted", "Connections that the agent took itself", proxy.accepted)?;
    single_counter(encoder, "proxy_relayed", "Of these, passed on to a backend as they came", proxy.relayed)?;
    single_counter(encoder, "proxy_terminated", "Of these, passed on to a backend after TLS", proxy.terminated)?;
    let mut refused = encoder.encode_descriptor(
        "proxy_refused",
        "Of these, refused or ended before they reached a backend, by reason",
        None,
        MetricType::Counter,
    )?;
    for (reason, count) in refusals {
        ConstCounter::new(*count).encode(refused.encode_family(&[("reason", *reason)])?)?;
    }
    let help = "Backends that took no connection from the agent";
    single_counter(encoder, "proxy_connects_failed", help, proxy.connects_failed)?;
    let help = "Payload passed on by the agent, as the backends have it";
    let mut bytes = encoder.encode_descriptor("proxy_bytes", help, None, MetricType::Counter)?;
    for (direction, count) in [("in", proxy.bytes_in), ("out", proxy.bytes_out)] {
        ConstCounter::new(count).encode(bytes.encode_family(&[("direction", direction)])?)?;
    }
    single_gauge(encoder, "proxy_connections", "Connections that go through the agent", proxy.live as usize)?;
    single_gauge(encoder, "proxy_capacity", "Connections that may go through the agent at a time", proxy.capacity)
}

fn family<Name: Labels>(
    encoder: &mut DescriptorEncoder,
    name: &str,
    help: &str,
    values: &[Value],
    rows: &[(Name, Counter)],
) -> std::fmt::Result {
    let mut family = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
    for (name, counter) in rows {
        for (direction, value) in values {
            let labels = Row { name, direction };
            ConstCounter::new(value(counter)).encode(family.encode_family(&labels)?)?;
        }
    }
    Ok(())
}

/// The labels of an object. They are many, so that they are written out one object at a time.
trait Labels {
    fn encode(&self, encoder: &mut LabelSetEncoder) -> std::fmt::Result;
}

impl Labels for ListenerName {
    fn encode(&self, encoder: &mut LabelSetEncoder) -> std::fmt::Result {
        [("namespace", &*self.namespace), ("gateway", &*self.gateway), ("listener", &*self.section)]
            .as_slice()
            .encode(encoder)
    }
}

impl Labels for BackendName {
    fn encode(&self, encoder: &mut LabelSetEncoder) -> std::fmt::Result {
        let service = self.service.as_deref().unwrap_or_default();
        let (address, port) = (ip(self.key.address).to_string(), self.key.port.to_string());
        [
            ("service", service),
            ("address", &*address),
            ("port", &*port),
            ("protocol", view::protocol(self.key.protocol)),
        ]
        .as_slice()
        .encode(encoder)
    }
}

struct Row<'a, Name> {
    name: &'a Name,
    /// Empty: there is no such label.
    direction: &'static str,
}

impl<Name: Labels> EncodeLabelSet for Row<'_, Name> {
    fn encode(&self, encoder: &mut LabelSetEncoder) -> std::fmt::Result {
        self.name.encode(encoder)?;
        let direction = [("direction", self.direction)];
        direction[..usize::from(!self.direction.is_empty())].as_ref().encode(encoder)
    }
}

fn single_counter(encoder: &mut DescriptorEncoder, name: &str, help: &str, value: u64) -> std::fmt::Result {
    let counter = ConstCounter::new(value);
    counter.encode(encoder.encode_descriptor(name, help, None, MetricType::Counter)?)
}

fn single_gauge(encoder: &mut DescriptorEncoder, name: &str, help: &str, value: usize) -> std::fmt::Result {
    let gauge = ConstGauge::new(value as i64);
    gauge.encode(encoder.encode_descriptor(name, help, None, MetricType::Gauge)?)
}
