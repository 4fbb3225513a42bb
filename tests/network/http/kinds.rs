//! What routes can say, seen by curl: by header, by weight, redirects, CORS.

use gateway_tests::web::{SHOP, Web};

use super::{curl, http, https};
use crate::bed::assert_share;

#[test]
fn a_header_leads_elsewhere() {
    let web = Web::new().unwrap();
    let _agent = web.agent().unwrap();
    let said = |more: &[&str]| curl(&web, http()[0], &format!("http://{SHOP}/"), more).unwrap();
    assert!(said(&[]).starts_with("pod-1 "));
    assert!(said(&["-H", "x-kind: beta"]).starts_with("pod-2 "));
    assert!(said(&["-H", "x-kind: alpha"]).starts_with("pod-1 "));
}

#[test]
fn weights_divide_requests() {
    const REQUESTS: usize = 1_000;
    let web = Web::new().unwrap();
    let _agent = web.agent().unwrap();
    let said = curl(&web, http()[0], &format!("http://{SHOP}/canary/[1-{REQUESTS}]"), &["--fail"]).unwrap();
    let of = |name: &str| said.lines().filter(|line| line.starts_with(name)).count();
    let (stable, canary) = (of("pod-1 "), of("remote "));
    assert_eq!(stable + canary, REQUESTS);
    assert_share("the canary", canary, REQUESTS, 0.1);
}

#[test]
fn a_redirect_is_answered_by_the_gateway() {
    let web = Web::new().unwrap();
    let _agent = web.agent().unwrap();
    let arguments = ["-o", "/dev/null", "-w", "%{http_code} %{redirect_url}"];
    let said = curl(&web, http()[0], &format!("http://{SHOP}/old"), &arguments).unwrap();
    assert_eq!(said, format!("301 https://{SHOP}/new"));
}

#[test]
fn nobody_serves_other_hosts() {
    let web = Web::new().unwrap();
    let _agent = web.agent().unwrap();
    for (target, url) in [(http()[0], "http://nobody.test/"), (http()[1], "http://shop.test.evil/")] {
        assert_eq!(curl(&web, target, url, &["-o", "/dev/null", "-w", "%{http_code}"]).unwrap(), "404", "{url}");
    }
}

#[test]
fn a_preflight_is_answered_by_the_gateway() {
    let web = Web::new().unwrap();
    let _agent = web.agent().unwrap();
    let preflight = |origin: &str| {
        let origin = format!("Origin: {origin}");
        let arguments = [
            "-X",
            "OPTIONS",
            "-H",
            &origin,
            "-H",
            "Access-Control-Request-Method: PUT",
            "-H",
            "Access-Control-Request-Headers: x-own",
            "-D",
            "-",
        ];
        curl(&web, https()[0], "https://cors.test/", &arguments).unwrap().to_lowercase()
    };
    let said = preflight("https://shop.test");
    assert!(said.contains("access-control-allow-origin: https://shop.test"), "{said}");
    assert!(
        said.contains("access-control-allow-methods: put") && said.contains("access-control-max-age: 60"),
        "{said}"
    );
    assert!(!said.contains("pod-2"), "the backend was asked: {said}");
    assert!(!preflight("https://evil.test").contains("access-control-allow-origin"));
}
