//! Rows to a file of JSON, a picture, a page and a table on the terminal.

use anyhow::{Context, Result};
use tabled::builder::Builder;
use tabled::settings::formatting::AlignmentStrategy;
use tabled::settings::{Alignment, Style, object::Columns};

use super::stats::{self, Observation, Row};
use super::svg;
use crate::build;

/// What gateways are compared with: nothing between client and backend.
const BASELINE: &str = "direct";
/// What ratios are relative to.
const REFERENCE: &str = "sluice";

/// A row for each scenario, measure and contender.
pub fn rows(bench: &'static str, observations: &[Observation]) -> Vec<Row> {
    stats::rows(bench, observations, BASELINE)
}

/// Something that Sluice is to reach.
pub struct Goal {
    pub what: &'static str,
    pub wanted: String,
    pub measured: String,
    pub verdict: Verdict,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    Met,
    Missed,
    /// What it is compared with drowned in the noise.
    Unclear,
}

impl Verdict {
    pub const fn of(met: bool) -> Verdict {
        if met { Verdict::Met } else { Verdict::Missed }
    }

    const fn text(self) -> &'static str {
        match self {
            Verdict::Met => "met",
            Verdict::Missed => "MISSED",
            Verdict::Unclear => "unclear",
        }
    }
}

pub fn write(bench: &'static str, rows: &[Row], goals: &[Goal], remarks: &[String]) -> Result<()> {
    let folder = build::target_directory()?.join("bench");
    std::fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
    let files = [
        ("json", serde_json::to_string_pretty(rows)? + "\n"),
        ("svg", svg::draw(rows, remarks)),
        ("md", markdown(rows, goals, remarks)),
    ];
    for (end, text) in files {
        let path = folder.join(format!("{bench}.{end}"));
        std::fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
        eprintln!("wrote {}", path.display());
    }
    println!("{}", table(rows));
    for goal in goals {
        println!("{} {}: wanted {}, measured {}", goal.verdict.text(), goal.what, goal.wanted, goal.measured);
    }
    for remark in remarks {
        println!("· {remark}");
    }
    Ok(())
}

/// The rows of one scenario and measure: what stands beside each other.
pub fn groups(rows: &[Row]) -> Vec<Vec<&Row>> {
    let mut groups: Vec<Vec<&Row>> = Vec::new();
    for row in rows {
        let same = |group: &&mut Vec<&Row>| (group[0].scenario, group[0].measure) == (row.scenario, row.measure);
        match groups.iter_mut().find(same) {
            Some(group) => group.push(row),
            None => groups.push(vec![row]),
        }
    }
    // A measure's `added_` stands below the measure itself.
    let place = |group: &Vec<&Row>| rows.iter().position(|row| row.scenario == group[0].scenario);
    groups.sort_by_key(place);
    groups
}

/// A line for each scenario and measure, a column for each contender: median, spread, and the ratio to Sluice.
fn table(rows: &[Row]) -> String {
    let contenders = contenders(rows);
    let mut builder = Builder::default();
    builder.push_record(["scenario", "measure"].into_iter().chain(contenders.iter().copied()));
    for group in groups(rows) {
        let find = |contender: &str| group.iter().find(|row| row.contender == contender).copied();
        let reference = find(REFERENCE);
        let mut record = vec![group[0].scenario.to_owned(), format!("{} ({})", group[0].measure, group[0].unit)];
        record.extend(contenders.iter().map(|c| find(c).map_or(String::new(), |row| cell(row, reference))));
        builder.push_record(record);
    }
    let mut table = builder.build();
    table.with(Style::psql()).with(AlignmentStrategy::PerLine).modify(Columns::new(2..), Alignment::right());
    table.to_string()
}

/// The same for a page: medians only, then the goals and the remarks.
fn markdown(rows: &[Row], goals: &[Goal], remarks: &[String]) -> String {
    let contenders = contenders(rows);
    let mut text = format!("| | {} |\n|---|{}\n", contenders.join(" | "), "---:|".repeat(contenders.len()));
    for group in groups(rows) {
        let find = |contender: &&str| group.iter().find(|row| row.contender == *contender);
        let cells = contenders.iter().map(|c| find(c).map_or(String::new(), |row| number(row.median)));
        let cells = cells.collect::<Vec<_>>().join(" | ");
        text += &format!("| {}: {} ({}) | {cells} |\n", group[0].scenario, group[0].measure, group[0].unit);
    }
    if !goals.is_empty() {
        text += "\n| goal | wanted | measured | |\n|---|---|---|---|\n";
        for goal in goals {
            text += &format!("| {} | {} | {} | {} |\n", goal.what, goal.wanted, goal.measured, goal.verdict.text());
        }
    }
    text + "\n" + &remarks.iter().map(|remark| format!("- {remark}\n")).collect::<String>()
}

/// In the order in which they were first seen.
fn contenders(rows: &[Row]) -> Vec<&'static str> {
    let mut contenders = Vec::new();
    for row in rows {
        if !contenders.contains(&row.contender) {
            contenders.push(row.contender);
        }
    }
    contenders
}

fn cell(row: &Row, reference: Option<&Row>) -> String {
    let (median, spread) = (number(row.median), format!("{}…{}", number(row.min), number(row.max)));
    match reference {
        // To something that cannot be told from nothing there is no ratio.
        Some(reference) if row.contender != REFERENCE && reference.min > 0.0 && row.median > 0.0 => {
            format!("{median} ×{:.2}\n{spread}", row.median / reference.median)
        }
        _ => format!("{median}\n{spread}"),
    }
}

/// Three digits that matter, and no more than that after the point.
pub fn number(value: f64) -> String {
    match value.abs() {
        size if size >= 1000.0 => grouped(value.round()),
        size if size >= 100.0 => format!("{value:.0}"),
        size if size >= 10.0 => format!("{value:.1}"),
        size if size >= 1.0 => format!("{value:.2}"),
        _ => format!("{value:.3}"),
    }
}

/// With a comma before every three digits.
fn grouped(value: f64) -> String {
    let digits = format!("{:.0}", value.abs());
    let mut text = String::from(if value < 0.0 { "-" } else { "" });
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(scenario: &'static str, measure: &'static str, contender: &'static str, median: f64) -> Row {
        Row { bench: "b", scenario, measure, unit: "u", contender, min: median, median, max: median, rounds: 1 }
    }

    #[test]
    fn numbers_have_three_digits_that_matter() {
        let texts = [0.01234, 1.234, 12.34, 123.4, 1234.4, 1_234_567.0, -1234.0].map(number);
        assert_eq!(texts, ["0.012", "1.23", "12.3", "123", "1,234", "1,234,567", "-1,234"]);
    }

    #[test]
    fn added_measures_stand_below_their_scenario() {
        let rows = [row("a", "x", "sluice", 1.0), row("b", "x", "sluice", 1.0), row("a", "added_x", "sluice", 1.0)];
        let order: Vec<_> = groups(&rows).iter().map(|group| (group[0].scenario, group[0].measure)).collect();
        assert_eq!(order, [("a", "x"), ("a", "added_x"), ("b", "x")]);
    }

    #[test]
    fn the_table_has_ratios_to_sluice() {
        let table = table(&[row("a", "x", "sluice", 2.0), row("a", "x", "haproxy", 5.0)]);
        assert!(table.contains("5.00 ×2.50"), "{table}");
        let nothing = Row { min: -1.0, ..row("a", "x", "sluice", 0.01) };
        let table = self::table(&[nothing, row("a", "x", "haproxy", 5.0)]);
        assert!(table.contains("5.00") && !table.contains('×'), "{table}");
    }

    #[test]
    fn a_page_has_the_medians() {
        let rows = [row("a", "x", "sluice", 2.0), row("a", "x", "haproxy", 5.0), row("b", "y", "haproxy", 7.0)];
        let wanted =
            "| | sluice | haproxy |\n|---|---:|---:|\n| a: x (u) | 2.00 | 5.00 |\n| b: y (u) |  | 7.00 |\n\n- so\n";
        assert_eq!(markdown(&rows, &[], &["so".to_owned()]), wanted);
        let goal =
            Goal { what: "x", wanted: "at most 1".to_owned(), measured: "2".to_owned(), verdict: Verdict::Missed };
        assert!(markdown(&rows, &[goal], &[]).contains("\n| x | at most 1 | 2 | MISSED |\n"));
    }
}
