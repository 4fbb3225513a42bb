//! The API server is away, or what it keeps everything in.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

use crate::bed::Bed;
use crate::traffic::{ALL, HTTP, L4, SNI, Site, within};

/// Longer than any Lease lasts, and any wait between two tries.
const AWAY: Duration = Duration::from_secs(60);

fn is_answering(bed: &Bed) -> Result<()> {
    let answer = bed.kubectl("get --raw /readyz")?;
    ensure!(answer == "ok", "{answer}");
    Ok(())
}

/// What changes is heard of, and its status is written.
fn wait_for_news(bed: &Bed, namespace: &str) {
    let patch = r#"{"spec":{"hostnames":["*.example"]}}"#;
    bed.kubectl(&format!("patch httproute http -n {namespace} --type=merge -p {patch}")).unwrap();
    let path = "{.status.parents[0].conditions[0].observedGeneration}/{.metadata.generation}";
    bed.wait_for("the status of a route that was changed", || {
        let seen = bed.kubectl(&format!("get httproute http -n {namespace} -o jsonpath={path}"))?;
        ensure!(seen == "2/2", "{seen}");
        Ok(())
    });
}

#[test]
fn forwarding_goes_on_while_the_api_server_is_away_and_an_agent_that_starts_then_serves() {
    let bed = Bed::new();
    let site = Site::new(&bed, "away");
    let traffic = site.traffic();
    let outage = bed.cluster.without("kube-apiserver").unwrap();
    let begun = Instant::now();
    std::thread::sleep(AWAY / 2);
    traffic.end().assert_all_answered(&ALL);

    // Killed, so that nothing is handed over.
    let traffic = site.traffic();
    bed.kill_agents();
    within("HTTP by agents that started without an API server", Duration::from_secs(15), || site.ask(HTTP));
    assert!(is_answering(&bed).is_err(), "the API server is not away");
    traffic.end().assert_all_answered(&[L4, SNI]);

    let traffic = site.traffic();
    std::thread::sleep(AWAY.saturating_sub(begun.elapsed()));
    assert!(is_answering(&bed).is_err(), "the API server is not away");
    outage.end().unwrap();
    within("the API server", Duration::from_secs(60), || is_answering(&bed));
    wait_for_news(&bed, "away");
    traffic.end().assert_all_answered(&ALL);
    bed.wait_for_agents();
}

#[test]
fn when_etcd_starts_again_no_client_notices() {
    let bed = Bed::new();
    let site = Site::new(&bed, "etcd");
    let traffic = site.traffic();
    bed.cluster.without("etcd").unwrap().end().unwrap();
    within("the API server", Duration::from_secs(60), || is_answering(&bed));
    wait_for_news(&bed, "etcd");
    traffic.end().assert_all_answered(&ALL);
}
