//! Events: what somebody must know who looks with `kubectl describe` or `kubectl events`, as a condition of ours turns bad. Conditions
//! say it too, for as long as it is so; an Event says when it began.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use http::Method;
use jiff::Timestamp;
use serde_json::{Value, json};

use crate::apply::bucket::Bucket;
use crate::compile::ConditionType;
use crate::index::ObjectId;
use crate::source::kube::{Api, ApiError, Format, micro_time};

/// The same of the same object is not said again before.
const AGAIN: Duration = Duration::from_secs(600);
/// So many at once, and then one for each such time: the API server keeps them all for an hour.
const BURST: u32 = 50;
const EACH: Duration = Duration::from_secs(1);
/// What the API takes, less room for a time.
const MOST_NAME: usize = 220;
const MOST_TEXT: usize = 1024;

/// Which of them are said.
pub struct Events {
    said: HashMap<(ObjectId, String), Instant>,
    bucket: Bucket,
    tidied: Instant,
}

impl Events {
    pub fn new(now: Instant) -> Events {
        Events { said: HashMap::new(), bucket: Bucket::new(BURST, EACH, now), tidied: now }
    }

    /// Of these, those to say now.
    pub fn choose(&mut self, id: &ObjectId, turned: Vec<Turned>, now: Instant) -> Vec<Turned> {
        if now >= self.tidied + EACH {
            self.tidied = now;
            self.said.retain(|_, said| now < *said + AGAIN);
        }
        let mut chosen = turned;
        chosen.retain(|turned| {
            let key = (id.clone(), format!("{} {}", turned.reason, turned.message));
            if self.said.contains_key(&key) || !self.bucket.take(now) {
                return false;
            }
            self.said.insert(key, now);
            true
        });
        chosen
    }
}

/// A condition that is bad and was not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Turned {
    reason: String,
    message: String,
}

/// The conditions of ours in a status that were not bad before, each message once.
pub fn turned(before: &Value, after: &Value) -> Vec<Turned> {
    let (mut was, mut is) = (Vec::new(), Vec::new());
    bad(before, &mut was);
    bad(after, &mut is);
    let mut new: Vec<Turned> = Vec::new();
    for turned in is {
        if !was.contains(&turned) && !new.iter().any(|known| known.message == turned.message) {
            new.push(turned);
        }
    }
    new
}

fn bad(value: &Value, found: &mut Vec<Turned>) {
    match value {
        Value::Object(fields) => {
            let text = |key: &str| fields.get(key).and_then(Value::as_str).unwrap_or_default();
            let kind = ConditionType::ALL.iter().find(|kind| kind.to_string() == text("type"));
            // What is not programmed is so because it is not accepted, or does not resolve.
            match kind {
                Some(kind @ (ConditionType::Accepted | ConditionType::ResolvedRefs | ConditionType::Conflicted)) => {
                    let bad = if *kind == ConditionType::Conflicted { "True" } else { "False" };
                    if text("status") == bad {
                        found.push(Turned { reason: text("reason").to_owned(), message: text("message").to_owned() });
                    }
                }
                Some(_) => {}
                None => fields.values().for_each(|value| bad(value, found)),
            }
        }
        Value::Array(items) => items.iter().for_each(|item| bad(item, found)),
        _ => {}
    }
}

/// `object`: as the API server has it.
pub async fn say(api: &Api, id: &ObjectId, object: &Value, turned: &Turned) -> Result<(), ApiError> {
    let metadata = &object["metadata"];
    let (name, uid) = (&id.name.name, &metadata["uid"]);
    // As kubectl looks for them: those of objects without a namespace are in `default`.
    let namespace = if id.kind.namespaced() { &*id.name.namespace } else { "default" };
    let now = Timestamp::now();
    let short = &name[..name.len().min(MOST_NAME)];
    let event = json!({
        "apiVersion": "events.k8s.io/v1",
        "kind": "Event",
        "metadata": { "name": format!("{short}.{:x}", now.as_nanosecond()), "namespace": namespace },
        "eventTime": micro_time(now),
        "type": "Warning",
        "reason": turned.reason,
        "action": "Compile",
        "note": turned.message[..turned.message.floor_char_boundary(MOST_TEXT)],
        "reportingController": crate::compile::CONTROLLER,
        "reportingInstance": "sluice",
        "regarding": {
            "apiVersion": object["apiVersion"],
            "kind": id.kind.to_string(),
            "name": name,
            "namespace": if id.kind.namespaced() { json!(namespace) } else { Value::Null },
            "uid": uid,
            "resourceVersion": metadata["resourceVersion"],
        },
    });
    let path = format!("/apis/events.k8s.io/v1/namespaces/{namespace}/events");
    api.send(Method::POST, &path, Format::Json, event.to_string().into()).await.map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::index::{Kind, Name};

    fn status(conditions: &[(&str, &str, &str)]) -> Value {
        let condition = |(kind, status, message): &(&str, &str, &str)| json!({ "type": kind, "status": status, "reason": "R", "message": message });
        json!({ "parents": [{ "conditions": conditions.iter().map(condition).collect::<Vec<Value>>() }] })
    }

    fn messages(turned: &[Turned]) -> Vec<&str> {
        turned.iter().map(|turned| &*turned.message).collect()
    }

    #[test]
    fn what_turns_bad_is_said_and_what_was_so_is_not() {
        let before = status(&[("Accepted", "True", "fine"), ("ResolvedRefs", "False", "old")]);
        let after = status(&[
            ("Accepted", "False", "new"),
            ("ResolvedRefs", "False", "old"),
            ("Programmed", "False", "follows from the others"),
            ("Conflicted", "True", "conflict"),
            ("Conflicted", "False", "no conflict"),
            ("example.com/Theirs", "False", "of others"),
        ]);
        assert_eq!(messages(&turned(&before, &after)), ["new", "conflict"]);
        assert_eq!(messages(&turned(&Value::Null, &before)), ["old"]);
    }

    #[test]
    fn nothing_is_said_twice_and_not_too_much() {
        let start = Instant::now();
        let id =
            |name: &str| ObjectId { kind: Kind::HTTPRoute, name: Name { namespace: "a".into(), name: name.into() } };
        let bad = || turned(&Value::Null, &status(&[("Accepted", "False", "bad")]));
        let mut events = Events::new(start);
        assert_eq!(events.choose(&id("a"), bad(), start).len(), 1);
        assert_eq!(events.choose(&id("a"), bad(), start + AGAIN / 2).len(), 0);
        assert_eq!(events.choose(&id("a"), bad(), start + AGAIN).len(), 1);
        let later = start + AGAIN * 2;
        let said: usize = (0..1000).map(|i| events.choose(&id(&i.to_string()), bad(), later).len()).sum();
        assert_eq!(said, BURST as usize);
        assert_eq!(events.choose(&id("b"), bad(), later + EACH).len(), 1);
    }
}
