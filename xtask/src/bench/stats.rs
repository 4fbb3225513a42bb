//! From what single rounds gave to the rows of the report.

use serde::Serialize;

/// A value that one round gave.
#[derive(Clone, Debug)]
pub struct Observation {
    pub round: usize,
    pub scenario: &'static str,
    pub measure: Measure,
    pub contender: &'static str,
    pub value: f64,
}

/// What is measured, in the words of the report.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Measure {
    pub name: &'static str,
    pub unit: &'static str,
    /// What a gateway adds to `direct` in the same round, if that is of interest.
    pub added: Option<&'static str>,
}

impl Measure {
    pub const fn new(name: &'static str, unit: &'static str) -> Measure {
        Measure { name, unit, added: None }
    }

    pub const fn compared(name: &'static str, added: &'static str, unit: &'static str) -> Measure {
        Measure { name, unit, added: Some(added) }
    }
}

/// What all rounds gave for one contender.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Row {
    pub bench: &'static str,
    pub scenario: &'static str,
    pub measure: &'static str,
    pub unit: &'static str,
    pub contender: &'static str,
    pub min: f64,
    pub median: f64,
    pub max: f64,
    pub rounds: usize,
}

/// One row for each scenario, measure and contender, in the order in which they were first seen.
pub fn rows(bench: &'static str, observations: &[Observation], baseline: &str) -> Vec<Row> {
    let mut all = observations.to_vec();
    all.extend(added(observations, baseline));
    let mut rows: Vec<Row> = Vec::new();
    for first in &all {
        let same =
            |o: &&Observation| (o.scenario, o.measure, o.contender) == (first.scenario, first.measure, first.contender);
        let values: Vec<f64> = all.iter().filter(same).map(|o| o.value).collect();
        let known = |row: &Row| {
            (row.scenario, row.measure, row.contender) == (first.scenario, first.measure.name, first.contender)
        };
        if !rows.iter().any(known) {
            rows.push(Row {
                bench,
                scenario: first.scenario,
                measure: first.measure.name,
                unit: first.measure.unit,
                contender: first.contender,
                min: values.iter().copied().fold(f64::INFINITY, f64::min),
                median: median(&values),
                max: values.iter().copied().fold(f64::NEG_INFINITY, f64::max),
                rounds: values.len(),
            });
        }
    }
    rows
}

/// What each contender adds to the baseline, round by round.
fn added<'a>(observations: &'a [Observation], baseline: &'a str) -> impl Iterator<Item = Observation> + 'a {
    observations.iter().filter(move |o| o.contender != baseline).filter_map(move |o| {
        let name = o.measure.added?;
        let same = |b: &&Observation| {
            (b.round, b.scenario, b.measure, b.contender) == (o.round, o.scenario, o.measure, baseline)
        };
        let value = o.value - observations.iter().find(same)?.value;
        Some(Observation { measure: Measure::new(name, o.measure.unit), value, ..o.clone() })
    })
}

/// The middle value, or the mean of the two in the middle; of nothing, it is not a number.
pub fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    match sorted.len() {
        0 => f64::NAN,
        n if n % 2 == 1 => sorted[n / 2],
        n => (sorted[n / 2 - 1] + sorted[n / 2]) / 2.0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CPU: Measure = Measure::compared("cpu", "added_cpu", "µs");

    fn observation(round: usize, contender: &'static str, value: f64) -> Observation {
        Observation { round, scenario: "s", measure: CPU, contender, value }
    }

    #[test]
    fn the_median_is_in_the_middle() {
        assert_eq!(median(&[3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(&[4.0, 1.0, 2.0, 3.0]), 2.5);
        assert!(median(&[]).is_nan());
    }

    #[test]
    fn what_is_added_is_taken_round_by_round() {
        let observations = [
            observation(0, "a", 10.0),
            observation(0, "direct", 4.0),
            observation(1, "a", 20.0),
            observation(1, "direct", 17.0),
            observation(2, "a", 30.0),
            observation(2, "direct", 25.0),
        ];
        let rows = rows("b", &observations, "direct");
        let names: Vec<_> = rows.iter().map(|row| (row.measure, row.contender)).collect();
        assert_eq!(names, [("cpu", "a"), ("cpu", "direct"), ("added_cpu", "a")]);
        // Differences are 6, 3 and 5: their median is not the difference of the medians (20 - 17).
        assert_eq!((rows[2].min, rows[2].median, rows[2].max, rows[2].rounds), (3.0, 5.0, 6.0, 3));
    }

    #[test]
    fn a_round_without_the_baseline_adds_nothing() {
        let observations = [observation(0, "a", 10.0), observation(1, "a", 20.0), observation(1, "direct", 5.0)];
        let rows = rows("b", &observations, "direct");
        let added = rows.iter().find(|row| row.measure == "added_cpu").unwrap();
        assert_eq!((added.median, added.rounds), (15.0, 1));
    }
}
