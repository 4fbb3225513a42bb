//! The invariants that can be seen in the text of the code.

use crate::{root, rust_files};

/// The code without comments: what stands behind `//` on a line is cut off.
fn code(text: &str) -> impl Iterator<Item = &str> {
    text.lines().map(|line| line.split("//").next().unwrap_or_default())
}

/// Whether a word stands in code, not as part of a longer one.
fn has_word(line: &str, word: &str) -> bool {
    // `--unsafe-no-fsync` is one.
    let part_of_word = |c: char| c.is_alphanumeric() || c == '_' || c == '-';
    line.match_indices(word).any(|(start, _)| {
        let before = line[..start].chars().next_back();
        let after = line[start + word.len()..].chars().next();
        !before.is_some_and(part_of_word) && !after.is_some_and(part_of_word)
    })
}

/// The lines of a folder that have one of these words, except in files below `allowed`.
fn offences(folder: &str, words: &[&str], allowed: &[&str]) -> Vec<String> {
    let mut found = Vec::new();
    for (path, text) in rust_files(folder) {
        if allowed.iter().any(|allowed| path.starts_with(allowed)) {
            continue;
        }
        for (number, line) in code(&text).enumerate() {
            if words.iter().any(|word| has_word(line, word)) {
                found.push(format!("{}:{}: {}", path.display(), number + 1, line.trim()));
            }
        }
    }
    found
}

#[test]
fn crates_without_unsafe_code_forbid_it() {
    let roots = ["gateway-agent/src/main.rs", "xtask/src/main.rs", "tests/src/lib.rs", "tests/src/bin/lab_server.rs"];
    for path in roots {
        let text = std::fs::read_to_string(root().join(path)).unwrap();
        assert!(text.contains("#![forbid(unsafe_code)]"), "{path} does not forbid unsafe code");
    }
}

#[test]
fn unsafe_code_is_where_it_may_be() {
    let allowed = ["gateway-agent/src/datapath", "gateway-common/src/maps.rs"];
    for folder in ["gateway-agent/src", "gateway-common/src", "xtask/src", "tests/src"] {
        let found = offences(folder, &["unsafe"], &allowed);
        assert!(found.is_empty(), "unsafe code outside {allowed:?}:\n{}", found.join("\n"));
    }
}

#[test]
fn only_the_datapath_touches_aya() {
    let found = offences("gateway-agent/src", &["aya", "aya_obj", "aya_log"], &["gateway-agent/src/datapath"]);
    assert!(found.is_empty(), "{}", found.join("\n"));
}

#[test]
fn only_the_source_and_the_statuses_talk_to_the_api_server() {
    let allowed =
        ["source/kube", "apply/status", "apply/owners", "cli/run.rs"].map(|at| format!("gateway-agent/src/{at}"));
    let allowed = allowed.each_ref().map(String::as_str);
    let found = offences("gateway-agent/src", &["kube", "k8s_openapi", "Api"], &allowed);
    // The module itself, and its name.
    let found: Vec<&String> = found.iter().filter(|line| !line.ends_with("pub mod kube;")).collect();
    assert!(found.is_empty(), "{found:?}");
}

#[test]
fn compile_and_emit_do_no_io_and_read_no_clock() {
    let words = ["fs", "TcpStream", "UdpSocket", "Instant", "SystemTime", "File", "tokio", "env", "println", "rand"];
    for folder in ["gateway-agent/src/compile", "gateway-agent/src/emit"] {
        let found = offences(folder, &words, &[]);
        assert!(found.is_empty(), "{}", found.join("\n"));
    }
}
