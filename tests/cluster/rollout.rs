//! Agents are replaced: all of them by the next version, or one that was killed.

use std::time::Duration;

use crate::bed::Bed;
use crate::traffic::{ALL, HTTP, L4, SNI, Site, within};

#[test]
fn a_rolling_update_is_noticed_by_no_client() {
    let bed = Bed::new();
    let site = Site::new(&bed, "rollout");
    let before = bed.kubectl("get pods -n sluice-system -o name").unwrap();
    let traffic = site.traffic();
    bed.kubectl("rollout restart daemonset/sluice -n sluice-system").unwrap();
    within("the rolling update", Duration::from_secs(90), || {
        bed.kubectl("rollout status daemonset/sluice -n sluice-system --timeout=90s")
    });
    // The last agent of those before may still have connections.
    within("the end of the agents before", Duration::from_secs(60), || {
        let after = bed.kubectl("get pods -n sluice-system -o name")?;
        anyhow::ensure!(!before.lines().any(|pod| after.contains(pod)), "{after}");
        Ok(())
    });
    traffic.end().assert_all_answered(&ALL);
}

#[test]
fn when_an_agent_is_killed_the_kernel_goes_on_and_the_next_one_soon_serves() {
    let bed = Bed::new();
    let site = Site::new(&bed, "killed");
    let traffic = site.traffic();
    bed.kill_agents();
    within("HTTP by new agents", Duration::from_secs(15), || site.ask(HTTP));
    let tallies = traffic.end();
    tallies.assert_all_answered(&[L4, SNI]);
    bed.wait_for_agents();
}
