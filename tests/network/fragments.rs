//! Datagrams larger than the MTU arrive whole, in whatever order their fragments come.

use std::io::{self, ErrorKind};
use std::net::{IpAddr, SocketAddr, UdpSocket};

use etherparse::{IpNumber, Ipv4Header, Ipv6FragmentHeader, Ipv6Header, UdpHeader};
use gateway_tests::client::{self, PATIENCE};
use gateway_tests::lab::address;
use gateway_tests::server::pattern;
use socket2::{Domain, Protocol, Socket, Type};

use crate::bed::{Bed, ECHO, SERVER, on_gateway};

/// Bytes of a fragment's payload; a multiple of 8.
const FRAGMENT: usize = 1400;

/// Sends one datagram and compares what comes back.
pub async fn echo(target: SocketAddr, length: usize) -> io::Result<()> {
    let socket = client::udp(target).await?;
    let mut sent = vec![0; length];
    pattern(1, &mut sent);
    socket.send(&sent).await?;
    let mut got = vec![0; length + 1];
    let count = tokio::time::timeout(PATIENCE, socket.recv(&mut got)).await??;
    match got[..count] == sent[..] {
        true => Ok(()),
        false => Err(io::Error::new(ErrorKind::InvalidData, format!("{count} bytes came back of {length}"))),
    }
}

#[test]
fn large_datagrams_go_both_ways() {
    for backend in [address::POD_1, address::REMOTE] {
        let bed = Bed::web(&[backend]);
        let _agent = bed.agent();
        for target in on_gateway(ECHO) {
            for length in [1473, 2000, 4000, 8000] {
                let echoed = bed.world.client.block_on(|| echo(target, length));
                assert!(echoed.is_ok(), "{length} bytes to {target} for {backend:?}: {echoed:?}");
            }
        }
    }
}

#[test]
fn first_fragment_may_come_late() {
    // The measure: without a gateway.
    let direct = Bed::new();
    for address in address::POD_1 {
        direct.world.client.enter(|| echo_in_order((address, SERVER).into(), &[2, 0, 1])).unwrap();
    }
    for backend in [address::POD_1, address::REMOTE] {
        let bed = Bed::web(&[backend]);
        let _agent = bed.agent();
        for target in on_gateway(ECHO) {
            for order in [&[0, 1, 2][..], &[1, 0, 2], &[1, 2, 0], &[2, 1, 0]] {
                let echoed = bed.world.client.enter(|| echo_in_order(target, order));
                assert!(echoed.is_ok(), "fragments in order {order:?} to {target} for {backend:?}: {echoed:?}");
            }
        }
    }
}

#[test]
fn datagrams_of_two_clients_are_not_mixed() {
    let bed = Bed::web(&[address::POD_1, address::REMOTE]);
    let _agent = bed.agent();
    for target in on_gateway(ECHO) {
        bed.world.client.block_on(|| async move {
            let many = (0..40).map(|index| tokio::spawn(echo(target, 3000 + 7 * index)));
            for one in many.collect::<Vec<_>>() {
                one.await.unwrap().unwrap();
            }
        });
    }
}

/// Sends the fragments of one datagram in this order, from a raw socket, and compares what comes back to the port.
fn echo_in_order(target: SocketAddr, order: &[usize]) -> io::Result<()> {
    let version = usize::from(target.is_ipv6());
    let socket = UdpSocket::bind((address::CLIENT[version], 0))?;
    socket.set_read_timeout(Some(PATIENCE))?;
    let source = socket.local_addr()?;
    let mut payload = vec![0; FRAGMENT * (order.len() - 1) + 100];
    pattern(u64::from(source.port()), &mut payload);
    let fragments = fragments(source, target, &payload);
    for index in order {
        raw(target)?.send_to(&fragments[*index], &without_port(target).into())?;
    }
    let mut got = vec![0; payload.len() + 1];
    let count = socket.recv(&mut got)?;
    if got[..count] != payload {
        return Err(io::Error::new(ErrorKind::InvalidData, format!("{count} bytes came back of {}", payload.len())));
    }
    Ok(())
}

/// A socket that sends IP packets as they are.
pub fn raw(target: SocketAddr) -> io::Result<Socket> {
    const IPPROTO_RAW: i32 = 255;
    let raw = Socket::new(Domain::for_address(target), Type::RAW, Some(Protocol::from(IPPROTO_RAW)))?;
    match target.is_ipv4() {
        true => raw.set_header_included_v4(true)?,
        false => raw.set_header_included_v6(true)?,
    }
    Ok(raw)
}

/// Raw IPv6 sockets take the port for a protocol.
pub fn without_port(target: SocketAddr) -> SocketAddr {
    SocketAddr::new(target.ip(), 0)
}

/// The IP packets that carry one UDP datagram.
fn fragments(source: SocketAddr, target: SocketAddr, payload: &[u8]) -> Vec<Vec<u8>> {
    let (from, to) = (source.port(), target.port());
    let udp = match (source.ip(), target.ip()) {
        (IpAddr::V4(a), IpAddr::V4(b)) => UdpHeader::with_ipv4_checksum(from, to, &ipv4(a, b, 0), payload),
        (IpAddr::V6(a), IpAddr::V6(b)) => {
            UdpHeader::with_ipv6_checksum(from, to, &ipv6(a, b, 0, IpNumber::UDP), payload)
        }
        _ => panic!("{source} and {target} are of two IP versions"),
    };
    let mut datagram = udp.unwrap().to_bytes().to_vec();
    datagram.extend(payload);
    // Nobody else's datagrams have this identification.
    let id = from;
    let count = datagram.chunks(FRAGMENT).len();
    datagram
        .chunks(FRAGMENT)
        .enumerate()
        .map(|(index, chunk)| {
            let more = index + 1 < count;
            let offset = u16::try_from(index * FRAGMENT / 8).unwrap().try_into().unwrap();
            let mut packet = Vec::new();
            match (source.ip(), target.ip()) {
                (IpAddr::V4(a), IpAddr::V4(b)) => {
                    let mut header = ipv4(a, b, chunk.len());
                    header.identification = id;
                    header.dont_fragment = false;
                    header.more_fragments = more;
                    header.fragment_offset = offset;
                    header.header_checksum = header.calc_header_checksum();
                    header.write(&mut packet).unwrap();
                }
                (IpAddr::V6(a), IpAddr::V6(b)) => {
                    ipv6(a, b, 8 + chunk.len(), IpNumber::IPV6_FRAGMENTATION_HEADER).write(&mut packet).unwrap();
                    Ipv6FragmentHeader::new(IpNumber::UDP, offset, more, u32::from(id)).write(&mut packet).unwrap();
                }
                _ => {}
            }
            packet.extend(chunk);
            packet
        })
        .collect()
}

pub fn ipv4(source: std::net::Ipv4Addr, target: std::net::Ipv4Addr, payload: usize) -> Ipv4Header {
    Ipv4Header::new(u16::try_from(payload).unwrap(), 64, IpNumber::UDP, source.octets(), target.octets()).unwrap()
}

pub fn ipv6(source: std::net::Ipv6Addr, target: std::net::Ipv6Addr, payload: usize, next: IpNumber) -> Ipv6Header {
    Ipv6Header {
        payload_length: u16::try_from(payload).unwrap(),
        next_header: next,
        hop_limit: 64,
        source: source.octets(),
        destination: target.octets(),
        ..Default::default()
    }
}
