//! Every directory below `cases` is named after the rule it shows; beside it is what compile makes of it.
//!
//! After a change that means to change results: `INSTA_UPDATE=always cargo test -p gateway-tests --test compile golden`,
//! then review the difference.

use std::path::{Path, PathBuf};

use crate::render;

const FEWEST_CASES: usize = 60;

fn cases() -> Vec<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("compile/cases");
    let entries = std::fs::read_dir(root).expect("the cases");
    let mut cases: Vec<PathBuf> = entries.map(|entry| entry.expect("a case").path()).filter(|p| p.is_dir()).collect();
    cases.sort();
    cases
}

#[test]
fn golden() {
    let cases = cases();
    assert!(cases.len() >= FEWEST_CASES, "only {} cases: a suite that ran nothing must not pass", cases.len());
    let mut failed = Vec::new();
    for case in cases {
        let name = case.file_name().expect("a name").to_string_lossy().into_owned();
        let outcome = std::panic::catch_unwind(|| {
            insta::with_settings!({ snapshot_path => "golden", prepend_module_to_snapshot => false, omit_expression => true }, {
                insta::assert_snapshot!(name.clone(), render::directory(&case));
            });
        });
        if outcome.is_err() {
            failed.push(name);
        }
    }
    assert!(failed.is_empty(), "{} cases differ from their golden files: {}", failed.len(), failed.join(", "));
}

/// Golden files whose case is gone would never be looked at again.
#[test]
fn every_golden_file_has_its_case() {
    let names: Vec<String> =
        cases().iter().filter_map(|case| Some(format!("{}.snap", case.file_name()?.to_str()?))).collect();
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("compile/golden");
    for entry in std::fs::read_dir(golden).expect("the golden files") {
        let name = entry.expect("a golden file").file_name().to_string_lossy().into_owned();
        assert!(names.contains(&name), "{name} has no case");
    }
}
