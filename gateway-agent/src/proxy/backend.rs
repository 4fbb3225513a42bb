//! pick → connect: an endpoint by weight, and another when it does not answer.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use gateway_common::hash::mix;
use ppp::v2;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::client::TlsStream;

use super::backend_tls::Configs;
use super::{Counters, Origin, Refusal, sockets};
use crate::ir::http::BackendTls;
use crate::ir::{BackendSet, Duty, Endpoint, Target};

/// Endpoints that are tried, as on the kernel's way.
const ATTEMPTS: usize = 3;
/// A SYN and its first two retransmissions (RFC 6298: after 1 s and 3 s), and some time for an answer, also of TLS.
const CONNECT: Duration = Duration::from_secs(4);

/// An endpoint, and whom to trust there if TLS is spoken to it.
#[derive(Clone, Copy, Debug)]
pub struct Picked<'a> {
    pub endpoint: &'a Endpoint,
    tls: Option<&'a Arc<BackendTls>>,
}

/// Picks by weight, exactly: the weight of a reference is spread evenly over its endpoints of this family that serve. `random`
/// decides; `tried` are left out, and once there are such, so are references that have nothing else.
pub fn pick<'a>(set: &'a BackendSet, v4: bool, random: u64, tried: &[SocketAddr]) -> Result<Picked<'a>, Refusal> {
    let usable = |target: &'a Target| {
        let endpoints = match target {
            Target::Endpoints { endpoints, .. } => &endpoints[..],
            Target::Invalid => &[],
        };
        let serves = move |e: &&Endpoint| e.duty == Duty::Serving && e.address.is_ipv4() == v4;
        endpoints.iter().filter(serves).filter(|e| !tried.contains(&SocketAddr::new(e.address, e.port)))
    };
    let refs = || set.refs.iter().filter(|r| tried.is_empty() || usable(&r.target).next().is_some());
    let total: u64 = refs().map(|r| u64::from(r.weight)).sum();
    let mut left = reduce(random, total);
    for reference in refs() {
        let weight = u64::from(reference.weight);
        if left >= weight {
            left -= weight;
            continue;
        }
        let endpoints = usable(&reference.target);
        let nth = reduce(mix(random), endpoints.clone().count() as u64);
        let endpoint = endpoints.clone().nth(nth as usize);
        return match &reference.target {
            Target::Invalid => Err(Refusal::InvalidBackend),
            Target::Endpoints { tls, .. } => {
                endpoint.map(|endpoint| Picked { endpoint, tls: tls.as_ref() }).ok_or(Refusal::NoBackend)
            }
        };
    }
    Err(if tried.is_empty() { Refusal::NoBackend } else { Refusal::BackendSilent })
}

/// Maps 64 random bits onto `0..n`.
fn reduce(bits: u64, n: u64) -> u64 {
    ((u128::from(bits) * u128::from(n)) >> 64) as u64
}

/// A connection to an endpoint, `first` or one of the others, as `attempt` makes it.
pub async fn connect<'a, T>(
    set: &'a BackendSet,
    first: Picked<'a>,
    mut random: u64,
    counters: &Counters,
    attempt: impl AsyncFn(Picked<'a>) -> io::Result<T>,
) -> Result<T, Refusal> {
    let (mut picked, mut tried) = (first, Vec::new());
    loop {
        let address = SocketAddr::new(picked.endpoint.address, picked.endpoint.port);
        match timeout(CONNECT, attempt(picked)).await {
            Ok(Ok(made)) => return Ok(made),
            Ok(Err(error)) => tracing::debug!(%address, %error, "a backend took no connection"),
            Err(_) => tracing::debug!(%address, "a backend did not answer"),
        }
        counters.connects_failed.add(1);
        tried.push(address);
        if tried.len() == ATTEMPTS {
            return Err(Refusal::BackendSilent);
        }
        random = mix(random);
        picked = pick(set, address.is_ipv4(), random, &tried)?;
    }
}

/// TCP alone, and the bytes that must go first.
pub async fn tcp(endpoint: &Endpoint, origin: &Origin) -> io::Result<(TcpStream, Vec<u8>)> {
    let stream = TcpStream::connect((endpoint.address, endpoint.port)).await?;
    sockets::tune(&stream)?;
    Ok((stream, prelude(endpoint, origin)))
}

/// A backend of what came out of TLS.
pub enum Backend {
    Clear(TcpStream),
    Secure(Box<TlsStream<TcpStream>>),
}

/// With what must go first, and in TLS where a policy wants it.
pub async fn inside(picked: Picked<'_>, origin: &Origin, configs: &Configs) -> io::Result<Backend> {
    let (mut stream, first) = tcp(picked.endpoint, origin).await?;
    stream.write_all(&first).await?;
    match picked.tls {
        None => Ok(Backend::Clear(stream)),
        // No protocol is offered: nobody here knows what is inside.
        Some(tls) => Ok(Backend::Secure(configs.connect(stream, tls, &[]).await?.into())),
    }
}

/// The PROXY protocol header of an endpoint that wants one.
fn prelude(endpoint: &Endpoint, origin: &Origin) -> Vec<u8> {
    if !endpoint.proxy_protocol {
        return Vec::new();
    }
    let addresses = (origin.client, origin.gateway);
    v2::Builder::with_addresses(v2::Version::Two | v2::Command::Proxy, v2::Protocol::Stream, addresses)
        .build()
        // It only fails for a header over 64 KiB.
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proxy::tests::ir::{backends, endpoint, endpoints};

    /// How often each outcome comes up in so many picks.
    fn shares(set: &BackendSet, v4: bool, tried: &[SocketAddr]) -> std::collections::BTreeMap<String, usize> {
        let mut shares = std::collections::BTreeMap::new();
        for i in 0..10_000 {
            let outcome = match pick(set, v4, mix(i), tried) {
                Ok(picked) => picked.endpoint.address.to_string(),
                Err(refusal) => refusal.name().to_owned(),
            };
            *shares.entry(outcome).or_default() += 1;
        }
        shares
    }

    fn is_near(share: usize, expected: usize) -> bool {
        share.abs_diff(expected) < 200
    }

    #[test]
    fn every_reference_has_its_share_and_its_endpoints_divide_it() {
        let two = endpoints(&[endpoint("198.18.0.1:1"), endpoint("198.18.0.2:1"), endpoint("[2001:db8::1]:1")]);
        let set = backends("r", vec![(60, two), (20, Target::Invalid), (15, endpoints(&[])), (5, Target::Invalid)]);
        let v4 = shares(&set, true, &[]);
        assert!(is_near(v4["198.18.0.1"], 3_000) && is_near(v4["198.18.0.2"], 3_000), "{v4:?}");
        assert!(is_near(v4["invalid_backend"], 2_500) && is_near(v4["no_backend"], 1_500), "{v4:?}");
        let v6 = shares(&set, false, &[]);
        assert!(is_near(v6["2001:db8::1"], 6_000), "{v6:?}");
    }

    #[test]
    fn endpoints_that_drain_and_references_of_weight_zero_get_nothing() {
        let mut draining = endpoint("198.18.0.1:1");
        draining.duty = Duty::Draining;
        let set = backends("r", vec![(1, endpoints(&[draining])), (0, endpoints(&[endpoint("198.18.0.2:1")]))]);
        assert_eq!(shares(&set, true, &[]).into_iter().collect::<Vec<_>>(), [("no_backend".to_owned(), 10_000)]);
    }

    #[test]
    fn after_a_failure_only_endpoints_that_were_not_tried_are_left() {
        let two = endpoints(&[endpoint("198.18.0.1:1"), endpoint("198.18.0.2:1")]);
        let set = backends("r", vec![(1, two), (1, Target::Invalid)]);
        let first = "198.18.0.1:1".parse().unwrap();
        let left = shares(&set, true, &[first]);
        assert_eq!(left.into_iter().collect::<Vec<_>>(), [("198.18.0.2".to_owned(), 10_000)]);
        let none = shares(&set, true, &[first, "198.18.0.2:1".parse().unwrap()]);
        assert_eq!(none.into_iter().collect::<Vec<_>>(), [("backend_silent".to_owned(), 10_000)]);
    }

    #[test]
    fn a_proxy_protocol_header_has_the_clients_address_and_the_gateways() {
        let origin = Origin { client: "198.18.7.7:4711".parse().unwrap(), gateway: "198.19.0.1:443".parse().unwrap() };
        let mut wants = endpoint("198.18.0.1:1");
        assert!(prelude(&wants, &origin).is_empty());
        wants.proxy_protocol = true;
        let expected = [
            b"\r\n\r\n\0\r\nQUIT\n".as_slice(),
            &[0x21, 0x11, 0, 12, 198, 18, 7, 7, 198, 19, 0, 1],
            &4711u16.to_be_bytes(),
            &443u16.to_be_bytes(),
        ];
        assert_eq!(prelude(&wants, &origin), expected.concat());
    }
}
