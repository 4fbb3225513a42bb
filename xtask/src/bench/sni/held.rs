//! What a held connection takes up in the gateway: resident memory of its processes, entries of its maps, and the kernel's objects
//! for its sockets. The last are counted by how many sockets the gateway's namespace has and what one takes, because the machine's
//! memory as a whole is too noisy for it.

use std::fs::read_to_string;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use aya::maps::{HashMap, Map, MapData};
use gateway_common::{Flow, FlowKey, names};
use gateway_tests::lab::wait_for;
use serde_json::Value;

use super::super::contender::{Contender, Running, State};
use super::super::memory;
use super::super::network::{Network, TLS_PORT, sources};
use super::super::stats::Measure;
use super::place::{EXCHANGE_NAMES, FEW, PORT};

pub const SCENARIO: &str = "5,000 held connections";
/// Everything.
pub const MEMORY: Measure = Measure::new("memory_kib_per_connection", "KiB");
const PROCESS: Measure = Measure::new("process_kib_per_connection", "KiB");
const MAPS: Measure = Measure::new("maps_kib_per_connection", "KiB");
const SOCKETS: Measure = Measure::new("sockets_kib_per_connection", "KiB");

const CONNECTIONS: usize = 5_000;
/// What the kernel has for a TCP socket with a descriptor, by name in /proc/slabinfo. Kernels merge caches of one size, so one
/// may be missing; then it is left out.
const SLABS: &[&str] = &["TCP", "sock_inode_cache", "dentry", "filp"];

pub fn run(network: &Network, contender: Contender, state: &State) -> Result<Vec<(Measure, f64)>> {
    let running = contender.start(network, state)?;
    let before = Used::now(network, &running)?;
    let mut hold = network.client("hold", &contender.targets(PORT, TLS_PORT));
    hold.args(["--connections", &CONNECTIONS.to_string(), "--sources", &sources()]);
    hold.args(["--name", EXCHANGE_NAMES, "--names", &FEW.to_string(), "--hello", "classic"]);
    let mut hold = network.client.spawn("bench-load hold", hold)?;
    wait_for("the connections to be held", Duration::from_secs(60), || {
        if let Some(status) = hold.ended()? {
            return Ok(Err(anyhow::anyhow!("bench-load hold ended with {status}:\n{}", hold.log())));
        }
        ensure!(hold.log().contains("held"), "it still opens them");
        Ok(Ok(()))
    })??;
    let after = Used::now(network, &running)?;
    if contender == Contender::Direct {
        // Nothing of the connections is in the gateway, and that is all there is to say.
        return Ok(vec![(MEMORY, 0.0)]);
    }
    let each = |after: f64, before: f64| (after - before) / CONNECTIONS as f64;
    // A process that gives back what its start took would hide what the connections take.
    let process = each(after.process, before.process).max(0.0);
    let maps = each(after.maps, before.maps);
    let sockets = each(after.sockets, before.sockets);
    Ok(vec![(MEMORY, process + maps + sockets), (PROCESS, process), (MAPS, maps), (SOCKETS, sockets)])
}

/// KiB.
struct Used {
    process: f64,
    maps: f64,
    sockets: f64,
}

impl Used {
    fn now(network: &Network, running: &Running) -> Result<Used> {
        Ok(Used {
            process: running.pid().map_or(Ok(0.0), memory::of_tree)?,
            maps: match running {
                Running::Sluice(_) => flows(network)?,
                _ => 0.0,
            },
            sockets: sockets(network.gateway.pid())?,
        })
    }
}

/// What the entries of FLOWS take up. Of a map whose memory was taken when it was made, an entry has its share.
fn flows(network: &Network) -> Result<f64> {
    let pin = Path::new("/sys/fs/bpf/sluice").join(names::FLOWS);
    let shown = network.gateway.run(&format!("bpftool -j map show pinned {}", pin.display()))?;
    let shown: Value = serde_json::from_str(&shown).context("bpftool gave no JSON")?;
    let number = |name: &str| shown[name].as_f64().with_context(|| format!("bpftool says no {name} of FLOWS"));
    let path = format!("/proc/{}/root{}", network.gateway.pid(), pin.display());
    let map = MapData::from_pin(&path).and_then(Map::from_map_data).with_context(|| format!("cannot open {path}"))?;
    let flows: HashMap<MapData, FlowKey, Flow> = map.try_into()?;
    Ok(flows.keys().count() as f64 * number("bytes_memlock")? / number("max_entries")? / 1024.0)
}

/// What the TCP sockets of a process's network take up in the kernel. Those in TIME_WAIT are not among them.
fn sockets(pid: u32) -> Result<f64> {
    let path = format!("/proc/{pid}/net/sockstat");
    let sockstat = read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
    let slabinfo = read_to_string("/proc/slabinfo").context("cannot read /proc/slabinfo")?;
    let size: f64 = SLABS.iter().filter_map(|name| object_size(&slabinfo, name)).sum();
    Ok(in_use(&sockstat).context("/proc/net/sockstat counts no TCP sockets")? * size / 1024.0)
}

fn in_use(sockstat: &str) -> Option<f64> {
    sockstat.lines().find_map(|line| line.strip_prefix("TCP: inuse "))?.split(' ').next()?.parse().ok()
}

/// Bytes of an object (slabinfo(5)).
fn object_size(slabinfo: &str, name: &str) -> Option<f64> {
    let line = slabinfo.lines().find(|line| line.split_whitespace().next() == Some(name))?;
    line.split_whitespace().nth(3)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sockets_and_objects_are_read() {
        let sockstat = "sockets: used 9\nTCP: inuse 7 orphan 1 tw 3 alloc 8 mem 2\nUDP: inuse 1 mem 0\n";
        assert_eq!(in_use(sockstat), Some(7.0));
        let slabinfo = "slabinfo - version: 2.1\n# name <active_objs> <num_objs> <objsize>\nTCPv6 1 2 2600 12 8 : x\nTCP   78    84   2496   13    8 : tunables\n";
        assert_eq!(object_size(slabinfo, "TCP"), Some(2496.0));
        assert_eq!(object_size(slabinfo, "filp"), None);
    }
}
