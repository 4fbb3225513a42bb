//! Certificates in PEM files beside the manifests, as the programs that renew them leave them.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use gateway_tests::lab::eventually;
use gateway_tests::tls::{Connection, Identity};
use gateway_tests::web::{SHOP, Web};

use super::{curl, https};

const SECRET: &str = "\
apiVersion: v1
kind: Secret
metadata:
  name: shop
  namespace: default
  annotations: {sluice.dev/tls-crt-file: fullchain.pem, sluice.dev/tls-key-file: privkey.pem}
type: kubernetes.io/tls
";

/// How often the certificate is another.
const CHANGES: usize = 30;

fn put(web: &Web, name: &str, from: &Path) {
    let text = std::fs::read_to_string(from).unwrap();
    web.manifests.replace(name, &text).unwrap();
}

/// File by file, as certbot and acme.sh do.
fn put_both(web: &Web, identity: &Identity) {
    put(web, "fullchain.pem", &identity.certificate_file);
    put(web, "privkey.pem", &identity.key_file);
}

#[test]
fn files_that_are_replaced_rotate_the_certificate_and_fail_no_handshake() {
    let web = Web::new().unwrap();
    let identities = ["file-a", "file-b"].map(|file| web.authority.identity(file, &[SHOP, "cors.test"]).unwrap());
    put_both(&web, &identities[0]);
    let app = std::fs::read_to_string(web.manifests.path().join("secrets.yaml")).unwrap();
    let app = app.split("---\n").find(|document| document.contains("name: app")).unwrap();
    web.manifests.write("secrets.yaml", &[SECRET.to_owned(), app.to_owned()]).unwrap();
    let agent = web.agent().unwrap();
    let client = std::sync::Arc::new(web.authority.client().unwrap());
    let shown = || {
        let connection = web.world.client.block_on(|| Connection::open(https()[0], SHOP, &client));
        connection.map(|connection| connection.certificate())
    };
    let (stop, mut seen) = (AtomicBool::new(false), std::collections::BTreeSet::new());
    std::thread::scope(|scope| {
        let clients: Vec<_> = (0..3)
            .map(|_| {
                scope.spawn(|| {
                    let mut handshakes = 0;
                    while !stop.load(Ordering::Relaxed) {
                        shown().unwrap_or_else(|error| panic!("handshake {handshakes}: {error}"));
                        handshakes += 1;
                    }
                    handshakes
                })
            })
            .collect();
        for change in 1..=CHANGES {
            let before = shown().unwrap();
            put_both(&web, &identities[change % 2]);
            eventually("the new certificate to be shown", || shown().unwrap() != before);
            seen.insert(shown().unwrap());
        }
        stop.store(true, Ordering::Relaxed);
        let handshakes: usize = clients.into_iter().map(|client| client.join().unwrap()).sum();
        assert!(handshakes > CHANGES, "{handshakes}");
    });
    assert_eq!(seen.len(), 2);
    // Half a renewal: what was goes on, and status says what is wrong with which file.
    let before = shown().unwrap();
    put(&web, "fullchain.pem", &identities[1 - CHANGES % 2].certificate_file);
    let status = || agent.sluice("status").unwrap();
    let wrong = "privkey.pem does not belong to the first certificate in fullchain.pem";
    eventually("the problem to be told", || status().contains(wrong));
    let told = status();
    let line = told.lines().find(|line| line.contains(wrong)).unwrap();
    assert!(line.contains("Secret default/shop"), "{told}");
    assert_eq!(shown().unwrap(), before);
    let said = curl(&web, https()[0], "https://shop.test/", &[]).unwrap();
    assert!(said.starts_with("pod-1 "), "{said}");
}
