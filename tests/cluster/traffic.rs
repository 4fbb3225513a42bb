//! A Gateway with backends on both nodes, and clients of it outside of the nodes.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Result;
use gateway_tests::lab::wait_for;
use gateway_tests::tls::Authority;
use gateway_tests::traffic::{Client, Traffic};

use crate::bed::{Applied, Bed};

const MANIFESTS: &str = include_str!("traffic.yaml");
/// What the backends' certificate is for, and the TLSRoute.
const NAME: &str = "echo.example";

/// TCP, forwarded by the kernel.
pub const L4: &str = "L4";
/// TLS that the kernel forwards by the server name.
pub const SNI: &str = "SNI";
/// Through the agent.
pub const HTTP: &str = "HTTP";
pub const ALL: [&str; 3] = [L4, SNI, HTTP];

fn port(way: &str) -> u16 {
    match way {
        HTTP => 80,
        L4 => 81,
        _ => 443,
    }
}

/// A Gateway with a listener for each way.
pub struct Site<'a> {
    bed: &'a Bed,
    pub address: IpAddr,
    authority: Authority,
    _applied: Applied<'a>,
}

impl<'a> Site<'a> {
    /// Until everybody is answered.
    pub fn new(bed: &'a Bed, namespace: &str) -> Site<'a> {
        let authority = Authority::new().unwrap();
        let identity = authority.identity("echo", &[NAME]).unwrap();
        let applied = bed.apply(namespace, MANIFESTS);
        let (certificate, key) = (identity.certificate_file.display(), identity.key_file.display());
        bed.kubectl(&format!("create secret tls echo -n {namespace} --cert={certificate} --key={key}")).unwrap();
        bed.wait_for_pods(namespace, "echo");
        let address = bed.wait_for_address(namespace, "edge");
        let site = Site { bed, address, authority, _applied: applied };
        ALL.into_iter().for_each(|way| bed.wait_for(&format!("an answer by {way}"), || site.ask(way)));
        site
    }

    /// One request of a new client.
    pub fn ask(&self, way: &'static str) -> Result<()> {
        let client = self.client(way);
        Ok(self.bed.cluster.control().network()?.block_on(|| async move { client.ask().await })?)
    }

    fn client(&self, name: &'static str) -> Client {
        let tls = (name == SNI).then(|| Arc::new(self.authority.client().unwrap()));
        Client { name, target: SocketAddr::new(self.address, port(name)), host: NAME, tls }
    }

    /// Clients of every way begin.
    pub fn traffic(&self) -> Traffic {
        let network = self.bed.cluster.control().network().unwrap();
        Traffic::start(&network, ALL.map(|way| self.client(way)).into()).unwrap()
    }
}

/// Waits for something; how long it took.
pub fn within<T>(what: &str, at_most: Duration, ask: impl FnMut() -> Result<T>) -> Duration {
    let begun = Instant::now();
    wait_for(what, at_most, ask).unwrap();
    let took = begun.elapsed();
    eprintln!("{what}: after {took:?}");
    took
}
