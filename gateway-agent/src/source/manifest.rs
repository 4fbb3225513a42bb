//! One file: documents, lists and objects.

use std::sync::Arc;

use super::kinds;
use super::read::Reader;
use super::yaml::{self, Node, Value};
use super::{Problem, Severity};
use crate::index::{Object, ObjectId, Origin};

/// What a file says.
#[derive(Debug, Default)]
pub struct Manifest {
    /// In the order of the file.
    pub objects: Vec<Object>,
    /// Objects that are there, but wrong.
    pub rejected: Vec<ObjectId>,
    /// Objects of kinds that Sluice does not read: `apiVersion kind`, and where.
    pub foreign: Vec<(Box<str>, Origin)>,
    pub problems: Vec<Problem>,
}

/// Reads a text. `Err`: it is no YAML at all, so nothing can be said of its objects.
pub fn read(file: &Arc<str>, text: &str) -> Result<Manifest, Problem> {
    let documents = yaml::documents(text).map_err(|broken| Problem {
        origin: Origin { file: file.clone(), line: broken.at.line },
        column: broken.at.column,
        severity: Severity::Error,
        object: None,
        field: "".into(),
        message: format!("is neither YAML nor JSON: {}", broken.message).into(),
    })?;
    let mut manifest = Manifest::default();
    for document in &documents {
        manifest.take(file, document, None);
    }
    Ok(manifest)
}

impl Manifest {
    /// `inherited`: apiVersion and kind for the items of a typed list, which may leave them out.
    fn take(&mut self, file: &Arc<str>, node: &Node, inherited: Option<(&str, &str)>) {
        let mut reader = Reader::new(file.clone());
        let Value::Mapping(_) = &node.value else {
            reader.error(node.at, "is no Kubernetes object: must be a mapping with apiVersion and kind");
            return self.problems.extend(reader.into_problems());
        };
        let api_version = string(node, "apiVersion").or(inherited.map(|i| i.0));
        let kind = string(node, "kind").or(inherited.map(|i| i.1));
        let (Some(api_version), Some(kind)) = (api_version, kind) else {
            let missing = if api_version.is_none() { "apiVersion" } else { "kind" };
            reader.error(node.at, format!("is no Kubernetes object: {missing} is missing, or is no string"));
            return self.problems.extend(reader.into_problems());
        };
        if let Some(item_kind) = kind.strip_suffix("List") {
            let inherited = (!item_kind.is_empty()).then_some((api_version, item_kind));
            return self.take_list(reader, node, inherited);
        }
        let (group, version) = api_version.rsplit_once('/').unwrap_or(("", api_version));
        let Some(known) = kinds::kind_named(group, kind) else {
            return self.foreign.push((format!("{api_version} {kind}").into(), reader.origin(node.at)));
        };
        if !kinds::versions(known).contains(&version) {
            let versions = kinds::versions(known).join(", ");
            reader.error(node.at, format!("apiVersion: {known} has no version {version}; use one of {versions}"));
            return self.problems.extend(reader.into_problems());
        }
        match kinds::object(&mut reader, known, node) {
            Some(object) => self.objects.push(object),
            None => self.rejected.extend(reader.object().cloned()),
        }
        self.problems.extend(reader.into_problems());
    }

    fn take_list(&mut self, mut reader: Reader, node: &Node, inherited: Option<(&str, &str)>) {
        let items = field(node, "items").filter(|items| !items.is_null());
        match items.map(|items| (&items.value, items.at)) {
            None => {}
            Some((Value::Sequence(items), _)) => {
                for item in items {
                    self.take(&Arc::clone(reader.file()), item, inherited);
                }
            }
            Some((_, at)) => {
                reader.error(at, "items: must be a list");
                self.problems.extend(reader.into_problems());
            }
        }
    }
}

fn field<'n>(node: &'n Node<'n>, key: &str) -> Option<&'n Node<'n>> {
    let Value::Mapping(entries) = &node.value else { return None };
    entries.iter().find(|e| e.key == key).map(|e| &e.value)
}

fn string<'n>(node: &'n Node<'n>, key: &str) -> Option<&'n str> {
    match &field(node, key)?.value {
        Value::Scalar { text, .. } if !text.is_empty() => Some(text),
        _ => None,
    }
}
