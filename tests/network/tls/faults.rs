//! Segments are lost, doubled, delayed and reordered, one at a time and at every step: connections come through.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use gateway_tests::lab::{Fate, Way, Wire, Wired, address, lossy};
use gateway_tests::tls::{Connection, with_long_hello};
use tokio::io::AsyncWriteExt;
use tokio::time::timeout;
use tokio_rustls::rustls::ClientConfig;

use super::{SERVER, TlsBed, on_gateway};

/// How many segments each way get their turn: the handshakes of TCP and TLS, and the beginning of the data.
const SEGMENTS: usize = 20;
/// What a client waits for a connection and an answer; browsers wait longer.
const PATIENCE: Duration = Duration::from_secs(20);
/// That each of these connections carries a way, behind the handshake.
const BYTES: usize = 20_000;
/// Three segments of hello.
const HELLO: usize = 3_500;

const CLIENT: Wired = Wired { client: true, remote: false };
const REMOTE: Wired = Wired { client: false, remote: true };

/// Opens a connection, asks, and has so many bytes each way.
pub async fn exchange(target: SocketAddr, name: &str, config: &Arc<ClientConfig>, bytes: usize) -> std::io::Result<()> {
    let mut connection = Connection::open(target, name, config).await?;
    connection.who().await?;
    let mut stream = connection.into_stream();
    stream.write_all(format!("bytes {bytes}\necho\n").as_bytes()).await?;
    crate::tcp::read_pattern(&mut stream, 0, bytes as u64).await?;
    let mut sent = vec![0; bytes];
    gateway_tests::server::pattern(0, &mut sent);
    let (mut reader, mut writer) = tokio::io::split(stream);
    let send = async {
        writer.write_all(&sent).await?;
        writer.flush().await
    };
    tokio::try_join!(send, crate::tcp::read_pattern(&mut reader, 0, bytes as u64))?;
    writer.shutdown().await
}

/// The n-th connection of a way has this done to its n-th segment, all at once.
fn one_by_one(bed: &TlsBed, wire: &Wire, targets: &[SocketAddr], name: &str, fate: Fate) {
    let config = with_long_hello(&bed.client, HELLO);
    for way in [Way::Forth, Way::Back] {
        for target in targets {
            wire.script(
                move |this, segment| {
                    if this == way && segment.nth == segment.connection { fate } else { Fate::Pass }
                },
            );
            let failed = bed.world.client.block_on(|| async {
                let one = |config: Arc<ClientConfig>, name: String, target| async move {
                    timeout(PATIENCE, exchange(target, &name, &config, BYTES))
                        .await
                        .unwrap_or(Err(std::io::ErrorKind::TimedOut.into()))
                };
                let all = (0..SEGMENTS).map(|_| tokio::spawn(one(config.clone(), name.to_owned(), *target)));
                let mut failed = Vec::new();
                for one in all.collect::<Vec<_>>() {
                    failed.extend(one.await.unwrap().err());
                }
                failed
            });
            let mut touched = BTreeSet::new();
            for (this, segment, fate) in wire.seen() {
                if fate != Fate::Pass {
                    assert_eq!((this, segment.connection), (way, segment.nth));
                    touched.insert(segment.connection);
                }
            }
            assert!(touched.len() >= SEGMENTS - 4, "{target} {way:?}: only segments {touched:?} got their turn");
            assert!(
                failed.is_empty(),
                "{target} with a segment {way:?} {fate:?}: {failed:?}\n{}",
                wire.story_of(|index| index < SEGMENTS)
            );
        }
    }
}

/// On a direct connection as the measure, then on either leg of a spliced one.
fn everywhere(fate: Fate) {
    let bed = TlsBed::wired(CLIENT);
    let straight = address::POD_1.map(|address| SocketAddr::new(address, SERVER));
    one_by_one(&bed, bed.world.client_wire(), &straight, "pod-1.test", fate);
    let agent = bed.agent();
    one_by_one(&bed, bed.world.client_wire(), &on_gateway(), "pod-1.test", fate);
    drop(agent);
    let bed = TlsBed::wired(REMOTE);
    let _agent = bed.agent();
    one_by_one(&bed, bed.world.remote_wire(), &on_gateway(), "remote.test", fate);
}

#[test]
fn each_segment_may_be_lost() {
    everywhere(Fate::Drop);
}

#[test]
fn each_segment_may_come_twice() {
    everywhere(Fate::Twice);
}

#[test]
fn each_segment_may_come_behind_the_next() {
    everywhere(Fate::BehindNext);
}

#[test]
fn each_segment_may_come_after_it_was_sent_again() {
    // Longer than the shortest time that Linux waits before it sends again.
    everywhere(Fate::Late(Duration::from_millis(350)));
}

/// Seconds that a download over a lossy cable takes.
fn lossy_download(bed: &TlsBed, target: SocketAddr) -> f64 {
    const BYTES: u64 = 20_000_000;
    bed.world.client_wire().script(lossy(20));
    let begun = Instant::now();
    bed.world.client.block_on(|| async {
        let mut stream = Connection::open(target, "pod-1.test", &bed.client).await.unwrap().into_stream();
        stream.write_all(format!("bytes {BYTES}\n").as_bytes()).await.unwrap();
        stream.flush().await.unwrap();
        crate::tcp::read_pattern(&mut stream, 0, BYTES).await.unwrap();
    });
    begun.elapsed().as_secs_f64()
}

/// What the pod's kernel did about losses.
#[derive(Clone, Copy, Debug)]
struct Repairs {
    sent_again: u64,
    by_sack: u64,
    by_time_out: u64,
}

fn repairs(bed: &TlsBed) -> Repairs {
    let said = bed.world.pods[0].run("nstat -asz TcpRetransSegs TcpExtTCPSackRecovery TcpExtTCPTimeouts").unwrap();
    let count = |name: &str| -> u64 {
        let words = || said.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
        words().find(|words| words.first() == Some(&name)).unwrap()[1].parse().unwrap()
    };
    Repairs {
        sent_again: count("TcpRetransSegs"),
        by_sack: count("TcpExtTCPSackRecovery"),
        by_time_out: count("TcpExtTCPTimeouts"),
    }
}

#[test]
fn two_percent_loss_is_repaired_as_on_a_direct_connection() {
    const ROUNDS: usize = 4;
    let bed = TlsBed::wired(CLIENT);
    let _agent = bed.agent();
    for (spliced, straight) in on_gateway().into_iter().zip(address::POD_1) {
        let both = [SocketAddr::new(straight, SERVER), spliced];
        // By turns, and the least of some: what else the machine does is not what is compared.
        let mut least = [f64::INFINITY; 2];
        let mut all = [Repairs { sent_again: 0, by_sack: 0, by_time_out: 0 }; 2];
        for _ in 0..ROUNDS {
            for (index, target) in both.into_iter().enumerate() {
                let before = repairs(&bed);
                least[index] = least[index].min(lossy_download(&bed, target));
                let after = repairs(&bed);
                all[index].sent_again += after.sent_again - before.sent_again;
                all[index].by_sack += after.by_sack - before.by_sack;
                all[index].by_time_out += after.by_time_out - before.by_time_out;
            }
        }
        let [directly, here] = all;
        assert!(here.by_sack > directly.by_sack / 2, "{spliced}: {here:?}, directly {directly:?}");
        assert!(here.by_time_out <= directly.by_time_out + 4, "{spliced}: {here:?}, directly {directly:?}");
        // A frame that is lost may be one segment or forty, and on a busy machine they differ from run to run.
        assert!(here.sent_again <= directly.sent_again * 6, "{spliced}: {here:?}, directly {directly:?}");
        let [directly, here] = least;
        assert!(here < directly * 2.0 + 0.1, "{spliced}: {here:.2} s, directly {directly:.2} s");
    }
}
