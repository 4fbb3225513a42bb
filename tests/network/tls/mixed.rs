//! One port lets some names pass and ends TLS for others.

use std::io::ErrorKind;
use std::net::SocketAddr;

use gateway_tests::lab::{TlsListener, address, eventually, service, slice, tls_gateway, tls_route, tls_secret};
use gateway_tests::tls;

use super::{PLAIN, SERVER, SITES, TlsBed};
use crate::bed::ready;

pub const MIXED: u16 = 9443;

/// `canary.test` passes to pod-1; `*.wild.test` ends here, with the certificate of this site, and goes to the plain port of pod-2
/// or, if it is `remote.sub.wild.test`, of the remote host.
pub fn publish(bed: &TlsBed, certificate_of: &str) {
    let identity = bed.identity(certificate_of);
    let listener = |name, hostname, secret| TlsListener { name, port: MIXED, hostname: Some(hostname), secret };
    let listeners = [listener("pass", "canary.test", None), listener("end", "*.wild.test", Some("wild"))];
    let mut documents = vec![
        tls_gateway("mixed", &address::GATEWAY, &listeners),
        tls_secret("wild", &identity.certificate_file, &identity.key_file).unwrap(),
        tls_route("mixed-pass", ("mixed", "pass"), &["canary.test"], &[("pod-1", SERVER, 1)]),
        tls_route("mixed-end", ("mixed", "end"), &["*.wild.test"], &[("plain-pod-2", PLAIN, 1)]),
        tls_route("mixed-remote", ("mixed", "end"), &["remote.sub.wild.test"], &[("plain-remote", PLAIN, 1)]),
    ];
    for (site, addresses) in SITES {
        let name = format!("plain-{site}");
        documents.extend([service(&name, "TCP", PLAIN), slice(&name, "TCP", PLAIN, &ready(&[addresses]))]);
    }
    bed.manifests.write("mixed.yaml", &documents).unwrap();
}

/// What the server says to `who` and to `tls`.
fn ask(bed: &TlsBed, target: SocketAddr, name: &str) -> std::io::Result<(String, String)> {
    bed.world.client.block_on(|| async move {
        let mut connection = tls::Connection::open(target, name, &bed.client).await?;
        Ok((connection.who().await?.name, connection.ask("tls").await?))
    })
}

#[test]
fn names_pass_and_end_on_one_port() {
    let bed = TlsBed::new();
    publish(&bed, "pod-2");
    let _agent = bed.agent();
    for target in crate::bed::on_gateway(MIXED) {
        let (name, said) = ask(&bed, target, "canary.test").unwrap();
        assert!(name == "pod-1" && said.contains("sni=canary.test"), "{name}: {said}");
        for (asked, site) in [("a.wild.test", "pod-2"), ("remote.sub.wild.test", "remote")] {
            let (name, said) = ask(&bed, target, asked).unwrap();
            assert_eq!((name.as_str(), said.as_str()), (site, "no TLS"), "{asked}");
        }
        let error = ask(&bed, target, "pod-1.test").unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ConnectionReset, "{error}");
    }
}

#[test]
fn data_passes_whole_where_tls_ends() {
    let bed = TlsBed::new();
    publish(&bed, "pod-2");
    let _agent = bed.agent();
    for target in crate::bed::on_gateway(MIXED) {
        for name in ["a.wild.test", "remote.sub.wild.test"] {
            let config = tls::with_long_hello(&bed.client, 3_000);
            let done = bed.world.client.block_on(|| super::faults::exchange(target, name, &config, 3_000_000));
            done.unwrap_or_else(|error| panic!("{target} {name}: {error}"));
        }
    }
}

#[test]
fn certificates_are_swapped_under_connections() {
    let bed = TlsBed::new();
    publish(&bed, "pod-2");
    let _agent = bed.agent();
    let [target, _] = crate::bed::on_gateway(MIXED);
    bed.world.client.block_on(|| async {
        let open = || tls::Connection::open(target, "a.wild.test", &bed.client);
        let shown = |connection: &tls::Connection| connection.certificate();
        let mut connection = open().await.unwrap();
        let first = shown(&connection);
        publish(&bed, "remote");
        let changed = || {
            let now = bed.world.client.block_on(open);
            now.is_ok_and(|now| shown(&now) != first)
        };
        eventually("the new certificate to be shown", changed);
        connection.who().await.unwrap();
    });
}
