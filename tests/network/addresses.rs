//! Gateways have addresses of a pool, and the node answers for them on its links.

use std::net::{IpAddr, SocketAddr, UdpSocket};

use gateway_tests::lab::{Agent, address, eventually, gateway, route, service, slice};

use crate::bed::{Bed, SERVER, WEB, ready, tcp_from, udp_from};

/// On the client's link; nobody routes them anywhere.
const POOL: [&str; 2] = ["198.18.0.100-198.18.0.102", "2001:db8::100-2001:db8::102"];

fn first() -> [IpAddr; 2] {
    ["198.18.0.100".parse().unwrap(), "2001:db8::100".parse().unwrap()]
}

/// In the node's own /run: it outlives the agent, not the test.
const OPTIONS: [&str; 6] =
    ["--address-pool", POOL[0], "--address-pool", POOL[1], "--address-file", "/run/sluice/addresses.json"];

fn agent(bed: &Bed) -> Agent<'_> {
    Agent::start_with(&bed.world.gateway, bed.manifests.path(), &OPTIONS).unwrap()
}

/// A Gateway that asks for no address by name, with TCP port 80, UDP port 5000 and HTTP port 8000.
fn publish(bed: &Bed, name: &str, addresses: &[&str]) {
    let listeners = [("web", "TCP", WEB), ("echo", "UDP", 5000), ("http", "HTTP", 8000)];
    let [web, echo] = ["web", "echo"].map(|section| format!("{name}-{section}"));
    let endpoints = ready(&[address::POD_1]);
    let documents = [
        gateway(name, addresses, &listeners),
        route("TCPRoute", &web, (name, "web"), &[(&web, SERVER, 1)]),
        route("UDPRoute", &echo, (name, "echo"), &[(&echo, SERVER, 1)]),
        service(&web, "TCP", SERVER),
        service(&echo, "UDP", SERVER),
        slice(&web, "TCP", SERVER, &endpoints),
        slice(&echo, "UDP", SERVER, &endpoints),
    ];
    bed.manifests.write(&format!("{name}.yaml"), &documents).unwrap();
}

fn neighbour(bed: &Bed, address: IpAddr) -> String {
    bed.world.client.run(&format!("ip neighbour show {address}")).unwrap()
}

/// As `sluice status` says it.
fn answered_by(agent: &Agent, address: IpAddr) -> String {
    let status = agent.sluice("status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(&format!("{address} ")));
    line.unwrap_or_else(|| panic!("{address} is not there: {status}")).trim().to_owned()
}

#[test]
fn clients_on_the_link_reach_an_address_of_the_pool() {
    let bed = Bed::new();
    publish(&bed, "edge", &[]);
    // The address stands on none of the node's interfaces, whatever the kernel is told to answer for.
    bed.world.gateway.sysctl(&[("ipv4/conf/all/arp_ignore", "1")]).unwrap();
    let agent = agent(&bed);
    let mac = bed.world.gateway.run("cat /sys/class/net/eth-client/address").unwrap();
    for address in first() {
        tcp_from(&bed.world.client, SocketAddr::new(address, WEB)).unwrap();
        udp_from(&bed.world.client, SocketAddr::new(address, 5000)).unwrap();
        // Answered by the node's own stack: there is no route.
        let url = format!("http://{}/", SocketAddr::new(address, 8000));
        let code = bed.world.client.run(&format!("curl -sS -o /dev/null -w %{{http_code}} {url}")).unwrap();
        assert_eq!(code, "404", "{url}");
        let neighbour = neighbour(&bed, address);
        assert!(neighbour.contains(mac.trim()), "{neighbour:?} is not {mac}");
        assert_eq!(answered_by(&agent, address), "this node");
    }
    // One that no Gateway has is nobody's.
    let free: IpAddr = "198.18.0.101".parse().unwrap();
    tcp_from(&bed.world.client, SocketAddr::new(free, WEB)).unwrap_err();
    assert!(!neighbour(&bed, free).contains(mac.trim()), "{:?}", neighbour(&bed, free));
}

#[test]
fn addresses_go_on_to_be_answered_for_without_the_agent() {
    let bed = Bed::new();
    publish(&bed, "edge", &[]);
    let agent = agent(&bed);
    agent.kill().unwrap();
    for address in first() {
        bed.world.client.run("ip neighbour flush dev c0").unwrap();
        tcp_from(&bed.world.client, SocketAddr::new(address, WEB)).unwrap();
    }
}

#[test]
fn a_gateway_keeps_its_address_over_restarts_and_gives_it_back_when_it_goes() {
    let bed = Bed::new();
    publish(&bed, "m", &[]);
    let mut of = agent(&bed);
    let has = |of: &Agent, name: &str, last: u8| {
        let [v4, v6] = [format!("198.18.0.10{last}"), format!("2001:db8::10{last}")];
        of.sluice("status").unwrap().contains(&format!("Gateway default/{name} ({v4}, {v6})"))
    };
    assert!(has(&of, "m", 0), "{}", of.sluice("status").unwrap());
    // It would come first.
    publish(&bed, "a", &[]);
    eventually("the second Gateway has the second address", || has(&of, "a", 1) && has(&of, "m", 0));
    of.kill().unwrap();
    of = agent(&bed);
    assert!(has(&of, "a", 1) && has(&of, "m", 0), "{}", of.sluice("status").unwrap());
    publish(&bed, "b", &[]);
    publish(&bed, "c", &[]);
    eventually("the pool is used up", || of.sluice("status").unwrap().contains("is taken; add to it"));
    bed.manifests.remove("m.yaml").unwrap();
    eventually("what the first had is given to the last", || has(&of, "c", 0) && has(&of, "b", 2));
    tcp_from(&bed.world.client, SocketAddr::new(first()[0], WEB)).unwrap();
}

#[test]
fn another_machine_that_claims_the_address_is_seen_and_outlived() {
    let bed = Bed::new();
    publish(&bed, "edge", &[]);
    let mut agent = Agent::start_with(
        &bed.world.gateway,
        bed.manifests.path(),
        &[&OPTIONS[..], &["--sweep-interval", "1"]].concat(),
    )
    .unwrap();
    let [v4, _] = first();
    bed.world.client.ip(&format!("address add {v4}/32 dev c0")).unwrap();
    eventually("the agent tells of it", || {
        bed.world.client.run("ip neighbour flush dev c0").unwrap();
        // Whoever asks says his own address.
        bed.world.client.enter(|| UdpSocket::bind((v4, 0)).unwrap().send_to(b"x", (address::NODE[0], 9)).unwrap());
        answered_by(&agent, v4).contains("another machine claims it")
    });
    assert!(agent.process().log().contains("another machine says that it has"));
    bed.world.client.ip(&format!("address del {v4}/32 dev c0")).unwrap();
    bed.world.client.run("ip neighbour flush dev c0").unwrap();
    tcp_from(&bed.world.client, SocketAddr::new(v4, WEB)).unwrap();
}
