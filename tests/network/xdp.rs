//! With XDP on the node's external interfaces: the same behaviour, and established flows that never become an skb.

use gateway_tests::lab::{Agent, Manifests, Node, World, address};

use crate::bed::{Bed, ECHO, WEB, assert_refused, on_gateway};

/// An agent with XDP on these interfaces, although they are veth.
pub fn start<'n>(node: &'n Node, manifests: &Manifests, interfaces: &[&str]) -> Agent<'n> {
    let mut options = vec!["--xdp", "native"];
    options.extend(interfaces.iter().flat_map(|interface| ["--external-interface", interface]));
    Agent::start_with(node, manifests.path(), &options).unwrap()
}

/// What client and remote host must have for XDP on the gateway's ends of their cables, until it is dropped.
pub fn peers(world: &World) -> [Agent<'_>; 2] {
    let ends = [(&world.client, "c0"), (&world.remote, "eth0")];
    // A frame that XDP reads must have its checksum, and the frames of a cable are not larger than the MTU.
    for (node, interface) in ends {
        node.offload(interface, &["tx", "tso", "gso"], false).unwrap();
    }
    // A veth takes frames of XDP_TX and XDP_REDIRECT only if its other end has an XDP program too: any will do, so an agent without
    // listeners.
    let nothing = Manifests::new().unwrap();
    ends.map(|(node, interface)| start(node, &nothing, &[interface]))
}

/// How many packets XDP on an interface has redirected (`redirect`), or sent back (`tx`).
pub fn counted(node: &Node, interface: &str, what: &str) -> u64 {
    let text = node.run(&format!("ethtool -S {interface}")).unwrap();
    let counter = format!("_xdp_{what}:");
    let lines = text.lines().filter(|line| line.trim_start().starts_with("rx_") && line.contains(&counter));
    let counts: Vec<u64> = lines.map(|line| line.rsplit(' ').next().unwrap().parse().unwrap()).collect();
    assert!(!counts.is_empty(), "no {what} in {text}");
    counts.iter().sum()
}

#[test]
fn established_flows_to_other_hosts_are_redirected_in_xdp() {
    let bed = Bed::web(&[address::REMOTE]);
    let world = &bed.world;
    let _peers = peers(world);
    let _agent = start(&world.gateway, &bed.manifests, &["eth-client", "eth-remote"]);
    let redirected = || ["eth-client", "eth-remote"].map(|interface| counted(&world.gateway, interface, "redirect"));
    for target in on_gateway(WEB) {
        let before = redirected();
        world.client.block_on(|| crate::tcp::echo(target, 3_000_000)).unwrap();
        world.client.block_on(|| crate::tcp::download(target, 3_000_000)).unwrap();
        let after = redirected();
        assert!(after[0] > before[0] + 1000 && after[1] > before[1] + 1000, "{target}: from {before:?} to {after:?}");
    }
    for target in on_gateway(ECHO) {
        world.client.block_on(|| crate::fragments::echo(target, 1000)).unwrap();
        world.client.block_on(|| crate::fragments::echo(target, 4000)).unwrap();
    }
}

#[test]
fn local_pods_and_refusals_work_with_xdp() {
    let bed = Bed::web(&[address::POD_1]);
    let _peers = peers(&bed.world);
    let _agent = start(&bed.world.gateway, &bed.manifests, &["eth-client"]);
    for (target, client) in on_gateway(WEB).into_iter().zip(address::CLIENT) {
        assert_eq!(bed.tcp(target).unwrap().seen.ip(), client);
        bed.world.client.block_on(|| crate::tcp::echo(target, 1_000_000)).unwrap();
    }
    for target in on_gateway(ECHO) {
        assert_eq!(bed.udp(target).unwrap().name, "pod-1");
    }
    for target in on_gateway(4711) {
        assert_refused("TCP", || bed.tcp(target));
        assert_refused("UDP", || bed.udp(target));
    }
}
