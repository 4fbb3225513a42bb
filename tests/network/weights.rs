//! New connections are shared out by weight.

use std::net::IpAddr;

use gateway_tests::client::{Split, split_tcp, split_udp};
use gateway_tests::lab::{address, gateway, route, service, slice};

use crate::bed::{Bed, ECHO, SERVER, WEB, assert_share, on_gateway, ready};

/// What the client sees of a refusal.
const REFUSED: &str = "connection refused";

/// One listener of TCP and one of UDP; the services `a` and `b` with these weights, `a` in pod 1, `b` on the remote host.
fn weighted(bed: &Bed, a: u32, b: u32) {
    publish(bed, &[("a", SERVER, a), ("b", SERVER, b)], &[("a", &[address::POD_1]), ("b", &[address::REMOTE])]);
}

fn publish(bed: &Bed, backends: &[(&str, u16, u32)], services: &[(&str, &[[IpAddr; 2]])]) {
    let [v4, v6] = address::GATEWAY.map(|address| address.to_string());
    let mut documents = vec![
        gateway("edge", &[&v4, &v6], &[("web", "TCP", WEB), ("echo", "UDP", ECHO)]),
        route("TCPRoute", "web", ("edge", "web"), backends),
    ];
    let udp: Vec<(String, u16, u32)> =
        backends.iter().map(|(name, port, weight)| (format!("{name}-udp"), *port, *weight)).collect();
    let udp: Vec<(&str, u16, u32)> = udp.iter().map(|(name, port, weight)| (name.as_str(), *port, *weight)).collect();
    documents.push(route("UDPRoute", "echo", ("edge", "echo"), &udp));
    for (name, endpoints) in services {
        documents.push(service(name, "TCP", SERVER));
        documents.push(slice(name, "TCP", SERVER, &ready(endpoints)));
        documents.push(service(&format!("{name}-udp"), "UDP", SERVER));
        documents.push(slice(&format!("{name}-udp"), "UDP", SERVER, &ready(endpoints)));
    }
    bed.manifests.write("all.yaml", &documents).unwrap();
}

fn of(split: &Split, name: &str) -> usize {
    split.get(name).copied().unwrap_or(0)
}

#[test]
fn connections_follow_the_weights() {
    let bed = Bed::new();
    weighted(&bed, 70, 30);
    let _agent = bed.agent();
    for target in on_gateway(WEB) {
        let split = split_tcp(&bed.world.client, target, 2000);
        assert_eq!(of(&split, "pod-1") + of(&split, "remote"), 2000, "{split:?}");
        assert_share("a with 70 of 100", of(&split, "pod-1"), 2000, 0.7);
    }
    for target in on_gateway(ECHO) {
        let split = split_udp(&bed.world.client, target, 2000);
        assert_eq!(of(&split, "pod-1") + of(&split, "remote"), 2000, "{split:?}");
        assert_share("a with 70 of 100", of(&split, "pod-1"), 2000, 0.7);
    }
}

#[test]
fn weight_zero_gets_nothing() {
    let bed = Bed::new();
    weighted(&bed, 0, 1);
    let _agent = bed.agent();
    let split = split_tcp(&bed.world.client, on_gateway(WEB)[0], 500);
    assert_eq!(split, Split::from([("remote".to_owned(), 500)]));
}

#[test]
fn all_weights_zero_refuses() {
    let bed = Bed::new();
    weighted(&bed, 0, 0);
    let _agent = bed.agent();
    let split = split_tcp(&bed.world.client, on_gateway(WEB)[0], 50);
    assert_eq!(split, Split::from([(REFUSED.to_owned(), 50)]));
}

#[test]
fn tiny_weight_is_not_rounded_up() {
    let bed = Bed::new();
    weighted(&bed, 1, 999_999);
    let _agent = bed.agent();
    let split = split_tcp(&bed.world.client, on_gateway(WEB)[0], 3000);
    assert_eq!(of(&split, "pod-1") + of(&split, "remote"), 3000, "{split:?}");
    // The chance of more than one in 3000 is below 5 in a million.
    assert!(of(&split, "pod-1") <= 1, "one in a million, but {split:?}");
}

#[test]
fn share_of_an_invalid_backend_is_refused() {
    let bed = Bed::new();
    publish(&bed, &[("a", SERVER, 60), ("nobody", SERVER, 40)], &[("a", &[address::POD_1])]);
    let _agent = bed.agent();
    for target in on_gateway(WEB) {
        let split = split_tcp(&bed.world.client, target, 1000);
        assert_eq!(of(&split, "pod-1") + of(&split, REFUSED), 1000, "{split:?}");
        assert_share("refused", of(&split, REFUSED), 1000, 0.4);
    }
    for target in on_gateway(ECHO) {
        let split = split_udp(&bed.world.client, target, 1000);
        assert_eq!(of(&split, "pod-1") + of(&split, REFUSED), 1000, "{split:?}");
        assert_share("refused", of(&split, REFUSED), 1000, 0.4);
    }
}

#[test]
fn share_of_an_empty_backend_is_refused() {
    let bed = Bed::new();
    publish(&bed, &[("a", SERVER, 50), ("empty", SERVER, 50)], &[("a", &[address::POD_1]), ("empty", &[])]);
    let _agent = bed.agent();
    let split = split_tcp(&bed.world.client, on_gateway(WEB)[1], 1000);
    assert_eq!(of(&split, "pod-1") + of(&split, REFUSED), 1000, "{split:?}");
    assert_share("refused", of(&split, REFUSED), 1000, 0.5);
}
