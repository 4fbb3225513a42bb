//! Path MTU discovery and expiry of the TTL work through the gateway.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::time::Duration;

use gateway_tests::client::{self, PATIENCE};
use gateway_tests::lab::{Keep, Node, Serving, address, veth, wait_for};
use socket2::{Domain, Protocol, SockRef, Socket, Type};

use crate::bed::{Bed, ECHO, SERVER, WEB, on_gateway, ready};

/// The smallest that IPv6 allows.
const SMALL: u16 = 1280;

/// For the end behind a veth of [`SMALL`]: it sends no larger packets, which that veth would drop without a word (all but GSO's), and lets the
/// others send as large ones as ever.
fn sends_small(to: IpAddr) -> String {
    let headers = if to.is_ipv4() { 40 } else { 60 };
    format!("mtu {SMALL} advmss {}", 1500 - headers)
}

#[test]
fn narrow_link_behind_the_node_is_found_by_the_sender() {
    // Only the node knows of the narrow link: the ends have agreed on segments for 1500 bytes.
    for (backend, interface) in [(address::POD_1, "pod-1"), (address::REMOTE, "eth-remote")] {
        let bed = Bed::web(&[backend]);
        let agent = bed.agent();
        bed.world.gateway.run(&format!("ip link set {interface} mtu {SMALL}")).unwrap();
        let (node, peers) = match backend == address::POD_1 {
            true => (bed.pod(0), address::CLIENT.into_iter().zip(address::NODE_PODS)),
            false => (&bed.world.remote, address::NODE_INSIDE.into_iter().zip(address::NODE_INSIDE)),
        };
        for (peer, hop) in peers {
            let via = if peer == hop { String::new() } else { format!("via {hop}") };
            node.ip(&format!("route add {peer} {via} dev eth0 {}", sends_small(peer))).unwrap();
        }
        let told = || agent.metric("sluice_packets_refused_total", &["packet_too_big"]).unwrap();
        for target in on_gateway(WEB) {
            let before = told();
            let echoed = bed.world.client.block_on(|| crate::tcp::echo(target, 2_000_000));
            assert!(echoed.is_ok(), "upload to {target} through {interface}: {echoed:?}");
            assert!(told() > before, "a veth takes packets of any size: the node must have told of its link's");
        }
        for target in on_gateway(ECHO) {
            let measured = bed.world.client.block_on(|| measure_twice(target));
            assert!(measured.is_ok(), "datagram to {target} through {interface}: {measured:?}");
        }
    }
}

/// The first large datagram is lost to the discovery; the sender then fragments.
async fn measure_twice(target: SocketAddr) -> io::Result<()> {
    let socket = client::udp(target).await?;
    measure(&socket).await.ok();
    measure(&socket).await
}

/// Sends a datagram that is too large for the narrow link; the answer, which says how large it was, is small.
async fn measure(socket: &tokio::net::UdpSocket) -> io::Result<()> {
    let mut datagram = b"size".to_vec();
    datagram.resize(1400, 0);
    socket.send(&datagram).await?;
    let mut answer = [0; 64];
    let length = tokio::time::timeout(Duration::from_secs(1), socket.recv(&mut answer)).await??;
    match answer[..length].ends_with(b" 1400") {
        true => Ok(()),
        false => Err(io::ErrorKind::InvalidData.into()),
    }
}

#[test]
fn narrow_link_towards_the_client_is_found_by_the_backend() {
    for backend in [address::POD_1, address::REMOTE] {
        let bed = Bed::web(&[backend]);
        let agent = bed.agent();
        bed.world.gateway.run(&format!("ip link set eth-client mtu {SMALL}")).unwrap();
        let told = || agent.metric("sluice_packets_refused_total", &["packet_too_big"]).unwrap();
        for target in on_gateway(WEB) {
            let before = told();
            let downloaded = bed.world.client.block_on(|| crate::tcp::download(target, 2_000_000));
            assert!(downloaded.is_ok(), "download from {target}: {downloaded:?}");
            assert!(told() > before, "a veth takes packets of any size: the node must have told of its link's");
        }
    }
}

#[test]
fn errors_of_a_router_before_the_client_reach_the_backend() {
    for backend in [address::POD_1, address::REMOTE] {
        let bed = Bed::web(&[backend]);
        let _agent = bed.agent();
        let far = Far::lay(&bed);
        for target in on_gateway(WEB) {
            let downloaded = far.node.block_on(|| crate::tcp::download(target, 2_000_000));
            assert!(downloaded.is_ok(), "download from {target} of {backend:?}: {downloaded:?}");
        }
    }
}

#[test]
fn errors_of_a_router_before_the_backend_reach_the_client() {
    let bed = Bed::new();
    let far = Far::lay(&bed);
    let _server = Serving::plain(&far.node, SERVER).unwrap();
    bed.publish_web(&ready(&[FAR]));
    let _agent = bed.agent();
    for target in on_gateway(WEB) {
        let echoed = bed.world.client.block_on(|| crate::tcp::echo(target, 2_000_000));
        assert!(echoed.is_ok(), "upload to {target}: {echoed:?}");
    }
    for target in on_gateway(ECHO) {
        let measured = bed.world.client.block_on(|| measure_twice(target));
        assert!(measured.is_ok(), "datagram to {target}: {measured:?}");
    }
}

const FAR: [IpAddr; 2] =
    [IpAddr::V4(Ipv4Addr::new(198, 18, 3, 2)), IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 3, 0, 0, 0, 0, 2))];

/// A host behind a router; its link to the router is narrower than both ends believe.
struct Far {
    node: Node,
    _router: Node,
}

impl Far {
    fn lay(bed: &Bed) -> Far {
        let node = Node::new("far", Keep::UntilDrop).unwrap();
        let router = Node::new("router", Keep::UntilDrop).unwrap();
        router.sysctl(&[("ipv4/ip_forward", "1"), ("ipv6/conf/all/forwarding", "1")]).unwrap();
        veth((&node, "eth0"), (&router, "near")).unwrap();
        veth((&router, "wide"), (&bed.world.gateway, "eth-router")).unwrap();
        let [v4, v6] = FAR.map(sends_small);
        node.ip(&format!(
            "address add 198.18.3.2/24 dev eth0\naddress add 2001:db8:3::2/64 dev eth0 nodad\n\
             route add default via 198.18.3.1 {v4}\nroute add default via 2001:db8:3::1 {v6}"
        ))
        .unwrap();
        router
            .ip(&format!(
                "address add 198.18.3.1/24 dev near\naddress add 2001:db8:3::1/64 dev near nodad\n\
                 address add 198.18.2.2/24 dev wide\naddress add 2001:db8:2::2/64 dev wide nodad\n\
                 route add default via 198.18.2.1\nroute add default via 2001:db8:2::1\nlink set near mtu {SMALL}"
            ))
            .unwrap();
        bed.world
            .gateway
            .ip("address add 198.18.2.1/24 dev eth-router\naddress add 2001:db8:2::1/64 dev eth-router nodad\n\
                 route add 198.18.3.0/24 via 198.18.2.2\nroute add 2001:db8:3::/64 via 2001:db8:2::2")
            .unwrap();
        // Links and neighbours made a moment ago may lose the first packets, with or without a gateway.
        for address in FAR {
            let ping = || bed.world.gateway.run(&format!("ping -n -q -c 1 -W 1 {address}"));
            wait_for("the host behind the router", PATIENCE, ping).unwrap();
        }
        Far { node, _router: router }
    }
}

/// ICMP and ICMPv6: time exceeded.
const TIME_EXCEEDED: [u8; 2] = [11, 3];

#[test]
fn expired_ttl_is_answered() {
    // The measure: without a gateway.
    let direct = Bed::new();
    for (node, pod) in address::NODE.into_iter().zip(address::POD_1) {
        assert_eq!(direct.world.client.enter(|| trace((pod, SERVER).into(), 1)).unwrap(), node);
    }
    let bed = Bed::web(&[address::POD_1]);
    let _agent = bed.agent();
    for (version, target) in on_gateway(ECHO).into_iter().enumerate() {
        let from = bed.world.client.enter(|| trace(target, 1)).unwrap();
        assert_eq!(from, address::NODE[version], "who says that the TTL has run out");
    }
}

/// Sends a datagram with this TTL; the address that answers "time exceeded".
fn trace(target: SocketAddr, ttl: u32) -> io::Result<IpAddr> {
    let errors = icmp_socket(target)?;
    let sender = UdpSocket::bind((address::CLIENT[usize::from(target.is_ipv6())], 0))?;
    let socket = SockRef::from(&sender);
    match target {
        SocketAddr::V4(_) => socket.set_ttl_v4(ttl)?,
        SocketAddr::V6(_) => socket.set_unicast_hops_v6(ttl)?,
    }
    sender.send_to(b"who", target)?;
    let port = sender.local_addr()?.port();
    let mut packet = [0; 1500];
    loop {
        let (length, from) = errors.recv_from(&mut packet)?;
        // Raw IPv4 sockets give the IP header too.
        let icmp = if target.is_ipv4() { &packet[20..length] } else { &packet[..length] };
        // Behind the ICMP header and the quoted IP header.
        let quoted_port = icmp.get(if target.is_ipv4() { 28..30 } else { 48..50 });
        if icmp[0] == TIME_EXCEEDED[usize::from(target.is_ipv6())] && quoted_port == Some(&port.to_be_bytes()) {
            return Ok(from.ip());
        }
    }
}

/// Hears the ICMP messages of this node. `UdpSocket` has what a raw socket needs: datagrams with their sender.
fn icmp_socket(target: SocketAddr) -> io::Result<UdpSocket> {
    let protocol = if target.is_ipv4() { Protocol::ICMPV4 } else { Protocol::ICMPV6 };
    let socket = Socket::new(Domain::for_address(target), Type::RAW, Some(protocol))?;
    socket.set_read_timeout(Some(Duration::from_secs(2)))?;
    Ok(socket.into())
}

#[test]
fn ttl_is_one_less_at_the_backend() {
    for (backend, node) in [(address::POD_1, 0), (address::REMOTE, 1)] {
        let bed = Bed::web(&[backend]);
        let _agent = bed.agent();
        let node = if node == 0 { bed.pod(0) } else { &bed.world.remote };
        // A raw IPv4 socket shows the header of what arrives.
        let raw: UdpSocket = node.enter(|| {
            let socket = Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::UDP)).unwrap();
            socket.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
            socket.into()
        });
        bed.udp(on_gateway(ECHO)[0]).unwrap();
        let mut packet = [0; 1500];
        raw.recv(&mut packet).unwrap();
        assert_eq!(packet[8], 63, "the client sent 64");
    }
}
