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

fn used(bed: &Bed) -> BTreeSet<Right> {
    let right = |event: &Value| {
        let of = |field: &str| event["objectRef"][field].as_str().unwrap_or_default().to_owned();
        let resource = match of("subresource") {
            none if none.is_empty() => of("resource"),
            subresource => format!("{}/{subresource}", of("resource")),
        };
        (of("apiGroup"), resource, event["verb"].as_str().unwrap_or_default().to_owned())
    };
    // Asking which kinds there are is everybody's right, and names no object.
    bed.cluster
        .requests()
        .unwrap()
        .iter()
        .filter(|event| event["objectRef"]["resource"].is_string())
        .map(right)
        .collect()
}

#[test]
fn no_request_of_the_agent_is_refused() {
    let bed = Bed::new();
    let is_refused = |event: &Value| {
        let of = |name: &str| event["annotations"][format!("authorization.k8s.io/{name}")].as_str().unwrap_or_default();
        // A namespace that is on its way out takes nothing either, which is no matter of rights; nor is what an API server says
        // that has just started and has not read the roles yet.
        event["responseStatus"]["code"] == 403 && of("decision") != "allow" && !of("reason").contains("not found")
    };
    let refused: Vec<Value> = bed.cluster.requests().unwrap().into_iter().filter(is_refused).collect();
    assert!(refused.is_empty(), "{refused:#?}");
}

#[test]
fn the_agent_is_allowed_nothing_that_it_never_asks_for() {
    let bed = Bed::new();
    let mut granted: BTreeSet<Right> = granted(&bed, "clusterrole sluice");
    granted.extend(self::granted(&bed, "role sluice -n sluice-system"));
    let used = used(&bed);
    // Some are asked for when something happens that did not happen here: a conflict, an object of that kind.
    let rare = |(_, resource, verb): &&Right| {
        ["get", "create", "patch"].contains(&verb.as_str())
            || ["secrets", "configmaps", "sluiceconfigs"].contains(&resource.as_str())
    };
    let idle: Vec<&Right> = granted.difference(&used).filter(|right| !rare(right)).collect();
    assert!(idle.is_empty(), "granted in deploy/base/account.yaml and not used: {idle:#?}");
}
