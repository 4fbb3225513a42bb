//! Bytes as the corpus writes them.

use anyhow::{Context, Result, bail, ensure};

/// `\r`, `\n`, `\t`, `\0`, `\\`, `\xHH`, and `\*N{TEXT}` for a text N times.
pub fn bytes(text: &str) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let mut rest = text;
    while let Some((plain, escape)) = rest.split_once('\\') {
        bytes.extend(plain.bytes());
        let kind = escape.chars().next().context("a backslash at the end of a line")?;
        rest = &escape[kind.len_utf8()..];
        match kind {
            'r' => bytes.push(b'\r'),
            'n' => bytes.push(b'\n'),
            't' => bytes.push(b'\t'),
            '0' => bytes.push(0),
            '\\' => bytes.push(b'\\'),
            'x' => {
                let digits = rest.get(..2).context("\\x wants two digits")?;
                bytes.push(u8::from_str_radix(digits, 16).with_context(|| format!("\\x{digits}"))?);
                rest = &rest[2..];
            }
            '*' => {
                let (count, after) = rest.split_once('{').context("\\* wants a number and braces")?;
                let (repeated, after) = after.split_once('}').context("\\* wants a closing brace")?;
                let count: usize = count.parse().with_context(|| format!("\\*{count}"))?;
                ensure!(count <= 1 << 20, "\\*{count} is too much");
                let repeated = self::bytes(repeated)?;
                bytes.extend(repeated.iter().cycle().take(repeated.len() * count));
                rest = after;
            }
            other => bail!("\\{other} is no escape"),
        }
    }
    bytes.extend(rest.bytes());
    Ok(bytes)
}

/// For people: long runs are cut.
pub fn shown(bytes: &[u8]) -> String {
    const LONGEST: usize = 160;
    let mut text = bytes[..bytes.len().min(LONGEST)].escape_ascii().to_string();
    if bytes.len() > LONGEST {
        text += &format!("… ({} bytes)", bytes.len());
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escapes_are_bytes() {
        assert_eq!(bytes(r"a\r\n\t\0\\\x7fz").unwrap(), b"a\r\n\t\0\\\x7fz");
        assert_eq!(bytes(r"<\*3{a\n}>").unwrap(), b"<a\na\na\n>");
        for wrong in [r"a\", r"\q", r"\x1", r"\*{a}", r"\*2{a", r"\*9999999{a}"] {
            assert!(bytes(wrong).is_err(), "{wrong}");
        }
    }
}
