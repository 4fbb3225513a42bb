//! What cert-manager expects of a Gateway: that a challenge is answered as soon as its route is there, also while the listener that
//! the certificate is for has none; and that the Secret that it writes is shown at once.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use gateway_tests::tls::{Authority, Connection, Identity};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::bed::Bed;

const MANIFESTS: &str = include_str!("certificates.yaml");
/// Of its own: no other Gateway is given it.
const ADDRESS: [u8; 4] = [198, 18, 8, 203];
const NAME: &str = "shop.example";
/// cert-manager gives each challenge another.
const TOKEN: &str = "LoqXcYV8q5ONbJQxbmR7SCTNo3tiAXDfowyjxAjEuX0";
/// From the answer of the API server on; what kubectl takes after that is in it too.
const AT_ONCE: Duration = Duration::from_secs(1);

/// As cert-manager's solver `gatewayHTTPRoute` makes it: an exact path, one hostname, one Service.
fn challenge() -> String {
    format!(
        "apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata:
  name: cm-acme-http-solver-x7k2q
  labels: {{acme.cert-manager.io/http01-solver: 'true'}}
spec:
  parentRefs: [{{group: gateway.networking.k8s.io, kind: Gateway, name: shop}}]
  hostnames: [{NAME}]
  rules:
  - matches: [{{path: {{type: Exact, value: /.well-known/acme-challenge/{TOKEN}}}}}]
    backendRefs: [{{group: '', kind: Service, name: solver, port: 8089, weight: 1}}]
"
    )
}

fn secret(identity: &Identity) -> Result<String> {
    let indented = |path| -> Result<String> {
        Ok(std::fs::read_to_string(path)?.lines().map(|line| format!("    {line}\n")).collect())
    };
    let (chain, key) = (indented(&identity.certificate_file)?, indented(&identity.key_file)?);
    Ok(format!(
        "apiVersion: v1\nkind: Secret\nmetadata: {{name: shop}}\ntype: kubernetes.io/tls\nstringData:\n  tls.crt: |\n{chain}  tls.key: |\n{key}"
    ))
}

/// Status and body.
fn get(bed: &Bed, path: &str) -> Result<(u16, String)> {
    let host = format!("{NAME}:80:{}", std::net::IpAddr::from(ADDRESS));
    let url = format!("http://{NAME}{path}");
    let words =
        ["--silent", "--show-error", "--max-time", "2", "--resolve", &host, "--write-out", "\n%{http_code}", &url];
    let said = bed.cluster.control().run("curl".as_ref(), &words)?;
    let (body, status) = said.rsplit_once('\n').context("curl says no status")?;
    Ok((status.parse()?, body.to_owned()))
}

#[test]
fn a_challenge_is_answered_within_a_second_while_its_listener_has_no_certificate() {
    let bed = Bed::new();
    let namespace = "challenge";
    let _applied = bed.apply(namespace, MANIFESTS);
    bed.wait_for_pods(namespace, "solver");
    let path = format!("/.well-known/acme-challenge/{TOKEN}");
    bed.wait_for("everything to be sent to HTTPS", || {
        let (status, _) = get(&bed, &path)?;
        ensure!(status == 301, "{status}");
        Ok(())
    });

    bed.kubectl_with(&format!("apply -n {namespace} -f -"), &challenge()).unwrap();
    let (applied, mut answer) = (Instant::now(), (0, String::new()));
    while answer.0 != 200 {
        assert!(applied.elapsed() < AT_ONCE, "after {:?}: {answer:?}", applied.elapsed());
        answer = get(&bed, &path).unwrap();
    }
    assert!(answer.1.contains(&path), "{answer:?}");
    assert_eq!(get(&bed, "/.well-known/acme-challenge/other").unwrap().0, 301, "only that path");

    bed.kubectl(&format!("delete httproute cm-acme-http-solver-x7k2q -n {namespace}")).unwrap();
    bed.wait_for("the challenge to end", || {
        let (status, _) = get(&bed, &path)?;
        ensure!(status == 301, "{status}");
        Ok(())
    });
}

#[test]
fn a_secret_that_is_written_anew_is_shown_within_a_second_and_breaks_no_connection() {
    let bed = Bed::new();
    let namespace = "renewal";
    let _applied = bed.apply(namespace, MANIFESTS);
    let authority = Authority::new().unwrap();
    bed.cluster.control().network().unwrap().block_on(|| renew(&bed, namespace, &authority));
}

/// Whose connections stay, and who comes anew each time.
async fn renew(bed: &Bed, namespace: &str, authority: &Authority) {
    let client = Arc::new(authority.client().unwrap());
    let at = SocketAddr::from((ADDRESS, 443));
    let mut kept = Vec::new();
    for round in 0..3 {
        let identity = authority.identity(&format!("shop-{round}"), &[NAME]).unwrap();
        bed.kubectl_with(&format!("apply -n {namespace} -f -"), &secret(&identity).unwrap()).unwrap();
        let applied = Instant::now();
        // The first time the Gateway may be new too.
        let patience = if round == 0 { Duration::from_secs(30) } else { AT_ONCE };
        let connection = loop {
            assert!(applied.elapsed() < patience, "round {round}: not shown after {:?}", applied.elapsed());
            match Connection::open(at, NAME, &client).await {
                Ok(connection) if connection.certificate() == identity.der() => break connection,
                Ok(_) => {}
                Err(_) if round == 0 => {}
                // In between nobody is refused.
                Err(error) => panic!("round {round}, after {:?}: {error}", applied.elapsed()),
            }
        };
        kept.push(connection.into_stream());
        // All connections that were ever opened go on.
        for stream in &mut kept {
            stream.write_all(format!("GET / HTTP/1.1\r\nHost: {NAME}\r\n\r\n").as_bytes()).await.unwrap();
            let mut head = vec![0; 4096];
            let length = stream.read(&mut head).await.unwrap();
            let head = String::from_utf8_lossy(&head[..length]);
            assert!(head.starts_with("HTTP/1.1 404 "), "round {round}: {head:?}");
        }
    }
}
