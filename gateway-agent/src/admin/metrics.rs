//! `/metrics` in the OpenMetrics text format. Nothing is kept for it: the counters are in the maps.

use std::io;

use gateway_common::{Counter, names};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric, text};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

use super::stream::Writer;
use super::{Snapshot, view};
use crate::emit::maps::ip;

pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// How long each step from a change to the maps took.
#[derive(Clone, Debug)]
pub struct Durations {
    pub compile: Histogram,
    pub apply: Histogram,
}

impl Default for Durations {
    fn default() -> Durations {
        const SECONDS: [f64; 10] = [0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.2, 1.0];
        Durations { compile: Histogram::new(SECONDS), apply: Histogram::new(SECONDS) }
    }
}

pub fn write(snapshot: Snapshot, writer: &mut Writer) -> io::Result<()> {
    let mut registry = Registry::with_prefix("sluice");
    registry.register("compile_duration_seconds", "From changed objects to the IR", snapshot.durations.compile.clone());
    registry.register("apply_duration_seconds", "From the IR to the maps", snapshot.durations.apply.clone());
    registry.register_collector(Box::new(Scrape::new(snapshot)?));
    text::encode(writer, &registry).map_err(io::Error::other)
}

/// What one scrape has read.
#[derive(Debug)]
struct Scrape {
    listeners: Vec<([(&'static str, String); 3], Counter)>,
    backends: Vec<([(&'static str, String); 4], Counter)>,
    drops: Vec<(&'static str, u64)>,
    events_lost: u64,
    fill: Vec<view::MapFill>,
    objects: Vec<(&'static str, usize)>,
    interfaces: usize,
    problems: usize,
}

impl Scrape {
    fn new(snapshot: Snapshot) -> io::Result<Scrape> {
        let counters = &snapshot.counters;
        let mut listeners = Vec::with_capacity(snapshot.names.listeners.len());
        let mut live = 0;
        for (id, name) in &snapshot.names.listeners {
            let labels = [
                ("namespace", name.namespace.to_string()),
                ("gateway", name.gateway.to_string()),
                ("listener", name.section.to_string()),
            ];
            let counter = counters.listener(*id)?;
            live += counter.established.saturating_sub(counter.closed);
            listeners.push((labels, counter));
        }
        listeners.sort_unstable_by(|a, b| a.0.cmp(&b.0));
        let mut backends = Vec::with_capacity(snapshot.names.backends.len());
        for (id, name) in &snapshot.names.backends {
            let labels = [
                ("service", name.service.as_deref().unwrap_or_default().to_owned()),
                ("address", ip(name.key.address).to_string()),
                ("port", name.key.port.to_string()),
                ("protocol", view::protocol(name.key.protocol).to_owned()),
            ];
            backends.push((labels, counters.backend(*id)?));
        }
        backends.sort_unstable_by(|a, b| a.0.cmp(&b.0));
        let mut fill = view::fill(&snapshot.fill, &snapshot.capacity);
        fill.push(view::MapFill { map: names::FLOWS, entries: live * 2, capacity: counters.flow_capacity().into() });
        Ok(Scrape {
            listeners,
            backends,
            drops: counters.drops()?.into_iter().map(|(reason, packets)| (reason.name(), packets)).collect(),
            events_lost: counters.events_lost()?,
            fill,
            objects: snapshot.objects,
            interfaces: snapshot.interfaces,
            problems: snapshot.problems,
        })
    }
}

/// Name, help, and the values by the label that tells them apart (empty: there is no such label).
type Measure = (&'static str, &'static str, &'static [(&'static str, fn(&Counter) -> u64)]);

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
        let mut objects = encoder.encode_descriptor("objects", "Objects by kind", None, MetricType::Gauge)?;
        for (kind, count) in &self.objects {
            ConstGauge::new(*count as i64).encode(objects.encode_family(&[("kind", *kind)])?)?;
        }
        single_gauge(&mut encoder, "interfaces", "Interfaces with programs on them", self.interfaces)?;
        single_gauge(&mut encoder, "problems", "Things that are wrong with manifests or maps", self.problems)
    }
}

fn family<const N: usize>(
    encoder: &mut DescriptorEncoder,
    name: &str,
    help: &str,
    values: &[(&'static str, fn(&Counter) -> u64)],
    rows: &[([(&'static str, String); N], Counter)],
) -> std::fmt::Result {
    let mut family = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
    for (labels, counter) in rows {
        for (direction, value) in values {
            let labels = Labels { object: labels, direction };
            ConstCounter::new(value(counter)).encode(family.encode_family(&labels)?)?;
        }
    }
    Ok(())
}

#[derive(Debug)]
struct Labels<'a, const N: usize> {
    object: &'a [(&'static str, String); N],
    /// Empty: none.
    direction: &'static str,
}

impl<const N: usize> EncodeLabelSet for Labels<'_, N> {
    fn encode(&self, encoder: &mut prometheus_client::encoding::LabelSetEncoder) -> std::fmt::Result {
        self.object.as_slice().encode(encoder)?;
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
