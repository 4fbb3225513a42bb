//! A browser: HTTP/2 by its own choice, and what it lets a page do across origins.

use gateway_tests::web::{APP, SHOP, Web};

use super::https;
use crate::tls::run;

/// The web servers' page asks `cors.test` with a method and a header that need a preflight, and writes what it may see.
#[test]
#[ignore = "needs chromium-headless-shell, which `cargo xtask test network` looks for"]
fn chromium_speaks_http_2_and_asks_across_origins() {
    let web = Web::new().unwrap();
    let _agent = web.agent().unwrap();
    let page = |name: &str| chromium(&web, &format!("https://{name}/page?ask=https://cors.test/"));
    let allowed = page(SHOP);
    assert!(
        allowed.contains("by h2: pod-2 HTTP/1.1 PUT cors.test /") && allowed.contains("backend=pod-2"),
        "{allowed}"
    );
    let denied = page(APP);
    assert!(denied.contains("by h2: TypeError"), "{denied}");
}

fn chromium(web: &Web, url: &str) -> String {
    let profile = tempfile::tempdir().unwrap();
    let rules = format!("--host-resolver-rules=MAP * {}", https()[0].ip());
    let profile = format!("--user-data-dir={}", profile.path().display());
    let keys = format!("--ignore-certificate-errors-spki-list={},{}", web.shop.spki_hash(), web.app.spki_hash());
    let arguments = [
        "--no-sandbox",
        "--headless",
        "--disable-gpu",
        "--timeout=10000",
        "--virtual-time-budget=5000",
        "--dump-dom",
        &rules,
        &profile,
        &keys,
        url,
    ];
    run(&web.world.client, "chromium-headless-shell", &arguments, "").unwrap()
}
