//! TLS that ends at the agent and goes on to the backend as TLS of its own (BackendTLSPolicy).

use std::io::ErrorKind;
use std::net::SocketAddr;

use gateway_tests::lab::{
    Agent, Process, TlsListener, address, config_map, eventually, service, slice, tls_gateway, tls_route, tls_secret,
};
use gateway_tests::tls::{Authority, Connection};

use super::{OWN, SERVER, TlsBed, ready_when, run};
use crate::bed::{on_gateway, ready};

const PORT: u16 = 9444;

/// What the policy for the backend of `*.wild.test` says: whom to expect, and by whose signature.
enum Trust<'a> {
    These(&'a Authority),
    System,
}

/// A Gateway that ends TLS for `*.wild.test`, which goes to a port of pod-1; the port speaks TLS. `shows`: a Secret for the Gateway.
fn publish(bed: &TlsBed, port: u16, hostname: &str, trust: &Trust, shows: Option<&str>) {
    let identity = bed.identity("pod-2");
    let listener = TlsListener { name: "end", port: PORT, hostname: Some("*.wild.test"), secret: Some("wild") };
    let mut gateway = tls_gateway("inside", &address::GATEWAY, &[listener]);
    if let Some(secret) = shows {
        gateway += &format!("  tls: {{backend: {{clientCertificateRef: {{name: {secret}}}}}}}\n");
    }
    let (roots, authority) = match trust {
        Trust::These(authority) => ("caCertificateRefs: [{group: '', kind: ConfigMap, name: roots}]", *authority),
        Trust::System => ("wellKnownCACertificates: System", &bed.authority),
    };
    let policy = format!(
        "apiVersion: gateway.networking.k8s.io/v1\nkind: BackendTLSPolicy\nmetadata: {{name: inside, namespace: default}}\nspec:\n  \
         targetRefs: [{{group: '', kind: Service, name: secure}}]\n  validation: {{hostname: {hostname}, {roots}}}\n"
    );
    let client = bed.authority.client_identity("gateway").unwrap();
    let documents = [
        gateway,
        tls_secret("wild", &identity.certificate_file, &identity.key_file).unwrap(),
        tls_secret("gateway", &client.certificate_file, &client.key_file).unwrap(),
        tls_route("inside", ("inside", "end"), &["*.wild.test"], &[("secure", port, 1)]),
        service("secure", "TCP", port),
        slice("secure", "TCP", port, &ready(&[address::POD_1])),
        config_map("roots", &authority.file()).unwrap(),
        policy,
    ];
    bed.manifests.write("inside.yaml", &documents).unwrap();
}

/// What the backend says of the TLS that it sees.
fn seen(bed: &TlsBed, target: SocketAddr) -> std::io::Result<String> {
    bed.world
        .client
        .block_on(|| async move { Connection::open(target, "a.wild.test", &bed.client).await?.ask("tls").await })
}

fn refused(agent: &Agent) -> f64 {
    agent.metric("sluice_proxy_refused_total", &["backend_silent"]).unwrap()
}

#[test]
fn what_was_inside_goes_on_by_tls_to_whom_the_policy_names() {
    let bed = TlsBed::new();
    publish(&bed, SERVER, "pod-1.test", &Trust::These(&bed.authority), None);
    let agent = bed.agent();
    for target in on_gateway(PORT) {
        assert!(seen(&bed, target).unwrap().starts_with("sni=pod-1.test version=TLSv1_3 alpn=-"));
        bed.world.client.block_on(|| super::faults::exchange(target, "a.wild.test", &bed.client, 3_000_000)).unwrap();
        // It is TLS on both sides, with a certificate of its own on each.
        let (target, ca) = (target.to_string(), bed.ca());
        let arguments = ["s_client", "-connect", &target, "-servername", "a.wild.test", "-CAfile", &ca, "-quiet"];
        let more = ["-verify_return_error", "-verify_hostname", "a.wild.test"];
        let arguments: Vec<&str> = arguments.into_iter().chain(more).collect();
        let answer = run(&bed.world.client, "openssl", &arguments, "GET /tls HTTP/1.0\r\n\r\n").unwrap();
        assert!(answer.contains("sni=pod-1.test"), "{answer}");
    }
    assert_eq!(refused(&agent), 0.0);
    // Somebody else than the backend is, and signed by somebody else.
    let others = Authority::new().unwrap();
    for (hostname, authority) in [("remote.test", &bed.authority), ("pod-1.test", &others)] {
        publish(&bed, SERVER, hostname, &Trust::These(authority), None);
        let before = refused(&agent);
        let broken = || seen(&bed, on_gateway(PORT)[0]).is_err_and(|error| error.kind() == ErrorKind::ConnectionReset);
        eventually("connections to be refused", broken);
        assert!(refused(&agent) > before);
        let status = agent.sluice("status").unwrap();
        assert!(status.contains("inside"), "{status}");
    }
    // Nobody to trust: nothing is sent, as the policy's status says.
    let gone = std::fs::read_to_string(bed.manifests.path().join("inside.yaml")).unwrap();
    bed.manifests.replace("inside.yaml", &gone.replace("name: roots, namespace", "name: others, namespace")).unwrap();
    let invalid = || agent.metric("sluice_proxy_refused_total", &["invalid_backend"]).unwrap();
    eventually("the share to be refused", || seen(&bed, on_gateway(PORT)[0]).is_err() && invalid() > 0.0);
}

/// openssl as a backend that wants a certificate of its clients, and tells what it saw as a web page.
fn strict_server(bed: &TlsBed) -> Process {
    let identity = bed.identity("pod-1");
    let mut command = bed.node("pod-1").command("openssl");
    command.args(["s_server", "-4", "-port", &OWN.to_string(), "-www", "-Verify", "1", "-verify_return_error"]);
    command
        .args(["-CAfile", &bed.ca()])
        .arg("-cert")
        .arg(&identity.certificate_file)
        .arg("-key")
        .arg(&identity.key_file);
    let server = bed.node("pod-1").spawn("openssl s_server", command).unwrap();
    ready_when(&server, "ACCEPT");
    server
}

#[test]
fn the_gateway_shows_its_certificate_to_backends_that_want_one() {
    let bed = TlsBed::new();
    let _server = strict_server(&bed);
    let page = || {
        let (target, ca) = (on_gateway(PORT)[0], bed.ca());
        let connect = format!("::{target}");
        let arguments = ["-sS", "--max-time", "10", "--cacert", &ca, "--connect-to", &connect, "https://a.wild.test/"];
        run(&bed.world.client, "curl", &arguments, "")
    };
    publish(&bed, OWN, "pod-1.test", &Trust::These(&bed.authority), Some("gateway"));
    let _agent = bed.agent();
    let told = page().unwrap();
    assert!(told.contains("Client certificate") && told.contains("CN=gateway"), "{told}");
    publish(&bed, OWN, "pod-1.test", &Trust::These(&bed.authority), None);
    eventually("a Gateway that shows nothing to be refused", || page().is_err());
    // One that is to show something and has nothing sends nothing.
    publish(&bed, OWN, "pod-1.test", &Trust::These(&bed.authority), Some("gone"));
    assert!(page().is_err());
}

#[test]
fn the_roots_of_the_system_are_what_its_environment_says() {
    let bed = TlsBed::new();
    publish(&bed, SERVER, "pod-1.test", &Trust::System, None);
    let others = Authority::new().unwrap();
    // As `openssl rehash` names them.
    let directory = bed.authority.directory().join("roots");
    std::fs::create_dir(&directory).unwrap();
    std::fs::copy(bed.authority.file(), directory.join("0a1b2c3d.0")).unwrap();
    for (variable, value, trusts) in [
        ("SSL_CERT_FILE", bed.authority.file(), true),
        ("SSL_CERT_DIR", directory, true),
        ("SSL_CERT_FILE", others.file(), false),
    ] {
        let gateway = &bed.world.gateway;
        let agent = Agent::start_in(gateway, bed.manifests.path(), &[], &[(variable, value.as_os_str())]).unwrap();
        let seen = seen(&bed, on_gateway(PORT)[0]);
        assert_eq!(seen.is_ok(), trusts, "{variable} {}: {seen:?}", value.display());
        assert_eq!(refused(&agent) > 0.0, !trusts);
        drop(agent);
    }
}
