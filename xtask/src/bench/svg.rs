//! The rows as a picture: a panel for each scenario and measure, a bar for each contender, a thin line from min to max.

use std::fmt::Write;

use super::report::{groups, number};
use super::stats::Row;

const WIDTH: f64 = 720.0;
const LABEL: f64 = 90.0;
const BAR: f64 = 420.0;
const LINE: f64 = 22.0;

pub fn draw(rows: &[Row], remarks: &[String]) -> String {
    let mut body = String::new();
    let mut y = 10.0;
    for group in groups(rows) {
        y = panel(&mut body, &group, y);
    }
    for remark in remarks {
        y += 14.0;
        text(&mut body, 10.0, y, "remark", remark);
    }
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" font-family=\"sans-serif\">\n\
         <style>text{{font-size:12px;fill:#222}} .title{{font-size:13px;font-weight:bold}} .remark{{font-size:9px;fill:#555}} \
         .bar{{fill:#9aa7b5}} .sluice{{fill:#1f77b4}} .spread{{stroke:#222;stroke-width:1}}</style>\n\
         <rect width=\"{WIDTH}\" height=\"{height}\" fill=\"#fff\"/>\n{body}</svg>\n",
        height = y + 12.0,
    )
}

/// Draws one panel from `y` on and says where the next one begins.
fn panel(body: &mut String, group: &[&Row], mut y: f64) -> f64 {
    y += 18.0;
    text(body, 10.0, y, "title", &format!("{}: {} ({})", group[0].scenario, group[0].measure, group[0].unit));
    y += 6.0;
    let most = group.iter().map(|row| row.max).fold(f64::MIN_POSITIVE, f64::max);
    let x = |value: f64| LABEL + (value / most).clamp(0.0, 1.0) * BAR;
    for row in group {
        let class = if row.contender == "sluice" { "bar sluice" } else { "bar" };
        let (middle, width) = (y + LINE / 2.0, x(row.median) - LABEL);
        text(body, 10.0, middle + 4.0, "label", row.contender);
        put(
            body,
            &format!(
                "<rect class=\"{class}\" x=\"{LABEL}\" y=\"{}\" width=\"{width:.1}\" height=\"{}\"/>",
                y + 4.0,
                LINE - 8.0
            ),
        );
        let (min, max) = (x(row.min), x(row.max));
        put(body, &format!("<line class=\"spread\" x1=\"{min:.1}\" x2=\"{max:.1}\" y1=\"{middle}\" y2=\"{middle}\"/>"));
        text(body, max.max(x(row.median)) + 6.0, middle + 4.0, "value", &number(row.median));
        y += LINE;
    }
    y + 8.0
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
        assert!(picture.contains("x1=\"90.0\"") && picture.contains("x2=\"510.0\""), "{picture}");
        assert!(picture.contains("a &lt; b"));
    }
}
