//! The agents as the nodes see them: memory, CPU, whether they are ready; and what they write, as the API server sees it.

use std::collections::BTreeMap;
use std::fs::{File, read_to_string};
use std::io::{BufRead, BufReader};
use std::net::TcpStream;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use gateway_tests::cluster::plan::Family;
use gateway_tests::cluster::{Cluster, Place};
use serde_json::Value;

use super::traffic::Asker;
use crate::bench::memory::kib;

/// Of a clock tick, which `/proc/PID/stat` counts in (USER_HZ).
const TICK: f64 = 0.01;
/// Of its metrics and probes (deploy/base/daemon-set.yaml).
const ADMIN: u16 = 9464;

/// What an agent uses.
#[derive(Clone, Copy)]
pub struct Usage {
    /// MiB.
    pub resident: f64,
    /// MiB of it that the kernel cannot read again from a file, as it can the program.
    pub anonymous: f64,
    /// Seconds of CPU since it began.
    pub cpu: f64,
}

/// Of each node's agent, in the order of the nodes.
pub fn usage(cluster: &Cluster) -> Result<Vec<Usage>> {
    cluster.nodes().iter().map(usage_on).collect()
}

fn usage_on(node: &Place) -> Result<Usage> {
    let rollup = read(node, "smaps_rollup")?;
    let mib =
        |field| kib(&rollup, field).map(|kib| kib / 1024.0).with_context(|| format!("no {field} in smaps_rollup"));
    let times = times(&read(node, "stat")?)?;
    Ok(Usage { resident: mib("Rss:")?, anonymous: mib("Anonymous:")?, cpu: times.cpu })
}

/// A file of `/proc/PID` of a node's agent.
fn read(node: &Place, file: &str) -> Result<String> {
    let read = node.run(Path::new("sh"), &["-c", &format!("cat /proc/$(pgrep -o -x sluice)/{file}")]);
    read.with_context(|| format!("no agent runs on {}", node.name()))
}

#[derive(Debug, PartialEq)]
struct Times {
    /// Seconds, of user and system.
    cpu: f64,
    /// Seconds after the machine's start.
    begun: f64,
}

/// Of `/proc/PID/stat` (proc(5): utime, stime, starttime).
fn times(stat: &str) -> Result<Times> {
    let (_, fields) = stat.rsplit_once(") ").context("/proc/PID/stat has no name")?;
    let fields: Vec<&str> = fields.split(' ').collect();
    let ticks = |at: usize| -> Result<f64> { Ok(fields.get(at).context("/proc/PID/stat is short")?.parse()?) };
    Ok(Times { cpu: (ticks(11)? + ticks(12)?) * TICK, begun: ticks(19)? * TICK })
}

/// Kills the agent of a node, which the kubelet starts again.
pub fn kill(node: &Place) -> Result<()> {
    node.run(Path::new("pkill"), &["-KILL", "--exact", "sluice"]).map(drop)
}

/// The process, as its node numbers it.
pub fn pid(node: &Place) -> Result<u32> {
    Ok(node.run(Path::new("pgrep"), &["-o", "-x", "sluice"])?.trim().parse()?)
}

/// Milliseconds since the process began: to 10 ms.
pub fn age(node: &Place) -> Result<f64> {
    let begun = times(&read(node, "stat")?)?.begun;
    let uptime = read_to_string("/proc/uptime")?;
    let uptime: f64 = uptime.split(' ').next().context("/proc/uptime is empty")?.parse()?;
    Ok((uptime - begun) * 1e3)
}

/// Whether the agent of the node with this number says that it is ready.
pub fn is_ready(number: u8) -> bool {
    let at = (Family::V4.node(number), ADMIN).into();
    let answer = TcpStream::connect_timeout(&at, Duration::from_millis(200));
    answer.is_ok() && Asker::new(at).get("node", "/readyz").is_ok_and(|answer| answer.status == 200)
}

/// Requests of all agents that change something, by resource, as the API server's audit log has them.
pub struct Audit {
    log: BufReader<File>,
    /// Of which the end is not written yet.
    line: Vec<u8>,
    writes: Writes,
}

#[derive(Clone, Default)]
pub struct Writes(BTreeMap<String, usize>);

impl Audit {
    pub fn of(cluster: &Cluster) -> Result<Audit> {
        let path = cluster.audit();
        let log = File::open(&path).with_context(|| format!("cannot read {}", path.display()))?;
        Ok(Audit { log: BufReader::new(log), line: Vec::new(), writes: Writes::default() })
    }

    /// Since the cluster was made.
    pub fn writes(&mut self) -> Result<Writes> {
        while self.log.read_until(b'\n', &mut self.line)? > 0 && self.line.ends_with(b"\n") {
            let event: Value = serde_json::from_slice(&self.line).context("an audit event is no JSON")?;
            self.line.clear();
            if ["create", "update", "patch", "delete"].contains(&event["verb"].as_str().unwrap_or_default()) {
                let resource = event["objectRef"]["resource"].as_str().unwrap_or_default();
                *self.writes.0.entry(resource.to_owned()).or_default() += 1;
            }
        }
        Ok(self.writes.clone())
    }
}

impl Writes {
    pub fn of(&self, resource: &str) -> usize {
        self.0.get(resource).copied().unwrap_or_default()
    }

    pub fn all(&self) -> usize {
        self.0.values().sum()
    }

    /// Without those that nodes and addresses live by.
    pub fn but_leases(&self) -> usize {
        self.all() - self.of("leases")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_after_a_name_with_anything_in_it() {
        let stat = "7 (a ) b) S 1 7 7 0 -1 4194560 100 0 0 0 150 50 0 0 20 0 3 0 400 1000 200";
        assert_eq!(times(stat).unwrap(), Times { cpu: 2.0, begun: 4.0 });
    }
}
