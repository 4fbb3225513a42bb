//! curl, openssl and WebSocket clients as people use them.

use gateway_tests::lab::address;
use gateway_tests::web::{APP, SHOP, Web};

use super::{curl, file, go, http, https};
use crate::tls::run;

/// `CURL PROTOCOL OF THE ANSWER` after the body.
const VERSION: [&str; 2] = ["-w", "over HTTP/%{http_version}\\n"];

#[test]
fn curl_speaks_every_version_of_http() {
    let web = Web::new().unwrap();
    let _agent = web.agent().unwrap();
    for (i, target) in http().into_iter().enumerate() {
        for (option, version) in [("--http1.0", "1.0"), ("--http1.1", "1.1"), ("--http2-prior-knowledge", "2")] {
            let said =
                curl(&web, target, &format!("http://{SHOP}/a?b=c"), &[&[option][..], &VERSION].concat()).unwrap();
            // The backend is spoken to in HTTP/1.1, whatever the client speaks.
            let wanted = format!("pod-1 HTTP/1.1 GET {SHOP} /a?b=c for={} proto=http\n", address::CLIENT[i]);
            assert!(said.starts_with(&wanted), "{option} at {target}: {said}, wanted {wanted}");
            // Servers answer HTTP/1.0 with their own version (RFC 9110 section 6.2), or with the client's.
            assert!(
                said.contains("over HTTP/") && (version == "1.0" || said.contains(&format!("over HTTP/{version}\n"))),
                "{said}"
            );
        }
    }
    for (i, target) in https().into_iter().enumerate() {
        for (option, version) in [("--http1.1", "1.1"), ("--http2", "2")] {
            let said = curl(&web, target, &format!("https://{SHOP}/a"), &[&[option][..], &VERSION].concat()).unwrap();
            let wanted =
                format!("pod-1 HTTP/1.1 GET {SHOP} /a for={} proto=https\nover HTTP/{version}\n", address::CLIENT[i]);
            assert_eq!(said, wanted, "{option} at {target}");
        }
    }
}

#[test]
fn every_name_has_its_certificate() {
    let web = Web::new().unwrap();
    let _agent = web.agent().unwrap();
    for target in https() {
        let at = target.to_string();
        for (name, subject) in [(SHOP, "CN = shop"), (APP, "CN = app")] {
            let ca = web.ca();
            let arguments = [
                "s_client",
                "-connect",
                &at,
                "-servername",
                name,
                "-CAfile",
                &ca,
                "-verify_return_error",
                "-verify_hostname",
                name,
                "-alpn",
                "h2,http/1.1",
            ];
            let said = run(&web.world.client, "openssl", &arguments, "").unwrap();
            assert!(said.contains(subject) && said.contains("ALPN protocol: h2"), "{name} at {target}: {said}");
        }
        let said = curl(&web, target, &format!("https://{APP}/"), &[]).unwrap();
        assert!(said.starts_with("remote "), "{said}");
    }
}

/// A connection for one certificate is not for the host of another (RFC 9110 section 7.4).
#[test]
fn a_host_of_another_listener_is_misdirected() {
    let web = Web::new().unwrap();
    let _agent = web.agent().unwrap();
    let host = format!("Host: {APP}");
    let said = curl(
        &web,
        https()[0],
        &format!("https://{SHOP}/"),
        &["--http1.1", "-H", &host, "-o", "/dev/null", "-w", "%{http_code}"],
    );
    assert_eq!(said.unwrap(), "421");
}

#[test]
fn bodies_come_whole_both_ways() {
    let web = Web::new().unwrap();
    let _agent = web.agent().unwrap();
    let sent = file(&web, "sent");
    let bytes: Vec<u8> =
        (0..5_000_000u32).flat_map(|i| (i.wrapping_mul(2_654_435_761)).to_be_bytes()).take(8_000_001).collect();
    std::fs::write(&sent, &bytes).unwrap();
    let upload = format!("@{}", sent.display());
    for (target, scheme, option) in [
        (http()[0], "http", "--http1.1"),
        (http()[1], "http", "--http2-prior-knowledge"),
        (https()[0], "https", "--http2"),
    ] {
        // HTTP/2 has no chunks.
        let in_chunks: &[&str] = if option == "--http1.1" { &["-H", "Transfer-Encoding: chunked"] } else { &[] };
        for (path, more) in [("/echo", &[][..]), ("/h2/echo", &[]), ("/echo", in_chunks)] {
            let got = file(&web, "got");
            let output = got.display().to_string();
            let url = format!("{scheme}://{SHOP}{path}");
            let arguments = [&[option, "--fail", "--data-binary", &upload, "-o", &output][..], more].concat();
            curl(&web, target, &url, &arguments).unwrap();
            assert!(std::fs::read(&got).unwrap() == bytes, "{option} {path} {more:?}: another body came back");
        }
    }
}

#[test]
fn a_websocket_carries_messages_of_every_size() {
    let web = Web::new().unwrap();
    let _agent = web.agent().unwrap();
    let ca = web.ca();
    web.name_addresses(&[SHOP, APP]).unwrap();
    for (url, name) in
        [("ws://shop.test/socket", "pod-1"), ("wss://shop.test/socket", "pod-1"), ("wss://app.test/socket", "remote")]
    {
        let said = go(&web, &["socket", "-url", url, "-ca", &ca]).unwrap();
        assert_eq!(said, format!("{name}: 14 messages came back as they were\n"), "{url}");
    }
}

#[test]
fn events_come_when_they_are_sent() {
    let web = Web::new().unwrap();
    let _agent = web.agent().unwrap();
    for (target, scheme, option) in [(http()[0], "http", "--http1.1"), (https()[0], "https", "--http2")] {
        // The second event comes two seconds after the first, and the end two seconds after that.
        let said =
            curl(&web, target, &format!("{scheme}://{SHOP}/events"), &[option, "-N", "--max-time", "1"]).unwrap_err();
        assert!(said.contains("data: 0\n") && !said.contains("data: 1"), "{option}: {said}");
    }
}

#[test]
fn trailers_reach_the_client() {
    let web = Web::new().unwrap();
    let _agent = web.agent().unwrap();
    // Of what has a Content-Length, as the answer of the HTTP/2 backend, curl reads no more by HTTP/2 than that.
    let by_http1 = (http()[0], "http", "--http1.1");
    let by_http2 = (https()[0], "https", "--http2");
    for (path, (target, scheme, option)) in
        [("/trailers", by_http1), ("/trailers", by_http2), ("/h2/trailers", by_http1)]
    {
        let url = format!("{scheme}://{SHOP}{path}");
        let said = curl(&web, target, &url, &[option, "-H", "TE: trailers", "-D", "-"]).unwrap();
        assert!(said.to_lowercase().contains("x-sum: 42"), "{option} {path}: {said}");
    }
}

#[test]
fn expect_100_continue_is_answered_before_the_body_is_sent() {
    let web = Web::new().unwrap();
    let _agent = web.agent().unwrap();
    let arguments = [
        "--http1.1",
        "-H",
        "Expect: 100-continue",
        "--expect100-timeout",
        "10",
        "--data-binary",
        "abc",
        "-v",
        "--stderr",
        "-",
    ];
    let said = curl(&web, http()[0], &format!("http://{SHOP}/echo"), &arguments).unwrap();
    assert!(said.contains("HTTP/1.1 100 Continue") && said.contains("\nabc"), "{said}");
}
