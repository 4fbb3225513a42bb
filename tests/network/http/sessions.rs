//! How requests are spread over endpoints: sessions, and in turn.

use std::collections::BTreeMap;
use std::time::Duration;

use gateway_tests::lab::{Agent, service};
use gateway_tests::web::{WEB, Web};
use rustix::process::Signal;

use super::{curl, file, http};

const ROUTE: &str = "\
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: session, namespace: default}
spec:
  parentRefs: [{name: edge}]
  hostnames: [session.test]
  rules:
  - sessionPersistence: {sessionName: sid, type: Cookie}
    backendRefs: [{name: both, port: 8080}]
";

/// So many go to one of two pods by chance once in 2,048 times.
const REQUESTS: usize = 12;

fn key(web: &Web, name: &str, content: &str) -> String {
    let path = file(web, name);
    std::fs::write(&path, content).unwrap();
    path.display().to_string()
}

fn start<'w>(web: &'w Web, options: &[&str]) -> Agent<'w> {
    Agent::start_with(&web.world.gateway, web.manifests.path(), options).unwrap()
}

fn stop(mut agent: Agent) {
    agent.process().signal(Signal::TERM).unwrap();
    assert!(agent.process().wait(Duration::from_secs(15)).unwrap().success());
}

/// Asks with a jar of cookies, and says which endpoint answered (its name and its address) and whether a cookie came with it.
fn ask(web: &Web, jar: &str) -> (String, bool) {
    let said = curl(web, http()[0], "http://session.test/who", &["-i", "-b", jar, "-c", jar]).unwrap();
    let (head, body) = said.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("HTTP/1.1 200"), "{said}");
    (endpoint(body), head.to_ascii_lowercase().contains("set-cookie: sid="))
}

fn endpoint(body: &str) -> String {
    body.split_whitespace().next().unwrap().to_owned()
}

/// The endpoint that all of some requests go to; `None`: several.
fn sticks(web: &Web, jar: &str) -> Option<String> {
    let first = ask(web, jar).0;
    (1..REQUESTS).all(|_| ask(web, jar).0 == first).then_some(first)
}

#[test]
fn sessions_outlive_the_agent_by_a_key_and_its_rotation() {
    let web = Web::new().unwrap();
    web.publish_routes(ROUTE).unwrap();
    let (old, new) = (key(&web, "old", &"old key ".repeat(4)), key(&web, "new", &"new key ".repeat(4)));
    let jar = file(&web, "jar").display().to_string();

    let agent = start(&web, &["--session-key", &old]);
    assert!(ask(&web, &jar).1);
    let site = sticks(&web, &jar).unwrap();
    stop(agent);
    // The same key, another process: the session goes on, and the client need not be told.
    let agent = start(&web, &["--session-key", &old]);
    assert_eq!(ask(&web, &jar), (site.clone(), false));
    assert_eq!(sticks(&web, &jar), Some(site.clone()));
    stop(agent);
    // Rotated: what the former key signed holds, and is signed anew.
    let agent = start(&web, &["--session-key", &new, "--accept-session-key", &old]);
    assert_eq!(ask(&web, &jar), (site.clone(), true));
    assert_eq!(sticks(&web, &jar), Some(site.clone()));
    stop(agent);
    // The former key is gone, the session is not.
    let agent = start(&web, &["--session-key", &new]);
    assert_eq!(ask(&web, &jar), (site, false));
    stop(agent);
    // Without a key it is nobody's: a new one begins.
    let _agent = start(&web, &[]);
    assert!(ask(&web, &jar).1);
}

#[test]
fn an_agent_with_a_file_that_is_no_key_does_not_start() {
    let web = Web::new().unwrap();
    let short = key(&web, "short", "secret\n");
    for (options, wanted) in [
        (vec!["--session-key", &short], "it has 6 bytes, and a session key needs at least 32 random ones"),
        (vec!["--session-key", "/nowhere/key"], "cannot read --session-key /nowhere/key"),
        (vec!["--accept-session-key", &short], "--session-key"),
    ] {
        let mut agent = Agent::launch(&web.world.gateway, web.manifests.path(), &options).unwrap();
        let status = agent.process().wait(Duration::from_secs(10)).unwrap();
        let said = agent.process().log();
        assert!(!status.success() && said.contains(wanted), "{options:?}: {status}\n{said}");
    }
}

#[test]
fn endpoints_take_turns_where_the_service_says_so() {
    let web = Web::new().unwrap();
    let plain = service("both", "TCP", WEB);
    let in_turn =
        plain.replace("namespace: default}", "namespace: default, annotations: {sluice.dev/balance: round-robin}}");
    let services = std::fs::read_to_string(web.manifests.path().join("services.yaml")).unwrap();
    assert!(services.contains(&plain));
    web.manifests.replace("services.yaml", &services.replace(&plain, &in_turn)).unwrap();
    let _agent = web.agent().unwrap();
    // One connection, so that one worker has them all: 2 pods with 2 addresses each.
    let urls = ["http://shop.test/both/who"; 39];
    let said = curl(&web, http()[0], "http://shop.test/both/who", &urls).unwrap();
    let sites: Vec<String> = said.lines().filter(|line| line.starts_with("pod-")).map(endpoint).collect();
    assert_eq!(sites.len(), 40, "{said}");
    assert!(sites.windows(5).all(|five| five[0] == five[4]), "{sites:?}");
    let mut shares: BTreeMap<&str, usize> = BTreeMap::new();
    sites.iter().for_each(|site| *shares.entry(site).or_default() += 1);
    assert_eq!(shares.into_iter().collect::<Vec<_>>(), [("pod-1", 20), ("pod-2", 20)]);
}
