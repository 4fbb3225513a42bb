//! One agent takes the place of another while clients ask.

use std::time::Duration;

use gateway_tests::lab::{Agent, wait_for};
use gateway_tests::traffic::{Client, Traffic};
use gateway_tests::web::Web;
use rustix::process::Signal;

use super::http;

#[test]
fn while_one_agent_takes_over_from_another_every_request_is_answered() {
    let web = Web::new().unwrap();
    let mut old = web.agent().unwrap();
    let client = |name, target| Client { name, target, host: "shop.test", tls: None };
    let [v4, v6] = http();
    let traffic = Traffic::start(&web.world.client, vec![client("IPv4", v4), client("IPv6", v6)]).unwrap();

    let mut new = Agent::launch(&web.world.gateway, web.manifests.path(), &["--take-over"]).unwrap();
    wait_for("the new agent to wait", Duration::from_secs(10), || {
        anyhow::ensure!(new.process().log().contains("waiting until process"), "{}", new.process().log());
        Ok(())
    })
    .unwrap();
    old.process().signal(Signal::TERM).unwrap();
    new.ready().unwrap();
    assert!(old.process().wait(Duration::from_secs(25)).unwrap().success());
    traffic.end().assert_all_answered(&["IPv4", "IPv6"]);
    let log = old.process().log();
    assert!(!log.contains("cut off"), "{log}");
}
