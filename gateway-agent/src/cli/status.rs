//! `sluice status` for people.

use std::fmt::Write;

use serde_json::Value;
use tabled::settings::Color;

use super::maps::cell;
use super::output::{aligned, paint};

pub fn table(status: &Value, coloured: bool) -> String {
    let ready = status["ready"].as_bool().unwrap_or_default();
    let mut text = format!(
        "node {}, sluice {}, {}\n\n",
        cell(&status["node"]),
        cell(&status["version"]),
        if ready { "ready" } else { "not ready: the objects are not in the maps yet" }
    );
    let mut rows = Rows { table: Vec::new(), coloured };
    rows.push(["OBJECT", "STATUS", "OPENED", "LIVE", "REFUSED", "IN", "OUT"].map(str::to_owned).to_vec());
    for object in array(&status["objects"]) {
        rows.object(object, status);
    }
    text += &aligned(rows.table);
    text += &backends(status);
    text += &addresses(status, coloured);
    text += &interfaces(status, coloured);
    let refused: Vec<_> = fields(&status["refusedPackets"]).map(|(reason, n)| format!("{reason} {n}")).collect();
    if !refused.is_empty() {
        // Writing to a String does not fail.
        let _ = writeln!(text, "\nrefused packets: {}", refused.join(", "));
    }
    text += &proxy(&status["proxy"]);
    text += &http(&status["http"]);
    for problem in array(&status["problems"]) {
        let _ = writeln!(text, "{}", paint(&cell(problem), Color::FG_YELLOW, coloured));
    }
    text
}

struct Rows {
    table: Vec<Vec<String>>,
    coloured: bool,
}

impl Rows {
    fn push(&mut self, row: Vec<String>) {
        self.table.push(row);
    }

    fn object(&mut self, object: &Value, all: &Value) {
        let metadata = &object["metadata"];
        let name = match metadata["namespace"].as_str() {
            Some(namespace) => format!("{namespace}/{}", cell(&metadata["name"])),
            None => cell(&metadata["name"]),
        };
        let title = format!("{} {name}", cell(&object["kind"]));
        let status = &object["status"];
        let addresses: Vec<_> = array(&status["addresses"]).iter().map(|a| cell(&a["value"])).collect();
        let title = if addresses.is_empty() { title } else { format!("{title} ({})", addresses.join(", ")) };
        self.conditions(title, &status["conditions"], Vec::new());
        for listener in array(&status["listeners"]) {
            let section = cell(&listener["name"]);
            let path = format!("{name}/{section}");
            let is_http = array(&all["http"]["listeners"]).iter().any(|listener| listener["name"] == *path);
            let title = format!("  {section}, {} routes", cell(&listener["attachedRoutes"]));
            self.conditions(title, &listener["conditions"], counts(&all["listeners"][&path], is_http));
            self.names(&all["serverNames"][&path]);
        }
        for parent in array(&status["parents"]) {
            let reference = &parent["parentRef"];
            let title = match reference["sectionName"].as_str() {
                Some(section) => format!("  at {}/{section}", cell(&reference["name"])),
                None => format!("  at {}", cell(&reference["name"])),
            };
            self.conditions(title, &parent["conditions"], Vec::new());
        }
    }

    /// The server names of a TLS listener, with where they lead and how many connections came by them.
    fn names(&mut self, names: &Value) {
        let count = fields(names).count();
        // The others are in `sluice maps sni`.
        const MOST: usize = 20;
        for (name, of) in fields(names).take(MOST) {
            let to = of["route"].as_str().unwrap_or("no route: refused");
            let mode = if of["mode"] == "terminate" { ", ends here" } else { "" };
            self.push(vec![format!("    {name}"), format!("{to}{mode}"), cell(&of["hits"])]);
        }
        if count > MOST {
            self.push(vec![format!("    {} more names", count - MOST), "see `sluice maps sni`".to_owned()]);
        }
    }

    /// A row for those that are as they should be, and one for each that is not.
    fn conditions(&mut self, title: String, conditions: &Value, counts: Vec<String>) {
        let (mut good, mut bad) = (Vec::new(), Vec::new());
        for condition in array(conditions) {
            let (kind, holds) = (cell(&condition["type"]), condition["status"] == "True");
            match (holds, kind == "Conflicted") {
                (true, false) => good.push(kind),
                (false, true) => {}
                (holds, _) => {
                    let not = if holds { "" } else { "not " };
                    bad.push(format!("{not}{kind}: {} ({})", cell(&condition["message"]), cell(&condition["reason"])));
                }
            }
        }
        let mut row = vec![title, paint(&good.join(" "), Color::FG_GREEN, self.coloured)];
        row.extend(counts);
        self.push(row);
        for text in bad {
            self.push(vec![String::new(), paint(&text, Color::FG_RED, self.coloured)]);
        }
    }
}

/// Of a listener. `is_http`: the kernel counts its connections only where a port has others too; requests are in the table of HTTP.
fn counts(counts: &Value, is_http: bool) -> Vec<String> {
    let fields = ["picked", "live", "refused"];
    if is_http && fields.iter().all(|field| counts[field].as_u64().unwrap_or_default() == 0) {
        return vec!["-".to_owned(); 5];
    }
    if !counts.is_object() {
        return Vec::new();
    }
    let bytes = ["bytesIn", "bytesOut"].map(|field| bytes(&counts[field]));
    fields.map(|field| cell(&counts[field])).into_iter().chain(bytes).collect()
}

fn backends(status: &Value) -> String {
    let header = ["BACKEND", "OPENED", "LIVE", "IN", "OUT"].map(str::to_owned).to_vec();
    let mut table = vec![header];
    for (service, endpoints) in fields(&status["backends"]) {
        for (endpoint, counts) in fields(endpoints) {
            let mut row = vec![format!("{service} {endpoint}")];
            row.extend(["picked", "live"].map(|field| cell(&counts[field])));
            row.extend(["bytesIn", "bytesOut"].map(|field| bytes(&counts[field])));
            table.push(row);
        }
    }
    if table.len() == 1 { String::new() } else { format!("\n{}", aligned(table)) }
}

/// Nothing where there is no pool.
fn addresses(status: &Value, coloured: bool) -> String {
    let mut table = vec![["ADDRESS", "ANSWERED BY", ""].map(str::to_owned).to_vec()];
    for address in array(&status["addresses"]) {
        let is = |field: &str| address[field].as_bool().unwrap_or_default();
        let by = if is("held") { "this node" } else { "another node" };
        let problem = if is("contested") { "another machine claims it" } else { "" };
        let problem = paint(problem, Color::FG_RED, coloured && !problem.is_empty());
        table.push(vec![cell(&address["address"]), by.to_owned(), problem]);
    }
    if table.len() == 1 { String::new() } else { format!("\n{}", aligned(table)) }
}

fn interfaces(status: &Value, coloured: bool) -> String {
    let mut table = vec![["INTERFACE", "TC", "XDP", "EXTERNAL", ""].map(str::to_owned).to_vec()];
    for interface in array(&status["interfaces"]) {
        let problem = interface["problem"].as_str().unwrap_or_default();
        let mut row: Vec<_> = ["name", "tc", "xdp", "external"].iter().map(|field| cell(&interface[field])).collect();
        row.push(paint(problem, Color::FG_RED, coloured && !problem.is_empty()));
        table.push(row);
    }
    format!("\n{}", aligned(table))
}

/// Nothing as long as no connection went through the agent.
fn proxy(proxy: &Value) -> String {
    if proxy["accepted"].as_u64().unwrap_or_default() == 0 {
        return String::new();
    }
    let [accepted, live, relayed, terminated] =
        ["accepted", "live", "relayed", "terminated"].map(|field| cell(&proxy[field]));
    let (bytes_in, bytes_out) = (bytes(&proxy["bytesIn"]), bytes(&proxy["bytesOut"]));
    let refused: Vec<_> = fields(&proxy["refused"]).map(|(reason, n)| format!(", {reason} {n}")).collect();
    format!(
        "\nthrough the agent: {accepted} opened, {live} live, {relayed} relayed, {terminated} terminated, {bytes_in} in, \
         {bytes_out} out{}\n",
        refused.concat()
    )
}

/// Listeners of HTTP with their rules, and where requests went.
fn http(http: &Value) -> String {
    let listeners = array(&http["listeners"]);
    if listeners.is_empty() {
        return String::new();
    }
    let header = ["HTTP", "REQUESTS", "ACTIVE", "4XX", "5XX", "RETRIES", "FIRST BYTE", "OUT"];
    let mut table = vec![header.map(str::to_owned).to_vec()];
    let mut push = |title: String, counts: &Value| {
        let mut row = vec![title];
        row.extend(["requests", "active", "clientErrors", "serverErrors", "retries"].map(|field| cell(&counts[field])));
        row.push(format!("{:.1} ms", counts["meanFirstByte"].as_f64().unwrap_or_default()));
        row.push(bytes(&counts["bytes"]));
        table.push(row);
    };
    for listener in listeners {
        let [name, protocol, hostname] = ["name", "protocol", "hostname"].map(|field| cell(&listener[field]));
        push(format!("{name} ({protocol}, {hostname})"), listener);
        for rule in array(&listener["rules"]) {
            push(format!("  {}, rule {}", cell(&rule["route"]), cell(&rule["rule"])), rule);
            for (backend, counts) in fields(&rule["backends"]) {
                push(format!("    {backend}"), counts);
            }
        }
    }
    let refused: Vec<_> = fields(&http["refused"]).map(|(reason, n)| format!(", {reason} {n}")).collect();
    let [connections, live, abandoned] = ["connections", "live", "abandoned"].map(|field| cell(&http[field]));
    format!(
        "\n{}\nHTTP: {connections} connections opened, {live} live, {abandoned} requests given up by their clients{}\n",
        aligned(table),
        refused.concat()
    )
}

fn array(value: &Value) -> &[Value] {
    value.as_array().map(Vec::as_slice).unwrap_or_default()
}

fn fields(value: &Value) -> impl Iterator<Item = (&String, &Value)> {
    value.as_object().into_iter().flatten()
}

/// With a binary prefix.
fn bytes(value: &Value) -> String {
    let bytes = value.as_u64().unwrap_or_default();
    let mut scaled = bytes as f64;
    for unit in ["B", "KiB", "MiB", "GiB"] {
        if scaled < 1024.0 {
            return if unit == "B" { format!("{bytes} B") } else { format!("{scaled:.1} {unit}") };
        }
        scaled /= 1024.0;
    }
    format!("{scaled:.1} TiB")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn rules_are_below_their_listener_and_backends_below_their_rule() {
        let counts = json!({
            "requests": 3, "active": 1, "clientErrors": 1, "serverErrors": 0, "retries": 2, "meanFirstByte": 1.25, "bytes": 2048,
        });
        let with = |more: Value| {
            let mut all = counts.as_object().unwrap().clone();
            all.extend(more.as_object().unwrap().clone());
            Value::Object(all)
        };
        let rule = with(json!({"route": "HTTPRoute ns/r", "rule": "0", "backends": {"ns/web:80": counts}}));
        let listener = with(json!({"name": "ns/gw/web", "protocol": "HTTP", "hostname": "a.example", "rules": [rule]}));
        let told = http(&json!({
            "connections": 5, "live": 2, "abandoned": 1, "refused": {"no_route": 4}, "listeners": [listener],
        }));
        let expected = "
HTTP                         REQUESTS  ACTIVE  4XX  5XX  RETRIES  FIRST BYTE  OUT
ns/gw/web (HTTP, a.example)  3         1       1    0    2        1.2 ms      2.0 KiB
  HTTPRoute ns/r, rule 0     3         1       1    0    2        1.2 ms      2.0 KiB
    ns/web:80                3         1       1    0    2        1.2 ms      2.0 KiB

HTTP: 5 connections opened, 2 live, 1 requests given up by their clients, no_route 4
";
        assert_eq!(told, expected);
        assert_eq!(http(&json!({"listeners": []})), "");
    }

    #[test]
    fn what_is_wrong_is_said_below_its_object() {
        let condition =
            |kind: &str, status: &str| json!({"type": kind, "status": status, "reason": "R", "message": "M"});
        let status = json!({
            "node": "n1", "version": "0", "ready": true, "refusedPackets": {"no_listener": 3}, "problems": ["p.yaml:1: bad"],
            "proxy": {
                "accepted": 5, "live": 1, "relayed": 2, "terminated": 1, "bytesIn": 2048, "bytesOut": 10,
                "refused": {"not_tls": 2},
            },
            "listeners": {"default/gw/web": {"picked": 5, "live": 2, "refused": 0, "bytesIn": 2048, "bytesOut": 10}},
            "serverNames": {"default/gw/web": {
                "*.a.example": {"route": "TLSRoute default/a", "mode": "passthrough", "hits": 7},
                "b.example": {"mode": "terminate", "hits": 0},
            }},
            "objects": [{
                "kind": "Gateway", "metadata": {"namespace": "default", "name": "gw"},
                "status": {
                    "addresses": [{"value": "198.19.0.1"}],
                    "conditions": [condition("Accepted", "True")],
                    "listeners": [{
                        "name": "web", "attachedRoutes": 1,
                        "conditions": [condition("Conflicted", "False"), condition("Programmed", "False")],
                    }],
                },
            }],
        });
        let text = table(&status, false);
        let expected = "node n1, sluice 0, ready\n\n\
            OBJECT                           STATUS                        OPENED  LIVE  REFUSED  IN       OUT\n\
            Gateway default/gw (198.19.0.1)  Accepted\n  \
              web, 1 routes                                                5       2     0        2.0 KiB  10 B\n\
            \x20                                not Programmed: M (R)\n    \
                *.a.example                  TLSRoute default/a            7\n    \
                b.example                    no route: refused, ends here  0\n";
        assert!(text.starts_with(expected), "{text}");
        let expected = "refused packets: no_listener 3\n\n\
            through the agent: 5 opened, 1 live, 2 relayed, 1 terminated, 2.0 KiB in, 10 B out, not_tls 2\n\
            p.yaml:1: bad\n";
        assert!(text.ends_with(expected), "{text}");
    }

    #[test]
    fn what_the_kernel_does_not_count_is_no_zero() {
        let counted = |picked: u64| json!({"picked": picked, "live": 0, "refused": 0, "bytesIn": 1, "bytesOut": 1});
        assert_eq!(counts(&counted(0), true), ["-"; 5]);
        assert_eq!(counts(&Value::Null, true), ["-"; 5]);
        assert_eq!(counts(&counted(0), false), ["0", "0", "0", "1 B", "1 B"]);
        assert_eq!(counts(&counted(2), true)[0], "2", "of a port that has others too");
        let mut rows = Rows { table: Vec::new(), coloured: false };
        let gateway = json!({
            "kind": "Gateway", "metadata": {"namespace": "ns", "name": "gw"},
            "status": {"listeners": [{"name": "web", "attachedRoutes": 1}, {"name": "tcp", "attachedRoutes": 1}]},
        });
        let listeners = json!({"ns/gw/web": counted(0), "ns/gw/tcp": counted(0)});
        rows.object(&gateway, &json!({"listeners": listeners, "http": {"listeners": [{"name": "ns/gw/web"}]}}));
        let opened: Vec<&str> = rows.table[1..].iter().map(|row| &*row[2]).collect();
        assert_eq!(opened, ["-", "0"]);
    }
}
