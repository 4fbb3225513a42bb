//! Clients that show certificates: `tls.frontend` of a Gateway, with openssl and curl.

use std::net::SocketAddr;

use gateway_tests::lab::{address, config_map};
use gateway_tests::tls::{Authority, Identity};
use gateway_tests::web::{SHOP, Web};

use super::curl;
use crate::tls::run;

/// Only valid certificates, and any or none.
const STRICT: u16 = 443;
const LENIENT: u16 = 444;

#[test]
fn only_clients_with_a_certificate_of_the_authority_come_in() {
    let web = Web::new().unwrap();
    publish(&web);
    let _agent = web.agent().unwrap();
    let known = web.authority.client_identity("known").unwrap();
    let others = Authority::new().unwrap();
    let unknown = others.client_identity("unknown").unwrap();
    let [v4, v6] = address::GATEWAY_2;
    for address in [v4, v6] {
        let (strict, lenient) = (SocketAddr::new(address, STRICT), SocketAddr::new(address, LENIENT));
        for version in ["1.2", "1.3"] {
            let with = |target, shown: Option<&Identity>| by_curl(&web, target, version, shown);
            assert!(with(strict, Some(&known)).unwrap().starts_with("pod-1 "), "{strict}, TLS {version}");
            for stranger in [None, Some(&unknown)] {
                let refused = with(strict, stranger).unwrap_err();
                assert!(refused.contains("alert"), "{strict}, TLS {version}: {refused}");
                assert!(with(lenient, stranger).unwrap().starts_with("pod-1 "), "{lenient}, TLS {version}");
            }
        }
        assert!(by_openssl(&web, strict, Some(&known)).unwrap().contains("200 OK"));
        let refused = by_openssl(&web, strict, None);
        assert!(!refused.clone().unwrap_or_default().contains("200 OK"), "{refused:?}");
    }
}

fn publish(web: &Web) {
    let [v4, v6] = address::GATEWAY_2;
    let listener = |name: &str, port: u16| {
        format!("  - {{name: {name}, protocol: HTTPS, port: {port}, tls: {{certificateRefs: [{{name: shop}}]}}}}\n")
    };
    let gateway = format!(
        "apiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\nmetadata: {{name: checked, namespace: default}}\nspec:\n  \
         gatewayClassName: sluice\n  addresses:\n  - {{type: IPAddress, value: '{v4}'}}\n  - {{type: IPAddress, value: '{v6}'}}\n  \
         tls:\n    frontend:\n      default:\n        validation:\n          \
         caCertificateRefs: [{{group: '', kind: ConfigMap, name: clients}}]\n      perPort:\n      - port: {LENIENT}\n        tls:\n          \
         validation:\n            caCertificateRefs: [{{group: '', kind: ConfigMap, name: clients}}]\n            mode: AllowInsecureFallback\n  \
         listeners:\n{}{}",
        listener("strict", STRICT),
        listener("lenient", LENIENT)
    );
    let authorities = config_map("clients", &web.authority.file()).unwrap();
    let route = "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {name: checked, namespace: default}\nspec:\n  \
                 parentRefs: [{name: checked}]\n  rules:\n  - backendRefs: [{name: pod-1, port: 8080}]\n";
    web.manifests.write("checked.yaml", &[gateway, authorities, route.to_owned()]).unwrap();
}

fn by_curl(web: &Web, target: SocketAddr, version: &str, shown: Option<&Identity>) -> Result<String, String> {
    let files = shown.map(|shown| [shown.certificate_file.display().to_string(), shown.key_file.display().to_string()]);
    let exactly = format!("--tlsv{version}");
    let mut more = vec![exactly.as_str(), "--tls-max", version];
    if let Some([certificate, key]) = &files {
        more.extend(["--cert", certificate, "--key", key]);
    }
    curl(web, target, &format!("https://{SHOP}/"), &more)
}

fn by_openssl(web: &Web, target: SocketAddr, shown: Option<&Identity>) -> Result<String, String> {
    let files = shown.map(|shown| [shown.certificate_file.display().to_string(), shown.key_file.display().to_string()]);
    let (target, ca) = (target.to_string(), web.ca());
    let mut arguments =
        vec!["s_client", "-connect", &target, "-servername", SHOP, "-CAfile", &ca, "-verify_return_error", "-quiet"];
    if let Some([certificate, key]) = &files {
        arguments.extend(["-cert", certificate, "-key", key]);
    }
    run(&web.world.client, "openssl", &arguments, "GET / HTTP/1.1\r\nHost: shop.test\r\nConnection: close\r\n\r\n")
}
