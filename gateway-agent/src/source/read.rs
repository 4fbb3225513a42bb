//! Typed reading of a located tree: every mistake in an object is recorded with its field and place, not only the first.

use std::fmt::Write;
use std::sync::Arc;
use std::time::Duration;

use super::annotations::FileName;
use super::beside::Beside;
use super::yaml::{Entry, Node, Position, Value};
use super::{Problem, Severity, Strings};
use crate::index::{Labels, ObjectId, Origin};

/// Collects what is wrong while an object is read.
pub struct Reader<'s> {
    strings: &'s mut Strings,
    file: Arc<str>,
    start: Position,
    path: Vec<Step>,
    object: Option<ObjectId>,
    problems: Vec<Problem>,
    errors: usize,
    refusals: Vec<String>,
    beside: Option<&'s Beside>,
    unsound: bool,
    /// An API server has let the object through: a field that is not known here is of a later version, no mistake.
    by_api: bool,
}

enum Step {
    Field(Box<str>),
    Item(usize),
}

impl<'s> Reader<'s> {
    /// `object`: whom the problems are about, if that can be told; `start`: where it starts.
    pub fn new(file: Arc<str>, object: Option<ObjectId>, start: Position, strings: &'s mut Strings) -> Reader<'s> {
        let (path, problems, refusals) = (Vec::new(), Vec::new(), Vec::new());
        let (by_api, beside, unsound) = (false, None, false);
        Reader { strings, file, start, path, object, problems, errors: 0, refusals, by_api, beside, unsound }
    }

    /// For an object of an API server, which is written down nowhere.
    pub fn by_api(object: ObjectId, strings: &'s mut Strings) -> Reader<'s> {
        let file = strings.intern("");
        Reader { by_api: true, ..Reader::new(file, Some(object), Position::NOWHERE, strings) }
    }

    /// Objects may have data in these files.
    pub fn with_files(self, beside: Option<&'s Beside>) -> Reader<'s> {
        Reader { beside, ..self }
    }

    pub fn has_files(&self) -> bool {
        self.beside.is_some()
    }

    /// Files that the object takes data from are not as they must be.
    pub fn is_unsound(&self) -> bool {
        self.unsound
    }

    /// The content of a file that an annotation names.
    pub fn file(&mut self, named: &FileName) -> Result<Vec<u8>, String> {
        let none = || Err("there are no files beside this object; put it into data".to_owned());
        self.beside.map_or_else(none, |beside| beside.read(&named.file))
    }

    /// Says what is wrong with a file, at the annotation that names it. The object stays: others may have a better version of it.
    pub fn unsound(&mut self, named: &FileName, message: impl Into<Box<str>>) {
        self.unsound = true;
        let steps = ["metadata", "annotations", named.annotation].map(|name| Step::Field(name.into()));
        let path = std::mem::replace(&mut self.path, steps.into());
        self.record(Severity::Error, named.at, message.into());
        self.path = path;
    }

    /// Nothing was wrong so far.
    pub fn is_fine(&self) -> bool {
        self.errors == 0
    }

    /// What was wrong so far, for those who refer to the object: it is to be there all the same.
    pub fn take_errors(&mut self) -> Option<Box<str>> {
        if std::mem::take(&mut self.errors) == 0 {
            return None;
        }
        let errors = self.problems.iter().filter(|problem| problem.severity == Severity::Error);
        let errors: Vec<String> = errors.map(|problem| format!("{}: {}", problem.field, problem.message)).collect();
        Some(errors.join("; ").into())
    }

    /// The same of an object that an API server has let through, for its own status.
    pub fn take_refused(&mut self) -> Option<Box<str>> {
        if self.by_api { self.take_errors() } else { None }
    }

    pub fn into_problems(self) -> Vec<Problem> {
        self.problems
    }

    /// Where the object starts.
    pub fn origin(&self) -> Origin {
        Origin { file: self.file.clone(), line: self.start.line }
    }

    pub fn error(&mut self, at: Position, message: impl Into<Box<str>>) {
        self.errors += 1;
        self.record(Severity::Error, at, message.into());
    }

    /// A mistake in a field of the object itself.
    pub fn error_in(&mut self, field: &str, at: Position, message: impl Into<Box<str>>) {
        self.within(Step::Field(field.into()), |r| r.error(at, message));
    }

    /// Reads an entry of a mapping whose keys are not known beforehand.
    pub fn entry<T>(&mut self, key: &str, read: impl FnOnce(&mut Reader<'s>) -> T) -> T {
        self.within(Step::Field(key.into()), read)
    }

    /// Says that Sluice cannot do what the API would let through: not a mistake, but for the status of the object.
    pub fn refuse(&mut self, why: &str) {
        self.refusals.push(format!("{}: {why}", self.path()));
    }

    /// What was refused so far.
    pub fn take_refusals(&mut self) -> Option<Box<str>> {
        let refusals = std::mem::take(&mut self.refusals);
        (!refusals.is_empty()).then(|| refusals.join("; ").into())
    }

    pub fn warn(&mut self, at: Position, message: impl Into<Box<str>>) {
        self.record(Severity::Warning, at, message.into());
    }

    fn record(&mut self, severity: Severity, at: Position, message: Box<str>) {
        let problem = Problem {
            origin: Origin { file: self.file.clone(), line: at.line },
            column: at.column,
            start: self.start.line,
            severity,
            object: self.object.clone(),
            field: self.path().into(),
            message,
        };
        self.problems.push(problem);
    }

    /// `spec.rules[0].backendRefs`
    fn path(&self) -> String {
        let mut text = String::new();
        for step in &self.path {
            match step {
                // Label keys have dots and slashes of their own.
                Step::Field(name) if name.contains(['.', '/']) => _ = write!(text, "[{name}]"),
                Step::Field(name) if text.is_empty() => text.push_str(name),
                Step::Field(name) => _ = write!(text, ".{name}"),
                Step::Item(i) => _ = write!(text, "[{i}]"),
            }
        }
        text
    }

    fn within<T>(&mut self, step: Step, read: impl FnOnce(&mut Reader<'s>) -> T) -> T {
        self.path.push(step);
        let result = read(self);
        self.path.pop();
        result
    }

    /// Reads a mapping field by field; fields nobody asked for are warned of.
    pub fn fields<T>(&mut self, node: &Node, read: impl FnOnce(&mut Fields) -> Option<T>) -> Option<T> {
        let Value::Mapping(entries) = &node.value else {
            self.error(node.at, format!("must be a mapping, but is {}", describe(node)));
            return None;
        };
        for (i, entry) in entries.iter().enumerate() {
            if let Some(first) = entries[..i].iter().find(|e| e.key == entry.key) {
                let message = format!("is given twice, first in line {}; leave one", first.at.line);
                self.within(Step::Field(entry.key.as_ref().into()), |r| r.error(entry.at, message));
            }
        }
        let mut fields = Fields { reader: self, node, asked: Vec::new() };
        let result = read(&mut fields);
        let asked = fields.asked;
        if self.by_api {
            return result;
        }
        for entry in entries.iter().filter(|e| !asked.contains(&&*e.key)) {
            let message = "is no field of this kind; ignored (a typing error, or an indentation?)";
            self.within(Step::Field(entry.key.as_ref().into()), |r| r.warn(entry.at, message));
        }
        result
    }
}

/// A mapping whose fields are being read. Null is as good as absent.
pub struct Fields<'r, 's, 'n> {
    reader: &'r mut Reader<'s>,
    node: &'n Node<'n>,
    asked: Vec<&'static str>,
}

impl<'s, 'n> Fields<'_, 's, 'n> {
    fn find(&mut self, key: &'static str) -> Option<&'n Node<'n>> {
        self.asked.push(key);
        let Value::Mapping(entries) = &self.node.value else { return None };
        entries.iter().find(|e| e.key == key).map(|e| &e.value).filter(|value| !value.is_null())
    }

    /// A field that may be missing; `None` also if it is wrong, which is then recorded.
    pub fn optional<T>(
        &mut self,
        key: &'static str,
        read: impl FnOnce(&mut Reader<'s>, &'n Node<'n>) -> Option<T>,
    ) -> Option<T> {
        let node = self.find(key)?;
        self.reader.within(Step::Field(key.into()), |r| read(r, node))
    }

    /// A field that must be there.
    pub fn required<T>(
        &mut self,
        key: &'static str,
        read: impl FnOnce(&mut Reader<'s>, &'n Node<'n>) -> Option<T>,
    ) -> Option<T> {
        if self.find(key).is_none() {
            let at = self.node.at;
            self.reader.within(Step::Field(key.into()), |r| r.error(at, "is missing"));
            return None;
        }
        self.optional(key, read)
    }

    /// A list that may be missing.
    pub fn list<T>(
        &mut self,
        key: &'static str,
        mut read: impl FnMut(&mut Reader<'s>, &'n Node<'n>) -> Option<T>,
    ) -> Box<[T]> {
        self.optional(key, |r, node| items(r, node, &mut read)).unwrap_or_default()
    }

    /// A mapping that may be missing.
    pub fn within<T>(&mut self, key: &'static str, read: impl FnOnce(&mut Fields) -> Option<T>) -> Option<T> {
        self.optional(key, |r, node| r.fields(node, read))
    }

    /// The field is there, and not null.
    pub fn has(&mut self, key: &'static str) -> bool {
        self.find(key).is_some()
    }

    /// A string that may be kept elsewhere already.
    pub fn intern(&mut self, text: &str) -> Arc<str> {
        self.reader.strings.intern(text)
    }

    /// Fields of the API that Sluice has no use for.
    pub fn known(&mut self, keys: &[&'static str]) {
        self.asked.extend(keys);
    }

    /// Reports a mistake at a field of this mapping, or at the mapping if the field is missing.
    pub fn error_at(&mut self, key: &'static str, message: impl Into<Box<str>>) {
        let at = self.find(key).map_or(self.node.at, |node| node.at);
        self.reader.within(Step::Field(key.into()), |r| r.error(at, message));
    }

    /// The reader, for what is about the mapping as a whole.
    pub fn reader(&mut self) -> &mut Reader<'s> {
        self.reader
    }

    /// Says that a field of this mapping does nothing.
    pub fn warn_at(&mut self, key: &'static str, message: impl Into<Box<str>>) {
        let at = self.find(key).map_or(self.node.at, |node| node.at);
        self.reader.within(Step::Field(key.into()), |r| r.warn(at, message));
    }
}

pub fn items<'s, 'n, T>(
    reader: &mut Reader<'s>,
    node: &'n Node<'n>,
    read: &mut impl FnMut(&mut Reader<'s>, &'n Node<'n>) -> Option<T>,
) -> Option<Box<[T]>> {
    let Value::Sequence(items) = &node.value else {
        reader.error(node.at, format!("must be a list, but is {}", describe(node)));
        return None;
    };
    // Every item is read, also those after a wrong one.
    let read = items.iter().enumerate().map(|(i, item)| reader.within(Step::Item(i), |r| read(r, item)));
    read.collect::<Vec<Option<T>>>().into_iter().collect()
}

/// A mapping of strings: labels.
pub fn strings(reader: &mut Reader, node: &Node) -> Option<Labels> {
    let Value::Mapping(entries) = &node.value else {
        reader.error(node.at, format!("must be a mapping of strings, but is {}", describe(node)));
        return None;
    };
    let pair = |entry: &Entry| {
        let value = reader.within(Step::Field(entry.key.as_ref().into()), |r| string(r, &entry.value).map(Box::from));
        Some((Box::from(&*entry.key), value?))
    };
    entries.iter().map(pair).collect()
}

/// A string. Plain numbers and booleans are none, as for the Kubernetes API.
pub fn text(reader: &mut Reader, node: &Node) -> Option<Arc<str>> {
    string(reader, node).map(|text| reader.strings.intern(text))
}

pub fn string<'n>(reader: &mut Reader, node: &'n Node) -> Option<&'n str> {
    match &node.value {
        Value::Scalar { text, plain } if !plain || !(is_number(text) || is_boolean(text) || node.is_null()) => {
            Some(text)
        }
        Value::Scalar { .. } => {
            reader.error(node.at, format!("must be a string, but is {}; put it in quotes", describe(node)));
            None
        }
        _ => {
            reader.error(node.at, format!("must be a string, but is {}", describe(node)));
            None
        }
    }
}

/// A string that is not empty.
pub fn name(reader: &mut Reader, node: &Node) -> Option<Arc<str>> {
    let name = text(reader, node)?;
    if name.is_empty() {
        reader.error(node.at, "must not be empty");
        return None;
    }
    Some(name)
}

pub fn boolean(reader: &mut Reader, node: &Node) -> Option<bool> {
    match &node.value {
        Value::Scalar { text, plain: true } if is_boolean(text) => Some(text.starts_with(['t', 'T'])),
        _ => {
            reader.error(node.at, format!("must be true or false, but is {}", describe(node)));
            None
        }
    }
}

/// One of a few words.
pub fn one_of<T: Copy>(reader: &mut Reader, node: &Node, words: &[(&str, T)]) -> Option<T> {
    let text = text(reader, node)?;
    let found = words.iter().find(|(word, _)| **word == *text);
    if found.is_none() {
        let words: Vec<&str> = words.iter().map(|(word, _)| *word).collect();
        let words = match words.split_last() {
            Some((last, rest)) if !rest.is_empty() => format!("{} or {last}", rest.join(", ")),
            _ => words.join(""),
        };
        reader.error(node.at, format!("is \"{text}\"; use {words}"));
    }
    found.map(|(_, value)| *value)
}

/// As GEP-2257 has it: `1h`, `1m30s`, `500ms`.
pub fn duration(reader: &mut Reader, node: &Node) -> Option<Duration> {
    let text = string(reader, node)?;
    let duration = parse_duration(text);
    if duration.is_none() {
        let message = format!(
            "\"{text}\" is no duration; write up to 4 numbers of at most 5 digits, each with its unit (h, m, s, ms), as in 1m30s"
        );
        reader.error(node.at, message);
    }
    duration
}

/// Not none: a limit of no time would refuse everything.
pub fn time(reader: &mut Reader, node: &Node) -> Option<Duration> {
    let time = duration(reader, node)?;
    if time.is_zero() {
        reader.error(node.at, "is no time at all; use one like 30s, or leave it out");
    }
    Some(time)
}

fn parse_duration(text: &str) -> Option<Duration> {
    let mut rest = text;
    let mut sum = Duration::ZERO;
    for _ in 0..4 {
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        let number: u64 = rest.get(..digits).filter(|_| (1..=5).contains(&digits))?.parse().ok()?;
        let unit = &rest[digits..];
        let unit = &unit[..unit.bytes().take_while(u8::is_ascii_lowercase).count()];
        sum += Duration::from_millis(match unit {
            "h" => number * 3_600_000,
            "m" => number * 60_000,
            "s" => number * 1_000,
            "ms" => number,
            _ => return None,
        });
        rest = &rest[digits + unit.len()..];
        if rest.is_empty() {
            return Some(sum);
        }
    }
    None
}

/// A whole number in a range.
pub fn number(reader: &mut Reader, node: &Node, least: i64, most: i64) -> Option<i64> {
    let Value::Scalar { text, plain: true } = &node.value else {
        reader.error(node.at, format!("must be a number, but is {}", describe(node)));
        return None;
    };
    if !is_number(text) {
        reader.error(node.at, format!("must be a number, but is {}", describe(node)));
        return None;
    }
    // JSON knows one kind of number: 8080.0 is 8080 for the Kubernetes API too.
    let whole = text.parse::<i64>().ok().or_else(|| whole(text.parse().ok()?));
    match whole {
        Some(value) if (least..=most).contains(&value) => Some(value),
        _ => {
            reader.error(node.at, format!("is {text}; use a whole number from {least} to {most}"));
            None
        }
    }
}

pub fn port(reader: &mut Reader, node: &Node) -> Option<u16> {
    number(reader, node, 1, 65535).map(|value| value as u16)
}

fn whole(value: f64) -> Option<i64> {
    // Exact up to 2^53, beyond every range here.
    (value.fract() == 0.0 && value.abs() < 9e15).then_some(value as i64)
}

fn is_number(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_digit() || matches!(c, '-' | '+' | '.')) && text.parse::<f64>().is_ok()
}

fn is_boolean(text: &str) -> bool {
    matches!(text, "true" | "True" | "TRUE" | "false" | "False" | "FALSE")
}

fn describe(node: &Node) -> String {
    match &node.value {
        Value::Sequence(_) => "a list".into(),
        Value::Mapping(_) => "a mapping".into(),
        Value::Scalar { .. } if node.is_null() => "null".into(),
        Value::Scalar { text, plain: true } if is_number(text) => format!("the number {text}"),
        Value::Scalar { text, plain: true } if is_boolean(text) => format!("the boolean {text}"),
        Value::Scalar { text, .. } => format!("the string \"{}\"", text.chars().take(40).collect::<String>()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_those_of_the_gateway_api() {
        let ms = |n| Some(Duration::from_millis(n));
        assert_eq!(parse_duration("1h1m1s1ms"), ms(3_661_001));
        assert_eq!((parse_duration("0s"), parse_duration("99999ms")), (ms(0), ms(99_999)));
        for wrong in ["", "1", "s", "1.5s", "-1s", "100000s", "1d", "1s ", "1h1m1s1ms1s", "1us"] {
            assert_eq!(parse_duration(wrong), None, "{wrong}");
        }
    }
}
