//! Forged packets cost no memory, open nothing and keep nobody out.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use etherparse::TcpHeader;
use gateway_tests::client::split_tls;
use gateway_tests::lab::{Agent, Node, wait_for};
use gateway_tests::tls::{self, Connection};

use super::{TlsBed, on_gateway};
use crate::floods::{segment, syn};
use crate::generator::{self, Forge, is_forged};

/// An ACK to a SYN-ACK that was never sent there.
fn forged_ack(source: SocketAddr, target: SocketAddr) -> Vec<u8> {
    segment(source, target, guess(source, target), &[])
}

fn guess(source: SocketAddr, target: SocketAddr) -> TcpHeader {
    let scattered = u32::from(source.port()).wrapping_mul(0x9e37_79b9);
    let mut tcp = TcpHeader::new(source.port(), target.port(), scattered, 64_000);
    (tcp.ack, tcp.acknowledgment_number) = (true, scattered.rotate_left(13));
    tcp
}

/// The keys of a pinned map.
pub fn keys(node: &Node, map: &str) -> Vec<Vec<u8>> {
    let text = node.run(&format!("bpftool -j map dump pinned /sys/fs/bpf/sluice/{map}")).unwrap();
    let dump: serde_json::Value = serde_json::from_str(&text).unwrap();
    let bytes = |key: &serde_json::Value| -> Vec<u8> {
        let bytes = key.as_array().unwrap().iter().map(|byte| byte.as_str().unwrap().trim_start_matches("0x"));
        bytes.map(|byte| u8::from_str_radix(byte, 16).unwrap()).collect()
    };
    dump.as_array().unwrap().iter().map(|entry| bytes(&entry["key"])).collect()
}

/// Entries of a pinned map whose client is one that the generator made up.
fn forged(node: &Node, map: &str) -> usize {
    keys(node, map).iter().filter(|key| is_forged(key)).count()
}

/// Connections that a node's kernel has accepted since it is there.
fn accepted(node: &Node) -> u64 {
    let said = node.run("nstat -asz TcpPassiveOpens").unwrap();
    let line = said.lines().find(|line| line.contains("PassiveOpens")).unwrap();
    line.split_whitespace().nth(1).and_then(|count| count.parse().ok()).unwrap()
}

/// What the agent and the kernel need memory for.
#[derive(Clone, Copy, Debug)]
struct Memory {
    /// KiB that the agent has resident.
    agent: u64,
    /// Bytes of all maps, as the kernel accounts for them.
    maps: u64,
    /// KiB; of the whole machine, for people: other tests run beside.
    available: u64,
}

impl Memory {
    fn now(agent: &mut Agent, gateway: &Node) -> Memory {
        let field = |text: &str, name: &str| -> u64 {
            let line = text.lines().find(|line| line.starts_with(name)).unwrap();
            line.split_whitespace().nth(1).unwrap().parse().unwrap()
        };
        let read = |path: &str| std::fs::read_to_string(path).unwrap();
        let process = agent.process().pid();
        let pinned = gateway.run("ls /sys/fs/bpf/sluice").unwrap();
        let maps = pinned.split_whitespace().filter_map(|name| {
            // Programs and links are pinned beside them.
            let text = gateway.run(&format!("bpftool -j map show pinned /sys/fs/bpf/sluice/{name}")).ok()?;
            serde_json::from_str::<serde_json::Value>(&text).unwrap()["bytes_memlock"].as_u64()
        });
        let maps: u64 = maps.sum();
        assert!(maps > 1 << 20, "bpftool tells no memory of maps");
        Memory {
            agent: field(&read(&format!("/proc/{process}/status")), "VmRSS:"),
            maps,
            available: field(&read("/proc/meminfo"), "MemAvailable:"),
        }
    }
}

/// Packets that the generator sends in a second that its thread has of a CPU; what receives them there is in it.
const FLOOR: f64 = 100_000.0;
/// So many packets of each kind, and so many honest clients beside them.
const PACKETS: u64 = 200_000;
const HONEST: usize = 100;
/// A guess is right once in 2^23 to 2^24 times (docs/splice.md): about two of these floods in a hundred have one that is, one in
/// 10^10 has more than four.
const LUCK: usize = 4;

/// One kind of flood towards one address, with honest clients beside it.
fn flooded(bed: &TlsBed, target: SocketAddr, what: &str, forge: Forge) {
    const BATCH: usize = 20;
    let (stop, world) = (AtomicBool::new(false), &bed.world);
    let received = || received(&world.gateway, "eth-client");
    let before = received();
    let (sent, served) = std::thread::scope(|scope| {
        let flood = || generator::flood((&world.client, "c0"), (&world.gateway, "eth-client"), target, forge, &stop);
        let flooding = scope.spawn(flood);
        // Whatever happens here ends the flood, too.
        let honest = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            let mut served = 0;
            for batch in 1..=HONEST / BATCH {
                // They come all through the flood.
                let wanted = PACKETS * batch as u64 / (HONEST / BATCH) as u64;
                wait_for("the flood", Duration::from_secs(60), || {
                    let sent = received() - before;
                    if sent < wanted { Err(anyhow::anyhow!("{sent} of {wanted} packets")) } else { Ok(()) }
                })
                .unwrap();
                served +=
                    split_tls(&world.client, target, "remote.test", &bed.client, BATCH).get("remote").unwrap_or(&0);
            }
            served
        }));
        stop.store(true, Ordering::Relaxed);
        let sent = flooding.join().unwrap();
        (sent, honest.unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
    });
    println!("{what} to {target}: {sent}; {served} of {HONEST} honest clients were served");
    assert_eq!(served, HONEST, "honest clients were not served during {what} to {target}");
    assert!(sent.per_cpu_second() > FLOOR, "the generator is slow: {sent}");
    assert!(received() - before >= sent.packets, "the gateway saw less than what was sent");
}

/// Frames that an interface has taken in.
fn received(node: &Node, interface: &str) -> u64 {
    let path = format!("/proc/{}/root/sys/class/net/{interface}/statistics/rx_packets", node.pid());
    std::fs::read_to_string(path).unwrap().trim().parse().unwrap()
}

#[test]
fn a_flood_costs_no_memory_opens_nothing_and_keeps_nobody_out() {
    const HELD: usize = 20;
    let bed = TlsBed::new();
    let mut agent = bed.agent();
    let world = &bed.world;
    world.client.block_on(|| async {
        let mut held = Vec::new();
        for index in 0..HELD {
            let name = ["pod-1.test", "remote.test"][index / 2 % 2];
            held.push(Connection::open(on_gateway()[index % 2], name, &bed.client).await.unwrap());
        }
        let backends = || accepted(&world.pods[0]) + accepted(&world.remote);
        // What the agent allocates once, for answering.
        agent.page("/metrics").unwrap();
        split_tls(&world.client, on_gateway()[0], "remote.test", &bed.client, HONEST);
        let (before, mut opened) = (Memory::now(&mut agent, &world.gateway), backends());
        // Whoever believes it has a backend to connect to at once.
        let hello = tls::hello("remote.test", &bed.client);
        let forged_hello = |source, target| segment(source, target, guess(source, target), &hello);
        // With the entries that each may leave, and the connections that it may open, by luck.
        let kinds: [(&str, Forge, usize, u64); 3] = [
            ("SYNs", &syn, 0, 0),
            ("forged ACKs", &forged_ack, LUCK, 0),
            ("forged hellos", &forged_hello, LUCK, LUCK as u64),
        ];
        let kept = || ["FLOWS", "EMBRYONIC", "HANDSHAKES"].map(|map| forged(&world.gateway, map)).iter().sum::<usize>();
        for target in on_gateway() {
            for (what, forge, may_leave, may_open) in kinds {
                let before = kept();
                flooded(&bed, target, what, forge);
                let left = kept();
                assert!(
                    left <= before + may_leave,
                    "{what} to {target} are kept in mind: {before} entries, then {left}"
                );
                opened += HONEST as u64;
                let by_luck = backends() - opened;
                assert!(by_luck <= may_open, "{what} to {target} opened {by_luck} connections to backends");
                opened += by_luck;
            }
        }
        let hellos = agent.metric("sluice_map_entries", &["\"HELLOS\""]).unwrap();
        assert!(hellos <= 4.0, "{hellos} hellos are under way");
        let after = Memory::now(&mut agent, &world.gateway);
        println!(
            "memory before and after: agent {} and {} KiB, maps {} and {} bytes, the machine has {} and {} KiB",
            before.agent, after.agent, before.maps, after.maps, before.available, after.available
        );
        assert!(after.maps <= before.maps + (64 << 10), "maps: {before:?}, {after:?}");
        assert!(after.agent <= before.agent + 1_024, "agent: {before:?}, {after:?}");
        for connection in &mut held {
            connection.who().await.unwrap();
        }
    });
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
