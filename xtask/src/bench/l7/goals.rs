//! What the proxy was built to reach, judged by the medians of one run.

use super::super::report::{Goal, Verdict, number};
use super::super::stats::{Measure, Row};
use super::scenario::{CPU_S, LATENCY, LATENCY_P99, LOADS, Scenario};

/// Those that were written in C for nothing else.
const LIGHT: &[&str] = &["nginx", "haproxy"];
const ALL: &[&str] = &["nginx", "haproxy", "envoy"];

/// Those that the run has numbers for.
pub fn goals(rows: &[Row]) -> Vec<Goal> {
    let judge = Judge { rows };
    let growth = || {
        let at = |scenario| judge.median(name(scenario), CPU_S, "sluice");
        let (few, many) = (at(Scenario::FewRoutes)?, at(Scenario::ManyRoutes)?);
        Some(Goal {
            what: "CPU per request with 10,000 routes beside 10",
            wanted: "at most ×1.1".to_owned(),
            measured: format!("×{:.2}", many / few),
            verdict: Verdict::of(many <= few * 1.1),
        })
    };
    let cpu = |what, scenario, part, peers| judge.at_most(what, name(scenario), CPU_S, part, peers);
    [
        cpu("CPU per request, 1 KiB", Scenario::Small, 0.8, LIGHT),
        cpu("CPU per request, 1 KiB, beside Envoy", Scenario::Small, 0.4, &["envoy"]),
        cpu("CPU per request, 100 KiB", Scenario::Large, 0.65, LIGHT),
        cpu("CPU per request, 100 KiB, beside Envoy", Scenario::Large, 0.4, &["envoy"]),
        cpu("CPU per new TLS connection", Scenario::Handshakes, 1.0, ALL),
        cpu("CPU per new TLS connection, resumed", Scenario::Resumed, 1.0, ALL),
        cpu("CPU per request, HTTP/2", Scenario::H2, 1.0, ALL),
        judge.at_most("p99 at the fixed rate", LATENCY, LATENCY_P99, 1.0, ALL),
        growth(),
    ]
    .into_iter()
    .flatten()
    .collect()
}

fn name(scenario: Scenario) -> &'static str {
    LOADS.iter().find(|load| load.scenario == scenario).map_or("", |load| load.name)
}

struct Judge<'a> {
    rows: &'a [Row],
}

impl Judge<'_> {
    fn median(&self, scenario: &str, measure: Measure, contender: &str) -> Option<f64> {
        let wanted = (scenario, measure.name, contender);
        let row = self.rows.iter().find(|row| (row.scenario, row.measure, row.contender) == wanted);
        row.map(|row| row.median)
    }

    /// At most such a part of what the best of these has.
    fn at_most(&self, what: &'static str, scenario: &str, measure: Measure, part: f64, peers: &[&str]) -> Option<Goal> {
        let sluice = self.median(scenario, measure, "sluice")?;
        let peers = peers.iter().filter_map(|peer| Some((self.median(scenario, measure, peer)?, *peer)));
        let (best, peer) = peers.min_by(|a, b| a.0.total_cmp(&b.0))?;
        Some(Goal {
            what,
            wanted: format!("at most {part} of {peer}'s {} {}", number(best), measure.unit),
            measured: format!("{} {} ({:.2} of it)", number(sluice), measure.unit, sluice / best),
            verdict: Verdict::of(sluice <= best * part),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(scenario: Scenario, contender: &'static str, median: f64) -> Row {
        let (scenario, measure) = (name(scenario), CPU_S.name);
        Row { bench: "b", scenario, measure, unit: "s", contender, min: median, median, max: median, rounds: 1 }
    }

    #[test]
    fn the_best_peer_is_the_measure() {
        let peers = [row(Scenario::Small, "nginx", 2.0), row(Scenario::Small, "haproxy", 1.0)];
        let verdict = |value| goals(&[&peers[..], &[row(Scenario::Small, "sluice", value)]].concat())[0].verdict;
        assert_eq!([verdict(0.8), verdict(0.9)], [Verdict::Met, Verdict::Missed]);
    }

    #[test]
    fn many_routes_may_cost_a_little() {
        let growth = |many| {
            let rows = [row(Scenario::FewRoutes, "sluice", 1.0), row(Scenario::ManyRoutes, "sluice", many)];
            goals(&rows)[0].verdict
        };
        assert_eq!([growth(1.09), growth(1.2)], [Verdict::Met, Verdict::Missed]);
    }
}
