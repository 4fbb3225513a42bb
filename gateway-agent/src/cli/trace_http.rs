//! `sluice trace --http METHOD URL`.

use std::fmt::Write;

use serde_json::Value;

use super::maps::cell;

/// `Name: value`.
pub fn header(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once(':').ok_or("a header is `Name: value`")?;
    Ok((name.trim().to_owned(), value.trim().to_owned()))
}

pub fn stories(answer: &Value) -> String {
    let ports = array(answer);
    if ports.is_empty() {
        return "no address has an HTTP listener at that port\n".to_owned();
    }
    let (meant, others): (Vec<_>, Vec<_>) = ports.iter().partition(|port| port["listener"].is_string());
    let mut text = meant.into_iter().map(story).collect::<Vec<_>>().join("\n");
    if let [other, more @ ..] = &others[..] {
        let (gateway, host) = (cell(&other["gateway"]), cell(&other["host"]));
        let and = if more.is_empty() { String::new() } else { format!(" and {} more", more.len()) };
        // Writing to a String does not fail.
        let _ = writeln!(text, "at {gateway}{and} no listener has {host}: 404");
    }
    text
}

fn story(port: &Value) -> String {
    let [gateway, host, path] = ["gateway", "host", "path"].map(|field| cell(&port[field]));
    let mut text = format!("{gateway}, host {host}, path {path}\n");
    // Writing to a String does not fail.
    if let Some(listener) = port["listener"].as_str() {
        let _ = writeln!(text, "  listener {listener}");
    }
    for rule in array(&port["rules"]) {
        let mark = if rule["taken"] == true { "=>" } else { "  " };
        let _ = writeln!(text, "{mark}{}, rule {}", cell(&rule["route"]), cell(&rule["rule"]));
        for why in array(&rule["why"]) {
            let _ = writeln!(text, "    {}", cell(why));
        }
    }
    let _ = writeln!(text, "=> {}", cell(&port["outcome"]));
    text
}

fn array(value: &Value) -> &[Value] {
    value.as_array().map(Vec::as_slice).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_rule_that_takes_it_is_marked() {
        let rule = |taken, why: &str| json!({"route": "HTTPRoute ns/r", "rule": "0", "taken": taken, "why": [why]});
        let port = json!({
            "gateway": "198.18.0.1:80", "host": "a.example", "path": "/x", "listener": "ns/gw/web (HTTP, *)",
            "rules": [rule(false, "the method is not PUT"), rule(true, "below / matches")], "outcome": "100.0% ns/web:80",
        });
        let expected = "198.18.0.1:80, host a.example, path /x
  listener ns/gw/web (HTTP, *)
  HTTPRoute ns/r, rule 0
    the method is not PUT
=>HTTPRoute ns/r, rule 0
    below / matches
=> 100.0% ns/web:80
at 198.18.0.2:80 and 1 more no listener has a.example: 404
";
        let other = |at: &str| json!({"gateway": at, "host": "a.example", "path": "/x", "rules": [], "outcome": "404"});
        assert_eq!(stories(&json!([other("198.18.0.2:80"), port, other("198.18.0.3:80")])), expected);
        assert_eq!(header("A: b:c"), Ok(("A".to_owned(), "b:c".to_owned())));
        assert!(header("A").is_err());
    }
}
