//! What the agent says of server names and connections is what happens.

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};

use gateway_tests::client::PATIENCE;
use gateway_tests::lab::{Agent, Process, address, binary, eventually, tls_route};
use serde_json::Value;

use super::mixed::{MIXED, publish};
use super::{OWN, SERVER, Stepwise, TlsBed, on_gateway, ready_when};

fn ask(agent: &Agent, arguments: &str) -> Value {
    serde_json::from_str(&agent.sluice(&format!("{arguments} --output json")).unwrap()).unwrap()
}

/// Connections that came by a name, on all addresses.
fn hits(agent: &Agent, name: &str) -> u64 {
    let names = ask(agent, "maps sni");
    let of_name = names.as_array().unwrap().iter().filter(|row| row["name"] == *name);
    of_name.map(|row| row["hits"].as_u64().unwrap()).sum()
}

#[test]
fn names_are_shown_with_routes_and_hits() {
    let bed = TlsBed::new();
    let agent = bed.agent();
    for target in on_gateway() {
        bed.who(target, "POD-1.test").unwrap();
        bed.who(target, "a.wild.test").unwrap();
        bed.who(target, "unknown.test").unwrap_err();
    }
    assert_eq!((hits(&agent, "pod-1.test"), hits(&agent, "*.wild.test"), hits(&agent, "pod-2.test")), (2, 2, 0));
    let names = ask(&agent, "maps sni");
    let row = names.as_array().unwrap().iter().find(|row| row["name"] == "*.wild.test").unwrap();
    for (field, value) in
        [("mode", "passthrough"), ("listener", "default/edge/tls"), ("route", "TLSRoute default/wild")]
    {
        assert_eq!(row[field], value, "{row}");
    }
    let status = agent.sluice("status").unwrap();
    let line = status.lines().find(|line| line.trim_start().starts_with("*.wild.test")).unwrap();
    assert!(line.contains("TLSRoute default/wild") && line.trim_end().ends_with('2'), "{line}");
    // Another agent goes on counting, also where it writes the names anew.
    agent.kill().unwrap();
    let text = std::fs::read_to_string(bed.manifests.path().join("tls.yaml")).unwrap();
    bed.manifests.replace("tls.yaml", &text.replace("name: canary\n", "name: canary-2\n")).unwrap();
    let agent = bed.agent();
    assert_eq!(hits(&agent, "pod-1.test"), 2);
}

#[test]
fn a_trace_foretells_the_backend() {
    let bed = TlsBed::new();
    let agent = bed.agent();
    let mut seen = std::collections::BTreeSet::new();
    for round in 0..40 {
        let target = on_gateway()[round % 2];
        let answer = bed.who(target, "canary.test").unwrap();
        let trace = ask(&agent, &format!("trace --sni canary.test --from {} --to {target}", answer.client));
        let pick = trace[0]["pick"]["name"].as_str().unwrap();
        assert!(pick.contains(&format!("default/{} ", answer.name)), "{} answered, not {pick}", answer.name);
        assert_eq!(trace[0]["outcome"]["kind"], "passthrough");
        seen.insert(answer.name);
    }
    assert!(seen.contains("pod-1"), "{seen:?}");
}

#[test]
fn a_trace_says_why_names_do_not_match() {
    let bed = TlsBed::new();
    let agent = bed.agent();
    let text = agent.sluice(&format!("trace --sni wild.test --to {}", on_gateway()[0])).unwrap();
    assert!(text.contains("not *.wild.test of default/edge/tls: the asterisk stands for one label or more"), "{text}");
    assert!(text.ends_with("=> refused: unrecognized_name\n"), "{text}");
    let nameless = ask(&agent, "trace");
    assert_eq!(nameless.as_array().unwrap().len(), 2, "one for each address");
    assert!(nameless.as_array().unwrap().iter().all(|trace| trace["outcome"]["to"] == "unrecognized_name"));
}

#[test]
fn a_trace_says_that_a_name_ends_here() {
    let bed = TlsBed::new();
    publish(&bed, "pod-2");
    let agent = bed.agent();
    let [v4, _] = crate::bed::on_gateway(MIXED);
    let trace = ask(&agent, &format!("trace --sni a.wild.test --from 198.18.0.1:7 --to {v4}"));
    assert_eq!(trace[0]["outcome"]["kind"], "terminate", "{trace}");
    assert!(trace[0]["outcome"]["to"].as_str().unwrap().starts_with("the agent at "), "{trace}");
    bed.who(v4, "canary.test").unwrap();
    let agents = || agent.metric("sluice_backend_picked_total", &["service=\"agent\""]).unwrap();
    assert_eq!(agents(), 0.0);
    bed.who(v4, "a.wild.test").unwrap();
    assert_eq!((agents(), hits(&agent, "*.wild.test")), (1.0, 1));
}

/// `sluice trace --live`, which is watching when this returns.
fn watch(bed: &TlsBed, arguments: &[&str]) -> Process {
    let mut command = bed.world.gateway.command(binary("sluice").unwrap());
    command.args(["trace", "--live"]).args(arguments);
    let live = bed.world.gateway.spawn("sluice trace", command).unwrap();
    ready_when(&live, "watching");
    live
}

/// The lines of the story that this begins, without the clock and the times behind.
fn story(log: &str, beginning: &str) -> Vec<String> {
    let words = |line: &str| line.split_once(' ').map(|(_, words)| words.to_owned());
    let lines: Vec<String> = log.lines().filter_map(words).collect();
    let first = lines.iter().find(|line| line.contains(beginning));
    let Some(number) = first.and_then(|line| line.split_once(' ')).map(|(number, _)| format!("{number} ")) else {
        return Vec::new();
    };
    let told = lines.iter().filter_map(|line| line.strip_prefix(&number));
    told.map(|line| line.split(" after ").next().unwrap().to_owned()).collect()
}

#[test]
fn the_story_of_a_connection_is_told_as_it_happens() {
    let bed = TlsBed::new();
    let _agent = bed.agent();
    let live = watch(&bed, &["--sni", "pod-1.test"]);
    let target = on_gateway()[0];
    bed.who(target, "remote.test").unwrap();
    let client: SocketAddr = bed.who(target, "pod-1.test").unwrap().client;
    eventually("the end to be told", || live.log().contains("#1 closed"));
    let log = live.log();
    let lines: Vec<&str> = log.lines().filter(|line| line.contains('#')).collect();
    let opened = format!(
        "#1 opened: TCP {client} to {target}, asks for pod-1.test; listener default/edge/tls, backend default/pod-1 "
    );
    assert!(lines[0].contains(&opened), "{log}");
    assert!(lines[1].contains("#1 delivered: backend default/pod-1 "), "{log}");
    assert!(lines[2].contains("#1 closed"), "{log}");
    assert_eq!(lines.len(), 3, "nothing of the other connection: {log}");
}

#[test]
fn the_story_of_a_connection_that_a_backend_refuses() {
    let bed = TlsBed::new();
    // Nobody listens on pod-1's own port.
    let backends = [("own-pod-1", OWN, 1), ("pod-2", SERVER, 1)];
    bed.manifests.write("half.yaml", &[tls_route("half", ("edge", "tls"), &["half.wild.test"], &backends)]).unwrap();
    let _agent = bed.agent();
    let live = watch(&bed, &["--sni", "half.wild.test"]);
    let site = |address: [IpAddr; 2], target: SocketAddr, port| {
        SocketAddr::new(address[usize::from(target.is_ipv6())], port).to_string()
    };
    for target in on_gateway() {
        let backends = [
            format!("default/own-pod-1 {}", site(address::POD_1, target, OWN)),
            format!("default/pod-2 {}", site(address::POD_2, target, SERVER)),
        ];
        // Each is dealt by its port: half of them to pod-1 first.
        let told = (0..40).find_map(|_| {
            let client = bed.who(target, "half.wild.test").unwrap().client;
            let told = || story(&live.log(), &format!("opened: TCP {client} to {target}, asks for half.wild.test"));
            eventually("the end to be told", || told().iter().any(|line| line.starts_with("closed")));
            let lines = told();
            lines[1].starts_with("retried").then_some((client, lines))
        });
        let (client, told) = told.expect("40 connections in a row went to the other backend first");
        let [refuses, takes] = &backends;
        let wanted = [
            format!(
                "opened: TCP {client} to {target}, asks for half.wild.test; listener default/edge/tls, backend {refuses}"
            ),
            format!("retried: backend {refuses} did not answer"),
            format!("opened: TCP {client} to {target}; listener default/edge/tls, backend {takes}"),
            format!("delivered: backend {takes} has the whole ClientHello"),
        ];
        assert_eq!(told[..4], wanted, "{}", live.log());
        assert!(told.len() == 5 && told[4].starts_with("closed (closed): "), "{}", live.log());
    }
}

#[test]
fn the_stories_of_those_that_are_refused() {
    let bed = TlsBed::new();
    let _agent = bed.agent();
    let live = watch(&bed, &[]);
    for target in on_gateway() {
        bed.who(target, "unknown.test").unwrap_err();
        eventually("the unknown name to be told", || {
            live.log().contains(&format!(" to {target}, asks for unknown.test; unrecognized_name\n"))
        });
        let mut plain = bed.world.client.enter(|| TcpStream::connect_timeout(&target, PATIENCE)).unwrap();
        plain.set_read_timeout(Some(PATIENCE)).unwrap();
        plain.write_all(b"GET / HTTP/1.1\r\nHost: pod-1.test\r\n\r\n").unwrap();
        plain.read_to_end(&mut Vec::new()).unwrap();
        let refused = format!(" refused: TCP {} to {target}; not_tls\n", plain.local_addr().unwrap());
        eventually("what is no TLS to be told", || live.log().contains(&refused));
        // Somebody whose backends all refuse has a longer story, of three attempts.
        bed.who(target, "own-remote.test").unwrap_err();
        let told = || story(&live.log(), &format!(" to {target}, asks for own-remote.test"));
        eventually("the refusal to be told", || told().iter().any(|line| line.starts_with("refused")));
        let kinds: Vec<String> = told().iter().map(|line| line.split([':', ' ']).next().unwrap().to_owned()).collect();
        let thrice = ["opened", "retried", "opened", "retried", "opened", "retried", "closed", "refused"];
        assert_eq!(kinds, thrice, "{}", live.log());
        assert!(told().last().unwrap().ends_with("; backend_silent"), "{}", live.log());
    }
}

#[test]
fn a_hello_under_way_is_shown() {
    let bed = TlsBed::new();
    let agent = bed.agent();
    let in_use = || agent.metric("sluice_map_entries", &["\"HELLOS\""]).unwrap();
    let target = on_gateway()[1];
    let mut client = Stepwise::connect(&bed, target, "pod-1.test", &bed.client).unwrap();
    let (first, rest) = (client.hello[..50].to_vec(), client.hello[50..].to_vec());
    client.stream.write_all(&first).unwrap();
    eventually("the hello to be kept", || in_use() == 1.0);
    let hellos = ask(&agent, "maps hellos");
    let local = client.stream.local_addr().unwrap().to_string();
    assert_eq!(
        (&hellos[0]["client"], &hellos[0]["bytes"], &hellos[0]["state"]),
        (&local.into(), &50.into(), &"reading".into())
    );
    // It is in a slot now, and does not wait for its first byte any more.
    assert_eq!(ask(&agent, "maps handshakes"), Value::Array(Vec::new()));
    client.stream.write_all(&rest).unwrap();
    client.finish().unwrap();
    eventually("the slot to be free", || in_use() == 0.0);
}

#[test]
fn maps_of_default_sizes_take_less_than_64_mib() {
    let bed = TlsBed::new();
    let agent = bed.agent();
    let bytes = agent.metric("sluice_map_bytes", &[]).unwrap();
    assert!((32.0..64.0).contains(&(bytes / f64::from(1 << 20))), "{bytes} bytes");
}
