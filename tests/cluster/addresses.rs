//! Gateways have addresses of the pool that the DaemonSet was given, and one node answers for each.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use gateway_tests::cluster::Place;

use crate::bed::Bed;

const MANIFESTS: &str = include_str!("addresses.yaml");
const NAMESPACE: &str = "addresses";

/// The address of a Gateway, once it has one.
fn address(bed: &Bed, gateway: &str) -> Result<IpAddr> {
    let line = format!("get gateway {gateway} -n {NAMESPACE} -o jsonpath={{.status.addresses[0].value}}");
    bed.kubectl(&line)?.parse().with_context(|| format!("Gateway {gateway} has no address"))
}

/// Which node has which address, as it is written down.
pub fn owner(bed: &Bed, address: IpAddr) -> Result<String> {
    let line = "get lease sluice-addresses -n sluice-system -o jsonpath={.metadata.annotations.sluice\\.dev/owners}";
    let owners = bed.kubectl(line)?;
    let owner = owners.lines().find_map(|line| line.strip_prefix(&format!("{address} ")));
    owner.map(str::to_owned).with_context(|| format!("nobody has {address}: {owners:?}"))
}

fn get(bed: &Bed, address: IpAddr) -> Result<String> {
    let url = format!("http://{address}/");
    bed.cluster.control().run("curl".as_ref(), &["--silent", "--show-error", "--fail", "--max-time", "1", &url])
}

/// The agent of a node does nothing until this is dropped.
pub struct Stopped<'a>(&'a Place);

impl Stopped<'_> {
    pub fn new<'a>(bed: &'a Bed, node: &str) -> Stopped<'a> {
        let place = bed.cluster.nodes().iter().find(|place| place.name() == node).expect("a node of the cluster");
        signal(place, "-STOP").unwrap();
        Stopped(place)
    }
}

impl Drop for Stopped<'_> {
    fn drop(&mut self) {
        // The kubelet may have ended it.
        let _ = signal(self.0, "-CONT");
    }
}

/// A node has processes of its own.
fn signal(node: &Place, signal: &str) -> Result<()> {
    node.run("pkill".as_ref(), &[signal, "--exact", "sluice"]).map(drop)
}

/// The agent is stopped, not killed: the kubelet would start another within a second.
#[test]
fn when_an_owner_is_silent_another_node_has_its_addresses_within_three_seconds() {
    let bed = Bed::new();
    let _applied = bed.apply(NAMESPACE, MANIFESTS);
    bed.wait_for_pods(NAMESPACE, "echo");
    let mut addresses = Vec::new();
    for gateway in ["one", "two", "three"] {
        bed.wait_for("an answer", || get(&bed, address(&bed, gateway)?).map(drop));
        addresses.push(address(&bed, gateway).unwrap());
    }
    addresses.sort();
    addresses.dedup();
    assert_eq!(addresses.len(), 3, "{addresses:?}");

    let (first, before) = (addresses[0], owner(&bed, addresses[0]).unwrap());
    let stopped = Stopped::new(&bed, &before);
    let begun = Instant::now();
    bed.wait_for("another owner", || {
        ensure!(owner(&bed, first)? != before, "it is still {before}");
        Ok(())
    });
    let took = begun.elapsed();
    assert!(took < Duration::from_millis(3_500), "it took {took:?}, the time that kubectl takes included");
    for address in &addresses {
        assert_ne!(owner(&bed, *address).unwrap(), before);
        // What answers on the link now is a node whose agent runs: HTTP needs it.
        bed.wait_for("an answer of the new owner", || get(&bed, *address).map(drop));
    }

    drop(stopped);
    let after: Vec<String> = addresses.iter().map(|address| owner(&bed, *address).unwrap()).collect();
    std::thread::sleep(Duration::from_secs(6));
    let later: Vec<String> = addresses.iter().map(|address| owner(&bed, *address).unwrap()).collect();
    assert_eq!(later, after, "who comes back takes nothing back");
    addresses.iter().for_each(|address| drop(get(&bed, *address).unwrap()));
}
