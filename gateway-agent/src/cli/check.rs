//! `sluice check DIR`: what would become of these manifests, without a node.

#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::Path;
use std::process::ExitCode;

use serde::Serialize;
use tabled::settings::Color;

use super::output::{self, Output};
use crate::compile::{Condition, ConditionType, Report, compile};
use crate::index::{Change, Index, NodeFacts, Object, ObjectId, Origin};
use crate::source::files::{self, Loaded};
use crate::source::{Problem, Severity};

/// Prints a verdict an object. The exit code is 1 if anything is rejected, as a whole or partly.
pub fn check(dir: &Path, output: Output) -> anyhow::Result<ExitCode> {
    let verdicts = verdicts(&files::load_dir(dir)?);
    let text = match output::structured(&verdicts, output)? {
        Some(text) => text,
        None => table(&verdicts, output::coloured()),
    };
    let printed = output::print(&text)?;
    // A check that found nothing to check has not passed.
    let passed = !verdicts.is_empty() && verdicts.iter().all(|v| v.verdict < Outcome::Partly);
    Ok(if passed { printed } else { ExitCode::FAILURE })
}

/// What becomes of an object, or of what is none.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub struct Verdict {
    pub file: String,
    pub line: u32,
    /// `None`: the file as a whole, or something that does not say what it is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub object: Option<String>,
    pub verdict: Outcome,
    /// Why, and what to do.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub messages: Vec<String>,
}

/// The worse, the later.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    Accepted,
    Ignored,
    Warned,
    /// Some of it is not in force.
    Partly,
    Rejected,
}

/// A verdict for every object and every other problem, by file and line.
pub fn verdicts(loaded: &Loaded) -> Vec<Verdict> {
    // Nobody asks here where traffic goes, only that a Gateway without addresses of its own gets some: RFC 5737, RFC 3849.
    let addresses =
        vec![IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)), IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1))];
    let mut index = Index::new(NodeFacts { name: "".into(), addresses });
    index.apply(loaded.objects.iter().cloned().map(Change::Set));
    let (_, report) = compile(&index);

    let mut rows: BTreeMap<(Origin, Option<ObjectId>), (Outcome, Vec<String>)> = BTreeMap::new();
    for object in &loaded.objects {
        let (mut outcome, mut messages) = (Outcome::Accepted, Vec::new());
        let groups = conditions(&report, object);
        let bad = if is_in_force(object, &groups) { Outcome::Partly } else { Outcome::Rejected };
        for (place, conditions) in groups {
            let refused = conditions.iter().any(|c| c.kind == ConditionType::Accepted && c.is_bad());
            for condition in conditions.iter().filter(|c| c.is_bad() || c.remark) {
                outcome = outcome.max(if condition.is_bad() { bad } else { Outcome::Warned });
                let message = format!("{place}{} ({})", condition.message, condition.reason);
                // That what is not accepted is not programmed goes without saying.
                let implied = refused && condition.kind == ConditionType::Programmed;
                if !implied && !messages.contains(&message) {
                    messages.push(message);
                }
            }
        }
        rows.insert((object.meta().origin.clone(), Some(object.id())), (outcome, messages));
    }
    for problem in loaded.problems.iter().chain(&report.problems) {
        let line = if problem.object.is_some() { problem.start } else { problem.origin.line };
        let place = Origin { file: problem.origin.file.clone(), line };
        let (outcome, messages) =
            rows.entry((place, problem.object.clone())).or_insert((Outcome::Accepted, Vec::new()));
        *outcome = (*outcome).max(match problem.severity {
            Severity::Error => Outcome::Rejected,
            Severity::Warning => Outcome::Warned,
            Severity::Note => Outcome::Ignored,
        });
        messages.push(message(problem));
    }
    let verdict = |((origin, id), (verdict, messages)): ((Origin, Option<ObjectId>), (Outcome, Vec<String>))| Verdict {
        file: origin.file.to_string(),
        line: origin.line,
        object: id.map(|id| id.to_string()),
        verdict,
        messages,
    };
    rows.into_iter().map(verdict).collect()
}

/// With its own line, where that is not the row's.
fn message(problem: &Problem) -> String {
    let line = match (&problem.object, problem.column) {
        (_, 0) => String::new(),
        (Some(_), column) => format!("line {}, column {column}: ", problem.origin.line),
        (None, column) => format!("column {column}: "),
    };
    let colon = if problem.field.is_empty() { "" } else { ": " };
    format!("{line}{}{colon}{}", problem.field, problem.message)
}

/// The conditions of an object, and the listener that each group of them is about.
fn conditions<'r>(report: &'r Report, object: &Object) -> Vec<(String, &'r [Condition])> {
    let name = &object.meta().name;
    match object {
        Object::GatewayClass(_) => {
            let class = report.classes.iter().find(|c| c.subject.name == *name);
            class.map(|class| (String::new(), &*class.conditions)).into_iter().collect()
        }
        Object::Gateway(_) => {
            let place = report.gateways.binary_search_by(|g| g.subject.name.cmp(name)).ok();
            let gateway = place.map(|place| &report.gateways[place]);
            let own = gateway.map(|gateway| (String::new(), &*gateway.conditions));
            let listeners = gateway.into_iter().flat_map(|gateway| &gateway.listeners);
            own.into_iter().chain(listeners.map(|l| (format!("listener {}: ", l.name), &*l.conditions))).collect()
        }
        Object::ListenerSet(_) => {
            let place = report.listener_sets.binary_search_by(|set| set.subject.name.cmp(name)).ok();
            let set = place.map(|place| &report.listener_sets[place]);
            let own = set.map(|set| (String::new(), &*set.conditions));
            let listeners = set.into_iter().flat_map(|set| &set.listeners);
            own.into_iter().chain(listeners.map(|l| (format!("listener {}: ", l.name), &*l.conditions))).collect()
        }
        Object::BackendTlsPolicy(_) => {
            let place = report.policies.binary_search_by(|policy| policy.subject.name.cmp(name)).ok();
            let ancestors = place.into_iter().flat_map(|place| &report.policies[place].ancestors);
            ancestors.map(|ancestor| (format!("Gateway {}: ", ancestor.gateway), &*ancestor.conditions)).collect()
        }
        Object::Route(_) => {
            let id = object.id();
            let place = report.routes.binary_search_by(|r| r.id.cmp(&id)).ok();
            let parents = place.into_iter().flat_map(|place| &report.routes[place].parents);
            parents.map(|parent| (String::new(), &*parent.conditions)).collect()
        }
        _ => Vec::new(),
    }
}

/// Whether at least some of an object is: at a parent of a route, at a listener of a Gateway that is accepted itself.
fn is_in_force(object: &Object, groups: &[(String, &[Condition])]) -> bool {
    let is = |(_, conditions): &(String, &[Condition])| {
        let decides = |c: &&Condition| matches!(c.kind, ConditionType::Accepted | ConditionType::Programmed);
        !conditions.iter().filter(decides).any(Condition::is_bad)
    };
    let (own, parts) = match (object, groups) {
        (Object::Route(_) | Object::BackendTlsPolicy(_), parts) => (true, parts),
        (_, [own, parts @ ..]) => (is(own), parts),
        (_, []) => (true, groups),
    };
    own && (parts.is_empty() || parts.iter().any(is))
}

fn table(verdicts: &[Verdict], coloured: bool) -> String {
    let mut rows = vec![["PLACE", "OBJECT", "VERDICT", "WHY"].map(str::to_owned).to_vec()];
    for verdict in verdicts {
        let (word, colour) = match verdict.verdict {
            Outcome::Accepted => ("accepted", Color::FG_GREEN),
            Outcome::Ignored => ("ignored", Color::FG_BRIGHT_BLACK),
            Outcome::Warned => ("warned", Color::FG_YELLOW),
            Outcome::Partly => ("partly", Color::FG_RED),
            Outcome::Rejected => ("rejected", Color::FG_RED),
        };
        rows.push(vec![
            format!("{}:{}", verdict.file, verdict.line),
            verdict.object.clone().unwrap_or_else(|| "-".to_owned()),
            output::paint(word, colour, coloured),
            verdict.messages.join("\n"),
        ]);
    }
    let count = |outcome| verdicts.iter().filter(|v| v.verdict == outcome).count();
    let totals = [
        (count(Outcome::Accepted), "accepted"),
        (count(Outcome::Warned), "warned"),
        (count(Outcome::Ignored), "ignored"),
        (count(Outcome::Partly), "partly"),
        (count(Outcome::Rejected), "rejected"),
    ];
    let totals: Vec<String> = totals.iter().filter(|(n, _)| *n > 0).map(|(n, word)| format!("{n} {word}")).collect();
    if totals.is_empty() {
        return "No manifests (*.yaml, *.yml, *.json) here\n".to_owned();
    }
    format!("{}\n{}\n", output::aligned(rows), totals.join(", "))
}
