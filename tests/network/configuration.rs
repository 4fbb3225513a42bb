//! Changes of the manifests while traffic runs, good ones and bad ones.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use gateway_tests::client::{Connection, split_tcp};
use gateway_tests::lab::{Agent, address, eventually, gateway, route, service, slice};
use rustix::process::Signal;

use crate::bed::{Bed, SERVER, WEB, on_gateway, ready};

/// Writes the same two backends with other weights.
fn set_weights(bed: &Bed, a: u32, b: u32) {
    let [v4, v6] = address::GATEWAY.map(|address| address.to_string());
    let documents = [
        gateway("edge", &[&v4, &v6], &[("web", "TCP", WEB)]),
        route("TCPRoute", "web", ("edge", "web"), &[("a", SERVER, a), ("b", SERVER, b)]),
        service("a", "TCP", SERVER),
        service("b", "TCP", SERVER),
        slice("a", "TCP", SERVER, &ready(&[address::POD_1])),
        slice("b", "TCP", SERVER, &ready(&[address::REMOTE])),
    ];
    bed.manifests.write("web.yaml", &documents).unwrap();
}

#[test]
fn no_connection_breaks_while_the_weights_change() {
    let bed = Bed::new();
    set_weights(&bed, 50, 50);
    let _agent = bed.agent();
    let target = on_gateway(WEB)[0];
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let download = scope.spawn(|| bed.world.client.block_on(|| crate::tcp::download(target, 100_000_000)));
        scope.spawn(|| {
            for round in 1u32.. {
                set_weights(&bed, round % 100, 100 - round % 100);
                std::thread::sleep(Duration::from_millis(20));
                if done.load(Ordering::Relaxed) {
                    break;
                }
            }
        });
        let split = split_tcp(&bed.world.client, target, 5000);
        let downloaded = download.join();
        done.store(true, Ordering::Relaxed);
        let answered: usize = ["pod-1", "remote"].iter().filter_map(|name| split.get(*name)).sum();
        assert_eq!(answered, 5000, "{split:?}");
        downloaded.unwrap().unwrap();
    });
}

#[test]
fn change_is_in_force_soon_after_the_rename() {
    let bed = Bed::web(&[address::POD_1]);
    let _agent = bed.agent();
    assert_eq!(bed.tcp(on_gateway(WEB)[0]).unwrap().name, "pod-1");
    bed.publish_web(&ready(&[address::REMOTE]));
    eventually("new connections to go to the remote host", || {
        bed.tcp(on_gateway(WEB)[0]).is_ok_and(|answer| answer.name == "remote")
    });
}

#[test]
fn broken_file_leaves_its_last_good_objects_in_force() {
    let bed = Bed::web(&[address::POD_1]);
    let mut agent = bed.agent();
    bed.manifests.replace("web.yaml", "apiVersion: v1\nkind: Service\nmetadata: {name: [oops\n").unwrap();
    eventually("the error to be told with file and line", || agent.process().log().contains("web.yaml:"));
    for target in on_gateway(WEB) {
        assert_eq!(bed.tcp(target).unwrap().name, "pod-1");
    }
    // A good version takes over again.
    bed.publish_web(&ready(&[address::POD_2]));
    eventually("the repaired file to be in force", || {
        bed.tcp(on_gateway(WEB)[0]).is_ok_and(|answer| answer.name == "pod-2")
    });
}

#[test]
fn broken_file_does_not_hold_up_the_others() {
    let bed = Bed::web(&[address::POD_1]);
    bed.manifests.replace("broken.yaml", "{{{").unwrap();
    let mut agent = bed.agent();
    assert_eq!(bed.tcp(on_gateway(WEB)[0]).unwrap().name, "pod-1");
    assert!(agent.process().log().contains("broken.yaml:1:"), "{}", agent.process().log());
}

#[test]
fn removed_manifests_take_their_listeners_away() {
    let bed = Bed::web(&[address::POD_1]);
    let agent = bed.agent();
    let listeners = || agent.sluice("maps listeners").unwrap();
    bed.tcp(on_gateway(WEB)[0]).unwrap();
    assert!(listeners().contains("198.18.50.1"));
    bed.manifests.remove("web.yaml").unwrap();
    eventually("the listener to be gone", || !listeners().contains("198.18.50.1"));
}

#[test]
fn status_names_the_objects_and_their_conditions() {
    let bed = Bed::web(&[address::POD_1]);
    let agent = bed.agent();
    bed.tcp(on_gateway(WEB)[0]).unwrap();
    let table = agent.sluice("status").unwrap();
    for wanted in ["default/edge", "default/web", "default/echo", "198.18.50.1"] {
        assert!(table.contains(wanted), "no {wanted} in\n{table}");
    }
    let json: serde_json::Value = serde_json::from_str(&agent.sluice("status --output json").unwrap()).unwrap();
    assert!(json.to_string().contains("\"Programmed\""), "{json:#}");
    assert!(agent.sluice("status --output yaml").unwrap().contains("type: Accepted"));
}

#[test]
fn maps_are_shown_with_the_names_of_their_objects() {
    let bed = Bed::web(&[address::POD_1]);
    let agent = bed.agent();
    bed.world.client.block_on(|| async {
        let mut connection = Connection::open(on_gateway(WEB)[0]).await.unwrap();
        connection.who().await.unwrap();
        for (what, wanted) in [
            ("listeners", &["default/edge/web", "198.18.50.1"][..]),
            ("sets", &["default/web"]),
            ("backends", &["198.18.20.11", "default/web"]),
            ("flows", &["198.18.0.2", "198.18.50.1", "default/edge/web"]),
        ] {
            let text = agent.sluice(&format!("maps {what}")).unwrap();
            for wanted in wanted {
                assert!(text.contains(wanted), "no {wanted} among the {what}:\n{text}");
            }
        }
    });
}

#[test]
fn bpftool_shows_the_maps_with_field_names() {
    let bed = Bed::web(&[address::POD_1]);
    let _agent = bed.agent();
    let text = bed.world.gateway.run("bpftool map dump pinned /sys/fs/bpf/sluice/LISTENERS").unwrap();
    for field in ["address", "port", "protocol", "kind", "backend_set"] {
        assert!(text.contains(&format!("\"{field}\"")), "no field {field} in\n{text}");
    }
}

#[test]
fn metrics_and_health_are_served() {
    let bed = Bed::web(&[address::POD_1]);
    let agent: Agent = bed.agent();
    for _ in 0..3 {
        bed.tcp(on_gateway(WEB)[0]).unwrap();
    }
    assert!(agent.page("/healthz").is_ok());
    assert!(agent.page("/readyz").is_ok());
    let count = |name: &str| agent.metric(name, &["listener=\"web\""]).unwrap();
    assert_eq!(count("sluice_listener_picked_total"), 3.0);
    assert_eq!(count("sluice_listener_refused_total"), 0.0);
    eventually("their ends to be counted", || count("sluice_listener_closed_total") == 3.0);
    assert!(count("sluice_listener_bytes_total") > 300.0);
    assert!(agent.metric("sluice_backend_picked_total", &["198.18.20.11"]).unwrap() > 0.0);
}

#[test]
fn access_log_tells_of_connections() {
    let bed = Bed::web(&[address::POD_1]);
    let log = bed.manifests.path().join(".access.log");
    let options = ["--access-log", log.to_str().unwrap()];
    let mut agent = Agent::start_with(&bed.world.gateway, bed.manifests.path(), &options).unwrap();
    let client = bed.tcp(on_gateway(WEB)[0]).unwrap().client;
    bed.tcp(on_gateway(4711)[0]).unwrap_err();
    let lines = || -> Vec<serde_json::Value> {
        let text = std::fs::read_to_string(&log).unwrap_or_default();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    };
    let told = |event: &str, port: String| {
        lines().iter().any(|line| line.to_string().contains(event) && line.to_string().contains(&port))
    };
    for event in ["opened", "closed"] {
        eventually(&format!("{event} to be told"), || told(event, client.port().to_string()));
    }
    eventually("the refusal to be told", || told("refused", "4711".into()));

    // As logrotate does.
    let moved = bed.manifests.path().join(".access.log.1");
    std::fs::rename(&log, &moved).unwrap();
    agent.process().signal(Signal::HUP).unwrap();
    eventually("lines to go to a new file", || {
        let _ = bed.tcp(on_gateway(4712)[0]);
        told("refused", "4712".into())
    });
    assert!(std::fs::read_to_string(&moved).unwrap().contains("4711"));
}

#[test]
fn idle_flows_are_swept() {
    let bed = Bed::web(&[address::POD_1]);
    let options =
        ["--idle-udp-established", "1", "--idle-udp-new", "1", "--idle-tcp-established", "1", "--sweep-interval", "1"];
    let agent = Agent::start_with(&bed.world.gateway, bed.manifests.path(), &options).unwrap();
    let flows = || agent.metric("sluice_map_entries", &["\"FLOWS\""]).unwrap();
    bed.world.client.block_on(|| async {
        let socket = gateway_tests::client::udp(on_gateway(crate::bed::ECHO)[0]).await.unwrap();
        for _ in 0..3 {
            gateway_tests::client::ask_udp(&socket).await.unwrap();
        }
        let mut connection = Connection::open(on_gateway(WEB)[1]).await.unwrap();
        connection.who().await.unwrap();
        assert_eq!(flows(), 4.0, "two halves each");
        eventually("the idle flows to be gone", || flows() == 0.0);
        // UDP goes on with a new flow; TCP is told at once.
        gateway_tests::client::ask_udp(&socket).await.unwrap();
        let error = connection.who().await.unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
    });
}
