//! Gateways and ListenerSets that the API server has let through and the reader refuses: they are served as they were before, so that a word
//! that is not known here cuts off nobody, and their status says why.

use std::sync::Arc;

use crate::index::{Gateway, ListenerSet, Object};

/// `before`: as it was until now.
pub fn with_last_good(object: Object, before: Option<&Object>) -> Object {
    match (object, before) {
        (Object::Gateway(now), Some(Object::Gateway(before))) if now.refused.is_some() && now.class == before.class => {
            let Gateway { meta, had, refused, .. } = Arc::unwrap_or_clone(now);
            Object::Gateway(Gateway { meta, had, refused, ..Gateway::clone(before) }.into())
        }
        (Object::ListenerSet(now), Some(Object::ListenerSet(before)))
            if now.refused.is_some() && now.parent == before.parent =>
        {
            let ListenerSet { meta, refused, .. } = Arc::unwrap_or_clone(now);
            Object::ListenerSet(ListenerSet { meta, refused, ..ListenerSet::clone(before) }.into())
        }
        (object, _) => object,
    }
}

/// There is a better version of it, or none at all.
pub fn is_refused(object: &Object) -> bool {
    match object {
        Object::Gateway(gateway) => gateway.refused.is_some(),
        Object::ListenerSet(set) => set.refused.is_some(),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::super::store::Store;
    use crate::compile::{CONTROLLER, compile};
    use crate::emit::status::status;
    use crate::index::{Index, Kind, NodeFacts};
    use crate::source::kube::node;

    /// What an API server says, and what the agent makes of it.
    struct World {
        store: Store,
        index: Index,
    }

    impl World {
        fn new() -> World {
            let node = NodeFacts { name: "node".into(), addresses: vec!["198.18.0.1".parse().unwrap()] };
            let mut world = World { store: Store::default(), index: Index::new(node) };
            world.say(Kind::GatewayClass, "sluice", json!({ "controllerName": CONTROLLER }));
            world.say(Kind::Gateway, "edge", gateway());
            world
        }

        fn say(&mut self, kind: Kind, name: &str, spec: Value) {
            let mut object = json!({ "metadata": { "name": name, "generation": 7 }, "spec": spec });
            if kind.namespaced() {
                object["metadata"]["namespace"] = "x".into();
            }
            self.store.set(kind, "v1", &node(object.to_string().as_bytes()).unwrap(), 1);
            self.index.apply(self.store.take().unwrap().changes);
        }

        /// Of the conditions that an object has somewhere in its status, status, reason and message of those of a type.
        fn conditions(&self, kind: Kind, name: &str, condition: &str) -> Vec<(String, String, String)> {
            let statuses = status(&compile(&self.index).1);
            let is_it = |id: crate::index::ObjectId| id.kind == kind && *id.name.name == *name;
            let status = statuses.iter().find(|status| is_it(status.id())).expect("a status");
            let mut found = Vec::new();
            find(&serde_json::to_value(&status.status).unwrap(), condition, &mut found);
            found
        }

        fn accepted(&self, kind: Kind, name: &str) -> (String, String, String) {
            self.conditions(kind, name, "Accepted").swap_remove(0)
        }
    }

    fn find(value: &Value, kind: &str, found: &mut Vec<(String, String, String)>) {
        match value {
            Value::Object(fields) if value["type"] == kind => {
                assert_eq!(fields["observedGeneration"], 7);
                let text = |key: &str| fields[key].as_str().unwrap().to_owned();
                found.push((text("status"), text("reason"), text("message")));
            }
            Value::Object(fields) => fields.values().for_each(|value| find(value, kind, found)),
            Value::Array(items) => items.iter().for_each(|item| find(item, kind, found)),
            _ => {}
        }
    }

    /// `from` of a later version of the API would be as unknown.
    fn listeners(from: &str) -> Value {
        let allowed = json!({ "namespaces": { "from": from } });
        json!([{ "name": "http", "port": 80, "protocol": "HTTP", "allowedRoutes": allowed }])
    }

    fn gateway() -> Value {
        let allowed = json!({ "namespaces": { "from": "All" } });
        json!({ "gatewayClassName": "sluice", "listeners": listeners("All"), "allowedListeners": allowed })
    }

    fn refused(reason: &str, message: &str) -> (String, String, String) {
        ("False".to_owned(), reason.to_owned(), message.to_owned())
    }

    #[test]
    fn what_the_reader_refuses_of_what_the_api_server_has_let_through_is_in_the_status() {
        let mut world = World::new();
        let parents = json!([{ "name": "edge" }]);
        let filter = json!([{ "filters": [{ "type": "Future" }] }]);
        for kind in [Kind::HTTPRoute, Kind::GRPCRoute] {
            world.say(kind, "bad", json!({ "parentRefs": parents, "rules": filter }));
            let (status, reason, message) = world.accepted(kind, "bad");
            assert_eq!((&*status, &*reason), ("False", "UnsupportedValue"), "{kind}");
            assert!(message.starts_with("spec.rules[0].filters[0].type: is \"Future\"; use "), "{kind}: {message}");
        }
        for kind in [Kind::TCPRoute, Kind::TLSRoute, Kind::UDPRoute] {
            let spec = json!({ "parentRefs": parents, "hostnames": ["a.example"], "rules": [] });
            world.say(kind, "bad", spec);
            assert_eq!(world.accepted(kind, "bad"), refused("UnsupportedValue", "spec.rules: needs a rule"), "{kind}");
        }
        world.say(Kind::ListenerSet, "bad", json!({ "parentRef": parents[0], "listeners": listeners("Future") }));
        let message = "spec.listeners[0].allowedRoutes.namespaces.from: is \"Future\"; use All, Same, Selector or None";
        assert_eq!(world.accepted(Kind::ListenerSet, "bad"), refused("Invalid", message));
        let bad = json!({ "gatewayClassName": "sluice", "listeners": listeners("Future") });
        world.say(Kind::Gateway, "bad", bad);
        assert_eq!(world.accepted(Kind::Gateway, "bad"), refused("Invalid", message));

        world.say(Kind::Service, "service", json!({ "ports": [{ "port": 80 }] }));
        let rules = json!([{ "backendRefs": [{ "name": "service", "port": 80 }] }]);
        world.say(Kind::HTTPRoute, "good", json!({ "parentRefs": parents, "rules": rules }));
        let target = json!([{ "group": "", "kind": "Service", "name": "service" }]);
        let validation = json!({ "hostname": "a.example", "wellKnownCACertificates": "System", "subjectAltNames": [{ "type": "Future" }] });
        world.say(Kind::BackendTLSPolicy, "bad", json!({ "targetRefs": target, "validation": validation }));
        let (status, reason, message) = world.accepted(Kind::BackendTLSPolicy, "bad");
        assert_eq!((&*status, &*reason), ("False", "Invalid"));
        assert!(message.starts_with("spec.validation.subjectAltNames[0].type: is \"Future\""), "{message}");
    }

    #[test]
    fn a_gateway_that_becomes_what_is_refused_is_served_as_before_and_says_so() {
        let mut world = World::new();
        let programmed = |world: &World, kind| -> Vec<String> {
            world.conditions(kind, "edge", "Programmed").into_iter().map(|(status, ..)| status).collect()
        };
        let parent = json!({ "name": "edge" });
        let set = |from: &str| json!({ "parentRef": parent, "listeners": [{ "name": "more", "port": 81, "protocol": "HTTP", "allowedRoutes": { "namespaces": { "from": from } } }] });
        world.say(Kind::ListenerSet, "edge", set("All"));
        world.say(Kind::ListenerSet, "edge", set("Future"));
        world.say(Kind::Gateway, "edge", json!({ "gatewayClassName": "sluice", "listeners": listeners("Future") }));
        for kind in [Kind::Gateway, Kind::ListenerSet] {
            let (status, reason, message) = world.accepted(kind, "edge");
            assert_eq!((&*status, &*reason), ("False", "Invalid"));
            assert!(message.ends_with("; what was right before stays in force"), "{message}");
            assert_eq!(programmed(&world, kind), ["True", "True"], "{kind}");
        }
        world.say(Kind::Gateway, "edge", gateway());
        assert_eq!(world.accepted(Kind::Gateway, "edge").0, "True");
    }
}
