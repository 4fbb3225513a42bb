//! Whatever a manifest says, the reader answers: with objects, or with a problem at a place that is in the text.

use std::sync::Arc;

use gateway_agent::source::manifest::read;
use gateway_agent::source::{Severity, Strings};

pub fn holds(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let lines = text.split(['\n', '\r', '\u{85}', '\u{2028}', '\u{2029}']).count() as u32 + 1;
    let problems = match read(&Arc::from("a.yaml"), text, &mut Strings::default()) {
        Ok(manifest) => {
            let errors = manifest.problems.iter().filter(|p| p.severity == Severity::Error);
            assert!(errors.count() > 0 || manifest.rejected.is_empty(), "rejected without a word");
            manifest.problems
        }
        Err(problem) => vec![problem],
    };
    for problem in problems {
        assert!((1..=lines).contains(&problem.origin.line), "no place in the text: {problem}");
    }
}
