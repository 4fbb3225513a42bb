//! Many connections, full tables, and packets from forged sources.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use etherparse::{IpNumber, TcpHeader, UdpHeader};
use gateway_tests::client::{self, Connection, split_tcp};
use gateway_tests::lab::{Agent, Node, Process, address, binary, eventually, raise_open_files, wait_for};

use crate::bed::{Bed, ECHO, WEB, on_gateway};
use crate::fragments::{ipv4, ipv6, raw, without_port};

#[test]
fn ten_thousand_connections_are_held() {
    const CONNECTIONS: usize = 10_000;
    raise_open_files().unwrap();
    let bed = Bed::web(&[address::POD_1, address::REMOTE]);
    // The servers on processes of their own: their ends count against another limit of open files.
    let many = 8081;
    publish_many(&bed, many);
    let _servers = [many_server(bed.pod(0), many), many_server(&bed.world.remote, many)];
    let agent = bed.agent();
    bed.world.client.block_on(|| async {
        let mut connections = Vec::new();
        while connections.len() < CONNECTIONS {
            let target = on_gateway(WEB)[connections.len() % 2];
            let batch = (0..50).map(|_| tokio::spawn(Connection::open(target)));
            for connection in batch.collect::<Vec<_>>() {
                connections.push(connection.await.unwrap().unwrap());
            }
        }
        for round in 0..2 {
            let mut local = 0;
            for connection in &mut connections {
                let answer = connection.who().await.unwrap_or_else(|error| panic!("round {round}: {error}"));
                if answer.name == "pod-1" {
                    assert_eq!(answer.seen, answer.client);
                    local += 1;
                }
            }
            crate::bed::assert_share("held by the pod", local, CONNECTIONS, 0.5);
        }
        assert_eq!(live(&agent), CONNECTIONS as f64);
    });
    eventually("closed connections to be counted as closed", || live(&agent) == 0.0);
}

/// Connections of the web listener that are established and not closed, as the metrics tell.
fn live(agent: &Agent) -> f64 {
    let count = |name: &str| agent.metric(name, &["listener=\"web\""]).unwrap();
    count("sluice_listener_established_total") - count("sluice_listener_closed_total")
}

fn many_server(node: &Node, port: u16) -> Process {
    let mut command = node.command(binary("lab-server").unwrap());
    command.args([node.name(), "--tcp", &port.to_string()]);
    let server = node.spawn("lab-server", command).unwrap();
    let ready = || if server.log().contains("ready") { Ok(()) } else { Err(anyhow::anyhow!("{}", server.log())) };
    wait_for("the server", Duration::from_secs(5), ready).unwrap();
    server
}

fn publish_many(bed: &Bed, port: u16) {
    use gateway_tests::lab::{gateway, route, service, slice};
    let [v4, v6] = address::GATEWAY.map(|address| address.to_string());
    let documents = [
        gateway("edge", &[&v4, &v6], &[("web", "TCP", WEB)]),
        route("TCPRoute", "web", ("edge", "web"), &[("many", port, 1)]),
        service("many", "TCP", port),
        slice("many", "TCP", port, &crate::bed::ready(&[address::POD_1, address::REMOTE])),
    ];
    bed.manifests.write("web.yaml", &documents).unwrap();
}

#[test]
fn full_flow_table_refuses_and_counts() {
    let bed = Bed::web(&[address::POD_1]);
    // Two entries a connection.
    let options = ["--max-flows", "200"];
    let agent = Agent::start_with(&bed.world.gateway, bed.manifests.path(), &options).unwrap();
    bed.world.client.block_on(|| async {
        let mut held = Vec::new();
        let mut refused = 0;
        for _ in 0..300 {
            let opened = match Connection::open(on_gateway(WEB)[0]).await {
                Ok(mut connection) => connection.who().await.map(|_| connection),
                Err(error) => Err(error),
            };
            match opened {
                Ok(connection) => held.push(connection),
                Err(error) => {
                    let kind = error.kind();
                    assert!(
                        matches!(kind, io::ErrorKind::ConnectionRefused | io::ErrorKind::ConnectionReset),
                        "not silence, but: {error}"
                    );
                    refused += 1;
                }
            }
        }
        assert!((90..=110).contains(&held.len()), "{} connections were held", held.len());
        let counted = agent.metric("sluice_packets_refused_total", &["flow_table_full"]).unwrap();
        assert!(counted >= f64::from(refused), "{refused} were refused, {counted} were counted");
        for connection in &mut held {
            connection.who().await.unwrap();
        }
        // When some are gone there is room again.
        held.truncate(10);
        tokio::time::sleep(Duration::from_millis(300)).await;
        for _ in 0..50 {
            held.push(Connection::open(on_gateway(WEB)[0]).await.unwrap());
        }
        for connection in &mut held {
            connection.who().await.unwrap();
        }
    });
    assert_eq!(bed.udp(on_gateway(ECHO)[0]).unwrap().name, "pod-1");
}

#[test]
fn floods_from_forged_sources_evict_no_established_connection() {
    const PACKETS: u32 = 100_000;
    let bed = Bed::web(&[address::POD_1, address::REMOTE]);
    let _agent = bed.agent();
    let world = &bed.world;
    world.client.block_on(|| async {
        let mut connections = Vec::new();
        let mut sockets = Vec::new();
        for index in 0..40 {
            let mut connection = Connection::open(on_gateway(WEB)[index % 2]).await.unwrap();
            let name = connection.who().await.unwrap().name;
            connections.push((connection, name));
            let socket = client::udp(on_gateway(ECHO)[index % 2]).await.unwrap();
            let name = client::ask_udp(&socket).await.unwrap().name;
            client::ask_udp(&socket).await.unwrap();
            sockets.push((socket, name));
        }
        for (web, echo) in on_gateway(WEB).into_iter().zip(on_gateway(ECHO)) {
            world.client.enter(|| flood(web, syn, PACKETS)).unwrap();
            world.client.enter(|| flood(echo, datagram, PACKETS)).unwrap();
        }
        for (connection, name) in &mut connections {
            assert_eq!(connection.who().await.unwrap().name, *name);
        }
        for (socket, name) in &sockets {
            assert_eq!(client::ask_udp(socket).await.unwrap().name, *name);
        }
    });
    // And there is still room for new ones.
    let split = split_tcp(&world.client, on_gateway(WEB)[0], 200);
    assert_eq!(split.get("pod-1").unwrap_or(&0) + split.get("remote").unwrap_or(&0), 200, "{split:?}");
}

#[test]
fn honest_clients_get_through_during_a_flood() {
    let bed = Bed::web(&[address::POD_1, address::REMOTE]);
    let agent = bed.agent();
    std::thread::scope(|scope| {
        let flooding = scope.spawn(|| bed.world.client.enter(|| flood(on_gateway(WEB)[0], syn, 150_000)).unwrap());
        let (mut asked, mut served) = (0, 0);
        while !flooding.is_finished() {
            let split = split_tcp(&bed.world.client, on_gateway(WEB)[0], 50);
            asked += 50;
            served += split.get("pod-1").unwrap_or(&0) + split.get("remote").unwrap_or(&0);
        }
        assert!(served > 0 && served == asked, "{served} of {asked} served; {}", refusals(&agent));
    });
}

/// What was refused, by reason.
pub fn refusals(agent: &Agent) -> String {
    let page = agent.page("/metrics").unwrap();
    let told = page.lines().filter(|line| line.starts_with("sluice_packets_refused_total") && !line.ends_with(" 0"));
    told.collect::<Vec<_>>().join("; ")
}

/// Sends packets of this kind, each from another forged source.
pub fn flood(target: SocketAddr, packet: fn(SocketAddr, SocketAddr) -> Vec<u8>, count: u32) -> io::Result<()> {
    let socket = raw(target)?;
    for index in 0..count {
        // A source that nobody has; the answers go back to the client and end there.
        let scattered = index.wrapping_mul(2_654_435_761);
        let [_, b, c, d] = scattered.to_be_bytes();
        let source: IpAddr = match target {
            SocketAddr::V4(_) => Ipv4Addr::new(198, 19, c, d).into(),
            SocketAddr::V6(_) => Ipv6Addr::new(0x2001, 0xdb8, 0xf, b.into(), 0, 0, c.into(), d.into()).into(),
        };
        let port = 1024 + (scattered % 60_000) as u16;
        // The receiver may be slower than we are.
        let _ = socket.send_to(&packet((source, port).into(), target), &without_port(target).into());
    }
    Ok(())
}

pub fn syn(source: SocketAddr, target: SocketAddr) -> Vec<u8> {
    let mut tcp = TcpHeader::new(source.port(), target.port(), u32::from(source.port()) << 8, 64_000);
    tcp.syn = true;
    segment(source, target, tcp, &[])
}

/// A TCP segment with its IP header.
pub fn segment(source: SocketAddr, target: SocketAddr, mut tcp: TcpHeader, payload: &[u8]) -> Vec<u8> {
    let length = tcp.header_len() + payload.len();
    let mut packet = Vec::new();
    match (source.ip(), target.ip()) {
        (IpAddr::V4(a), IpAddr::V4(b)) => {
            let mut ip = ipv4(a, b, length);
            ip.protocol = IpNumber::TCP;
            ip.header_checksum = ip.calc_header_checksum();
            tcp.checksum = tcp.calc_checksum_ipv4(&ip, payload).unwrap();
            ip.write(&mut packet).unwrap();
        }
        (IpAddr::V6(a), IpAddr::V6(b)) => {
            let ip = ipv6(a, b, length, IpNumber::TCP);
            tcp.checksum = tcp.calc_checksum_ipv6(&ip, payload).unwrap();
            ip.write(&mut packet).unwrap();
        }
        _ => panic!("{source} and {target} are of two IP versions"),
    }
    tcp.write(&mut packet).unwrap();
    packet.extend(payload);
    packet
}

fn datagram(source: SocketAddr, target: SocketAddr) -> Vec<u8> {
    let (from, to) = (source.port(), target.port());
    let mut packet = Vec::new();
    let udp = match (source.ip(), target.ip()) {
        (IpAddr::V4(a), IpAddr::V4(b)) => {
            let mut ip = ipv4(a, b, 8 + 3);
            ip.header_checksum = ip.calc_header_checksum();
            ip.write(&mut packet).unwrap();
            UdpHeader::with_ipv4_checksum(from, to, &ip, b"who")
        }
        (IpAddr::V6(a), IpAddr::V6(b)) => {
            let ip = ipv6(a, b, 8 + 3, IpNumber::UDP);
            ip.write(&mut packet).unwrap();
            UdpHeader::with_ipv6_checksum(from, to, &ip, b"who")
        }
        _ => panic!("{source} and {target} are of two IP versions"),
    };
    packet.extend(udp.unwrap().to_bytes());
    packet.extend(b"who");
    packet
}
