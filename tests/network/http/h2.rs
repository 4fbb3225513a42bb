//! HTTP/2 by nghttp2's own tools.

use gateway_tests::web::{SHOP, Web};

use super::{http, https};
use crate::tls::run;

#[test]
fn a_thousand_requests_go_over_a_hundred_streams() {
    let web = Web::new().unwrap();
    let _agent = web.agent().unwrap();
    for (scheme, target, path) in
        [("https", https()[0], "/both"), ("http", http()[0], "/both"), ("https", https()[1], "/h2/x")]
    {
        // Its server name would be the address, so that it sends none: a matter of the listener without a hostname.
        let (url, authority) = (format!("{scheme}://{target}{path}"), format!(":authority: {SHOP}"));
        let arguments = ["-n", "1000", "-c", "4", "-m", "100", "-H", &authority, &url];
        let said = run(&web.world.client, "h2load", &arguments, "").unwrap();
        assert!(said.contains("1000 succeeded, 0 failed, 0 errored, 0 timeout"), "{url}: {said}");
        assert!(said.contains("1000 2xx, 0 3xx, 0 4xx, 0 5xx"), "{url}: {said}");
    }
}

#[test]
fn nghttp_gets_bodies_larger_than_its_window() {
    let web = Web::new().unwrap();
    let _agent = web.agent().unwrap();
    let (url, authority) = (format!("https://{}/bytes?count=3000000", https()[0]), format!(":authority: {SHOP}"));
    let arguments = ["-n", "-s", "-w", "16", "-W", "16", "-m", "5", "-H", &authority, &url];
    let said = run(&web.world.client, "nghttp", &arguments, "").unwrap();
    // The statistics have a line a request: status, size, path.
    let answers: Vec<&str> =
        said.lines().filter(|line| line.contains("/bytes?count=3000000") && line.contains(" 200 ")).collect();
    assert!(answers.len() == 5 && answers.iter().all(|line| line.contains("2M")), "{said}");
}
