//! What the splice was built to reach, judged by the medians of one run.

use super::super::report::{Goal, Verdict, number};
use super::super::stats::{Measure, Row};
use super::scenario::{
    BULK_GBIT_PER_SECOND, CONNECTIONS_PER_SECOND, CPU_S_PER_GB, CPU_US_PER_CONNECTION, LATENCY_US_P50, LATENCY_US_P99,
    LOADS, PROGRAM_NS_PER_CONNECTION, Scenario,
};
use super::{held, lookup};

const PEERS: &[&str] = &["haproxy", "nginx", "envoy"];
/// How much of a difference between 10 and 10,000 names is noise.
const GROWTH: f64 = 1.1;

/// Those that the run has numbers for.
pub fn goals(rows: &[Row]) -> Vec<Goal> {
    let of = |scenario: Scenario| Judge { rows, scenario: name(scenario) };
    let (few, quantum, names) = (of(Scenario::Connections), of(Scenario::PostQuantum), of(Scenario::Names));
    let (first, bulk, paced) = (of(Scenario::FirstByte), of(Scenario::Bulk), of(Scenario::Paced));
    let growth = || {
        let at = |judge: &Judge| judge.median(PROGRAM_NS_PER_CONNECTION.name, "sluice");
        let (few, many) = (at(&few)?, at(&names)?);
        Some(Goal {
            what: "time in the programs at 10,000 names beside 10",
            wanted: format!("not more (at most ×{GROWTH})"),
            measured: format!("×{:.2} ({} and {} ns)", many / few, number(many), number(few)),
            verdict: Verdict::of(many <= few * GROWTH),
        })
    };
    let memory = || {
        let value = Judge { rows, scenario: held::SCENARIO }.median(held::MEMORY.name, "sluice")?;
        Some(Goal {
            what: "memory per held connection",
            wanted: "at most 1 KiB".to_owned(),
            measured: format!("{} KiB", number(value)),
            verdict: Verdict::of(value <= 1.0),
        })
    };
    [
        few.added("CPU added to a connection", CPU_US_PER_CONNECTION, 5.0),
        quantum.added("CPU added to a connection, post-quantum", CPU_US_PER_CONNECTION, 5.0),
        first.added("latency added to the first byte, p50", LATENCY_US_P50, 4.0),
        first.added("latency added to the first byte, p99", LATENCY_US_P99, 4.0),
        few.of_direct("new connections per second", CONNECTIONS_PER_SECOND, 0.9),
        quantum.of_direct("new connections per second, post-quantum", CONNECTIONS_PER_SECOND, 0.9),
        bulk.of_direct("bulk throughput", BULK_GBIT_PER_SECOND, 0.95),
        paced.added("CPU added to a GB", CPU_S_PER_GB, 3.0),
        memory(),
        growth(),
    ]
    .into_iter()
    .flatten()
    .collect()
}

/// How much of a connection's time in the programs the look-up of its name takes, if both were measured.
pub fn share(rows: &[Row]) -> Option<String> {
    let judge = |scenario| Judge { rows, scenario };
    let whole = judge(name(Scenario::Names)).median(PROGRAM_NS_PER_CONNECTION.name, "sluice")?;
    let lookup = judge(lookup::MANY_EXACT).median(lookup::LOOKUP_NS.name, "sluice")?;
    let percent = 100.0 * lookup / whole;
    Some(format!(
        "with 10,000 names a connection spends {} ns in Sluice's programs, the look-up of its name {} ns of it ({percent:.0}%)",
        number(whole),
        number(lookup)
    ))
}

fn name(scenario: Scenario) -> &'static str {
    LOADS.iter().find(|load| load.scenario == scenario).map_or("", |load| load.name)
}

struct Judge<'a> {
    rows: &'a [Row],
    scenario: &'static str,
}

impl Judge<'_> {
    fn median(&self, measure: &str, contender: &str) -> Option<f64> {
        let wanted = (self.scenario, measure, contender);
        let row = self.rows.iter().find(|row| (row.scenario, row.measure, row.contender) == wanted);
        row.map(|row| row.median)
    }

    /// What is added to `direct` is at most such a part of what the best peer adds.
    fn added(&self, what: &'static str, measure: Measure, part: f64) -> Option<Goal> {
        let added = measure.added?;
        let sluice = self.median(added, "sluice")?;
        let peers = PEERS.iter().filter_map(|peer| Some((self.median(added, peer)?, *peer)));
        let (best, peer) = peers.min_by(|a, b| a.0.total_cmp(&b.0))?;
        Some(Goal {
            what,
            wanted: format!("at most 1/{part} of the best peer's {} {} ({peer})", number(best), measure.unit),
            measured: format!("{} {}", number(sluice), measure.unit),
            // A peer that adds nothing is one whose cost is below the noise.
            verdict: if best > 0.0 { Verdict::of(sluice <= best / part) } else { Verdict::Unclear },
        })
    }

    fn of_direct(&self, what: &'static str, measure: Measure, part: f64) -> Option<Goal> {
        let (sluice, direct) = (self.median(measure.name, "sluice")?, self.median(measure.name, "direct")?);
        Some(Goal {
            what,
            wanted: format!("at least {part} of direct's {} {}", number(direct), measure.unit),
            measured: format!("{} ({:.2} of it)", number(sluice), sluice / direct),
            verdict: Verdict::of(sluice >= direct * part),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(scenario: Scenario, measure: &'static str, contender: &'static str, median: f64) -> Row {
        let scenario = name(scenario);
        Row { bench: "b", scenario, measure, unit: "u", contender, min: median, median, max: median, rounds: 1 }
    }

    #[test]
    fn the_best_peer_is_the_measure() {
        let added = |who, value| row(Scenario::Connections, "added_cpu_us_per_connection", who, value);
        let peers = [added("haproxy", 50.0), added("nginx", 40.0)];
        let verdict = |value| goals(&[&peers[..], &[added("sluice", value)]].concat())[0].verdict;
        assert_eq!([verdict(8.0), verdict(8.1)], [Verdict::Met, Verdict::Missed]);
        let nothing = [added("haproxy", -1.0), added("sluice", -2.0)];
        assert_eq!(goals(&nothing)[0].verdict, Verdict::Unclear);
    }

    #[test]
    fn rates_are_compared_with_direct() {
        let rate = |who, value| row(Scenario::Bulk, "bulk_gbit_per_second", who, value);
        let goals = |value| goals(&[rate("direct", 100.0), rate("sluice", value)]);
        assert_eq!([goals(95.0)[0].verdict, goals(94.9)[0].verdict], [Verdict::Met, Verdict::Missed]);
        assert_eq!(goals(95.0).len(), 1, "what was not measured is not judged");
    }

    #[test]
    fn many_names_may_not_cost_more() {
        let time = |scenario, value| row(scenario, "program_ns_per_connection", "sluice", value);
        let goals = |many| goals(&[time(Scenario::Connections, 1000.0), time(Scenario::Names, many)]);
        assert_eq!([goals(1100.0)[0].verdict, goals(1101.0)[0].verdict], [Verdict::Met, Verdict::Missed]);
    }
}
