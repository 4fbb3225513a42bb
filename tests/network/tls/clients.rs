//! Clients as people use them, each with its own ClientHello.

use std::net::{IpAddr, SocketAddr};

use gateway_tests::lab::address;

use super::{OWN, Path, SERVER, TlsBed, everywhere, go_program, go_server, run};

/// What the server saw of the client's handshake, asked with HTTP.
pub fn openssl(bed: &TlsBed, path: Path, more: &[&str]) -> Result<String, String> {
    let (target, name, ca) = (path.target.to_string(), path.name(""), bed.ca());
    let mut arguments = vec!["s_client", "-connect", &target, "-servername", &name, "-CAfile", &ca];
    arguments.extend(["-verify_return_error", "-verify_hostname", &name, "-quiet"]);
    arguments.extend(more);
    run(&bed.world.client, "openssl", &arguments, "GET /tls HTTP/1.0\r\n\r\n")
}

pub fn curl(bed: &TlsBed, path: Path, name: &str, more: &[&str]) -> Result<String, String> {
    let (ca, port) = (bed.ca(), path.target.port());
    let resolve = format!("{name}:{port}:{}", bracketed(path.target.ip()));
    let url = format!("https://{name}:{port}/");
    let mut arguments = vec!["-sS", "--fail", "--max-time", "10", "--cacert", &ca, "--resolve", &resolve, &url];
    arguments.extend(more);
    run(&bed.world.client, "curl", &arguments, "")
}

fn bracketed(address: IpAddr) -> String {
    match address {
        IpAddr::V4(address) => address.to_string(),
        IpAddr::V6(address) => format!("[{address}]"),
    }
}

/// Whom a server must see: the client if it is on the node or if nobody is between, else the node.
fn assert_seen(path: Path, answer: &str) {
    let [client, node] = [address::CLIENT, address::NODE_INSIDE].map(|of| of[usize::from(path.target.is_ipv6())]);
    let wanted = if path.site == "remote" && !path.direct { node } else { client };
    let seen = answer.split_whitespace().find_map(|word| word.parse::<SocketAddr>().ok());
    assert_eq!(seen.map(|seen| seen.ip()), Some(wanted), "{path:?}: {answer}");
    assert!(answer.starts_with(path.site), "{path:?}: {answer}");
}

#[test]
fn curl_with_http_1() {
    everywhere(&TlsBed::new(), SERVER, |bed, path| {
        for version in ["1.2", "1.3"] {
            let answer = curl(bed, path, &path.name(""), &["--http1.1", "--tls-max", version]).unwrap();
            assert_seen(path, &answer);
        }
    });
}

#[test]
fn curl_with_http_2() {
    let bed = TlsBed::new();
    let _servers = ["pod-1", "remote"].map(|site| go_server(&bed, site, &[]));
    everywhere(&bed, OWN, |bed, path| {
        let answer = curl(bed, path, &path.name("own-"), &["--http2"]).unwrap();
        assert_seen(path, &answer);
        assert!(answer.contains("HTTP/2.0"), "{path:?}: {answer}");
    });
}

#[test]
fn openssl_of_both_versions() {
    everywhere(&TlsBed::new(), SERVER, |bed, path| {
        for (version, wanted) in [("-tls1_2", "version=TLSv1_2"), ("-tls1_3", "version=TLSv1_3")] {
            let answer = openssl(bed, path, &[version]).unwrap();
            assert!(answer.contains(wanted) && answer.contains(&path.name("")), "{path:?}: {answer}");
        }
    });
}

#[test]
fn python() {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/clients/ask.py");
    everywhere(&TlsBed::new(), SERVER, |bed, path| {
        let (address, port) = (path.target.ip().to_string(), path.target.port().to_string());
        let (name, ca) = (path.name(""), bed.ca());
        for version in ["TLSv1_2", "TLSv1_3"] {
            let arguments = [script, &address, &port, &name, &ca, "/tls", "--version", version];
            let answer = run(&bed.world.client, "python3", &arguments, "").unwrap();
            assert!(answer.contains(&format!("sni={name} version={version}")), "{path:?}: {answer}");
        }
    });
}

#[test]
fn go_with_its_post_quantum_hello() {
    let bed = TlsBed::new();
    let _servers = ["pod-1", "remote"].map(|site| go_server(&bed, site, &[]));
    everywhere(&bed, OWN, |bed, path| {
        let answer = go(bed, path, "own-", &["-line", "GET / HTTP/1.0\r\n\r\n"]).unwrap();
        // Both ends are Go's, so they agree on the hybrid, whose share is what makes the hello long.
        assert!(answer.contains("TLS 1.3 group=X25519MLKEM768") && answer.contains("200 OK"), "{path:?}: {answer}");
    });
}

fn go(bed: &TlsBed, path: Path, prefix: &str, more: &[&str]) -> Result<String, String> {
    let (target, name, ca) = (path.target.to_string(), path.name(prefix), bed.ca());
    let mut arguments = vec!["ask", "-address", &target, "-name", &name, "-ca", &ca];
    arguments.extend(more);
    run(&bed.world.client, go_program(), &arguments, "")
}

#[test]
fn versions_that_nobody_should_use() {
    let bed = TlsBed::new();
    let _servers = ["pod-1", "remote"].map(|site| go_server(&bed, site, &["-min", "1.0"]));
    everywhere(&bed, OWN, |bed, path| {
        for version in ["1.0", "1.1"] {
            let line = ["-line", "GET / HTTP/1.0\r\n\r\n", "-min", version, "-max", version];
            let answer = go(bed, path, "own-", &line).unwrap();
            assert!(answer.contains(&format!("TLS {version}")) && answer.contains("200 OK"), "{path:?}: {answer}");
        }
    });
}

/// The name outside leads to the server; the one inside is nobody's business.
#[test]
fn encrypted_hello_goes_by_its_outer_name() {
    let bed = TlsBed::new();
    let config = |site: &str| bed.authority.directory().join(format!("{site}.ech")).display().to_string();
    let _servers = ["pod-1", "remote"]
        .map(|site| go_server(&bed, site, &["-ech", &config(site), "-outer", &format!("own-{site}.test")]));
    everywhere(&bed, OWN, |bed, path| {
        let (target, ca, config) = (path.target.to_string(), bed.ca(), config(path.site));
        // Alone this name would lead to another port.
        let arguments = ["ask", "-address", &target, "-name", "canary.test", "-ca", &ca, "-ech", &config];
        let line = ["-line", "GET / HTTP/1.0\r\n\r\n"];
        let answer = run(&bed.world.client, go_program(), &[&arguments[..], &line].concat(), "").unwrap();
        assert!(answer.contains("ech=true") && answer.contains("200 OK"), "{path:?}: {answer}");
    });
}

#[test]
fn sessions_are_resumed() {
    everywhere(&TlsBed::new(), SERVER, |bed, path| {
        for version in ["1.2", "1.3"] {
            let line = ["-line", "tls", "-times", "3", "-min", version, "-max", version];
            let answer = go(bed, path, "", &line).unwrap();
            let resumed: Vec<bool> = answer.lines().map(|line| line.contains("resumed=yes")).collect();
            assert_eq!(resumed, [false, true, true], "{path:?}: {answer}");
        }
    });
}

#[test]
fn early_data_arrives_with_the_hello() {
    let bed = TlsBed::new();
    let server = |site, family| {
        let identity = bed.identity(site);
        let mut command = bed.node(site).command("sh");
        // It ends with its input, so that has to be something without an end.
        let pipe = bed.authority.directory().join(format!("{site}{family}"));
        let (pipe, certificate, key) =
            (pipe.display(), identity.certificate_file.display(), identity.key_file.display());
        command.arg("-c").arg(format!(
            "mkfifo {pipe} && exec openssl s_server {family} -port {OWN} -early_data -no_anti_replay \
             -cert {certificate} -key {key} 0<>{pipe}"
        ));
        let server = bed.node(site).spawn("openssl s_server", command).unwrap();
        super::ready_when(&server, "ACCEPT");
        server
    };
    let servers = ["pod-1", "remote"].map(|site| ["-4", "-6"].map(|family| server(site, family)));
    everywhere(&bed, OWN, |bed, path| {
        let (target, name, ca) = (path.target.to_string(), path.name("own-"), bed.ca());
        let session = bed.authority.directory().join("session").display().to_string();
        let early = bed.authority.directory().join("early").display().to_string();
        let said = format!("early greetings to {target}\n");
        std::fs::write(&early, &said).unwrap();
        let arguments = ["s_client", "-connect", &target, "-servername", &name, "-CAfile", &ca];
        let client = |more: &[&str]| {
            // Long enough for the session ticket, which comes behind the handshake.
            let line = format!("(sleep 0.3; echo Q) | openssl {} {}", arguments.join(" "), more.join(" "));
            run(&bed.world.client, "sh", &["-c", &line], "").unwrap()
        };
        client(&["-sess_out", &session]);
        let answer = client(&["-sess_in", &session, "-early_data", &early]);
        assert!(answer.contains("Early data was accepted"), "{path:?}: {answer}");
        let server = &servers[usize::from(path.site == "remote")][usize::from(path.target.is_ipv6())];
        assert!(server.log().contains(&said), "{path:?}: {}", server.log());
    });
}

/// A browser, which shuffles its extensions, sends GREASE and a post-quantum share, and opens more connections than one.
#[test]
#[ignore = "needs chromium-headless-shell, which `cargo xtask test network` looks for"]
fn chromium() {
    let bed = TlsBed::new();
    let _servers = ["pod-1", "remote"].map(|site| go_server(&bed, site, &[]));
    everywhere(&bed, OWN, |bed, path| {
        let profile = tempfile::tempdir().unwrap();
        let rules = format!("--host-resolver-rules=MAP * {}", path.target);
        let profile = format!("--user-data-dir={}", profile.path().display());
        let key = format!("--ignore-certificate-errors-spki-list={}", bed.identity(path.site).spki_hash());
        let url = format!("https://{}/", path.name("own-"));
        let arguments = [
            "--no-sandbox",
            "--headless",
            "--disable-gpu",
            "--timeout=10000",
            "--dump-dom",
            &rules,
            &profile,
            &key,
            &url,
        ];
        let page = run(&bed.world.client, "chromium-headless-shell", &arguments, "").unwrap();
        assert!(page.contains(&format!("{} HTTP/2.0 TLS 1.3", path.site)), "{path:?}: {page}");
    });
}
