//! A Host, or `:authority`, has one canonical form, however it is written, and it is the host that the HTTP library reads.

use gateway_agent::proxy::http::table::canonical;
use http::uri::Authority;

pub fn holds(data: &[u8]) {
    let Ok(authority) = std::str::from_utf8(data) else { return };
    let Some(host) = canonical(authority) else { return };
    let mut same = vec![host.to_string(), host.to_ascii_uppercase(), format!("{host}:8080"), format!("{host}:")];
    if !host.starts_with('[') {
        same.extend([format!("{host}."), format!("{host}.:80")]);
        assert!(host.split('.').all(|label| !label.is_empty()), "{host}");
    }
    for other in same {
        assert_eq!(canonical(&other).as_deref(), Some(&*host), "{other}");
    }
    assert!(authority.to_ascii_lowercase().starts_with(&*host), "{authority} is {host}");
    if let Ok(theirs) = authority.parse::<Authority>() {
        let name = theirs.host().strip_suffix('.').unwrap_or(theirs.host());
        assert!(name.eq_ignore_ascii_case(&host), "{authority}: {host}, the library: {name}");
    }
}
