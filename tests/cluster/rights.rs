//! What the agent may do in a cluster, and what it does.

use std::collections::BTreeSet;

use serde_json::Value;

use crate::bed::Bed;

/// API group, resource with its subresource, verb.
type Right = (String, String, String);

/// Those of a role's rules.
fn granted(bed: &Bed, role: &str) -> BTreeSet<Right> {
    let role = bed.get(role).unwrap();
    let texts = |rule: &Value, field: &str| -> Vec<String> {
        rule[field].as_array().unwrap().iter().map(|text| text.as_str().unwrap().to_owned()).collect()
    };
    let mut rights = BTreeSet::new();
    for rule in role["rules"].as_array().unwrap() {
        for group in texts(rule, "apiGroups") {
            for resource in texts(rule, "resources") {
                let all = texts(rule, "verbs").into_iter().map(|verb| (group.clone(), resource.clone(), verb));
                rights.extend(all);
            }
        }
    }
    rights
}

/// What a request asks for.
fn right(event: &Value) -> Right {
    let of = |field: &str| event["objectRef"][field].as_str().unwrap_or_default().to_owned();
    let resource = match of("subresource") {
        none if none.is_empty() => of("resource"),
        subresource => format!("{}/{subresource}", of("resource")),
    };
    (of("apiGroup"), resource, event["verb"].as_str().unwrap_or_default().to_owned())
}

/// Of the requests of all agents, those that name a kind: asking which kinds there are is everybody's right.
fn requests(bed: &Bed) -> Vec<Value> {
    let mut requests = bed.cluster.requests().unwrap();
    requests.retain(|event| event["objectRef"]["resource"].is_string());
    requests
}

#[test]
fn the_agent_asks_for_nothing_that_it_is_not_allowed() {
    let bed = Bed::new();
    let (everywhere, at_home) = (granted(&bed, "clusterrole sluice"), granted(&bed, "role sluice -n sluice-system"));
    let is_granted = |event: &Value| {
        let is_at_home = event["objectRef"]["namespace"] == "sluice-system";
        everywhere.contains(&right(event)) || is_at_home && at_home.contains(&right(event))
    };
    // What is granted may be refused for a moment all the same: by an API server that has just started and has not read the roles yet.
    let requests = requests(&bed);
    let too_much: Vec<&Value> = requests.iter().filter(|event| !is_granted(event)).collect();
    assert!(!requests.is_empty() && too_much.is_empty(), "{too_much:#?}");
}

#[test]
fn the_agent_is_allowed_nothing_that_it_never_asks_for() {
    let bed = Bed::new();
    let mut granted: BTreeSet<Right> = granted(&bed, "clusterrole sluice");
    granted.extend(self::granted(&bed, "role sluice -n sluice-system"));
    let used: BTreeSet<Right> = requests(&bed).iter().map(right).collect();
    // Some are asked for when something happens that did not happen here: a conflict, an object of that kind.
    let rare = |(_, resource, verb): &&Right| {
        ["get", "create", "patch"].contains(&verb.as_str())
            || ["secrets", "configmaps", "sluiceconfigs"].contains(&resource.as_str())
    };
    let idle: Vec<&Right> = granted.difference(&used).filter(|right| !rare(right)).collect();
    assert!(idle.is_empty(), "granted in deploy/base/account.yaml and not used: {idle:#?}");
}
