//! `sluice maps`.

use serde_json::Value;

use super::output::aligned;
use crate::admin::Query;

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum What {
    /// Addresses and ports, and which set of backends each has.
    Listeners,
    /// Server names of TLS listeners, with what comes by them.
    Sni,
    /// Sets of backends with the share of each.
    Sets,
    Backends,
    /// Connections.
    Flows,
    /// TLS clients that have sent no whole ClientHello yet.
    Handshakes,
    /// ClientHellos that the kernel keeps.
    Hellos,
}

impl What {
    pub fn query(self) -> Query {
        match self {
            What::Listeners => Query::Listeners,
            What::Sets => Query::Sets,
            What::Backends => Query::Backends,
            What::Flows => Query::Flows,
            What::Sni => Query::Sni,
            What::Handshakes => Query::Handshakes,
            What::Hellos => Query::Hellos,
        }
    }
}

pub fn table(what: What, answer: &Value) -> String {
    let rows = answer.as_array().map(Vec::as_slice).unwrap_or_default();
    match what {
        What::Sets => sets(rows),
        What::Listeners => {
            let columns = ["address", "port", "protocol", "kind", "id", "name", "backendSet"];
            plain(&["ADDRESS", "PORT", "PROTOCOL", "KIND", "ID", "LISTENER", "SET"], &columns, rows)
        }
        What::Sni => {
            let columns = ["address", "port", "name", "mode", "listener", "route", "backendSet", "hits"];
            plain(&["ADDRESS", "PORT", "NAME", "MODE", "LISTENER", "ROUTE", "SET", "HITS"], &columns, rows)
        }
        What::Handshakes => {
            let columns = ["client", "gateway", "mss", "windowScale", "sack", "hello", "alert"];
            plain(&["CLIENT", "GATEWAY", "MSS", "WINDOW SCALE", "SACK", "HELLO", "ALERT"], &columns, rows)
        }
        What::Hellos => {
            let columns = ["slot", "client", "gateway", "bytes", "state", "attempts", "idleSeconds"];
            plain(&["SLOT", "CLIENT", "GATEWAY", "BYTES", "STATE", "BACKENDS TRIED", "IDLE"], &columns, rows)
        }
        What::Backends => {
            let columns = ["id", "address", "port", "protocol", "service", "local", "source", "ifindex"];
            plain(&["ID", "ADDRESS", "PORT", "PROTOCOL", "SERVICE", "LOCAL", "SOURCE", "IFINDEX"], &columns, rows)
        }
        What::Flows => {
            let columns =
                ["protocol", "client", "gateway", "source", "backend", "state", "listener", "packets", "bytes"];
            let header =
                ["PROTOCOL", "CLIENT", "GATEWAY", "SOURCE", "BACKEND", "STATE", "LISTENER", "PACKETS", "BYTES"];
            plain(&header, &columns, rows)
        }
    }
}

fn plain(header: &[&str], columns: &[&str], rows: &[Value]) -> String {
    let header = header.iter().map(ToString::to_string).collect();
    let row = |row: &Value| columns.iter().map(|column| cell(&row[column])).collect();
    aligned(std::iter::once(header).chain(rows.iter().map(row)))
}

fn sets(rows: &[Value]) -> String {
    let header = ["ID", "SLOTS", "LISTENERS", "SHARE", "BACKEND", "NAME"].map(str::to_owned).to_vec();
    let mut table = vec![header];
    for set in rows {
        let slots = match set["nested"].as_u64() {
            Some(0) | None => cell(&set["length"]),
            Some(nested) => format!("{}+{nested}", cell(&set["length"])),
        };
        let listeners: Vec<_> = set["listeners"].as_array().into_iter().flatten().map(cell).collect();
        let mut first = vec![cell(&set["id"]), slots, listeners.join(",")];
        for member in set["members"].as_array().into_iter().flatten() {
            let share = format!("{:.4}%", member["share"].as_f64().unwrap_or_default() * 100.0);
            let mut row = std::mem::replace(&mut first, vec![String::new(); 3]);
            row.extend([share, cell(&member["backend"]), cell(&member["name"])]);
            table.push(row);
        }
    }
    aligned(table)
}

/// What has no value is a dash.
pub fn cell(value: &Value) -> String {
    match value {
        Value::Null => "-".to_owned(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}
