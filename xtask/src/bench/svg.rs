//! The rows as a picture: a panel for each scenario and measure, a bar for each contender, a thin line from min to max.

use std::fmt::Write;

use super::report::{groups, number};
use super::stats::Row;

const WIDTH: f64 = 860.0;
const LABEL: f64 = 250.0;
const BAR: f64 = 480.0;
const LINE: f64 = 22.0;
/// Letters of a remark that fit into the width.
const LETTERS: usize = 170;

pub fn draw(rows: &[Row], remarks: &[String]) -> String {
    let mut body = String::new();
    let mut y = 10.0;
    let (alone, beside): (Vec<_>, Vec<_>) = groups(rows).into_iter().partition(|group| group.len() == 1);
    for group in beside {
        let title = format!("{}: {} ({})", group[0].scenario, group[0].measure, group[0].unit);
        let bars: Vec<_> = group.into_iter().map(|row| (row.contender, row)).collect();
        y = panel(&mut body, &title, &bars, y);
    }
    // What has nobody to compare with stands beside its like in other scenarios.
    let mut alone: Vec<&Row> = alone.into_iter().flatten().collect();
    while let Some(first) = alone.first().copied() {
        let (same, others): (Vec<_>, Vec<_>) = alone.into_iter().partition(|row| row.measure == first.measure);
        let bars: Vec<_> = same.into_iter().map(|row| (row.scenario, row)).collect();
        y = panel(&mut body, &format!("{}: {} ({})", first.contender, first.measure, first.unit), &bars, y);
        alone = others;
    }
    for line in remarks.iter().flat_map(|remark| wrapped(remark)) {
        y += 14.0;
        text(&mut body, 10.0, y, "remark", &line);
    }
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" font-family=\"sans-serif\">\n\
         <style>text{{font-size:12px;fill:#222}} .title{{font-size:13px;font-weight:bold}} .remark{{font-size:9px;fill:#555}} \
         .bar{{fill:#9aa7b5}} .sluice{{fill:#1f77b4}} .spread{{stroke:#222;stroke-width:1}}</style>\n\
         <rect width=\"{WIDTH}\" height=\"{height}\" fill=\"#fff\"/>\n{body}</svg>\n",
        height = y + 12.0,
    )
}

/// Draws one panel from `y` on, a bar with its label a line, and says where the next one begins.
fn panel(body: &mut String, title: &str, bars: &[(&str, &Row)], mut y: f64) -> f64 {
    y += 18.0;
    text(body, 10.0, y, "title", title);
    y += 6.0;
    let most = bars.iter().map(|(_, row)| row.max).fold(f64::MIN_POSITIVE, f64::max);
    let x = |value: f64| LABEL + (value / most).clamp(0.0, 1.0) * BAR;
    for (label, row) in bars {
        let class = if row.contender == "sluice" { "bar sluice" } else { "bar" };
        let (middle, width) = (y + LINE / 2.0, x(row.median) - LABEL);
        text(body, 10.0, middle + 4.0, "label", label);
        let (top, height) = (y + 4.0, LINE - 8.0);
        put(
            body,
            &format!("<rect class=\"{class}\" x=\"{LABEL}\" y=\"{top}\" width=\"{width:.1}\" height=\"{height}\"/>"),
        );
        let (min, max) = (x(row.min), x(row.max));
        put(body, &format!("<line class=\"spread\" x1=\"{min:.1}\" x2=\"{max:.1}\" y1=\"{middle}\" y2=\"{middle}\"/>"));
        text(body, max.max(x(row.median)) + 6.0, middle + 4.0, "value", &number(row.median));
        y += LINE;
    }
    y + 8.0
}

/// Lines that are not too long, broken between words.
fn wrapped(text: &str) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in text.split(' ') {
        match lines.last_mut() {
            Some(line) if line.is_empty() => line.push_str(word),
            Some(line) if line.len() + word.len() < LETTERS => *line += &format!(" {word}"),
            _ => lines.push(word.to_owned()),
        }
    }
    lines
}

fn text(body: &mut String, x: f64, y: f64, class: &str, text: &str) {
    let text = text.replace('&', "&amp;").replace('<', "&lt;");
    put(body, &format!("<text class=\"{class}\" x=\"{x:.1}\" y=\"{y:.1}\">{text}</text>"));
}

fn put(body: &mut String, element: &str) {
    // Writing to a String cannot fail.
    let _ = writeln!(body, "{element}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_row_has_a_bar_inside_the_picture_and_text_is_escaped() {
        let row = |contender, median| Row {
            bench: "b",
            scenario: "s",
            measure: "m",
            unit: "u",
            contender,
            min: -1.0,
            median,
            max: median * 1.5,
            rounds: 3,
        };
        let picture = draw(&[row("sluice", 1.0), row("direct", 4.0)], &["a < b".to_owned()]);
        assert_eq!(picture.matches("class=\"bar").count(), 2);
        assert!(picture.contains("x1=\"250.0\"") && picture.contains("x2=\"730.0\""), "{picture}");
        assert!(picture.contains("a &lt; b"));
    }

    #[test]
    fn long_remarks_are_broken_between_words() {
        let lines = wrapped(&"word ".repeat(60));
        assert_eq!(lines.len(), 2);
        assert!(lines.iter().all(|line| line.len() <= LETTERS && !line.starts_with(' ')));
    }
}
