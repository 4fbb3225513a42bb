//! Forged packets cost no memory, open nothing and keep nobody out.

use std::net::SocketAddr;
use std::time::Duration;

use etherparse::TcpHeader;
use gateway_tests::client::split_tls;
use gateway_tests::lab::Node;
use gateway_tests::tls::{self, Connection};

use super::{TlsBed, on_gateway};
use crate::floods::{flood, refusals, segment, syn};

/// Of each kind and IP version.
const PACKETS: u32 = 100_000;

/// An ACK to a SYN-ACK that was never sent there.
fn forged_ack(source: SocketAddr, target: SocketAddr) -> Vec<u8> {
    segment(source, target, guess(source, target), &[])
}

/// Data behind such an ACK: enough of a record that it could be a hello.
fn forged_data(source: SocketAddr, target: SocketAddr) -> Vec<u8> {
    const HELLO: [u8; 16] = [22, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3, 1, 2, 3, 4, 5];
    segment(source, target, guess(source, target), &HELLO)
}

fn guess(source: SocketAddr, target: SocketAddr) -> TcpHeader {
    let scattered = u32::from(source.port()).wrapping_mul(0x9e37_79b9);
    let mut tcp = TcpHeader::new(source.port(), target.port(), scattered, 64_000);
    (tcp.ack, tcp.acknowledgment_number) = (true, scattered.rotate_left(13));
    tcp
}

/// Entries of a pinned map.
fn entries(node: &Node, map: &str) -> usize {
    let text = node.run(&format!("bpftool -j map dump pinned /sys/fs/bpf/sluice/{map}")).unwrap();
    let dump: serde_json::Value = serde_json::from_str(&text).unwrap();
    dump.as_array().unwrap().len()
}

/// Connections that a node's kernel has accepted since it is there.
fn accepted(node: &Node) -> u64 {
    let said = node.run("nstat -asz TcpPassiveOpens").unwrap();
    let line = said.lines().find(|line| line.contains("PassiveOpens")).unwrap();
    line.split_whitespace().nth(1).and_then(|count| count.parse().ok()).unwrap()
}

#[test]
fn forgeries_open_nothing_and_are_not_kept_in_mind() {
    const HELD: usize = 20;
    let bed = TlsBed::new();
    let agent = bed.agent();
    let world = &bed.world;
    world.client.block_on(|| async {
        let mut connections = Vec::new();
        for index in 0..HELD {
            let name = ["pod-1.test", "remote.test"][index / 2 % 2];
            connections.push(Connection::open(on_gateway()[index % 2], name, &bed.client).await.unwrap());
        }
        let state = || ["FLOWS", "HANDSHAKES", "EMBRYONIC"].map(|map| entries(&world.gateway, map));
        let backends = || [accepted(&world.pods[0]), accepted(&world.remote)];
        let (before, opened) = (state(), backends());
        for target in on_gateway() {
            for packet in [syn, forged_ack, forged_data] {
                world.client.enter(|| flood(target, packet, PACKETS)).unwrap();
            }
        }
        let after = state();
        assert_eq!(after[0], before[0], "flows");
        // A guess is right once in 2^24 times.
        assert!(after[1] <= before[1] + 1, "handshakes: {} grew to {}", before[1], after[1]);
        assert_eq!(after[2], before[2], "embryonic flows");
        assert_eq!(backends(), opened, "forgeries opened connections to backends; {}", refusals(&agent));
        for connection in &mut connections {
            connection.who().await.unwrap();
        }
    });
    // And there is still room for new ones.
    for target in on_gateway() {
        let split = split_tls(&world.client, target, "pod-1.test", &bed.client, 50);
        assert_eq!(split.get("pod-1"), Some(&50), "{split:?}");
    }
}

#[test]
fn honest_clients_get_through_during_a_flood() {
    let bed = TlsBed::new();
    let agent = bed.agent();
    for (target, packet) in on_gateway().into_iter().zip([syn, forged_data]) {
        std::thread::scope(|scope| {
            let flooding = scope.spawn(|| bed.world.client.enter(|| flood(target, packet, 150_000)).unwrap());
            let (mut asked, mut served) = (0, 0);
            while !flooding.is_finished() {
                let split = split_tls(&bed.world.client, target, "remote.test", &bed.client, 20);
                asked += 20;
                served += split.get("remote").unwrap_or(&0);
            }
            assert!(served > 0 && served == asked, "{served} of {asked} served; {}", refusals(&agent));
        });
    }
}

#[test]
fn hellos_that_never_end_evict_only_each_other() {
    // More than there are places for.
    const HALF: usize = 1_500;
    gateway_tests::lab::raise_open_files().unwrap();
    let bed = TlsBed::new();
    let _agent = bed.agent();
    let [target, other] = on_gateway();
    let hello = tls::hello("pod-1.test", &bed.client);
    bed.world.client.block_on(|| async {
        use tokio::io::AsyncWriteExt;
        let mut held = Connection::open(target, "pod-1.test", &bed.client).await.unwrap();
        let mut halves = Vec::new();
        for _ in 0..HALF {
            let mut stream = tokio::net::TcpStream::connect(target).await.unwrap();
            stream.write_all(&hello[..60]).await.unwrap();
            halves.push(stream);
        }
        held.who().await.unwrap();
        for target in [target, other] {
            Connection::open(target, "pod-1.test", &bed.client).await.unwrap().who().await.unwrap();
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    });
}
