//! The one reading of a path that matching and forwarding share.

use std::borrow::Cow;

/// A path that rules are held against: `.` and `..` resolved (RFC 3986 section 5.2.4; `%2e` is a dot), slashes merged, escapes of
/// unreserved characters undone and the others in upper case (section 6.2.2). `%2F` stays what it is, no slash. `None`: a path that means
/// something else to those who decode it, and is refused: more `..` than there are elements; a backslash or NUL, also escaped; `.` or `..` that
/// show where `%2F` is a slash, or `;` ends an element (`/a/..;/b`, `/a%2F..%2Fb`).
///
/// A request whose path is not normal is forwarded with the normal one, so that no backend reads more than was matched.
pub fn normalize(path: &str) -> Option<Cow<'_, str>> {
    if is_normal(path) {
        return Some(path.into());
    }
    let unescaped = unescape(path)?;
    let mut elements: Vec<&str> = Vec::new();
    let mut open = true;
    for element in unescaped.strip_prefix('/')?.split('/') {
        open = matches!(element, "" | "." | "..");
        match element {
            "" | "." => {}
            ".." => drop(elements.pop()?),
            element if hides_dots(element) => return None,
            element => elements.push(element),
        }
    }
    let mut normal = String::with_capacity(unescaped.len());
    for element in elements {
        normal.push('/');
        normal.push_str(element);
    }
    // A directory stays one.
    if open {
        normal.push('/');
    }
    Some(if normal == path { path.into() } else { normal.into() })
}

fn is_normal(path: &str) -> bool {
    path.starts_with('/')
        && !path.bytes().any(|byte| matches!(byte, b'%' | b'\\' | 0))
        && !path.contains("//")
        && !path.contains("/.")
}

fn unescape(path: &str) -> Option<String> {
    let mut out = String::with_capacity(path.len());
    let mut rest = path;
    while let Some(at) = rest.find(['%', '\\', '\0']) {
        out.push_str(&rest[..at]);
        let escape = rest.get(at..at + 3)?;
        let digit = |i: usize| char::from(escape.as_bytes()[i]).to_digit(16);
        let byte = (digit(1)? << 4 | digit(2)?) as u8;
        if !escape.starts_with('%') {
            return None;
        }
        match byte {
            0 | b'\\' => return None,
            b'-' | b'.' | b'_' | b'~' => out.push(char::from(byte)),
            byte if byte.is_ascii_alphanumeric() => out.push(char::from(byte)),
            _ => out.extend(escape.chars().map(|digit| digit.to_ascii_uppercase())),
        }
        rest = &rest[at + 3..];
    }
    out.push_str(rest);
    Some(out)
}

/// Whether others find `.` or `..` in an element: those who decode `%2F`, and those who leave out what follows `;`.
fn hides_dots(element: &str) -> bool {
    element.split("%2F").any(|part| {
        let part = part.split("%3B").next().unwrap_or_default();
        matches!(part.split(';').next(), Some("." | ".."))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_have_one_reading() {
        for (path, normal) in [
            ("/", Some("/")),
            ("/a/b", Some("/a/b")),
            ("/a/", Some("/a/")),
            ("//a///b", Some("/a/b")),
            ("/a/./b/../c", Some("/a/c")),
            ("/a/b/..", Some("/a/")),
            ("/a/b/../", Some("/a/")),
            ("/a/.", Some("/a/")),
            ("/%61/%2e%2E/b", Some("/b")),
            ("/a%2fb%3a", Some("/a%2Fb%3A")),
            ("/a%2Fb", Some("/a%2Fb")),
            ("/%e4/%E4/\u{e4}", Some("/%E4/%E4/\u{e4}")),
            ("/.well-known/...", Some("/.well-known/...")),
            ("/a;v=1/b", Some("/a;v=1/b")),
            ("/a/b;..", Some("/a/b;..")),
            ("/%252e%252e/a", Some("/%252e%252e/a")),
            ("/..", None),
            ("/a/../..", None),
            ("/a/%2e%2e/%2e./b", None),
            ("/a/..;/b", None),
            ("/a/..;v=1", None),
            ("/a/.%3b/b", None),
            ("/a%2F..%2Fb", None),
            ("/a/..%2fb", None),
            ("/a\\b", None),
            ("/a%5cb", None),
            ("/a%00", None),
            ("/a%2", None),
            ("/a%+1", None),
            ("/a%\u{e4}", None),
            ("a", None),
            ("*", None),
            ("", None),
        ] {
            assert_eq!(normalize(path).as_deref(), normal, "{path}");
        }
    }
}
