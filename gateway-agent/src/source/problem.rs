//! What is wrong with a manifest, for people: where, which object, which field, what, and what to do.

use std::fmt;
use std::sync::Arc;

use serde::Serialize;

use crate::index::{ObjectId, Origin};

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// The object, or the file, is not in force as it is written.
    Error,
    /// It is in force, but some of it does nothing.
    Warning,
    /// Nothing to do with Sluice.
    Note,
}

/// Sorted by place.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Problem {
    pub origin: Origin,
    /// From 1; 0: not known, the object as a whole.
    pub column: u32,
    /// The line the object starts in; that of the place if there is no object.
    pub start: u32,
    pub severity: Severity,
    /// `None`: the file, or an object that does not say what it is.
    pub object: Option<ObjectId>,
    /// As `spec.rules[0].backendRefs[1].weight`; empty: the object as a whole.
    pub field: Box<str>,
    pub message: Box<str>,
}

impl Problem {
    /// About a file as a whole.
    pub fn of_file(file: &Arc<str>, severity: Severity, message: impl Into<Box<str>>) -> Problem {
        Problem {
            origin: Origin { file: file.clone(), line: 1 },
            column: 0,
            start: 1,
            severity,
            object: None,
            field: "".into(),
            message: message.into(),
        }
    }

    /// About an object that was read.
    pub fn of_object(
        severity: Severity,
        id: ObjectId,
        origin: &Origin,
        field: &str,
        message: impl Into<Box<str>>,
    ) -> Problem {
        Problem {
            origin: origin.clone(),
            column: 0,
            start: origin.line,
            severity,
            object: Some(id),
            field: field.into(),
            message: message.into(),
        }
    }
}

/// `file:line:column: error: TCPRoute default/db: spec.rules: message`; without the place where there is none.
impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.origin.file.is_empty() {
            write!(f, "{}", self.origin)?;
            if self.column > 0 {
                write!(f, ":{}", self.column)?;
            }
            f.write_str(": ")?;
        }
        f.write_str(match self.severity {
            Severity::Error => "error: ",
            Severity::Warning => "warning: ",
            Severity::Note => "note: ",
        })?;
        if let Some(id) = &self.object {
            write!(f, "{id}: ")?;
        }
        if !self.field.is_empty() {
            write!(f, "{}: ", self.field)?;
        }
        f.write_str(&self.message)
    }
}
