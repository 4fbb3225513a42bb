//! Connections that the agent takes itself, and what it tells of them.

use std::io::{ErrorKind, Read};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use gateway_tests::client::PATIENCE;
use gateway_tests::lab::{address, eventually};
use gateway_tests::tls::{self, Connection};
use rustix::process::Signal;
use serde_json::Value;

use super::{TlsBed, mixed};

#[test]
fn agent_that_is_told_to_stop_waits_for_its_connections() {
    let bed = TlsBed::new();
    mixed::publish(&bed, "pod-2");
    let mut agent = bed.agent();
    let [ended, _] = crate::bed::on_gateway(mixed::MIXED);
    bed.world.client.block_on(|| async {
        let mut connection = Connection::open(ended, "a.wild.test", &bed.client).await.unwrap();
        agent.process().signal(Signal::TERM).unwrap();
        eventually("the agent to say that it waits", || agent.process().log().contains("waiting for the connections"));
        connection.who().await.unwrap();
        assert!(agent.process().ended().unwrap().is_none());
    });
    // Well before the time that it would give them.
    let status = agent.process().wait(Duration::from_secs(5)).unwrap();
    assert!(status.success(), "{status}");
}

#[test]
fn what_goes_through_the_agent_is_counted() {
    let bed = TlsBed::new();
    mixed::publish(&bed, "pod-2");
    let agent = bed.agent();
    let [target, _] = crate::bed::on_gateway(mixed::MIXED);
    bed.world.client.block_on(|| tls::who(target, "a.wild.test", &bed.client)).unwrap();
    // The order of its extensions is random: where the name comes late, the kernel does not see it.
    let config = tls::with_long_hello(&bed.client, 10_000);
    let relayed = || agent.metric("sluice_proxy_relayed_total", &[]).unwrap();
    eventually("a hello that the kernel does not keep", || {
        bed.world.client.block_on(|| tls::who(super::on_gateway()[1], "pod-1.test", &config)).unwrap();
        relayed() == 1.0
    });
    for stranger in strangers(&agent) {
        let stream = bed.world.client.enter(|| TcpStream::connect_timeout(&stranger, PATIENCE));
        let error = stream.and_then(|mut stream| stream.read(&mut [0])).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ConnectionReset);
    }
    for (metric, label, count) in [
        ("sluice_proxy_accepted_total", "", 4.0),
        ("sluice_proxy_terminated_total", "", 1.0),
        ("sluice_proxy_refused_total", "unexplained", 2.0),
    ] {
        assert_eq!(agent.metric(metric, &[label]).unwrap(), count, "{metric} {label}");
    }
    let told = agent.sluice("status").unwrap();
    assert!(told.contains("through the agent: 4 opened"), "{told}");
}

/// The agent's sockets, for somebody who is not sent there by the kernel.
fn strangers(agent: &gateway_tests::lab::Agent) -> [SocketAddr; 2] {
    let backends: Value = serde_json::from_str(&agent.sluice("maps backends --output json").unwrap()).unwrap();
    let first = backends.as_array().unwrap().iter().find(|backend| backend["id"] == 1).unwrap();
    let port = first["port"].as_u64().unwrap() as u16;
    address::NODE.map(|address| SocketAddr::new(address, port))
}
