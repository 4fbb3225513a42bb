//! The server name decides, and who may not pass is told so.

use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use gateway_tests::client::{PATIENCE, split_tls};
use gateway_tests::lab::{Agent, TlsListener, address, gateway, route, tls_gateway, tls_route};
use gateway_tests::tls;
use tokio_rustls::rustls::ClientConfig;

use super::{PORT, Path, SERVER, TlsBed, on_gateway, run, through_gateway};

/// A port of a second Gateway whose listeners have hostnames or take everything.
const OTHER: u16 = 8443;

fn refused(agent: &Agent, reason: &str) -> f64 {
    agent.metric("sluice_packets_refused_total", &[reason]).unwrap()
}

#[test]
fn exact_names_lead_to_their_backends() {
    let bed = TlsBed::new();
    let _agent = bed.agent();
    for path in through_gateway() {
        let answer = bed.who(path.target, &path.name("")).unwrap();
        let version = usize::from(path.target.is_ipv6());
        assert_eq!(answer.name, path.site);
        if path.site == "remote" {
            assert_eq!(answer.seen.ip(), address::NODE_INSIDE[version]);
            assert!(
                matches!(answer.seen.port(), 1024..=32767 | 61000..),
                "port {} is one of the node's own",
                answer.seen
            );
        } else {
            assert_eq!(answer.seen, answer.client, "a pod sees the client itself");
        }
    }
}

#[test]
fn wildcards_take_one_label_or_more() {
    let bed = TlsBed::new();
    let agent = bed.agent();
    for target in on_gateway() {
        for name in ["a.wild.test", "b.wild.test", "deep.sub.wild.test"] {
            assert_eq!(bed.who(target, name).unwrap().name, "pod-2", "{name}");
        }
        let error = bed.who(target, "wild.test").unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ConnectionReset, "{error}");
    }
    assert_eq!(refused(&agent, "unrecognized_name"), 2.0);
}

#[test]
fn unknown_names_are_reset_at_once() {
    let bed = TlsBed::new();
    let agent = bed.agent();
    // An address is not sent as a name.
    let nameless = address::GATEWAY[0].to_string();
    for target in on_gateway() {
        for name in ["nobody.test", "pod-1.test.example", "test", &nameless] {
            let begun = std::time::Instant::now();
            let error = bed.who(target, name).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::ConnectionReset, "{name}: {error}");
            assert!(begun.elapsed() < Duration::from_millis(900), "{name}: it took {:?}", begun.elapsed());
        }
    }
    assert_eq!(refused(&agent, "unrecognized_name"), 8.0);
}

#[test]
fn letter_case_does_not_matter() {
    let bed = TlsBed::new();
    let _agent = bed.agent();
    for path in through_gateway() {
        let (target, ca) = (path.target.to_string(), bed.ca());
        let shouted = path.name("").to_uppercase();
        // rustls would send it in lower case.
        let arguments = ["s_client", "-connect", &target, "-servername", &shouted, "-CAfile", &ca, "-quiet"];
        let answer = run(&bed.world.client, "openssl", &arguments, "GET / HTTP/1.0\r\n\r\n").unwrap();
        assert!(answer.contains(&format!("{} ", path.site)), "{path:?}: {answer}");
    }
}

#[test]
fn names_that_are_none_are_refused() {
    let bed = TlsBed::new();
    let agent = bed.agent();
    // Two more than a host name can have, and the most that the client sends.
    let long = format!("{}.test", vec!["a23456789"; 25].join("."));
    for target in on_gateway() {
        let (target, ca) = (target.to_string(), bed.ca());
        for name in ["pod-1.test.", &long] {
            let arguments = ["s_client", "-connect", &target, "-servername", name, "-CAfile", &ca, "-quiet"];
            let error = run(&bed.world.client, "openssl", &arguments, "GET / HTTP/1.0\r\n\r\n").unwrap_err();
            assert!(error.contains("alert") || error.contains("errno=104"), "{name}: {error}");
        }
    }
    assert_eq!(refused(&agent, "malformed_hello") + refused(&agent, "unrecognized_name"), 4.0);
}

#[test]
fn what_is_no_tls_gets_an_alert() {
    // Of SSLv2 (RFC 5246 appendix E.2): length with the high bit set, CLIENT-HELLO, version 3.1, one cipher, no session, a challenge.
    let mut old = vec![0x80, 9 + 3 + 16, 1, 3, 1, 0, 3, 0, 0, 0, 16, 0, 0, 47];
    old.extend([7; 16]);
    let hellos: [&[u8]; 4] =
        [b"GET / HTTP/1.1\r\nHost: pod-1.test\r\n\r\n", b"SSH-2.0-OpenSSH_9.2\r\n", &old, &[0; 300]];
    let bed = TlsBed::new();
    let agent = bed.agent();
    for target in on_gateway() {
        for hello in hellos {
            let answer = bed.world.client.enter(|| {
                let mut stream = TcpStream::connect_timeout(&target, PATIENCE).unwrap();
                stream.set_read_timeout(Some(PATIENCE)).unwrap();
                stream.write_all(hello).unwrap();
                let mut answer = Vec::new();
                stream.read_to_end(&mut answer).map(|_| answer)
            });
            // A record of type alert, version 3.x, two bytes, the first of them "fatal".
            let answer = answer.unwrap();
            assert!(matches!(answer[..], [21, 3, _, 0, 2, 2, _]), "{:02x?}: {answer:02x?}", &hello[..8]);
        }
    }
    assert_eq!(refused(&agent, "not_tls"), 8.0);
}

/// Writes a second Gateway on the same addresses.
fn other_gateway(bed: &TlsBed, hostnames: &[(&str, Option<&str>)], routes: &[String]) {
    let listeners: Vec<TlsListener> = hostnames
        .iter()
        .map(|(name, hostname)| TlsListener { name, port: OTHER, hostname: *hostname, secret: None })
        .collect();
    let mut documents = vec![tls_gateway("other", &address::GATEWAY, &listeners)];
    documents.extend_from_slice(routes);
    bed.manifests.write("other.yaml", &documents).unwrap();
}

#[test]
fn listeners_of_one_port_divide_its_names() {
    let bed = TlsBed::new();
    let to = |name: &str, section: &str, hostnames: &[&str], backend: &str| {
        tls_route(name, ("other", section), hostnames, &[(backend, SERVER, 1)])
    };
    let listeners =
        [("exact", Some("canary.test")), ("wild", Some("*.wild.test")), ("deeper", Some("*.sub.wild.test"))];
    let routes = [
        to("exact", "exact", &["canary.test"], "pod-1"),
        to("wildcard", "wild", &["*.wild.test"], "pod-2"),
        // This listener has no route for other names below it: they are refused, and not for the less specific listener.
        to("deeper", "deeper", &["one.sub.wild.test"], "remote"),
    ];
    other_gateway(&bed, &listeners, &routes);
    let _agent = bed.agent();
    for target in crate::bed::on_gateway(OTHER) {
        let wanted = [("canary.test", "pod-1"), ("a.wild.test", "pod-2"), ("one.sub.wild.test", "remote")];
        for (name, site) in wanted {
            assert_eq!(bed.who(target, name).unwrap().name, site, "{name}");
        }
        for name in ["two.sub.wild.test", "pod-1.test"] {
            let error = bed.who(target, name).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::ConnectionReset, "{name}: {error}");
        }
    }
    // The first Gateway's port knows nothing of this.
    assert_eq!(bed.who(on_gateway()[0], "two.sub.wild.test").unwrap().name, "pod-2");
}

#[test]
fn listener_without_a_hostname_takes_clients_without_a_name() {
    let bed = TlsBed::new();
    // v1 asks for hostnames, v1alpha2 does not.
    let everybody = route("TLSRoute", "everybody", ("other", "any"), &[("pod-2", SERVER, 1)]);
    other_gateway(&bed, &[("any", None)], &[everybody]);
    let _agent = bed.agent();
    for (index, target) in crate::bed::on_gateway(OTHER).into_iter().enumerate() {
        let nameless = address::GATEWAY[index].to_string();
        for name in [nameless.as_str(), "canary.test"] {
            assert_eq!(bed.who(target, name).unwrap().name, "pod-2", "{name}");
        }
        let ask = async || {
            let mut connection = tls::Connection::open(target, &nameless, &bed.client).await?;
            connection.ask("tls").await
        };
        let said = bed.world.client.enter(|| gateway_tests::client::block_on(ask())).unwrap();
        assert!(said.contains("sni=- "), "{said}");
    }
}

#[test]
fn weights_divide_connections() {
    const CONNECTIONS: usize = 2_000;
    let bed = TlsBed::new();
    let _agent = bed.agent();
    let split = split_tls(&bed.world.client, on_gateway()[0], "canary.test", &bed.client, CONNECTIONS);
    assert_eq!(split.values().sum::<usize>(), CONNECTIONS);
    assert!(split.keys().all(|name| ["pod-1", "pod-2"].contains(&name.as_str())), "{split:?}");
    crate::bed::assert_share("pod-1", split["pod-1"], CONNECTIONS, 0.9);
}

#[test]
fn invalid_and_empty_backends_are_refused_in_proportion() {
    const CONNECTIONS: usize = 400;
    let bed = TlsBed::new();
    let half = tls_route("half", ("edge", "tls"), &["half.wild.test"], &[("pod-1", SERVER, 1), ("nowhere", SERVER, 1)]);
    bed.manifests.write("half.yaml", &[half]).unwrap();
    let _agent = bed.agent();
    let split = split_tls(&bed.world.client, on_gateway()[0], "half.wild.test", &bed.client, CONNECTIONS);
    assert_eq!(split.values().sum::<usize>(), CONNECTIONS);
    crate::bed::assert_share("served", split.get("pod-1").copied().unwrap_or(0), CONNECTIONS, 0.5);
}

#[test]
fn backends_behind_a_proxy_protocol_header_see_the_client() {
    let bed = TlsBed::new();
    let _agent = bed.agent();
    for path in through_gateway() {
        // The header is put before hellos of one segment and of more.
        for config in [bed.client.clone(), tls::with_long_hello(&bed.client, 4_000)] {
            let (client, said) = proxied(&bed, path, &config);
            let wanted = format!("proxied={client}>{}", path.target);
            assert!(said.contains(&wanted), "{path:?}: wanted {wanted} in {said}");
        }
    }
}

fn proxied(bed: &TlsBed, path: Path, config: &Arc<ClientConfig>) -> (SocketAddr, String) {
    bed.world.client.block_on(|| async {
        let mut connection = tls::Connection::open(path.target, &path.name("proxied-"), config).await.unwrap();
        let client = connection.who().await.unwrap().client;
        let said = connection.ask("tls").await.unwrap();
        // The sequence numbers are shifted by the header's length from now on.
        let mut stream = connection.into_stream();
        tokio::io::AsyncWriteExt::write_all(&mut stream, b"bytes 300000\n").await.unwrap();
        tokio::io::AsyncWriteExt::flush(&mut stream).await.unwrap();
        crate::tcp::read_pattern(&mut stream, 0, 300_000).await.unwrap();
        (client, said)
    })
}

#[test]
fn pods_reach_gateways_and_themselves() {
    let bed = TlsBed::new();
    let _agent = bed.agent();
    for (index, target) in on_gateway().into_iter().enumerate() {
        let ask = |name: &str| bed.node("pod-1").block_on(|| tls::who(target, name, &bed.client)).unwrap();
        let answer = ask("a.wild.test");
        assert_eq!((answer.name.as_str(), answer.seen.ip()), ("pod-2", address::POD_1[index]));
        let answer = ask("remote.test");
        assert_eq!((answer.name.as_str(), answer.seen.ip()), ("remote", address::NODE_INSIDE[index]));
        let answer = ask("pod-1.test");
        assert_eq!(answer.name, "pod-1");
        assert!(!address::POD_1.contains(&answer.seen.ip()), "it would answer itself directly: {answer:?}");
    }
}

#[test]
fn other_listeners_and_ports_are_as_before() {
    let bed = TlsBed::new();
    let [v4, v6] = address::GATEWAY_2.map(|address: IpAddr| address.to_string());
    let documents = [
        gateway("plain", &[&v4, &v6], &[("tcp", "TCP", PORT)]),
        route("TCPRoute", "plain", ("plain", "tcp"), &[("pod-2", SERVER, 1)]),
    ];
    bed.manifests.write("plain.yaml", &documents).unwrap();
    let _agent = bed.agent();
    for address in address::GATEWAY_2 {
        // A TCP listener reads no names.
        assert_eq!(bed.who((address, PORT).into(), "canary.test").unwrap().name, "pod-2");
    }
    assert_eq!(bed.who(on_gateway()[0], "pod-1.test").unwrap().name, "pod-1");
}
