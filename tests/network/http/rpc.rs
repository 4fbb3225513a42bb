//! gRPC's own interoperability tests through the gateway, by Go's server, and by the clients of Go and of the C core.

use gateway_tests::web::Web;

use super::{go, http, https};
use crate::tls::run;

/// Those that need nothing of the server but what it always does.
const TESTS: &[&str] = &[
    "empty_unary",
    "large_unary",
    "client_streaming",
    "server_streaming",
    "ping_pong",
    "empty_stream",
    "timeout_on_sleeping_server",
    "cancel_after_begin",
    "cancel_after_first_response",
    "custom_metadata",
    "status_code_and_message",
    "special_status_message",
    "unimplemented_method",
];

fn call(web: &Web, target: std::net::SocketAddr, secure: bool, name: &str, more: &[&str]) -> Result<String, String> {
    let (address, ca) = (target.to_string(), web.ca());
    let mut arguments = vec!["rpc", "-address", &address, "-name", name];
    if secure {
        arguments.extend(["-ca", &ca]);
    }
    arguments.extend(more);
    go(web, &arguments)
}

#[test]
fn every_kind_of_call_passes() {
    let web = Web::new().unwrap();
    let _agent = web.agent().unwrap();
    for (target, secure, more) in
        [(http()[0], false, &[][..]), (http()[1], false, &["-compressed"]), (https()[0], true, &[])]
    {
        let said = call(&web, target, secure, "rpc.test", &[more, TESTS].concat()).unwrap();
        assert_eq!(said.matches(" passed\n").count(), TESTS.len(), "at {target}: {said}");
    }
}

/// Most clients that are not Go's or Java's are this one, with a HTTP/2 of its own.
#[test]
fn calls_of_the_c_core_pass() {
    let web = Web::new().unwrap();
    let _agent = web.agent().unwrap();
    let tests = env!("CARGO_MANIFEST_DIR");
    let packages = format!("PYTHONPATH={tests}/../target/clients/grpcio");
    let script = format!("{tests}/clients/rpc.py");
    for (target, authority) in [(http()[0], "-".to_owned()), (http()[1], "-".to_owned()), (https()[0], web.ca())] {
        let arguments = [&packages, "python3", &script, &target.to_string(), "rpc.test", &authority];
        let said = run(&web.world.client, "env", &arguments, "").unwrap();
        assert_eq!(said.matches(" passed\n").count(), 5, "at {target}: {said}");
    }
}

#[test]
fn calls_go_by_their_metadata() {
    let web = Web::new().unwrap();
    let _agent = web.agent().unwrap();
    assert!(call(&web, http()[0], false, "rpc.test", &["who"]).unwrap().contains("[pod-1]"));
    assert!(call(&web, http()[0], false, "rpc.test", &["-header", "beta", "who"]).unwrap().contains("[pod-2]"));
}

/// A call that no route takes is answered in gRPC's own way; clients make the same code of an answer of HTTP with 404, but say so.
#[test]
fn a_call_to_nobody_is_unimplemented() {
    let web = Web::new().unwrap();
    let _agent = web.agent().unwrap();
    let said = call(&web, http()[0], false, "nobody.test", &["code"]).unwrap();
    assert!(said.contains("Unimplemented") && !said.contains("HTTP status"), "{said}");
}
