//! Connections reach the backends of their listener, both ends see the addresses that they should, and answers come back.

use std::net::{IpAddr, SocketAddr};

use gateway_tests::client::{self, split_tcp};
use gateway_tests::lab::{Serving, address, gateway, route, service, slice};

use crate::bed::{Bed, ECHO, SERVER, WEB, on_gateway, ready, tcp_from, udp_from};

#[test]
fn local_pod_sees_the_client_itself() {
    let bed = Bed::web(&[address::POD_1]);
    let _agent = bed.agent();
    for (target, client) in on_gateway(WEB).into_iter().zip(address::CLIENT) {
        let answer = bed.tcp(target).unwrap();
        assert_eq!((answer.name.as_str(), answer.seen.ip()), ("pod-1", client), "TCP to {target}");
        assert_eq!(answer.seen, answer.client, "address and port");
    }
    for (target, client) in on_gateway(ECHO).into_iter().zip(address::CLIENT) {
        let answer = bed.udp(target).unwrap();
        assert_eq!((answer.name.as_str(), answer.seen.ip()), ("pod-1", client), "UDP to {target}");
        assert_eq!(answer.seen.port(), answer.client.port());
    }
}

#[test]
fn remote_backend_sees_the_node() {
    let bed = Bed::web(&[address::REMOTE]);
    let _agent = bed.agent();
    for (target, node) in on_gateway(WEB).into_iter().zip(address::NODE_INSIDE) {
        let answer = bed.tcp(target).unwrap();
        assert_eq!((answer.name.as_str(), answer.seen.ip()), ("remote", node), "TCP to {target}");
        assert_node_port(answer.seen);
    }
    for (target, node) in on_gateway(ECHO).into_iter().zip(address::NODE_INSIDE) {
        let answer = bed.udp(target).unwrap();
        assert_eq!((answer.name.as_str(), answer.seen.ip()), ("remote", node), "UDP to {target}");
        assert_node_port(answer.seen);
    }
}

/// Outside the range that the node's own sockets take their ports from.
fn assert_node_port(seen: SocketAddr) {
    assert!(matches!(seen.port(), 1024..=32767 | 61000..), "port {} is one of the node's own", seen.port());
}

#[test]
fn every_backend_gets_its_share() {
    let bed = Bed::web(&[address::POD_1, address::POD_2, address::REMOTE]);
    let _agent = bed.agent();
    for target in on_gateway(WEB) {
        let split = split_tcp(&bed.world.client, target, 900);
        for name in ["pod-1", "pod-2", "remote"] {
            crate::bed::assert_share(name, split.get(name).copied().unwrap_or(0), 900, 1.0 / 3.0);
        }
    }
    for target in on_gateway(ECHO) {
        let split = client::split_udp(&bed.world.client, target, 900);
        for name in ["pod-1", "pod-2", "remote"] {
            crate::bed::assert_share(name, split.get(name).copied().unwrap_or(0), 900, 1.0 / 3.0);
        }
    }
}

#[test]
fn bulk_data_arrives_whole_both_ways() {
    for backend in [address::POD_1, address::REMOTE] {
        let bed = Bed::web(&[backend]);
        let _agent = bed.agent();
        for target in on_gateway(WEB) {
            bed.world.client.block_on(|| crate::tcp::download(target, 20_000_000)).unwrap();
            bed.world.client.block_on(|| crate::tcp::echo(target, 4_000_000)).unwrap();
        }
    }
}

#[test]
fn listeners_gateways_and_addresses_are_kept_apart() {
    let bed = Bed::new();
    let [a4, a6] = address::GATEWAY.map(|address| address.to_string());
    let [b4, b6] = address::GATEWAY_2.map(|address| address.to_string());
    let to = |name: &str, backend: [IpAddr; 2]| {
        vec![service(name, "TCP", SERVER), slice(name, "TCP", SERVER, &ready(&[backend]))]
    };
    let mut documents = vec![
        gateway("one", &[&a4, &a6], &[("first", "TCP", 80), ("second", "TCP", 81)]),
        gateway("two", &[&b4, &b6], &[("first", "TCP", 80)]),
        route("TCPRoute", "one-first", ("one", "first"), &[("s1", SERVER, 1)]),
        route("TCPRoute", "one-second", ("one", "second"), &[("s2", SERVER, 1)]),
        route("TCPRoute", "two-first", ("two", "first"), &[("s3", SERVER, 1)]),
    ];
    documents.extend(to("s1", address::POD_1));
    documents.extend(to("s2", address::POD_2));
    documents.extend(to("s3", address::REMOTE));
    bed.manifests.write("all.yaml", &documents).unwrap();
    let _agent = bed.agent();
    for version in 0..2 {
        let [one, two] = [address::GATEWAY[version], address::GATEWAY_2[version]];
        for (target, wanted) in [((one, 80), "pod-1"), ((one, 81), "pod-2"), ((two, 80), "remote")] {
            assert_eq!(bed.tcp(target.into()).unwrap().name, wanted, "{target:?}");
        }
        crate::bed::assert_refused("a port of the other Gateway", || bed.tcp((two, 81).into()));
    }
}

#[test]
fn pod_reaches_its_own_gateway() {
    let bed = Bed::web(&[address::POD_2]);
    let _agent = bed.agent();
    for (target, pod) in on_gateway(WEB).into_iter().zip(address::POD_1) {
        let answer = tcp_from(bed.pod(0), target).unwrap();
        assert_eq!((answer.name.as_str(), answer.seen.ip()), ("pod-2", pod));
    }
    for (target, pod) in on_gateway(ECHO).into_iter().zip(address::POD_1) {
        let answer = udp_from(bed.pod(0), target).unwrap();
        assert_eq!((answer.name.as_str(), answer.seen.ip()), ("pod-2", pod));
    }
}

#[test]
fn pod_reaches_itself_through_the_gateway() {
    let bed = Bed::web(&[address::POD_1]);
    let _agent = bed.agent();
    for target in on_gateway(WEB) {
        let answer = tcp_from(bed.pod(0), target).unwrap();
        assert_eq!(answer.name, "pod-1");
        assert!(!address::POD_1.contains(&answer.seen.ip()), "it would answer itself directly: {answer:?}");
    }
    for target in on_gateway(ECHO) {
        assert_eq!(udp_from(bed.pod(0), target).unwrap().name, "pod-1");
    }
}

#[test]
fn pod_reaches_a_remote_backend_through_the_gateway() {
    let bed = Bed::web(&[address::REMOTE]);
    let _agent = bed.agent();
    for (target, node) in on_gateway(WEB).into_iter().zip(address::NODE_INSIDE) {
        let answer = tcp_from(bed.pod(0), target).unwrap();
        assert_eq!((answer.name.as_str(), answer.seen.ip()), ("remote", node));
    }
}

#[test]
fn everything_else_on_the_node_is_untouched() {
    let bed = Bed::web(&[address::POD_1, address::REMOTE]);
    let _own = Serving::plain(&bed.world.gateway, SERVER).unwrap();
    // The same ports as the Gateway's listeners, but on the node's own addresses.
    let _same = Serving::plain(&bed.world.gateway, WEB).unwrap();
    let _client = Serving::plain(&bed.world.client, SERVER).unwrap();
    let before = survey(&bed);
    let _agent = bed.agent();
    assert_eq!(survey(&bed), before);
    assert!(before.iter().all(|line| line.ends_with("ok")), "{before:#?}");
}

/// Who reaches whom beside the gateway, each with TCP, UDP, a fragmented datagram and ping.
fn survey(bed: &Bed) -> Vec<String> {
    let world = &bed.world;
    let pairs = [
        (&world.client, "gateway", address::NODE, SERVER),
        (&world.client, "gateway", address::NODE, WEB),
        (&world.client, "pod-1", address::POD_1, SERVER),
        (&world.pods[0], "pod-2", address::POD_2, SERVER),
        (&world.pods[0], "client", address::CLIENT, SERVER),
        (&world.pods[0], "gateway", address::NODE_PODS, SERVER),
        (&world.gateway, "pod-1", address::POD_1, SERVER),
        (&world.gateway, "remote", address::REMOTE, SERVER),
        (&world.gateway, "client", address::CLIENT, SERVER),
        (&world.remote, "gateway", address::NODE_INSIDE, SERVER),
    ];
    let mut lines = Vec::new();
    for (from, name, addresses, port) in pairs {
        for address in addresses {
            let target = SocketAddr::new(address, port);
            let tcp = tcp_from(from, target).is_ok_and(|answer| answer.name == name);
            let udp = udp_from(from, target).is_ok_and(|answer| answer.name == name);
            let large = from.block_on(|| crate::fragments::echo(target, 4000)).is_ok();
            let ping = from.run(&format!("ping -n -q -c 1 -W 2 {address}")).is_ok();
            let all = if tcp && udp && large && ping { "ok" } else { "broken" };
            lines.push(format!(
                "{} to {target}: TCP {tcp}, UDP {udp}, fragments {large}, ping {ping}: {all}",
                from.name()
            ));
        }
    }
    lines
}
