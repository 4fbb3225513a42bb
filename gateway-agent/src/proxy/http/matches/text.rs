//! A text, or a regular expression for it.

use std::fmt;
use std::sync::Arc;

use regex::bytes::{Regex, RegexBuilder};

/// What an expression may take once it is compiled; for its cache at run time as well.
const SIZE: usize = 256 << 10;

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Text {
    /// Byte for byte.
    Exact(Arc<str>),
    Regex(Pattern),
}

impl Text {
    pub fn holds(&self, value: &[u8]) -> bool {
        match self {
            Text::Exact(text) => text.as_bytes() == value,
            Text::Regex(pattern) => pattern.holds(value),
        }
    }

    /// As it is written.
    pub fn as_str(&self) -> &str {
        match self {
            Text::Exact(text) => text,
            Text::Regex(pattern) => pattern.source(),
        }
    }
}

/// A regular expression that must match the whole of a text, in time linear in it. Compiled once; equal if its source is.
#[derive(Clone)]
pub struct Pattern {
    source: Arc<str>,
    compiled: Regex,
}

impl Pattern {
    pub fn new(source: &str) -> Result<Pattern, PatternError> {
        // By itself first: `a)(b` is none, though in parentheses it would be.
        compiled(source)?;
        Ok(Pattern { source: source.into(), compiled: compiled(&format!("^(?:{source})$"))? })
    }

    pub fn source(&self) -> &str {
        &self.source
    }

    pub fn holds(&self, text: &[u8]) -> bool {
        self.compiled.is_match(text)
    }
}

impl PartialEq for Pattern {
    fn eq(&self, other: &Pattern) -> bool {
        self.source == other.source
    }
}

impl Eq for Pattern {}

impl fmt::Debug for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Pattern").field(&self.source).finish()
    }
}

#[derive(Debug, thiserror::Error)]
pub enum PatternError {
    #[error("is larger than {SIZE} bytes once compiled; make it shorter or repeat less")]
    TooLarge,
    #[error("is no regular expression: {0}")]
    Syntax(String),
}

fn compiled(source: &str) -> Result<Regex, PatternError> {
    RegexBuilder::new(source).size_limit(SIZE).dfa_size_limit(SIZE).build().map_err(|error| match error {
        regex::Error::CompiledTooBig(_) => PatternError::TooLarge,
        other => PatternError::Syntax(other.to_string()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_expression_matches_the_whole_text() {
        let pattern = Pattern::new("a|b+").unwrap();
        assert!(pattern.holds(b"a") && pattern.holds(b"bbb"));
        assert!(!pattern.holds(b"ab") && !pattern.holds(b""));
        assert_eq!(pattern, Pattern::new("a|b+").unwrap());
    }

    #[test]
    fn what_is_no_expression_or_too_large_is_refused() {
        assert!(matches!(Pattern::new("a)(b"), Err(PatternError::Syntax(_))));
        assert!(matches!(Pattern::new("(?x)a # "), Err(PatternError::Syntax(_))));
        assert!(matches!(Pattern::new(r"(\w{100}){100}"), Err(PatternError::TooLarge)));
    }
}
