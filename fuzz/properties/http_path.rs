//! A path that is routed has one meaning: to servers that resolve it, to those that decode `%2F` as well, and to those that leave out parameters.

use gateway_agent::proxy::http::path::normalize;

pub fn holds(data: &[u8]) {
    let Ok(path) = std::str::from_utf8(data) else { return };
    let Some(normal) = normalize(path) else { return };
    assert_eq!(normalize(&normal).as_deref(), Some(&*normal), "a normal path stays");
    assert!(normal.starts_with('/') && !normal.contains("//"), "{normal}");
    assert_eq!(elements(&normal), elements(path), "{path} has become {normal}");
    let decoded = decoded(&normal, |_| true);
    assert!(!decoded.iter().any(|byte| matches!(byte, b'\\' | 0)), "{normal}");
    for element in decoded.split(|byte| *byte == b'/') {
        let name = element.split(|byte| *byte == b';').next().unwrap_or_default();
        assert!(!matches!(name, b"." | b".."), "a server may find {name:?} in {normal}");
    }
}

/// What a server finds that decodes all but slashes, merges slashes and resolves dots.
fn elements(path: &str) -> Vec<Vec<u8>> {
    let mut found = Vec::new();
    for element in path.split('/').map(|element| decoded(element, |byte| byte != b'/')) {
        match &*element {
            b"" | b"." => {}
            b".." => drop(found.pop()),
            _ => found.push(element),
        }
    }
    found
}

fn decoded(text: &str, wanted: impl Fn(u8) -> bool) -> Vec<u8> {
    let (bytes, mut out, mut at) = (text.as_bytes(), Vec::new(), 0);
    while at < bytes.len() {
        let escape = text.get(at..at + 3).and_then(|escape| escape.strip_prefix('%'));
        let byte = escape.and_then(|digits| u8::from_str_radix(digits, 16).ok()).filter(|byte| wanted(*byte));
        match (byte, escape) {
            (Some(byte), _) => out.push(byte),
            // The same in both cases.
            (None, Some(digits)) => out.extend(format!("%{}", digits.to_ascii_uppercase()).bytes()),
            (None, None) => out.push(bytes[at]),
        }
        at += if escape.is_some() { 3 } else { 1 };
    }
    out
}
