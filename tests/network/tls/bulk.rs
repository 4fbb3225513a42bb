//! Much data, and many connections.

use std::net::SocketAddr;
use std::process::Command;
use std::time::Duration;

use gateway_tests::lab::{Node, Process, binary, raise_open_files};
use gateway_tests::tls::Connection;

use super::{FILE, OWN, Path, SERVER, TlsBed, everywhere, on_gateway, ready_when, run};

const GB: u64 = 1_000_000_000;

fn sha256(bed: &TlsBed, line: &str) -> String {
    let said = run(&bed.world.client, "sh", &["-c", line], "").unwrap();
    said.split_whitespace().next().unwrap_or_default().to_owned()
}

#[test]
fn gigabytes_arrive_whole_both_ways() {
    let bed = TlsBed::new();
    let file = bed.authority.directory().join(FILE);
    let random = std::fs::File::create(&file).unwrap();
    let mut openssl = Command::new("openssl");
    openssl.args(["rand", &GB.to_string()]).stdout(random);
    assert!(openssl.status().unwrap().success());
    let file = file.display().to_string();
    let wanted = sha256(&bed, &format!("openssl dgst -sha256 -r {file}"));
    let _agent = bed.agent();
    // A pod by IPv4, the remote host by IPv6.
    for (site, target) in ["pod-1", "remote"].into_iter().zip(on_gateway()) {
        let path = Path { site, target, direct: false };
        let (name, ca) = (path.name(""), bed.ca());
        let curl = format!("curl -sS --fail --max-time 120 --cacert {ca} --connect-to {name}:443:{target}");
        let down = sha256(&bed, &format!("{curl} https://{name}/file | openssl dgst -sha256 -r"));
        assert_eq!(down, wanted, "download from {site}");
        let up = sha256(&bed, &format!("{curl} -H Expect: -T {file} https://{name}/"));
        assert_eq!(up, wanted, "upload to {site}");
    }
}

/// Packets that a node's interface has received, as the stack counts them: one that is merged counts once.
fn received(node: &Node, interface: &str) -> u64 {
    let path = format!("/sys/class/net/{interface}/statistics/rx_packets");
    node.run(&format!("cat {path}")).unwrap().trim().parse().unwrap()
}

#[test]
fn large_packets_stay_large() {
    const BYTES: usize = 100_000_000;
    let mut straight = None;
    // Without TLS behind the hello: what is counted is packets.
    everywhere_counted(BYTES, |path, counted| {
        let measure = straight.get_or_insert(counted);
        for (what, spliced, straight) in [("down", counted.0, measure.0), ("up", counted.1, measure.1)] {
            let per_gb = |packets: u64| packets * GB / BYTES as u64;
            assert!(
                spliced <= straight * 3 / 2 + 500,
                "{path:?}: {} packets a GB {what}, {} straight",
                per_gb(spliced),
                per_gb(straight)
            );
        }
    });
}

/// Packets that the client and the server got for so many bytes down and up.
fn everywhere_counted(bytes: usize, mut test: impl FnMut(Path, (u64, u64))) {
    let counts = std::cell::RefCell::new(Vec::new());
    everywhere(&TlsBed::new(), SERVER, |bed, path| {
        let server = bed.node(path.site);
        let before = [received(&bed.world.client, "c0"), received(server, "eth0")];
        let (target, name) = (path.target, path.name(""));
        bed.world.client.block_on(|| async move {
            use tokio::io::AsyncWriteExt;
            let connection = Connection::open(target, &name, &bed.client).await.unwrap();
            let mut stream = connection.into_stream();
            stream.write_all(format!("bytes {bytes}\n").as_bytes()).await.unwrap();
            stream.flush().await.unwrap();
            crate::tcp::read_pattern(&mut stream, 0, bytes as u64).await.unwrap();
        });
        let middle = [received(&bed.world.client, "c0"), received(server, "eth0")];
        bed.world.client.block_on(|| async move {
            use tokio::io::{AsyncReadExt, AsyncWriteExt};
            let connection = Connection::open(target, &path.name(""), &bed.client).await.unwrap();
            let mut stream = connection.into_stream();
            let head = format!("PUT / HTTP/1.1\r\nContent-Length: {bytes}\r\n\r\n");
            stream.write_all(head.as_bytes()).await.unwrap();
            stream.write_all(&vec![7; bytes]).await.unwrap();
            stream.flush().await.unwrap();
            let mut answer = Vec::new();
            stream.read_to_end(&mut answer).await.unwrap();
        });
        let after = [received(&bed.world.client, "c0"), received(server, "eth0")];
        counts.borrow_mut().push((path, (middle[0] - before[0], after[1] - middle[1])));
    });
    for (path, counted) in counts.into_inner() {
        test(path, counted);
    }
}

fn many_server(bed: &TlsBed, site: &str) -> Process {
    let node = bed.node(site);
    let mut command = node.command(binary("lab-server").unwrap());
    let identity = bed.identity(site);
    command.args([site, "--tls", &OWN.to_string(), "--certificate"]).arg(&identity.certificate_file);
    command.arg("--key").arg(&identity.key_file);
    let server = node.spawn("lab-server", command).unwrap();
    ready_when(&server, "ready");
    server
}

#[test]
fn five_thousand_connections_are_held() {
    const CONNECTIONS: usize = 5_000;
    raise_open_files().unwrap();
    let bed = TlsBed::new();
    // The servers on processes of their own: their ends count against another limit of open files.
    let _servers = ["pod-1", "remote"].map(|site| many_server(&bed, site));
    let agent = bed.agent();
    let target = |index: usize| -> (SocketAddr, &'static str) {
        (on_gateway()[index % 2], ["own-pod-1.test", "own-remote.test"][index / 2 % 2])
    };
    bed.world.client.block_on(|| async {
        let mut connections = Vec::new();
        while connections.len() < CONNECTIONS {
            let batch = (0..50).map(|more| {
                let (target, name) = target(connections.len() + more);
                let client = bed.client.clone();
                tokio::spawn(async move { Connection::open(target, name, &client).await })
            });
            for connection in batch.collect::<Vec<_>>() {
                connections.push(connection.await.unwrap().unwrap());
            }
        }
        for round in 0..2 {
            for (index, connection) in connections.iter_mut().enumerate() {
                let answer = connection.who().await.unwrap_or_else(|error| panic!("round {round}: {error}"));
                assert_eq!(format!("own-{}.test", answer.name), target(index).1);
            }
        }
        let count = |name: &str| agent.metric(name, &["listener=\"tls\""]).unwrap();
        let live = count("sluice_listener_established_total") - count("sluice_listener_closed_total");
        assert_eq!(live, CONNECTIONS as f64);
        // All at once, so that the ends do not wait for each other.
        drop(connections);
        tokio::time::sleep(Duration::from_millis(100)).await;
    });
}
