//! The status that an object is to have, of the one that it has and the one that is ours: what others wrote stays.

use jiff::Timestamp;
use serde_json::{Value, json};

use super::digest::is_ours;
use crate::compile::CONTROLLER;
use crate::index::Kind;

/// The fields of `status` to write. `wanted`: ours; `None`: we have nothing to say any more.
pub fn merge(kind: Kind, present: &Value, wanted: Option<&Value>, now: Timestamp) -> Value {
    match kind {
        Kind::HTTPRoute | Kind::GRPCRoute | Kind::TCPRoute | Kind::TLSRoute | Kind::UDPRoute => {
            json!({ "parents": entries(present, wanted, ("parents", "parentRef"), now) })
        }
        Kind::BackendTLSPolicy => json!({ "ancestors": entries(present, wanted, ("ancestors", "ancestorRef"), now) }),
        _ => {
            let mut merged = wanted.and_then(Value::as_object).cloned().unwrap_or_default();
            merged.insert("conditions".into(), conditions(&present["conditions"], merged.get("conditions"), now));
            if let Some(Value::Array(listeners)) = merged.get_mut("listeners") {
                for listener in listeners {
                    let before = find(&present["listeners"], "name", &listener["name"]);
                    listener["conditions"] = conditions(&before["conditions"], listener.get("conditions"), now);
                }
            }
            for key in ["addresses", "listeners", "attachedListenerSets"] {
                // In a merge patch null is what removes.
                if !merged.contains_key(key) && !present[key].is_null() {
                    merged.insert(key.into(), Value::Null);
                }
            }
            Value::Object(merged)
        }
    }
}

/// Of a list that several controllers write to.
fn entries(present: &Value, wanted: Option<&Value>, (list, reference): (&str, &str), now: Timestamp) -> Vec<Value> {
    let (ours, mut all): (Vec<Value>, Vec<Value>) =
        array(&present[list]).iter().cloned().partition(|entry| entry["controllerName"] == CONTROLLER);
    let ours = Value::Array(ours);
    for entry in wanted.map_or(&[][..], |wanted| array(&wanted[list])) {
        let mut entry = entry.clone();
        let before = find(&ours, reference, &entry[reference]);
        entry["conditions"] = conditions(&before["conditions"], entry.get("conditions"), now);
        all.push(entry);
    }
    all
}

/// A condition keeps its time while its status is the same; one that turns back to what it was here all along (`Programmed`, which waits for
/// other nodes) turns now. Those of types that are not ours stay.
fn conditions(present: &Value, wanted: Option<&Value>, now: Timestamp) -> Value {
    let mut merged: Vec<Value> = wanted.map_or(&[][..], array).to_vec();
    for condition in &mut merged {
        let before = find(present, "type", &condition["type"]);
        let time =
            |condition: &Value| condition["lastTransitionTime"].as_str().and_then(|t| t.parse::<Timestamp>().ok());
        if before["status"] == condition["status"] && !before["lastTransitionTime"].is_null() {
            condition["lastTransitionTime"] = before["lastTransitionTime"].clone();
        } else if time(before).is_some_and(|before| time(condition).is_some_and(|after| after <= before)) {
            let now = Timestamp::from_second(now.as_second()).unwrap_or(now);
            condition["lastTransitionTime"] = now.to_string().into();
        }
    }
    let foreign = array(present).iter().filter(|condition| !condition["type"].as_str().is_some_and(is_ours));
    merged.extend(foreign.cloned());
    Value::Array(merged)
}

fn find<'v>(list: &'v Value, key: &str, value: &Value) -> &'v Value {
    array(list).iter().find(|entry| entry[key] == *value).unwrap_or(&Value::Null)
}

fn array(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::apply::status::digest::digest;
    use crate::source::kube::node;

    fn condition(kind: &str, status: &str, time: &str) -> Value {
        json!({ "type": kind, "status": status, "reason": "R", "message": "", "observedGeneration": 1, "lastTransitionTime": time })
    }

    fn parent(controller: &str, name: &str, conditions: Vec<Value>) -> Value {
        json!({ "controllerName": controller, "parentRef": { "name": name }, "conditions": conditions })
    }

    #[test]
    fn parents_of_other_controllers_stay_and_ours_keep_their_times() {
        let others = parent("example.com/other", "a", vec![condition("Accepted", "True", "1")]);
        let foreign = condition("example.com/Checked", "True", "1");
        let present = json!({ "parents": [
            parent(CONTROLLER, "a", vec![condition("Accepted", "True", "1"), condition("ResolvedRefs", "True", "1"), foreign.clone()]),
            others,
            parent(CONTROLLER, "gone", vec![condition("Accepted", "True", "1")]),
        ] });
        let wanted = json!({ "parents": [
            parent(CONTROLLER, "a", vec![condition("Accepted", "True", "2"), condition("ResolvedRefs", "False", "2")]),
            parent(CONTROLLER, "b", vec![condition("Accepted", "True", "2")]),
        ] });
        let merged = merge(Kind::HTTPRoute, &present, Some(&wanted), now());
        let a = parent(
            CONTROLLER,
            "a",
            vec![condition("Accepted", "True", "1"), condition("ResolvedRefs", "False", "2"), foreign],
        );
        assert_eq!(merged["parents"], json!([others, a, wanted["parents"][1]]));
        assert_eq!(merge(Kind::HTTPRoute, &present, None, now())["parents"], json!([others]));
    }

    fn now() -> Timestamp {
        "2026-11-22T03:00:00.5Z".parse().unwrap()
    }

    #[test]
    fn what_turns_back_to_what_it_was_here_turns_now() {
        let gateway = |status: &str, time: &str| json!({ "conditions": [condition("Programmed", status, time)] });
        let time = |before: &str, after: &str| {
            let (before, after) = (gateway("False", before), gateway("True", after));
            merge(Kind::Gateway, &before, Some(&after), now())["conditions"][0]["lastTransitionTime"].clone()
        };
        for here in ["2026-11-22T01:00:00Z", "2026-11-22T02:00:00Z"] {
            assert_eq!(time("2026-11-22T02:00:00Z", here), "2026-11-22T03:00:00Z");
        }
        assert_eq!(time("2026-11-22T02:00:00Z", "2026-11-22T02:30:00Z"), "2026-11-22T02:30:00Z");
    }

    #[test]
    fn a_gateway_loses_what_is_not_so_any_more() {
        let listener = |name: &str, time: &str| json!({ "name": name, "attachedRoutes": 1, "conditions": [condition("Programmed", "True", time)] });
        let present = json!({
            "addresses": [{ "type": "IPAddress", "value": "198.18.0.1" }],
            "conditions": [condition("Accepted", "Unknown", "0"), condition("OverlappingTLSConfig", "True", "0"), condition("Ready", "True", "0")],
            "listeners": [listener("a", "1"), listener("gone", "1")],
        });
        let wanted = json!({ "conditions": [condition("Accepted", "True", "2")], "listeners": [listener("a", "2")] });
        let merged = merge(Kind::Gateway, &present, Some(&wanted), now());
        assert_eq!(
            merged,
            json!({
                "addresses": null,
                "conditions": [condition("Accepted", "True", "2"), condition("Ready", "True", "0")],
                "listeners": [listener("a", "1")],
            })
        );
    }

    #[test]
    fn what_is_ours_is_told_by_its_digest() {
        let of = |kind: Kind, status: &Value| digest(kind, Some(&node(status.to_string().as_bytes()).unwrap()));
        let (a, b) = (condition("Accepted", "True", "1"), condition("ResolvedRefs", "True", "1"));
        let route = json!({ "parents": [parent(CONTROLLER, "a", vec![a.clone(), b.clone()])] });
        let same = json!({ "parents": [
            parent("example.com/other", "a", vec![]),
            parent(CONTROLLER, "a", vec![b.clone(), condition("Accepted", "True", "2"), condition("Foreign", "True", "1")]),
        ] });
        assert_eq!(of(Kind::HTTPRoute, &route), of(Kind::HTTPRoute, &same));
        let other =
            json!({ "parents": [parent(CONTROLLER, "a", vec![a.clone(), condition("ResolvedRefs", "False", "1")])] });
        assert_ne!(of(Kind::HTTPRoute, &route), of(Kind::HTTPRoute, &other));
        assert_eq!(of(Kind::HTTPRoute, &json!({ "parents": [parent("example.com/other", "a", vec![a])] })).whole, 0);

        let gateway = |count: u32| json!({ "conditions": [b], "listeners": [{ "name": "a", "attachedRoutes": count, "supportedKinds": [], "conditions": [] }] });
        let (one, two) = (of(Kind::Gateway, &gateway(1)), of(Kind::Gateway, &gateway(2)));
        assert_ne!(one.whole, two.whole);
        assert_eq!(one.settled, two.settled);
    }
}
