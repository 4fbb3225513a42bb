//! What runs is not disturbed by what changes.

use std::time::Duration;

use gateway_tests::soak;

/// Beside other tests; `cargo xtask soak` takes as long as it is told.
const DURATION: Duration = Duration::from_secs(60);

#[test]
fn nothing_fails_while_routes_endpoints_and_certificates_change() {
    let report = soak::run(DURATION).unwrap();
    assert!(report.failures.is_empty(), "{report:#?}");
    assert!(report.requests > 20_000 && report.changes > 300, "{report:?}");
    assert!(report.certificates >= 2 && report.routes > 50, "not every change was in force: {report:?}");
    assert_eq!(report.growth(), None, "the agent's memory has grown: {report:?}");
}
