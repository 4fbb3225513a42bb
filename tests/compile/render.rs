//! What compile makes of a directory, as text for people to review.

use std::fmt::Write;
use std::path::Path;

use gateway_agent::compile::compile;
use gateway_agent::emit::status;
use gateway_agent::index::{Change, Index, NodeFacts};
use gateway_agent::ir::{Duty, Endpoint, Ir, Target};
use gateway_agent::source::Problem;
use gateway_agent::source::files::{Loaded, load_dir};

/// The node that every case is compiled for.
pub fn node() -> NodeFacts {
    let addresses = ["198.18.0.10", "2001:db8::10"].map(|a| a.parse().expect("an address")).to_vec();
    NodeFacts { name: "node-a".into(), addresses }
}

/// The text for a directory; file names are relative to it.
pub fn directory(dir: &Path) -> String {
    let loaded = load_dir(dir).expect("a readable directory");
    let text = loaded_text(loaded);
    text.replace(&format!("{}/", dir.display()), "")
}

fn loaded_text(loaded: Loaded) -> String {
    let mut index = Index::new(node());
    index.apply(loaded.objects.into_iter().map(Change::Set));
    text(&index, &loaded.problems)
}

/// IR, status and problems.
pub fn text(index: &Index, problems: &[Problem]) -> String {
    let (ir, report) = compile(index);
    let mut text = ir_text(&ir);
    let statuses = status::status(&report);
    if !statuses.is_empty() {
        text += "\n# status\n";
    }
    for object in statuses {
        text += "---\n";
        text += &serde_saphyr::to_string(&object).expect("a status as YAML");
    }
    let mut problems = problems.to_vec();
    problems.extend(report.problems);
    if !problems.is_empty() {
        text += "\n# problems\n";
    }
    for problem in problems {
        _ = writeln!(text, "{problem}");
    }
    text
}

fn ir_text(ir: &Ir) -> String {
    let mut text = "# ir\n".to_owned();
    for listener in &ir.listeners {
        let addresses: Vec<String> = listener.addresses.iter().map(ToString::to_string).collect();
        let (protocol, port) = (listener.protocol, listener.port);
        _ = writeln!(text, "listener {}: {protocol} {port} of {}", listener.name, addresses.join(", "));
        let Some(set) = &listener.backends else {
            text += "  no route\n";
            continue;
        };
        _ = writeln!(text, "  by {}", set.route);
        for backend in &set.refs {
            _ = write!(text, "  {:>7} ", backend.weight);
            match &backend.target {
                Target::Invalid => text += "refuse\n",
                Target::Endpoints { service, endpoints } => {
                    let endpoints: Vec<String> = endpoints.iter().map(endpoint_text).collect();
                    _ = writeln!(text, "{service}: [{}]", endpoints.join(", "));
                }
            }
        }
    }
    for address in &ir.exclusive_addresses {
        _ = writeln!(text, "exclusive {address}");
    }
    text
}

fn endpoint_text(endpoint: &Endpoint) -> String {
    let local = if endpoint.local { " local" } else { "" };
    let draining = if endpoint.duty == Duty::Draining { " draining" } else { "" };
    format!("{}{local}{draining}", std::net::SocketAddr::new(endpoint.address, endpoint.port))
}
