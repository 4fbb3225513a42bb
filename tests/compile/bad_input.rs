//! Texts that nobody would write on purpose: the reader says where they are wrong, and never falls over.

use std::path::Path;
use std::sync::{Arc, LazyLock};

use gateway_agent::source::files::load_dir;
use gateway_agent::source::manifest::{Manifest, read};
use gateway_agent::source::{Problem, Strings};
use proptest::prelude::*;

/// What the fuzz target holds the reader to.
#[path = "../../fuzz/properties/manifest.rs"]
mod property;

fn manifest(text: &str) -> Result<Manifest, Problem> {
    read(&Arc::from("a.yaml"), text, &mut Strings::default())
}

fn error(text: &str) -> String {
    manifest(text).expect_err(text).to_string()
}

const SERVICE: &str = "apiVersion: v1\nkind: Service\nmetadata: {name: db}\nspec:\n  ports: [{port: 1}]\n";

#[test]
fn an_error_in_the_syntax_has_file_line_and_column() {
    for (text, place) in [
        ("a: b\n c: d\n", "a.yaml:2:3: error: "),
        ("a: \"b\n", "a.yaml:2:1: error: "),
        ("a: [b\nc: d\n", "a.yaml:2:2: error: "),
        ("{\"a\": 1\n \"b\": 2}", "a.yaml:2:2: error: "),
        ("a: *nobody\n", "a.yaml:1:4: error: "),
        ("a: b\n---\n? [c]\n: d\n", "a.yaml:3:3: error: "),
    ] {
        assert!(error(text).starts_with(place), "{text:?}: {}", error(text));
    }
}

#[test]
fn a_byte_order_mark_and_line_ends_of_other_systems_are_no_mistake() {
    for text in [format!("\u{feff}{SERVICE}"), SERVICE.replace('\n', "\r\n"), format!("---\n{SERVICE}---\n...\n---\n")]
    {
        let manifest = manifest(&text).expect("YAML");
        assert_eq!((manifest.objects.len(), manifest.problems.len()), (1, 0), "{text:?}: {:?}", manifest.problems);
    }
}

#[test]
fn aliases_that_multiply_are_stopped() {
    let mut text = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
    for level in 1..12 {
        let below = format!("*a{}, ", level - 1).repeat(10);
        text += &format!("a{level}: &a{level} [{below}]\n");
    }
    assert!(error(&text).contains("aliases"), "{}", error(&text));
}

#[test]
fn nesting_without_end_is_stopped() {
    for text in ["[".repeat(100_000), "a: {".repeat(100_000), "- ".repeat(100_000)] {
        assert!(manifest(&text).is_err());
    }
    let lists = "{apiVersion: v1, kind: List, items: [".repeat(200) + &"]}".repeat(200);
    drop(manifest(&lists));
}

#[test]
fn a_file_that_is_no_text_is_named_with_its_line() {
    let dir = tempfile::tempdir().expect("a directory");
    std::fs::write(dir.path().join("a.yaml"), b"a: b\nc: \xff\n").expect("a file");
    let problems = load_dir(dir.path()).expect("a directory").problems;
    let [problem] = &problems[..] else { panic!("one problem: {problems:?}") };
    assert!(problem.to_string().contains("a.yaml:2: error: is no UTF-8 text"), "{problem}");
}

#[test]
fn a_tag_or_quotes_make_a_number_a_string() {
    let text = SERVICE.replace("name: db", "name: \"5432\", labels: {a: !!str 1, b: 'true'}");
    let manifest = manifest(&text).expect("YAML");
    assert!(manifest.problems.is_empty(), "{:?}", manifest.problems);
}

/// Every manifest of the golden cases.
static TEXTS: LazyLock<Vec<String>> = LazyLock::new(|| {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("compile/cases");
    let cases = std::fs::read_dir(root).expect("the cases").map(|case| case.expect("a case").path());
    let files =
        cases.flat_map(|case| std::fs::read_dir(case).expect("a case")).map(|file| file.expect("a file").path());
    let mut texts: Vec<String> = files.map(|file| std::fs::read_to_string(file).expect("a text")).collect();
    texts.sort();
    texts
});

#[test]
fn every_seed_of_the_fuzzer_is_answered() {
    let seeds = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus/manifest");
    let seeds: Vec<_> = std::fs::read_dir(seeds).expect("the seeds").map(|seed| seed.expect("a seed").path()).collect();
    assert!(!seeds.is_empty());
    for seed in seeds {
        property::holds(&std::fs::read(seed).expect("a seed"));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_text_is_answered(text in "[ \\t\\n{}\\[\\],:&*!|>'\"%@#a-c0-9~?<=.-]{0,200}") {
        property::holds(text.as_bytes());
    }

    #[test]
    fn any_characters_are_answered(text in any::<String>()) {
        property::holds(text.as_bytes());
    }

    #[test]
    fn a_manifest_cut_short_is_answered(which in 0..TEXTS.len(), at in any::<prop::sample::Index>()) {
        let text = &TEXTS[which];
        let cut = at.index(text.len() + 1);
        property::holds(text.get(..cut).unwrap_or(text).as_bytes());
    }

    #[test]
    fn a_manifest_with_a_piece_replaced_is_answered(
        which in 0..TEXTS.len(),
        at in any::<prop::sample::Index>(),
        length in 0_usize..12,
        piece in prop::sample::select(vec![
            "", " ", "\n", "\t", "null", "-1", "1e99", "4294967296", "true", "{}", "[]", "'", "\"", "&a ", "*a", ": ", "- ", "!!int ", "---\n",
        ]),
    ) {
        let text = &TEXTS[which];
        let start = at.index(text.len() + 1);
        let end = (start + length).min(text.len());
        if let (Some(head), Some(tail)) = (text.get(..start), text.get(end..)) {
            property::holds(format!("{head}{piece}{tail}").as_bytes());
        }
    }
}
