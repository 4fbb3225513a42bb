//! Certificates of every kind, made and checked by openssl; and what clients try with TLS that they must not.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

use gateway_tests::client::PATIENCE;
use gateway_tests::lab::{address, tls_secret};
use gateway_tests::tls;
use gateway_tests::web::{SHOP, Web};

use super::{curl, file, https};
use crate::tls::run;

const PORT: u16 = 444;

/// A key of each kind, how openssl makes it, and what it signs a handshake with in TLS 1.3.
const KINDS: [(&str, &str, &str); 4] = [
    ("rsa", "-newkey rsa:2048", "rsa_pss_rsae_sha256"),
    ("p256", "-newkey ec -pkeyopt ec_paramgen_curve:P-256", "ecdsa_secp256r1_sha256"),
    ("p384", "-newkey ec -pkeyopt ec_paramgen_curve:P-384", "ecdsa_secp384r1_sha384"),
    ("ed25519", "-newkey ed25519", "ed25519"),
];

struct Authority<'w> {
    web: &'w Web,
}

impl Authority<'_> {
    fn path(&self, name: &str) -> PathBuf {
        file(self.web, name)
    }

    fn openssl(&self, line: &str) {
        let arguments: Vec<&str> = line.split_whitespace().collect();
        run(&self.web.world.client, "openssl", &arguments, "").unwrap();
    }

    /// `by`: who signs; none: itself.
    fn make(&self, name: &str, key: &str, by: Option<&str>, extensions: &str) {
        let [own_key, own, request] = ["key", "pem", "csr"].map(|end| self.path(&format!("kind-{name}.{end}")));
        let (own_key, own, request) = (own_key.display(), own.display(), request.display());
        match by {
            None => self.openssl(&format!(
                "req -x509 -nodes {key} -keyout {own_key} -out {own} -days 2 -subj /CN={name} {extensions}"
            )),
            Some(by) => {
                let by_key = self.path(&format!("kind-{by}.key"));
                let by_pem = self.path(&format!("kind-{by}.pem"));
                self.openssl(&format!(
                    "req -new -nodes {key} -keyout {own_key} -out {request} -subj /CN={name} {extensions}"
                ));
                self.openssl(&format!(
                    "x509 -req -in {request} -CA {} -CAkey {} -out {own} -days 2 -copy_extensions copyall",
                    by_pem.display(),
                    by_key.display()
                ));
            }
        }
    }
}

fn concatenate(files: &[&Path], to: &Path) {
    let texts: Vec<String> = files.iter().map(|path| std::fs::read_to_string(path).unwrap()).collect();
    std::fs::write(to, texts.concat()).unwrap();
}

#[test]
fn keys_of_every_kind_and_chains_are_shown_to_those_who_can_check_them() {
    let web = Web::new().unwrap();
    let authority = Authority { web: &web };
    let is_ca = "-addext basicConstraints=critical,CA:true";
    let curve = KINDS[1].1;
    authority.make("root", curve, None, "");
    authority.make("middle", curve, Some("root"), is_ca);
    let mut documents = Vec::new();
    for (kind, key, _) in KINDS {
        authority.make(kind, key, Some("middle"), &format!("-addext subjectAltName=DNS:{SHOP}"));
        let chain = authority.path(&format!("chain-{kind}.pem"));
        let own = authority.path(&format!("kind-{kind}.pem"));
        concatenate(&[&own, &authority.path("kind-middle.pem")], &chain);
        documents.push(tls_secret(kind, &chain, &authority.path(&format!("kind-{kind}.key"))).unwrap());
    }
    let [v4, _] = address::GATEWAY_2;
    let names: Vec<String> = KINDS.iter().map(|(kind, ..)| format!("{{name: {kind}}}")).collect();
    documents.push(format!(
        "apiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\nmetadata: {{name: kinds, namespace: default}}\nspec:\n  \
         gatewayClassName: sluice\n  addresses: [{{type: IPAddress, value: '{v4}'}}]\n  listeners:\n  \
         - {{name: all, protocol: HTTPS, port: {PORT}, tls: {{certificateRefs: [{}]}}}}\n",
        names.join(", ")
    ));
    documents.push(
        "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {name: kinds, namespace: default}\nspec:\n  \
         parentRefs: [{name: kinds}]\n  rules:\n  - backendRefs: [{name: pod-1, port: 8080}]\n"
            .to_owned(),
    );
    web.manifests.write("kinds.yaml", &documents).unwrap();
    let _agent = web.agent().unwrap();
    let (target, root) = (SocketAddr::new(v4, PORT).to_string(), authority.path("kind-root.pem").display().to_string());
    for (kind, _, signs) in KINDS {
        let arguments = [
            "s_client",
            "-connect",
            &target,
            "-servername",
            SHOP,
            "-CAfile",
            &root,
            "-verify_return_error",
            "-verify_hostname",
            SHOP,
            "-tls1_3",
            "-sigalgs",
            signs,
        ];
        let said = run(&web.world.client, "openssl", &arguments, "").unwrap();
        // Only with the one in the middle is there a way to the root.
        assert!(said.contains("Verify return code: 0 (ok)") || said.contains("Verification: OK"), "{kind}: {said}");
        assert!(said.contains(&format!("CN = {kind}")) || said.contains(&format!("CN={kind}")), "{kind}: {said}");
    }
    // TLS 1.2 with RSA alone.
    let arguments = ["s_client", "-connect", &target, "-servername", SHOP, "-CAfile", &root, "-verify_return_error"];
    let old = ["-tls1_2", "-cipher", "ECDHE-RSA-AES128-GCM-SHA256"];
    let said = run(&web.world.client, "openssl", &[&arguments[..], &old].concat(), "").unwrap();
    assert!(said.contains("ECDHE-RSA-AES128-GCM-SHA256"), "{said}");
}

fn still_serves(web: &Web) {
    let said = curl(web, https()[0], &format!("https://{SHOP}/"), &[]).unwrap();
    assert!(said.starts_with("pod-1 "), "{said}");
}

#[test]
fn a_client_cannot_negotiate_anew_and_sends_no_early_data() {
    let web = Web::new().unwrap();
    let _agent = web.agent().unwrap();
    let (target, ca) = (https()[0].to_string(), web.ca());
    let session = file(&web, "session").display().to_string();
    let early = file(&web, "early").display().to_string();
    std::fs::write(&early, "GET / HTTP/1.1\r\n").unwrap();
    let client = |more: &[&str], input: &str| {
        let arguments =
            ["-c", "exec timeout 5 \"$@\" 2>&1", "sh", "openssl", "s_client", "-connect", &target, "-servername", SHOP];
        let all = [&arguments[..], &["-CAfile", &ca], more].concat();
        match run(&web.world.client, "sh", &all, input) {
            Ok(said) | Err(said) => said,
        }
    };
    // A line with R: s_client begins a new handshake on the connection (TLS 1.2), and waits for an answer. rustls has one (no_renegotiation)
    // that goes out with the next answer, and closes for a second try.
    let said = client(&["-tls1_2"], "R\n");
    let (before, after) = said.split_once("RENEGOTIATING").unwrap_or_else(|| panic!("{said}"));
    assert!(before.contains("depth=0") && !after.contains("depth="), "no second handshake: {said}");
    still_serves(&web);
    let said = client(
        &["-tls1_3", "-sess_out", &session, "-ign_eof"],
        "GET / HTTP/1.1\r\nHost: shop.test\r\nConnection: close\r\n\r\n",
    );
    assert!(said.contains("200 OK"), "{said}");
    let said = client(&["-tls1_3", "-sess_in", &session, "-early_data", &early], "");
    assert!(said.contains("Reused, TLSv1.3") && said.contains("Early data was not sent"), "{said}");
}

#[test]
fn garbage_around_a_handshake_ends_the_connection_and_nothing_else() {
    let web = Web::new().unwrap();
    let agent = web.agent().unwrap();
    let client = std::sync::Arc::new(web.authority.client().unwrap());
    let hello = tls::hello(SHOP, &client);
    let send = |bytes: &[u8]| -> Vec<u8> {
        let stream = web.world.client.enter(|| TcpStream::connect_timeout(&https()[0], PATIENCE)).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        let (mut stream, mut all) = (stream, Vec::new());
        stream.write_all(bytes).unwrap();
        // A reset is an end too.
        if let Err(error) = stream.read_to_end(&mut all) {
            assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset, "{error}");
        }
        all
    };
    // Before it; a record of data, one of a type that is none, one that says to be larger than records are.
    let alert = send(&[&[0x16, 3, 1, 0, 5, 9, 0, 0, 1, 0][..], &hello].concat());
    assert_eq!(alert[..5], [21, 3, 3, 0, 2], "a TLS alert: {alert:?}");
    for garbage in [&[23, 3, 3, 0, 4, 1, 2, 3, 4][..], &[0x99; 64], &[22, 3, 3, 0xff, 0xff, 1, 2, 3]] {
        let answered = send(&[&hello, garbage].concat());
        // The server's own flight may have gone before.
        assert!(answered.is_empty() || matches!(answered[0], 21 | 22), "{answered:?}");
    }
    assert_eq!(agent.metric("sluice_proxy_refused_total", &["handshake_failed"]).unwrap(), 3.0);
    assert_eq!(agent.metric("sluice_proxy_refused_total", &["handshake_timeout"]).unwrap(), 0.0);
    still_serves(&web);
}
