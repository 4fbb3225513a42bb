//! The agent comes and goes; what it has put into the kernel stays, until it is asked to remove it.

use std::time::Duration;

use gateway_tests::client::Connection;
use gateway_tests::lab::{Agent, Keep, Manifests, Node, Serving, address, binary, eventually, sluice};
use tokio::io::AsyncWriteExt;

use crate::bed::{Bed, SERVER, WEB, on_gateway, ready};

const PINS: &str = "/sys/fs/bpf/sluice";

/// The id of a pinned map, as the kernel numbers it.
fn map_id(node: &Node, name: &str) -> String {
    let text = node.run(&format!("bpftool map show pinned {PINS}/{name}")).unwrap();
    text.split(':').next().unwrap_or_default().to_owned()
}

#[test]
fn download_survives_the_death_of_the_agent() {
    for backend in [address::POD_1, address::REMOTE] {
        let bed = Bed::web(&[backend]);
        let agent = bed.agent();
        let flows = map_id(&bed.world.gateway, "FLOWS");
        bed.world.client.block_on(|| async {
            const ALL: u64 = 64_000_000;
            let mut stream = Connection::open(on_gateway(WEB)[0]).await.unwrap().into_stream();
            stream.write_all(format!("bytes {ALL}\n").as_bytes()).await.unwrap();
            crate::tcp::read_pattern(&mut stream, 0, 1_000_000).await.unwrap();
            agent.kill().unwrap();
            crate::tcp::read_pattern(&mut stream, 1_000_000, 20_000_000).await.unwrap();
            // New connections do not need the agent either.
            Connection::open(on_gateway(WEB)[1]).await.unwrap().who().await.unwrap();
            let _agent = bed.agent();
            crate::tcp::read_pattern(&mut stream, 20_000_000, ALL).await.unwrap();
        });
        assert_eq!(map_id(&bed.world.gateway, "FLOWS"), flows, "the new process has adopted the map");
    }
}

#[test]
fn new_agent_repairs_what_changed_while_none_ran() {
    let bed = Bed::web(&[address::POD_1]);
    bed.agent().kill().unwrap();
    bed.publish_web(&ready(&[address::POD_2]));
    // Somebody damages the maps meanwhile.
    bed.world
        .gateway
        .run(&format!(
            "bpftool map update pinned {PINS}/CONFIG key 0 0 0 0 value {}",
            vec!["0"; size_of::<gateway_common::Config>()].join(" ")
        ))
        .unwrap();
    assert_eq!(bed.tcp(on_gateway(WEB)[0]).unwrap().name, "pod-1", "nobody has told the kernel yet");
    let _agent = bed.agent();
    for target in on_gateway(WEB) {
        assert_eq!(bed.tcp(target).unwrap().name, "pod-2");
    }
    let config = bed.world.gateway.run(&format!("bpftool -j map dump pinned {PINS}/CONFIG")).unwrap();
    assert!(!config.contains("\"tcp_established\":0"), "{config}");
}

#[test]
fn programs_are_taken_over_unless_their_maps_are_not() {
    let bed = Bed::web(&[address::POD_1]);
    let node = &bed.world.gateway;
    let id = || {
        let pin = node.run(&format!("ls {PINS}/programs")).unwrap();
        let pin = pin.lines().find(|pin| pin.starts_with("ingress_tc")).unwrap().to_owned();
        let text = node.run(&format!("bpftool prog show pinned {PINS}/programs/{pin}")).unwrap();
        text.split(':').next().unwrap_or_default().to_owned()
    };
    bed.agent().kill().unwrap();
    let first = id();
    bed.agent().kill().unwrap();
    assert_eq!(id(), first, "the same object needs no verifier twice");
    // The programs would go on with a map that nobody else sees.
    node.run(&format!("rm {PINS}/LISTENERS")).unwrap();
    let _agent = bed.agent();
    assert_ne!(id(), first);
    assert_eq!(node.run(&format!("ls {PINS}/programs")).unwrap().lines().count(), 5, "none is left over");
    assert_eq!(bed.tcp(on_gateway(WEB)[0]).unwrap().name, "pod-1");
}

#[test]
fn stopped_agent_leaves_the_traffic_alone() {
    let bed = Bed::web(&[address::POD_1]);
    let mut agent = bed.agent();
    agent.process().signal(rustix::process::Signal::TERM).unwrap();
    let status = agent.process().wait(Duration::from_secs(5)).unwrap();
    assert!(status.success(), "{status}: {}", agent.process().log());
    assert_eq!(bed.tcp(on_gateway(WEB)[0]).unwrap().name, "pod-1");
}

#[test]
fn second_agent_refuses_and_names_the_first() {
    let bed = Bed::web(&[address::POD_1]);
    let mut first = bed.agent();
    let pid = first.process().pid();
    let mut second = Agent::launch(&bed.world.gateway, bed.manifests.path(), &[]).unwrap();
    let status = second.process().wait(Duration::from_secs(5)).unwrap();
    assert!(!status.success());
    let log = second.process().log();
    assert!(log.contains(&pid.to_string()), "it does not say that process {pid} holds the pins: {log}");
    assert_eq!(bed.tcp(on_gateway(WEB)[0]).unwrap().name, "pod-1");
}

#[test]
fn uninstall_leaves_nothing() {
    // By tcx links, and by the filters of older kernels.
    for options in [&[][..], &["--no-tcx"]] {
        let bed = Bed::web(&[address::POD_1]);
        let node = &bed.world.gateway;
        let start = || Agent::start_with(node, bed.manifests.path(), options).unwrap();
        let before = traces(node);
        start().kill().unwrap();
        bed.tcp(on_gateway(WEB)[0]).unwrap();
        assert!(traces(node) != before, "nothing was attached, so nothing is tested");
        sluice(node, "uninstall").unwrap();
        assert_eq!(traces(node), before);
        let _own = Serving::plain(node, SERVER).unwrap();
        bed.tcp((address::NODE[0], SERVER).into()).unwrap();
        // And it can be installed again.
        let _agent = start();
        bed.tcp(on_gateway(WEB)[0]).unwrap();
    }
}

#[test]
fn start_with_a_wrong_option_touches_nothing() {
    let bed = Bed::web(&[address::POD_1]);
    let node = &bed.world.gateway;
    let [net, tc, _] = traces(node);
    for (options, said) in
        [(["--access-log", "/nowhere/log"], "/nowhere/log"), (["--admin-address", "198.18.77.7:1"], "--admin-address")]
    {
        let mut agent = Agent::launch(node, bed.manifests.path(), &options).unwrap();
        let status = agent.process().wait(Duration::from_secs(5)).unwrap();
        let log = agent.process().log();
        assert!(!status.success() && log.contains(said), "{status}: {log}");
        assert_eq!(traces(node)[..2], [net.clone(), tc.clone()]);
    }
}

/// Where something of Sluice could be left on a node: programs on interfaces, queueing disciplines, pins.
fn traces(node: &Node) -> [String; 3] {
    [node.run("bpftool net").unwrap(), node.run("tc qdisc show").unwrap(), node.run("ls -A /sys/fs/bpf").unwrap()]
}

#[test]
fn uninstall_refuses_while_an_agent_runs() {
    let bed = Bed::web(&[address::POD_1]);
    let mut agent = bed.agent();
    let pid = agent.process().pid().to_string();
    let error = agent.sluice("uninstall").unwrap_err().to_string();
    assert!(error.contains(&pid), "{error}");
    bed.tcp(on_gateway(WEB)[0]).unwrap();
}

#[test]
fn interfaces_may_come_and_go() {
    let bed = Bed::web(&[address::POD_1, address::POD_2]);
    let _agent = bed.agent();
    bed.world.gateway.run("ip link delete pod-2").unwrap();
    bed.publish_web(&ready(&[address::POD_1]));
    eventually("the rest to go on", || bed.tcp(on_gateway(WEB)[0]).is_ok_and(|answer| answer.name == "pod-1"));
    bed.world.lay_pod(bed.pod(1), address::POD_2).unwrap();
    bed.publish_web(&ready(&[address::POD_2]));
    for target in on_gateway(WEB) {
        eventually("the pod to be reached over its new interface", || {
            bed.tcp(target).is_ok_and(|answer| answer.name == "pod-2")
        });
        // Its own connections go through the program on the new interface.
        eventually("the pod to reach its gateway", || crate::bed::tcp_from(bed.pod(1), target).is_ok());
    }
}

/// Starts an agent that cannot run, for what it says.
fn refusal(node: &Node, prefix: &[&str]) -> String {
    let manifests = Manifests::new().unwrap();
    let mut command = node.command("setpriv");
    command.args(prefix).arg(binary("sluice").unwrap()).arg("run").arg("--manifests").arg(manifests.path());
    let mut process = node.spawn("an agent that cannot run", command).unwrap();
    let status = process.wait(Duration::from_secs(5)).unwrap();
    assert!(!status.success(), "{}", process.log());
    process.log()
}

#[test]
fn missing_privileges_are_named() {
    let node = Node::new("lonely", Keep::UntilDrop).unwrap();
    for (dropped, name) in [("-bpf,-sys_admin", "CAP_BPF"), ("-net_admin", "CAP_NET_ADMIN")] {
        let said = refusal(&node, &["--bounding-set", dropped]);
        assert!(said.contains(name), "without {name} it says: {said}");
    }
}

#[test]
fn bpffs_is_mounted_or_asked_for() {
    let node = Node::new("lonely", Keep::UntilDrop).unwrap();
    node.run("umount /sys/fs/bpf").unwrap();
    let said = refusal(&node, &["--bounding-set", "-sys_admin"]);
    assert!(said.contains("mount -t bpf bpf /sys/fs/bpf"), "{said}");
    let manifests = Manifests::new().unwrap();
    let _agent = Agent::start(&node, manifests.path()).unwrap();
    node.run("bpftool map show pinned /sys/fs/bpf/sluice/LISTENERS").unwrap();
}
