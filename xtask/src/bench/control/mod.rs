//! `cargo xtask bench control`: what many objects cost an agent, and how soon a change counts, on a real API server with the agent as a DaemonSet.

mod agents;
mod scenes;
mod traffic;
mod world;

use anyhow::{Result, ensure};

use self::scenes::{
    AGENTS_REPLACED, CHANGING, FLAPPING, HTTP_ENDPOINT, KILLED, LISTENER_SETS, ONE_BY_ONE, ROLLOUT, ROUTES, Scenes,
    TCP_ENDPOINT,
};
use super::machine;
use super::report::{self, Goal, Verdict};
use super::stats::Measure;
use crate::{conformance, setup};

const BENCH: &str = "control";

const RESIDENT: Measure = Measure::new("memory_mib", "MiB");
const ANONYMOUS: Measure = Measure::new("memory_anonymous_mib", "MiB");
const OF_FILES: Measure = Measure::new("memory_of_files_mib", "MiB");
const CPU: Measure = Measure::new("cpu_ms_per_s", "ms/s");
const WRITES: Measure = Measure::new("api_writes", "writes");
const WRITES_AT_REST: Measure = Measure::new("api_writes_at_rest", "writes");
const GATEWAY_WRITES: Measure = Measure::new("api_writes_gateway", "writes");
const LEASE_WRITES: Measure = Measure::new("lease_writes_per_s", "1/s");
const MEAN: Measure = Measure::new("propagation_ms_mean", "ms");
const MEDIAN: Measure = Measure::new("propagation_ms_median", "ms");
const P99: Measure = Measure::new("propagation_ms_p99", "ms");
const MAX: Measure = Measure::new("propagation_ms_max", "ms");
const REQUESTS: Measure = Measure::new("requests", "requests");
const FAILED: Measure = Measure::new("failed_requests", "requests");
const GAP: Measure = Measure::new("longest_gap_ms", "ms");
const READY: Measure = Measure::new("start_ms_ready", "ms");
const COMPLETE: Measure = Measure::new("start_ms_complete", "ms");

#[derive(clap::Args)]
pub struct Options {
    /// A tenth of everything, for a look.
    #[arg(long)]
    quick: bool,
    /// With an agent that is not optimised: its figures are no use but to try the bench.
    #[arg(long)]
    dev: bool,
    /// Leave a cluster up that was not before.
    #[arg(long)]
    keep: bool,
}

/// How much of it is done.
#[derive(Clone, Copy)]
struct Size {
    routes: usize,
    one_by_one: usize,
    listener_sets: usize,
    changes: usize,
    replicas: usize,
    seconds: u64,
}

const WHOLE: Size =
    Size { routes: 5_000, one_by_one: 3_000, listener_sets: 2_500, changes: 100, replicas: 20, seconds: 10 };
const QUICK: Size = Size { routes: 500, one_by_one: 300, listener_sets: 250, changes: 20, replicas: 4, seconds: 4 };

pub fn run(options: &Options) -> Result<()> {
    ensure!(setup::is_root(), "a cluster needs root: run it with sudo");
    let size = if options.quick { QUICK } else { WHOLE };
    let (observations, seen) =
        conformance::with_sluice(&conformance::GROUND, options.dev, options.keep, |cluster, _| {
            let network = cluster.control().network()?;
            network.enter(|| Scenes::new(cluster, size)?.play())
        })?;
    let rows = report::rows(BENCH, &observations);
    let goal = |what: &'static str, scenario, measure: Measure, most: f64| {
        let row = rows.iter().find(|row| row.scenario == scenario && row.measure == measure.name);
        let measured = row.map_or(f64::NAN, |row| row.median);
        Goal {
            what,
            wanted: format!("at most {} {}", report::number(most), measure.unit),
            measured: report::number(measured),
            verdict: Verdict::of(measured <= most),
        }
    };
    let goals = [
        goal("resident with all HTTPRoutes", ROUTES, RESIDENT, 30.0),
        goal("resident with all ListenerSets", LISTENER_SETS, RESIDENT, 30.0),
        goal("CPU when nothing changes", ROUTES, CPU, 5.0),
        goal("a new route, mean", ONE_BY_ONE, MEAN, 5.0),
        goal("a new route, worst", ONE_BY_ONE, MAX, 50.0),
        goal("an endpoint of all HTTPRoutes, median", HTTP_ENDPOINT, MEDIAN, 5.0),
        goal("an endpoint in the kernel, median", TCP_ENDPOINT, MEDIAN, 5.0),
        goal("a route that changes: failed requests", CHANGING, FAILED, 0.0),
        goal("a pod that flaps: failed requests", FLAPPING, FAILED, 0.0),
        goal("a rollout of pods: failed requests", ROLLOUT, FAILED, 0.0),
        goal("an agent killed: connections through the kernel that failed", KILLED, FAILED, 0.0),
        goal("an agent's start, to all that changed meanwhile", KILLED, COMPLETE, 2_000.0),
        goal("agents replaced: failed requests and connections", AGENTS_REPLACED, FAILED, 0.0),
    ];
    let mut remarks = remarks(options, size)?;
    remarks.extend(seen);
    report::write(BENCH, &rows, &goals, &remarks)
}

fn remarks(options: &Options, size: Size) -> Result<Vec<String>> {
    let mut remarks = machine::remarks()?;
    // The others are about benches that share cores out.
    remarks.truncate(1);
    remarks.push(format!(
        "{} HTTPRoutes of one Gateway with a hostname each, {} of them one by one, that send to one Service; {} ListenerSets; {} changes of an endpoint; {} pods rolled out; two \
         nodes, the API server, etcd and the clients on the same cores; all pods and their probes are real, but endpoints of the HTTPRoutes are written by hand",
        size.routes, size.one_by_one, size.listener_sets, size.changes, size.replicas
    ));
    remarks.push(
        "propagation: from the API server's answer, on a connection that is kept, to the first answer through the gateway that shows the change, asked for \
         every 0.2 ms"
            .to_owned(),
    );
    remarks.push("memory (smaps_rollup) and CPU of the larger of the two agents, which writes statuses".to_owned());
    if options.dev {
        remarks.push("THE AGENT WAS NOT OPTIMISED: these are no figures of Sluice".to_owned());
    }
    Ok(remarks)
}
