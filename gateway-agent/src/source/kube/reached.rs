//! How far this agent is in what the API server says of Gateways and ListenerSets, and how far one must be to know each of them as it is.

use std::collections::BTreeMap;

use crate::addresses::Reached;
use crate::index::{Gateway, Kind, Object, ObjectId};
use crate::source::yaml::Node;

#[derive(Default)]
pub struct Progress {
    /// All up to here has been said.
    said: Reached,
    /// Of a batch that is on its way.
    taken: Option<Reached>,
    applied: Option<Reached>,
    marks: BTreeMap<ObjectId, Mark>,
}

/// The resourceVersions of an object that matter.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Mark {
    /// With which it became what it is. 0: its status said that it is programmed everywhere when it was seen first.
    pub spec: u64,
    /// With which its status got the addresses that it has.
    pub addresses: u64,
}

impl Progress {
    /// The API server has said everything of a kind up to a version.
    pub fn reached(&mut self, kind: Kind, version: &str) {
        match kind {
            Kind::Gateway => self.said.gateways = number(version),
            Kind::ListenerSet => self.said.listener_sets = number(version),
            _ => {}
        }
    }

    /// A batch with all changes goes to whoever applies it.
    pub fn took(&mut self) {
        self.taken = Some(self.said);
    }

    /// It was applied.
    pub fn applied(&mut self) {
        self.applied = self.taken.take().or(self.applied);
    }

    /// Up to where everything is applied; `None`: nothing is that the API server has said. `changes`: there are some that are not taken.
    pub fn place(&self, changes: bool) -> Option<Reached> {
        // What changed nothing is applied as it is said.
        self.applied.map(|applied| if changes || self.taken.is_some() { applied } else { self.said })
    }

    /// An object was said to be so; `before`: what it was, if that was something else.
    pub fn seen(&mut self, id: &ObjectId, node: &Node, before: Option<&Object>, now: Option<&Object>) {
        if !matches!(id.kind, Kind::Gateway | Kind::ListenerSet) {
            return;
        }
        let version = node.text_at(&["metadata", "resourceVersion"]).map_or(0, number);
        let Some(mark) = self.marks.get_mut(id) else {
            let spec = if is_programmed(node) { 0 } else { version };
            self.marks.insert(id.clone(), Mark { spec, addresses: spec });
            return;
        };
        // No version of now is greater, also after the API server was restored from what it had earlier.
        mark.spec = mark.spec.min(version);
        mark.addresses = mark.addresses.min(version);
        match (before, now) {
            (_, None) => {}
            (Some(Object::Gateway(before)), Some(Object::Gateway(now))) if is_but_addresses(before, now) => {
                mark.addresses = version;
            }
            _ => *mark = Mark { spec: version, addresses: version },
        }
    }

    pub fn gone(&mut self, id: &ObjectId) {
        self.marks.remove(id);
    }

    pub fn mark(&self, id: &ObjectId) -> Mark {
        self.marks.get(id).copied().unwrap_or_default()
    }
}

fn is_but_addresses(before: &Gateway, now: &Gateway) -> bool {
    before.had != now.had && before.meta.generation == now.meta.generation
}

fn number(version: &str) -> u64 {
    version.parse().unwrap_or(0)
}

/// By its status, and as it is now.
fn is_programmed(node: &Node) -> bool {
    let generation = node.text_at(&["metadata", "generation"]);
    let conditions = node.get("status").and_then(|status| status.get("conditions")).map_or(&[][..], Node::items);
    let text = |condition: &Node, key: &str, wanted: Option<&str>| condition.get(key).and_then(Node::text) == wanted;
    conditions.iter().any(|condition| {
        text(condition, "type", Some("Programmed"))
            && text(condition, "status", Some("True"))
            && text(condition, "observedGeneration", generation)
    })
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::source::kube::node;
    use crate::source::kube::store::Store;
    use crate::source::manifest::identify;

    fn gateway(version: &str, generation: u64, programmed: u64, address: Option<&str>) -> String {
        let condition = json!({ "type": "Programmed", "status": "True", "observedGeneration": programmed });
        let addresses: Vec<Value> = address.iter().map(|address| json!({ "value": address })).collect();
        let object = json!({
            "metadata": { "name": "edge", "namespace": "x", "resourceVersion": version, "generation": generation },
            "spec": { "gatewayClassName": "sluice", "listeners": [{ "name": "a", "port": 79 + generation, "protocol": "HTTP" }] },
            "status": { "conditions": [condition], "addresses": addresses },
        });
        object.to_string()
    }

    fn set(store: &mut Store, gateway: &str) {
        store.set(Kind::Gateway, "v1", &node(gateway.as_bytes()).unwrap(), 1);
    }

    fn id() -> ObjectId {
        identify(Kind::Gateway, &node(gateway("1", 1, 1, None).as_bytes()).unwrap())
    }

    fn mark(store: &Store) -> (u64, u64) {
        let Mark { spec, addresses } = store.progress.mark(&id());
        (spec, addresses)
    }

    #[test]
    fn what_was_programmed_when_it_was_seen_first_is_waited_for_by_nobody() {
        let mut store = Store::default();
        set(&mut store, &gateway("7", 1, 1, None));
        assert_eq!(mark(&store), (0, 0));
        let mut store = Store::default();
        set(&mut store, &gateway("7", 2, 1, None));
        assert_eq!(mark(&store), (7, 7));
        store.gone(id());
        assert_eq!(mark(&store), (0, 0));
    }

    #[test]
    fn a_version_counts_with_which_something_became_so() {
        let mut store = Store::default();
        set(&mut store, &gateway("7", 1, 0, None));
        set(&mut store, &gateway("8", 1, 1, None));
        assert_eq!(mark(&store), (7, 7), "only its conditions changed");
        set(&mut store, &gateway("9", 1, 1, Some("198.18.0.1")));
        assert_eq!(mark(&store), (7, 9));
        set(&mut store, &gateway("12", 2, 1, Some("198.18.0.1")));
        assert_eq!(mark(&store), (12, 12));
        set(&mut store, &gateway("3", 2, 1, Some("198.18.0.1")));
        assert_eq!(mark(&store), (3, 3), "restored from a backup");
        set(&mut store, &gateway("opaque", 3, 1, Some("198.18.0.1")));
        assert_eq!(mark(&store), (0, 0));
    }

    #[test]
    fn what_is_on_its_way_is_not_applied() {
        let at = |gateways| Some(Reached { gateways, listener_sets: 0 });
        let mut progress = Progress::default();
        progress.reached(Kind::Gateway, "5");
        progress.reached(Kind::HTTPRoute, "9");
        assert_eq!(progress.place(false), None, "nothing was applied");
        progress.took();
        progress.reached(Kind::Gateway, "6");
        assert_eq!(progress.place(true), None);
        progress.applied();
        assert_eq!(progress.place(true), at(5), "6 changed something that was not taken yet");
        assert_eq!(progress.place(false), at(6), "6 changed nothing");
        progress.took();
        progress.reached(Kind::Gateway, "7");
        assert_eq!(progress.place(false), at(5));
        progress.applied();
        assert_eq!(progress.place(false), at(7));
    }
}
