//! The tables of ARCHITECTURE.md.

use gateway_common::Reason;
use gateway_common::reason::Answer;

use crate::root;

/// The rows of the table below this heading, as their cells; the head and the line under it left out.
fn table(heading: &str) -> Vec<Vec<String>> {
    let text = std::fs::read_to_string(root().join("ARCHITECTURE.md")).unwrap();
    let mut lines = text.lines().skip_while(|line| !line.strip_prefix("## ").is_some_and(|it| it.starts_with(heading)));
    assert!(lines.next().is_some(), "ARCHITECTURE.md has no heading {heading:?}");
    let section = lines.take_while(|line| !line.starts_with("## "));
    let rows = section.filter(|line| line.starts_with('|')).skip(2);
    rows.map(|row| row.trim_matches('|').split(" | ").map(|cell| cell.trim().to_owned()).collect()).collect()
}

#[test]
fn every_drop_reason_is_documented_as_it_is() {
    let answer = |reason: &Reason| match reason.answer() {
        Answer::Refuse => "TCP RST, UDP port unreachable",
        Answer::TimeExceeded => "ICMP time exceeded",
        Answer::TooBig => "ICMP fragmentation needed, packet too big",
        Answer::Silent => "nothing",
        Answer::Alert => "TLS alert",
    };
    let cells = |reason: &Reason| {
        let index = (*reason as u32).to_string();
        vec![index, format!("`{}`", reason.name()), answer(reason).into(), reason.description().into()]
    };
    let wanted: Vec<Vec<String>> = Reason::ALL.iter().map(cells).collect();
    let lines: Vec<String> = wanted.iter().map(|cells| format!("| {} |", cells.join(" | "))).collect();
    assert!(table("Drop reasons") == wanted, "the table of drop reasons should be:\n{}", lines.join("\n"));
}

#[test]
fn every_map_is_documented() {
    let source = std::fs::read_to_string(root().join("gateway-common/src/maps.rs")).unwrap();
    let names = source.split_once("pub mod names").unwrap().1.split_once('}').unwrap().0;
    let mut wanted: Vec<&str> = names.lines().filter_map(|line| line.split('"').nth(1)).collect();
    let rows = table("Maps");
    let mut documented: Vec<&str> = rows.iter().flat_map(|row| row[0].split(", ")).collect();
    wanted.sort_unstable();
    documented.sort_unstable();
    assert_eq!(documented, wanted, "the maps of ARCHITECTURE.md against those of gateway-common/src/maps.rs");
}

#[test]
fn every_stage_of_the_code_map_exists() {
    for row in table("Code map") {
        let path = row[0].trim_matches('`');
        assert!(root().join(path).exists(), "the code map names {path}, which does not exist");
    }
}

fn section(document: &str, heading: &str) -> String {
    let text = std::fs::read_to_string(root().join(document)).unwrap();
    let begin = text.find(&format!("\n## {heading}\n")).unwrap_or_else(|| panic!("{document} has no {heading:?}"));
    let rest = &text[begin + 4..];
    rest[..rest.find("\n## ").unwrap_or(rest.len())].to_owned()
}

#[test]
fn readme_tells_the_same_limits() {
    let readme = section("README.md", "Limits");
    for limit in section("ARCHITECTURE.md", "Limits").split("\n- ").skip(1) {
        assert!(readme.contains(limit.trim_end()), "README.md does not tell of this limit: {limit}");
    }
}

#[test]
fn readme_shows_the_manifest_of_the_demo() {
    let manifest = std::fs::read_to_string(root().join("deploy/examples/web.yaml")).unwrap();
    let (_comment, manifest) = manifest.split_once('\n').unwrap();
    assert!(
        section("README.md", "The demo's manifests").contains(manifest),
        "README.md should show web.yaml:\n{manifest}"
    );
}

/// Names of tests and of cases that a table of what holds what has in backquotes.
#[test]
fn every_test_that_holds_a_part_of_http_is_there() {
    const TABLE: &str = "tests/network/http/README.md";
    let files = [crate::rust_files("tests/network"), crate::rust_files("gateway-agent/src")].concat();
    let text = std::fs::read_to_string(root().join(TABLE)).unwrap();
    let cases = std::fs::read_dir(root().join("tests/compile/cases")).unwrap();
    let cases: Vec<String> = cases.map(|case| case.unwrap().file_name().into_string().unwrap()).collect();
    let mut names = 0;
    for name in text.lines().filter(|line| line.starts_with('|')).flat_map(|row| row.split('`').skip(1).step_by(2)) {
        let is_there = if name.contains('-') {
            let (begin, rest) = name.split_once('*').map_or((name, false), |(begin, _)| (begin, true));
            cases.iter().any(|case| case == begin || rest && case.starts_with(begin))
        } else if name.matches('_').count() > 2 {
            files.iter().any(|(_, text)| text.contains(&format!("fn {name}()")))
        } else {
            continue;
        };
        assert!(is_there, "{TABLE} names {name}, which does not exist");
        names += 1;
    }
    assert!(names > 40, "{TABLE} names {names} tests only");
}
