//! What of a status is ours, as a number: whether something is to be written is seen without keeping any status.

use std::hash::{DefaultHasher, Hasher};

use crate::compile::{CONTROLLER, ConditionType};
use crate::index::Kind;
use crate::source::{Node, Value};

/// Of what is ours; the times of conditions do not count, and neither does the order where the API has none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Digest {
    /// 0: nothing.
    pub whole: u64,
    /// The same without numbers of attached routes.
    pub settled: u64,
}

/// `status`: as the API has it, or as it is to be.
pub fn digest(kind: Kind, status: Option<&Node>) -> Digest {
    let Some(status) = status else { return Digest::default() };
    let of = |counts: bool| match kind {
        Kind::HTTPRoute | Kind::GRPCRoute | Kind::TCPRoute | Kind::TLSRoute | Kind::UDPRoute => {
            ours(status, "parents", "parentRef")
        }
        Kind::BackendTLSPolicy => ours(status, "ancestors", "ancestorRef"),
        _ => {
            let rest = ["addresses", "attachedListenerSets", "supportedFeatures"];
            let rest = rest.iter().filter_map(|key| Some((key, status.get(key)?)));
            // Empty is as good as absent.
            let rest = rest.filter(|(_, node)| !matches!(&node.value, Value::Sequence(items) if items.is_empty()));
            let listeners = status.get("listeners").map_or(&[][..], Node::items);
            let listeners = listeners.iter().map(|listener| {
                let (name, kinds) = (tree(listener.get("name")), tree(listener.get("supportedKinds")));
                let count = if counts { tree(listener.get("attachedRoutes")) } else { 0 };
                mix(&[name, kinds, count, conditions(listener)])
            });
            let rest = rest.map(|(key, node)| mix(&[text(key), tree(Some(node))]));
            conditions(status).wrapping_add(sum(listeners)).wrapping_add(sum(rest))
        }
    };
    Digest { whole: of(true), settled: of(false) }
}

/// Of entries that say whose they are.
fn ours(status: &Node, list: &str, reference: &str) -> u64 {
    let entries = status.get(list).map_or(&[][..], Node::items).iter();
    let ours = entries.filter(|entry| entry.get("controllerName").and_then(Node::text) == Some(CONTROLLER));
    sum(ours.map(|entry| mix(&[tree(entry.get(reference)), conditions(entry)])))
}

fn conditions(node: &Node) -> u64 {
    let conditions = node.get("conditions").map_or(&[][..], Node::items).iter();
    let ours = conditions.filter(|condition| condition.get("type").and_then(Node::text).is_some_and(is_ours));
    sum(ours.map(|condition| tree(Some(condition))))
}

/// Conditions of other types are others'.
pub fn is_ours(kind: &str) -> bool {
    ConditionType::ALL.iter().any(|ours| ours.to_string() == kind)
}

fn tree(node: Option<&Node>) -> u64 {
    match node.map(|node| &node.value) {
        None => 0,
        Some(Value::Scalar { text: scalar, .. }) => text(scalar),
        Some(Value::Sequence(items)) => mix(&items.iter().map(|item| tree(Some(item))).collect::<Vec<u64>>()),
        Some(Value::Mapping(entries)) => {
            let entries = entries.iter().filter(|entry| entry.key != "lastTransitionTime");
            sum(entries.map(|entry| mix(&[text(&entry.key), tree(Some(&entry.value))])))
        }
    }
}

/// Whatever the order.
fn sum(parts: impl Iterator<Item = u64>) -> u64 {
    parts.fold(0, u64::wrapping_add)
}

fn mix(parts: &[u64]) -> u64 {
    let mut hasher = DefaultHasher::new();
    parts.iter().for_each(|part| hasher.write_u64(*part));
    hasher.finish()
}

pub fn text(text: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    hasher.write(text.as_bytes());
    hasher.finish()
}
