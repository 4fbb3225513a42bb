//! What compile makes of a directory, as text for people to review.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::Path;

use gateway_agent::addresses::{Addressing, Pool};
use gateway_agent::compile::compile;
use gateway_agent::emit::status::{self, ConditionStatus, ListenerStatus, ObjectStatus, Status};
use gateway_agent::index::{Change, Index, NodeFacts};
use gateway_agent::ir::{BackendSet, Duty, Endpoint, Infrastructure, Ir, ServerName, Target, TlsMode, Traffic};
use gateway_agent::source::Problem;
use gateway_agent::source::files::{Loaded, load_dir};

use crate::http;

/// The node that every case is compiled for.
pub fn node() -> NodeFacts {
    let addresses = ["198.18.0.10", "2001:db8::10"].map(|a| a.parse().expect("an address")).to_vec();
    NodeFacts { name: "node-a".into(), addresses }
}

/// The text for a directory; file names are relative to it.
pub fn directory(dir: &Path) -> String {
    let loaded = load_dir(dir).expect("a readable directory");
    let text = loaded_text(loaded, pool(dir));
    text.replace(&format!("{}/", dir.display()), "")
}

/// The address pool that a case is compiled with: the file `address-pool`.
fn pool(dir: &Path) -> Pool {
    let text = std::fs::read_to_string(dir.join("address-pool")).unwrap_or_default();
    let blocks = text.lines().map(|line| line.parse().expect("addresses")).collect();
    Pool::new(blocks).expect("a pool")
}

fn loaded_text(loaded: Loaded, pool: Pool) -> String {
    let mut index = Index::new(node());
    *index.addressing_mut() = Addressing::new(pool, BTreeMap::new());
    index.apply(loaded.objects.into_iter().map(Change::Set));
    text(&index, &loaded.problems)
}

/// IR, status and problems.
pub fn text(index: &Index, problems: &[Problem]) -> String {
    let (ir, report) = compile(index);
    let mut text = ir_text(&ir) + &status_text(&status::status(&report));
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

fn status_text(statuses: &[ObjectStatus]) -> String {
    let mut text = "\n# status\n".to_owned();
    for object in statuses {
        let namespace = object.metadata.namespace.as_ref().map(|n| format!("{n}/")).unwrap_or_default();
        _ = writeln!(text, "{} {namespace}{}", object.kind, object.metadata.name);
        match &object.status {
            Status::GatewayClass(status) => conditions_text(&mut text, "  ", &status.conditions),
            Status::Gateway(status) => {
                let addresses: Vec<String> = status.addresses.iter().map(|a| a.value.to_string()).collect();
                _ = writeln!(text, "  addresses {}", addresses.join(", "));
                if let Some(sets) = status.attached_listener_sets {
                    _ = writeln!(text, "  ListenerSets {sets}");
                }
                conditions_text(&mut text, "  ", &status.conditions);
                listeners_text(&mut text, &status.listeners);
            }
            Status::ListenerSet(status) => {
                conditions_text(&mut text, "  ", &status.conditions);
                listeners_text(&mut text, &status.listeners);
            }
            Status::Policy(status) => {
                for ancestor in &status.ancestors {
                    let to = &ancestor.ancestor_ref;
                    let namespace = to.namespace.as_deref().unwrap_or_default();
                    _ = writeln!(text, "  ancestor {} {namespace}/{}", to.kind, to.name);
                    conditions_text(&mut text, "    ", &ancestor.conditions);
                }
            }
            Status::Route(status) => {
                for parent in &status.parents {
                    let parent_ref = &parent.parent_ref;
                    let namespace = parent_ref.namespace.as_ref().map(|n| format!("{n}/")).unwrap_or_default();
                    _ = write!(text, "  parent {} {namespace}{}", parent_ref.kind, parent_ref.name);
                    let section = parent_ref.section_name.as_ref().map(|s| format!(" section {s}"));
                    let port = parent_ref.port.map(|p| format!(" port {p}"));
                    text += &(section.unwrap_or_default() + &port.unwrap_or_default() + "\n");
                    conditions_text(&mut text, "    ", &parent.conditions);
                }
            }
        }
    }
    text
}

fn listeners_text(text: &mut String, listeners: &[ListenerStatus]) {
    for listener in listeners {
        let kinds: Vec<String> = listener.supported_kinds.iter().map(|k| k.kind.to_string()).collect();
        let (name, kinds) = (&listener.name, if kinds.is_empty() { "nothing".to_owned() } else { kinds.join(", ") });
        _ = writeln!(text, "  listener {name}: takes {kinds}; {} attached", listener.attached_routes);
        conditions_text(text, "    ", &listener.conditions);
    }
}

fn conditions_text(text: &mut String, indent: &str, conditions: &[ConditionStatus]) {
    for condition in conditions {
        let ConditionStatus { kind, status, reason, message, observed_generation, .. } = condition;
        let generation = if *observed_generation == 0 { String::new() } else { format!(" @{observed_generation}") };
        _ = writeln!(text, "{indent}{kind} {status} {reason}{generation}: {message}");
    }
}

fn ir_text(ir: &Ir) -> String {
    let mut text = "# ir\n".to_owned();
    for listener in &ir.listeners {
        let addresses: Vec<String> = listener.addresses.iter().map(ToString::to_string).collect();
        let what = match &listener.traffic {
            Traffic::Forward { protocol, .. } => protocol.to_string(),
            Traffic::Tls { mode: TlsMode::Passthrough, .. } => "TLS Passthrough".to_owned(),
            Traffic::Tls { mode: TlsMode::Terminate { .. }, .. } => "TLS Terminate".to_owned(),
            Traffic::Http(http) => format!("{} {}", http.security.as_str(), http.hostname),
        };
        _ = writeln!(text, "listener {}: {what} {} of {}", listener.name, listener.port, addresses.join(", "));
        match &listener.traffic {
            Traffic::Forward { backends, .. } => set_text(&mut text, "  ", backends.as_deref()),
            Traffic::Tls { mode, names } => {
                certificates_text(&mut text, mode);
                names.iter().for_each(|name| name_text(&mut text, name));
            }
            Traffic::Http(http) => http::listener_text(&mut text, ir, http),
        }
    }
    for address in &ir.exclusive_addresses {
        _ = writeln!(text, "exclusive {address}");
    }
    for address in &ir.announced_addresses {
        _ = writeln!(text, "announced {address}");
    }
    for gateway in &ir.gateways {
        let Infrastructure { labels, annotations } = &gateway.infrastructure;
        for (what, pairs) in [("labels", labels), ("annotations", annotations)] {
            let pairs: Vec<String> = pairs.iter().map(|(key, value)| format!("{key}={value}")).collect();
            if !pairs.is_empty() {
                _ = writeln!(
                    text,
                    "{what} of what is made for {}/{}: {}",
                    gateway.namespace,
                    gateway.name,
                    pairs.join(", ")
                );
            }
        }
    }
    text
}

fn certificates_text(text: &mut String, mode: &TlsMode) {
    let TlsMode::Terminate { certificates } = mode else { return };
    for certificate in certificates {
        _ = writeln!(text, "  certificate of {}: {} in the chain", certificate.secret, certificate.chain.len());
    }
    if certificates.is_empty() {
        *text += "  no certificate\n";
    }
}

fn name_text(text: &mut String, name: &ServerName) {
    _ = write!(text, "  name {}", name.host);
    if !name.not_on.is_empty() {
        let not_on: Vec<String> = name.not_on.iter().map(ToString::to_string).collect();
        _ = write!(text, " not on {}", not_on.join(", "));
    }
    *text += "\n";
    set_text(text, "    ", name.backends.as_deref());
}

fn set_text(text: &mut String, indent: &str, set: Option<&BackendSet>) {
    let Some(set) = set else {
        _ = writeln!(text, "{indent}no route");
        return;
    };
    _ = writeln!(text, "{indent}by {}", set.route);
    for backend in &set.refs {
        _ = write!(text, "{indent}{:>7} ", backend.weight);
        match &backend.target {
            Target::Invalid => *text += "refuse\n",
            Target::Endpoints { service, endpoints, tls, .. } => {
                let endpoints: Vec<String> = endpoints.iter().map(endpoint_text).collect();
                let tls = tls.as_deref().map(http::backend_tls_text).unwrap_or_default();
                _ = writeln!(text, "{service}{tls}: [{}]", endpoints.join(", "));
            }
        }
    }
}

pub fn endpoint_text(endpoint: &Endpoint) -> String {
    let local = if endpoint.local { " local" } else { "" };
    let draining = if endpoint.duty == Duty::Draining { " draining" } else { "" };
    let proxy = if endpoint.proxy_protocol { " proxy-protocol" } else { "" };
    format!("{}{local}{proxy}{draining}", std::net::SocketAddr::new(endpoint.address, endpoint.port))
}
