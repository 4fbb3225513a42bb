//! What happens to connections when the endpoints behind them change.

use std::io::ErrorKind;
use std::time::{Duration, Instant};

use gateway_tests::client::{self, Connection, split_tcp};
use gateway_tests::lab::{Endpoint, address};

use crate::bed::{Bed, ECHO, WEB, on_gateway, ready};

/// How long a change may take until it is in the maps.
const APPLIED: Duration = Duration::from_millis(500);

#[test]
fn tcp_of_a_removed_endpoint_is_reset_at_its_next_packet() {
    for backend in [address::POD_1, address::REMOTE] {
        let bed = Bed::web(&[backend]);
        let agent = bed.agent();
        bed.world.client.block_on(|| async {
            let mut connections = Vec::new();
            for target in on_gateway(WEB) {
                let mut connection = Connection::open(target).await.unwrap();
                connection.who().await.unwrap();
                connections.push(connection);
            }
            bed.publish_web(&ready(&[address::POD_2]));
            tokio::time::sleep(APPLIED).await;
            for mut connection in connections {
                let begun = Instant::now();
                let error = connection.who().await.unwrap_err();
                assert_eq!(error.kind(), ErrorKind::ConnectionReset, "of {backend:?}: {error}");
                assert!(begun.elapsed() < Duration::from_millis(500), "the reset took {:?}", begun.elapsed());
            }
        });
        for target in on_gateway(WEB) {
            assert_eq!(bed.tcp(target).unwrap().name, "pod-2");
        }
        assert!(agent.metric("sluice_packets_refused_total", &["backend_gone"]).unwrap() >= 2.0);
    }
}

#[test]
fn server_learns_that_its_endpoint_was_removed() {
    // The server speaks first: a download that is under way.
    let bed = Bed::web(&[address::POD_1]);
    let _agent = bed.agent();
    let error = bed.world.client.block_on(|| async {
        let mut stream = Connection::open(on_gateway(WEB)[0]).await.unwrap().into_stream();
        tokio::io::AsyncWriteExt::write_all(&mut stream, b"bytes 100000000\n").await.unwrap();
        crate::tcp::read_pattern(&mut stream, 0, 1_000_000).await.unwrap();
        bed.publish_web(&ready(&[address::POD_2]));
        tokio::time::sleep(APPLIED).await;
        crate::tcp::read_pattern(&mut stream, 1_000_000, 100_000_000).await.unwrap_err()
    });
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
}

#[test]
fn udp_of_a_removed_endpoint_is_picked_anew() {
    for backend in [address::POD_1, address::REMOTE] {
        let bed = Bed::web(&[backend]);
        let _agent = bed.agent();
        bed.world.client.block_on(|| async {
            let mut sockets = Vec::new();
            for target in on_gateway(ECHO) {
                let socket = client::udp(target).await.unwrap();
                client::ask_udp(&socket).await.unwrap();
                client::ask_udp(&socket).await.unwrap();
                sockets.push(socket);
            }
            bed.publish_web(&ready(&[address::POD_2]));
            tokio::time::sleep(APPLIED).await;
            for socket in sockets {
                assert_eq!(client::ask_udp(&socket).await.unwrap().name, "pod-2");
            }
        });
    }
}

#[test]
fn draining_endpoint_keeps_its_own_and_gets_nothing_new() {
    for (backend, name) in [(address::POD_1, "pod-1"), (address::REMOTE, "remote")] {
        let bed = Bed::web(&[backend]);
        let _agent = bed.agent();
        bed.world.client.block_on(|| async {
            let target = on_gateway(WEB)[0];
            let mut connection = Connection::open(target).await.unwrap();
            let socket = client::udp(on_gateway(ECHO)[0]).await.unwrap();
            connection.who().await.unwrap();
            client::ask_udp(&socket).await.unwrap();
            let mut endpoints = ready(&[address::POD_2]);
            endpoints.extend(backend.map(Endpoint::draining));
            bed.publish_web(&endpoints);
            tokio::time::sleep(APPLIED).await;
            assert_eq!(connection.who().await.unwrap().name, name);
            assert_eq!(client::ask_udp(&socket).await.unwrap().name, name);
        });
        let split = split_tcp(&bed.world.client, on_gateway(WEB)[0], 100);
        assert_eq!(split.into_iter().collect::<Vec<_>>(), [("pod-2".to_owned(), 100)]);
    }
}

#[test]
fn terminating_endpoints_serve_when_nothing_else_is_ready() {
    let bed = Bed::web(&[]);
    bed.publish_web(&address::POD_1.map(Endpoint::draining));
    let _agent = bed.agent();
    for target in on_gateway(WEB) {
        assert_eq!(bed.tcp(target).unwrap().name, "pod-1");
    }
}

#[test]
fn running_connections_stay_where_they_are_when_endpoints_are_added() {
    let bed = Bed::web(&[address::POD_1, address::REMOTE]);
    let _agent = bed.agent();
    bed.world.client.block_on(|| async {
        let mut connections = Vec::new();
        for _ in 0..200 {
            let mut connection = Connection::open(on_gateway(WEB)[0]).await.unwrap();
            let name = connection.who().await.unwrap().name;
            connections.push((connection, name));
        }
        bed.publish_web(&ready(&[address::POD_1, address::POD_2, address::REMOTE]));
        tokio::time::sleep(APPLIED).await;
        for (connection, name) in &mut connections {
            assert_eq!(connection.who().await.unwrap().name, *name);
        }
    });
    let split = split_tcp(&bed.world.client, on_gateway(WEB)[0], 600);
    crate::bed::assert_share("the new one", split["pod-2"], 600, 1.0 / 3.0);
}
