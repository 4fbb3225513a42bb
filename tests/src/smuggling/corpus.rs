//! The cases as the files of tests/smuggling have them; its README has the format.

use std::path::Path;

use anyhow::{Context, Result, bail, ensure};

use super::bytes::bytes;
use super::h2::Stream;

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Case {
    /// `FILE: NAME`.
    pub name: String,
    pub sent: Sent,
    /// Any of these sequences will do.
    pub wanted: Vec<Vec<Wanted>>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Sent {
    Bytes(Vec<Piece>),
    H2(Vec<Stream>),
}

impl Default for Sent {
    fn default() -> Sent {
        Sent::Bytes(Vec::new())
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Piece {
    Bytes(Vec<u8>),
    Pause,
    /// FIN.
    End,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wanted {
    Forwarded(Expected),
    Refused(Vec<u16>),
    Answered(Vec<u16>),
    Aborted,
    Closed,
}

/// A request as the backend is to get it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Expected {
    pub method: Vec<u8>,
    pub target: Vec<u8>,
    pub body: Vec<u8>,
    /// In lower case, with the value that it has, or without it.
    pub headers: Vec<(Vec<u8>, Option<Vec<u8>>)>,
}

/// All cases, in the order of the files' names.
pub fn corpus() -> Result<Vec<Case>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("smuggling");
    let files = std::fs::read_dir(&folder).with_context(|| format!("cannot read {}", folder.display()))?;
    let mut files = files.map(|file| Ok(file?.path())).collect::<Result<Vec<_>>>()?;
    files.retain(|file| file.extension().is_some_and(|end| end == "txt"));
    files.sort();
    let mut cases = Vec::new();
    for file in files {
        let text = std::fs::read_to_string(&file)?;
        let subject = file.file_stem().unwrap_or_default().to_string_lossy();
        cases.extend(parse(&subject, &text).with_context(|| file.display().to_string())?);
    }
    Ok(cases)
}

fn parse(subject: &str, text: &str) -> Result<Vec<Case>> {
    let mut cases: Vec<Case> = Vec::new();
    for (i, line) in text.lines().enumerate() {
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        if let Some(name) = line.strip_prefix("== ") {
            cases.push(Case { name: format!("{subject}: {name}"), wanted: vec![Vec::new()], ..Case::default() });
            continue;
        }
        let case = cases.last_mut().context("a line before the first case")?;
        read_line(case, line).with_context(|| format!("line {}, of case \"{}\": {line}", i + 1, case.name))?;
    }
    for case in &cases {
        let wants = !case.wanted.is_empty() && case.wanted.iter().all(|sequence| !sequence.is_empty());
        ensure!(wants, "case \"{}\" does not say what is wanted", case.name);
    }
    Ok(cases)
}

fn read_line(case: &mut Case, line: &str) -> Result<()> {
    let (word, rest) = line.split_once(' ').unwrap_or((line, ""));
    match (word, &mut case.sent) {
        (">", Sent::Bytes(pieces)) => pieces.push(Piece::Bytes([bytes(rest)?, b"\r\n".to_vec()].concat())),
        (">>", Sent::Bytes(pieces)) => pieces.push(Piece::Bytes(bytes(rest)?)),
        ("pause", Sent::Bytes(pieces)) => pieces.push(Piece::Pause),
        ("end", Sent::Bytes(pieces)) => pieces.push(Piece::End),
        ("h2", sent) => *sent = Sent::H2(Vec::new()),
        ("stream", Sent::H2(streams)) => streams.push(Stream::default()),
        ("field" | "trailer" | "data" | "raw", Sent::H2(streams)) => {
            let stream = streams.last_mut().context("before the first `stream`")?;
            match word {
                "field" => stream.fields.push(pair(rest)?),
                "trailer" => stream.trailers.push(pair(rest)?),
                "data" => stream.data.push(bytes(rest)?),
                _ => stream.raw.extend(bytes(rest)?),
            }
        }
        ("=", _) => {
            let sequence = case.wanted.last_mut().context("no sequence")?;
            sequence.push(wanted(rest)?);
        }
        ("or", _) => case.wanted.push(Vec::new()),
        // The two that are indented.
        ("", _) => {
            let last = case.wanted.last_mut().and_then(|sequence| sequence.last_mut());
            let Some(Wanted::Forwarded(expected)) = last else { bail!("it follows no request") };
            expected.headers.push(header(line.trim_start())?);
        }
        _ => bail!("this means nothing here"),
    }
    Ok(())
}

fn wanted(text: &str) -> Result<Wanted> {
    let (word, rest) = text.split_once(' ').unwrap_or((text, ""));
    let statuses = || -> Result<Vec<u16>> {
        let statuses = rest.split_whitespace().map(str::parse).collect::<Result<Vec<u16>, _>>()?;
        ensure!(!statuses.is_empty(), "a status is missing");
        Ok(statuses)
    };
    Ok(match word {
        "refuse" => Wanted::Refused(statuses()?),
        "answer" => Wanted::Answered(statuses()?),
        "abort" => Wanted::Aborted,
        "close" => Wanted::Closed,
        method => {
            let (target, body) = rest.split_once(' ').context("a request has a method, a target and a body")?;
            let body = body.strip_prefix('"').and_then(|body| body.strip_suffix('"')).context("a body has quotes")?;
            let (method, target, body) = (bytes(method)?, bytes(target)?, bytes(body)?);
            Wanted::Forwarded(Expected { method, target, body, headers: Vec::new() })
        }
    })
}

fn header(text: &str) -> Result<(Vec<u8>, Option<Vec<u8>>)> {
    if let Some(name) = text.strip_prefix("without ") {
        return Ok((bytes(name)?, None));
    }
    let pair = text.strip_prefix("with ").and_then(|text| text.split_once(':'));
    let (name, value) = pair.context("`with NAME: VALUE`")?;
    Ok((bytes(name)?, Some(bytes(value.trim())?)))
}

fn pair(text: &str) -> Result<(Vec<u8>, Vec<u8>)> {
    let (name, value) = text.split_once('=').context("`NAME=VALUE`")?;
    Ok((bytes(name)?, bytes(value)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_case_has_bytes_and_what_is_wanted() {
        let text = "# About.\n\n== one\n# Why.\n> GET /a\n>> b\npause\nend\n= GET /a \"x\\n\"\n  without te\n  with a: b\nor\n= refuse 400 431\n";
        let cases = parse("file", text).unwrap();
        let expected = Expected {
            method: b"GET".to_vec(),
            target: b"/a".to_vec(),
            body: b"x\n".to_vec(),
            headers: vec![(b"te".to_vec(), None), (b"a".to_vec(), Some(b"b".to_vec()))],
        };
        let sent = vec![Piece::Bytes(b"GET /a\r\n".into()), Piece::Bytes(b"b".into()), Piece::Pause, Piece::End];
        let wanted = vec![vec![Wanted::Forwarded(expected)], vec![Wanted::Refused(vec![400, 431])]];
        assert_eq!(cases, [Case { name: "file: one".to_owned(), sent: Sent::Bytes(sent), wanted }]);
    }

    #[test]
    fn mistakes_in_a_file_are_told_with_their_line() {
        for wrong in [
            "> a\n",
            "== a\n> b\n",
            "== a\nfield a=b\n= close\n",
            "== a\n= refuse\n",
            "== a\n  with b: c\n= close\n",
            "== a\nxyz\n= close\n",
        ] {
            assert!(parse("file", wrong).is_err(), "{wrong}");
        }
        let error = parse("file", "== a\n> \\q\n= close\n").unwrap_err();
        assert!(format!("{error:#}").contains("line 2"), "{error:#}");
    }

    #[test]
    fn the_corpus_is_large_and_no_case_is_there_twice() {
        let cases = corpus().unwrap();
        assert!(cases.len() >= 150, "{}", cases.len());
        for (i, case) in cases.iter().enumerate() {
            let twin = cases[..i].iter().find(|other| other.name == case.name || other.sent == case.sent);
            assert!(twin.is_none(), "\"{}\" and \"{}\" are the same", case.name, twin.unwrap().name);
        }
    }
}
