//! Whoever cannot be served is told so at once.

use gateway_tests::lab::{address, gateway};

use crate::bed::{Bed, ECHO, WEB, assert_refused, on_gateway, tcp_from, udp_from};

#[test]
fn no_ready_backend_is_refused() {
    let bed = Bed::web(&[]);
    let agent = bed.agent();
    for target in on_gateway(WEB) {
        assert_refused("TCP", || bed.tcp(target));
        assert_refused("TCP of a pod", || tcp_from(bed.pod(0), target));
    }
    for target in on_gateway(ECHO) {
        assert_refused("UDP", || bed.udp(target));
        assert_refused("UDP of a pod", || udp_from(bed.pod(0), target));
    }
    assert_eq!(agent.metric("sluice_packets_refused_total", &["no_backend"]).unwrap(), 8.0);
}

#[test]
fn listener_without_a_route_is_refused() {
    let bed = Bed::new();
    let [v4, v6] = address::GATEWAY.map(|address| address.to_string());
    let listeners = [("web", "TCP", WEB), ("echo", "UDP", ECHO)];
    bed.manifests.write("all.yaml", &[gateway("edge", &[&v4, &v6], &listeners)]).unwrap();
    let _agent = bed.agent();
    for version in 0..2 {
        assert_refused("TCP", || bed.tcp(on_gateway(WEB)[version]));
        assert_refused("UDP", || bed.udp(on_gateway(ECHO)[version]));
    }
}

#[test]
fn port_without_a_listener_is_refused() {
    let bed = Bed::web(&[address::POD_1]);
    let agent = bed.agent();
    for target in on_gateway(4711) {
        assert_refused("TCP", || bed.tcp(target));
        assert_refused("UDP", || bed.udp(target));
    }
    // The port of a listener, with the other protocol.
    for version in 0..2 {
        assert_refused("TCP to a UDP listener", || bed.tcp(on_gateway(ECHO)[version]));
        assert_refused("UDP to a TCP listener", || bed.udp(on_gateway(WEB)[version]));
    }
    assert_eq!(agent.metric("sluice_packets_refused_total", &["no_listener"]).unwrap(), 8.0);
}

#[test]
fn refusals_of_a_backend_reach_the_client() {
    // The pod has nothing on that port: its own RST and ICMP error come back through the gateway.
    let bed = Bed::web(&[address::POD_1]);
    for backend in [address::POD_1, address::REMOTE] {
        let silent = 4712;
        publish_port(&bed, backend, silent);
        let agent = bed.agent();
        for version in 0..2 {
            assert_refused("TCP", || bed.tcp(on_gateway(WEB)[version]));
            assert_refused("UDP", || bed.udp(on_gateway(ECHO)[version]));
        }
        agent.kill().unwrap();
    }
}

fn publish_port(bed: &Bed, backend: [std::net::IpAddr; 2], port: u16) {
    use gateway_tests::lab::{route, service, slice};
    let [v4, v6] = address::GATEWAY.map(|address| address.to_string());
    let endpoints = crate::bed::ready(&[backend]);
    let listeners = [("web", "TCP", WEB), ("echo", "UDP", ECHO)];
    bed.manifests
        .write(
            "web.yaml",
            &[
                gateway("edge", &[&v4, &v6], &listeners),
                route("TCPRoute", "web", ("edge", "web"), &[("web", port, 1)]),
                route("UDPRoute", "echo", ("edge", "echo"), &[("echo", port, 1)]),
                service("web", "TCP", port),
                service("echo", "UDP", port),
                slice("web", "TCP", port, &endpoints),
                slice("echo", "UDP", port, &endpoints),
            ],
        )
        .unwrap();
}
