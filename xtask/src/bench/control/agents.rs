//! The agents as the nodes see them: memory, CPU, whether they are ready; and what they write, as the API server sees it.

use std::collections::BTreeMap;
use std::net::TcpStream;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use gateway_tests::cluster::plan::Family;
use gateway_tests::cluster::{Cluster, Place};

use super::traffic::Asker;

/// Of a clock tick, of which `/proc/PID/stat` tells (USER_HZ).
const TICK: f64 = 0.01;
/// Of its metrics and probes (deploy/base/daemon-set.yaml).
const ADMIN: u16 = 9464;

/// What an agent uses.
#[derive(Clone, Copy, Default)]
pub struct Usage {
    /// MiB, with what the kernel can read again from files (the program itself).
    pub resident: f64,
    /// MiB, without.
    pub anonymous: f64,
    /// Seconds of CPU since it began.
    pub cpu: f64,
}

/// Of each node's agent, in the order of the nodes.
pub fn usage(cluster: &Cluster) -> Result<Vec<Usage>> {
    cluster.nodes().iter().map(usage_on).collect()
}

fn usage_on(node: &Place) -> Result<Usage> {
    let read = |file: &str| node.run(Path::new("sh"), &["-c", &format!("cat /proc/$(pgrep -o -x sluice)/{file}")]);
    let status = read("status").with_context(|| format!("no agent runs on {}", node.name()))?;
    let mib = |field: &str| -> Result<f64> {
        let line = status.lines().find_map(|line| line.strip_prefix(field)).context("a line of /proc/PID/status")?;
        Ok(line.trim().trim_end_matches(" kB").parse::<f64>()? / 1024.0)
    };
    Ok(Usage { resident: mib("VmRSS:")?, anonymous: mib("RssAnon:")?, cpu: cpu(&read("stat")?)? })
}

/// `utime` and `stime` of proc(5).
fn cpu(stat: &str) -> Result<f64> {
    let (_, fields) = stat.rsplit_once(") ").context("/proc/PID/stat has no name")?;
    let fields: Vec<&str> = fields.split(' ').collect();
    let ticks = |at: usize| fields.get(at).and_then(|field| field.parse::<f64>().ok());
    let ticks = ticks(11).zip(ticks(12)).context("/proc/PID/stat has no times")?;
    Ok((ticks.0 + ticks.1) * TICK)
}

/// Kills the agent of a node, which the kubelet starts again.
pub fn kill(node: &Place) -> Result<()> {
    node.run(Path::new("pkill"), &["-KILL", "--exact", "sluice"]).map(drop)
}

/// The process, as its node numbers it.
pub fn pid(node: &Place) -> Result<u32> {
    Ok(node.run(Path::new("pgrep"), &["-o", "-x", "sluice"])?.trim().parse()?)
}

/// Whether the agent of the node with this number says that it is ready.
pub fn is_ready(number: u8) -> bool {
    let at = (Family::V4.node(number), ADMIN).into();
    let answer = TcpStream::connect_timeout(&at, Duration::from_millis(200));
    answer.is_ok() && Asker::new(at).get("node", "/readyz").is_ok_and(|answer| answer.status == 200)
}

/// Requests of all agents that change something, by resource.
#[derive(Clone, Default)]
pub struct Writes(BTreeMap<String, usize>);

impl Writes {
    pub fn now(cluster: &Cluster) -> Result<Writes> {
        let mut writes = Writes::default();
        for event in cluster.requests()? {
            let text = |field: &str| event["objectRef"][field].as_str().unwrap_or_default();
            if ["create", "update", "patch", "delete"].contains(&event["verb"].as_str().unwrap_or_default()) {
                *writes.0.entry(text("resource").to_owned()).or_default() += 1;
            }
        }
        ensure!(!writes.0.is_empty(), "the API server has heard nothing of the agents");
        Ok(writes)
    }

    pub fn of(&self, resource: &str) -> usize {
        self.0.get(resource).copied().unwrap_or_default()
    }

    /// What nodes and addresses live by does not count.
    pub fn but_leases(&self) -> usize {
        self.0.iter().filter(|(resource, _)| *resource != "leases").map(|(_, count)| count).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpu_time_is_read_after_a_name_with_anything_in_it() {
        let stat = "7 (a ) b) S 1 7 7 0 -1 4194560 100 0 0 0 150 50 0 0 20 0 3 0 100 1000 200";
        assert_eq!(cpu(stat).unwrap(), 2.0);
    }
}
