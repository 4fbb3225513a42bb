//! `sluice check`: verdicts, exit code and output.

use std::path::Path;
use std::process::ExitCode;

use gateway_agent::cli::check::{Outcome, Verdict, check, verdicts};
use gateway_agent::cli::output::Output;
use gateway_agent::source::files::load_dir;

fn case(name: &str) -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("compile/cases").join(name)
}

fn verdicts_of(name: &str) -> Vec<Verdict> {
    verdicts(&load_dir(&case(name)).expect("a case"))
}

fn of<'v>(verdicts: &'v [Verdict], object: &str) -> &'v Verdict {
    let mut found = verdicts.iter().filter(|v| v.object.as_deref() == Some(object));
    let first = found.next().unwrap_or_else(|| panic!("no verdict on {object}: {verdicts:#?}"));
    assert!(found.next().is_none(), "two verdicts on {object}: {verdicts:#?}");
    first
}

#[test]
fn good_manifests_are_accepted_object_by_object() {
    let verdicts = verdicts_of("tcp-route-to-service");
    let objects: Vec<_> = verdicts.iter().filter_map(|v| v.object.as_deref()).collect();
    let expected = [
        "GatewayClass sluice",
        "Gateway default/edge",
        "TCPRoute default/db",
        "Service default/db",
        "EndpointSlice default/db-1",
    ];
    assert_eq!(objects, expected);
    assert!(verdicts.iter().all(|v| v.verdict == Outcome::Accepted && v.messages.is_empty()), "{verdicts:#?}");
    assert_eq!(check(&case("tcp-route-to-service"), Output::Json).expect("a verdict"), ExitCode::SUCCESS);
}

#[test]
fn an_object_that_is_partly_in_force_has_its_line_its_reason_and_exit_status_one() {
    let verdicts = verdicts_of("missing-service-is-refused-in-proportion");
    let route = of(&verdicts, "TCPRoute default/db");
    assert_eq!((route.verdict, route.line), (Outcome::Partly, 17));
    assert!(route.messages[0].contains("backendRefs[1]: there is no Service default/gone"), "{route:#?}");
    assert_eq!(of(&verdicts, "Gateway default/edge").verdict, Outcome::Accepted);
    let code = check(&case("missing-service-is-refused-in-proportion"), Output::Json).expect("a verdict");
    assert_eq!(code, ExitCode::FAILURE);
}

#[test]
fn what_no_parent_takes_is_rejected() {
    let verdicts = verdicts_of("no-listener-of-that-name");
    assert_eq!(of(&verdicts, "TCPRoute default/db").verdict, Outcome::Rejected);
}

#[test]
fn every_mistake_in_an_object_is_in_its_verdict() {
    let verdicts = verdicts_of("wrong-types-reject-the-object");
    let wrong = of(&verdicts, "TCPRoute default/db");
    assert_eq!((wrong.verdict, wrong.line, wrong.messages.len()), (Outcome::Rejected, 36, 6), "{wrong:#?}");
    assert!(wrong.messages[5].starts_with("line 49, column "), "{wrong:#?}");
    assert!(wrong.messages[5].contains(": spec.rules[0].backendRefs[1].port: "), "{wrong:#?}");
}

#[test]
fn broken_yaml_has_its_line_and_column() {
    let directory = tempfile::tempdir().expect("a directory");
    std::fs::write(directory.path().join("a.yaml"), "kind: Gateway\nmetadata:\n  name: a: b\n").expect("a file");
    let verdicts = verdicts(&load_dir(directory.path()).expect("it is read"));
    let [verdict] = &verdicts[..] else { panic!("one verdict: {verdicts:#?}") };
    assert_eq!((verdict.verdict, verdict.line), (Outcome::Rejected, 3));
    assert!(verdict.messages[0].starts_with("column "), "{verdict:#?}");
    assert_eq!(check(directory.path(), Output::Json).expect("a verdict"), ExitCode::FAILURE);
}

#[test]
fn nothing_to_check_is_no_success() {
    let directory = tempfile::tempdir().expect("a directory");
    assert_eq!(check(directory.path(), Output::Json).expect("a verdict"), ExitCode::FAILURE);
}

#[test]
fn warnings_and_foreign_kinds_reject_nothing() {
    for name in ["unknown-fields-are-warned-of", "unknown-kinds-are-ignored-and-said-once"] {
        assert_eq!(check(&case(name), Output::Json).expect("a verdict"), ExitCode::SUCCESS, "{name}");
    }
    assert_eq!(of(&verdicts_of("unknown-fields-are-warned-of"), "TCPRoute default/db").verdict, Outcome::Warned);
}

/// It is no mistake, but nobody writes a route to have no traffic.
#[test]
fn a_route_that_loses_to_another_is_warned_of() {
    let verdicts = verdicts_of("tls-oldest-route-wins-a-host");
    let loser = of(&verdicts, "TLSRoute default/a");
    assert_eq!(loser.verdict, Outcome::Warned);
    assert!(loser.messages[0].contains("a.example.com, b.example.com go by TLSRoute default/b"), "{loser:#?}");
    assert_eq!(of(&verdicts, "TLSRoute default/b").verdict, Outcome::Accepted);
    assert_eq!(check(&case("tls-oldest-route-wins-a-host"), Output::Json).expect("a verdict"), ExitCode::SUCCESS);
}

#[test]
fn a_bad_certificate_is_told_at_its_secret_and_at_its_listener() {
    let verdicts = verdicts_of("tls-bad-certificate-fails-its-listener-only");
    let secret = of(&verdicts, "Secret default/mismatch");
    assert_eq!(secret.verdict, Outcome::Warned);
    assert!(secret.messages[0].ends_with("tls.key does not belong to the first certificate in tls.crt"), "{secret:#?}");
    let gateway = of(&verdicts, "Gateway default/edge");
    let told = |what: &str| gateway.messages.iter().any(|message| message.starts_with(what));
    assert!(
        told("listener mismatch: tls.certificateRefs[0]: Secret default/mismatch: tls.key does not"),
        "{gateway:#?}"
    );
    assert!(!told("listener fine"), "{gateway:#?}");
    assert_eq!(gateway.verdict, Outcome::Partly, "one of its listeners serves");
    assert_eq!(of(&verdicts, "Secret default/fine").verdict, Outcome::Accepted);
}

#[test]
fn both_files_of_an_object_are_named() {
    let verdicts = verdicts_of("same-object-in-two-files");
    let routes: Vec<_> = verdicts.iter().filter(|v| v.object.as_deref() == Some("TCPRoute default/db")).collect();
    let [first, second] = routes[..] else { panic!("two verdicts: {verdicts:#?}") };
    assert_eq!((first.verdict, second.verdict), (Outcome::Accepted, Outcome::Rejected));
    assert!(second.file.ends_with("b.yaml") && second.messages[0].contains("a.yaml:1"), "{second:#?}");
}

#[test]
fn a_directory_that_is_not_there_says_what_to_do() {
    let error = check(Path::new("/nowhere/at/all"), Output::Table).expect_err("no directory").to_string();
    assert!(error.contains("/nowhere/at/all") && error.contains("create it"), "{error}");
}
