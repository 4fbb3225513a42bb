//! HTTP as metrics and `sluice status` have it: what the workers have counted, added up.

use std::collections::BTreeMap;

use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric, LabelSetEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use serde::Serialize;

use crate::proxy::http::answer::Reason;
use crate::proxy::http::metrics::{Histogram, Labels, SIZES, Sum, TIMES};
use crate::proxy::http::places::Place;
use crate::proxy::http::snapshot::Snapshot;

/// All of it at one time.
#[derive(Debug)]
pub struct Requests {
    series: Vec<(Labels, Sum)>,
    places: Vec<(Place, usize)>,
    refused: Vec<(&'static str, u64)>,
    connections: u64,
    closed: u64,
    abandoned: u64,
    lines_lost: u64,
    memory: u64,
    tunnels: u64,
    tunnels_open: u64,
    /// Inwards and outwards.
    tunnel_bytes: [u64; 2],
}

impl Requests {
    pub fn read(snapshot: &Snapshot) -> Requests {
        let shared = &snapshot.shared;
        // What nothing can count any more is told no more.
        shared.retain(|labels| snapshot.has(labels));
        // In this order, so that none is closed before it was opened.
        let closed = shared.total(|worker| worker.closed.get());
        let tunnels_closed = shared.total(|worker| worker.tunnels_closed.get());
        let tunnels = shared.total(|worker| worker.tunnels.get());
        let refused = |reason: &Reason| (reason.name(), shared.total(|worker| worker.answered(*reason)));
        Requests {
            series: shared.sums(),
            places: shared.lives.read(),
            refused: Reason::ALL.iter().map(refused).collect(),
            connections: shared.total(|worker| worker.connections.get()),
            closed,
            abandoned: shared.total(|worker| worker.abandoned.get()),
            lines_lost: shared.total(|worker| worker.lines_lost.get()),
            memory: shared.total(|worker| worker.memory.get()),
            tunnels,
            tunnels_open: tunnels.saturating_sub(tunnels_closed),
            tunnel_bytes: [
                shared.total(|worker| worker.tunnel_bytes_in.get()),
                shared.total(|worker| worker.tunnel_bytes_out.get()),
            ],
        }
    }

    pub fn encode(&self, encoder: &mut DescriptorEncoder) -> std::fmt::Result {
        let help = "Requests answered, by listener, rule, backend and class of status";
        let mut requests = encoder.encode_descriptor("http_requests", help, None, MetricType::Counter)?;
        for (labels, sum) in &self.series {
            for (class, count) in sum.classes.iter().enumerate().filter(|(_, count)| **count > 0) {
                let class = format!("{class}xx");
                let code = Some(("code", &*class));
                ConstCounter::new(*count).encode(requests.encode_family(&Row { labels, code })?)?;
            }
        }
        let help = "Calls of gRPC, by listener, rule, backend and their own status";
        let mut calls = encoder.encode_descriptor("grpc_requests", help, None, MetricType::Counter)?;
        for (labels, sum) in &self.series {
            for (status, count) in sum.calls.iter().enumerate().filter(|(_, count)| **count > 0) {
                let status = status.to_string();
                let code = Some(("grpc_status", &*status));
                ConstCounter::new(*count).encode(calls.encode_family(&Row { labels, code })?)?;
            }
        }
        let help = "Requests sent again, to another endpoint or for a rule's retry";
        let mut retries = encoder.encode_descriptor("http_retries", help, None, MetricType::Counter)?;
        for (labels, sum) in &self.series {
            ConstCounter::new(sum.retries).encode(retries.encode_family(&Row { labels, code: None })?)?;
        }
        let mut active =
            encoder.encode_descriptor("http_requests_active", "Requests under way", None, MetricType::Gauge)?;
        for (labels, sum) in &self.series {
            ConstGauge::new(sum.active as i64).encode(active.encode_family(&Row { labels, code: None })?)?;
        }
        let times = TIMES.map(|micros| micros as f64 / 1e6);
        let help = "From the head of a request to the head of its answer";
        self.histogram(encoder, "http_first_byte_seconds", help, &times, 1e-6, |sum| &sum.first_byte)?;
        let help = "From the head of a request to the last byte of its answer";
        self.histogram(encoder, "http_request_duration_seconds", help, &times, 1e-6, |sum| &sum.whole)?;
        let sizes = SIZES.map(|bytes| bytes as f64);
        let help = "Bytes of the bodies of requests";
        self.histogram(encoder, "http_request_size_bytes", help, &sizes, 1.0, |sum| &sum.request_size)?;
        let help = "Bytes of the bodies of answers";
        self.histogram(encoder, "http_response_size_bytes", help, &sizes, 1.0, |sum| &sum.response_size)?;
        self.of_workers(encoder)
    }

    fn of_workers(&self, encoder: &mut DescriptorEncoder) -> std::fmt::Result {
        let help = "Requests that the agent answered by itself or broke off, by reason";
        let mut refused = encoder.encode_descriptor("http_refused", help, None, MetricType::Counter)?;
        for (reason, count) in &self.refused {
            ConstCounter::new(*count).encode(refused.encode_family(&[("reason", *reason)])?)?;
        }
        let help = "Connections by where they wanted to go";
        let mut live = encoder.encode_descriptor("http_connections_active", help, None, MetricType::Gauge)?;
        for (place, count) in &self.places {
            let (address, port) = (place.gateway.ip().to_string(), place.gateway.port().to_string());
            let listener = place.listener.as_ref().map(ToString::to_string).unwrap_or_default();
            let labels = [("address", &*address), ("port", &*port), ("listener", &*listener)];
            ConstGauge::new(*count as i64).encode(live.encode_family(&labels)?)?;
        }
        let help = "Upgraded connections that are open";
        let open = encoder.encode_descriptor("http_upgraded_connections_active", help, None, MetricType::Gauge)?;
        ConstGauge::new(self.tunnels_open as i64).encode(open)?;
        let help = "What clients make the agent keep, by estimate; --proxy-memory is its limit";
        let memory = encoder.encode_descriptor("http_memory_bytes", help, None, MetricType::Gauge)?;
        ConstGauge::new(self.memory as i64).encode(memory)?;
        let help = "Bytes that upgraded connections have moved";
        let mut moved = encoder.encode_descriptor("http_upgraded_bytes", help, None, MetricType::Counter)?;
        for (direction, bytes) in ["in", "out"].into_iter().zip(self.tunnel_bytes) {
            ConstCounter::new(bytes).encode(moved.encode_family(&[("direction", direction)])?)?;
        }
        for (name, help, count) in [
            ("http_connections", "Connections of clients that speak HTTP", self.connections),
            ("http_upgraded_connections", "Connections that became a WebSocket or the like", self.tunnels),
            ("http_abandoned", "Requests whose clients went before the answer", self.abandoned),
            ("http_access_log_lost", "Lines that came faster than they were written", self.lines_lost),
        ] {
            let counter = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
            ConstCounter::new(count).encode(counter)?;
        }
        Ok(())
    }

    fn histogram<const N: usize>(
        &self,
        encoder: &mut DescriptorEncoder,
        name: &str,
        help: &str,
        bounds: &[f64; N],
        unit: f64,
        of: impl Fn(&Sum) -> &Histogram<N>,
    ) -> std::fmt::Result {
        let mut family = encoder.encode_descriptor(name, help, None, MetricType::Histogram)?;
        for (labels, sum) in &self.series {
            let histogram = of(sum);
            let mut buckets: Vec<_> = bounds.iter().copied().zip(histogram.buckets).collect();
            // Which is written as infinity.
            buckets.push((f64::MAX, histogram.beyond));
            let count = buckets.iter().map(|(_, count)| count).sum();
            let sum = histogram.sum as f64 * unit;
            let labels = Row { labels, code: None };
            let mut row = family.encode_family(&labels)?;
            row.encode_histogram::<NoLabelSet>(sum, count, &buckets, None)?;
        }
        Ok(())
    }
}

struct Row<'a> {
    labels: &'a Labels,
    /// The name of a label, and what became of these.
    code: Option<(&'static str, &'a str)>,
}

impl EncodeLabelSet for Row<'_> {
    fn encode(&self, encoder: &mut LabelSetEncoder) -> std::fmt::Result {
        let Labels { listener, route, backend } = self.labels;
        let (name, rule) = match route {
            Some((route, rule)) => (route.to_string(), &**rule),
            None => (String::new(), ""),
        };
        let labels = [
            ("namespace", &*listener.namespace),
            ("gateway", &*listener.gateway),
            ("listener", &*listener.section),
            ("route", &*name),
            ("rule", rule),
            ("backend", backend.as_deref().unwrap_or_default()),
        ];
        labels.as_slice().encode(encoder)?;
        self.code.as_slice().encode(encoder)
    }
}

/// In `sluice status`.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Http {
    pub connections: u64,
    pub live: u64,
    /// Also those without requests.
    pub listeners: Vec<HttpListener>,
    /// By reason; reasons that did not occur are left out.
    pub refused: BTreeMap<&'static str, u64>,
    pub abandoned: u64,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct HttpListener {
    pub name: String,
    pub protocol: &'static str,
    pub hostname: String,
    /// Of all of its requests.
    #[serde(flatten)]
    pub counts: HttpCounts,
    pub rules: Vec<HttpRule>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct HttpRule {
    pub route: String,
    pub rule: String,
    /// Of all of its requests, to whichever backend.
    #[serde(flatten)]
    pub counts: HttpCounts,
    /// Service ports with requests.
    pub backends: BTreeMap<String, HttpCounts>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct HttpCounts {
    pub requests: u64,
    pub active: u64,
    /// Answers with 4xx and 5xx.
    pub client_errors: u64,
    pub server_errors: u64,
    pub retries: u64,
    /// Milliseconds, from the head of the request to that of the answer.
    pub mean_first_byte: f64,
    /// Of the bodies of answers.
    pub bytes: u64,
}

impl From<&Sum> for HttpCounts {
    fn from(sum: &Sum) -> HttpCounts {
        let requests = sum.requests();
        HttpCounts {
            requests,
            active: sum.active,
            client_errors: sum.classes[4],
            server_errors: sum.classes[5],
            retries: sum.retries,
            mean_first_byte: if requests == 0 { 0.0 } else { sum.first_byte.sum as f64 / requests as f64 / 1e3 },
            bytes: sum.response_size.sum,
        }
    }
}

pub fn status(snapshot: &Snapshot) -> Http {
    let all = Requests::read(snapshot);
    let listeners = snapshot.listeners().map(|listener| {
        let of_listener: Vec<_> = all.series.iter().filter(|(labels, _)| labels.listener == listener.name).collect();
        let rules = listener
            .ir
            .routes
            .iter()
            .flat_map(|attachment| attachment.route.rules.iter().map(|rule| (&attachment.route.name, &rule.name)));
        let rules = rules.map(|(route, rule)| {
            let is_of = |labels: &Labels| labels.route.as_ref().is_some_and(|of| (&of.0, &of.1) == (route, rule));
            let of_rule: Vec<_> = of_listener.iter().filter(|(labels, _)| is_of(labels)).collect();
            HttpRule {
                route: route.to_string(),
                rule: rule.to_string(),
                counts: counts(of_rule.iter().map(|(_, sum)| sum)),
                backends: of_rule
                    .iter()
                    .filter_map(|(labels, sum)| Some((labels.backend.as_ref()?.to_string(), HttpCounts::from(sum))))
                    .collect(),
            }
        });
        HttpListener {
            name: listener.name.to_string(),
            protocol: listener.ir.security.as_str(),
            hostname: listener.ir.hostname.to_string(),
            counts: counts(of_listener.iter().map(|(_, sum)| sum)),
            rules: rules.collect(),
        }
    });
    Http {
        connections: all.connections,
        live: all.connections.saturating_sub(all.closed),
        listeners: listeners.collect(),
        refused: all.refused.iter().copied().filter(|(_, count)| *count > 0).collect(),
        abandoned: all.abandoned,
    }
}

fn counts<'a>(sums: impl Iterator<Item = &'a Sum>) -> HttpCounts {
    HttpCounts::from(&sums.fold(Sum::default(), |all, sum| all.and(sum)))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use http::StatusCode;
    use prometheus_client::collector::Collector;
    use prometheus_client::encoding::text;
    use prometheus_client::registry::Registry;

    use super::*;
    use crate::ir::ListenerName;
    use crate::ir::http::{RouteKind, RouteName};
    use crate::proxy::http::grpc;
    use crate::proxy::http::metrics::Shared;

    #[derive(Debug)]
    struct Of(Requests);

    impl Collector for Of {
        fn encode(&self, mut encoder: DescriptorEncoder) -> std::fmt::Result {
            self.0.encode(&mut encoder)
        }
    }

    #[test]
    fn requests_are_told_with_their_labels() {
        let shared = Shared::default();
        let worker = shared.join();
        let listener = ListenerName { namespace: "ns".into(), gateway: "gw".into(), section: "web".into() };
        let route = RouteName { namespace: "ns".into(), name: "r".into(), kind: RouteKind::Http };
        let labels = Labels { listener, route: Some((route, "0".into())), backend: Some("ns/svc:80".into()) };
        let series = shared.series(&worker, labels);
        for time in [Duration::from_micros(700), Duration::from_secs(100)] {
            series.begun.add(1);
            series.end(StatusCode::OK, [time, time], [20, 50]);
        }
        series.call(grpc::Status::Unavailable);
        worker.answer(Reason::NoRoute);
        let requests = Requests {
            series: shared.sums(),
            places: Vec::new(),
            refused: vec![("no_route", worker.answered(Reason::NoRoute))],
            connections: 3,
            closed: 1,
            abandoned: 0,
            lines_lost: 0,
            memory: 0,
            tunnels: 3,
            tunnels_open: 1,
            tunnel_bytes: [4, 5],
        };
        let mut registry = Registry::with_prefix("sluice");
        registry.register_collector(Box::new(Of(requests)));
        let mut told = String::new();
        text::encode(&mut told, &registry).unwrap();
        let labels = "namespace=\"ns\",gateway=\"gw\",listener=\"web\",route=\"HTTPRoute ns/r\",rule=\"0\",backend=\"ns/svc:80\"";
        for line in [
            format!("http_requests_total{{{labels},code=\"2xx\"}} 2"),
            format!("grpc_requests_total{{{labels},grpc_status=\"14\"}} 1"),
            format!("http_requests_active{{{labels}}} 0"),
            format!("http_request_duration_seconds_count{{{labels}}} 2"),
            format!("http_request_duration_seconds_bucket{{le=\"0.001\",{labels}}} 1"),
            format!("http_request_duration_seconds_bucket{{le=\"+Inf\",{labels}}} 2"),
            format!("http_request_size_bytes_sum{{{labels}}} 40.0"),
            format!("http_response_size_bytes_sum{{{labels}}} 100.0"),
            "http_upgraded_connections_total 3".to_owned(),
            "http_upgraded_connections_active 1".to_owned(),
            "http_upgraded_bytes_total{direction=\"out\"} 5".to_owned(),
            "http_refused_total{reason=\"no_route\"} 1".to_owned(),
            "http_connections_total 3".to_owned(),
        ] {
            assert!(told.contains(&format!("sluice_{line}\n")), "{line}:\n{told}");
        }
    }
}
